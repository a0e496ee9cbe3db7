//! Which candidates become neighbours.
//!
//! Source: algorithm 4 of the HNSW paper in the form that hnswlib made common: nearest first, a
//! candidate is kept when it is nearer to the node than to every neighbour kept so far; lists
//! shorter than the limit are taken whole.

use crate::search::pool::Neighbour;
use crate::search::scratch::Walker;
use crate::view::VectorView;

/// Kept neighbours are compared with a candidate this many at a time, so that most candidates are
/// refused after one step.
const COMPARE_BLOCK: usize = 4;

/// Chooses at most `limit` of `candidates` (nearest first, distances to the node itself).
pub(crate) fn select(
    view: &VectorView,
    candidates: &[Neighbour],
    limit: usize,
    walker: &mut Walker,
    kept: &mut Vec<Neighbour>,
) {
    kept.clear();
    if candidates.len() < limit {
        kept.extend_from_slice(candidates);
        return;
    }
    for &candidate in candidates {
        if kept.len() >= limit {
            break;
        }
        if is_diverse(view, candidate, kept, walker) {
            kept.push(candidate);
        }
    }
}

fn is_diverse(
    view: &VectorView,
    candidate: Neighbour,
    kept: &[Neighbour],
    walker: &mut Walker,
) -> bool {
    let row = view.row(candidate.slot());
    let distance = candidate.distance();
    kept.chunks(COMPARE_BLOCK).all(|block| {
        walker.fresh.clear();
        walker.fresh.extend(block.iter().map(|neighbour| neighbour.slot()));
        walker.evaluate(view, row);
        walker.distances.iter().all(|&between| between >= distance)
    })
}
