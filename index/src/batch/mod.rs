//! A batch of slots on its way into the graph: any core searches and chooses, the home commits.
//!
//! The graph stands still from [`crate::VectorWriter::begin_batch`] to
//! [`crate::VectorWriter::commit_batch`], so all that lies between depends on the batch alone and
//! may be computed by any core in any order:
//!
//! 1. for each member: its candidates ([`LinkBatch::start`]), and the links it asks for, chosen
//!    among them and the members before it ([`LinkBatch::choose`]);
//! 2. home: [`LinkBatch::gather`] turns the links round: for each target, who wants to be linked
//!    back;
//! 3. for each target whose row would overflow: the row chosen anew, once for the whole batch
//!    ([`LinkRows::prune`]);
//! 4. home: the rows are written.
//!
//! Departure from the HNSW paper: members do not walk over each other's links, they are compared
//! with each other instead. Source of the scheme: Dobson et al., "ParlayANN" (2024), section 3,
//! with comparison inside the batch added.

mod rows;

use std::sync::Arc;

use crate::Slot;
use crate::candidates::Candidates;
use crate::directory::SlotDirectory;
use crate::search::pool::Neighbour;
use crate::search::{CandidatesTask, Scratch};
use crate::view::VectorView;
use crate::writer::LinkScratch;
use crate::writer::select::select;

pub(crate) use rows::ROWS_AHEAD;
pub use rows::{LinkRows, PrunedRows};

/// Slots that are linked together. `Send + Sync`.
///
/// Whoever works on it holds a pin from before the batch was begun until it is committed.
#[derive(Debug)]
pub struct LinkBatch {
    view: Arc<VectorView>,
    /// State of the link rows that the batch is computed from.
    sequence: u64,
    /// In ascending order, which is the order of linking.
    members: Vec<Slot>,
}

/// The links that one member of a batch asks for, on all its layers.
#[derive(Debug, Default)]
pub struct Choice {
    member: usize,
    /// Links of layer 0, then of layer 1, and so on; nearest first.
    links: Vec<Neighbour>,
    /// Where the links of each layer end.
    ends: Vec<u32>,
    /// The search found somebody alive on layer 0, whatever became of them.
    found_alive: bool,
    /// Distances computed for it.
    evaluations: u64,
}

impl LinkBatch {
    pub(crate) fn new(view: Arc<VectorView>, sequence: u64, members: Vec<Slot>) -> Self {
        debug_assert!(members.is_sorted_by(|a, b| a < b));
        Self { view, sequence, members }
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Are there no members?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members in the order of linking.
    #[must_use]
    pub fn members(&self) -> &[Slot] {
        &self.members
    }

    /// The search phase of one member; any core. Panics: no such member (a caller bug).
    pub fn start<'a>(
        &'a self,
        directory: &'a SlotDirectory,
        member: usize,
        scratch: &'a mut Scratch,
        out: &'a mut Candidates,
    ) -> CandidatesTask<'a> {
        self.view.start_candidates(directory, self.members[member], scratch, out)
    }

    /// Chooses the links of one member from what its search found and from the members before it;
    /// any core. Panics: no such member (a caller bug).
    ///
    /// Cost: a tenth to a fifth of the search, and a distance for each member before it.
    pub fn choose(
        &self,
        directory: &SlotDirectory,
        member: usize,
        found: &Candidates,
        scratch: &mut LinkScratch,
    ) -> Choice {
        let view = &*self.view;
        let slot = self.members[member];
        let mut choice = Choice {
            member,
            found_alive: !found.levels[0].is_empty(),
            evaluations: found.evaluations,
            ..Choice::default()
        };
        scratch.walker.evaluations = 0;
        self.meet_earlier(directory, member, scratch);
        let limit = usize::from(view.params.m);
        for layer in 0..=view.level_of(slot) {
            merge(view, scratch, &found.levels[layer], layer);
            // A member that was in the graph once may still be linked from where it was.
            scratch.candidates.retain(|other| other.slot() != slot);
            let LinkScratch { walker, other, candidates, kept, .. } = scratch;
            select(view, slot, candidates, limit, (walker, other), kept);
            choice.links.extend_from_slice(kept);
            choice.ends.push(choice.links.len() as u32);
        }
        choice.evaluations += scratch.walker.evaluations;
        choice
    }

    /// Search and choice of one member in one go; any core.
    ///
    /// Panics: no such member (a caller bug).
    pub fn find(
        &self,
        directory: &SlotDirectory,
        member: usize,
        scratch: &mut LinkScratch,
    ) -> Choice {
        let mut found = core::mem::take(&mut scratch.found);
        let mut task = self.start(directory, member, &mut scratch.search, &mut found);
        while task.step(u64::MAX).is_pending() {}
        let choice = self.choose(directory, member, &found, scratch);
        scratch.found = found;
        choice
    }

    /// Distances to the members before this one that are alive, which no search can find yet.
    fn meet_earlier(&self, directory: &SlotDirectory, member: usize, scratch: &mut LinkScratch) {
        let LinkScratch { walker, query, recent, .. } = scratch;
        let view = &*self.view;
        let usable = |slot: &Slot| view.holds(*slot) && !directory.is_dead(*slot);
        walker.fresh.clear();
        walker.fresh.extend(self.members[..member].iter().copied().filter(usable));
        view.query_of(self.members[member], query);
        walker.evaluate(view, query);
        recent.clear();
        let pairs = walker.fresh.iter().zip(&walker.distances);
        recent.extend(pairs.map(|(&other, &distance)| Neighbour::new(distance, other)));
    }
}

/// Candidates of one layer: what the search found and the members before, nearest first.
fn merge(view: &VectorView, scratch: &mut LinkScratch, found: &[Neighbour], layer: usize) {
    let LinkScratch { candidates, recent, .. } = scratch;
    let wanted = usize::from(view.params.ef_construction);
    let bound = found.last().filter(|_| found.len() >= wanted);
    let reaches = |other: &&Neighbour| {
        bound.is_none_or(|bound| *other < bound)
            && (layer == 0 || view.level_of(other.slot()) >= layer)
    };
    candidates.clear();
    candidates.extend_from_slice(found);
    candidates.extend(recent.iter().filter(reaches));
    candidates.sort_unstable();
    candidates.truncate(wanted.max(found.len()));
}

impl Choice {
    /// Distances computed to find and choose these links.
    #[must_use]
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    pub(crate) fn member(&self) -> usize {
        self.member
    }

    pub(crate) fn found_alive(&self) -> bool {
        self.found_alive
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.ends.len()
    }

    /// The links of a layer, nearest first.
    pub(crate) fn links(&self, layer: usize) -> &[Neighbour] {
        let start = layer.checked_sub(1).map_or(0, |below| self.ends[below]);
        &self.links[start as usize..self.ends[layer] as usize]
    }
}
