//! Replicas under faults: some histories of each kind, and bugs that must be found.
//!
//! `cargo xtask sim` runs many more; it takes the seed that a failure names.

use std::collections::BTreeMap;

use heddle_sim::replicas::{Bug, FaultClass, Mode, Report, Settings, run};

const HISTORIES: u64 = 120;
const ENGINE_HISTORIES: u64 = 4;
/// Bugs that are found this soon are looked for here.
const QUICK_SEEDS: u64 = 12;

fn good(settings: Settings) -> Report {
    let report = run(settings);
    let Settings { seed, mode, .. } = settings;
    assert!(report.violations.is_empty(), "seed {seed}, {mode:?}: {:#?}", report.violations);
    report
}

#[test]
fn replicas_keep_their_promises_under_every_class_of_faults() {
    let mut fired: BTreeMap<FaultClass, u64> = BTreeMap::new();
    let (mut acknowledged, mut purged) = (0, 0);
    for seed in 0..HISTORIES {
        let report = good(Settings::new(seed));
        acknowledged += report.acknowledged;
        purged += report.purged;
        report.fired.into_iter().for_each(|class| *fired.entry(class).or_default() += 1);
    }
    for class in FaultClass::ALL {
        let count = fired.get(&class).copied().unwrap_or(0);
        assert!(count * 10 >= HISTORIES, "{class:?} ({}) in {count} histories", class.story());
    }
    assert!(acknowledged > 10_000 && purged > 0, "{acknowledged} writes, {purged} forgotten");
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in 0..30 {
        let settings = Settings::new(seed);
        assert_eq!(run(settings).hash, run(settings).hash, "seed {seed}");
    }
    assert_ne!(run(Settings::new(0)).hash, run(Settings::new(1)).hash);
    let settings = Settings { mode: Mode::Engine, operations: Some(80), ..Settings::new(2) };
    assert_eq!(good(settings).hash, good(settings).hash);
}

#[test]
fn the_engine_keeps_the_promises_as_its_model_does() {
    for seed in 0..ENGINE_HISTORIES {
        let mode = Mode::Engine;
        let settings = Settings { mode, operations: Some(150), ..Settings::new(seed) };
        assert!(good(settings).acknowledged > 0, "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    // Those that take more seeds are looked for by `cargo xtask sim --bugs`.
    let quick = [
        Bug::QuorumIsHalf,
        Bug::HintCountsAsAck,
        Bug::HintRestamped,
        Bug::HintsByName,
        Bug::RetryRestamped,
        Bug::RetryTakesEffectTwice,
        Bug::SupersededCountsAsAck,
        Bug::SelfCountsTwice,
        Bug::TimeoutIsRefusal,
        Bug::RollbackOfUnknown,
        Bug::ReadFromOne,
        Bug::ReadRepairSendsCurrent,
        Bug::FirstAnswerWins,
        Bug::DeletedIsAbsent,
        Bug::DeletionsAlwaysWin,
        Bug::AckBeforeSync,
        Bug::FutureStampsTaken,
        Bug::DeletionsForgottenByAge,
        Bug::WipedKeepsIdentity,
        Bug::LeafOffByOne,
        Bug::RepairRestamped,
        Bug::SearchForgetsDeletions,
    ];
    for bug in quick {
        let settings = |seed| Settings { bug: Some(bug), ..Settings::new(seed) };
        let is_found = (0..QUICK_SEEDS).any(|seed| !run(settings(seed)).violations.is_empty());
        assert!(is_found, "{bug:?} ({}) in {QUICK_SEEDS} seeds", bug.story());
    }
}
