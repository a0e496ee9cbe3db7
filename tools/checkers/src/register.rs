//! Registers whose values carry versions: does every read see what it must?
//!
//! What is checked, per key and by real time:
//! - a read sees no older version than any operation that returned before it was called and shares
//!   a replica with it: an acknowledged write (read >= ack), an earlier read (monotonic reads);
//! - what a read sees was written, under one version, by a write called before the read returned;
//! - a write that is acknowledged on a majority has a newer version than all that was acknowledged
//!   or seen on a majority before it was called.
//!
//! [`Order::Linearizable`] adds what is left to a register that keeps the newest version and is
//! linearizable; `tests/generated.rs` holds it against the search of [`crate::linear`].
//!
//! Cost: `O(n log n)` in the operations, `O(n)` memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Edge, Floors, Operation, Outcome, Seen, Version, edges};

/// What is promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// Replicas of each key.
    pub factor: u8,
    /// How operations are ordered.
    pub order: Order,
}

/// How far the order of operations goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Reads do not go back and do not miss what is acknowledged.
    Monotonic,
    /// There is one order of all operations in which a read sees the newest version. Only for
    /// histories whose operations all share a replica.
    Linearizable,
}

/// A read or write that breaks the promise; operations are positions in the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation<V> {
    /// A read saw an older version than an operation before it had acknowledged or seen.
    Stale {
        /// The read.
        read: usize,
        /// What it saw; none for nothing at all.
        saw: Option<V>,
        /// What it had to see at least.
        expected: V,
        /// The operation that acknowledged or saw that.
        shown_by: usize,
    },
    /// A read saw what nobody had written by then, or what was refused.
    Phantom {
        /// The read.
        read: usize,
    },
    /// A read saw a value under another version than its write has, or than an earlier read saw.
    OtherVersion {
        /// The read.
        read: usize,
        /// The write of the value.
        write: usize,
    },
    /// Two writes have one version.
    VersionTwice {
        /// The earlier in the history.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A write was acknowledged though an operation before it had shown a newer version.
    AckedBelow {
        /// The write.
        write: usize,
        /// The operation before it.
        shown_by: usize,
    },
    /// A read saw a write that came after a newer version: no order of all operations allows it.
    SawSuperseded {
        /// The read.
        read: usize,
        /// The write.
        write: usize,
    },
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report<V> {
    /// Everything that breaks the promise, in the order in which it was found.
    pub violations: Vec<Violation<V>>,
    /// Reads looked at.
    pub reads: usize,
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Writes of unknown outcome.
    pub unknown: usize,
}

/// Checks a history.
#[must_use]
pub fn check<V: Version>(promise: Promise, history: &[Operation<V>]) -> Report<V> {
    let mut report = Report { violations: Vec::new(), reads: 0, acknowledged: 0, unknown: 0 };
    let mut keys: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (position, operation) in history.iter().enumerate() {
        keys.entry(operation.key).or_default().push(position);
        match operation.outcome() {
            None => report.reads += 1,
            Some(Outcome::Done(_)) => report.acknowledged += 1,
            Some(Outcome::Unknown(_)) => report.unknown += 1,
            Some(Outcome::NotApplied) => {}
        }
    }
    for positions in keys.values() {
        Register::new(promise, history, positions, &mut report.violations).run(positions);
    }
    report
}

struct Register<'a, V> {
    promise: Promise,
    history: &'a [Operation<V>],
    /// The put of each value.
    puts: BTreeMap<u64, usize>,
    /// The write of each version, as far as it is known by now.
    versions: BTreeMap<V, usize>,
    /// The version under which a write without one was first read.
    bound: BTreeMap<usize, V>,
    /// Versions of deletions that have been called.
    deletions: BTreeSet<V>,
    /// A deletion without a version has been called.
    any_deletion: bool,
    floors: Floors<V>,
    /// The floors at the call of each operation that has not returned, or that was a write.
    called_over: BTreeMap<usize, Option<(V, usize)>>,
    violations: &'a mut Vec<Violation<V>>,
}

impl<'a, V: Version> Register<'a, V> {
    fn new(
        promise: Promise,
        history: &'a [Operation<V>],
        positions: &[usize],
        violations: &'a mut Vec<Violation<V>>,
    ) -> Self {
        let (mut puts, mut versions) = (BTreeMap::new(), BTreeMap::new());
        for position in positions.iter().copied() {
            let operation = &history[position];
            if let Action::Put { value, .. } = operation.action {
                let other = puts.insert(value, position);
                assert!(other.is_none(), "every put of a history writes a value of its own");
            }
            let version = operation.outcome().and_then(|outcome| outcome.version());
            if let Some(first) = version.and_then(|version| versions.insert(version, position)) {
                violations.push(Violation::VersionTwice { first, second: position });
            }
        }
        Self {
            promise,
            history,
            puts,
            versions,
            bound: BTreeMap::new(),
            deletions: BTreeSet::new(),
            any_deletion: false,
            floors: Floors::new(promise.factor),
            called_over: BTreeMap::new(),
            violations,
        }
    }

    fn run(mut self, positions: &[usize]) {
        let span = |position: &usize| {
            let operation = &self.history[*position];
            (*position, operation.called, operation.returned)
        };
        for (_, edge, position) in edges(positions.iter().map(span)) {
            match edge {
                Edge::Call => self.call(position),
                Edge::Return => self.end(position),
            }
        }
    }

    fn call(&mut self, position: usize) {
        let operation = &self.history[position];
        self.called_over.insert(position, self.floors.met_by(operation.copies));
        if let Action::Delete { outcome } = operation.action {
            match outcome {
                Outcome::Done(version) | Outcome::Unknown(Some(version)) => {
                    self.deletions.insert(version);
                }
                Outcome::Unknown(None) => self.any_deletion = true,
                Outcome::NotApplied => {}
            }
        }
    }

    fn end(&mut self, position: usize) {
        let operation = &self.history[position];
        let shown = match operation.action {
            Action::Put { outcome, .. } | Action::Delete { outcome } => match outcome {
                Outcome::Done(version) => {
                    self.acknowledged(position, version);
                    Some(version)
                }
                Outcome::Unknown(_) | Outcome::NotApplied => None,
            },
            Action::Read { seen } => self.read(position, seen),
        };
        if let Some(version) = shown {
            self.floors.raise(operation.copies, version, position);
        }
    }

    fn acknowledged(&mut self, write: usize, version: V) {
        let over = self.called_over.get(&write).copied().flatten();
        if let Some((newer, shown_by)) = over
            && newer > version
        {
            self.violations.push(Violation::AckedBelow { write, shown_by });
        }
    }

    /// Checks a read; the version that it has shown to stand on its copies.
    fn read(&mut self, read: usize, seen: Seen<V>) -> Option<V> {
        let over = self.called_over.remove(&read).flatten();
        let saw = match seen {
            Seen::Value { version, value } => {
                let write = self.puts.get(&value).copied();
                self.provenance(read, write, version);
                Some(version)
            }
            Seen::Absent(Some(version)) => {
                let write = self.versions.get(&version).copied();
                if !self.deletions.contains(&version) && !self.any_deletion {
                    self.violations.push(Violation::Phantom { read });
                } else if let Some(write) = write {
                    self.superseded(read, write, version);
                }
                Some(version)
            }
            Seen::Absent(None) => self.nothing(over),
        };
        if let Some((expected, shown_by)) = over
            && saw.is_none_or(|saw| saw < expected)
            && !(saw.is_none() && self.any_deletion)
        {
            self.violations.push(Violation::Stale { read, saw, expected, shown_by });
        }
        saw
    }

    /// The oldest version of a deletion that explains why there is nothing.
    fn nothing(&self, over: Option<(V, usize)>) -> Option<V> {
        // Without anything before it the key may never have been written.
        let (expected, _) = over?;
        if self.any_deletion {
            return None;
        }
        let mut candidates = self.deletions.range(expected..).copied();
        candidates.find(|version| {
            let write = self.versions.get(version);
            self.promise.order == Order::Monotonic
                || write.is_some_and(|write| !self.is_superseded(*write, *version))
        })
    }

    fn provenance(&mut self, read: usize, write: Option<usize>, version: V) {
        let Some(write) = write else {
            return self.violations.push(Violation::Phantom { read });
        };
        let (source, reader) = (&self.history[write], &self.history[read]);
        let is_refused = source.outcome() == Some(Outcome::NotApplied);
        if is_refused || source.called > reader.returned {
            return self.violations.push(Violation::Phantom { read });
        }
        // The first read of a write without a version gives it one, for life.
        let known = source.outcome().and_then(|outcome| outcome.version());
        let of_version = *self.versions.entry(version).or_insert(write);
        let own = known.unwrap_or_else(|| *self.bound.entry(write).or_insert(version));
        if own != version || of_version != write {
            return self.violations.push(Violation::OtherVersion { read, write });
        }
        self.superseded(read, write, version);
    }

    fn superseded(&mut self, read: usize, write: usize, version: V) {
        if self.promise.order == Order::Linearizable && self.is_superseded(write, version) {
            self.violations.push(Violation::SawSuperseded { read, write });
        }
    }

    fn is_superseded(&self, write: usize, version: V) -> bool {
        let over = self.called_over.get(&write).copied().flatten();
        over.is_some_and(|(newer, _)| newer > version)
    }
}
