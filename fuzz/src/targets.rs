//! The decoders that are attacked, one file each.

pub mod backup;
pub mod checkpoint;
pub mod cluster;
pub mod filter;
pub mod gossip;
pub mod header;
pub mod hints;
pub mod json;
pub mod ledger;
pub mod messages;
pub mod objects;
pub mod peer;
pub mod raft_log;
pub mod raft_message;
pub mod raft_snapshot;
pub mod row;
pub mod wal;

/// A decoder with inputs to start from.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line and of the corpus folder.
    pub name: &'static str,
    /// Decodes the bytes and checks what can be checked of the result; panics on a fault.
    pub run: fn(&[u8]),
    /// Valid encodings, one per shape that a mutation would hardly reach by itself.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that one execution may allocate in all, freed or not, for each byte of its input.
    pub allocated_per_byte_max: usize,
}

/// For decoders whose result is about as large as its encoding: the input once, its copy once.
const PLAIN: usize = 2;

/// For recovery on a simulated disk, which keeps each sector of the file by itself, twice.
const DISK: usize = 64;

/// For decoders that build maps: an object with one field takes 5 bytes in a row, and its map
/// 1.4 KiB. What such a row may hold in all is bounded by `ROW_FIELDS_MAX`.
const MAPS: usize = 600;

/// For compressed blocks: a byte of LZ4 stands for 255, and a run opens each block four times.
const BLOCKS: usize = 1_200;

/// For a log that is written anew when its end is torn: 1 MiB at least, which the simulated disk
/// keeps several times, from an input of a page.
const REWRITES: usize = 1_000;

const fn target(
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    allocated_per_byte_max: usize,
) -> Target {
    Target { name, run, seeds, allocated_per_byte_max }
}

/// Every target.
pub const ALL: [Target; 17] = [
    target("header", header::run, header::seeds, PLAIN),
    target("messages", messages::run, messages::seeds, MAPS),
    target("wal", wal::run, wal::seeds, DISK),
    target("hints", hints::run, hints::seeds, DISK),
    target("checkpoint", checkpoint::run, checkpoint::seeds, DISK),
    target("ledger", ledger::run, ledger::seeds, DISK),
    target("objects", objects::run, objects::seeds, BLOCKS),
    target("backup", backup::run, backup::seeds, MAPS),
    target("cluster", cluster::run, cluster::seeds, MAPS),
    target("raft_log", raft_log::run, raft_log::seeds, REWRITES),
    target("raft_message", raft_message::run, raft_message::seeds, MAPS),
    target("raft_snapshot", raft_snapshot::run, raft_snapshot::seeds, MAPS),
    target("row", row::run, row::seeds, MAPS),
    target("filter", filter::run, filter::seeds, MAPS),
    target("gossip", gossip::run, gossip::seeds, MAPS),
    target("peer", peer::run, peer::seeds, MAPS),
    target("json", json::run, json::seeds, MAPS),
];

#[cfg(test)]
mod tests {
    use crate::session::Session;

    use super::*;

    #[test]
    fn every_target_survives_its_seeds_and_a_thousand_mutations() {
        for target in &ALL {
            let mut session = Session::new(target, 1, Vec::new());
            for _ in 0..1_000 {
                session.advance();
                assert_eq!(session.execute(|| 0), Ok(()), "{}", target.name);
            }
        }
    }

    #[test]
    fn every_target_has_seeds_and_a_name_of_its_own() {
        for (index, target) in ALL.iter().enumerate() {
            assert!(!(target.seeds)().is_empty(), "{}", target.name);
            assert!(ALL[..index].iter().all(|other| other.name != target.name));
        }
    }
}
