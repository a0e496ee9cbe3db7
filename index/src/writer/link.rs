//! Putting a batch into the graph, from links that any core chose.

use core::sync::atomic::{Ordering, fence};

use crate::Slot;
use crate::batch::{LinkBatch, LinkRows, PrunedRows, ROWS_AHEAD};
use crate::candidates::Candidates;
use crate::directory::SlotDirectory;
use crate::error::IndexError;
use crate::limits::{LINK_BATCH_MAX, LINK_BATCH_RATIO};
use crate::search::Scratch;
use crate::search::pool::Neighbour;
use crate::search::prepared::Prepared;
use crate::search::scratch::Walker;
use crate::view::{Entry, VectorView};
use crate::writer::VectorWriter;

/// Working memory of whoever chooses links. Keep one per core.
#[derive(Debug, Default)]
pub struct LinkScratch {
    pub(crate) walker: Walker,
    /// The node whose links are chosen.
    pub(crate) query: Prepared,
    /// The link that the candidates behind it are compared with.
    pub(crate) other: Prepared,
    pub(crate) candidates: Vec<Neighbour>,
    pub(crate) kept: Vec<Neighbour>,
    pub(crate) list: Vec<Neighbour>,
    pub(crate) pruned: Vec<Neighbour>,
    /// Slots around a node that is repaired.
    pub(crate) around: Vec<Slot>,
    /// Members of the batch before the one that chooses.
    pub(crate) recent: Vec<Neighbour>,
    pub(crate) search: Scratch,
    pub(crate) found: Candidates,
}

impl LinkScratch {
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl VectorWriter {
    /// Takes up to `limit` slots that wait to be linked, in slot order, as one batch; none when
    /// nothing waits. Nothing changes: a batch that is dropped can be taken again.
    ///
    /// A batch is at most [`LINK_BATCH_MAX`] slots and an eighth of the graph, so its members,
    /// which do not walk over each other's links, find what a graph built one by one would show
    /// them. The graph depends on the limits asked for, and not on which cores do the work.
    #[must_use]
    pub fn begin_batch(&self, limit: usize) -> Option<LinkBatch> {
        let view = &*self.view;
        let present = view.present_count.load(Ordering::Relaxed);
        let linked = present.saturating_sub(view.tail_count.load(Ordering::Relaxed));
        let ripe = (linked as usize / LINK_BATCH_RATIO).clamp(1, LINK_BATCH_MAX);
        let mut members = Vec::new();
        self.next_unlinked(&mut members, limit.min(ripe));
        let sequence = view.sequence.load(Ordering::Relaxed);
        (!members.is_empty()).then(|| LinkBatch::new(self.view(), sequence, members))
    }

    /// Puts a batch into the graph: links both ways, takes the members out of the tail. Returns how
    /// many were linked.
    ///
    /// `pruned` are the results of [`LinkRows::prune`] for all targets, in ascending order. Members
    /// that died meanwhile are dropped. No new link leads to a dead slot. When all that was found
    /// for a member died meanwhile it stays in the tail and is to be searched again; when nothing
    /// alive can be reached at all, it becomes the entry. When links have changed since the batch
    /// was begun, by a sweep or another batch, nothing is done and all stay in the tail.
    ///
    /// Cost: a cache line or two for each link made.
    ///
    /// # Errors
    /// [`IndexError::Memory`]: all stay in the tail, where searches find them.
    pub fn commit_batch(
        &mut self,
        rows: &LinkRows,
        pruned: &[PrunedRows],
        directory: &SlotDirectory,
    ) -> Result<usize, IndexError> {
        if self.view.sequence.load(Ordering::Relaxed) != rows.sequence {
            return Ok(0);
        }
        let joining = self.joining(rows, directory);
        self.prepare_upper_rows(&joining.slots)?;
        let view = &*self.view;
        let usable = |slot: &Slot| {
            !directory.is_dead(*slot) && (view.is_linked(*slot) || joining.contains(*slot))
        };
        for choice in &rows.choices {
            let slot = rows.members[choice.member()];
            for layer in (0..choice.layers()).filter(|_| joining.contains(slot)) {
                let links = choice.links(layer).iter().map(|link| link.slot());
                write_row(view, slot, layer, links.filter(usable));
            }
        }
        // Without deaths and members that stay behind there is nothing to leave out.
        let checks = joining.slots.len() < rows.members.len() || directory.dead_count() > 0;
        let passes = |slot: &Slot| !checks || usable(slot);
        let mut chosen_anew = pruned.iter().flat_map(PrunedRows::rows).peekable();
        for (number, &target) in rows.targets.iter().enumerate() {
            if let Some(ahead) = rows.targets.get(number + ROWS_AHEAD) {
                view.prefetch_links(ahead.slot);
            }
            let anew = chosen_anew.next_if(|&(other, _)| other == number);
            if !passes(&target.slot) {
                continue;
            }
            let (slot, layer) = (target.slot, target.layer);
            match anew {
                Some((_, row)) => write_row(view, slot, layer, row.iter().copied().filter(passes)),
                None => {
                    let links = rows.incoming(target).iter().copied();
                    append(view, slot, layer, links.filter(passes));
                }
            }
        }
        self.join(&joining);
        Ok(joining.slots.len())
    }

    /// Links up to `limit` waiting slots with this core alone; returns how many were linked, zero
    /// also when none of them could be linked now.
    ///
    /// # Errors
    /// [`IndexError::Memory`], as [`Self::commit_batch`].
    pub fn link_next(
        &mut self,
        limit: usize,
        directory: &SlotDirectory,
        scratch: &mut LinkScratch,
    ) -> Result<usize, IndexError> {
        let Some(batch) = self.begin_batch(limit) else { return Ok(0) };
        let choices = (0..batch.len()).map(|member| batch.find(directory, member, scratch));
        let rows = batch.gather(choices.collect());
        let pruned = rows.prune(directory, 0..rows.target_count(), scratch);
        self.commit_batch(&rows, &[pruned], directory)
    }

    /// The members that can be linked, in order; the dead leave the tail.
    fn joining(&mut self, rows: &LinkRows, directory: &SlotDirectory) -> Joining {
        let entry = self.view.entry();
        let is_entry_live = entry.is_some_and(|entry| !directory.is_dead(entry.slot));
        let mut joining = Joining::default();
        for choice in &rows.choices {
            let slot = rows.members[choice.member()];
            let view = &*self.view;
            if !view.holds(slot) || !view.unlinked.bit(slot as usize) {
                continue;
            }
            if directory.is_dead(slot) {
                self.kill(slot);
                continue;
            }
            let is_reached = choice.links(0).iter().any(|link| {
                let other = link.slot();
                (view.is_linked(other) || joining.contains(other)) && !directory.is_dead(other)
            });
            if is_reached {
                joining.slots.push(slot);
            } else if joining.slots.is_empty() && !is_entry_live && !choice.found_alive() {
                joining.slots.push(slot);
                joining.alone = Some(slot);
            }
        }
        joining
    }

    /// Makes empty link rows for the members that have upper layers.
    fn prepare_upper_rows(&mut self, joining: &[Slot]) -> Result<(), IndexError> {
        let mut end = self.view.upper_rows.load(Ordering::Relaxed);
        let mut fresh: Vec<(Slot, u32)> = Vec::new();
        for &slot in joining {
            let level = self.view.level_of(slot) as u32;
            let owned = self.view.upper_of.words(slot as usize, 1)[0].load(Ordering::Relaxed);
            if owned == 0 && level > 0 {
                fresh.push((slot, end));
                end += level;
            }
        }
        if end > self.view.upper_capacity {
            self.grow(0, end.saturating_mul(2))?;
        }
        let view = &*self.view;
        view.upper.commit(end as usize * view.layout.upper_words * size_of::<u32>())?;
        view.upper_rows.store(end, Ordering::Relaxed);
        for (slot, first) in fresh {
            view.upper_of.words(slot as usize, 1)[0].store(first + 1, Ordering::Release);
        }
        Ok(())
    }

    /// The members are in the graph from now on.
    fn join(&mut self, joining: &Joining) {
        let view = &*self.view;
        for &slot in &joining.slots {
            let level = view.level_of(slot);
            if joining.alone == Some(slot) || view.entry().is_none_or(|entry| level > entry.level) {
                view.set_entry(Some(Entry { slot, level }));
            }
            view.leave_tail(slot);
        }
    }
}

/// The members of a batch that can be linked.
#[derive(Debug, Default)]
struct Joining {
    /// In ascending order.
    slots: Vec<Slot>,
    /// The first, when nothing alive leads to it: the graph begins anew with it.
    alone: Option<Slot>,
}

impl Joining {
    fn contains(&self, slot: Slot) -> bool {
        self.slots.binary_search(&slot).is_ok()
    }
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
    write_row(view, node, layer, kept.iter().map(|other| other.slot()));
}

fn write_row(view: &VectorView, node: Slot, layer: usize, links: impl Iterator<Item = Slot>) {
    // The vectors of the linked slots were complete long ago on this core; the fence orders them
    // before the ids for every other core.
    fence(Ordering::Release);
    let ids = links.map(|other| other + 1).chain(core::iter::repeat(0));
    for (word, id) in view.link_words(node, layer).iter().zip(ids) {
        word.store(id, Ordering::Relaxed);
    }
    note_change(view);
}

/// Adds links at the end of a row with room for them, each once.
fn append(view: &VectorView, node: Slot, layer: usize, links: impl Iterator<Item = Slot>) {
    let words = view.link_words(node, layer);
    let mut count = words.iter().take_while(|word| word.load(Ordering::Relaxed) != 0).count();
    for other in links {
        // A member that was in the graph once may still be linked from where it was.
        let is_known = words[..count].iter().any(|word| word.load(Ordering::Relaxed) == other + 1);
        if !is_known && count < words.len() {
            words[count].store(other + 1, Ordering::Release);
            count += 1;
        }
    }
    note_change(view);
}

/// What was computed from the rows as they were is out of date.
pub(crate) fn note_change(view: &VectorView) {
    let sequence = view.sequence.load(Ordering::Relaxed) + 1;
    view.sequence.store(sequence, Ordering::Release);
}
