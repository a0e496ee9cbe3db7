//! New links in the place of those that led to dead nodes.
//!
//! A fresh node chooses among hundreds of candidates; a repair knows the surroundings of the dead
//! alone. So it does not choose all links anew (lists thinned out that way, and the recall of a
//! graph whose rows had been replaced ten times fell by one to three points) but keeps what lives,
//! and fills the places that became free.

use crate::Slot;
use crate::directory::SlotDirectory;
use crate::search::pool::Neighbour;
use crate::view::VectorView;
use crate::writer::link::{LinkScratch, write_links};

/// Kept neighbours are compared with a candidate this many at a time, so that most candidates are
/// refused after one step.
const COMPARE_BLOCK: usize = 4;

/// Replaces the dead neighbours of a node on one layer.
pub(super) fn repair_layer(
    view: &VectorView,
    directory: &SlotDirectory,
    scratch: &mut LinkScratch,
    node: Slot,
    layer: usize,
) {
    let LinkScratch { walker, query, list, kept, around, .. } = scratch;
    let usable = |slot: &Slot| *slot != node && view.is_linked(*slot) && !directory.is_dead(*slot);
    walker.fresh.clear();
    walker.fresh.extend(view.neighbours(node, layer).filter(usable));
    let alive = walker.fresh.len();
    let degree = view.neighbours(node, layer).count();
    around.clear();
    for dead in view.neighbours(node, layer).filter(|&other| directory.is_dead(other)) {
        around.extend(view.neighbours(dead, layer).filter(usable));
    }
    around.sort_unstable();
    around.dedup();
    around.retain(|slot| !walker.fresh.contains(slot));
    walker.fresh.extend_from_slice(around);
    view.query_of(node, query);
    walker.evaluate(view, query);
    let mut pairs = walker.fresh.iter().zip(&walker.distances);
    kept.clear();
    kept.extend(pairs.by_ref().take(alive).map(|(&slot, &far)| Neighbour::new(far, slot)));
    list.clear();
    list.extend(pairs.map(|(&slot, &far)| Neighbour::new(far, slot)));
    list.sort_unstable();
    // No more than there were: rows that always fill up would be pruned at each insert.
    add(view, scratch, node, degree);
    write_links(view, node, layer, &scratch.kept);
}

/// Adds candidates of `list` to `kept` until there are `limit`: first those that are nearer to the
/// node than to every neighbour kept, then the nearest of the others. At most half of the list goes
/// to vectors equal to the node's own.
fn add(view: &VectorView, scratch: &mut LinkScratch, node: Slot, limit: usize) {
    let LinkScratch { walker, other, list, kept, pruned, .. } = scratch;
    let equal = view.equal_distance(node);
    let mut equals = kept.iter().filter(|one| one.distance() <= equal).count();
    let mut admits = |candidate: Neighbour| {
        if candidate.distance() > equal {
            return true;
        }
        equals += 1;
        equals <= limit / 2
    };
    pruned.clear();
    for &candidate in list.iter() {
        if kept.len() >= limit {
            break;
        }
        view.query_of(candidate.slot(), other);
        let diverse = kept.chunks(COMPARE_BLOCK).all(|block| {
            walker.fresh.clear();
            walker.fresh.extend(block.iter().map(|neighbour| neighbour.slot()));
            walker.evaluate(view, other);
            walker.distances.iter().all(|&between| between >= candidate.distance())
        });
        if !diverse {
            pruned.push(candidate);
        } else if admits(candidate) {
            kept.push(candidate);
        }
    }
    for &candidate in pruned.iter() {
        if kept.len() >= limit {
            break;
        }
        if admits(candidate) {
            kept.push(candidate);
        }
    }
    kept.sort_unstable();
}
