//! Deletions that stay: what was deleted is not found again.
//!
//! Beside the reads of the history it looks at sightings: hits of searches and entries of lists,
//! which need not come with a version and name what is there only.
//!
//! Cost: `O(n log n)`.

use std::collections::BTreeMap;

use crate::history::{Action, Edge, Floors, Operation, Outcome, Seen, Version, edges};

/// A key that a search or a list named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting<V> {
    /// The key.
    pub key: u64,
    /// The version of what was found, when it was told.
    pub version: Option<V>,
    /// When the search was called.
    pub called: u64,
    /// When it came back.
    pub returned: u64,
    /// Replicas that it asked.
    pub copies: u8,
}

/// Where something came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// In a read: its position in the history.
    Read(usize),
    /// In a search: its position among the sightings.
    Sighting(usize),
}

/// Something deleted that was found again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resurrection<V> {
    /// The key.
    pub key: u64,
    /// What found it.
    pub found: Where,
    /// The version of the deletion.
    pub deleted: V,
}

/// Checks what is found against the deletions before it. From `settled` on, when every replica
/// must have everything, one replica is as good as all.
#[must_use]
pub fn check<V: Version>(
    factor: u8,
    history: &[Operation<V>],
    sightings: &[Sighting<V>],
    settled: u64,
) -> Vec<Resurrection<V>> {
    let mut keys: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    for (position, operation) in history.iter().enumerate() {
        keys.entry(operation.key).or_default().push(Event::Operation(position));
    }
    for (position, sighting) in sightings.iter().enumerate() {
        keys.entry(sighting.key).or_default().push(Event::Sighting(position));
    }
    let mut found = Vec::new();
    for (key, events) in keys {
        let mut sweep = Sweep {
            factor,
            settled,
            history,
            sightings,
            deletions: Floors::new(factor),
            newest_put: None,
            any_put: false,
            called_over: BTreeMap::new(),
        };
        sweep.run(key, &events, &mut found);
    }
    found
}

#[derive(Clone, Copy)]
enum Event {
    Operation(usize),
    Sighting(usize),
}

struct Sweep<'a, V> {
    factor: u8,
    settled: u64,
    history: &'a [Operation<V>],
    sightings: &'a [Sighting<V>],
    /// Versions of deletions that were acknowledged or seen.
    deletions: Floors<V>,
    /// The newest version of a put that was called.
    newest_put: Option<V>,
    /// A put of unknown version was called: it may be the newest.
    any_put: bool,
    /// The deletion that each operation must know of.
    called_over: BTreeMap<usize, Option<V>>,
}

impl<V: Version> Sweep<'_, V> {
    fn run(&mut self, key: u64, events: &[Event], found: &mut Vec<Resurrection<V>>) {
        let spans = events.iter().enumerate().map(|(number, event)| match event {
            Event::Operation(position) => {
                let operation = &self.history[*position];
                (number, operation.called, operation.returned)
            }
            Event::Sighting(position) => {
                let sighting = &self.sightings[*position];
                (number, sighting.called, sighting.returned)
            }
        });
        for (_, edge, number) in edges(spans) {
            match edge {
                Edge::Call => self.call(number, events[number]),
                Edge::Return => {
                    if let Some(deleted) = self.end(number, events[number]) {
                        let found_by = match events[number] {
                            Event::Operation(position) => Where::Read(position),
                            Event::Sighting(position) => Where::Sighting(position),
                        };
                        found.push(Resurrection { key, found: found_by, deleted });
                    }
                }
            }
        }
    }

    fn call(&mut self, number: usize, event: Event) {
        let (copies, called) = match event {
            Event::Operation(position) => {
                let operation = &self.history[position];
                if let Action::Put { outcome, .. } = operation.action {
                    self.newest_put = self.newest_put.max(outcome.version());
                    self.any_put |= outcome == Outcome::Unknown(None);
                }
                (operation.copies, operation.called)
            }
            Event::Sighting(position) => {
                let sighting = &self.sightings[position];
                (sighting.copies, sighting.called)
            }
        };
        let copies = if called >= self.settled { self.factor } else { copies };
        let over = self.deletions.met_by(copies).map(|(version, _)| version);
        self.called_over.insert(number, over);
    }

    /// The deletion that what ends here should have known of, if it found something all the same.
    fn end(&mut self, number: usize, event: Event) -> Option<V> {
        let over = self.called_over.remove(&number).flatten();
        let version = match event {
            Event::Operation(position) => {
                let operation = &self.history[position];
                match operation.action {
                    Action::Read { seen: Seen::Value { version, .. } } => Some(version),
                    Action::Delete { outcome: Outcome::Done(version) }
                    | Action::Read { seen: Seen::Absent(Some(version)) } => {
                        self.deletions.raise(operation.copies, version, number);
                        return None;
                    }
                    Action::Put { .. } | Action::Delete { .. } | Action::Read { .. } => {
                        return None;
                    }
                }
            }
            Event::Sighting(position) => self.sightings[position].version,
        };
        let deleted = over?;
        let is_alive = match version {
            Some(version) => version > deleted,
            None => self.any_put || self.newest_put.is_some_and(|newest| newest > deleted),
        };
        (!is_alive).then_some(deleted)
    }
}
