//! The candidate pool: one flat array sorted by distance, instead of two heaps.

use crate::Slot;

/// A slot with its raw distance, packed so that integer order is order by distance, then by slot.
///
/// Bits 63..32: the distance, mapped to an unsigned number of the same order. Bits 31..1: the slot.
/// Bit 0: the node's neighbours have been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Neighbour(u64);

const EXPANDED: u64 = 1;

impl Neighbour {
    #[inline]
    pub(crate) fn new(distance: f32, slot: Slot) -> Self {
        let bits = distance.to_bits();
        let sign = (bits.cast_signed() >> 31).cast_unsigned();
        let ordered = bits ^ (sign | 0x8000_0000);
        Self(u64::from(ordered) << 32 | u64::from(slot) << 1)
    }

    #[inline]
    pub(crate) fn slot(self) -> Slot {
        self.0 as u32 >> 1
    }

    #[inline]
    pub(crate) fn distance(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        let sign = (!ordered.cast_signed() >> 31).cast_unsigned();
        f32::from_bits(ordered ^ (sign | 0x8000_0000))
    }

    #[inline]
    fn is_expanded(self) -> bool {
        self.0 & EXPANDED != 0
    }

    /// The same without the mark.
    #[inline]
    pub(crate) fn unmarked(self) -> Self {
        Self(self.0 & !EXPANDED)
    }
}

/// The nearest candidates so far, at most `capacity`, nearest first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    entries: Vec<Neighbour>,
    capacity: usize,
    /// No entry before this one waits to be expanded.
    cursor: usize,
}

impl Pool {
    /// Empties the pool and sets how many candidates it keeps.
    pub(crate) fn reset(&mut self, capacity: usize) {
        self.entries.clear();
        self.entries.reserve(capacity.min(1 << 16));
        self.capacity = capacity;
        self.cursor = 0;
    }

    pub(crate) fn entries(&self) -> &[Neighbour] {
        &self.entries
    }

    /// How many candidates it keeps.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether a slot is among the candidates. Cost: one pass.
    pub(crate) fn holds(&self, slot: Slot) -> bool {
        self.entries.iter().any(|entry| entry.slot() == slot)
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }

    /// Distance that a candidate must beat; infinite while there is room.
    #[inline]
    pub(crate) fn worst(&self) -> f32 {
        match self.entries.last() {
            Some(last) if self.is_full() => last.distance(),
            _ => f32::INFINITY,
        }
    }

    /// Puts a candidate at its place; returns the place when it was good enough.
    #[inline]
    pub(crate) fn insert(&mut self, candidate: Neighbour) -> Option<usize> {
        let mut length = self.entries.len();
        if length >= self.capacity {
            if self.entries.last().is_none_or(|&last| candidate >= last) {
                return None;
            }
            length -= 1;
        } else {
            self.entries.push(candidate);
        }
        let at = self.entries[..length].partition_point(|&entry| entry < candidate);
        self.entries.copy_within(at..length, at + 1);
        self.entries[at] = candidate;
        self.cursor = self.cursor.min(at);
        Some(at)
    }

    /// Puts a candidate at its place unless it is there already.
    pub(crate) fn insert_once(&mut self, candidate: Neighbour) {
        let at = self.entries.partition_point(|&entry| entry < candidate);
        if self.entries.get(at) != Some(&candidate) {
            self.insert(candidate);
        }
    }

    /// The nearest candidate that was not expanded, with its place; not marked yet.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<(usize, Neighbour)> {
        while let Some(&entry) = self.entries.get(self.cursor) {
            if !entry.is_expanded() {
                return Some((self.cursor, entry));
            }
            self.cursor += 1;
        }
        None
    }

    /// Marks the candidate that `peek` returned as expanded.
    #[inline]
    pub(crate) fn mark(&mut self, at: usize) {
        self.entries[at].0 |= EXPANDED;
        self.cursor = at + 1;
    }

    /// First place that may not be expanded yet.
    #[inline]
    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_order_is_order_by_distance_then_slot() {
        let distances = [-1e30, -2.0, -1.0, -0.0, 0.0, 1e-40, 0.5, 1.0, 3e38, f32::INFINITY];
        let packed: Vec<_> = distances.iter().map(|&d| Neighbour::new(d, 7)).collect();
        assert!(packed.is_sorted());
        for (neighbour, distance) in packed.iter().zip(distances) {
            assert_eq!(neighbour.distance().to_bits(), distance.to_bits());
            assert_eq!(neighbour.slot(), 7);
        }
        let last = crate::limits::SLOTS_MAX - 1;
        assert!(Neighbour::new(1.0, 3) < Neighbour::new(1.0, last));
        assert_eq!(Neighbour::new(1.0, last).slot(), last);
    }

    #[test]
    fn the_pool_keeps_the_nearest_and_yields_each_once() {
        let mut pool = Pool::default();
        pool.reset(3);
        for (distance, slot) in [(5.0, 0), (3.0, 1), (4.0, 2), (9.0, 3)] {
            pool.insert(Neighbour::new(distance, slot));
        }
        assert_eq!(pool.worst(), 5.0);
        let (at, nearest) = pool.peek().unwrap();
        assert_eq!((at, nearest.slot()), (0, 1));
        pool.mark(at);
        assert_eq!(pool.insert(Neighbour::new(1.0, 4)), Some(0));
        let mut order = Vec::new();
        while let Some((at, next)) = pool.peek() {
            pool.mark(at);
            order.push(next.slot());
        }
        assert_eq!(order, [4, 2]);
        let kept: Vec<_> = pool.entries().iter().map(|entry| entry.slot()).collect();
        assert_eq!(kept, [4, 1, 2]);
    }

    #[test]
    fn a_pool_without_room_keeps_nothing() {
        let mut pool = Pool::default();
        pool.reset(0);
        assert_eq!(pool.insert(Neighbour::new(1.0, 1)), None);
        assert!(pool.entries().is_empty());
    }
}
