//! What clients did and saw.

use std::fmt::Debug;

/// The version of a value: its order among all values of the key. Stamps of the database are.
pub trait Version: Copy + Ord + Debug {}

impl<T: Copy + Ord + Debug> Version for T {}

/// One operation on one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation<V> {
    /// Who did it.
    pub client: u32,
    /// On what.
    pub key: u64,
    /// When it was called.
    pub called: u64,
    /// When its result came. That of a write whose outcome is unknown means nothing.
    pub returned: u64,
    /// Copies that its level asks for: a result of a write stands on so many, one of a read comes
    /// from so many.
    pub copies: u8,
    /// What it was and what came of it.
    pub action: Action<V>,
}

/// What an operation does, and its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<V> {
    /// Writes a value that no other put writes.
    Put {
        /// The value.
        value: u64,
        /// What came of it.
        outcome: Outcome<V>,
    },
    /// Takes the value away.
    Delete {
        /// What came of it.
        outcome: Outcome<V>,
    },
    /// Reads; one that failed is not part of a history.
    Read {
        /// What it saw.
        seen: Seen<V>,
    },
}

/// What came of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<V> {
    /// It is acknowledged, with this version.
    Done(V),
    /// It may or may not take effect, now or later; its version, when that is known.
    Unknown(Option<V>),
    /// It never takes effect.
    NotApplied,
}

/// What a read saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen<V> {
    /// A value.
    Value {
        /// Its version.
        version: V,
        /// The value.
        value: u64,
    },
    /// Nothing; the version of the deletion, when the reader was told.
    Absent(Option<V>),
}

impl<V: Version> Operation<V> {
    /// The outcome of a write; none for a read.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome<V>> {
        match self.action {
            Action::Put { outcome, .. } | Action::Delete { outcome } => Some(outcome),
            Action::Read { .. } => None,
        }
    }
}

impl<V: Version> Outcome<V> {
    /// The version, when it is known.
    #[must_use]
    pub fn version(&self) -> Option<V> {
        match *self {
            Self::Done(version) => Some(version),
            Self::Unknown(version) => version,
            Self::NotApplied => None,
        }
    }
}

/// Call or return of an operation. At one moment calls come first: operations that touch overlap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Edge {
    Call,
    Return,
}

/// The edges of operations given by position, call and return, in the order of time.
pub(crate) fn edges(spans: impl Iterator<Item = (usize, u64, u64)>) -> Vec<(u64, Edge, usize)> {
    let mut edges = Vec::new();
    for (position, called, returned) in spans {
        edges.push((called, Edge::Call, position));
        edges.push((returned.max(called), Edge::Return, position));
    }
    edges.sort_unstable();
    edges
}

/// The newest version that stands on so many copies, for each number of copies.
#[derive(Clone, Debug)]
pub(crate) struct Floors<V> {
    factor: u8,
    /// By copies; each with the operation that showed it.
    newest: Vec<Option<(V, usize)>>,
}

impl<V: Version> Floors<V> {
    pub(crate) fn new(factor: u8) -> Self {
        Self { factor, newest: vec![None; usize::from(factor) + 1] }
    }

    pub(crate) fn raise(&mut self, copies: u8, version: V, position: usize) {
        let newest = &mut self.newest[usize::from(copies.min(self.factor))];
        if newest.is_none_or(|(known, _)| known < version) {
            *newest = Some((version, position));
        }
    }

    /// The newest version that one of any `copies` replicas has.
    pub(crate) fn met_by(&self, copies: u8) -> Option<(V, usize)> {
        let from = usize::from(self.factor.saturating_sub(copies)) + 1;
        self.newest.iter().skip(from).flatten().copied().max()
    }
}
