//! Opening the snapshot of a Raft node.

use futures::executor::block_on;
use heddle_meta::raft::{ClusterMachine, RaftTypes};
use heddle_sim::{SimDisk, SimHost};
use heddle_types::Device;
use heddle_types::limits::PAGE_SIZE_BYTES;
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;

use super::cluster;

type Types = RaftTypes<SimHost>;

const PATH: &str = "raft/snapshot";
const HEADER_BYTES: usize = 44;

/// Opens a snapshot, as it is and with its checksums made right.
pub fn run(data: &[u8]) {
    check(data);
    let mut mended = data.to_vec();
    mend(&mut mended);
    check(&mended);
}

fn check(data: &[u8]) {
    let mut file = data.to_vec();
    file.resize(file.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.plant_file(PATH, file);
    match block_on(ClusterMachine::open(disk, "raft")) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(machine) => assert_eq!(machine.state().validate(), Ok(())),
    }
}

/// Makes the checksums right, those of the state's own header as well.
fn mend(data: &mut [u8]) {
    let Some((header, rest)) = data.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    header[..8].copy_from_slice(b"HDLRAFTS");
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let length = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("longer"));
    let (meta, state) = (length(16), length(24));
    let meta = usize::try_from(meta).unwrap_or(usize::MAX).min(rest.len());
    let state = usize::try_from(state).unwrap_or(usize::MAX).min(rest.len() - meta);
    let (meta_part, rest) = rest.split_at_mut(meta);
    let state_part = &mut rest[..state];
    cluster::mend(state_part);
    header[16..24].copy_from_slice(&(meta as u64).to_le_bytes());
    header[24..32].copy_from_slice(&(state as u64).to_le_bytes());
    header[32..36].copy_from_slice(&crc32c::crc32c(meta_part).to_le_bytes());
    header[36..40].copy_from_slice(&crc32c::crc32c(state_part).to_le_bytes());
    let crc = crc32c::crc32c(&header[..40]);
    header[40..].copy_from_slice(&crc.to_le_bytes());
}

/// The snapshot of a state that nothing was applied to.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![block_on(snapshot())]
}

async fn snapshot() -> Vec<u8> {
    const SOUND: &str = "the disk is sound";
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.create_dir("raft").await.expect(SOUND);
    let mut machine = ClusterMachine::open(disk.clone(), "raft").await.expect(SOUND);
    let mut builder = RaftStateMachine::<Types>::get_snapshot_builder(&mut machine).await;
    RaftSnapshotBuilder::<Types>::build_snapshot(&mut builder).await.expect(SOUND);
    let mut file = disk.file_bytes(PATH).expect(SOUND);
    let used = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    file.truncate(used);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mending_undoes_damage_to_checksums_and_changes_nothing_else() {
        for seed in seeds() {
            let mut mended = seed.clone();
            mended[33] ^= 1;
            mended[37] ^= 1;
            mended[41] ^= 1;
            mend(&mut mended);
            assert_eq!(mended, seed);
        }
    }
}
