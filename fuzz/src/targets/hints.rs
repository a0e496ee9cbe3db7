//! Opening a hint log from one segment file, and reading all of it.

use futures::executor::block_on;
use heddle_core::hints::{Hint, HintError, HintLog, HintLogConfig, fuzz};
use heddle_sim::SimDisk;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{NodeId, ShardId};

const DIRECTORY: &str = "hints";
const PATH: &str = "hints/0000000001.hint";
/// A batch for each hint, so that an input of a few pages holds some.
const CONFIG: HintLogConfig = HintLogConfig { segment_bytes: 1 << 20, batch_bytes: 1 };

fn target() -> NodeId {
    NodeId::from(1)
}

/// Reads the segment as it is and with its checksums made right.
pub fn run(data: &[u8]) {
    let mut segment = data.to_vec();
    // Devices hold whole pages.
    segment.resize(data.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
    check(&segment);
    mend(&mut segment);
    check(&segment);
}

fn check(segment: &[u8]) {
    let mut bare = Vec::new();
    let mut visit = |shard: ShardId, write: &[u8]| bare.push((shard, write.to_vec()));
    fuzz::recover_bytes(segment, target(), 1, &mut visit);
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.plant_file(PATH, segment.to_vec());
    let mut log = match block_on(HintLog::open(disk.clone(), DIRECTORY, target(), CONFIG)) {
        Ok(log) => log,
        Err(error) => {
            assert!(matches!(error, HintError::Version { .. }), "{error}");
            assert_eq!(disk.file_bytes(PATH).as_deref(), Some(segment), "refused, yet changed");
            return;
        }
    };
    let mut found = Vec::new();
    while let Some(batch) = block_on(log.read(1)).expect("the disk is well") {
        found.extend(batch.hints.into_iter().map(|hint| (hint.shard, hint.write)));
        block_on(log.acknowledge(batch.end)).expect("the disk is well");
    }
    assert_eq!(found, bare, "a log holds other hints than its bytes do");
    assert_eq!(log.waiting().bytes, 0, "bytes wait that nobody can read");
    let last = Hint { shard: ShardId(3), write: vec![7; 5] };
    block_on(log.append(std::slice::from_ref(&last), 1)).expect("the disk is well");
    let batch = block_on(log.read(1)).expect("the disk is well").expect("a hint was appended");
    assert_eq!(batch.hints, [last]);
}

/// Makes the checksums right of the first page and of every page that begins as a batch does.
fn mend(segment: &mut [u8]) {
    let seed = crc32c::crc32c_append(crc32c::crc32c(target().0.as_bytes()), &1_u64.to_le_bytes());
    for start in (0..segment.len()).step_by(PAGE_SIZE_BYTES) {
        if start > 0 && &segment[start..start + 4] != b"HHBT" {
            continue;
        }
        if start > 0 {
            let at = |offset: usize| {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(&segment[start + offset..start + offset + 4]);
                u32::from_le_bytes(bytes) as usize
            };
            let (begin, bytes) = (start + 64, at(8));
            if let Some(body) = segment.get(begin..).and_then(|rest| rest.get(..bytes)) {
                let crc = crc32c::crc32c(body);
                segment[start + 40..start + 44].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let header = &segment[start..start + 64];
        let crc = crc32c::crc32c_append(seed, &header[..12]);
        let crc = crc32c::crc32c_append(crc, &header[16..]);
        segment[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Segments of no, one and some hints.
pub fn seeds() -> Vec<Vec<u8>> {
    let sizes: [&[usize]; 4] = [&[0], &[40], &[1, 200, 3], &[5_000, 0, 60]];
    sizes.iter().map(|sizes| segment(sizes)).collect()
}

fn segment(sizes: &[usize]) -> Vec<u8> {
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    let mut log = block_on(HintLog::open(disk.clone(), DIRECTORY, target(), CONFIG))
        .expect("an empty disk opens");
    for (index, size) in sizes.iter().enumerate() {
        let hint = Hint { shard: ShardId(index as u64), write: vec![index as u8 + 1; *size] };
        block_on(log.append(&[hint], 1 + index as u64)).expect("the disk is well");
    }
    disk.file_bytes(PATH).expect("the segment was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mended_segment_is_the_one_that_was_written() {
        for seed in seeds() {
            let mut torn = seed.clone();
            for start in (0..torn.len()).step_by(PAGE_SIZE_BYTES) {
                if torn[start] == b'H' {
                    torn[start + 12] ^= 1;
                }
            }
            let mut mended = torn.clone();
            mend(&mut mended);
            let count = |bytes: &[u8]| {
                let mut hints = 0;
                fuzz::recover_bytes(bytes, target(), 1, &mut |_, _| hints += 1);
                hints
            };
            assert_eq!((count(&torn), count(&mended)), (0, count(&seed)));
        }
    }
}
