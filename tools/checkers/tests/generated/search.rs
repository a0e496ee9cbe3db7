//! The checker of stamped registers against a search for an order, and against its own definition,
//! on small histories of any kind.

use heddle_checkers::linear::{self, Event, Model, Verdict};
use heddle_checkers::register::{Order, Promise, check};
use heddle_checkers::{Action, Operation, Outcome, Seen};

use crate::Random;
use crate::register::FACTOR;

/// Small histories looked at.
const CASES: u64 = 30_000;

/// A register that keeps the newest version; an acknowledged write was the newest.
struct Newest;

impl Model for Newest {
    /// Version, and whether it is a deletion.
    type State = Option<(u64, bool)>;
    type Operation = Action<u64>;

    fn start(&self) -> Self::State {
        None
    }

    fn apply(&self, state: &Self::State, operation: &Action<u64>) -> Option<Self::State> {
        let (outcome, is_deletion) = match *operation {
            Action::Put { outcome, .. } => (outcome, false),
            Action::Delete { outcome } => (outcome, true),
            Action::Read { seen } => {
                let fits = match (seen, *state) {
                    (Seen::Value { version, .. }, state) => state == Some((version, false)),
                    (Seen::Absent(Some(version)), state) => state == Some((version, true)),
                    (Seen::Absent(None), None) => true,
                    (Seen::Absent(None), Some((_, is_deletion))) => is_deletion,
                };
                return fits.then_some(*state);
            }
        };
        let version = outcome.version()?;
        let is_newest = state.is_none_or(|(newest, _)| newest < version);
        if matches!(outcome, Outcome::Done(_)) && !is_newest {
            return None;
        }
        Some((*state).max(Some((version, is_deletion))))
    }
}

/// Some writes with versions of their own, and reads of anything among them.
fn any_history(random: &mut Random) -> Vec<Operation<u64>> {
    let count = 2 + random.below(7);
    let is_deletion: Vec<bool> = (0..count).map(|_| random.one_in(3)).collect();
    let writes = 1 + random.below(count);
    let operation = |number: u64, random: &mut Random| {
        let action = if number < writes {
            let outcome = match random.below(3) {
                0 => Outcome::Unknown(Some(number)),
                _ => Outcome::Done(number),
            };
            match is_deletion[number as usize] {
                true => Action::Delete { outcome },
                false => Action::Put { value: number, outcome },
            }
        } else {
            let version = random.below(writes);
            let seen = match is_deletion[version as usize] {
                true => Seen::Absent(random.one_in(2).then_some(version)),
                false if random.one_in(12) => Seen::Absent(None),
                false => Seen::Value { version, value: version },
            };
            Action::Read { seen }
        };
        // Times close to each other: some touch, some overlap, some do not.
        let called = random.below(16) + number * random.below(3);
        let returned = called + random.below(8);
        Operation { client: 0, key: 0, called, returned, copies: 2, action }
    };
    (0..count).map(|number| operation(number, random)).collect()
}

fn is_linearizable(history: &[Operation<u64>]) -> bool {
    let event = |operation: &Operation<u64>| {
        let is_known = !matches!(operation.outcome(), Some(Outcome::Unknown(_)));
        Event {
            called: operation.called,
            returned: is_known.then_some(operation.returned),
            operation: operation.action,
        }
    };
    let events: Vec<_> = history.iter().map(event).collect();
    match linear::check(&Newest, &events, 1 << 22) {
        Verdict::Linearizable => true,
        Verdict::Broken { .. } => false,
        Verdict::Undecided => panic!("{history:?} is small"),
    }
}

/// The promise as it is written down, pair by pair. Reads of nothing name the deletion here.
fn is_monotonic(history: &[Operation<u64>]) -> bool {
    let shown = |operation: &Operation<u64>| match operation.action {
        Action::Read { seen: Seen::Value { version, .. } | Seen::Absent(Some(version)) } => {
            Some(version)
        }
        Action::Read { seen: Seen::Absent(None) } => None,
        _ => match operation.outcome() {
            Some(Outcome::Done(version)) => Some(version),
            _ => None,
        },
    };
    let is_before = |one: &Operation<u64>, other: &Operation<u64>| one.returned < other.called;
    history.iter().all(|later| {
        let Some(version) = shown(later) else { return true };
        let written = history
            .iter()
            .find(|write| write.outcome().and_then(|outcome| outcome.version()) == Some(version));
        let is_written = written.is_some_and(|write| write.called <= later.returned);
        let mut before = history.iter().filter(|earlier| is_before(earlier, later));
        is_written && before.all(|earlier| shown(earlier) <= Some(version))
    })
}

#[test]
fn the_checker_agrees_with_a_search_for_an_order() {
    let mut random = Random(1);
    let promise = Promise { factor: FACTOR, order: Order::Linearizable };
    let (mut accepted, mut rejected) = (0, 0);
    for case in 0..CASES {
        let history = any_history(&mut random);
        let found = check(promise, &history).violations;
        let is_good = is_linearizable(&history);
        assert_eq!(found.is_empty(), is_good, "case {case}: {history:#?} {found:?}");
        *if is_good { &mut accepted } else { &mut rejected } += 1;
    }
    assert!(accepted > CASES / 20 && rejected > CASES / 20, "{accepted} good, {rejected} bad");
}

#[test]
fn the_checker_agrees_with_its_definition() {
    let mut random = Random(2);
    let promise = Promise { factor: FACTOR, order: Order::Monotonic };
    let (mut accepted, mut rejected) = (0, 0);
    for case in 0..CASES {
        let mut history = any_history(&mut random);
        let nothing = Action::Read { seen: Seen::Absent(None) };
        history.retain(|operation| operation.action != nothing);
        let found = check(promise, &history).violations;
        let is_good = is_monotonic(&history);
        assert_eq!(found.is_empty(), is_good, "case {case}: {history:#?} {found:?}");
        *if is_good { &mut accepted } else { &mut rejected } += 1;
    }
    assert!(accepted > CASES / 20 && rejected > CASES / 20, "{accepted} good, {rejected} bad");
}
