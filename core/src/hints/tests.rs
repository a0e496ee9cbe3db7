//! Tests of the hint log on a disk that loses, tears and fails.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures::executor::block_on;
use heddle_sim::{Crash, Fault, Random, SimDisk};
use heddle_types::{DeviceError, NodeId, ShardId};

use super::format::{BATCH_BYTES_MAX, HINT_BYTES_MAX};
use super::*;

const DIRECTORY: &str = "hints/0000/node";
/// Some batches fill a segment.
const SMALL: HintLogConfig = HintLogConfig { segment_bytes: 20 << 10, batch_bytes: 2_000 };

type Log = HintLog<SimDisk>;

fn target() -> NodeId {
    NodeId::from(7)
}

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.set_latency_turns_max(0);
    disk
}

async fn open(disk: &SimDisk) -> Result<Log, HintError> {
    HintLog::open(disk.clone(), DIRECTORY, target(), SMALL).await
}

/// The hint of a number: its content follows from that alone.
fn hint(number: u64) -> Hint {
    let mut random = Random::new(number);
    let length = if random.one_in(9) { random.below(6_000) } else { random.below(400) };
    let mut write = number.to_le_bytes().to_vec();
    write.extend(random.bytes(usize::try_from(length).unwrap()));
    Hint { shard: ShardId(number % 5), write }
}

fn number(found: &Hint) -> u64 {
    let number = u64::from_le_bytes(*found.write.first_chunk().unwrap());
    assert_eq!(*found, hint(number), "a hint that nobody gave");
    number
}

async fn append(log: &mut Log, numbers: std::ops::Range<u64>, now_us: u64) {
    let hints: Vec<Hint> = numbers.map(hint).collect();
    log.append(&hints, now_us).await.unwrap();
}

/// Everything that waits, without acknowledging it.
async fn peek(log: &mut Log) -> Vec<u64> {
    let all = log.read(u64::MAX).await.unwrap();
    all.map_or_else(Vec::new, |batch| batch.hints.iter().map(number).collect())
}

async fn take(log: &mut Log, bytes_max: u64) -> Vec<u64> {
    let Some(batch) = log.read(bytes_max).await.unwrap() else { return Vec::new() };
    log.acknowledge(batch.end).await.unwrap();
    batch.hints.iter().map(number).collect()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.files().into_iter().filter(|file| file.ends_with(".hint")).collect()
}

#[test]
fn hints_come_in_order_once_and_leave_nothing_behind() {
    block_on(async {
        let disk = disk(1);
        let mut log = open(&disk).await.unwrap();
        assert_eq!(log.waiting(), HintsWaiting::default());
        assert_eq!(log.read(1).await.unwrap(), None);
        append(&mut log, 0..50, 10).await;
        append(&mut log, 50..200, 20).await;
        assert!(segments(&disk).len() > 2);
        let waiting = log.waiting();
        assert_eq!((waiting.hints, waiting.oldest_us), (200, Some(10)));
        let mut found = Vec::new();
        while log.waiting().hints > 0 {
            let before = log.waiting();
            let some = log.read(10_000).await.unwrap().unwrap();
            assert!(some.bytes <= 10_000 || some.hints.len() == 1, "{}", some.bytes);
            log.acknowledge(some.end).await.unwrap();
            log.acknowledge(some.end).await.unwrap();
            assert_eq!(log.waiting().hints, before.hints - some.hints.len() as u64);
            assert_eq!(log.waiting().bytes, before.bytes - some.bytes);
            found.extend(some.hints.iter().map(number));
        }
        assert_eq!(found, (0..200).collect::<Vec<_>>());
        assert_eq!(log.waiting(), HintsWaiting::default());
        assert!(segments(&disk).is_empty(), "what is delivered makes room at once");
        append(&mut log, 200..203, 30).await;
        assert_eq!(take(&mut log, u64::MAX).await, [200, 201, 202]);
    });
}

#[test]
fn a_restart_goes_on_where_the_node_was() {
    block_on(async {
        let disk = disk(2);
        let mut log = open(&disk).await.unwrap();
        append(&mut log, 0..100, 10).await;
        let taken = take(&mut log, 12_000).await;
        let waiting = log.waiting();
        drop(log);
        for _ in 0..3 {
            let mut log = open(&disk).await.unwrap();
            assert_eq!(log.waiting(), waiting);
            assert_eq!(peek(&mut log).await, (taken.len() as u64..100).collect::<Vec<_>>());
        }
        let mut log = open(&disk).await.unwrap();
        append(&mut log, 100..120, 20).await;
        assert_eq!(peek(&mut log).await, (taken.len() as u64..120).collect::<Vec<_>>());
        drop(log);
        let mut log = open(&disk).await.unwrap();
        let dropped = log.discard().await.unwrap();
        assert_eq!(dropped, 120 - taken.len() as u64);
        drop(log);
        let mut log = open(&disk).await.unwrap();
        assert_eq!((log.waiting(), peek(&mut log).await), (HintsWaiting::default(), Vec::new()));
        append(&mut log, 120..121, 20).await;
        assert_eq!(peek(&mut log).await, [120]);
        log.remove().await.unwrap();
        assert!(disk.files().is_empty());
    });
}

#[test]
fn old_hints_expire_and_younger_ones_stay() {
    block_on(async {
        let disk = disk(3);
        let mut log = open(&disk).await.unwrap();
        for round in 0..10 {
            append(&mut log, round * 20..round * 20 + 20, 100 + round).await;
        }
        assert_eq!(log.expire(100).await.unwrap(), 0);
        assert_eq!(log.expire(104).await.unwrap(), 80);
        assert_eq!((log.waiting().oldest_us, log.waiting().hints), (Some(104), 120));
        drop(log);
        let mut log = open(&disk).await.unwrap();
        assert_eq!(peek(&mut log).await, (80..200).collect::<Vec<_>>());
        assert_eq!(log.expire(u64::MAX).await.unwrap(), 120);
        assert!(segments(&disk).is_empty());
    });
}

/// A log with rounds of hints written at 100, 101 and so on, on its disk.
async fn with_rounds(seed: u64) -> (SimDisk, Log) {
    let disk = disk(seed);
    let mut log = open(&disk).await.unwrap();
    for round in 0..10 {
        append(&mut log, round * 20..round * 20 + 20, 100 + round).await;
    }
    (disk, log)
}

#[test]
fn what_goes_to_the_end_keeps_its_age() {
    block_on(async {
        let disk = disk(10);
        let mut log = open(&disk).await.unwrap();
        append(&mut log, 0..1, 10).await;
        append(&mut log, 1..4, 20).await;
        let first = log.read(1).await.unwrap().unwrap();
        assert_eq!(first.written_us, 10);
        log.append(&first.hints, first.written_us).await.unwrap();
        log.acknowledge(first.end).await.unwrap();
        assert_eq!(log.waiting().oldest_us, Some(20));
        let younger = log.read(u64::MAX).await.unwrap().unwrap();
        assert_eq!(younger.written_us, 20);
        assert_eq!(younger.hints.iter().map(number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(log.expire(15).await.unwrap(), 0, "a younger one is in front");
        log.acknowledge(younger.end).await.unwrap();
        assert_eq!(log.waiting().oldest_us, Some(10));
        assert_eq!(peek(&mut log).await, [0]);
        assert_eq!(log.expire(15).await.unwrap(), 1);
    });
}

#[test]
fn the_oldest_that_is_left_is_known_though_the_disk_refuses_the_position() {
    block_on(async {
        let (disk, mut log) = with_rounds(6).await;
        disk.fail_change(disk.changes() + 1, Fault::Io);
        assert!(log.expire(104).await.is_err());
        assert_eq!((log.waiting().oldest_us, log.waiting().hints), (Some(104), 120));
        assert_eq!(log.expire(104).await.unwrap(), 0);
        assert_eq!(peek(&mut log).await, (80..200).collect::<Vec<_>>());
    });
}

#[test]
fn nothing_is_lost_while_the_oldest_cannot_be_read_and_its_age_is_found_later() {
    block_on(async {
        let mut failed = 0;
        for at in 1.. {
            let (disk, mut log) = with_rounds(7).await;
            let before = disk.operations();
            disk.fail_operation(before + at, Fault::Io);
            let ended = log.expire(109).await;
            if disk.operations() - before < at {
                assert!(ended.is_ok() && failed > 5, "{failed} of {at}: {ended:?}");
                break;
            }
            failed += usize::from(ended.is_err());
            append(&mut log, 200..210, 110).await;
            log.expire(109).await.unwrap();
            assert_eq!(log.waiting().oldest_us, Some(109), "operation {at}");
            assert_eq!(peek(&mut log).await, (180..210).collect::<Vec<_>>(), "operation {at}");
        }
    });
}

#[test]
fn what_can_no_longer_be_read_does_not_wait_for_ever() {
    block_on(async {
        let disk = disk(8);
        let mut log = open(&disk).await.unwrap();
        append(&mut log, 0..3, 10).await;
        let path = segments(&disk).remove(0);
        let mut bytes = disk.file_bytes(&path).unwrap();
        bytes[heddle_types::limits::PAGE_SIZE_BYTES] ^= 0x10;
        disk.plant_file(&path, bytes);
        assert_eq!(log.read(u64::MAX).await.unwrap(), None);
        let waiting = log.waiting();
        assert_eq!((waiting.bytes, waiting.oldest_us), (0, None));
        assert!(waiting.damaged_bytes > 0);
    });
}

#[test]
fn a_hint_beyond_the_largest_is_refused_and_the_largest_is_not() {
    block_on(async {
        let disk = disk(4);
        let config = HintLogConfig { batch_bytes: usize::MAX, ..HintLogConfig::default() };
        let mut log = HintLog::open(disk, DIRECTORY, target(), config).await.unwrap();
        let of = |bytes| Hint { shard: ShardId(1), write: vec![5; bytes] };
        let refused = log.append(&[of(1), of(HINT_BYTES_MAX)], 1).await.unwrap_err();
        assert!(matches!(refused, HintError::TooLarge { .. }), "{refused}");
        assert_eq!(log.waiting().hints, 0);
        let hints = [of(BATCH_BYTES_MAX - 40), of(HINT_BYTES_MAX - 12), of(3)];
        log.append(&hints, 1).await.unwrap();
        let mut found = Vec::new();
        while let Some(batch) = log.read(1).await.unwrap() {
            log.acknowledge(batch.end).await.unwrap();
            found.extend(batch.hints);
        }
        assert_eq!(found, hints);
    });
}

#[test]
fn damage_costs_what_it_hits_and_is_counted() {
    block_on(async {
        let disk = disk(5);
        let mut log = open(&disk).await.unwrap();
        append(&mut log, 0..200, 10).await;
        drop(log);
        for path in segments(&disk) {
            let bytes = disk.file_bytes(&path).unwrap();
            for offset in (0..bytes.len()).step_by(997) {
                let damaged = disk.crashed(Crash::KeepAll);
                let mut changed = bytes.clone();
                changed[offset] ^= 0x10;
                damaged.plant_file(&path, changed);
                let mut log = open(&damaged).await.unwrap();
                let found = peek(&mut log).await;
                assert!(found.is_sorted_by(|low, high| low < high), "{path} {offset}");
                if found.len() < 200 && path != *segments(&disk).last().unwrap() {
                    assert!(log.waiting().damaged_bytes > 0, "{path} {offset}");
                }
                assert!(found.len() > 100, "{path} {offset}: {} are left", found.len());
                append(&mut log, 200..201, 10).await;
                assert_eq!(peek(&mut log).await.last(), Some(&200));
            }
        }
    });
}

#[test]
fn another_version_is_refused_and_left_alone_and_so_are_unknown_names() {
    block_on(async {
        let disk = disk(6);
        let mut log = open(&disk).await.unwrap();
        append(&mut log, 0..3, 10).await;
        drop(log);
        disk.plant_file(&format!("{DIRECTORY}/notes.txt"), vec![1; 4096]);
        disk.plant_file(&format!("{DIRECTORY}/1.hint"), vec![1; 4096]);
        assert_eq!(peek(&mut open(&disk).await.unwrap()).await, [0, 1, 2]);
        assert_eq!(disk.files().len(), 3);
        let path = format!("{DIRECTORY}/0000000009.hint");
        let key = format::SegmentKey { target: target(), number: 9 };
        let mut page = vec![0; 4096];
        page[..64].copy_from_slice(&format::encode_version_for_tests(key, 2));
        disk.plant_file(&path, page);
        let files = disk.files();
        let Err(error) = open(&disk).await else { panic!("another version was read") };
        assert_eq!(
            error.to_string(),
            format!("{path}: hint log format version 2, this server reads 1")
        );
        assert_eq!(disk.files(), files);
    });
}

#[test]
fn hints_of_another_node_are_not_taken_for_ones_of_this() {
    block_on(async {
        let disk = disk(7);
        let mut log = open(&disk).await.unwrap();
        append(&mut log, 0..3, 10).await;
        drop(log);
        let other = HintLog::open(disk.clone(), DIRECTORY, NodeId::from(8), SMALL).await.unwrap();
        assert_eq!(other.waiting().hints, 0);
    });
}

#[test]
fn a_failed_append_costs_its_hints_and_the_log_goes_on() {
    block_on(async {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
            for at in 1..30 {
                let disk = disk(8);
                let mut log = open(&disk).await.unwrap();
                append(&mut log, 0..10, 10).await;
                disk.fail_change(disk.changes() + at, fault);
                let hints: Vec<Hint> = (10..100).map(hint).collect();
                if log.append(&hints, 20).await.is_ok() {
                    assert!(at > 5);
                    break;
                }
                append(&mut log, 100..110, 30).await;
                let found = peek(&mut log).await;
                let sure: Vec<u64> = (0..10).chain(100..110).collect();
                assert!(sure.iter().all(|number| found.contains(number)), "{fault:?} {at}");
                drop(log);
                let found = peek(&mut open(&disk).await.unwrap()).await;
                assert!(sure.iter().all(|number| found.contains(number)), "{fault:?} {at}");
                assert!(found.iter().all(|number| *number < 110));
            }
        }
    });
}

/// What a life of the log did, as far as it got.
#[derive(Clone, Default, Debug)]
struct History {
    /// Hints given.
    given: u64,
    /// Hints whose append returned.
    durable: BTreeSet<u64>,
    /// Hints whose acknowledgement, expiry or discarding began.
    may_be_gone: BTreeSet<u64>,
    /// Hints that are gone for good.
    gone: BTreeSet<u64>,
}

impl History {
    fn check(&self, found: &[u64], story: &str) {
        assert!(found.is_sorted_by(|low, high| low < high), "{story}: out of order");
        let found: BTreeSet<u64> = found.iter().copied().collect();
        assert!(found.iter().all(|number| *number < self.given), "{story}");
        assert_eq!(found.intersection(&self.gone).count(), 0, "{story}: acknowledged ones return");
        let must: BTreeSet<u64> = self.durable.difference(&self.may_be_gone).copied().collect();
        assert!(found.is_superset(&must), "{story}: lost {:?}", must.difference(&found));
    }
}

/// One life: opens, checks the past, appends, delivers, expires. Stops at the first error.
async fn live(disk: &SimDisk, history: &RefCell<History>, story: &str) -> Result<(), HintError> {
    let mut log = open(disk).await?;
    let waiting = log.read(u64::MAX).await?;
    let found: Vec<u64> =
        waiting.map_or_else(Vec::new, |batch| batch.hints.iter().map(number).collect());
    history.borrow().check(&found, story);
    for round in 0..6 {
        let first = history.borrow().given;
        let last = first + 4 + round * 3;
        history.borrow_mut().given = last;
        let hints: Vec<Hint> = (first..last).map(hint).collect();
        log.append(&hints, first).await?;
        history.borrow_mut().durable.extend(first..last);
        match round {
            1 | 4 => {
                if let Some(batch) = log.read(9_000).await? {
                    let numbers: Vec<u64> = batch.hints.iter().map(number).collect();
                    history.borrow_mut().may_be_gone.extend(&numbers);
                    log.acknowledge(batch.end).await?;
                    history.borrow_mut().gone.extend(&numbers);
                }
            }
            3 => {
                let all = log.read(u64::MAX).await?;
                let numbers: Vec<u64> =
                    all.map_or_else(Vec::new, |batch| batch.hints.iter().map(number).collect());
                history.borrow_mut().may_be_gone.extend(numbers.iter().filter(|n| **n < first));
                log.expire(first).await?;
                history.borrow_mut().gone.extend(numbers.iter().filter(|n| **n < first));
            }
            _ => {}
        }
    }
    let first = history.borrow().given;
    history.borrow_mut().may_be_gone.extend(0..first);
    log.discard().await?;
    history.borrow_mut().gone.extend(0..first);
    history.borrow_mut().given += 5;
    log.append(&(first..first + 5).map(hint).collect::<Vec<_>>(), first).await?;
    history.borrow_mut().durable.extend(first..first + 5);
    Ok(())
}

fn crashes(disk: &SimDisk, seed: u64) -> Vec<Crash> {
    let mut all = vec![Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData];
    all.extend((0..2).map(|salt| Crash::Random(seed * 16 + salt)));
    all.extend(
        (0..disk.unsynced()).flat_map(|effect| [Crash::Without(effect), Crash::Torn(effect)]),
    );
    all
}

async fn after_first_life() -> (SimDisk, History) {
    let disk = disk(9);
    let history = RefCell::default();
    live(&disk, &history, "first life").await.unwrap();
    (disk.crashed(Crash::LoseUnsynced), history.into_inner())
}

/// A second life in which the power goes at change number `at`; none when it ends before.
async fn interrupted(at: u64) -> Option<(SimDisk, History)> {
    let (disk, history) = after_first_life().await;
    disk.fail_change(disk.changes() + at, Fault::PowerCut);
    let history = RefCell::new(history);
    let ended = live(&disk, &history, "second life").await;
    ended.is_err().then(|| (disk, history.into_inner()))
}

#[test]
fn a_crash_after_any_change_loses_nothing_appended_and_brings_back_nothing_acknowledged() {
    block_on(async {
        let mut at = 1;
        while let Some((disk, history)) = interrupted(at).await {
            for crash in crashes(&disk, at) {
                let after = disk.crashed(crash);
                let history = RefCell::new(history.clone());
                live(&after, &history, &format!("change {at}, {crash:?}")).await.unwrap();
            }
            at += 1;
        }
        assert!(at > 40, "{at} changes");
    });
}

#[test]
fn a_crash_while_starting_after_a_crash_changes_nothing() {
    block_on(async {
        let mut at = 1;
        while let Some((disk, history)) = interrupted(at).await {
            let mut again = 1;
            loop {
                let after = disk.crashed(Crash::Random(at));
                after.fail_change(after.changes() + again, Fault::PowerCut);
                let Err(error) = open(&after).await else { break };
                assert!(matches!(error, HintError::Device(DeviceError::Io { .. })), "{error}");
                let last = after.crashed(Crash::Random(again));
                let found = peek(&mut open(&last).await.unwrap()).await;
                history.check(&found, &format!("changes {at} and {again}"));
                again += 1;
            }
            at += 3;
        }
        assert!(at > 40, "{at} changes");
    });
}

#[test]
fn every_failed_read_or_write_is_an_error_and_no_loss() {
    block_on(async {
        let mut at = 1;
        loop {
            let (disk, history) = after_first_life().await;
            let before = disk.operations();
            disk.fail_operation(before + at, Fault::Io);
            let history = RefCell::new(history);
            let ended = live(&disk, &history, "second life").await;
            if disk.operations() - before < at {
                assert!(ended.is_ok() && at > 100, "{at} operations: {ended:?}");
                break;
            }
            let after = disk.crashed(Crash::KeepAll);
            live(&after, &history, &format!("operation {at}")).await.unwrap();
            at += 1;
        }
    });
}
