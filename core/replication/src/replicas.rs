//! Sets of replicas, sets of items, and what one replica says about one item.

use heddle_types::ApiError;
use heddle_types::limits::REPLICAS_PER_SHARD_MAX;

const _: () = assert!(REPLICAS_PER_SHARD_MAX <= u16::BITS as usize);

/// Replicas of one shard, by position in its list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct ReplicaSet(u16);

impl ReplicaSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// The first `count` replicas: everyone, when a shard has so many. More than
    /// [`REPLICAS_PER_SHARD_MAX`] are not counted.
    #[must_use]
    pub fn first(count: usize) -> Self {
        (0..count.min(REPLICAS_PER_SHARD_MAX) as u8).collect()
    }

    /// With one more; positions that no shard has are ignored.
    pub fn insert(&mut self, replica: u8) {
        self.0 |= bit(replica);
    }

    /// Without one.
    pub fn remove(&mut self, replica: u8) {
        self.0 &= !bit(replica);
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(self, replica: u8) -> bool {
        self.0 & bit(replica) != 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of this one that are not in the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The positions, rising.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..u16::BITS as u8).filter(move |replica| self.contains(*replica))
    }
}

impl FromIterator<u8> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = u8>>(replicas: I) -> Self {
        let mut set = Self::EMPTY;
        replicas.into_iter().for_each(|replica| set.insert(replica));
        set
    }
}

fn bit(replica: u8) -> u16 {
    1_u16.checked_shl(u32::from(replica)).unwrap_or(0)
}

/// Items of a request, by position.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Items {
    /// Every one.
    All,
    /// These, rising.
    Some(Vec<u32>),
}

impl Items {
    /// The positions, rising, in a request of `count` items.
    pub fn iter(&self, count: usize) -> impl Iterator<Item = usize> {
        let (range, listed) = match self {
            Self::All => (0..count, &[][..]),
            Self::Some(items) => (0..0, &items[..]),
        };
        range.chain(listed.iter().map(|item| *item as usize))
    }

    /// How many, in a request of `count` items.
    #[must_use]
    pub fn len(&self, count: usize) -> usize {
        match self {
            Self::All => count,
            Self::Some(items) => items.len(),
        }
    }

    /// `All` when the list has every item.
    pub(crate) fn of(listed: Vec<u32>, count: usize) -> Self {
        if listed.len() == count { Self::All } else { Self::Some(listed) }
    }
}

/// What a replica did with one write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ItemAnswer {
    /// It is durable and visible there.
    Applied {
        /// Whether the object lived there before.
        existed: bool,
    },
    /// It was there before: this is a repeated delivery. As good as applied.
    Known {
        /// Whether the object lived there before the write.
        existed: bool,
    },
    /// The replica has a newer version; the write is durable nowhere by this answer.
    Superseded,
    /// The write is older than what was repaired and the replica has no version of the object: it
    /// may be one that was deleted and forgotten. Nothing was applied, and never will be.
    BelowFloor,
    /// Nothing was applied.
    Refused(Box<ApiError>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_positions_of_a_shard_and_no_others() {
        let mut set: ReplicaSet = [2, 0, 15, 16, 255].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2, 15]);
        set.remove(2);
        set.remove(200);
        assert!(set.len() == 2 && !set.contains(2) && !set.contains(16));
        assert_eq!(ReplicaSet::first(3).minus(set).iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(ReplicaSet::first(99).len(), REPLICAS_PER_SHARD_MAX);
        assert!(ReplicaSet::first(0).is_empty());
    }

    #[test]
    fn items_are_all_or_a_list() {
        assert_eq!(Items::All.iter(3).collect::<Vec<_>>(), [0, 1, 2]);
        let some = Items::of(vec![0, 2], 3);
        assert_eq!((some.iter(3).collect::<Vec<_>>(), some.len(3)), (vec![0, 2], 2));
        assert_eq!(Items::of(vec![0, 1, 2], 3), Items::All);
    }
}
