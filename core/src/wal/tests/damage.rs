//! Damaged logs: never a wrong record, never a panic, never a silent loss of what was durable.

use std::collections::BTreeMap;

use super::super::fuzz::recover_bytes;
use super::*;

const SEGMENTS: [&str; 2] = ["logs/0000/0000000001.wal", "logs/0000/0000000002.wal"];

/// A log of two segments with `records` records, each batch durable.
async fn two_segments(sealed: bool) -> (SimDisk, u64) {
    let disk = SimDisk::new(1);
    disk.set_latency_turns_max(0);
    let (wal, _, _) = recover(&disk).await.unwrap();
    let mut records = 0;
    while disk.files().len() < 3 {
        write_all(&wal, records..records + 1, 1).await;
        records += 1;
    }
    write_all(&wal, records..records + 1, 1).await;
    records += 1;
    if sealed {
        beside_flusher(&wal, wal.seal()).await.unwrap();
    }
    // The spare segment tells nothing.
    for path in disk.files().iter().filter(|path| !SEGMENTS.contains(&path.as_str())) {
        heddle_types::Device::remove(&disk, path).await.unwrap();
    }
    (disk.crashed(Crash::KeepAll), records)
}

/// The records of the log with one file replaced, or the refusal.
async fn with_file(disk: &SimDisk, path: &str, bytes: Vec<u8>) -> Result<Recovered, WalError> {
    let copy = disk.crashed(Crash::KeepAll);
    copy.plant_file(path, bytes);
    let recovered = recover(&copy).await;
    let files = copy.files();
    let largest = files.iter().filter_map(|path| copy.file_bytes(path)).map(|file| file.len());
    assert!(copy.largest_read_bytes() <= largest.max().unwrap_or(0).max(4096));
    recovered
}

#[test]
fn bytes_cut_anywhere_give_a_prefix() {
    let (disk, records) = block_on(two_segments(false));
    let mut total = 0;
    for path in SEGMENTS {
        let bytes = disk.file_bytes(path).unwrap();
        let whole = recover_bytes(&bytes, &mut |_| {});
        for length in 0..=bytes.len() {
            let mut seed = total;
            let mut check = |found: super::super::Record<'_>| {
                let (shard, kind, stamp, payload) = record(seed);
                assert_eq!((found.shard, found.kind, found.stamp), (shard, kind, stamp));
                assert_eq!(found.payload, payload);
                seed += 1;
            };
            let count = recover_bytes(&bytes[..length], &mut check);
            assert!(count <= whole);
            assert_eq!(count, seed - total);
        }
        total += whole;
    }
    assert_eq!(total, records);
}

#[test]
fn a_shortened_segment_is_noticed_at_every_length() {
    block_on(async {
        let (disk, records) = two_segments(false).await;
        for path in SEGMENTS {
            let bytes = disk.file_bytes(path).unwrap();
            for length in 0..bytes.len() {
                match with_file(&disk, path, bytes[..length].to_vec()).await {
                    Err(WalError::Corrupt { file, .. }) => assert_eq!(file, path),
                    Err(error) => panic!("length {length}: {error}"),
                    // All that is missing is the blank end, as the second segment proves.
                    Ok((_, _, found)) => {
                        assert_eq!(path, SEGMENTS[0], "length {length}");
                        assert_records(&found, 0..records);
                    }
                }
            }
        }
    });
}

/// Flips every sixteenth bit, a different sixteenth of each byte group.
async fn flip_bits(sealed: bool, mut check: impl FnMut(usize, Result<Recovered, WalError>)) {
    let (disk, _) = two_segments(sealed).await;
    for (index, path) in SEGMENTS.into_iter().enumerate() {
        let bytes = disk.file_bytes(path).unwrap();
        let mut random = Random::new(7);
        for group in 0..bytes.len() / 2 {
            let bit = group * 16 + usize::try_from(random.below(16)).unwrap();
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            check(index, with_file(&disk, path, damaged).await);
        }
    }
}

#[test]
fn a_flipped_bit_of_a_sealed_log_is_harmless_or_refused() {
    let (_, records) = block_on(two_segments(true));
    let (mut harmless, mut refused) = (0, 0);
    block_on(flip_bits(true, |_, recovered| match recovered {
        Ok((_, _, found)) => {
            assert_records(&found, 0..records);
            harmless += 1;
        }
        Err(WalError::Corrupt { .. }) => refused += 1,
        Err(error) => panic!("{error}"),
    }));
    println!("{harmless} flips in padding, {refused} refused");
    assert!(harmless > 0 && refused > 1_000);
}

#[test]
fn a_flipped_bit_of_an_unsealed_log_can_cost_the_last_batch_alone() {
    let (_, records) = block_on(two_segments(false));
    let mut cut = 0;
    block_on(flip_bits(false, |segment, recovered| match recovered {
        Ok((_, _, found)) if found.len() as u64 == records => assert_records(&found, 0..records),
        Ok((_, report, found)) => {
            assert_eq!(segment, 1, "the first segment is vouched for by the second");
            assert_records(&found, 0..records - 1);
            assert_eq!(report.next_lsn, Lsn(records));
            cut += 1;
        }
        Err(WalError::Corrupt { .. }) => {}
        Err(error) => panic!("{error}"),
    }));
    assert!(cut > 0, "the last batch was never hit");
}

#[test]
fn a_missing_segment_is_refused_when_records_are_missing() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        write_all(&wal, 0..150, 2).await;
        let files = disk.files();
        let inner = &files[1..files.len() - 2];
        assert!(inner.len() > 1, "{files:?}");
        for missing in inner {
            let copy = disk.crashed(Crash::KeepAll);
            heddle_types::Device::remove(&copy, missing).await.unwrap();
            let refused = recover(&copy).await.err();
            assert!(matches!(refused, Some(WalError::Corrupt { .. })), "{missing}: {refused:?}");
        }
        // The first one is what a release removes: the log begins later, and says so.
        let copy = disk.crashed(Crash::KeepAll);
        heddle_types::Device::remove(&copy, &files[0]).await.unwrap();
        let (_, report, _) = recover(&copy).await.unwrap();
        assert!(report.first_lsn > Lsn(1) && report.check_covers(Lsn(0)).is_err());
    });
}

#[test]
fn sectors_missing_from_the_last_batch_cut_it_whole() {
    block_on(async {
        let disk = SimDisk::new(1);
        disk.set_latency_turns_max(0);
        let config = WalConfig { segment_bytes: 32 << 10, ..SMALL };
        let (wal, _, _) = recover_with(&disk, config).await.unwrap();
        write_all(&wal, 0..10, 5).await;
        let path = SEGMENTS[0];
        let before = disk.file_bytes(path).unwrap();
        write_all(&wal, 10..30, 20).await;
        let after = disk.file_bytes(path).unwrap();
        // Sectors that the last batch changed; each subset of up to three is lost, in three ways.
        let changed: Vec<usize> = (0..after.len() / 512)
            .filter(|sector| before[sector * 512..][..512] != after[sector * 512..][..512])
            .collect();
        assert!(changed.len() >= 6, "{} sectors changed", changed.len());
        let mut random = Random::new(3);
        for first in 0..changed.len() {
            for second in first..changed.len() {
                let third = usize::try_from(random.below(changed.len() as u64)).unwrap();
                for filler in 0..3 {
                    let mut damaged = after.clone();
                    for index in [first, second, third] {
                        let start = changed[index] * 512;
                        let content = match filler {
                            0 => vec![0; 512],
                            1 => before[start..start + 512].to_vec(),
                            _ => random.bytes(512),
                        };
                        damaged[start..start + 512].copy_from_slice(&content);
                    }
                    let copy = disk.crashed(Crash::KeepAll);
                    copy.plant_file(path, damaged);
                    let (_, report, found) = recover_with(&copy, config).await.unwrap();
                    let whole = if found.len() == 30 { 30 } else { 10 };
                    assert_records(&found, 0..whole);
                    assert_eq!(report.next_lsn, Lsn(whole + 1));
                }
            }
        }
    });
}

/// Every record of a log whatever its damage, and the losses.
async fn recover_leniently(
    disk: &SimDisk,
    config: WalConfig,
) -> (BTreeMap<u64, Written>, Vec<super::super::Loss>) {
    let mut recovery = super::super::Recovery::open(disk.clone(), DIRECTORY, config).await.unwrap();
    let mut found = BTreeMap::new();
    while let Some(batch) = recovery.next_batch().await.unwrap() {
        for record in batch.records() {
            let written = (record.shard, record.kind, record.stamp, record.payload.to_vec());
            assert!(found.insert(record.lsn.0, written).is_none());
        }
    }
    let losses = recovery.damage().iter().flat_map(|damage| damage.losses.clone()).collect();
    (found, losses)
}

#[test]
fn a_torn_batch_of_an_earlier_life_is_never_taken_for_a_damaged_one_behind_it() {
    // Both have the same positions and as many records, but only the later one was acknowledged.
    block_on(async {
        let disk = SimDisk::new(1);
        disk.set_latency_turns_max(0);
        let config = WalConfig { segment_bytes: 64 << 10, ..SMALL };
        let (wal, _, _) = recover_with(&disk, config).await.unwrap();
        write_all(&wal, 0..6, 3).await;
        beside_flusher(&wal, async {
            while wal.stats().segments < 2 {
                turn().await;
            }
        })
        .await;
        disk.fail_change(disk.changes() + 2, heddle_sim::Fault::PowerCut);
        for seed in 100..120 {
            append(&wal, &record(seed)).unwrap();
        }
        assert!(beside_flusher(&wal, wal.durable(Lsn(26))).await.is_err());
        assert_eq!(disk.unsynced(), 1, "the write of the batch");
        let disk = disk.crashed(Crash::Torn(0));
        let (wal, report, _) = recover_with(&disk, config).await.unwrap();
        assert!(report.cut.is_some() && report.next_lsn == Lsn(7), "{report:?}");
        write_all(&wal, 200..220, 20).await;
        write_all(&wal, 220..223, 1).await;
        let path = "logs/0000/0000000003.wal";
        let bytes = disk.file_bytes(path).unwrap();
        let seed_of = |lsn: u64| if lsn <= 6 { lsn - 1 } else { lsn + 193 };
        // The header alone, which costs nothing; and the whole batch.
        let mut flipped = bytes.clone();
        flipped[4096 + 20] ^= 1;
        let mut wiped = bytes.clone();
        let is_header = |at: &usize| bytes[at + 4..at + 8] == *b"HBAT";
        let behind = (2 * 4096..bytes.len()).step_by(4096).find(is_header).unwrap();
        wiped[4096..behind].fill(0);
        for (damaged, count) in [(flipped, 29), (wiped, 9)] {
            let copy = disk.crashed(Crash::KeepAll);
            copy.plant_file(path, damaged);
            let (found, losses) = recover_leniently(&copy, config).await;
            assert_eq!(found.len(), count);
            for (lsn, written) in &found {
                assert_eq!(*written, record(seed_of(*lsn)), "record {lsn}");
            }
            let lost: u64 = losses.iter().map(|loss| loss.last.0 - loss.first.0 + 1).sum();
            assert_eq!(lost, 29 - count as u64);
        }
    });
}

#[test]
fn lengths_that_lie_under_a_valid_checksum_lead_nowhere() {
    use super::super::format::{BatchHeader, SegmentHeader};
    block_on(async {
        let (disk, _) = two_segments(false).await;
        let bytes = disk.file_bytes(SEGMENTS[1]).unwrap();
        let key = SegmentHeader::decode(&bytes).unwrap().key;
        let batch = BatchHeader::decode(&bytes[4096..], key, 4096, 12 << 10).unwrap();
        let lies = [
            BatchHeader { body_bytes: u32::MAX, ..batch },
            BatchHeader { body_bytes: 12 << 10, ..batch },
            BatchHeader { record_count: u32::MAX, ..batch },
            BatchHeader { first_lsn: Lsn(u64::MAX), ..batch },
            BatchHeader { first_lsn: Lsn(0), ..batch },
            BatchHeader { durable: Lsn(u64::MAX), ..batch },
        ];
        for lie in lies {
            let mut damaged = bytes.clone();
            damaged[4096..4096 + 64].copy_from_slice(&lie.encode(key));
            recover_bytes(&damaged, &mut |_| {});
            // Whether it is refused depends on what follows; it must not be followed.
            if let Ok((_, _, found)) = with_file(&disk, SEGMENTS[1], damaged).await {
                let expected: BTreeMap<Lsn, Written> =
                    (1..=found.len() as u64).map(|lsn| (Lsn(lsn), record(lsn - 1))).collect();
                assert_eq!(found, expected);
            }
        }
    });
}

#[test]
fn arbitrary_bytes_are_an_error_not_a_panic() {
    block_on(async {
        let (disk, records) = two_segments(true).await;
        let bytes = disk.file_bytes(SEGMENTS[1]).unwrap();
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(8) {
                let start = usize::try_from(random.below(damaged.len() as u64)).unwrap();
                let length = usize::try_from(random.below(600)).unwrap();
                let end = damaged.len().min(start + length);
                let content = random.bytes(end - start);
                damaged[start..end].copy_from_slice(&content);
            }
            recover_bytes(&damaged, &mut |_| {});
            recover_bytes(&random.bytes(20_000), &mut |_| {});
            if let Ok((_, _, found)) = with_file(&disk, SEGMENTS[1], damaged).await {
                let count = found.len() as u64;
                assert!(count <= records, "seed {seed}");
                assert_records(&found, 0..count);
            }
        }
    });
}

#[test]
fn every_unreadable_segment_in_a_row_is_kept_and_counts() {
    // Only the last one of them was kept: a start removed the others, with whatever could have been
    // saved out of them by hand.
    block_on(async {
        let disk = SimDisk::new(1);
        disk.set_latency_turns_max(0);
        let (wal, _, _) = recover(&disk).await.unwrap();
        write_all(&wal, 0..150, 2).await;
        let files = disk.files();
        let holding = &files[..files.len() - 1];
        assert!(holding.len() >= 6, "{files:?}");
        // In the middle, where a whole segment says that records are missing; and at the end.
        for (bad, is_end) in [(1..4, false), (3..holding.len(), true)] {
            let copy = disk.crashed(Crash::KeepAll);
            if is_end {
                heddle_types::Device::remove(&copy, &files[holding.len()]).await.unwrap();
            }
            for (seed, path) in (0..).zip(&holding[bad.clone()]) {
                let bytes = Random::new(seed).bytes(disk.file_bytes(path).unwrap().len());
                copy.plant_file(path, bytes);
            }
            for _ in 0..3 {
                let recovery = super::super::Recovery::open(copy.clone(), DIRECTORY, SMALL).await;
                let (_, report) = recovery.unwrap().finish().await.unwrap();
                let lost: u64 = report.damage.iter().map(|damage| damage.lost_records()).sum();
                let fitting = SMALL.segment_bytes / 64 * bad.len() as u64;
                assert!(lost > 0 && (!is_end || lost > fitting), "{bad:?}: {report:?}");
                let kept = copy.files();
                assert!(holding.iter().all(|path| kept.contains(path)), "{bad:?}: {kept:?}");
            }
        }
    });
}
