//! Segments come and go: full disks, release, reuse.

use heddle_sim::Fault;
use heddle_types::{Device, DeviceError};

use super::super::format::{SegmentHeader, SegmentKey};
use super::super::segments::{Blocks, make_segment};
use super::*;

#[test]
fn a_full_disk_refuses_appends_and_recovers_by_itself() {
    block_on(async {
        let disk = SimDisk::new(1);
        disk.set_space_bytes(3 * SMALL.segment_bytes);
        let (wal, _, _) = recover(&disk).await.unwrap();
        let mut accepted = 0;
        beside_flusher(&wal, async {
            let refused = loop {
                match append_patiently(&wal, &record(accepted)).await {
                    Ok(_) => accepted += 1,
                    Err(refused) => break refused,
                }
            };
            assert_eq!(refused, WalError::Full);
            // What was accepted has its place.
            wal.durable(Lsn(accepted)).await.unwrap();
            for _ in 0..50 {
                wal.room().await;
                assert_eq!(append(&wal, &record(1_000)), Err(WalError::Full));
            }
            disk.set_space_bytes(u64::MAX);
            let mut refusals = 0;
            while append_patiently(&wal, &record(accepted)).await.is_err() {
                refusals += 1;
                assert!(refusals <= 100, "space returned and appends are still refused");
                // Lets the allocator take its turn.
                wal.durable(Lsn(accepted)).await.unwrap();
                crate::wal::tests::turn().await;
            }
            accepted += 1;
            wal.durable(Lsn(accepted)).await.unwrap();
        })
        .await;
        assert!(wal.stats().refused_full >= 51);
        let (_, _, found) = recover(&disk.crashed(Crash::LoseUnsynced)).await.unwrap();
        assert_records(&found, 0..accepted);
    });
}

#[test]
fn a_disk_that_is_full_at_the_start_serves_what_is_there() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        write_all(&wal, 0..30, 3).await;
        let disk = disk.crashed(Crash::LoseUnsynced);
        disk.set_space_bytes(0);
        // The file of the empty spare segment is used again; a second start has none.
        let (wal, _, found) = recover(&disk).await.unwrap();
        assert_records(&found, 0..30);
        write_all(&wal, 30..31, 1).await;
        let (wal, _, found) = recover(&disk).await.unwrap();
        assert_records(&found, 0..31);
        assert_eq!(append(&wal, &record(31)), Err(WalError::Full));
        wal.release(Lsn(20)).await.unwrap();
        beside_flusher(&wal, async {
            while append_patiently(&wal, &record(31)).await.is_err() {
                crate::wal::tests::turn().await;
            }
            wal.durable(Lsn(32)).await.unwrap();
        })
        .await;
    });
}

#[test]
fn released_segments_are_reused_and_positions_go_on() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        for round in 0..20 {
            write_all(&wal, round * 20..(round + 1) * 20, 4).await;
            let durable = wal.durable_lsn();
            wal.release(Lsn(durable.0 + 1)).await.unwrap();
            assert!(wal.stats().segments <= 3, "{:?}", wal.stats());
        }
        assert!(disk.used_bytes() <= 4 * SMALL.segment_bytes, "{:?}", disk.files());
        for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(1)] {
            let (wal, report, found) = recover(&disk.crashed(crash)).await.unwrap();
            assert_eq!((wal.next_lsn(), report.next_lsn), (Lsn(401), Lsn(401)));
            for (lsn, written) in &found {
                assert_eq!(*written, record(lsn.0 - 1));
            }
            assert_eq!(report.check_covers(Lsn(400)), Ok(()));
        }
    });
}

#[test]
fn records_above_the_release_stay() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        write_all(&wal, 0..200, 4).await;
        for below in [0, 1, 50, 120, 200] {
            wal.release(Lsn(below)).await.unwrap();
            let (_, report, found) = recover(&disk.crashed(Crash::LoseUnsynced)).await.unwrap();
            assert!(report.first_lsn.0 <= below.max(1), "{below}: {}", report.first_lsn);
            assert_eq!(found.len() as u64, 201 - report.first_lsn.0);
        }
    });
}

#[test]
fn a_changed_segment_size_applies_to_new_segments_only() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        write_all(&wal, 0..100, 4).await;
        let larger = WalConfig { segment_bytes: 64 << 10, ..SMALL };
        let (wal, _, found) = recover_with(&disk, larger).await.unwrap();
        assert_records(&found, 0..100);
        write_all(&wal, 100..200, 4).await;
        wal.release(Lsn(120)).await.unwrap();
        let (_, report, found) = recover(&disk).await.unwrap();
        assert_eq!(found.len() as u64, 201 - report.first_lsn.0);
        for odd in [0, 4096, 10_000] {
            let config = WalConfig { segment_bytes: odd, ..SMALL };
            let refused = recover_with(&SimDisk::new(1), config).await.err();
            assert_eq!(refused, Some(WalError::SegmentSize { segment_bytes: odd }));
        }
    });
}

#[test]
fn a_release_that_failed_anywhere_goes_on_with_the_next_call() {
    block_on(async {
        for at in 1..=6 {
            for fault in [Fault::Io, Fault::NoSpace] {
                let disk = SimDisk::new(1);
                disk.set_latency_turns_max(0);
                let (wal, _, _) = recover(&disk).await.unwrap();
                write_all(&wal, 0..200, 4).await;
                let before = wal.stats().segments;
                disk.fail_operation(disk.operations() + at, fault);
                let failed = wal.release(Lsn(201)).await;
                assert!(failed.is_err(), "operation {at}");
                let (_, _, found) = recover(&disk.crashed(Crash::Random(at))).await.unwrap();
                assert!(found.contains_key(&Lsn(200)));
                wal.release(Lsn(201)).await.unwrap();
                assert!(wal.stats().segments <= 2, "{before} segments, {:?}", wal.stats());
                write_all(&wal, 200..260, 4).await;
                let (_, _, found) = recover(&disk.crashed(Crash::LoseUnsynced)).await.unwrap();
                assert!(found.contains_key(&Lsn(260)));
            }
        }
    });
}

#[test]
fn a_segment_that_could_not_be_made_leaves_no_file_behind() {
    // The file of a released segment stayed under its temporary name, with all of its blocks, when
    // the disk was too full for its new header.
    block_on(async {
        let header = |number| SegmentHeader {
            key: SegmentKey { log_id: 1, number },
            segment_bytes: SMALL.segment_bytes,
            durable: Lsn(0),
        };
        for is_recycled in [false, true] {
            let mut at = 1;
            loop {
                let disk = SimDisk::new(1);
                disk.create_dir(DIRECTORY).await.unwrap();
                let blocks = if is_recycled {
                    make_segment(&disk, DIRECTORY, header(1), Blocks::New).await.unwrap();
                    let (name, target) = ("0000000001.wal", "0000000001.wal.tmp");
                    let path = |name| format!("{DIRECTORY}/{name}");
                    disk.rename(&path(name), &path(target)).await.unwrap();
                    Blocks::Recycled(path(target))
                } else {
                    Blocks::New
                };
                disk.fail_operation(disk.operations() + at, Fault::NoSpace);
                let made = make_segment(&disk, DIRECTORY, header(2), blocks).await;
                let Err(error) = made else { break };
                assert!(matches!(error, DeviceError::NoSpace { .. }), "operation {at}: {error}");
                let was_opened = at > 1;
                assert!(disk.files().is_empty() || !was_opened, "{at}: {:?}", disk.files());
                assert!(disk.used_bytes() == 0 || !was_opened, "operation {at}");
                at += 1;
            }
            assert!(at >= 5, "{at} operations only");
        }
    });
}

/// Turns the zeros at the end of every segment into holes, as copying a directory may.
fn make_sparse(disk: &SimDisk) {
    for path in disk.files() {
        let bytes = disk.file_bytes(&path).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        disk.punch_hole(&path, written.next_multiple_of(4_096));
    }
}

#[test]
fn a_segment_with_holes_is_never_written_again() {
    // Its file was used again as if it had all of its blocks: records were accepted for it, and on
    // a full disk their write failed, which ends a node.
    for is_spare in [true, false] {
        block_on(async {
            let disk = SimDisk::new(1);
            let (wal, _, _) = recover(&disk).await.unwrap();
            write_all(&wal, 0..200, 3).await;
            let disk = disk.crashed(Crash::KeepAll);
            make_sparse(&disk);
            // With a blank segment the recovery has one for its new tail, without it only release
            // has any.
            let blank: Vec<String> = disk
                .files()
                .into_iter()
                .filter(|path| disk.file_bytes(path).unwrap()[4_096..].iter().all(|it| *it == 0))
                .collect();
            assert!(!blank.is_empty());
            if is_spare {
                disk.set_space_bytes(disk.used_bytes());
            } else {
                for path in &blank {
                    disk.remove(path).await.unwrap();
                }
                disk.set_space_bytes(disk.used_bytes() + 2 * SMALL.segment_bytes);
            }
            let (wal, _, found) = recover(&disk).await.unwrap();
            assert_records(&found, 0..200);
            let mut accepted = 200;
            beside_flusher(&wal, async {
                for _ in 0..3 {
                    let refused = loop {
                        match append_patiently(&wal, &record(accepted)).await {
                            Ok(_) => accepted += 1,
                            Err(refused) => break refused,
                        }
                    };
                    assert_eq!(refused, WalError::Full);
                    // What was accepted has its place.
                    wal.durable(Lsn(accepted)).await.unwrap();
                    wal.release(Lsn(150)).await.unwrap();
                }
            })
            .await;
            assert!(is_spare || accepted > 200);
            let (_, _, found) = recover(&disk.crashed(Crash::LoseUnsynced)).await.unwrap();
            assert!(found.contains_key(&Lsn(accepted)));
        });
    }
}
