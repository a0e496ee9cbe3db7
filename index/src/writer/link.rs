//! Linking a stored slot into the graph, from candidates that any core found.

use core::sync::atomic::{Ordering, fence};

use crate::Slot;
use crate::candidates::Candidates;
use crate::directory::SlotDirectory;
use crate::error::IndexError;
use crate::limits::RECENT_LINKED_MAX;
use crate::search::pool::Neighbour;
use crate::search::prepared::Prepared;
use crate::search::scratch::Walker;
use crate::view::{Entry, VectorView};
use crate::writer::VectorWriter;
use crate::writer::select::select;

/// Buffers of the writer.
#[derive(Debug, Default)]
pub(crate) struct LinkScratch {
    pub(crate) walker: Walker,
    /// The node whose links are chosen.
    pub(crate) query: Prepared,
    /// The candidate that is compared with those kept before it.
    pub(crate) other: Prepared,
    pub(crate) candidates: Vec<Neighbour>,
    pub(crate) kept: Vec<Neighbour>,
    pub(crate) list: Vec<Neighbour>,
    pub(crate) pruned: Vec<Neighbour>,
    recent: Vec<Neighbour>,
}

impl VectorWriter {
    /// Links a stored slot: chooses neighbours from `found`, links both ways, takes the slot out of
    /// the tail. Slots linked since the search phase are considered as well, so the members of a
    /// batch find each other. A slot that died meanwhile is dropped instead. No link leads to a
    /// dead slot. When all that was found died meanwhile, the slot stays in the tail and is to be
    /// searched again; when nothing alive can be reached at all, the slot becomes the entry.
    ///
    /// Errors of memory leave the slot in the tail, where searches still find it. Cost: about a
    /// tenth to a fifth of the search phase.
    ///
    /// # Errors
    /// [`IndexError::Memory`].
    pub fn try_link(
        &mut self,
        slot: Slot,
        found: &Candidates,
        directory: &SlotDirectory,
    ) -> Result<(), IndexError> {
        if !self.view.holds(slot) || !self.view.unlinked.bit(slot as usize) {
            return Ok(());
        }
        if directory.is_dead(slot) {
            self.kill(slot);
            return Ok(());
        }
        let level = self.view.level_of(slot);
        self.prepare_rows(slot, level)?;
        let view = &*self.view;
        let entry = view.entry();
        let live_entry = entry.filter(|entry| !directory.is_dead(entry.slot));
        collect_recent(view, &mut self.scratch, &self.recent, found.sequence, slot);
        merge_candidates(view, directory, &mut self.scratch, &found.levels[0], 0);
        let is_cut_off = entry.is_some() && self.scratch.candidates.is_empty();
        if is_cut_off && (live_entry.is_some() || !found.levels[0].is_empty()) {
            return Ok(());
        }
        let top = entry.map_or(0, |entry| entry.level.min(level));
        for layer in (0..=top).rev() {
            merge_candidates(view, directory, &mut self.scratch, &found.levels[layer], layer);
            link_layer(view, directory, &mut self.scratch, slot, layer);
        }
        if is_cut_off || entry.is_none_or(|entry| level > entry.level) {
            view.set_entry(Some(Entry { slot, level }));
        }
        let sequence = view.sequence.load(Ordering::Relaxed) + 1;
        view.sequence.store(sequence, Ordering::Release);
        view.leave_tail(slot);
        self.recent.push_back((sequence, slot));
        if self.recent.len() > RECENT_LINKED_MAX {
            self.recent.pop_front();
        }
        Ok(())
    }

    /// [`Self::try_link`] for callers without a way to report: lack of memory leaves the slot in
    /// the tail.
    pub fn link(&mut self, slot: Slot, found: &Candidates, directory: &SlotDirectory) {
        // The slot stays searchable and stays in the backlog, so nothing is lost by going on.
        let _stays_in_the_tail = self.try_link(slot, found, directory);
    }

    /// Makes empty link rows for a slot on all its layers.
    fn prepare_rows(&mut self, slot: Slot, level: usize) -> Result<(), IndexError> {
        let first_free = self.view.upper_rows.load(Ordering::Relaxed);
        let owned = self.view.upper_of.words(slot as usize, 1)[0].load(Ordering::Relaxed);
        if owned == 0 && level > 0 {
            let end = first_free + level as u32;
            if end > self.view.upper_capacity {
                self.grow(0, end.saturating_mul(2))?;
            }
            let view = &*self.view;
            view.upper.commit(end as usize * view.layout.upper_words * size_of::<u32>())?;
            view.upper_rows.store(end, Ordering::Relaxed);
            view.upper_of.words(slot as usize, 1)[0].store(first_free + 1, Ordering::Release);
        }
        for layer in 0..=level {
            write_links(&self.view, slot, layer, &[]);
        }
        Ok(())
    }
}

/// Distances to the slots linked since `sequence`, which the search phase could not see.
fn collect_recent(
    view: &VectorView,
    scratch: &mut LinkScratch,
    recent: &std::collections::VecDeque<(u64, Slot)>,
    sequence: u64,
    slot: Slot,
) {
    scratch.recent.clear();
    let LinkScratch { walker, query, .. } = scratch;
    walker.fresh.clear();
    let unseen = recent.iter().rev().take_while(|(linked, _)| *linked > sequence);
    walker.fresh.extend(unseen.map(|(_, other)| *other).filter(|&other| other != slot));
    view.query_of(slot, query);
    walker.evaluate(view, query);
    let pairs = walker.fresh.iter().zip(&walker.distances);
    scratch.recent.extend(pairs.map(|(&other, &distance)| Neighbour::new(distance, other)));
}

/// Candidates of one layer: what the search found and what came since, nearest first, each once,
/// without what died or left meanwhile.
fn merge_candidates(
    view: &VectorView,
    directory: &SlotDirectory,
    scratch: &mut LinkScratch,
    found: &[Neighbour],
    layer: usize,
) {
    let LinkScratch { candidates, recent, .. } = scratch;
    candidates.clear();
    candidates.extend_from_slice(found);
    let reaches = |other: &&Neighbour| layer == 0 || view.level_of(other.slot()) >= layer;
    candidates.extend(recent.iter().filter(reaches));
    candidates.retain(|other| view.is_linked(other.slot()) && !directory.is_dead(other.slot()));
    candidates.sort_unstable();
    candidates.dedup_by_key(|other| other.slot());
    candidates.truncate(usize::from(view.params.ef_construction).max(found.len()));
}

/// Chooses the neighbours of a slot on a layer and links both ways.
fn link_layer(
    view: &VectorView,
    directory: &SlotDirectory,
    scratch: &mut LinkScratch,
    slot: Slot,
    layer: usize,
) {
    let LinkScratch { walker, other, candidates, kept, .. } = scratch;
    let limit = usize::from(view.params.m);
    select(view, slot, candidates, limit, (walker, other), kept);
    write_links(view, slot, layer, kept);
    for index in 0..scratch.kept.len() {
        let neighbour = scratch.kept[index];
        let back = Neighbour::new(neighbour.distance(), slot);
        link_back(view, directory, scratch, neighbour.slot(), back, layer);
    }
}

/// Adds `other` to the links of `node`; a full list is chosen anew, with the live neighbours of
/// dead ones in their place.
fn link_back(
    view: &VectorView,
    directory: &SlotDirectory,
    scratch: &mut LinkScratch,
    node: Slot,
    other: Neighbour,
    layer: usize,
) {
    let words = view.link_words(node, layer);
    let LinkScratch { walker, query, other: candidate, list, pruned, .. } = scratch;
    walker.fresh.clear();
    walker.fresh.extend(view.neighbours(node, layer));
    if let Some(word) = words.get(walker.fresh.len()) {
        word.store(other.slot() + 1, Ordering::Release);
        return;
    }
    if walker.fresh.iter().any(|&slot| directory.is_dead(slot)) {
        live_around(view, directory, walker, node, layer);
        walker.fresh.retain(|&slot| slot != other.slot());
    }
    view.query_of(node, query);
    walker.evaluate(view, query);
    list.clear();
    let pairs = walker.fresh.iter().zip(&walker.distances);
    list.extend(pairs.map(|(&slot, &distance)| Neighbour::new(distance, slot)));
    list.push(other);
    list.sort_unstable();
    select(view, node, list, words.len(), (walker, candidate), pruned);
    write_links(view, node, layer, pruned);
}

/// Collects the live neighbours of a node and those of its dead neighbours into `fresh`, each once.
pub(crate) fn live_around(
    view: &VectorView,
    directory: &SlotDirectory,
    walker: &mut Walker,
    node: Slot,
    layer: usize,
) {
    let usable = |slot: &Slot| *slot != node && view.is_linked(*slot) && !directory.is_dead(*slot);
    walker.fresh.clear();
    for neighbour in view.neighbours(node, layer) {
        if directory.is_dead(neighbour) {
            walker.fresh.extend(view.neighbours(neighbour, layer).filter(usable));
        } else {
            walker.fresh.push(neighbour);
        }
    }
    walker.fresh.sort_unstable();
    walker.fresh.dedup();
}

/// Overwrites a link row. A reader may see old and new ids mixed; both are valid.
pub(crate) fn write_links(view: &VectorView, node: Slot, layer: usize, kept: &[Neighbour]) {
    let words = view.link_words(node, layer);
    debug_assert!(kept.len() <= words.len());
    // The vectors of the linked slots were complete long ago on this core; the fence orders them
    // before the ids for every other core.
    fence(Ordering::Release);
    let ids = kept.iter().map(|other| other.slot() + 1).chain(core::iter::repeat(0));
    for (word, id) in words.iter().zip(ids) {
        word.store(id, Ordering::Relaxed);
    }
}
