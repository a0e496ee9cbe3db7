//! The home core's side of a vector index: store, link, sweep.

pub(crate) mod link;
pub(crate) mod select;
mod sweep;

use core::sync::atomic::Ordering;
use std::sync::Arc;

use crate::Slot;
use crate::distance::kernels;
use crate::error::IndexError;
use crate::limits;
use crate::params::{IndexParams, Metric};
use crate::planes::PlaneScratch;
use crate::search::filtered::Prices;
use crate::view::VectorView;
pub use crate::writer::link::LinkScratch;
use crate::writer::sweep::Sweep;
pub use crate::writer::sweep::SweepState;

/// One vector index, owned by the home core of its shard.
#[derive(Debug)]
pub struct VectorWriter {
    view: Arc<VectorView>,
    version: u64,
    sweep: Sweep,
    scratch: LinkScratch,
    /// The vector being stored, of unit length.
    unit: Vec<f32>,
    /// Its codes.
    planes: PlaneScratch,
}

impl VectorWriter {
    /// An empty index.
    ///
    /// # Errors
    /// [`IndexError::Parameter`] or [`IndexError::Memory`].
    pub fn new(params: IndexParams) -> Result<Self, IndexError> {
        params.validate()?;
        let needed = params.capacity_hint;
        Ok(Self::from_view(VectorView::reserve(params, needed, 0, 0)?))
    }

    pub(crate) fn from_view(view: VectorView) -> Self {
        Self {
            view: Arc::new(view),
            version: 0,
            sweep: Sweep::default(),
            scratch: LinkScratch::default(),
            unit: Vec::new(),
            planes: PlaneScratch::default(),
        }
    }

    /// What other cores read. Views taken earlier lead to it: [`VectorView::latest`].
    #[must_use]
    pub fn view(&self) -> Arc<VectorView> {
        Arc::clone(&self.view)
    }

    /// Changes whenever [`Self::view`] returns another object.
    #[must_use]
    pub fn view_version(&self) -> u64 {
        self.version
    }

    /// Stores the vector of a slot. From now on searches find it by scanning, once the directory
    /// shows the slot as live. Under cosine a copy of unit length is kept, and the length beside
    /// it.
    ///
    /// # Errors
    /// [`IndexError::Dimension`], [`IndexError::NotFinite`], [`IndexError::ZeroVector`],
    /// [`IndexError::SlotTaken`], [`IndexError::Full`], [`IndexError::Memory`]; nothing changed.
    pub fn store(&mut self, slot: Slot, vector: &[f32]) -> Result<(), IndexError> {
        let norm = check_vector(&self.view.params, vector)?;
        if self.view.holds(slot) {
            return Err(IndexError::SlotTaken { slot });
        }
        if slot >= limits::SLOTS_MAX {
            return Err(IndexError::Full { maximum: limits::SLOTS_MAX });
        }
        if slot >= self.view.capacity {
            self.grow(slot + 1, 0)?;
        }
        let view = &*self.view;
        view.commit(slot)?;
        if view.params.metric == Metric::Cosine {
            let unit = &mut self.unit;
            unit.clear();
            unit.extend(vector.iter().map(|x| x / norm));
            view.planes.write(slot, unit, &mut self.planes);
            view.norms.words(slot as usize, 1)[0].store(norm.to_bits(), Ordering::Relaxed);
        } else {
            view.planes.write(slot, vector, &mut self.planes);
        }
        view.unlinked.set_bit(slot as usize);
        view.present.set_bit(slot as usize);
        let high = view.high.load(Ordering::Relaxed).max(slot + 1);
        view.high.store(high, Ordering::Release);
        let present = view.present_count.load(Ordering::Relaxed) + 1;
        view.present_count.store(present, Ordering::Release);
        view.tail_count.store(view.tail_count.load(Ordering::Relaxed) + 1, Ordering::Release);
        view.widen_tail(slot);
        Ok(())
    }

    /// Number of slots that wait to be linked; zero while the index is one that only scans.
    #[must_use]
    pub fn backlog(&self) -> u32 {
        if self.view.wants_graph() { self.view.tail_count.load(Ordering::Relaxed) } else { 0 }
    }

    /// Rows whose scan costs a search about as much as its walk with a pool of `ef` does.
    #[must_use]
    pub fn rows_scanned_per_walk(&self, ef: u32) -> u32 {
        let prices = Prices::of(&self.view);
        let rows = prices.plain(u64::from(ef)) / prices.scan(1).max(1);
        u32::try_from(rows).unwrap_or(u32::MAX)
    }

    /// Appends up to `limit` slots that wait to be linked, in slot order.
    pub fn next_unlinked(&self, out: &mut Vec<Slot>, limit: usize) {
        if !self.view.wants_graph() {
            return;
        }
        let mut left = limit;
        for word in self.view.tail_range() {
            let mut bits = self.view.unlinked.long(word);
            while bits != 0 && left > 0 {
                out.push(word as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
    }

    /// Number of dead slots that this index still holds: killed here, or found by a sweep.
    #[must_use]
    pub fn dead_count(&self) -> u32 {
        self.sweep.dead_count()
    }

    /// A number over the graph: links of all layers, levels and entry. The same parameters, slots,
    /// vectors, order and batch size give the same number.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        let view = &*self.view;
        let mut sum = crate::view::mix(view.entry().map_or(0, |entry| u64::from(entry.slot) + 1));
        for slot in 0..view.high.load(Ordering::Relaxed) {
            if !view.is_linked(slot) {
                continue;
            }
            for level in 0..=view.level_of(slot) {
                for neighbour in view.neighbours(slot, level) {
                    sum = crate::view::mix(sum ^ u64::from(neighbour));
                }
                sum = crate::view::mix(sum ^ (u64::from(slot) << 32 | level as u64));
            }
        }
        sum
    }

    /// Moves everything to larger reservations and publishes a new view.
    fn grow(&mut self, needed: u32, upper_needed: u32) -> Result<(), IndexError> {
        let old = &*self.view;
        let needed = needed.max(old.capacity);
        let mut new = VectorView::reserve(old.params.clone(), needed, old.capacity, upper_needed)?;
        new.copy_from(old)?;
        let new = Arc::new(new);
        // Set once: only the newest view is outgrown.
        let _first = self.view.successor.set(Arc::clone(&new));
        self.view = new;
        self.version += 1;
        Ok(())
    }
}

/// Checks a vector against the parameters and returns its length (one unless cosine).
///
/// # Errors
/// [`IndexError::Dimension`], [`IndexError::NotFinite`] or [`IndexError::ZeroVector`].
fn check_vector(params: &IndexParams, vector: &[f32]) -> Result<f32, IndexError> {
    if vector.len() != params.dims as usize {
        return Err(IndexError::Dimension { expected: params.dims, found: vector.len() });
    }
    if let Some(index) = vector.iter().position(|x| !x.is_finite()) {
        return Err(IndexError::NotFinite { index });
    }
    if params.metric != Metric::Cosine {
        return Ok(1.0);
    }
    let norm = (-kernels(Metric::Dot).pair(vector, vector)).sqrt();
    // A norm that is subnormal or infinite has lost the direction as well.
    if norm.is_normal() { Ok(norm) } else { Err(IndexError::ZeroVector) }
}

impl VectorView {
    /// Owner only: makes the rows of a slot accessible.
    fn commit(&self, slot: Slot) -> Result<(), IndexError> {
        let slots = slot as usize + 1;
        self.planes.commit(slots)?;
        if self.params.metric == Metric::Cosine {
            self.norms.commit(slots * size_of::<f32>())?;
        }
        self.links.commit(slots * self.layout.base_words * size_of::<u32>())?;
        self.upper_of.commit(slots * size_of::<u32>())?;
        self.present.commit_bits(slots)?;
        self.unlinked.commit_bits(slots)
    }

    /// Commits everything for `slots` slots and `upper_rows` upper rows, before the view is shared.
    pub(crate) fn commit_all(&self, slots: u32, upper_rows: u32) -> Result<(), IndexError> {
        if let Some(last) = slots.checked_sub(1) {
            self.commit(last)?;
        }
        self.upper.commit(upper_rows as usize * self.layout.upper_words * size_of::<u32>())
    }

    /// Fills a fresh view with what another holds.
    fn copy_from(&mut self, old: &Self) -> Result<(), IndexError> {
        let slots = old.high.load(Ordering::Relaxed);
        let upper_rows = old.upper_rows.load(Ordering::Relaxed);
        self.commit_all(slots, upper_rows)?;
        let (count, word) = (slots as usize, size_of::<u32>());
        let bits = count.div_ceil(64) * size_of::<u64>();
        self.planes.copy_from(&old.planes, count)?;
        if self.params.metric == Metric::Cosine {
            self.norms.copy_from(&old.norms, count * word)?;
        }
        self.links.copy_from(&old.links, count * self.layout.base_words * word)?;
        self.upper_of.copy_from(&old.upper_of, count * word)?;
        self.upper.copy_from(&old.upper, upper_rows as usize * self.layout.upper_words * word)?;
        self.present.copy_from(&old.present, bits)?;
        self.unlinked.copy_from(&old.unlinked, bits)?;
        self.set_entry(old.entry());
        for (new, old) in [
            (&self.high, &old.high),
            (&self.upper_rows, &old.upper_rows),
            (&self.present_count, &old.present_count),
            (&self.tail_count, &old.tail_count),
        ] {
            new.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.tail_words.store(old.tail_words.load(Ordering::Relaxed), Ordering::Relaxed);
        self.sequence.store(old.sequence.load(Ordering::Relaxed), Ordering::Relaxed);
        self.experience.copy_from(&old.experience);
        Ok(())
    }

    /// Owner only: the tail set may hold a bit for this slot from now on.
    pub(crate) fn widen_tail(&self, slot: Slot) {
        let word = u64::from(slot / 64);
        let range = self.tail_range();
        let (low, end) = if range.is_empty() {
            (word, word + 1)
        } else {
            (word.min(range.start as u64), (word + 1).max(range.end as u64))
        };
        self.tail_words.store(low << 32 | end, Ordering::Release);
    }

    /// Owner only: a slot leaves the tail; whole empty words at the front leave the range.
    pub(crate) fn leave_tail(&self, slot: Slot) {
        self.unlinked.clear_bit(slot as usize);
        self.tail_count.store(self.tail_count.load(Ordering::Relaxed) - 1, Ordering::Release);
        let mut range = self.tail_range();
        while !range.is_empty() && self.unlinked.long(range.start) == 0 {
            range.start += 1;
        }
        self.tail_words.store((range.start as u64) << 32 | range.end as u64, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
