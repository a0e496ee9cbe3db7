//! The hash tree of a replica, kept as objects come and go.
//!
//! Nobody pays for it who does not ask: it is built by a walk over ids and tombstones when it is
//! wanted first, in steps between which writes go on, and follows every write from then on.
//!
//! The hash of an object is MurmurHash3 x64 128, seed 0, of 64 bytes: id, stamp, creation time and
//! a word that is 1 for a tombstone. Replicas compare it, so it never changes.

use heddle_replication::{LeafSet, TreeLeaves};
use heddle_types::{Device, ObjectDigest, ObjectId, token_of};

use super::Shard;

/// Objects of one leaf that a tree is made for: those are compared one by one when one differs.
const LEAF_OBJECTS: u64 = 64;
/// Levels of the smallest and the largest tree: 256 bytes and 256 KiB.
const HEIGHTS: std::ops::RangeInclusive<u8> = 4..=14;
/// A tree this much lower than one that is made for the objects of now is built anew.
const HEIGHT_SLACK: u8 = 3;

/// The tree of a shard, as far as it is built.
pub(super) struct Tree {
    leaves: TreeLeaves,
    /// How far the walk that builds it has come; objects beyond are not in it yet.
    built: Built,
}

/// Which ids a tree accounts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Built {
    /// Those up to here; none at first.
    To(Option<ObjectId>),
    All,
}

impl Tree {
    fn new(height: u8) -> Self {
        Self { leaves: TreeLeaves::new(height), built: Built::To(None) }
    }

    /// The version of an object was replaced.
    pub(super) fn replace(
        &mut self,
        id: &ObjectId,
        old: Option<ObjectDigest>,
        new: Option<ObjectDigest>,
    ) {
        let is_in = match self.built {
            Built::All => true,
            Built::To(last) => Some(*id) <= last,
        };
        if !is_in {
            return;
        }
        let token = token_of(id);
        if let Some(old) = old {
            self.leaves.subtract(token, object_hash(id, &old));
        }
        if let Some(new) = new {
            self.leaves.add(token, object_hash(id, &new));
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.leaves.sums())
    }
}

impl<D: Device> Shard<D> {
    /// The leaves, once the tree is built.
    pub(crate) fn tree(&self) -> Option<&TreeLeaves> {
        self.tree.as_ref().filter(|tree| tree.built == Built::All).map(|tree| &tree.leaves)
    }

    /// Takes up to `limit` more objects into the tree, making it when there is none or it has
    /// become too low. False when it is whole.
    pub(crate) fn build_tree(&mut self, limit: usize) -> bool {
        let wanted = height_for(self.live_count() + self.tombstone_count());
        let is_too_low = |tree: &Tree| tree.leaves.height() + HEIGHT_SLACK < wanted;
        let mut tree = match self.tree.take().filter(|tree| !is_too_low(tree)) {
            Some(tree) => tree,
            None => Tree::new(wanted),
        };
        if let Built::To(after) = tree.built {
            let mut last = None;
            for (id, digest) in self.entries_after(after).take(limit) {
                tree.leaves.add(token_of(&id), object_hash(&id, &digest));
                last = Some(id);
            }
            tree.built = last.map_or(Built::All, |last| Built::To(Some(last)));
        }
        let is_whole = tree.built == Built::All;
        self.tree = Some(tree);
        !is_whole
    }

    /// Objects and tombstones with ids above `after`, ascending.
    pub(crate) fn entries_after(
        &self,
        after: Option<ObjectId>,
    ) -> impl Iterator<Item = (ObjectId, ObjectDigest)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let mut live = self.ids.range((start, Unbounded)).peekable();
        let mut dead = self.tombstones.range((start, Unbounded)).peekable();
        std::iter::from_fn(move || {
            let is_live = match (live.peek(), dead.peek()) {
                (Some((live, _)), Some((dead, _))) => live < dead,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if is_live {
                let (id, slot) = live.next()?;
                return Some((*id, self.digest_of_slot(*slot)));
            }
            let (id, stamp) = dead.next()?;
            Some((*id, ObjectDigest::tombstone(self.writers.lengthen(*stamp))))
        })
    }

    /// Looks at up to `look_at` objects and tombstones above `after` and appends those in the
    /// leaves, `limit` at most. The last id looked at; `None` when there are no more.
    pub(crate) fn entries_in(
        &self,
        leaves: &LeafSet,
        after: Option<ObjectId>,
        look_at: usize,
        limit: usize,
        out: &mut Vec<(ObjectId, ObjectDigest)>,
    ) -> Option<ObjectId> {
        let mut last = None;
        for (id, digest) in self.entries_after(after).take(look_at) {
            if out.len() == limit {
                break;
            }
            last = Some(id);
            if leaves.contains(token_of(&id)) {
                out.push((id, digest));
            }
        }
        last
    }
}

/// Levels of a tree for so many objects.
fn height_for(objects: u64) -> u8 {
    let leaves = (objects / LEAF_OBJECTS).max(1);
    let height = u8::try_from(leaves.ilog2()).expect("at most 63");
    height.clamp(*HEIGHTS.start(), *HEIGHTS.end())
}

/// The hash of an object's version.
fn object_hash(id: &ObjectId, digest: &ObjectDigest) -> u128 {
    let half = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(*bytes[at..].first_chunk().expect("callers keep within"))
    };
    let stamp = digest.stamp.encode();
    let is_tombstone = u64::from(digest.is_tombstone);
    murmur3([
        [half(&id.0, 0), half(&id.0, 8)],
        [half(&stamp, 0), half(&stamp, 8)],
        [half(&stamp, 16), half(&stamp, 24)],
        [digest.created_us.cast_unsigned(), is_tombstone],
    ])
}

/// MurmurHash3 x64 128 with seed 0 of four whole blocks.
fn murmur3(blocks: [[u64; 2]; 4]) -> u128 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let finish = |mut half: u64| {
        half = (half ^ (half >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        half = (half ^ (half >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        half ^ (half >> 33)
    };
    let length = 16 * blocks.len() as u64;
    let (mut h1, mut h2) = (0_u64, 0_u64);
    for [k1, k2] in blocks {
        h1 ^= k1.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= k2.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    (h1, h2) = (h1 ^ length, h2 ^ length);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    (h1, h2) = (finish(h1), finish(h2));
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    u128::from(h1) | u128::from(h2) << 64
}

#[cfg(test)]
mod tests {
    use heddle_types::{Hlc, NodeId, Stamp, routing::token_of_bytes};

    use super::*;

    #[test]
    fn the_hash_is_murmur3_of_the_64_bytes() {
        let stamp = Stamp { hlc: Hlc(0x1234_5678_9abc), boot: 7, core: 3, node: NodeId::from(99) };
        for digest in [ObjectDigest::live(stamp, -5), ObjectDigest::tombstone(stamp)] {
            let id = ObjectId::from_row(77);
            let mut bytes = id.0.to_vec();
            bytes.extend_from_slice(&digest.stamp.encode());
            bytes.extend_from_slice(&digest.created_us.to_le_bytes());
            bytes.extend_from_slice(&u64::from(digest.is_tombstone).to_le_bytes());
            assert_eq!(object_hash(&id, &digest) as u64, token_of_bytes(&bytes));
        }
    }

    #[test]
    fn trees_grow_with_their_shards_within_bounds() {
        assert_eq!([0, 1, 2_047, 2_048].map(height_for), [4, 4, 4, 5]);
        assert_eq!([1_000_000, u64::MAX].map(height_for), [13, 14]);
    }
}
