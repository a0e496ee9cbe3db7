//! Stamped registers: histories of a register that works, and ways to spoil them.

use std::collections::BTreeMap;

use heddle_checkers::register::{Order, Promise, Violation, check};
use heddle_checkers::{Action, Operation, Outcome, Seen};

use crate::{HISTORIES, Random};

pub(crate) const FACTOR: u8 = 3;
const QUORUM: u8 = 2;
const KEYS: u64 = 3;

/// Each operation takes effect at its moment, between its call and its return.
pub(crate) fn good(seed: u64) -> Vec<Operation<u64>> {
    let mut random = Random(seed);
    let mut states: BTreeMap<u64, (u64, Option<u64>)> = BTreeMap::new();
    let mut history = Vec::new();
    for number in 1..=120 {
        let moment = number * 10;
        let key = random.below(KEYS);
        let state = states.get(&key).copied();
        let put = (!random.one_in(4)).then_some(number);
        let action = if random.one_in(2) {
            read_of(&mut random, state)
        } else {
            let newest = state.map_or(0, |(version, _)| version);
            // A write through a node whose clock is behind is superseded: its outcome is unknown.
            let is_behind = newest > 1_000 && random.one_in(8);
            let version = if is_behind { newest - 1 - number } else { number * 1_000 };
            let outcome = match random.below(6) {
                _ if is_behind => Outcome::Unknown(Some(version)),
                0 => Outcome::NotApplied,
                1 => Outcome::Unknown(random.one_in(2).then_some(version)),
                _ => Outcome::Done(version),
            };
            let takes_effect = match outcome {
                Outcome::Done(_) => true,
                Outcome::Unknown(_) => !is_behind && random.one_in(2),
                Outcome::NotApplied => false,
            };
            if takes_effect {
                states.insert(key, (version, put));
            }
            match put {
                Some(value) => Action::Put { value, outcome },
                None => Action::Delete { outcome },
            }
        };
        let (called, returned) = (moment - random.below(40).min(moment), moment + random.below(40));
        let client = (number % 7) as u32;
        history.push(Operation { client, key, called, returned, copies: QUORUM, action });
    }
    history
}

fn read_of(random: &mut Random, state: Option<(u64, Option<u64>)>) -> Action<u64> {
    let seen = match state {
        Some((version, Some(value))) => Seen::Value { version, value },
        Some((version, None)) => Seen::Absent(random.one_in(2).then_some(version)),
        None => Seen::Absent(None),
    };
    Action::Read { seen }
}

fn read(key: u64, at: u64, seen: Seen<u64>) -> Operation<u64> {
    let action = Action::Read { seen };
    Operation { client: 9, key, called: at, returned: at + 1, copies: QUORUM, action }
}

fn write(key: u64, at: u64, value: u64, outcome: Outcome<u64>) -> Operation<u64> {
    let action = Action::Put { value, outcome };
    Operation { client: 9, key, called: at, returned: at + 1, copies: QUORUM, action }
}

fn found(operation: &Operation<u64>) -> Seen<u64> {
    let Action::Put { value, outcome } = operation.action else { panic!("{operation:?}") };
    Seen::Value { version: outcome.version().expect("the write was seen"), value }
}

const END: u64 = 10_000;
const KEY: u64 = 77;

/// Spoils a history by what stands at its end; a fault of each kind.
fn spoil(kind: u64) -> Vec<Operation<u64>> {
    let old = write(KEY, END, 9_001, Outcome::Done(10));
    let new = write(KEY, END + 10, 9_002, Outcome::Done(20));
    let maybe = write(KEY, END + 10, 9_002, Outcome::Unknown(Some(20)));
    let blind = write(KEY, END + 10, 9_002, Outcome::Unknown(None));
    let last = |at, seen| read(KEY, END + at, seen);
    match kind {
        0 => vec![last(30, found(&old)), old, new],
        1 => vec![last(30, found(&maybe)), last(40, found(&old)), old, maybe],
        2 => vec![last(30, Seen::Value { version: 10, value: 9_999 }), old],
        3 => {
            let refused = write(KEY, END, 9_001, Outcome::NotApplied);
            vec![refused, last(30, Seen::Value { version: 10, value: 9_001 })]
        }
        4 => vec![last(5, found(&new)), new],
        5 => vec![old, last(30, Seen::Value { version: 11, value: 9_001 })],
        6 => vec![old, write(KEY, END + 10, 9_002, Outcome::Done(10))],
        7 => vec![old, last(30, Seen::Absent(None))],
        8 => vec![old, last(30, Seen::Absent(Some(15)))],
        9 => vec![new, write(KEY, END + 50, 9_003, Outcome::Done(15))],
        10 => {
            let first = last(30, Seen::Value { version: 20, value: 9_002 });
            let second = last(40, Seen::Value { version: 30, value: 9_002 });
            vec![blind, first, second]
        }
        _ => vec![old, blind, last(30, Seen::Value { version: 10, value: 9_002 })],
    }
}

const KINDS: u64 = 12;

fn expected(kind: u64, violation: &Violation<u64>) -> bool {
    match kind {
        0 | 1 | 7 => matches!(violation, Violation::Stale { .. }),
        2..=4 | 8 => matches!(violation, Violation::Phantom { .. }),
        5 | 10 | 11 => matches!(violation, Violation::OtherVersion { .. }),
        6 => matches!(violation, Violation::VersionTwice { .. }),
        _ => matches!(violation, Violation::AckedBelow { .. }),
    }
}

#[test]
fn good_histories_pass_and_each_kind_of_fault_is_found() {
    let promise = Promise { factor: FACTOR, order: Order::Monotonic };
    let linearizable = Promise { order: Order::Linearizable, ..promise };
    for seed in 0..HISTORIES {
        let mut history = good(seed);
        for promise in [promise, linearizable] {
            let report = check(promise, &history);
            assert_eq!(report.violations, [], "seed {seed}: {history:#?}");
            assert!(report.reads > 20 && report.acknowledged > 20 && report.unknown > 0);
        }
        let kind = seed % KINDS;
        history.extend(spoil(kind));
        let found = check(promise, &history).violations;
        assert!(found.iter().any(|violation| expected(kind, violation)), "{kind}: {found:?}");
    }
}

#[test]
fn only_operations_that_share_a_replica_must_know_of_each_other() {
    let promise = Promise { factor: FACTOR, order: Order::Monotonic };
    for written in 1..=FACTOR {
        for asked in 1..=FACTOR {
            let mut old = write(KEY, 0, 1, Outcome::Done(10));
            old.copies = FACTOR;
            let mut new = write(KEY, 10, 2, Outcome::Done(20));
            new.copies = written;
            let mut stale = read(KEY, 20, found(&old));
            stale.copies = asked;
            let report = check(promise, &[old, new, stale]);
            let is_broken = !report.violations.is_empty();
            assert_eq!(is_broken, written + asked > FACTOR, "{written} written, {asked} asked");
        }
    }
}
