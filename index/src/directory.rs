//! Slot -> object: the 16-byte id, and whether the object is there.
//!
//! Life of a slot: free -> `push` (occupied) -> `publish` (live) -> `kill` (dead, may still be
//! traversed by graphs) -> `free` (waits for the epoch) -> free. Only live slots become hits.

use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crate::Slot;
use crate::arena::Arena;
use crate::error::IndexError;
use crate::limits;
use crate::quiescence::Quiescence;

/// Bytes of an object id.
const ID_BYTES: usize = 16;

/// What any core may read about the slots of a shard.
#[derive(Debug)]
pub struct SlotDirectory {
    ids: Arena,
    occupied: Arena,
    live: Arena,
    dead: Arena,
    capacity: u32,
    published: AtomicU32,
    live_count: AtomicU32,
    dead_count: AtomicU32,
    /// The view that took over when this one was outgrown.
    successor: OnceLock<Arc<SlotDirectory>>,
}

impl SlotDirectory {
    fn reserve(capacity: u32, expected: u32) -> Result<Self, IndexError> {
        let (slots, expected) = (capacity as usize, expected as usize);
        let bits = |count: usize| count.div_ceil(8);
        Ok(Self {
            ids: Arena::reserve(slots * ID_BYTES, expected * ID_BYTES)?,
            occupied: Arena::reserve(bits(slots), bits(expected))?,
            live: Arena::reserve(bits(slots), bits(expected))?,
            dead: Arena::reserve(bits(slots), bits(expected))?,
            capacity,
            published: AtomicU32::new(0),
            live_count: AtomicU32::new(0),
            dead_count: AtomicU32::new(0),
            successor: OnceLock::new(),
        })
    }

    /// The newest view of the same directory: this one, or what it grew into. Readers call this
    /// under each pin; an outgrown view no longer follows.
    #[must_use]
    pub fn latest(self: &Arc<Self>) -> Arc<Self> {
        let mut newest = self;
        while let Some(next) = newest.successor.get() {
            newest = next;
        }
        Arc::clone(newest)
    }

    /// Id of the object in a slot that was published while the caller holds its pin.
    ///
    /// Panics: no such slot was ever pushed (a caller bug).
    #[must_use]
    pub fn id(&self, slot: Slot) -> [u8; ID_BYTES] {
        let words = self.ids.longs(slot as usize * 2, 2);
        let mut id = [0; ID_BYTES];
        let (low, high) = id.split_at_mut(8);
        low.copy_from_slice(&words[0].load(Ordering::Relaxed).to_le_bytes());
        high.copy_from_slice(&words[1].load(Ordering::Relaxed).to_le_bytes());
        id
    }

    /// Whether the object of a slot is there. False for any slot never pushed.
    #[inline]
    #[must_use]
    pub fn is_live(&self, slot: Slot) -> bool {
        self.live.bit(slot as usize)
    }

    /// Whether the object of a slot was killed and the slot is not freed yet.
    #[inline]
    #[must_use]
    pub fn is_dead(&self, slot: Slot) -> bool {
        self.dead.bit(slot as usize)
    }

    /// Live bits of slots `64 index..64 index + 64`; zero beyond the end.
    #[inline]
    #[must_use]
    pub fn live_word(&self, index: usize) -> u64 {
        self.live.long(index)
    }

    /// Dead bits of slots `64 index..64 index + 64`; zero beyond the end.
    #[inline]
    pub(crate) fn dead_word(&self, index: usize) -> u64 {
        self.dead.long(index)
    }

    /// Slots below this number have been pushed at some time.
    #[must_use]
    pub fn published(&self) -> u32 {
        self.published.load(Ordering::Acquire)
    }

    /// Number of live slots.
    #[must_use]
    pub fn live_count(&self) -> u32 {
        self.live_count.load(Ordering::Relaxed)
    }

    /// Number of killed slots that are not freed.
    #[must_use]
    pub fn dead_count(&self) -> u32 {
        self.dead_count.load(Ordering::Relaxed)
    }

    /// Bytes committed for the directory.
    #[must_use]
    pub fn committed_bytes(&self) -> usize {
        [&self.ids, &self.occupied, &self.live, &self.dead].map(Arena::committed_bytes).iter().sum()
    }

    pub(crate) fn ids_arena(&self) -> &Arena {
        &self.ids
    }

    pub(crate) fn occupied_arena(&self) -> &Arena {
        &self.occupied
    }

    pub(crate) fn live_arena(&self) -> &Arena {
        &self.live
    }

    pub(crate) fn arena_mut(&mut self, section: usize) -> &mut Arena {
        match section {
            0 => &mut self.ids,
            1 => &mut self.occupied,
            _ => &mut self.live,
        }
    }
}

/// The home core's side of the directory.
#[derive(Debug)]
pub struct DirectoryWriter {
    view: Arc<SlotDirectory>,
    version: u64,
    quiescence: Arc<Quiescence>,
    next: u32,
    waiting: VecDeque<(u64, Slot)>,
    free: Vec<Slot>,
}

impl DirectoryWriter {
    /// An empty directory. `capacity` is the expected number of slots (zero when unknown).
    ///
    /// # Errors
    /// [`IndexError::Memory`] when address space is refused.
    pub fn new(capacity: u32, quiescence: Arc<Quiescence>) -> Result<Self, IndexError> {
        let slots = reservation_slots(ID_BYTES, capacity, 0);
        let view = Arc::new(SlotDirectory::reserve(slots, capacity)?);
        let (waiting, free) = (VecDeque::new(), Vec::new());
        Ok(Self { view, version: 0, quiescence, next: 0, waiting, free })
    }

    /// What other cores read. Views taken earlier lead to it: [`SlotDirectory::latest`].
    #[must_use]
    pub fn view(&self) -> Arc<SlotDirectory> {
        Arc::clone(&self.view)
    }

    /// Changes whenever [`Self::view`] returns another object.
    #[must_use]
    pub fn view_version(&self) -> u64 {
        self.version
    }

    /// Reserves a slot for an object: a freed one whose epoch has passed, else the next. Not live.
    ///
    /// # Errors
    /// [`IndexError::Full`] or [`IndexError::Memory`]; nothing changed.
    pub fn push(&mut self, id: [u8; ID_BYTES]) -> Result<Slot, IndexError> {
        while let Some(&(epoch, slot)) = self.waiting.front() {
            if !self.quiescence.passed(epoch) {
                break;
            }
            self.waiting.pop_front();
            self.free.push(slot);
        }
        let slot = match self.free.last() {
            Some(&slot) => slot,
            None => self.next,
        };
        self.place(slot, id)?;
        if self.free.pop().is_none() {
            self.next += 1;
        }
        Ok(slot)
    }

    /// Takes a given slot for an object, as a log replay dictates. The slot must not be occupied.
    ///
    /// # Errors
    /// [`IndexError::SlotTaken`], [`IndexError::Full`] or [`IndexError::Memory`].
    pub fn push_at(&mut self, slot: Slot, id: [u8; ID_BYTES]) -> Result<(), IndexError> {
        if self.view.occupied.bit(slot as usize) {
            return Err(IndexError::SlotTaken { slot });
        }
        self.place(slot, id)?;
        if slot >= self.next {
            self.free.extend((self.next..slot).rev());
            self.next = slot + 1;
        } else {
            self.free.retain(|&free| free != slot);
            self.waiting.retain(|&(_, free)| free != slot);
        }
        Ok(())
    }

    fn place(&mut self, slot: Slot, id: [u8; ID_BYTES]) -> Result<(), IndexError> {
        if slot >= limits::SLOTS_MAX {
            return Err(IndexError::Full { maximum: limits::SLOTS_MAX });
        }
        if slot >= self.view.capacity {
            self.grow(slot + 1)?;
        }
        let view = &*self.view;
        view.ids.commit((slot as usize + 1) * ID_BYTES)?;
        for bits in [&view.occupied, &view.live, &view.dead] {
            bits.commit_bits(slot as usize + 1)?;
        }
        let words = view.ids.longs(slot as usize * 2, 2);
        let (low, high) = id.split_at(8);
        for (word, half) in words.iter().zip([low, high]) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(half);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        view.occupied.set_bit(slot as usize);
        let published = view.published.load(Ordering::Relaxed).max(slot + 1);
        view.published.store(published, Ordering::Release);
        Ok(())
    }

    fn grow(&mut self, needed: u32) -> Result<(), IndexError> {
        let old = &*self.view;
        let slots = reservation_slots(ID_BYTES, needed, old.capacity);
        let mut new = SlotDirectory::reserve(slots, needed)?;
        let used = old.published() as usize;
        new.ids.copy_from(&old.ids, used * ID_BYTES)?;
        let bytes = used.div_ceil(64) * 8;
        new.occupied.copy_from(&old.occupied, bytes)?;
        new.live.copy_from(&old.live, bytes)?;
        new.dead.copy_from(&old.dead, bytes)?;
        new.published = AtomicU32::new(old.published());
        new.live_count = AtomicU32::new(old.live_count());
        new.dead_count = AtomicU32::new(old.dead_count());
        let new = Arc::new(new);
        // Set once: only the newest view is outgrown.
        let _first = self.view.successor.set(Arc::clone(&new));
        self.view = new;
        self.version += 1;
        Ok(())
    }

    /// Makes a pushed slot live, after every vector index of the object holds it.
    ///
    /// Panics: the slot is not occupied, or live or dead already (a caller bug).
    pub fn publish(&mut self, slot: Slot) {
        let view = &*self.view;
        assert!(view.occupied.bit(slot as usize), "publish follows push");
        assert!(!view.is_live(slot) && !view.is_dead(slot), "a slot goes live once");
        view.live.set_bit(slot as usize);
        view.live_count.store(view.live_count() + 1, Ordering::Release);
    }

    /// Takes a slot out of all results. Also discards a slot that was pushed and never published.
    ///
    /// Panics: the slot is not occupied or is dead already (a caller bug).
    pub fn kill(&mut self, slot: Slot) {
        let view = &*self.view;
        assert!(view.occupied.bit(slot as usize), "only an occupied slot can die");
        assert!(!view.is_dead(slot), "a slot dies once");
        if view.is_live(slot) {
            view.live.clear_bit(slot as usize);
            view.live_count.store(view.live_count() - 1, Ordering::Release);
        }
        view.dead.set_bit(slot as usize);
        view.dead_count.store(view.dead_count() + 1, Ordering::Release);
    }

    /// Gives a dead slot back, once no vector index holds it. `epoch` comes from
    /// [`Quiescence::retire_epoch`] after that; `push` hands the slot out when the epoch has
    /// passed.
    ///
    /// Panics: the slot is not dead (a caller bug).
    pub fn free(&mut self, slot: Slot, epoch: u64) {
        let view = &*self.view;
        assert!(view.is_dead(slot), "only a dead slot can be freed");
        view.dead.clear_bit(slot as usize);
        view.occupied.clear_bit(slot as usize);
        view.dead_count.store(view.dead_count() - 1, Ordering::Release);
        self.waiting.push_back((epoch, slot));
    }

    /// Number of slots that wait for reuse.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len() + self.waiting.len()
    }

    /// Starts to fill a directory from its image of `slots` slots.
    ///
    /// # Errors
    /// [`IndexError::Full`] or [`IndexError::Memory`].
    pub fn restore(
        slots: u32,
        quiescence: Arc<Quiescence>,
    ) -> Result<DirectoryRestorer, IndexError> {
        if slots > limits::SLOTS_MAX {
            return Err(IndexError::Full { maximum: limits::SLOTS_MAX });
        }
        let reserved = reservation_slots(ID_BYTES, slots, 0);
        let view = SlotDirectory::reserve(reserved, slots)?;
        view.ids.commit(slots as usize * ID_BYTES)?;
        for bits in [&view.occupied, &view.live, &view.dead] {
            bits.commit_bits(slots as usize)?;
        }
        Ok(DirectoryRestorer { view, slots, quiescence })
    }
}

/// A directory that is being filled from an image.
#[derive(Debug)]
pub struct DirectoryRestorer {
    pub(crate) view: SlotDirectory,
    pub(crate) slots: u32,
    quiescence: Arc<Quiescence>,
}

impl DirectoryRestorer {
    /// Checks the image and makes the directory. Occupied slots that are not live count as dead
    /// until the vector indexes report them freed; slots that nothing occupies are free at once.
    ///
    /// # Errors
    /// [`IndexError::Image`] when a slot is live without being occupied or lies beyond the end.
    pub fn finish(self) -> Result<DirectoryWriter, IndexError> {
        let Self { mut view, slots, quiescence } = self;
        let bad = |section, index: usize, problem| {
            Err(IndexError::Image { section, offset: index as u64 * 8, problem })
        };
        let (mut live_count, mut dead_count) = (0, 0);
        let mut free = Vec::new();
        for index in 0..(slots as usize).div_ceil(64) {
            let (occupied, live) = (view.occupied.long(index), view.live.long(index));
            let known = (slots as usize - index * 64).min(64);
            let mask = if known == 64 { u64::MAX } else { (1 << known) - 1 };
            if occupied & !mask != 0 {
                return bad("occupied", index, "a slot beyond the end");
            }
            if live & !occupied != 0 {
                return bad("live", index, "live without being occupied");
            }
            let dead = occupied & !live;
            view.dead.longs(index, 1)[0].store(dead, Ordering::Relaxed);
            live_count += live.count_ones();
            dead_count += dead.count_ones();
            let mut rest = !occupied & mask;
            while rest != 0 {
                free.push(index as u32 * 64 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
        free.reverse();
        view.published = AtomicU32::new(slots);
        view.live_count = AtomicU32::new(live_count);
        view.dead_count = AtomicU32::new(dead_count);
        let waiting = VecDeque::new();
        Ok(DirectoryWriter {
            view: Arc::new(view),
            version: 0,
            quiescence,
            next: slots,
            waiting,
            free,
        })
    }
}

/// How many slots to reserve, so that small shards stay small and large ones need not move again.
pub(crate) fn reservation_slots(stride_bytes: usize, needed: u32, current: u32) -> u32 {
    let (needed, current) = (needed as usize, current as usize);
    let small = needed.max(limits::SLOTS_MIN).max(current * limits::ARENA_SMALL_FACTOR);
    let slots = if small.saturating_mul(stride_bytes) <= limits::ARENA_SMALL_BYTES {
        small
    } else {
        let large = limits::ARENA_LARGE_BYTES / stride_bytes;
        let further = current.saturating_mul(limits::ARENA_GROWTH_FACTOR);
        large.max(further).max(needed.saturating_mul(2))
    };
    (slots.next_multiple_of(64) as u64).min(u64::from(limits::SLOTS_MAX) / 64 * 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> [u8; 16] {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn a_slot_is_reused_only_after_its_epoch() {
        let quiescence = Quiescence::new(1);
        let reader = quiescence.reader(0);
        let mut writer = DirectoryWriter::new(0, Arc::clone(&quiescence)).unwrap();
        let view = writer.view();
        for number in 0..3 {
            let slot = writer.push(id(number)).unwrap();
            assert!(!view.is_live(slot));
            writer.publish(slot);
        }
        assert_eq!((view.live_count(), view.published()), (3, 3));
        let pin = reader.pin();
        writer.kill(1);
        assert!(!view.is_live(1) && view.is_dead(1));
        writer.free(1, quiescence.retire_epoch());
        assert_eq!(writer.push(id(3)).unwrap(), 3);
        drop(pin);
        assert_eq!(writer.push(id(4)).unwrap(), 1);
        assert_eq!(view.id(1), id(4));
        assert_eq!((view.live_count(), view.dead_count()), (2, 0));
    }

    #[test]
    fn growth_keeps_ids_and_states() {
        let mut writer = DirectoryWriter::new(0, Quiescence::new(1)).unwrap();
        let first = writer.view();
        let count = first.capacity + 10;
        for number in 0..count {
            let slot = writer.push(id(number.into())).unwrap();
            writer.publish(slot);
        }
        assert_eq!(writer.view_version(), 1);
        let view = writer.view();
        for slot in [0, 100, first.capacity - 1, count - 1] {
            assert!(view.is_live(slot));
            assert_eq!(view.id(slot), id(slot.into()));
        }
        assert!(!view.is_live(count) && !view.is_live(u32::MAX));
        assert_eq!(view.live_count(), count);
    }

    #[test]
    fn a_replay_may_dictate_slots() {
        let mut writer = DirectoryWriter::new(0, Quiescence::new(1)).unwrap();
        writer.push_at(2, id(2)).unwrap();
        assert!(matches!(writer.push_at(2, id(2)), Err(IndexError::SlotTaken { slot: 2 })));
        writer.push_at(0, id(0)).unwrap();
        assert_eq!(writer.push(id(1)).unwrap(), 1);
        assert_eq!(writer.push(id(3)).unwrap(), 3);
    }
}
