//! Crashes and failures at every operation: what was acknowledged is there, nothing else appears.

use std::cell::RefCell;

use heddle_sim::Fault;

use super::*;

/// What a life of the log did, as far as it got.
#[derive(Default)]
struct History {
    /// Everything appended, by position.
    appended: BTreeMap<Lsn, Written>,
    /// The last record acknowledged.
    acknowledged: Lsn,
    /// Everything below may be gone.
    released: Lsn,
}

/// One life: recovers, checks the past, appends, acknowledges, releases. Stops at the first error.
async fn live(disk: &SimDisk, history: &RefCell<History>, seed: u64) -> Result<(), WalError> {
    let (wal, _, found) = recover(disk).await?;
    check(&found, &wal, history);
    history.borrow_mut().appended.split_off(&wal.next_lsn());
    beside_flusher(&wal, async {
        for round in 0..8 {
            let mut last = Lsn(0);
            for index in 0..3 {
                let written = record(seed * 100 + round * 10 + index);
                last = append_patiently(&wal, &written).await?;
                history.borrow_mut().appended.insert(last, written);
            }
            if round % 3 != 1 {
                wal.durable(last).await?;
                history.borrow_mut().acknowledged = last;
            }
            if round == 5 {
                let below = Lsn(last.0 - 6);
                history.borrow_mut().released = below;
                wal.release(below).await?;
            }
        }
        wal.seal().await
    })
    .await?;
    let mut history = history.borrow_mut();
    history.acknowledged = wal.durable_lsn();
    Ok(())
}

fn check(found: &BTreeMap<Lsn, Written>, wal: &Wal<SimDisk>, history: &RefCell<History>) {
    let history = history.borrow();
    for (lsn, written) in found {
        assert_eq!(Some(written), history.appended.get(lsn), "record {lsn} was never written");
    }
    assert!(wal.next_lsn() > history.acknowledged, "an acknowledged record is lost");
    let first = found.keys().next().copied().unwrap_or(wal.next_lsn());
    assert!(first.0 <= history.released.0.max(1), "record {first} is the first");
}

/// A disk with a first life behind it, and its history.
async fn after_first_life() -> (SimDisk, RefCell<History>) {
    let disk = SimDisk::new(1);
    disk.set_latency_turns_max(0);
    let history = RefCell::default();
    live(&disk, &history, 1).await.unwrap();
    (disk.crashed(Crash::LoseUnsynced), history)
}

fn crashes(seed: u64) -> [Crash; 6] {
    let random = |salt| Crash::Random(seed * 16 + salt);
    [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData, random(0), random(1)]
}

#[test]
fn a_crash_after_any_change_loses_nothing_acknowledged() {
    block_on(async {
        let mut at = 1;
        loop {
            let (disk, history) = after_first_life().await;
            disk.fail_change(at, Fault::PowerCut);
            let finished = live(&disk, &history, 2).await.is_ok();
            for crash in crashes(at) {
                let crashed = disk.crashed(crash);
                let copy = RefCell::new(History { ..copy_of(&history) });
                live(&crashed, &copy, 3).await.unwrap_or_else(|error| {
                    panic!("change {at}, {crash:?}: {error}");
                });
                let (wal, _, found) = recover(&crashed).await.unwrap();
                check(&found, &wal, &copy);
            }
            if finished {
                break;
            }
            at += 1;
        }
        assert!(at > 40, "a life has {at} changes only");
    });
}

fn copy_of(history: &RefCell<History>) -> History {
    let history = history.borrow();
    History {
        appended: history.appended.clone(),
        acknowledged: history.acknowledged,
        released: history.released,
    }
}

#[test]
fn a_second_crash_during_recovery_loses_nothing_either() {
    block_on(async {
        for at in (1..60).step_by(3) {
            let (disk, history) = after_first_life().await;
            disk.fail_change(at, Fault::PowerCut);
            drop(live(&disk, &history, 2).await);
            for crash in crashes(at) {
                let crashed = disk.crashed(crash);
                let mut second = 1;
                loop {
                    let recovering = crashed.crashed(Crash::KeepAll);
                    recovering.fail_change(second, Fault::PowerCut);
                    let finished = recover(&recovering).await.is_ok();
                    for crash in crashes(at * 100 + second) {
                        let (wal, _, found) = recover(&recovering.crashed(crash)).await.unwrap();
                        check(&found, &wal, &history);
                    }
                    if finished {
                        break;
                    }
                    second += 1;
                }
                assert!(second > 3, "recovery has {second} changes only");
            }
        }
    });
}

#[test]
fn any_operation_may_fail_and_the_next_start_has_all_that_was_acknowledged() {
    block_on(async {
        for fault in [Fault::Io, Fault::Short, Fault::NoSpace] {
            let mut at = 1;
            loop {
                let (disk, history) = after_first_life().await;
                disk.fail_operation(at, fault);
                let outcome = live(&disk, &history, 2).await;
                for crash in crashes(at) {
                    let (wal, _, found) = recover(&disk.crashed(crash)).await.unwrap();
                    check(&found, &wal, &history);
                }
                if disk.operations() < at {
                    assert_eq!(outcome, Ok(()), "nothing failed");
                    break;
                }
                at += 1;
            }
            assert!(at > 60, "a life has {at} operations only");
        }
    });
}

#[test]
fn a_failed_sync_fails_every_waiter_and_all_later_appends() {
    block_on(async {
        for fault in [Fault::Io, Fault::Short, Fault::NoSpace] {
            let disk = SimDisk::new(1);
            // One segment takes it all, so that nothing is allocated meanwhile.
            let config = WalConfig { segment_bytes: 256 << 10, ..SMALL };
            let (wal, _, _) = recover_with(&disk, config).await.unwrap();
            write_all(&wal, 0..3, 1).await;
            beside_flusher(&wal, async {
                while wal.stats().segments < 2 {
                    turn().await;
                }
            })
            .await;
            let lsns: Vec<Lsn> = (3..6).map(|seed| append(&wal, &record(seed)).unwrap()).collect();
            // With the spare segment made, the next change is the write, then comes the sync.
            disk.fail_change(disk.changes() + 2, fault);
            let waiters = join_all(lsns.iter().map(|lsn| wal.durable(*lsn)));
            let outcome = beside_flusher(&wal, waiters).await;
            assert!(outcome.iter().all(|each| matches!(each, Err(WalError::Failed { .. }))));
            assert!(matches!(append(&wal, &record(9)), Err(WalError::Failed { .. })));
            assert_eq!(wal.durable_lsn(), Lsn(3));
            assert_eq!(wal.durable(Lsn(2)).await, Ok(()));
            wal.room().await;
        }
    });
}

#[test]
fn a_flusher_dropped_with_a_batch_in_flight_has_failed_the_log() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (wal, _, _) = recover(&disk).await.unwrap();
        write_all(&wal, 0..3, 1).await;
        beside_flusher(&wal, async {
            while wal.stats().segments < 2 {
                turn().await;
            }
        })
        .await;
        // Without anything in flight another one takes over.
        write_all(&wal, 3..4, 1).await;
        let lsn = append(&wal, &record(4)).unwrap();
        let begun = disk.changes();
        beside_flusher(&wal, async {
            while disk.changes() == begun {
                turn().await;
            }
        })
        .await;
        assert_eq!(wal.durable_lsn(), Lsn(4), "the batch is not durable yet");
        assert!(matches!(wal.durable(lsn).await, Err(WalError::Failed { .. })));
        assert!(matches!(append(&wal, &record(5)), Err(WalError::Failed { .. })));
        assert!(matches!(wal.run().await, WalError::Failed { .. }));
        let (_, _, found) = recover(&disk.crashed(Crash::LoseUnsynced)).await.unwrap();
        assert_records(&found, 0..4);
    });
}

#[test]
fn random_lives_and_crashes_agree_with_the_history() {
    for seed in 0..150 {
        let result = std::panic::catch_unwind(|| block_on(random_lives(seed)));
        assert!(result.is_ok(), "seed {seed}");
    }
}

async fn random_lives(seed: u64) {
    let mut random = Random::new(seed);
    let mut disk = SimDisk::new(seed);
    let history = RefCell::default();
    for life in 0..6 {
        disk.set_latency_turns_max(random.below(4));
        if !random.one_in(4) {
            disk.fail_change(disk.changes() + 1 + random.below(70), Fault::PowerCut);
        }
        match live(&disk, &history, seed * 1_000 + life).await {
            Ok(()) | Err(WalError::Failed { .. } | WalError::Device(_)) => {}
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        }
        disk = disk.crashed(Crash::Random(random.next_u64()));
    }
}
