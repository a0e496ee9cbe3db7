//! When may a freed slot be used again: once every core has let go of what it could have seen.
//!
//! The owner of a shard makes something unreachable, then advances the global epoch. A reader that
//! pins later sees an epoch at least as new and cannot reach it any more; a reader that pinned
//! earlier still may. So the thing is free when no core holds a pin older than the epoch.

use core::cell::RefCell;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// No pin is held.
const IDLE: u64 = u64::MAX;

/// One counter per cache line pair, so that cores do not disturb each other.
#[derive(Debug)]
#[repr(align(128))]
struct CoreEpoch(AtomicU64);

/// The registry of a node: the global epoch, and the oldest epoch each core still reads in.
#[derive(Debug)]
pub struct Quiescence {
    global: AtomicU64,
    cores: Box<[CoreEpoch]>,
}

impl Quiescence {
    /// A registry for `core_count` readers.
    #[must_use]
    pub fn new(core_count: usize) -> Arc<Self> {
        let cores = (0..core_count).map(|_| CoreEpoch(AtomicU64::new(IDLE))).collect();
        Arc::new(Self { global: AtomicU64::new(1), cores })
    }

    /// The reader of one core. Ask once per core and clone it there.
    ///
    /// Panics: `core` is not below the core count (a caller bug).
    #[must_use]
    pub fn reader(self: &Arc<Self>, core: usize) -> Reader {
        assert!(core < self.cores.len(), "core {core} of {}", self.cores.len());
        let pins = Rc::new(RefCell::new(VecDeque::new()));
        Reader { shared: Arc::clone(self), core, pins }
    }

    /// Home core, after making something unreachable: advances the epoch and returns the one that
    /// must pass before the thing may be used again.
    pub fn retire_epoch(&self) -> u64 {
        self.global.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether no core holds a pin older than `epoch`. Cores without pins count as passed.
    #[must_use]
    pub fn passed(&self, epoch: u64) -> bool {
        // Pairs with the fence in `pin`: either the pin is seen here, or its holder sees everything
        // that was done before the epoch was retired.
        fence(Ordering::SeqCst);
        self.cores.iter().all(|core| core.0.load(Ordering::Acquire) >= epoch)
    }
}

/// Pins held by one core: (epoch, how many), oldest first.
type Pins = Rc<RefCell<VecDeque<(u64, usize)>>>;

/// Makes pins for the searches of one core; stays on that core.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Quiescence>,
    core: usize,
    pins: Pins,
}

impl Reader {
    /// Declares that this core reads from now on until the pin is dropped.
    ///
    /// Take views under the pin and drop the pin after the last use of a slot. Many pins may be
    /// held at once. Cost: one fence, no allocation in the usual case.
    #[must_use]
    pub fn pin(&self) -> Pin {
        let mut pins = self.pins.borrow_mut();
        let mine = &self.shared.cores[self.core].0;
        let epoch = self.shared.global.load(Ordering::Acquire);
        match pins.back_mut() {
            Some((last, count)) if *last == epoch => *count += 1,
            _ => {
                pins.push_back((epoch, 1));
                if pins.len() == 1 {
                    mine.store(epoch, Ordering::Release);
                    fence(Ordering::SeqCst);
                }
            }
        }
        Pin { reader: self.clone(), epoch }
    }
}

/// Keeps every slot that was reachable when it was taken from being reused.
#[derive(Debug)]
pub struct Pin {
    reader: Reader,
    epoch: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.reader.pins.borrow_mut();
        if let Some((_, count)) = pins.iter_mut().find(|(epoch, _)| *epoch == self.epoch) {
            *count -= 1;
        }
        while pins.front().is_some_and(|(_, count)| *count == 0) {
            pins.pop_front();
        }
        let oldest = pins.front().map_or(IDLE, |(epoch, _)| *epoch);
        self.reader.shared.cores[self.reader.core].0.store(oldest, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_passes_when_the_older_pins_are_gone() {
        let registry = Quiescence::new(2);
        let (first, second) = (registry.reader(0), registry.reader(1));
        let old = first.pin();
        let epoch = registry.retire_epoch();
        assert!(!registry.passed(epoch));
        let young = second.pin();
        assert!(!registry.passed(epoch));
        drop(old);
        assert!(registry.passed(epoch));
        let later = registry.retire_epoch();
        assert!(!registry.passed(later));
        drop(young);
        assert!(registry.passed(later));
    }

    #[test]
    fn the_oldest_of_many_pins_of_a_core_counts() {
        let registry = Quiescence::new(1);
        let reader = registry.reader(0);
        let oldest = reader.pin();
        let epoch = registry.retire_epoch();
        let newer = reader.pin();
        let newest = reader.pin();
        drop(newer);
        assert!(!registry.passed(epoch));
        drop(oldest);
        assert!(registry.passed(epoch));
        let next = registry.retire_epoch();
        assert!(!registry.passed(next));
        drop(newest);
        assert!(registry.passed(next));
    }
}
