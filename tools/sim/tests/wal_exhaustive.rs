//! Every way to damage a log of 64 KiB, one after the other: cut at any byte, any bit flipped, any
//! few sectors of its end missing.
//!
//! The log has more than 300 records of different sizes, kinds and shards in two segments; all of
//! it is acknowledged but the last batch, which fills the last 8 KiB. Whatever is done to it: every
//! record that comes back is the one that was written, in order; every acknowledged one comes back
//! or is reported as lost, to the right shard or to all; and reading allocates no more than twice
//! the size of the log, all allocations added up. `HEDDLE_EXHAUSTIVE=1` cuts at every byte and
//! flips every bit, otherwise one in seven and one in sixteen.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::alloc::System;
use std::pin::pin;

use futures::executor::block_on;
use futures::future::{Either, select};
use heddle_core::wal::{Damage, Record, RecordKind, Recovery, Wal, WalConfig, WalError};
use heddle_sim::{Crash, Fault, Random, SimDisk};
use heddle_types::{Hlc, Lsn, NodeId, ShardId, Stamp};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Tests of this file count the allocations of the whole process: one at a time.
#[expect(clippy::disallowed_types, reason = "a test has threads and no core")]
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

const CONFIG: WalConfig = WalConfig { segment_bytes: 32 << 10, backlog_bytes_max: 64 << 10 };
const LOG_BYTES: usize = 64 << 10;
const DIRECTORY: &str = "logs/0000";
const SEGMENTS: [&str; 2] = ["logs/0000/0000000001.wal", "logs/0000/0000000002.wal"];
const PAGE: usize = 4096;
const SECTOR: usize = 512;
/// Bytes from one cut to the next in the quick run: a prime.
const CUT_STRIDE: usize = 7;
/// Pages of the batches; the last one is never acknowledged.
const BATCH_PAGES: [usize; 12] = [1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2];

type Written = (ShardId, RecordKind, Stamp, Vec<u8>);

/// A log, what was written to it, and how much of that was acknowledged.
struct Log {
    disk: SimDisk,
    records: Vec<Written>,
    acknowledged: usize,
}

/// What became of the records of a damaged log.
#[derive(Default)]
struct Outcome {
    is_found: Vec<bool>,
    damage: Vec<Damage>,
}

fn record(random: &mut Random, payload_bytes: u64) -> Written {
    let kind = if random.one_in(4) { RecordKind::Delete } else { RecordKind::Put };
    let node = NodeId::default();
    let stamp = Stamp { hlc: Hlc(random.next_u64()), boot: 1, core: 2, node };
    let payload = random.bytes(usize::try_from(payload_bytes).unwrap());
    (ShardId(random.below(5)), kind, stamp, payload)
}

/// Records that fill a batch of so many pages and no more.
fn batch(random: &mut Random, pages: usize) -> Vec<Written> {
    let mut records = Vec::new();
    let mut left = pages * PAGE - 64;
    if pages > 1 {
        records.push(record(random, 4_300));
        left -= 64 + 4_304;
    }
    loop {
        let payload = random.below(120);
        let bytes = 64 + usize::try_from(payload.next_multiple_of(8)).unwrap();
        if bytes > left {
            return records;
        }
        left -= bytes;
        records.push(record(random, payload));
    }
}

fn append(wal: &Wal<SimDisk>, (shard, kind, stamp, payload): &Written) -> Lsn {
    wal.append(*shard, *kind, stamp, &[payload]).unwrap()
}

async fn beside_flusher<T>(wal: &Wal<SimDisk>, work: impl Future<Output = T>) -> T {
    let (run, work) = (pin!(wal.run()), pin!(work));
    match select(run, work).await {
        Either::Left((_failure, work)) => work.await,
        Either::Right((done, _)) => done,
    }
}

/// Writes the log; with a seal its last batch is acknowledged too.
async fn written(is_sealed: bool) -> Log {
    let disk = SimDisk::new(1);
    disk.set_latency_turns_max(0);
    let (wal, _) = Wal::recover(disk.clone(), DIRECTORY, CONFIG, &mut |_| Ok(())).await.unwrap();
    let mut random = Random::new(64);
    let mut records = Vec::new();
    let mut acknowledged = 0;
    // The page of the seal is taken from the last batch.
    let last = BATCH_PAGES.len() - 1;
    for (index, pages) in BATCH_PAGES.into_iter().enumerate() {
        let pages = if is_sealed && index == last { 1 } else { pages };
        let new = batch(&mut random, pages);
        if index == last && !is_sealed {
            disk.fail_change(disk.changes() + 2, Fault::PowerCut);
        }
        let durable = beside_flusher(&wal, async {
            wal.room().await;
            let mut lsn = Lsn(0);
            for written in &new {
                lsn = append(&wal, written);
            }
            wal.durable(lsn).await
        })
        .await;
        records.extend(new);
        assert_eq!(durable.is_ok(), is_sealed || index < last);
        if durable.is_ok() {
            acknowledged = records.len();
        }
    }
    if is_sealed {
        beside_flusher(&wal, wal.seal()).await.unwrap();
    }
    let disk = disk.crashed(Crash::KeepAll);
    for path in disk.files().iter().filter(|path| !SEGMENTS.contains(&path.as_str())) {
        // The spare segment of the log is no part of it.
        heddle_types::Device::remove(&disk, path).await.unwrap();
    }
    let disk = disk.crashed(Crash::KeepAll);
    let sizes = SEGMENTS.map(|path| disk.file_bytes(path).unwrap().len());
    assert_eq!(sizes.iter().sum::<usize>(), LOG_BYTES);
    assert!(records.len() >= 300, "{} records only", records.len());
    Log { disk, records, acknowledged }
}

impl Log {
    fn with_file(&self, path: &str, bytes: Vec<u8>) -> SimDisk {
        let disk = self.disk.crashed(Crash::KeepAll);
        disk.plant_file(path, bytes);
        disk
    }

    fn check_record(&self, record: &Record<'_>) -> usize {
        let index = usize::try_from(record.lsn.0 - 1).unwrap();
        let (shard, kind, stamp, payload) = self.records.get(index).expect("a record of its own");
        assert_eq!((record.shard, record.kind, record.stamp), (*shard, *kind, *stamp));
        assert_eq!(record.payload, payload, "record {}", record.lsn);
        index
    }

    /// Reads a damaged log and checks everything that holds whatever the damage is.
    async fn read(&self, disk: &SimDisk) -> (Outcome, Recovery<SimDisk>) {
        let mut outcome = Outcome { is_found: vec![false; self.records.len()], damage: Vec::new() };
        let region = Region::new(ALLOCATOR);
        let mut recovery = Recovery::open(disk.clone(), DIRECTORY, CONFIG).await.unwrap();
        let mut last = 0;
        while let Some(batch) = recovery.next_batch().await.unwrap() {
            for record in batch.records() {
                assert!(record.lsn.0 > last, "records come in order");
                last = record.lsn.0;
                outcome.is_found[self.check_record(&record)] = true;
            }
        }
        let allocated = region.change();
        let bytes = allocated.bytes_allocated + allocated.bytes_reallocated.max(0).unsigned_abs();
        // The simulated disk takes a buffer for each read into the window.
        assert!(bytes <= 3 * LOG_BYTES, "{bytes} bytes allocated to read {LOG_BYTES}");
        outcome.damage = recovery.damage().to_vec();
        self.check_losses(&outcome);
        (outcome, recovery)
    }

    fn check_losses(&self, outcome: &Outcome) {
        for (index, is_found) in outcome.is_found.iter().enumerate().take(self.acknowledged) {
            let (lsn, shard) = (Lsn(index as u64 + 1), self.records[index].0);
            assert!(*is_found || is_reported(outcome, lsn, shard), "{lsn} is silently lost");
        }
        for loss in outcome.damage.iter().flat_map(|damage| &damage.losses) {
            let Some(shard) = loss.shard else { continue };
            for lsn in loss.first.0..=loss.last.0 {
                let owner = self.records[usize::try_from(lsn - 1).unwrap()].0;
                assert_eq!(owner, shard, "record {lsn} was of another shard");
            }
        }
    }

    /// Goes on with a log that was read: a new record is taken, and the next start finds the same
    /// records, the same damage and the new one.
    async fn go_on(&self, disk: &SimDisk, outcome: &Outcome, recovery: Recovery<SimDisk>) {
        let (wal, _) = recovery.finish().await.unwrap();
        let new = record(&mut Random::new(9), 33);
        let lsn = beside_flusher(&wal, async {
            let lsn = append(&wal, &new);
            wal.durable(lsn).await.unwrap();
            lsn
        })
        .await;
        assert!(lsn.0 > self.acknowledged as u64, "a position is given twice");
        let disk = disk.crashed(Crash::LoseUnsynced);
        let mut recovery = Recovery::open(disk.clone(), DIRECTORY, CONFIG).await.unwrap();
        let (mut found, mut is_there) = (0, false);
        while let Some(batch) = recovery.next_batch().await.unwrap() {
            for record in batch.records() {
                if record.lsn == lsn {
                    assert_eq!(record.payload, new.3);
                    is_there = true;
                } else {
                    assert!(outcome.is_found[self.check_record(&record)]);
                    found += 1;
                }
            }
        }
        assert!(is_there, "the new record is lost");
        assert_eq!(found, outcome.is_found.iter().filter(|is_found| **is_found).count());
        let again =
            Outcome { is_found: outcome.is_found.clone(), damage: recovery.damage().into() };
        self.check_losses(&again);
    }
}

fn is_reported(outcome: &Outcome, lsn: Lsn, shard: ShardId) -> bool {
    let losses = outcome.damage.iter().flat_map(|damage| &damage.losses);
    losses.into_iter().any(|loss| {
        (loss.first..=loss.last).contains(&lsn) && loss.shard.is_none_or(|owner| owner == shard)
    })
}

/// How often each kind of end was seen.
#[derive(Debug, Default)]
struct Counts {
    cases: u64,
    /// Nothing is missing and nothing is reported.
    harmless: u64,
    /// The last batch, never acknowledged, was cut.
    cut: u64,
    /// Acknowledged records are reported as lost.
    reported: u64,
    /// Of those: one shard is named, the others lost nothing.
    one_shard: u64,
}

impl Counts {
    fn add(&mut self, log: &Log, outcome: &Outcome) {
        self.cases += 1;
        let losses = outcome.damage.iter().flat_map(|damage| &damage.losses);
        let owners: Vec<Option<ShardId>> = losses.map(|loss| loss.shard).collect();
        if !owners.is_empty() {
            self.reported += 1;
            self.one_shard += u64::from(owners.len() == 1 && owners[0].is_some());
        } else if outcome.is_found.iter().all(|is_found| *is_found) {
            self.harmless += 1;
        } else {
            let (acknowledged, last) = outcome.is_found.split_at(log.acknowledged);
            assert!(acknowledged.iter().all(|is_found| *is_found));
            assert!(last.iter().all(|is_found| !is_found), "a torn batch is cut whole");
            self.cut += 1;
        }
    }
}

fn is_exhaustive() -> bool {
    std::env::var_os("HEDDLE_EXHAUSTIVE").is_some()
}

fn alone<T>(test: impl Future<Output = T>) -> T {
    // A test that failed says so itself.
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    block_on(test)
}

/// Reads the log with one file replaced, and goes on with it in one case of `stride`.
async fn damaged(log: &Log, path: &str, bytes: Vec<u8>, counts: &mut Counts, stride: u64) {
    let disk = log.with_file(path, bytes);
    let (outcome, recovery) = log.read(&disk).await;
    counts.add(log, &outcome);
    if counts.cases.is_multiple_of(stride) {
        log.go_on(&disk, &outcome, recovery).await;
    }
}

#[test]
fn a_log_cut_at_any_byte_gives_what_is_left_and_says_what_is_not() {
    alone(async {
        let log = written(false).await;
        let mut counts = Counts::default();
        for path in SEGMENTS {
            let bytes = log.disk.file_bytes(path).unwrap();
            for length in (0..bytes.len()).step_by(if is_exhaustive() { 1 } else { CUT_STRIDE }) {
                damaged(&log, path, bytes[..length].to_vec(), &mut counts, 61).await;
            }
        }
        println!("cut at a byte: {counts:?}");
        assert!(counts.cases >= (LOG_BYTES / CUT_STRIDE) as u64);
        assert!(!is_exhaustive() || counts.cases == LOG_BYTES as u64);
        assert_eq!(counts.harmless + counts.cut, 0, "no crash shortens a segment");
    });
}

/// Flips the bits of a log, all of them or one of sixteen.
async fn flip_bits(log: &Log) -> Counts {
    let mut counts = Counts::default();
    let mut random = Random::new(7);
    for path in SEGMENTS {
        let bytes = log.disk.file_bytes(path).unwrap();
        for group in 0..bytes.len() / 2 {
            let chosen = random.below(16);
            for bit in 0..16 {
                if !is_exhaustive() && bit != chosen {
                    continue;
                }
                let bit = group * 16 + usize::try_from(bit).unwrap();
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                damaged(log, path, flipped, &mut counts, 61).await;
            }
        }
    }
    counts
}

#[test]
fn any_flipped_bit_is_harmless_or_cuts_the_last_batch_or_is_reported() {
    alone(async {
        let counts = flip_bits(&written(false).await).await;
        println!("bits flipped: {counts:?}");
        let all = if is_exhaustive() { 8 } else { 1 } * LOG_BYTES as u64;
        assert_eq!(counts.cases, if is_exhaustive() { all } else { all / 2 });
        assert!(counts.harmless > 0 && counts.cut > 0, "{counts:?}");
        assert!(counts.one_shard * 4 > counts.reported, "most bits are payload: {counts:?}");
    });
}

#[test]
fn a_flipped_bit_of_a_sealed_log_never_costs_a_record_silently() {
    alone(async {
        let log = written(true).await;
        assert_eq!(log.acknowledged, log.records.len());
        let counts = flip_bits(&log).await;
        println!("bits of a sealed log flipped: {counts:?}");
        assert_eq!(counts.cut, 0, "{counts:?}");
    });
}

/// Loses each subset of up to three of the last sixteen sectors before `end`, in three ways.
async fn lose_sectors(log: &Log, end: usize) -> Counts {
    let path = SEGMENTS[1];
    let bytes = log.disk.file_bytes(path).unwrap();
    let mut random = Random::new(3);
    let mut counts = Counts::default();
    for subset in 1_u32..1 << 16 {
        if subset.count_ones() > 3 {
            continue;
        }
        // Zeros; what an earlier life of the file may have left; and noise.
        for filler in 0..3 {
            let mut damaged_bytes = bytes.clone();
            for sector in (0..16).filter(|sector| subset & (1 << sector) != 0) {
                let start = end - 16 * SECTOR + sector * SECTOR;
                let content = match filler {
                    0 => vec![0; SECTOR],
                    1 => bytes[PAGE + sector * SECTOR..][..SECTOR].to_vec(),
                    _ => random.bytes(SECTOR),
                };
                damaged_bytes[start..start + SECTOR].copy_from_slice(&content);
            }
            damaged(log, path, damaged_bytes, &mut counts, 5).await;
        }
    }
    assert_eq!(counts.cases, 696 * 3);
    counts
}

#[test]
fn sectors_missing_from_the_last_8_kib_cut_the_batch_that_was_not_acknowledged() {
    alone(async {
        let log = written(false).await;
        let counts = lose_sectors(&log, LOG_BYTES / 2).await;
        println!("sectors of a torn batch: {counts:?}");
        assert_eq!(counts.reported, 0, "{counts:?}");
        assert!(counts.cut > 1_900, "{counts:?}");
    });
}

#[test]
fn sectors_missing_from_what_was_acknowledged_are_reported() {
    alone(async {
        let log = written(true).await;
        let counts = lose_sectors(&log, LOG_BYTES / 2 - PAGE).await;
        println!("sectors of acknowledged batches: {counts:?}");
        assert_eq!(counts.cut, 0, "{counts:?}");
        assert!(counts.reported > 1_900, "{counts:?}");
    });
}

#[test]
fn a_missing_segment_is_reported() {
    alone(async {
        let log = written(false).await;
        let disk = log.disk.crashed(Crash::KeepAll);
        heddle_types::Device::remove(&disk, SEGMENTS[0]).await.unwrap();
        // The second one alone begins later, and what needs earlier records says so.
        let mut recovery = Recovery::open(disk.clone(), DIRECTORY, CONFIG).await.unwrap();
        let batch = recovery.next_batch().await.unwrap();
        assert!(batch.is_some_and(|batch| batch.records().next().unwrap().lsn > Lsn(1)));
        let (_, report) = recovery.finish().await.unwrap();
        assert!(matches!(report.check_covers(Lsn(0)), Err(WalError::Missing { .. })));
    });
}
