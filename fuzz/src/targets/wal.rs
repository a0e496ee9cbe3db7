//! Recovery of the write-ahead log from a segment file.

mod mend;
mod samples;

use futures::executor::block_on;
use heddle_core::wal::{Record, RecoveryReport, Wal, WalConfig, WalError, fuzz::recover_bytes};
use heddle_sim::SimDisk;
use heddle_types::limits::PAGE_SIZE_BYTES;

pub use samples::seeds;

const DIRECTORY: &str = "wal";

/// Four pages: the header and room for three batches, so that an input holds a whole segment.
const CONFIG: WalConfig =
    WalConfig { segment_bytes: 4 * PAGE_SIZE_BYTES as u64, backlog_bytes_max: 1 << 20 };

/// What a record said, without its payload.
type Seen = (u64, u64, u8, usize);

/// Recovers a log whose only segment is `data`, as it is and with its checksums made right.
pub fn run(data: &[u8]) {
    let mut segment = data.to_vec();
    // Devices hold whole pages.
    segment.resize(data.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
    check(&segment);
    mend::checksums(&mut segment);
    check(&segment);
}

fn check(segment: &[u8]) {
    let mut bare = Vec::new();
    let counted = recover_bytes(segment, &mut |record| bare.push(seen(record)));
    assert_eq!(counted, bare.len() as u64, "records are counted as they are seen");
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    let path = segment_path(segment);
    disk.plant_file(&path, segment.to_vec());
    match recover(&disk) {
        Ok((found, report)) => {
            // The plain form ends at the first page without a batch, and at a bad header; recovery
            // goes on where no position is missing.
            assert!(found.starts_with(&bare), "recovery misses what its plain form finds");
            assert_eq!(report.records, found.len() as u64);
            assert!(found.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "a gap in the log");
            if !is_near_its_end(segment, &report) {
                let (again, _) = recover(&disk).expect("a recovered log recovers");
                assert_eq!(again, found, "a second recovery finds other records");
            }
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(disk.file_bytes(&path).as_deref(), Some(segment), "refused, yet changed");
        }
    }
}

fn seen(record: Record<'_>) -> Seen {
    (record.lsn.0, record.shard.0, record.kind as u8, record.payload.len())
}

fn recover(disk: &SimDisk) -> Result<(Vec<Seen>, RecoveryReport), WalError> {
    let mut found = Vec::new();
    let mut note = |record: Record<'_>| {
        found.push(seen(record));
        Ok(())
    };
    let (_, report) = block_on(Wal::recover(disk.clone(), DIRECTORY, CONFIG, &mut note))?;
    Ok((found, report))
}

/// Whether one more segment or record would count higher than a log is believed to.
fn is_near_its_end(segment: &[u8], report: &RecoveryReport) -> bool {
    const BELIEVED_MAX: u64 = u64::MAX >> 1;
    segment_number(segment) >= BELIEVED_MAX || report.next_lsn.0 > BELIEVED_MAX
}

fn segment_number(segment: &[u8]) -> u64 {
    let field = segment.get(24..32).and_then(|field| field.first_chunk());
    field.map_or(1, |field| u64::from_le_bytes(*field))
}

/// Where a segment lies: its name is its number, which its header repeats.
fn segment_path(segment: &[u8]) -> String {
    format!("{DIRECTORY}/{:010}.wal", segment_number(segment))
}
