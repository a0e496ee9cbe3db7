//! One script of 500 operations, crashed after each of its effects and failed at each of its steps.
//!
//! The script puts, deletes, flushes, compacts, checkpoints, rotates and releases. Its disk is cut
//! at every change; what the drive had not synced is lost whole, kept whole, lost one effect at a
//! time, or torn one effect at a time; and the start after that is cut at every change again.
//! Each start must find the operations up to some position at or after the last acknowledged one.
//! `HEDDLE_EXHAUSTIVE=1` takes every point, otherwise one in [`STRIDE`].

use super::*;

const OPERATIONS: usize = 500;
/// Points from one that is looked at to the next in the quick run: a prime, so that it falls into
/// step with nothing.
const STRIDE: u64 = 31;

fn stride() -> u64 {
    if std::env::var_os("HEDDLE_EXHAUSTIVE").is_some() { 1 } else { STRIDE }
}

async fn script(store: &mut Store, history: &RefCell<History>) -> Option<()> {
    let mut random = Random::new(500);
    let mut left = OPERATIONS;
    while left > 0 {
        let count = left.min(1 + usize::try_from(random.below(4)).expect("a small number"));
        let operations = (0..count).map(|_| operation(&mut random)).collect();
        store.write(operations, history).await?;
        left -= count;
        match random.below(12) {
            0 => store.compact().await?,
            1 => store.checkpoint().await?,
            _ => {}
        }
    }
    Some(())
}

/// The script on a fresh disk; `None` when a fault ended it.
async fn run_script(disk: &SimDisk, history: &RefCell<History>) -> Option<()> {
    let mut store = Store::open(disk).await?;
    let wal = store.wal.clone();
    let run = pin!(wal.run());
    let work = pin!(script(&mut store, history));
    match select(run, work).await {
        Either::Left((failure, work)) => {
            pass(&failure);
            work.await
        }
        Either::Right((done, _)) => done,
    }
}

/// Opens what a crash left and compares it with the history.
async fn start(disk: &SimDisk, history: &History) -> Option<()> {
    let history = RefCell::new(history.clone());
    Store::open(disk).await?.check(&history).await
}

/// A fresh disk whose script met a fault, and what it had acknowledged.
async fn faulted(plan: impl FnOnce(&SimDisk)) -> (SimDisk, History, bool) {
    let disk = SimDisk::new(1);
    plan(&disk);
    let history = RefCell::default();
    let finished = run_script(&disk, &history).await.is_some();
    (disk, history.into_inner(), finished)
}

/// What a power cut may leave of a disk.
fn outcomes(disk: &SimDisk) -> Vec<Crash> {
    let unsynced = disk.unsynced();
    let mut outcomes = vec![Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData];
    outcomes.extend((0..unsynced).map(Crash::Without));
    outcomes.extend((0..unsynced).map(Crash::Torn));
    outcomes
}

#[test]
fn a_crash_after_any_effect_of_the_script_keeps_what_was_acknowledged() {
    let (mut points, mut starts) = (0, 0);
    block_on(async {
        for at in (1..).step_by(usize::try_from(stride()).expect("a small number")) {
            let (disk, history, finished) =
                faulted(|disk| disk.fail_change(at, Fault::PowerCut)).await;
            if finished {
                break;
            }
            points += 1;
            for crash in outcomes(&disk) {
                starts += 1;
                let started = start(&disk.crashed(crash), &history).await;
                assert!(started.is_some(), "change {at}, {crash:?}: the start failed");
            }
        }
    });
    println!("{points} crash points, {starts} starts after them");
    assert!(points * stride() >= 1_000, "the script has {points} points only");
}

#[test]
fn a_second_crash_at_any_effect_of_the_start_keeps_it_too() {
    let (mut points, mut starts) = (0, 0);
    block_on(async {
        // Every third effect: the first crash need not fall everywhere for the second one to.
        for at in (1..).step_by(3 * usize::try_from(stride()).expect("a small number")) {
            let (disk, history, finished) =
                faulted(|disk| disk.fail_change(at, Fault::PowerCut)).await;
            if finished {
                break;
            }
            for first in [Crash::LoseUnsynced, Crash::KeepAll] {
                for second in 1.. {
                    let recovering = disk.crashed(first);
                    recovering.fail_change(second, Fault::PowerCut);
                    if start(&recovering, &history).await.is_some() {
                        assert!(recovering.changes() < second, "a fault went unnoticed");
                        break;
                    }
                    points += 1;
                    for crash in outcomes(&recovering) {
                        starts += 1;
                        let started = start(&recovering.crashed(crash), &history).await;
                        let place = format!("change {at}, {first:?}, then {second}, {crash:?}");
                        assert!(started.is_some(), "{place}: the start failed");
                    }
                }
            }
        }
    });
    println!("{points} second crash points, {starts} starts after them");
    assert!(points * stride() >= 2_000, "{points} second points only");
}

#[test]
fn any_step_of_the_script_may_fail() {
    let mut failures = 0;
    block_on(async {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
            for at in (1..).step_by(usize::try_from(stride()).expect("a small number")) {
                let (disk, history, _) = faulted(|disk| disk.fail_operation(at, fault)).await;
                for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(at)] {
                    let started = start(&disk.crashed(crash), &history).await;
                    assert!(started.is_some(), "operation {at}, {fault:?}, {crash:?}");
                }
                if disk.operations() < at {
                    break;
                }
                failures += 1;
            }
        }
    });
    println!("{failures} failed operations");
    assert!(failures * stride() >= 3_000, "the script has {failures} operations only");
}
