//! The links of a batch turned round: who is to be linked back by whom, and the rows that overflow.

use core::ops::Range;
use std::sync::Arc;

use crate::Slot;
use crate::batch::{Choice, LinkBatch};
use crate::directory::SlotDirectory;
use crate::search::pool::Neighbour;
use crate::view::VectorView;
use crate::writer::LinkScratch;
use crate::writer::link::live_around;
use crate::writer::select::select;

/// Link rows asked for ahead of the one being looked at.
pub(crate) const ROWS_AHEAD: usize = 8;

/// A node that members of the batch link to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) slot: Slot,
    pub(crate) layer: usize,
    /// Where the members that link to it begin and end in `incoming`.
    start: u32,
    end: u32,
}

/// All rows that a batch changes. `Send + Sync`.
#[derive(Debug)]
pub struct LinkRows {
    view: Arc<VectorView>,
    pub(crate) sequence: u64,
    pub(crate) members: Vec<Slot>,
    /// One for each member, in order.
    pub(crate) choices: Vec<Choice>,
    /// By layer, then by slot.
    pub(crate) targets: Vec<Target>,
    incoming: Vec<Slot>,
}

/// Rows that were full and have been chosen anew.
#[derive(Debug, Default)]
pub struct PrunedRows {
    /// Number of the target and end of its row in `links`, ascending.
    rows: Vec<(u32, u32)>,
    links: Vec<Slot>,
    evaluations: u64,
}

impl LinkBatch {
    /// Groups the links of all members by their targets; home core, cheap.
    ///
    /// `choices` may come in any order. Panics: not exactly one for each member (a caller bug).
    #[must_use]
    pub fn gather(&self, mut choices: Vec<Choice>) -> LinkRows {
        choices.sort_unstable_by_key(Choice::member);
        assert!(
            choices.iter().map(Choice::member).eq(0..self.members.len()),
            "every member has chosen once"
        );
        let mut pairs: Vec<(usize, Slot, Slot)> = Vec::new();
        for choice in &choices {
            let member = self.members[choice.member()];
            for layer in 0..choice.layers() {
                let links = choice.links(layer).iter();
                pairs.extend(links.map(|target| (layer, target.slot(), member)));
            }
        }
        pairs.sort_unstable();
        let mut targets: Vec<Target> = Vec::new();
        for (end, &(layer, slot, _)) in (1u32..).zip(&pairs) {
            match targets.last_mut() {
                Some(last) if (last.layer, last.slot) == (layer, slot) => last.end = end,
                _ => targets.push(Target { slot, layer, start: end - 1, end }),
            }
        }
        LinkRows {
            view: Arc::clone(&self.view),
            sequence: self.sequence,
            members: self.members.clone(),
            choices,
            targets,
            incoming: pairs.into_iter().map(|(_, _, member)| member).collect(),
        }
    }
}

impl LinkRows {
    /// Number of rows that get links, for dividing them among cores.
    #[must_use]
    pub fn target_count(&self) -> usize {
        self.targets.len()
    }

    /// Distances computed so far.
    #[must_use]
    pub fn evaluations(&self) -> u64 {
        self.choices.iter().map(Choice::evaluations).sum()
    }

    /// Chooses the rows of these targets anew where they would overflow; any core. Dead neighbours
    /// make room for the live ones behind them.
    ///
    /// Cost: a cache miss for a target with room; else about two hundred distances. Panics: a range
    /// beyond [`Self::target_count`] (a caller bug).
    #[must_use]
    pub fn prune(
        &self,
        directory: &SlotDirectory,
        range: Range<usize>,
        scratch: &mut LinkScratch,
    ) -> PrunedRows {
        let mut out = PrunedRows::default();
        let view = &*self.view;
        scratch.walker.evaluations = 0;
        let targets = &self.targets[range.clone()];
        for (number, target) in (range.start as u32..).zip(targets) {
            if let Some(ahead) = self.targets.get(number as usize + ROWS_AHEAD) {
                view.prefetch_links(ahead.slot);
            }
            let limit = row_limit(view, target.layer);
            let LinkScratch { walker, query, other, list, pruned, .. } = &mut *scratch;
            let incoming = self.incoming(*target);
            let fresh = &mut walker.fresh;
            fresh.clear();
            if let Ok(member) = self.members.binary_search(&target.slot) {
                let links = self.choices[member].links(target.layer).iter();
                fresh.extend(links.map(|link| link.slot()));
            } else {
                fresh.extend(view.neighbours(target.slot, target.layer));
                let is_full = fresh.len() + incoming.len() > limit;
                if is_full && fresh.iter().any(|&slot| directory.is_dead(slot)) {
                    live_around(view, directory, walker, target.slot, target.layer);
                }
            }
            let fresh = &mut walker.fresh;
            fresh.retain(|slot| incoming.binary_search(slot).is_err());
            if fresh.len() + incoming.len() <= limit {
                continue;
            }
            fresh.extend(incoming);
            view.pair_query_of(target.slot, query);
            walker.evaluate(view, query);
            list.clear();
            let pairs = walker.fresh.iter().zip(&walker.distances);
            list.extend(pairs.map(|(&slot, &distance)| Neighbour::new(distance, slot)));
            list.sort_unstable();
            select(view, target.slot, list, limit, (walker, other), pruned);
            out.links.extend(pruned.iter().map(|link| link.slot()));
            out.rows.push((number, out.links.len() as u32));
        }
        out.evaluations = scratch.walker.evaluations;
        out
    }

    /// The members that link to a target, in order.
    pub(crate) fn incoming(&self, target: Target) -> &[Slot] {
        &self.incoming[target.start as usize..target.end as usize]
    }
}

/// Links a node can hold on a layer.
fn row_limit(view: &VectorView, layer: usize) -> usize {
    if layer == 0 { view.layout.base_links } else { view.layout.upper_links }
}

impl PrunedRows {
    /// Distances computed to choose these rows.
    #[must_use]
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// Rows with the number of their target, ascending.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (usize, &[Slot])> {
        let mut start = 0;
        self.rows.iter().map(move |&(number, end)| {
            let row = &self.links[start..end as usize];
            start = end as usize;
            (number as usize, row)
        })
    }
}
