//! Tests of the log on a disk that loses, tears and fails.

mod damage;
mod faults;
mod space;

use std::collections::BTreeMap;
use std::pin::pin;

use futures::executor::block_on;
use futures::future::{Either, join_all, select};
use heddle_sim::{Crash, Random, SimDisk};
use heddle_types::{Hlc, Lsn, NodeId, ShardId, Stamp};

use super::{RecordKind, RecoveryReport, Wal, WalConfig, WalError};

/// Small enough to fill several segments in a test.
const SMALL: WalConfig = WalConfig { segment_bytes: 16 << 10, backlog_bytes_max: 64 << 10 };
const DIRECTORY: &str = "logs/0000";

/// What a record should be, owned.
type Written = (ShardId, RecordKind, Stamp, Vec<u8>);

/// A record that follows from its seed alone.
fn record(seed: u64) -> Written {
    let mut random = Random::new(seed);
    let length = match random.below(8) {
        0 => 0,
        1 => random.below(5_000),
        _ => random.below(300),
    };
    let kind = if random.one_in(4) { RecordKind::Delete } else { RecordKind::Put };
    let node = NodeId::default();
    let stamp = Stamp { hlc: Hlc(random.next_u64()), boot: 1, core: 2, node };
    (ShardId(random.below(9)), kind, stamp, random.bytes(usize::try_from(length).unwrap()))
}

fn append(wal: &Wal<SimDisk>, written: &Written) -> Result<Lsn, WalError> {
    let (shard, kind, stamp, payload) = written;
    // In two parts: what counts is their concatenation.
    let (front, back) = payload.split_at(payload.len() / 3);
    wal.append(*shard, *kind, stamp, &[front, back])
}

/// Waits for room as writers do.
async fn append_patiently(wal: &Wal<SimDisk>, written: &Written) -> Result<Lsn, WalError> {
    loop {
        wal.room().await;
        match append(wal, written) {
            Err(WalError::Backlog { .. }) => {}
            result => return result,
        }
    }
}

type Recovered = (Wal<SimDisk>, RecoveryReport, BTreeMap<Lsn, Written>);

async fn recover(disk: &SimDisk) -> Result<Recovered, WalError> {
    recover_with(disk, SMALL).await
}

async fn recover_with(disk: &SimDisk, config: WalConfig) -> Result<Recovered, WalError> {
    let mut found: BTreeMap<Lsn, Written> = BTreeMap::new();
    let mut sink = |record: super::Record<'_>| {
        let last = found.keys().next_back().copied();
        assert!(last.is_none_or(|last| last.0 + 1 == record.lsn.0), "records come in order");
        let written = (record.shard, record.kind, record.stamp, record.payload.to_vec());
        found.insert(record.lsn, written);
        Ok(())
    };
    let (wal, report) = Wal::recover(disk.clone(), DIRECTORY, config, &mut sink).await?;
    assert_eq!(report.records, found.len() as u64);
    assert_eq!(report.next_lsn, wal.next_lsn());
    assert_eq!(found.keys().next().copied().unwrap_or(report.next_lsn), report.first_lsn);
    Ok((wal, report, found))
}

/// Runs the flusher beside `work`; ends with `work`, or with the log's failure.
async fn beside_flusher<T>(wal: &Wal<SimDisk>, work: impl Future<Output = T>) -> T {
    let run = pin!(wal.run());
    let work = pin!(work);
    match select(run, work).await {
        Either::Left((_failure, work)) => work.await,
        Either::Right((done, _)) => done,
    }
}

/// Appends records `seeds`, each durable before the next `together` are appended.
async fn write_all(wal: &Wal<SimDisk>, seeds: std::ops::Range<u64>, together: usize) {
    beside_flusher(wal, async {
        for seeds in seeds.collect::<Vec<_>>().chunks(together) {
            let mut last = Lsn(0);
            for seed in seeds {
                last = append_patiently(wal, &record(*seed)).await.unwrap();
            }
            wal.durable(last).await.unwrap();
        }
    })
    .await;
}

/// Checks that records `1..` are exactly those of the seeds, in order.
fn assert_records(found: &BTreeMap<Lsn, Written>, seeds: std::ops::Range<u64>) {
    assert_eq!(found.len() as u64, seeds.end - seeds.start);
    for ((lsn, written), seed) in found.iter().zip(seeds) {
        assert_eq!(*written, record(seed), "record {lsn}");
    }
}

#[test]
fn records_come_back_after_a_restart_in_order_and_over_many_segments() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, report, found) = recover(&disk).await.unwrap();
        assert!(found.is_empty());
        assert_eq!((report.first_lsn, report.next_lsn), (Lsn(1), Lsn(1)));
        write_all(&wal, 0..200, 3).await;
        assert!(wal.stats().segments > 3, "{:?}", wal.stats());
        assert_eq!(wal.durable_lsn(), Lsn(200));
        drop(wal);
        let disk = disk.crashed(Crash::LoseUnsynced);
        let (wal, report, found) = recover(&disk).await.unwrap();
        assert_records(&found, 0..200);
        assert_eq!(report.cut, None);
        write_all(&wal, 200..300, 7).await;
        let (_, report, found) = recover(&disk.crashed(Crash::LoseUnsynced)).await.unwrap();
        assert_records(&found, 0..300);
        assert_eq!(report.next_lsn, Lsn(301));
    });
}

#[test]
fn a_restart_without_new_records_changes_nothing_and_uses_no_more_space() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        write_all(&wal, 0..20, 3).await;
        let (_, _, found) = recover(&disk).await.unwrap();
        assert_records(&found, 0..20);
        let used = disk.used_bytes();
        for _ in 0..5 {
            let (_, report, found) = recover(&disk).await.unwrap();
            assert_records(&found, 0..20);
            assert_eq!(report.next_lsn, Lsn(21));
            assert_eq!(disk.used_bytes(), used);
        }
    });
}

#[test]
fn concurrent_writers_share_syncs() {
    block_on(async {
        let disk = SimDisk::new(1);
        let config = WalConfig { segment_bytes: 4 << 20, backlog_bytes_max: 1 << 20 };
        let (wal, _, _) = recover_with(&disk, config).await.unwrap();
        let writer = async |index: u64| {
            for round in 0..10 {
                let lsn = append(&wal, &record(index * 10 + round)).unwrap();
                wal.durable(lsn).await.unwrap();
                assert!(wal.durable_lsn() >= lsn);
            }
        };
        beside_flusher(&wal, join_all((0..500).map(writer))).await;
        let stats = wal.stats();
        assert_eq!(stats.records, 5_000);
        assert!(stats.syncs <= 40, "5,000 records of 500 writers took {} syncs", stats.syncs);
        assert_eq!(stats.batch_records.iter().sum::<u64>(), stats.batches);
        assert_eq!((stats.backlog_bytes, stats.durable_lsn), (0, Lsn(5_000)));
    });
}

#[test]
fn nothing_is_durable_before_its_sync() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        let lsn = append(&wal, &record(1)).unwrap();
        assert_eq!((lsn, wal.durable_lsn()), (Lsn(1), Lsn(0)));
        let syncs = disk.syncs();
        beside_flusher(&wal, wal.durable(lsn)).await.unwrap();
        assert!(disk.syncs() > syncs);
        let (_, _, found) = recover(&disk.crashed(Crash::LoseUnsynced)).await.unwrap();
        assert_eq!(found.len(), 1);
    });
}

#[test]
fn the_backlog_is_bounded_and_room_comes_back() {
    block_on(async {
        let disk = SimDisk::new(1);
        let config = WalConfig { segment_bytes: 1 << 20, backlog_bytes_max: 10_000 };
        let (wal, _, _) = recover_with(&disk, config).await.unwrap();
        let written = (ShardId(1), RecordKind::Put, Stamp::default(), vec![1; 1_000]);
        let accepted = (0..100).take_while(|_| append(&wal, &written).is_ok()).count();
        assert_eq!(accepted, 10, "ten records of 1,064 bytes pass the limit");
        let refused = append(&wal, &written);
        assert!(matches!(refused, Err(WalError::Backlog { backlog_bytes }) if backlog_bytes > 0));
        beside_flusher(&wal, wal.room()).await;
        append(&wal, &written).unwrap();
    });
}

#[test]
fn a_record_that_fits_no_segment_is_refused_and_the_largest_one_fits() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        let limit = 12 * 1024 - 128;
        let large = |bytes| (ShardId(1), RecordKind::Put, Stamp::default(), vec![7; bytes]);
        let refused = append(&wal, &large(limit + 1));
        assert_eq!(refused, Err(WalError::TooLarge { found: limit + 1, limit }));
        beside_flusher(&wal, async {
            for _ in 0..3 {
                append_patiently(&wal, &large(limit)).await.unwrap();
            }
            wal.durable(Lsn(3)).await.unwrap();
        })
        .await;
        let (_, _, found) = recover(&disk).await.unwrap();
        assert_eq!(found.len(), 3);
        assert!(found.values().all(|(.., payload)| payload.len() == limit));
    });
}

#[test]
fn strange_files_are_left_alone_and_temporary_ones_removed() {
    block_on(async {
        let disk = SimDisk::new(1);
        for name in ["notes.txt", "1.wal", "00000000001.wal", "0000000001.wal.tmp", "x.wal.tmp"] {
            disk.plant_file(&format!("{DIRECTORY}/{name}"), b"not a log".to_vec());
        }
        let (_, report, _) = recover(&disk).await.unwrap();
        assert_eq!(report.foreign, ["00000000001.wal", "1.wal", "notes.txt"]);
        assert_eq!(report.removed, ["0000000001.wal.tmp", "x.wal.tmp"]);
        assert_eq!(disk.files().len(), 4, "{:?}", disk.files());
    });
}

#[test]
fn a_checkpoint_beyond_the_log_or_before_it_is_noticed() {
    let report = |first, next| RecoveryReport {
        first_lsn: Lsn(first),
        next_lsn: Lsn(next),
        ..RecoveryReport::default()
    };
    for covers in 4..=9 {
        assert_eq!(report(5, 10).check_covers(Lsn(covers)), Ok(()), "covers {covers}");
    }
    for covers in [0, 3, 10, 11] {
        let missing = report(5, 10).check_covers(Lsn(covers));
        assert!(matches!(missing, Err(WalError::Missing { .. })), "covers {covers}");
    }
    assert_eq!(report(1, 1).check_covers(Lsn(0)), Ok(()));
}

/// Lets other tasks run once.
async fn turn() {
    let mut waited = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut waited, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[test]
fn of_segments_that_are_followed_by_others_only_what_was_written_is_read() {
    block_on(async {
        const LIVES: u64 = 12;
        let config = WalConfig { segment_bytes: 4 << 20, backlog_bytes_max: 64 << 10 };
        let mut disk = SimDisk::new(1);
        for life in 0..LIVES {
            let (wal, _, found) = recover_with(&disk, config).await.unwrap();
            assert_records(&found, 0..life * 3);
            write_all(&wal, life * 3..life * 3 + 3, 1).await;
            drop(wal);
            disk = disk.crashed(Crash::Random(life));
        }
        let (_, report, found) = recover_with(&disk, config).await.unwrap();
        assert_records(&found, 0..LIVES * 3);
        assert_eq!(report.segments as u64, LIVES);
        // The last segment and the spare one are searched to their ends; of the others a start
        // reads a window.
        let most = 2 * config.segment_bytes + LIVES * (300 << 10);
        assert!(disk.bytes_read() <= most, "{} bytes were read", disk.bytes_read());
    });
}

#[test]
fn a_file_name_that_counts_beyond_belief_is_no_segment() {
    use super::segments::segment_number;
    assert_eq!(segment_number("0000000007.wal"), Some(7));
    assert_eq!(segment_number("9223372036854775807.wal"), Some(u64::MAX >> 1));
    assert_eq!(segment_number("18446744073709551615.wal"), None);
}
