//! Opening a Raft log.

use futures::executor::block_on;
use heddle_meta::raft::{Entry, Leader, LogId, Payload, RaftLog, RaftTypes, Vote};
use heddle_sim::{SimDisk, SimHost};
use heddle_types::NodeId;
use heddle_types::limits::PAGE_SIZE_BYTES;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};

use super::cluster::requests;

type Types = RaftTypes<SimHost>;

const PATH: &str = "raft/log";
/// Longest input: what is behind it takes no more branches.
const INPUT_BYTES_MAX: usize = 64 << 10;

fn node() -> NodeId {
    NodeId::from(1)
}

/// Opens a log, as it is and with its checksums made right.
pub fn run(data: &[u8]) {
    let mut file = data[..data.len().min(INPUT_BYTES_MAX)].to_vec();
    file.resize(file.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
    check(&file);
    mend(&mut file);
    check(&file);
}

fn check(file: &[u8]) {
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.plant_file(PATH, file.to_vec());
    match block_on(read(&disk)) {
        Err(error) => assert!(!error.is_empty()),
        Ok((state, torn_at)) => {
            assert!(torn_at.is_none_or(|at| at < file.len() as u64));
            assert_eq!(block_on(read(&disk)), Ok((state, None)), "it is whole once it was opened");
        }
    }
}

/// Vote and entries of a log.
type State = (Option<Vote>, Vec<Entry>);

async fn read(disk: &SimDisk) -> Result<(State, Option<u64>), String> {
    let opened = RaftLog::open(disk.clone(), "raft", node()).await;
    let mut log = opened.map_err(|error| error.to_string())?;
    let mut reader = RaftLogStorage::<Types>::get_log_reader(&mut log).await;
    let entries = RaftLogReader::<Types>::try_get_log_entries(&mut reader, ..).await;
    let entries = entries.expect("it is in memory");
    let vote = RaftLogReader::<Types>::read_vote(&mut reader).await.expect("it is in memory");
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
    assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{indexes:?}");
    Ok(((vote, entries), log.torn_at()))
}

/// Makes the header that of this file and this node, and the checksums of all batches right.
///
/// Written from the format's description, not from its code: the two check each other.
fn mend(file: &mut [u8]) {
    let length = file.len() as u64;
    let Some((header, batches)) = file.split_at_mut_checked(PAGE_SIZE_BYTES) else { return };
    header[..8].copy_from_slice(b"HDLRAFTL");
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    header[16..32].copy_from_slice(node().0.as_bytes());
    header[40..48].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c(&header[..48]);
    header[48..52].copy_from_slice(&crc.to_le_bytes());
    for page in 0..batches.len() / PAGE_SIZE_BYTES {
        let (header, rest) = batches[page * PAGE_SIZE_BYTES..].split_at_mut(40);
        if header[..4] != *b"HRLB" {
            continue;
        }
        let length = u32::from_le_bytes(*header[24..].first_chunk().expect("it is longer"));
        let payload = rest.get(..length as usize).unwrap_or_default();
        header[32..36].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let crc = crc32c::crc32c(&header[..36]);
        header[36..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// An empty log and one with every kind of record.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [false, true].map(|is_full| block_on(log(is_full))).to_vec()
}

async fn log(is_full: bool) -> Vec<u8> {
    const SOUND: &str = "the disk is sound";
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    let mut log = RaftLog::create(disk.clone(), "raft", node()).await.expect(SOUND);
    let leader_id = Leader { term: 1, node_id: node() };
    let at = |index| LogId { leader_id, index };
    if is_full {
        let vote = Vote { leader_id, committed: true };
        RaftLogStorage::<Types>::save_vote(&mut log, &vote).await.expect(SOUND);
        let payloads = requests().into_iter().map(Payload::Normal).chain([Payload::Blank]);
        let entries =
            (0..).zip(payloads).map(|(index, payload)| Entry { log_id: at(index), payload });
        let flushed = IOFlushed::<Types>::noop();
        log.append(entries.collect::<Vec<_>>(), flushed).await.expect(SOUND);
        RaftLogStorage::<Types>::truncate_after(&mut log, Some(at(3))).await.expect(SOUND);
        RaftLogStorage::<Types>::save_committed(&mut log, Some(at(2))).await.expect(SOUND);
        RaftLogStorage::<Types>::purge(&mut log, at(0)).await.expect(SOUND);
    }
    let mut file = disk.file_bytes(PATH).expect(SOUND);
    // What is behind the last batch is zeros, and the input is short without them.
    let used = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    file.truncate(used.next_multiple_of(PAGE_SIZE_BYTES));
    mend(&mut file);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mending_undoes_damage_to_checksums_and_changes_nothing_else() {
        for seed in seeds() {
            let mut mended = seed.clone();
            for page in (0..seed.len()).step_by(PAGE_SIZE_BYTES) {
                mended[page + if page == 0 { 48 } else { 33 }] ^= 1;
            }
            mend(&mut mended);
            assert!(mended == seed);
        }
    }
}
