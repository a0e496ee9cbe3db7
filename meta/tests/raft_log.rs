//! What a node has promised by its votes and entries survives crashes at any point; what damages
//! the file otherwise is found and named.

use heddle_meta::cluster::{ClusterCommand, CommandId, Labels, Request};
use heddle_meta::raft::{
    Entry, Leader, LogError, LogId, Membership, Payload, RaftLog, RaftTypes, Vote,
};
use heddle_sim::{Crash, Fault, Random, SimDisk, SimHost};
use heddle_types::{DeviceError, NodeId};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use uuid::Uuid;

type Types = RaftTypes<SimHost>;
type Log = RaftLog<SimDisk>;

const PAGE: usize = 4_096;
const PATH: &str = "raft/log";

fn node() -> NodeId {
    NodeId::from(7)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: Leader { term, node_id: node() }, index }
}

/// An entry whose request has about this many bytes.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let mut labels = Labels::new();
    labels.insert("padding".to_owned(), "x".repeat(bytes));
    let address = || "host:1".to_owned();
    let addresses = heddle_meta::cluster::Addresses {
        native: address(),
        core: address(),
        http: address(),
        peer: address(),
        raft: address(),
        gossip: address(),
    };
    let command = ClusterCommand::DescribeNode { node: node(), addresses, labels, data_cores: 1 };
    let request = Request::new(CommandId(Uuid::from_u64_pair(term, index)), command);
    Entry { log_id: log_id(term, index), payload: Payload::Normal(request.expect("small enough")) }
}

/// A write as openraft makes it.
#[derive(Clone, Debug)]
enum Write {
    Vote(Vote),
    Commit(LogId),
    Append(Vec<Entry>),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// What a log says.
#[derive(Clone, PartialEq, Debug, Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl State {
    fn after(&self, write: &Write) -> Self {
        let mut state = self.clone();
        match write {
            Write::Vote(vote) => state.vote = Some(*vote),
            Write::Commit(log_id) => state.committed = Some(*log_id),
            Write::Append(entries) => state.entries.extend(entries.iter().cloned()),
            Write::Truncate(last) => {
                let last = last.map(|last| last.index);
                state.entries.retain(|entry| Some(entry.log_id.index) <= last);
            }
            Write::Purge(log_id) => {
                state.entries.retain(|entry| entry.log_id.index > log_id.index);
                state.purged = Some(*log_id);
            }
        }
        state
    }

    /// The same state when the commit is no later: it is written along with the next write.
    fn is_held_by(&self, found: &Self) -> bool {
        let without_commit = |state: &Self| Self { committed: None, ..state.clone() };
        found.committed <= self.committed && without_commit(self) == without_commit(found)
    }
}

async fn make(log: &mut Log, write: &Write) -> std::io::Result<()> {
    type Store = dyn Fn() -> IOFlushed<Types>;
    let flushed: &Store = &IOFlushed::noop;
    match write {
        Write::Vote(vote) => RaftLogStorage::<Types>::save_vote(log, vote).await,
        Write::Commit(log_id) => RaftLogStorage::<Types>::save_committed(log, Some(*log_id)).await,
        Write::Append(entries) => log.append(entries.clone(), flushed()).await,
        Write::Truncate(last) => RaftLogStorage::<Types>::truncate_after(log, *last).await,
        Write::Purge(log_id) => RaftLogStorage::<Types>::purge(log, *log_id).await,
    }
}

async fn state_of(log: &mut Log) -> State {
    let state = RaftLogStorage::<Types>::get_log_state(log).await.expect("it is in memory");
    let committed = RaftLogStorage::<Types>::read_committed(log).await.expect("in memory");
    let mut reader = RaftLogStorage::<Types>::get_log_reader(log).await;
    let entries = RaftLogReader::<Types>::try_get_log_entries(&mut reader, ..).await;
    let entries = entries.expect("they are in memory");
    let vote = RaftLogReader::<Types>::read_vote(&mut reader).await.expect("in memory");
    let last = entries.last().map(|entry| entry.log_id).or(state.last_purged_log_id);
    assert_eq!(state.last_log_id, last);
    State { vote, committed, purged: state.last_purged_log_id, entries }
}

/// Writes that meet all records, batches of several pages and several rewrites of the file. As in
/// Raft, the commit never goes back, only what is not committed is truncated, and only what is
/// committed is purged.
fn script(seed: u64, length: usize) -> Vec<Write> {
    let mut random = Random::new(seed);
    // Entries from `first` on, of which those below `settled` are committed.
    let (mut term, mut first, mut settled, mut next) = (1, 0, 0, 0);
    let mut writes = Vec::new();
    while writes.len() < length {
        writes.push(match random.below(10) {
            0..=1 => {
                term += 1;
                let leader_id = Leader { term, node_id: node() };
                Write::Vote(Vote { leader_id, committed: random.one_in(2) })
            }
            2..=3 if next > settled => {
                settled += 1 + random.below(next - settled);
                Write::Commit(log_id(term, settled - 1))
            }
            4 if next > settled && settled > first => {
                next = settled + random.below(next - settled);
                Write::Truncate(Some(log_id(term, next - 1)))
            }
            5 if settled > first => {
                first += 1 + random.below(settled - first);
                Write::Purge(log_id(term, first - 1))
            }
            _ => {
                let count = 1 + random.below(3);
                let sizes = [10, 3_900, 5_000, 90_000, 250_000];
                let entries = (next..next + count).map(|index| {
                    entry(term, index, sizes[random.below(sizes.len() as u64) as usize])
                });
                let entries = entries.collect();
                next += count;
                Write::Append(entries)
            }
        });
    }
    writes
}

/// The states before the first write and after each.
fn states(writes: &[Write]) -> Vec<State> {
    let mut states = vec![State::default()];
    for write in writes {
        let next = states[states.len() - 1].after(write);
        states.push(next);
    }
    states
}

/// A disk with an empty log, and the log.
async fn new_log(seed: u64) -> (SimDisk, Log) {
    let disk = SimDisk::new(seed);
    let log = RaftLog::create(disk.clone(), "raft", node()).await.expect("the disk is empty");
    (disk, log)
}

/// Makes writes until one fails; returns how many were reported.
async fn write_all(log: &mut Log, writes: &[Write]) -> usize {
    for (index, write) in writes.iter().enumerate() {
        if make(log, write).await.is_err() {
            return index;
        }
    }
    writes.len()
}

async fn reopen(disk: &SimDisk) -> Result<Log, LogError> {
    RaftLog::open(disk.clone(), "raft", node()).await
}

/// Every way a crash can treat what was not synced.
fn crashes(disk: &SimDisk, seed: u64) -> Vec<Crash> {
    let single =
        (0..disk.unsynced()).flat_map(|effect| [Crash::Without(effect), Crash::Torn(effect)]);
    let all = [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData];
    let random = (0..4).map(|number| Crash::Random(seed * 4 + number));
    all.into_iter().chain(random).chain(single).collect()
}

#[test]
fn what_was_written_is_read_back_and_the_file_stays_small() {
    SimHost::run(1, async {
        for seed in 0..20 {
            let writes = script(seed, 60);
            let (disk, mut log) = new_log(seed).await;
            assert_eq!(write_all(&mut log, &writes).await, writes.len());
            let expected = states(&writes).pop().expect("there is one state more than writes");
            assert_eq!(state_of(&mut log).await, expected, "seed {seed}");
            let mut log = reopen(&disk).await.unwrap();
            assert_eq!(log.torn_at(), None);
            let found = state_of(&mut log).await;
            assert!(expected.is_held_by(&found), "seed {seed}");
            let live: usize = expected.entries.len() * 260_000;
            let length = disk.file_bytes(PATH).unwrap().len();
            assert!(length <= (1 << 20) + 4 * live, "{length} bytes for {live}");
            assert_eq!(disk.files(), [PATH]);
        }
    });
}

#[test]
fn a_crash_at_any_disk_change_keeps_every_reported_vote_and_entry() {
    let (mut points, mut torn, mut rewrites) = (0, 0, 0);
    for seed in 0..3 {
        SimHost::run(seed, async {
            let writes = script(seed, 24);
            let states = states(&writes);
            let (clean, mut log) = new_log(seed).await;
            let first = clean.changes();
            assert_eq!(write_all(&mut log, &writes).await, writes.len());
            for at in first + 1..=clean.changes() {
                let (disk, mut log) = new_log(seed).await;
                disk.fail_change(at, Fault::PowerCut);
                let reported = write_all(&mut log, &writes).await;
                rewrites += usize::from(disk.files().len() > 1);
                for crash in crashes(&disk, at) {
                    let after = disk.crashed(crash);
                    let mut log = reopen(&after).await.expect("a crash is no damage");
                    let found = state_of(&mut log).await;
                    let next = states.get(reported + 1).unwrap_or(&states[reported]);
                    let is_held = states[reported].is_held_by(&found) || next.is_held_by(&found);
                    assert!(is_held, "seed {seed}, change {at}, {crash:?}");
                    assert_eq!(after.files(), [PATH], "what the crash left is removed");
                    points += 1;
                    torn += usize::from(log.torn_at().is_some());
                    // The log goes on, and what it says next is kept as well.
                    let vote =
                        Vote { leader_id: Leader { term: 99, node_id: node() }, committed: true };
                    make(&mut log, &Write::Vote(vote)).await.unwrap();
                    let mut again = reopen(&after).await.unwrap();
                    let expected = State { vote: Some(vote), ..found };
                    assert_eq!(state_of(&mut again).await, expected, "{at}, {crash:?}");
                }
            }
        });
    }
    assert!(points > 1_500 && torn > 80 && rewrites > 10, "{points} {torn} {rewrites}");
}

#[test]
fn a_crash_while_the_log_is_made_leaves_none_or_an_empty_one() {
    SimHost::run(1, async {
        let (clean, _log) = new_log(1).await;
        for at in 1..=clean.changes() {
            let disk = SimDisk::new(1);
            disk.fail_change(at, Fault::PowerCut);
            assert!(RaftLog::create(disk.clone(), "raft", node()).await.is_err());
            for crash in crashes(&disk, at) {
                let after = disk.crashed(crash);
                let opened = match reopen(&after).await {
                    Err(LogError::Device(DeviceError::NotFound { .. })) => {
                        RaftLog::create(after.clone(), "raft", node()).await
                    }
                    opened => opened,
                };
                let mut log = opened.unwrap_or_else(|error| panic!("{at} {crash:?}: {error}"));
                assert_eq!(state_of(&mut log).await, State::default());
            }
        }
    });
}

#[test]
fn after_a_failed_write_nothing_is_written_any_more_and_nothing_reported_is_lost() {
    for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
        SimHost::run(3, async {
            let writes = script(3, 25);
            let states = states(&writes);
            let (clean, mut log) = new_log(3).await;
            let first = clean.changes();
            write_all(&mut log, &writes).await;
            for at in first + 1..=clean.changes() {
                let (disk, mut log) = new_log(3).await;
                disk.fail_change(at, fault);
                let reported = write_all(&mut log, &writes).await;
                assert!(reported < writes.len(), "change {at} failed and nobody noticed");
                let changes = disk.changes();
                for write in &writes[reported..] {
                    if !matches!(write, Write::Commit(_)) {
                        let error = make(&mut log, write).await.unwrap_err();
                        assert!(error.to_string().contains("since one failed"), "{error}");
                    }
                }
                assert_eq!(disk.changes(), changes, "the disk was left alone");
                for crash in [Crash::KeepAll, Crash::LoseUnsynced, Crash::Random(at)] {
                    let mut log = reopen(&disk.crashed(crash)).await.unwrap();
                    let found = state_of(&mut log).await;
                    let is_held = [&states[reported], &states[reported + 1]]
                        .iter()
                        .any(|state| state.is_held_by(&found));
                    assert!(is_held, "{fault:?} at {at}, {crash:?}");
                }
            }
        });
    }
}

/// A log of ten votes, a batch of one page each, and its bytes.
async fn ten_votes() -> (SimDisk, Vec<u8>) {
    let (disk, mut log) = new_log(1).await;
    for term in 1..=10 {
        let vote = Vote { leader_id: Leader { term, node_id: node() }, committed: false };
        make(&mut log, &Write::Vote(vote)).await.expect("the disk is whole");
    }
    let bytes = disk.file_bytes(PATH).expect("the log has a file");
    (disk, bytes)
}

#[test]
fn damage_before_the_last_batch_is_named_with_its_offset_and_nothing_is_changed() {
    SimHost::run(1, async {
        let (disk, whole) = ten_votes().await;
        for batch in 1..10 {
            let start = batch * PAGE;
            let mut zeroed = whole.clone();
            zeroed[start..start + PAGE].fill(0);
            let flips = [0, 5, 9, 17, 25, 33, 37, 41, 50, 70].map(|offset| {
                let mut flipped = whole.clone();
                flipped[start + offset] ^= 0x20;
                flipped
            });
            for damaged in flips.into_iter().chain([zeroed]) {
                disk.plant_file(PATH, damaged.clone());
                let error = reopen(&disk).await.err().expect("a promise is lost");
                let is_named = matches!(
                    &error,
                    LogError::Corrupt { offset, .. } if *offset == start as u64
                );
                assert!(is_named, "batch {batch}: {error}");
                assert!(disk.file_bytes(PATH) == Some(damaged), "the file is left as it was");
            }
        }
        for offset in [0, 9, 20, 33, 41, 49] {
            let mut damaged = whole.clone();
            damaged[offset] ^= 1;
            disk.plant_file(PATH, damaged);
            let error = reopen(&disk).await.err().expect("the header is damaged");
            assert!(matches!(error, LogError::Corrupt { offset: 0, .. }), "{error}");
        }
    });
}

#[test]
fn a_last_batch_that_is_not_whole_was_never_reported_and_is_cut_off() {
    SimHost::run(1, async {
        let (disk, whole) = ten_votes().await;
        for offset in [0, 17, 25, 33, 37, 50] {
            let mut torn = whole.clone();
            torn[10 * PAGE + offset] ^= 4;
            disk.plant_file(PATH, torn);
            let mut log = reopen(&disk).await.unwrap();
            assert_eq!(log.torn_at(), Some(10 * PAGE as u64));
            let vote = state_of(&mut log).await.vote.expect("nine votes are whole");
            assert_eq!(vote.leader_id.term, 9);
            let mut again = reopen(&disk).await.unwrap();
            assert_eq!((again.torn_at(), state_of(&mut again).await.vote), (None, Some(vote)));
        }
    });
}

#[test]
fn a_file_that_lost_its_end_is_damaged() {
    SimHost::run(1, async {
        let (disk, whole) = ten_votes().await;
        for length in [0, 100, PAGE, 9 * PAGE, whole.len() - PAGE] {
            disk.plant_file(PATH, whole[..length].to_vec());
            let error = reopen(&disk).await.err().expect("bytes are missing");
            assert!(matches!(error, LogError::Corrupt { .. }), "{length}: {error}");
        }
    });
}

#[test]
fn random_damage_never_reads_much_nor_invents_anything() {
    SimHost::run(5, async {
        let writes = script(11, 14);
        let states = states(&writes);
        let (disk, mut log) = new_log(5).await;
        write_all(&mut log, &writes).await;
        let whole = disk.file_bytes(PATH).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        let mut random = Random::new(9);
        let (mut named, mut cut) = (0, 0);
        for _ in 0..150 {
            let mut damaged = whole.clone();
            for _ in 0..=random.below(4) {
                // Near the end as often as anywhere.
                let part = used >> random.below(10);
                let at = (used - 1 - random.below(part)) as usize;
                damaged[at] ^= 1 << random.below(8);
            }
            disk.plant_file(PATH, damaged);
            match reopen(&disk).await {
                Err(_) => named += 1,
                Ok(mut log) => {
                    cut += 1;
                    let found = state_of(&mut log).await;
                    assert!(states.iter().any(|state| state.is_held_by(&found)));
                }
            }
        }
        assert!(named > 20 && cut > 10, "{named} {cut}");
        assert!(disk.largest_read_bytes() <= 9 << 20, "{}", disk.largest_read_bytes());
    });
}

#[test]
fn a_log_of_another_node_a_missing_one_and_a_second_one_are_refused() {
    SimHost::run(1, async {
        let (disk, log) = new_log(1).await;
        drop(log);
        let other = RaftLog::open(disk.clone(), "raft", NodeId::from(8)).await.err();
        let expected =
            LogError::OtherNode { path: PATH.to_owned(), found: node(), expected: NodeId::from(8) };
        assert_eq!(other, Some(expected));
        let second = RaftLog::create(disk, "raft", node()).await.err();
        assert_eq!(second, Some(LogError::Exists { path: PATH.to_owned() }));
        let missing = reopen(&SimDisk::new(1)).await.err();
        assert!(matches!(missing, Some(LogError::Device(DeviceError::NotFound { .. }))));
    });
}

#[test]
fn a_hole_is_refused_before_anything_is_written() {
    SimHost::run(1, async {
        let (disk, mut log) = new_log(1).await;
        make(&mut log, &Write::Append(vec![entry(1, 0, 5), entry(1, 1, 5)])).await.unwrap();
        let changes = disk.changes();
        for entries in
            [vec![entry(1, 3, 5)], vec![entry(1, 1, 5)], vec![entry(1, 2, 5), entry(1, 4, 5)]]
        {
            let error = make(&mut log, &Write::Append(entries)).await.unwrap_err();
            assert!(error.to_string().contains("has to come"), "{error}");
        }
        assert_eq!(disk.changes(), changes);
        make(&mut log, &Write::Append(vec![entry(1, 2, 5)])).await.unwrap();
    });
}

#[test]
fn a_purged_log_gives_its_space_back_and_a_full_one_grows() {
    SimHost::run(1, async {
        let (disk, mut log) = new_log(1).await;
        let length = || disk.file_bytes(PATH).unwrap().len();
        for index in 0..40 {
            make(&mut log, &Write::Append(vec![entry(1, index, 200_000)])).await.unwrap();
        }
        assert!(length() > 8 << 20, "40 live entries of 200 kB");
        make(&mut log, &Write::Purge(log_id(1, 37))).await.unwrap();
        assert_eq!(length(), 1 << 20);
        let mut log = reopen(&disk).await.unwrap();
        assert_eq!(state_of(&mut log).await.entries.len(), 2);
        // Votes alone fill the file again and again; it never grows.
        for term in 2..600 {
            let vote = Vote { leader_id: Leader { term, node_id: node() }, committed: true };
            make(&mut log, &Write::Vote(vote)).await.unwrap();
        }
        assert_eq!(length(), 1 << 20);
    });
}

#[test]
fn entries_above_one_batch_are_written_in_several() {
    SimHost::run(1, async {
        let (disk, mut log) = new_log(1).await;
        let entries: Vec<Entry> = (0..5).map(|index| entry(1, index, 4 << 20)).collect();
        make(&mut log, &Write::Append(entries.clone())).await.unwrap();
        let mut log = reopen(&disk).await.unwrap();
        assert_eq!(state_of(&mut log).await.entries, entries);
    });
}

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/raft-log-1.bin");

#[test]
fn a_log_of_version_1_is_read_and_written_as_it_was() {
    SimHost::run(1, async {
        let members = [(node(), heddle_meta::raft::Member { address: "host:7500".to_owned() })];
        let membership =
            Membership::new(vec![[node()].into()], std::collections::BTreeMap::from(members));
        let membership = Payload::Membership(membership.expect("the voter is a member"));
        let vote = Vote { leader_id: Leader { term: 2, node_id: node() }, committed: true };
        let writes = [
            Write::Vote(vote),
            Write::Append(vec![
                Entry { log_id: log_id(1, 0), payload: membership },
                Entry { log_id: log_id(2, 1), payload: Payload::Blank },
                entry(2, 2, 100),
                entry(2, 3, 5_000),
            ]),
            Write::Truncate(Some(log_id(2, 2))),
            Write::Commit(log_id(2, 1)),
            Write::Purge(log_id(1, 0)),
        ];
        let (disk, mut log) = new_log(1).await;
        assert_eq!(write_all(&mut log, &writes).await, writes.len());
        // Behind the last batch there are only zeros.
        let bytes = disk.file_bytes(PATH).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        if std::env::var_os("HEDDLE_WRITE_FIXTURES").is_some() && !std::fs::exists(FIXTURE).unwrap()
        {
            std::fs::write(FIXTURE, &bytes[..used]).unwrap();
        }
        let mut stored = std::fs::read(FIXTURE).unwrap();
        assert!(stored == bytes[..used], "the log is written differently than in version 1");
        stored.resize(bytes.len(), 0);
        let other = SimDisk::new(2);
        other.plant_file(PATH, stored.clone());
        let mut log = reopen(&other).await.unwrap();
        assert_eq!(state_of(&mut log).await, states(&writes)[writes.len()]);
        // The version stands at offset 8; its checksum at 48.
        stored[8] = 2;
        let crc = crc32c::crc32c(&stored[..48]);
        stored[48..52].copy_from_slice(&crc.to_le_bytes());
        other.plant_file(PATH, stored);
        let newer = reopen(&other).await.err();
        assert!(matches!(newer, Some(LogError::Version { found: 2, supported: 1, .. })));
    });
}
