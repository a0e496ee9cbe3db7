//! What the home core knows about each slot beside vectors and properties.

use heddle_types::{Hlc, NodeId, Slot, Stamp};
use rustc_hash::FxHashMap;

use crate::objects::Location;

/// Who issued a stamp: everything of it but the time.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub(crate) struct Writer {
    pub(crate) boot: u32,
    pub(crate) core: u32,
    pub(crate) node: NodeId,
}

/// The writers of a shard, numbered. Stamps repeat few writers, so a slot keeps four bytes
/// instead of 24.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct WriterTable {
    writers: Vec<Writer>,
    numbers: FxHashMap<Writer, u32>,
}

/// A stamp with its writer's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ShortStamp {
    pub(crate) hlc: Hlc,
    pub(crate) writer: u32,
}

impl WriterTable {
    /// A table with these writers, in the order of their numbers.
    pub(crate) fn from_writers(writers: Vec<Writer>) -> Self {
        let numbers = writers.iter().copied().zip(0..).collect();
        Self { writers, numbers }
    }

    pub(crate) fn writers(&self) -> &[Writer] {
        &self.writers
    }

    pub(crate) fn shorten(&mut self, stamp: &Stamp) -> ShortStamp {
        let writer = Writer { boot: stamp.boot, core: stamp.core, node: stamp.node };
        let number = *self.numbers.entry(writer).or_insert_with(|| {
            self.writers.push(writer);
            u32::try_from(self.writers.len() - 1).expect("a writer is a start of a node")
        });
        ShortStamp { hlc: stamp.hlc, writer: number }
    }

    /// The whole stamp. Panics: the number is not from this table (a bug).
    pub(crate) fn lengthen(&self, short: ShortStamp) -> Stamp {
        let writer = self.writers[short.writer as usize];
        Stamp { hlc: short.hlc, boot: writer.boot, core: writer.core, node: writer.node }
    }
}

/// Facts about the object of a slot, 40 bytes at most.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct SlotFacts {
    /// Time of the stamp.
    pub(crate) hlc: Hlc,
    pub(crate) created_us: i64,
    /// Number of the stamp's writer. Beside the location, where it costs no padding.
    pub(crate) writer: u32,
    pub(crate) location: Location,
}

impl SlotFacts {
    pub(crate) fn stamp(&self) -> ShortStamp {
        ShortStamp { hlc: self.hlc, writer: self.writer }
    }
}

const _: () = assert!(size_of::<SlotFacts>() <= 40);

/// Facts by slot. Facts of dead and free slots are stale and never asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotTable {
    facts: Vec<SlotFacts>,
}

impl SlotTable {
    /// A table with these facts, from slot zero on.
    pub(crate) fn from_facts(facts: Vec<SlotFacts>) -> Self {
        Self { facts }
    }

    /// Sets the facts of a slot; slots come into use in any order, gaps hold stale copies.
    pub(crate) fn set(&mut self, slot: Slot, facts: SlotFacts) {
        let index = slot as usize;
        if index >= self.facts.len() {
            self.facts.resize(index + 1, facts);
        }
        self.facts[index] = facts;
    }

    /// Panics: the slot was never set (a bug: the directory knows which were).
    pub(crate) fn get(&self, slot: Slot) -> &SlotFacts {
        &self.facts[slot as usize]
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut SlotFacts {
        &mut self.facts[slot as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.facts.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.facts.capacity() * size_of::<SlotFacts>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_shorten_and_come_back() {
        let mut table = WriterTable::default();
        let node = NodeId::random();
        let stamps: Vec<Stamp> =
            (0..6).map(|n| Stamp { hlc: Hlc(n), boot: (n % 3) as u32, core: 7, node }).collect();
        let short: Vec<ShortStamp> = stamps.iter().map(|stamp| table.shorten(stamp)).collect();
        assert_eq!(table.writers().len(), 3);
        let again = WriterTable::from_writers(table.writers().to_vec());
        for (stamp, short) in stamps.iter().zip(short) {
            assert_eq!(again.lengthen(short), *stamp);
        }
    }
}
