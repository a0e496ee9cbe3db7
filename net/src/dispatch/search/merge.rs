//! Putting together what several shards have found.

use heddle_types::Slot;
use rustc_hash::FxHashSet;

/// Standard deviations by which a shard's share of `ef` and `k` is above its expectation.
const SHARE_DEVIATIONS: f64 = 2.0;
/// How a pool shrinks with the number of shards of a search over nodes: six shards get 0.53 of it.
const POOL_EXPONENT: f64 = 0.35;
/// Hits among which equal ids are found without a table.
const FEW_HITS: usize = 64;

/// What is asked of every query.
#[derive(Clone, Copy)]
pub(super) struct Spec {
    pub(super) vector: usize,
    pub(super) k: u32,
    pub(super) ef: u32,
    pub(super) max_distance: Option<f32>,
    pub(super) step_evaluations: u64,
}

/// One neighbour.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Found {
    pub(super) distance: f32,
    pub(super) id: [u8; 16],
    pub(super) slot: Slot,
    /// Position of its shard in the route.
    pub(super) place: u16,
    /// The replica that found it: the slot is one of its.
    pub(super) replica: u8,
}

/// What one of `shards` equal shards is asked for at first.
///
/// Of `k` a share and some more, because rows are dealt by chance. The pool is larger than a share:
/// one that is cut as the rows are finds less in a small graph, because it has hardly left the way
/// to the neighbourhood when it is full. With this one a search finds in six shards at least what
/// it finds in one (sentence embeddings; `net/tests/node/spread.rs`).
pub(super) fn share_of(spec: Spec, shards: usize) -> Spec {
    let expected = f64::from(spec.k) / shards as f64;
    let spread = SHARE_DEVIATIONS * (expected * (1.0 - 1.0 / shards as f64)).sqrt();
    let k = ((expected + spread).ceil() as u32).clamp(1, spec.k);
    let pool = f64::from(spec.ef) * (shards as f64).powf(-POOL_EXPONENT);
    Spec { k, ef: (pool.ceil() as u32).clamp(k, spec.ef.max(k)), ..spec }
}

/// Did a shard give all it was asked for, and is its worst hit among the best of all?
pub(super) fn may_hold_more(list: &[Found], asked: u32, merged: &[Found], k: u32) -> bool {
    let Some(worst) = list.last().filter(|_| list.len() >= asked as usize) else { return false };
    match merged.last() {
        Some(last) if merged.len() >= k as usize => worst.distance <= last.distance,
        _ => true,
    }
}

/// Puts the `k` nearest of all into `best`, each object once. An object that is being replaced may
/// be found in its old and its new slot; the nearer one stays.
pub(super) fn merge<'a>(lists: impl Iterator<Item = &'a Found>, k: u32, best: &mut Vec<Found>) {
    best.clear();
    best.extend(lists);
    best.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then_with(|| a.id.cmp(&b.id)));
    let k = k as usize;
    if best.len() > FEW_HITS {
        let mut seen = FxHashSet::with_capacity_and_hasher(k, Default::default());
        best.retain(|found| seen.len() < k && seen.insert(found.id));
        return;
    }
    let mut kept = 0;
    for at in 0..best.len() {
        let found = best[at];
        if kept < k && best[..kept].iter().all(|other| other.id != found.id) {
            best[kept] = found;
            kept += 1;
        }
    }
    best.truncate(kept);
}

#[cfg(test)]
mod tests {
    use heddle_types::ObjectId;

    use super::*;

    fn found(distance: f32, row: u64) -> Found {
        Found { distance, id: ObjectId::from_row(row).0, slot: row as u32, place: 0, replica: 0 }
    }

    #[test]
    fn merged_hits_are_sorted_and_each_object_comes_once() {
        let lists = [
            vec![found(1.0, 1), found(3.0, 2), found(5.0, 3)],
            vec![found(0.5, 4), found(1.0, 0), found(4.0, 1)],
        ];
        let mut best = vec![found(9.0, 9)];
        merge(lists.iter().flatten(), 4, &mut best);
        let rows: Vec<u32> = best.iter().map(|found| found.slot).collect();
        assert_eq!(rows, [4, 0, 1, 2]);
        merge(lists.iter().flatten(), 2, &mut best);
        assert_eq!(best.len(), 2);
    }

    #[test]
    fn many_hits_merge_like_few() {
        // Every object twice, at two distances, in an order of no meaning.
        let all: Vec<Found> = (0..200)
            .map(|place: u64| (place * 77) % 200)
            .map(|place| found(place as f32, place / 2))
            .collect();
        let mut best = Vec::new();
        merge(all.iter(), 30, &mut best);
        let rows: Vec<u32> = best.iter().map(|found| found.slot).collect();
        assert_eq!(rows, (0..30).collect::<Vec<u32>>());
        let few: Vec<Found> = all.into_iter().filter(|found| found.slot < 30).collect();
        let mut best_of_few = Vec::new();
        merge(few.iter(), 30, &mut best_of_few);
        assert_eq!(best, best_of_few);
    }

    #[test]
    fn only_a_shard_whose_worst_hit_counts_is_asked_again() {
        let merged = [found(1.0, 1), found(2.0, 2)];
        let full_and_good = [found(1.0, 1), found(2.0, 2)];
        let full_and_bad = [found(1.0, 1), found(2.5, 3)];
        assert!(may_hold_more(&full_and_good, 2, &merged, 2));
        assert!(!may_hold_more(&full_and_bad, 2, &merged, 2));
        assert!(!may_hold_more(&full_and_good[..1], 2, &merged, 2), "it has no more to give");
        assert!(may_hold_more(&full_and_bad, 2, &merged, 3), "the best are not complete");
        assert!(!may_hold_more(&[], 1, &merged, 2));
    }

    #[test]
    fn shares_cover_the_expectation_and_never_exceed_the_whole() {
        let spec = Spec { vector: 0, k: 10, ef: 100, max_distance: None, step_evaluations: 1 };
        for shards in [2, 3, 8, 64, 512] {
            let share = share_of(spec, shards);
            assert!(share.ef >= share.k && share.ef <= 100 && share.k <= 10, "{shards} shards");
            assert!(share.ef as usize * shards >= 100, "{shards} shards");
        }
        assert_eq!((share_of(spec, 2).ef, share_of(spec, 6).ef), (79, 54));
    }
}
