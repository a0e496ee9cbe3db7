//! Value -> slots for values that have a total order and a small fixed size.

use std::collections::BTreeMap;
use std::ops::Bound;

use heddle_types::{ObjectId, Operator, Slot};
use roaring::RoaringBitmap;

use super::postings::{Postings, Union};

/// Bytes that a key costs beside itself: its postings and the tree's slack.
pub(super) const KEY_OVERHEAD_BYTES: usize = 48;

/// A key of an index: comparable like the value it stands for, and with an encoded form.
pub(super) trait Key: Ord + Clone {
    /// Appends the encoded form.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads the encoded form; `None` when the bytes are not a key.
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// Bytes on the heap.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Key for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// A finite float whose integer order is its numeric order; both zeros are one key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NumberKey(u64);

impl NumberKey {
    const SIGN: u64 = 1 << 63;

    pub(super) fn new(number: f64) -> Self {
        let bits = (number + 0.0).to_bits();
        Self(if bits & Self::SIGN == 0 { bits | Self::SIGN } else { !bits })
    }
}

impl Key for NumberKey {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bits = u64::from_le_bytes(bytes.try_into().ok()?);
        let number =
            f64::from_bits(if bits & Self::SIGN == 0 { !bits } else { bits & !Self::SIGN });
        (number.is_finite() && Self::new(number).0 == bits).then_some(Self(bits))
    }
}

impl Key for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

impl Key for ObjectId {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl Key for Box<str> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(std::str::from_utf8(bytes).ok()?.into())
    }

    fn heap_bytes(&self) -> usize {
        self.len()
    }
}

/// The keys of one property, in order, each with the slots that hold it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Ordered<K> {
    keys: BTreeMap<K, Postings>,
    /// What waits to be sorted in, while that is wanted.
    bulk: Option<Vec<(K, Slot)>>,
    /// Bytes of that.
    waiting_bytes: usize,
}

impl<K> Default for Ordered<K> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), bulk: None, waiting_bytes: 0 }
    }
}

impl<K: Key> Ordered<K> {
    /// Adds a slot to a key; returns the bytes by which memory grew, about. In a bulk the key only
    /// waits, and its bytes are those of [`Ordered::waiting_bytes`] until the end.
    pub(super) fn insert(&mut self, key: K, slot: Slot) -> usize {
        match &mut self.bulk {
            Some(bulk) => {
                self.waiting_bytes += size_of::<(K, Slot)>() + key.heap_bytes();
                bulk.push((key, slot));
                0
            }
            None => insert_into(&mut self.keys, key, slot),
        }
    }

    /// Bytes of the keys that wait, without what their list keeps free.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// From now on keys only wait.
    pub(super) fn begin_bulk(&mut self) {
        self.bulk.get_or_insert_default();
    }

    /// Sorts in what waits; returns the bytes by which memory grew, about.
    pub(super) fn end_bulk(&mut self) -> usize {
        let mut bulk = self.bulk.take().unwrap_or_default();
        self.waiting_bytes = 0;
        // Stable: the slots of a key stay in the order in which they came.
        bulk.sort_by(|(left, _), (right, _)| left.cmp(right));
        if self.keys.is_empty() {
            let (keys, grown) = grouped(bulk);
            // Built from its leaves up: the keys are in order.
            self.keys = keys.into_iter().collect();
            return grown;
        }
        bulk.into_iter().map(|(key, slot)| insert_into(&mut self.keys, key, slot)).sum()
    }

    /// Sets the postings of a key; false when the key was there already.
    pub(super) fn set(&mut self, key: K, postings: Postings) -> bool {
        self.keys.insert(key, postings).is_none()
    }

    /// Slots that hold a key.
    pub(super) fn equal(&self, key: &K) -> RoaringBitmap {
        self.keys.get(key).map(Postings::to_bitmap).unwrap_or_default()
    }

    /// Slots that hold a key which compares with `key` as the operator says.
    pub(super) fn compare(&self, operator: Operator, key: &K) -> RoaringBitmap {
        let bounds = match operator {
            Operator::LessThan => (Bound::Unbounded, Bound::Excluded(key)),
            Operator::LessThanEqual => (Bound::Unbounded, Bound::Included(key)),
            Operator::GreaterThan => (Bound::Excluded(key), Bound::Unbounded),
            Operator::GreaterThanEqual => (Bound::Included(key), Bound::Unbounded),
            _ => return self.equal(key),
        };
        let mut union = Union::default();
        for (_, postings) in self.keys.range::<K, _>(bounds) {
            union.add(postings);
        }
        union.finish()
    }

    /// Keys in order, from `start` on.
    pub(super) fn from(&self, start: Bound<&K>) -> impl Iterator<Item = (&K, &Postings)> {
        self.keys.range::<K, _>((start, Bound::Unbounded))
    }

    /// Removes slots from at most `budget` keys from `start` on. Returns the key to go on after,
    /// `None` when the last key is done, and the bytes by which memory shrank, about.
    pub(super) fn subtract(
        &mut self,
        slots: &RoaringBitmap,
        start: Option<K>,
        budget: usize,
    ) -> (Option<K>, usize) {
        let bound = start.map_or(Bound::Unbounded, Bound::Excluded);
        let mut empty = Vec::new();
        let (mut last, mut freed, mut seen) = (None, 0usize, 0);
        for (key, postings) in self.keys.range_mut((bound, Bound::Unbounded)) {
            let before = postings.heap_bytes();
            if postings.subtract(slots) == 0 {
                freed += before + size_of::<K>() + key.heap_bytes() + KEY_OVERHEAD_BYTES;
                empty.push(key.clone());
            } else {
                freed += before.saturating_sub(postings.heap_bytes());
            }
            seen += 1;
            if seen == budget {
                last = Some(key.clone());
                break;
            }
        }
        for key in &empty {
            self.keys.remove(key);
        }
        (last, freed)
    }
}

fn insert_into<K: Key>(keys: &mut BTreeMap<K, Postings>, key: K, slot: Slot) -> usize {
    let fixed = key_bytes(&key);
    match keys.entry(key) {
        std::collections::btree_map::Entry::Vacant(vacant) => {
            vacant.insert(Postings::One(slot));
            fixed
        }
        std::collections::btree_map::Entry::Occupied(mut occupied) => {
            let postings = occupied.get_mut();
            let before = postings.heap_bytes();
            postings.insert(slot);
            postings.heap_bytes().saturating_sub(before)
        }
    }
}

fn key_bytes<K: Key>(key: &K) -> usize {
    size_of::<K>() + key.heap_bytes() + KEY_OVERHEAD_BYTES
}

/// Sorted entries by key, and the bytes that they take, about.
fn grouped<K: Key>(sorted: Vec<(K, Slot)>) -> (Vec<(K, Postings)>, usize) {
    let mut keys: Vec<(K, Postings)> = Vec::with_capacity(sorted.len());
    for (key, slot) in sorted {
        match keys.last_mut() {
            Some((last, postings)) if *last == key => drop(postings.insert(slot)),
            _ => keys.push((key, Postings::One(slot))),
        }
    }
    let grown = keys.iter().map(|(key, postings)| key_bytes(key) + postings.heap_bytes()).sum();
    (keys, grown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_keys_order_like_numbers() {
        let numbers = [f64::MIN, -2.5, -f64::MIN_POSITIVE, -0.0, 1e-300, 3.0, f64::MAX];
        for pair in numbers.windows(2) {
            assert!(NumberKey::new(pair[0]) < NumberKey::new(pair[1]), "{pair:?}");
        }
        assert_eq!(NumberKey::new(0.0), NumberKey::new(-0.0));
        for number in numbers {
            let mut out = Vec::new();
            NumberKey::new(number).encode(&mut out);
            assert_eq!(NumberKey::decode(&out), Some(NumberKey::new(number)));
        }
        assert_eq!(NumberKey::decode(&u64::MAX.to_le_bytes()), None, "that would be NaN");
    }

    #[test]
    fn subtraction_goes_in_steps_and_drops_empty_keys() {
        let mut index = Ordered::<i64>::default();
        for slot in 0..100 {
            index.insert(i64::from(slot / 2), slot);
        }
        let gone: RoaringBitmap = (0..60).collect();
        let mut start = None;
        let mut steps = 0;
        loop {
            let (next, _) = index.subtract(&gone, start, 7);
            steps += 1;
            let Some(next) = next else { break };
            start = Some(next);
        }
        assert_eq!(steps, 8);
        assert_eq!(index.keys.len(), 20);
        assert_eq!(index.compare(Operator::GreaterThanEqual, &0), (60..100).collect());
    }
}
