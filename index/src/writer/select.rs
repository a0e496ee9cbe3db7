//! Which candidates become neighbours.
//!
//! Source: algorithm 4 of the HNSW paper in the form that hnswlib made common: nearest first, a
//! candidate is kept when it is nearer to the node than to every neighbour kept so far; lists
//! shorter than the limit are taken whole.
//!
//! Departure: at most half of a list goes to vectors equal to the node's own. They would fill all
//! of it (nothing is nearer than equal), and a few dozen copies of one vector would then lead
//! nowhere.

use crate::Slot;
use crate::search::pool::Neighbour;
use crate::search::prepared::Prepared;
use crate::search::scratch::Walker;
use crate::view::VectorView;

/// Candidates looked at together. A kept one is compared with all of them at once, which costs one
/// prepared query and one call of the kernel; more at a time would be compared in vain when the
/// list is full before their turn.
const WINDOW: usize = 48;

/// Chooses at most `limit` of `candidates` (nearest first, distances to the node itself).
pub(crate) fn select(
    view: &VectorView,
    node: Slot,
    candidates: &[Neighbour],
    limit: usize,
    (walker, other): (&mut Walker, &mut Prepared),
    kept: &mut Vec<Neighbour>,
) {
    kept.clear();
    if candidates.len() < limit {
        kept.extend_from_slice(candidates);
        return;
    }
    let equal = view.equal_distance(node);
    // `kept` holds the chosen ones, `count` of them, and behind them those still in question.
    let mut count = 0;
    for window in candidates.chunks(WINDOW) {
        kept.extend_from_slice(window);
        for index in 0..count {
            refuse_near(view, index, count, (walker, other), kept);
        }
        while count < kept.len() && count < limit {
            if count >= limit / 2 && kept[count].distance() <= equal {
                kept.remove(count);
                continue;
            }
            count += 1;
            if count < limit {
                refuse_near(view, count - 1, count, (walker, other), kept);
            }
        }
        kept.truncate(count);
        if count == limit {
            return;
        }
    }
}

/// Removes from `kept[first..]` whatever is nearer to `kept[index]` than to the node.
fn refuse_near(
    view: &VectorView,
    index: usize,
    first: usize,
    (walker, other): (&mut Walker, &mut Prepared),
    kept: &mut Vec<Neighbour>,
) {
    if first == kept.len() {
        return;
    }
    view.pair_query_of(kept[index].slot(), other);
    walker.fresh.clear();
    walker.fresh.extend(kept[first..].iter().map(|candidate| candidate.slot()));
    walker.evaluate(view, other);
    let mut end = first;
    for (place, &between) in (first..).zip(&walker.distances) {
        let candidate = kept[place];
        kept[end] = candidate;
        end += usize::from(between >= candidate.distance());
    }
    kept.truncate(end);
}
