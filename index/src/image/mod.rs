//! Memory images: an index as byte streams for a checkpoint, and back.
//!
//! The caller does the IO. An image covers the slots below a number; while it is read the home core
//! stores only slots at or above that number and neither links, sweeps nor reuses slots, so the
//! bytes do not change. Restoring trusts nothing: every id, degree, set and float is checked.
//!
//! Sections, all little endian: `header` ([`HEADER_WORDS`] 64-bit words), `present` and `unlinked`
//! (one bit per slot in 64-bit words), `upper_of` (one word per slot), `upper` (rows), `links`
//! (rows), `norms` (one float per slot, cosine only, else empty), `vectors` (padded rows), and the
//! rows of the codes in `walk`, `factors` and `refine`. A plane that does not exist is empty.

mod planes;

use core::sync::atomic::Ordering;

use crate::arena::Arena;
use crate::bitmap::SlotBitmap;
use crate::directory::{DirectoryRestorer, SlotDirectory};
use crate::error::IndexError;
use crate::limits;
use crate::params::{IndexParams, Metric, RawVectors};
use crate::planes::PlaneScratch;
use crate::view::{Entry, VectorView};
use crate::writer::VectorWriter;

/// One byte stream of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSection {
    /// Fixed name of the section.
    pub name: &'static str,
    /// Its length.
    pub bytes: u64,
}

/// Words of the header: format, dims, metric with codes and raw plane, m, seed, slots, upper rows,
/// entry slot + 1, entry level.
const HEADER_WORDS: usize = 9;

/// Changes whenever the meaning of a section does.
const FORMAT: u64 = 1;

/// Names of the sections, in the order of their numbers.
const SECTIONS: [&str; 11] = [
    "header", "present", "unlinked", "upper_of", "upper", "links", "norms", "vectors", "walk",
    "factors", "refine",
];
const PRESENT: usize = 1;
const UNLINKED: usize = 2;
const UPPER_OF: usize = 3;
const UPPER: usize = 4;
const LINKS: usize = 5;
const NORMS: usize = 6;
/// The first plane; the others follow in the order of [`Planes::arenas`].
const VECTORS: usize = 7;

const DIRECTORY_SECTIONS: [&str; 3] = ["ids", "occupied", "live"];

impl VectorView {
    fn section_bytes(&self, section: usize, slots: u32, upper_rows: u32) -> u64 {
        let (slots, word) = (slots as usize, size_of::<u32>());
        let bytes = match section {
            0 => HEADER_WORDS * size_of::<u64>(),
            PRESENT | UNLINKED => slots.div_ceil(64) * size_of::<u64>(),
            UPPER_OF => slots * word,
            UPPER => upper_rows as usize * self.layout.upper_words * word,
            LINKS => slots * self.layout.base_words * word,
            NORMS if self.params.metric == Metric::Cosine => slots * word,
            NORMS => 0,
            _ => self.planes.arenas().get(section - VECTORS).map_or(0, |(_, row)| slots * row),
        };
        bytes as u64
    }

    fn section_arena(&self, section: usize) -> &Arena {
        match section {
            PRESENT => &self.present,
            UNLINKED => &self.unlinked,
            UPPER_OF => &self.upper_of,
            UPPER => &self.upper,
            LINKS => &self.links,
            NORMS => &self.norms,
            _ => self.planes.arenas()[section - VECTORS].0,
        }
    }

    /// The sections of an image of the first `slots` slots.
    ///
    /// Panics: `slots` is beyond what was ever stored (a caller bug).
    #[must_use]
    pub fn image_plan(&self, slots: u32) -> Vec<ImageSection> {
        let upper_rows = self.upper_rows.load(Ordering::Relaxed);
        let plan = SECTIONS.iter().enumerate().map(|(section, &name)| ImageSection {
            name,
            bytes: self.section_bytes(section, slots, upper_rows),
        });
        plan.collect()
    }

    /// Copies `out.len()` bytes at `offset` of a section of the image of `slots` slots. Slots that
    /// never held a vector read as absent.
    ///
    /// Panics: the range lies outside the section (a caller bug). Cost: one copy.
    pub fn image_read(&self, slots: u32, section: usize, offset: u64, out: &mut [u8]) {
        let upper_rows = self.upper_rows.load(Ordering::Relaxed);
        let length = self.section_bytes(section, slots, upper_rows);
        assert!(offset + out.len() as u64 <= length, "the range lies in the section");
        if section == 0 {
            let header = self.header(slots, upper_rows);
            out.copy_from_slice(&header[offset as usize..offset as usize + out.len()]);
            return;
        }
        read_padded(self.section_arena(section), offset, out);
        if section == PRESENT || section == UNLINKED {
            clear_bits_from(slots, offset, out);
        }
    }

    fn header(&self, slots: u32, upper_rows: u32) -> Vec<u8> {
        let entry = self.entry();
        let words: [u64; HEADER_WORDS] = [
            FORMAT,
            self.params.dims.into(),
            kind_word(&self.params),
            self.params.m.into(),
            self.params.seed,
            slots.into(),
            upper_rows.into(),
            entry.map_or(0, |entry| u64::from(entry.slot) + 1),
            entry.map_or(0, |entry| entry.level as u64),
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// Metric in the lowest byte, codes in the next, then one when there are codes without vectors.
fn kind_word(params: &IndexParams) -> u64 {
    let raw = u64::from(params.raw == RawVectors::Absent);
    params.metric as u64 | (params.codes as u64) << 8 | raw << 16
}

/// Reads committed bytes, and zeros beyond: memory that was never committed is empty.
fn read_padded(arena: &Arena, offset: u64, out: &mut [u8]) {
    let committed = arena.committed_bytes() as u64;
    let readable = committed.saturating_sub(offset).min(out.len() as u64) as usize;
    let (head, tail) = out.split_at_mut(readable);
    if !head.is_empty() {
        arena.read_bytes(offset as usize, head);
    }
    tail.fill(0);
}

/// Clears the bits of slots at or above `slots` in a piece of a bit section: they were stored after
/// the image began.
fn clear_bits_from(slots: u32, offset: u64, out: &mut [u8]) {
    for (index, byte) in out.iter_mut().enumerate() {
        let first = (offset + index as u64) * 8;
        let known = u64::from(slots).saturating_sub(first).min(8);
        *byte &= ((1u16 << known) - 1) as u8;
    }
}

/// An index that is being filled from an image.
#[derive(Debug)]
pub struct Restorer {
    view: VectorView,
    slots: u32,
    header: [u8; HEADER_WORDS * 8],
    /// Upper rows announced by the header, once it has been written.
    upper_rows: Option<u32>,
}

impl VectorWriter {
    /// Starts to restore an index of `slots` slots. Write the `header` section first, the others in
    /// any order.
    ///
    /// # Errors
    /// [`IndexError::Parameter`], [`IndexError::Full`] or [`IndexError::Memory`].
    pub fn restore(params: IndexParams, slots: u32) -> Result<Restorer, IndexError> {
        if slots > limits::SLOTS_MAX {
            return Err(IndexError::Full { maximum: limits::SLOTS_MAX });
        }
        let needed = slots.max(params.capacity_hint);
        let view = VectorView::reserve(params, needed, 0, 0)?;
        view.commit_all(slots, 0)?;
        Ok(Restorer { view, slots, header: [0; HEADER_WORDS * 8], upper_rows: None })
    }
}

impl Restorer {
    /// Takes bytes of a section.
    ///
    /// # Errors
    /// [`IndexError::Image`] when the bytes do not fit the section or the header describes another
    /// index; [`IndexError::Memory`].
    pub fn write(&mut self, section: usize, offset: u64, bytes: &[u8]) -> Result<(), IndexError> {
        let Some(&name) = SECTIONS.get(section) else {
            return Err(IndexError::Image { section: "?", offset, problem: "unknown section" });
        };
        let bad = |problem| Err(IndexError::Image { section: name, offset, problem });
        let length = self.view.section_bytes(section, self.slots, self.upper_rows.unwrap_or(0));
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > length) {
            return bad("bytes beyond the end of the section");
        }
        let start = offset as usize;
        match section {
            0 => {
                self.header[start..start + bytes.len()].copy_from_slice(bytes);
                if end == Some(length) {
                    return self.accept_header();
                }
            }
            PRESENT => self.view.present.write_bytes(start, bytes),
            UNLINKED => self.view.unlinked.write_bytes(start, bytes),
            UPPER_OF => self.view.upper_of.write_bytes(start, bytes),
            UPPER => self.view.upper.write_bytes(start, bytes),
            LINKS => self.view.links.write_bytes(start, bytes),
            NORMS => self.view.norms.write_bytes(start, bytes),
            _ => self.view.planes.arenas_mut()[section - VECTORS].0.write_bytes(start, bytes),
        }
        Ok(())
    }

    fn header_word(&self, index: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.header[index * 8..index * 8 + 8]);
        u64::from_le_bytes(word)
    }

    fn accept_header(&mut self) -> Result<(), IndexError> {
        let params = &self.view.params;
        let expected = [
            FORMAT,
            params.dims.into(),
            kind_word(params),
            params.m.into(),
            params.seed,
            self.slots.into(),
        ];
        for (index, &word) in expected.iter().enumerate() {
            if self.header_word(index) != word {
                let problem = "the image was made with other parameters";
                let offset = index as u64 * 8;
                return Err(IndexError::Image { section: "header", offset, problem });
            }
        }
        let rows = self.header_word(6);
        // A slot has at most one row per layer, and far fewer on average.
        let possible = u64::from(self.view.upper_capacity)
            .min(u64::from(self.slots) * limits::LEVEL_MAX as u64);
        if rows > possible {
            let problem = "more upper rows than the slots can have";
            return Err(IndexError::Image { section: "header", offset: 48, problem });
        }
        let rows = rows as u32;
        self.view.commit_all(self.slots, rows)?;
        self.upper_rows = Some(rows);
        Ok(())
    }

    /// Checks everything and makes the index.
    ///
    /// # Errors
    /// [`IndexError::Image`] names the first thing that is wrong.
    pub fn finish(self) -> Result<VectorWriter, IndexError> {
        let Some(upper_rows) = self.upper_rows else {
            let problem = "the header is missing";
            return Err(IndexError::Image { section: "header", offset: 0, problem });
        };
        self.check_sets()?;
        self.check_upper_rows(upper_rows)?;
        self.check_links()?;
        self.check_vectors()?;
        self.derive_signs();
        let entry = self.check_entry()?;
        let view = self.view;
        let words = (self.slots as usize).div_ceil(64);
        let count = |arena: &Arena| (0..words).map(|w| arena.long(w).count_ones()).sum::<u32>();
        let tail = count(&view.unlinked);
        view.present_count.store(count(&view.present), Ordering::Relaxed);
        view.tail_count.store(tail, Ordering::Relaxed);
        view.high.store(self.slots, Ordering::Relaxed);
        view.upper_rows.store(upper_rows, Ordering::Relaxed);
        let used = |&word: &usize| view.unlinked.long(word) != 0;
        let low = (0..words).find(used).unwrap_or(0) as u64;
        let end = (0..words).rev().find(used).map_or(low, |word| word as u64 + 1);
        view.tail_words.store(low << 32 | end, Ordering::Relaxed);
        view.set_entry(entry);
        Ok(VectorWriter::from_view(view))
    }

    /// Makes the plane that no image holds.
    fn derive_signs(&self) {
        let mut scratch = PlaneScratch::default();
        let held = (0..self.slots).filter(|&slot| self.view.holds(slot));
        held.for_each(|slot| self.view.planes.derive_signs(slot, &mut scratch));
    }

    fn check_sets(&self) -> Result<(), IndexError> {
        for word in 0..(self.slots as usize).div_ceil(64) {
            let offset = word as u64 * 8;
            let (present, unlinked) = (self.view.present.long(word), self.view.unlinked.long(word));
            let known = (self.slots as usize - word * 64).min(64);
            if known < 64 && present >> known != 0 {
                let problem = "a slot beyond the end";
                return Err(IndexError::Image { section: "present", offset, problem });
            }
            if unlinked & !present != 0 {
                let problem = "an unlinked slot without a vector";
                return Err(IndexError::Image { section: "unlinked", offset, problem });
            }
        }
        Ok(())
    }

    /// Every slot's upper rows exist and belong to it alone; linked slots have theirs.
    fn check_upper_rows(&self, upper_rows: u32) -> Result<(), IndexError> {
        let mut taken = SlotBitmap::with_capacity(upper_rows);
        for slot in 0..self.slots {
            let bad = |problem| {
                let offset = u64::from(slot) * 4;
                Err(IndexError::Image { section: "upper_of", offset, problem })
            };
            let level = self.view.level_of(slot) as u32;
            let first = self.view.upper_of.words(slot as usize, 1)[0].load(Ordering::Relaxed);
            let Some(first) = first.checked_sub(1) else {
                if level > 0 && self.view.is_linked(slot) {
                    return bad("a linked slot without its upper rows");
                }
                continue;
            };
            if level == 0 {
                return bad("upper rows for a slot of level zero");
            }
            if first.checked_add(level).is_none_or(|end| end > upper_rows) {
                return bad("upper rows beyond the end");
            }
            if !(first..first + level).all(|row| taken.insert(row)) {
                return bad("upper rows of another slot");
            }
        }
        Ok(())
    }

    fn check_links(&self) -> Result<(), IndexError> {
        let words = (self.slots as usize).div_ceil(64);
        let linked = (0..words).map(|w| self.view.present.long(w) & !self.view.unlinked.long(w));
        let linked: Vec<u64> = linked.collect();
        let mut row = Vec::with_capacity(self.view.layout.base_words);
        for slot in (0..self.slots).filter(|&slot| holds(&linked, slot)) {
            for layer in 0..=self.view.level_of(slot) {
                row.clear();
                let words = self.view.link_words(slot, layer);
                row.extend(words.iter().map(|word| word.load(Ordering::Relaxed)));
                self.check_row(slot, layer, &row, &linked)?;
            }
        }
        Ok(())
    }

    fn check_row(
        &self,
        slot: u32,
        layer: usize,
        row: &[u32],
        linked: &[u64],
    ) -> Result<(), IndexError> {
        let section = if layer == 0 { "links" } else { "upper" };
        let bad = |problem| {
            let offset = u64::from(slot) * self.view.layout.base_words as u64 * 4;
            Err(IndexError::Image { section, offset, problem })
        };
        let degree = row.iter().position(|&id| id == 0).unwrap_or(row.len());
        let (ids, rest) = row.split_at(degree);
        if rest.iter().any(|&id| id != 0) {
            return bad("a link behind the end of its row");
        }
        for (index, &id) in ids.iter().enumerate() {
            let other = id - 1;
            if other >= self.slots || !holds(linked, other) {
                return bad("a link to a slot that is not in the graph");
            }
            if other == slot || ids[..index].contains(&id) {
                return bad("a link to itself or twice to the same slot");
            }
            if layer > 0 && self.view.level_of(other) < layer {
                return bad("a link to a slot below the layer");
            }
        }
        Ok(())
    }

    fn check_entry(&self) -> Result<Option<Entry>, IndexError> {
        let bad = |problem| Err(IndexError::Image { section: "header", offset: 56, problem });
        let any = (0..self.slots).any(|slot| self.view.is_linked(slot));
        let (packed, level) = (self.header_word(7), self.header_word(8));
        let Some(slot) = packed.checked_sub(1) else {
            return if any { bad("a graph without an entry") } else { Ok(None) };
        };
        if slot >= u64::from(self.slots) || !self.view.is_linked(slot as u32) {
            return bad("the entry is not in the graph");
        }
        let slot = slot as u32;
        if level != self.view.level_of(slot) as u64 {
            return bad("the entry has another level");
        }
        Ok(Some(Entry { slot, level: level as usize }))
    }
}

/// Is the bit of a slot set in a copy of a set? The slot lies inside it.
fn holds(words: &[u64], slot: u32) -> bool {
    words[slot as usize / 64] >> (slot % 64) & 1 == 1
}

impl SlotDirectory {
    fn directory_bytes(section: usize, slots: u32) -> u64 {
        if section == 0 { u64::from(slots) * 16 } else { u64::from(slots).div_ceil(64) * 8 }
    }

    fn directory_arena(&self, section: usize) -> &Arena {
        match section {
            0 => self.ids_arena(),
            1 => self.occupied_arena(),
            _ => self.live_arena(),
        }
    }

    /// The sections of an image of the first `slots` slots.
    #[must_use]
    pub fn image_plan(&self, slots: u32) -> Vec<ImageSection> {
        let plan = DIRECTORY_SECTIONS.iter().enumerate();
        plan.map(|(section, &name)| ImageSection {
            name,
            bytes: Self::directory_bytes(section, slots),
        })
        .collect()
    }

    /// Copies `out.len()` bytes at `offset` of a section of the image of `slots` slots.
    ///
    /// Panics: the range lies outside the section (a caller bug). Cost: one copy.
    pub fn image_read(&self, slots: u32, section: usize, offset: u64, out: &mut [u8]) {
        let length = Self::directory_bytes(section, slots);
        assert!(section < DIRECTORY_SECTIONS.len(), "the section exists");
        assert!(offset + out.len() as u64 <= length, "the range lies in the section");
        read_padded(self.directory_arena(section), offset, out);
        if section > 0 {
            clear_bits_from(slots, offset, out);
        }
    }
}

impl DirectoryRestorer {
    /// Takes bytes of a section.
    ///
    /// # Errors
    /// [`IndexError::Image`] when the bytes do not fit the section.
    pub fn write(&mut self, section: usize, offset: u64, bytes: &[u8]) -> Result<(), IndexError> {
        let Some(&name) = DIRECTORY_SECTIONS.get(section) else {
            return Err(IndexError::Image { section: "?", offset, problem: "unknown section" });
        };
        let length = SlotDirectory::directory_bytes(section, self.slots);
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > length) {
            let problem = "bytes beyond the end of the section";
            return Err(IndexError::Image { section: name, offset, problem });
        }
        self.view.arena_mut(section).write_bytes(offset as usize, bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
