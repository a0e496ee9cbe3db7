//! The published side of a vector index: what any core reads.
//!
//! Layout. Vectors and codes lie in planes (see the module of that name). A link row of layer 0 is
//! `2 m` words, of an upper layer `m` words, each padded to a line; a word is `slot + 1`, zero ends
//! the row. Compared with a count in front this keeps a row of the usual `m` = 16 at exactly two
//! lines, and fresh memory is a valid empty row. Rows of the upper layers lie in a side arena:
//! `upper_of[slot]` is one plus the number of its first row, one row per layer from 1 to its level.
//! A slot's level is a pure function of the seed and the slot, so a reused slot keeps its rows.
//!
//! Link words are relaxed atomics. A reader fences after reading a row and the writer stores links
//! with release ordering, so the vector behind any id read is complete. A row that is being
//! rewritten shows old and new ids mixed; both are valid.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::Slot;
use crate::arena::Arena;
use crate::codes::{Codec, CodecScratch};
use crate::directory::reservation_slots;
use crate::distance::{Kernels, kernels};
use crate::error::IndexError;
use crate::limits::{LEVEL_MAX, LINE_WORDS, SLOTS_MAX, UPPER_ROWS_SPARE_MAX, UPPER_ROWS_SPARE_MIN};
use crate::params::{IndexKind, IndexParams, Metric};
use crate::planes::{PlaneBytes, Planes, plane_bytes};
use crate::search::SearchStats;
use crate::search::filtered::Experience;

/// Sizes that follow from the parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Links a node can hold at layer 0.
    pub(crate) base_links: usize,
    /// Words from one layer-0 row to the next.
    pub(crate) base_words: usize,
    /// Links a node can hold at an upper layer.
    pub(crate) upper_links: usize,
    /// Words from one upper row to the next.
    pub(crate) upper_words: usize,
}

impl Layout {
    pub(crate) fn of(params: &IndexParams) -> Self {
        let m = usize::from(params.m);
        Self {
            base_links: 2 * m,
            base_words: (2 * m).next_multiple_of(LINE_WORDS),
            upper_links: m,
            upper_words: m.next_multiple_of(LINE_WORDS),
        }
    }
}

/// The point where a descent starts: the node on the highest layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    pub(crate) level: usize,
}

/// One vector index as any core may read it.
#[derive(Debug)]
pub struct VectorView {
    pub(crate) params: IndexParams,
    pub(crate) layout: Layout,
    pub(crate) kernels: &'static Kernels,
    pub(crate) capacity: u32,
    pub(crate) upper_capacity: u32,
    pub(crate) planes: Planes,
    pub(crate) norms: Arena,
    pub(crate) links: Arena,
    pub(crate) upper_of: Arena,
    pub(crate) upper: Arena,
    /// Slots that hold a vector.
    pub(crate) present: Arena,
    /// Slots that hold a vector and are not in the graph.
    pub(crate) unlinked: Arena,
    /// `level << 32 | slot + 1`; zero while the graph is empty.
    entry: AtomicU64,
    /// Slots below this number have held a vector at some time.
    pub(crate) high: AtomicU32,
    pub(crate) upper_rows: AtomicU32,
    pub(crate) present_count: AtomicU32,
    pub(crate) tail_count: AtomicU32,
    /// Words of `unlinked` that may hold bits: `low << 32 | end`.
    pub(crate) tail_words: AtomicU64,
    /// Counts the changes of link rows: what was computed from an earlier state is out of date.
    pub(crate) sequence: AtomicU64,
    /// What filtered searches have cost.
    pub(crate) experience: Experience,
    /// The view that took over when this one was outgrown.
    pub(crate) successor: OnceLock<Arc<VectorView>>,
}

/// Figures about an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexStats {
    /// Slots that hold a vector, dead ones included.
    pub slots: u32,
    /// Slots in the graph.
    pub linked: u32,
    /// Slots that are scanned because they are not in the graph.
    pub tail: u32,
    /// Committed bytes of vectors, codes and lengths.
    pub vector_bytes: usize,
    /// Committed bytes of the links of layer 0.
    pub link_bytes: usize,
    /// Committed bytes of the upper layers.
    pub upper_bytes: usize,
    /// Committed bytes of the slot sets.
    pub set_bytes: usize,
    /// Bytes that the stored vectors, codes and links really occupy.
    pub used_bytes: usize,
    /// Bytes that each plane holds for a slot.
    pub planes: PlaneBytes,
    /// Highest layer, zero while the graph is empty.
    pub level_max: usize,
    /// Where searches start.
    pub entry: Option<Slot>,
    /// Instruction set of the kernels.
    pub kernel: &'static str,
}

impl VectorView {
    pub(crate) fn reserve(
        params: IndexParams,
        needed: u32,
        current: u32,
        upper_needed: u32,
    ) -> Result<Self, IndexError> {
        params.validate()?;
        let layout = Layout::of(&params);
        let codec = Codec::new(params.codes, params.dims as usize, params.metric).map(Arc::new);
        let bytes = plane_bytes(&params, codec.as_deref());
        let largest = bytes.raw.max(bytes.walk).max(bytes.refine);
        let mut capacity = reservation_slots(largest, needed, current);
        loop {
            match Self::reserve_exact(&params, layout, &codec, capacity, (needed, upper_needed)) {
                // A machine or container with little address space gets a smaller reservation.
                Err(IndexError::Memory { .. }) if capacity / 2 >= needed.max(64) => {
                    capacity = (capacity / 2).next_multiple_of(64);
                }
                other => return other,
            }
        }
    }

    fn reserve_exact(
        params: &IndexParams,
        layout: Layout,
        codec: &Option<Arc<Codec>>,
        capacity: u32,
        (needed, upper_needed): (u32, u32),
    ) -> Result<Self, IndexError> {
        let (slots, expected) = (capacity as usize, needed as usize);
        // A node has 1 / (m - 1) upper rows on average; twice that and some more is never reached
        // by a fair draw, and growth covers the rest.
        let spare = (slots / 8).clamp(UPPER_ROWS_SPARE_MIN, UPPER_ROWS_SPARE_MAX);
        let per_slot = |count: usize| 2 * count / (usize::from(params.m) - 1) + spare;
        let upper_rows = per_slot(slots).max(upper_needed as usize);
        let word = size_of::<u32>();
        let norms = if params.metric == Metric::Cosine { word } else { 0 };
        let bits = |count: usize| count.div_ceil(8);
        Ok(Self {
            layout,
            kernels: kernels(params.metric),
            capacity,
            upper_capacity: upper_rows.min(SLOTS_MAX as usize) as u32,
            planes: Planes::reserve(params, codec.clone(), slots, expected)?,
            norms: Arena::reserve(slots * norms, expected * norms)?,
            links: Arena::reserve(
                slots * layout.base_words * word,
                expected * layout.base_words * word,
            )?,
            upper_of: Arena::reserve(slots * word, expected * word)?,
            upper: Arena::reserve(upper_rows * layout.upper_words * word, 0)?,
            present: Arena::reserve(bits(slots), bits(expected))?,
            unlinked: Arena::reserve(bits(slots), bits(expected))?,
            entry: AtomicU64::new(0),
            high: AtomicU32::new(0),
            upper_rows: AtomicU32::new(0),
            present_count: AtomicU32::new(0),
            tail_count: AtomicU32::new(0),
            tail_words: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            experience: Experience::default(),
            successor: OnceLock::new(),
            params: params.clone(),
        })
    }

    /// Bytes of rows and links that a search with these figures read, in whole cache lines.
    #[must_use]
    pub fn bytes_touched(&self, stats: &SearchStats) -> u64 {
        let lines = |bytes: usize| bytes.next_multiple_of(LINE_WORDS * size_of::<u32>()) as u64;
        let planes = self.planes.bytes;
        let walk = match planes.walk {
            0 => lines(planes.raw),
            walk => lines(walk) + lines(planes.factors),
        };
        let best = if planes.raw > 0 { planes.raw } else { planes.walk + planes.refine };
        let links = lines(self.layout.base_words * size_of::<u32>());
        let signs = stats.glanced * lines(planes.signs);
        signs + stats.evaluations * walk + stats.rescored * lines(best) + stats.hops * links
    }

    /// The newest view of the same index: this one, or what it grew into.
    ///
    /// A reader may keep any view for as long as it likes and calls this under each pin; an
    /// outgrown view no longer follows its index and may show vectors of slots that were reused
    /// since.
    #[must_use]
    pub fn latest(self: &Arc<Self>) -> Arc<Self> {
        let mut newest = self;
        while let Some(next) = newest.successor.get() {
            newest = next;
        }
        Arc::clone(newest)
    }

    /// Parameters of the index.
    #[must_use]
    pub fn params(&self) -> &IndexParams {
        &self.params
    }

    /// Whether the slot holds a vector of this index.
    #[inline]
    #[must_use]
    pub fn holds(&self, slot: Slot) -> bool {
        self.present.bit(slot as usize)
    }

    /// Whether the index holds the vectors themselves: [`Self::vector`] needs them.
    #[must_use]
    pub fn has_vectors(&self) -> bool {
        self.planes.has_raw()
    }

    /// The vector of a slot as stored, `[dims]`; of unit length under cosine. Zeros for a slot
    /// that never held one: ask [`Self::holds`] when in doubt.
    ///
    /// The caller holds a pin and got the slot from a hit or from the directory. A slot that died
    /// since keeps its vector for as long as the pin is held. Panics: no slot that high was ever
    /// stored, or the index keeps no vectors (caller bugs).
    #[must_use]
    pub fn vector(&self, slot: Slot) -> &[f32] {
        assert!(slot < self.high.load(Ordering::Acquire), "slot {slot} was stored once");
        assert!(self.has_vectors(), "the index keeps codes alone: decode them");
        &self.planes.raw_row(slot)[..self.params.dims as usize]
    }

    /// Writes the vector of a slot as [`Self::vector`] gives it, or what its codes stand for where
    /// the index keeps no vectors: off by about a ten-thousandth of its length.
    ///
    /// `out` is `[dims]`. Panics: as [`Self::vector`]; another length of `out`. Cost: a copy, or a
    /// rotation and an allocation.
    pub fn decode(&self, slot: Slot, out: &mut [f32]) {
        assert!(slot < self.high.load(Ordering::Acquire), "slot {slot} was stored once");
        match &self.planes.codec {
            Some(codec) if !self.has_vectors() => {
                let planes = &self.planes;
                let (walk, factors) = (planes.walk_row(slot), planes.factor_row(slot));
                let mut scratch = CodecScratch::default();
                codec.decode(walk, factors, planes.refine_row(slot), &mut scratch, out);
            }
            _ => out.copy_from_slice(self.vector(slot)),
        }
    }

    /// Length of the vector before it was stored: multiply to get the original back. One for every
    /// metric but cosine.
    #[must_use]
    pub fn norm(&self, slot: Slot) -> f32 {
        if self.params.metric != Metric::Cosine {
            return 1.0;
        }
        f32::from_bits(self.norms.words(slot as usize, 1)[0].load(Ordering::Relaxed))
    }

    /// Counts and sizes. Cost: a handful of loads.
    #[must_use]
    pub fn stats(&self) -> IndexStats {
        let slots = self.present_count.load(Ordering::Relaxed);
        let tail = self.tail_count.load(Ordering::Relaxed);
        let high = self.high.load(Ordering::Relaxed) as usize;
        let upper_rows = self.upper_rows.load(Ordering::Relaxed) as usize;
        let word = size_of::<u32>();
        let norm = if self.params.metric == Metric::Cosine { word } else { 0 };
        let planes = self.planes.bytes;
        let per_slot = planes.total() + self.layout.base_words * word + word + norm;
        let upper_used = upper_rows * self.layout.upper_words * word;
        let entry = self.entry();
        IndexStats {
            slots,
            linked: slots.saturating_sub(tail),
            tail,
            vector_bytes: self.planes.committed_bytes() + self.norms.committed_bytes(),
            link_bytes: self.links.committed_bytes(),
            upper_bytes: self.upper.committed_bytes() + self.upper_of.committed_bytes(),
            set_bytes: self.present.committed_bytes() + self.unlinked.committed_bytes(),
            used_bytes: high * per_slot + upper_used + high / 4,
            planes,
            level_max: entry.map_or(0, |entry| entry.level),
            entry: entry.map(|entry| entry.slot),
            kernel: self
                .planes
                .codec
                .as_ref()
                .map_or(self.kernels.set.name(), |codec| codec.kernel_name()),
        }
    }

    /// Link words of a slot on a layer. Layer 0 exists for every slot below `high`; an upper layer
    /// only for slots that were linked on it, any other is an empty row.
    #[inline]
    pub(crate) fn link_words(&self, slot: Slot, level: usize) -> &[AtomicU32] {
        if level == 0 {
            let start = slot as usize * self.layout.base_words;
            return self.links.words(start, self.layout.base_links);
        }
        let first = self.upper_of.words(slot as usize, 1)[0].load(Ordering::Acquire);
        if first == 0 {
            return &[];
        }
        let row = first as usize - 1 + level - 1;
        self.upper.words(row * self.layout.upper_words, self.layout.upper_links)
    }

    /// Asks for the layer-0 links of a slot that will soon be expanded.
    #[inline(always)]
    pub(crate) fn prefetch_links(&self, slot: Slot) {
        let start = slot as usize * self.layout.base_words;
        for line in 0..self.layout.base_words / LINE_WORDS {
            self.links.prefetch_word(start + line * LINE_WORDS);
        }
    }

    /// Neighbours of a slot on a layer, in stored order.
    pub(crate) fn neighbours(&self, slot: Slot, level: usize) -> impl Iterator<Item = Slot> + '_ {
        let words = self.link_words(slot, level);
        words.iter().map(|word| word.load(Ordering::Acquire)).take_while(|&w| w != 0).map(|w| w - 1)
    }

    #[inline]
    pub(crate) fn entry(&self) -> Option<Entry> {
        let packed = self.entry.load(Ordering::Acquire);
        let slot = (packed as u32).checked_sub(1)?;
        Some(Entry { slot, level: (packed >> 32) as usize })
    }

    pub(crate) fn set_entry(&self, entry: Option<Entry>) {
        let packed = entry.map_or(0, |at| (at.level as u64) << 32 | (u64::from(at.slot) + 1));
        self.entry.store(packed, Ordering::Release);
    }

    /// Whether a slot takes part in the graph.
    #[inline]
    pub(crate) fn is_linked(&self, slot: Slot) -> bool {
        self.holds(slot) && !self.unlinked.bit(slot as usize)
    }

    /// Layer up to which a slot is linked. Pure function of seed and slot: each further layer has
    /// probability `1 / m`, computed on integers so that every machine draws the same.
    pub(crate) fn level_of(&self, slot: Slot) -> usize {
        let m = u64::from(self.params.m);
        let mut draw = mix(self.params.seed ^ mix(u64::from(slot) + 1));
        let mut level = 0;
        while draw < u64::MAX / m && level < LEVEL_MAX {
            level += 1;
            draw *= m;
        }
        level
    }

    /// Whether searches of this index walk a graph at its present size.
    pub(crate) fn wants_graph(&self) -> bool {
        match self.params.kind {
            IndexKind::Hnsw => true,
            IndexKind::Flat => false,
            IndexKind::Dynamic { threshold } => {
                self.present_count.load(Ordering::Relaxed) > threshold || self.entry().is_some()
            }
        }
    }

    /// Range of words of the tail set that may hold bits.
    pub(crate) fn tail_range(&self) -> core::ops::Range<usize> {
        let packed = self.tail_words.load(Ordering::Acquire);
        (packed >> 32) as usize..(packed as u32) as usize
    }
}

/// Finaliser of splitmix64: spreads the bits of a number over all of them.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_fall_by_the_factor_m_and_depend_on_the_seed() {
        let params = IndexParams::new(4, Metric::L2Squared);
        let view = VectorView::reserve(params.clone(), 0, 0, 0).unwrap();
        let levels: Vec<usize> = (0..160_000).map(|slot| view.level_of(slot)).collect();
        let reaching = |level| levels.iter().filter(|&&found| found >= level).count();
        assert!((9_600..10_400).contains(&reaching(1)), "{}", reaching(1));
        assert!((540..710).contains(&reaching(2)), "{}", reaching(2));
        let other = VectorView::reserve(IndexParams { seed: 1, ..params }, 0, 0, 0).unwrap();
        assert!((0..1_000).any(|slot| view.level_of(slot) != other.level_of(slot)));
    }
}
