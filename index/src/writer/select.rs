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

/// Kept neighbours are compared with a candidate this many at a time, so that most candidates are
/// refused after one step.
const COMPARE_BLOCK: usize = 4;

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
    for &candidate in candidates {
        if kept.len() >= limit {
            break;
        }
        if kept.len() >= limit / 2 && candidate.distance() <= equal {
            continue;
        }
        view.query_of(candidate.slot(), other);
        if is_diverse(view, candidate, other, kept, walker) {
            kept.push(candidate);
        }
    }
}

fn is_diverse(
    view: &VectorView,
    candidate: Neighbour,
    query: &Prepared,
    kept: &[Neighbour],
    walker: &mut Walker,
) -> bool {
    let distance = candidate.distance();
    kept.chunks(COMPARE_BLOCK).all(|block| {
        walker.fresh.clear();
        walker.fresh.extend(block.iter().map(|neighbour| neighbour.slot()));
        walker.evaluate(view, query);
        walker.distances.iter().all(|&between| between >= distance)
    })
}
