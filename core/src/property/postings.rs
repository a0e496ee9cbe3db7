//! The slots that hold one value.

use heddle_types::Slot;
use roaring::RoaringBitmap;

/// Slots kept as a plain list; above, a compressed bitmap is smaller and faster.
const FEW_MAX: usize = 16;

/// A set of slots, small when the value is rare: a unique value costs no allocation.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Postings {
    One(Slot),
    /// Ascending, two to [`FEW_MAX`].
    Few(Vec<Slot>),
    Many(Box<RoaringBitmap>),
}

impl Postings {
    /// The postings of a set; `None` when it is empty.
    pub(super) fn from_bitmap(slots: RoaringBitmap) -> Option<Self> {
        match slots.len() {
            0 => None,
            1 => slots.min().map(Self::One),
            len if len <= FEW_MAX as u64 => Some(Self::Few(slots.iter().collect())),
            _ => Some(Self::Many(Box::new(slots))),
        }
    }

    /// Adds a slot; false when it was there already.
    pub(super) fn insert(&mut self, slot: Slot) -> bool {
        match self {
            Self::One(one) if *one == slot => false,
            Self::One(one) => {
                *self = Self::Few(vec![slot.min(*one), slot.max(*one)]);
                true
            }
            Self::Few(few) => {
                let Err(place) = few.binary_search(&slot) else { return false };
                few.insert(place, slot);
                if few.len() > FEW_MAX {
                    *self = Self::Many(Box::new(few.iter().copied().collect()));
                }
                true
            }
            Self::Many(many) => many.insert(slot),
        }
    }

    /// Removes slots; returns how many are left.
    pub(super) fn subtract(&mut self, slots: &RoaringBitmap) -> usize {
        match self {
            Self::One(one) => usize::from(!slots.contains(*one)),
            Self::Few(few) => {
                few.retain(|slot| !slots.contains(*slot));
                if let [one] = few[..] {
                    *self = Self::One(one);
                    return 1;
                }
                few.len()
            }
            Self::Many(many) => {
                **many -= slots;
                let left = usize::try_from(many.len()).unwrap_or(usize::MAX);
                match left {
                    0 => {}
                    1 => *self = Self::One(many.min().expect("one slot is left")),
                    2..=FEW_MAX => *self = Self::Few(many.iter().collect()),
                    _ => {}
                }
                left
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(few) => few.len(),
            Self::Many(many) => usize::try_from(many.len()).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn to_bitmap(&self) -> RoaringBitmap {
        match self {
            Self::One(one) => std::iter::once(*one).collect(),
            Self::Few(few) => few.iter().copied().collect(),
            Self::Many(many) => (**many).clone(),
        }
    }

    /// Bytes on the heap, about: a compressed bitmap takes two bytes a slot or less.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Few(few) => few.capacity() * size_of::<Slot>(),
            Self::Many(_) => 96 + 2 * self.len(),
        }
    }

    /// The slots below `slots`, ascending.
    pub(super) fn below(&self, slots: u32) -> Vec<Slot> {
        match self {
            Self::One(one) => (*one < slots).then_some(*one).into_iter().collect(),
            Self::Few(few) => few.iter().copied().take_while(|slot| *slot < slots).collect(),
            Self::Many(many) => many.range(..slots).collect(),
        }
    }
}

/// The union of many postings, cheap for many small and for few large ones.
#[derive(Default)]
pub(super) struct Union {
    loose: Vec<Slot>,
    bitmap: RoaringBitmap,
}

impl Union {
    pub(super) fn add(&mut self, postings: &Postings) {
        match postings {
            Postings::One(one) => self.loose.push(*one),
            Postings::Few(few) => self.loose.extend_from_slice(few),
            Postings::Many(many) => self.bitmap |= &**many,
        }
    }

    pub(super) fn finish(mut self) -> RoaringBitmap {
        self.loose.sort_unstable();
        self.loose.dedup();
        let loose =
            RoaringBitmap::from_sorted_iter(self.loose).expect("sorted and without duplicates");
        self.bitmap | loose
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_behaves_like_a_set() {
        let mut postings = Postings::One(500);
        assert!(!postings.insert(500));
        for slot in (0..100u32).rev() {
            assert!(postings.insert(slot * 3));
            assert!(!postings.insert(slot * 3));
        }
        assert_eq!(postings.len(), 101);
        let mut expected: Vec<Slot> = (0..100).map(|slot| slot * 3).collect();
        assert_eq!(postings.below(299), expected);
        expected.push(500);
        assert_eq!(postings.to_bitmap().iter().collect::<Vec<_>>(), expected);
        assert_eq!(postings.subtract(&(10..499).collect()), 5);
        assert_eq!(postings, Postings::Few(vec![0, 3, 6, 9, 500]));
        assert_eq!(postings.subtract(&(0..10).collect()), 1);
        assert_eq!(postings, Postings::One(500));
        assert_eq!(postings.subtract(&(500..501).collect()), 0);
    }

    #[test]
    fn a_union_holds_each_slot_once() {
        let mut union = Union::default();
        union.add(&Postings::Many(Box::new((0..50).collect())));
        union.add(&Postings::One(49));
        union.add(&Postings::Few(vec![60, 70]));
        union.add(&Postings::One(60));
        assert_eq!(union.finish(), (0..50).chain([60, 70]).collect());
    }
}
