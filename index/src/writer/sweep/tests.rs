//! What a graph must be after its rows were replaced many times.

use core::sync::atomic::Ordering;

use super::Stage;
use crate::testing::{Random, Shard};
use crate::writer::link::write_links;
use crate::{IndexParams, LinkScratch, Metric, SearchRequest, Slot, SweepState};

const DIMS: usize = 24;

/// Largest excess of a step over its budget: the search for the surroundings of a node, or a repair
/// on all layers.
const EXCESS_MAX: u64 = 2_000;

fn params() -> IndexParams {
    let mut params = IndexParams::new(DIMS as u32, Metric::L2Squared);
    params.flat_cutoff = 0;
    params.ef_construction = 64;
    params
}

fn members(shard: &Shard) -> Vec<Slot> {
    let slots = shard.vectors.iter().zip(0..);
    slots.filter(|(vector, _)| vector.is_some()).map(|(_, slot)| slot).collect()
}

/// A fresh index of the rows that live in another.
fn rebuilt(shard: &Shard) -> Shard {
    let live: Vec<_> = shard.vectors.iter().flatten().cloned().collect();
    Shard::with(params(), &live)
}

/// Compares recall with an index built afresh, at a small and a large pool.
fn check_recall(shard: &mut Shard, queries: &[Vec<f32>]) {
    let mut fresh = rebuilt(shard);
    for (ef, loss) in [(16, 0.02), (64, 0.01)] {
        let request = SearchRequest::new(10, ef);
        let (churned, fresh) = (shard.recall(queries, request), fresh.recall(queries, request));
        assert!(churned > fresh - loss, "ef {ef}: recall {churned}, afresh {fresh}");
    }
    assert_eq!(shard.writer.view().graph_stats().unreachable, 0);
}

#[test]
fn rows_replaced_ten_times_leave_a_graph_as_good_as_a_fresh_one() {
    let mut random = Random::new(41);
    let all = random.vectors(1_500 * 11 + 200, DIMS, 40);
    let (queries, rows) = all.split_at(200);
    let (first, mut coming) = rows.split_at(1_500);
    let mut shard = Shard::with(params(), first);
    while !coming.is_empty() {
        let (now, later) = coming.split_at(75);
        coming = later;
        let mut living = members(&shard);
        for vector in now {
            let place = random.below(living.len() as u64) as usize;
            shard.kill(living.swap_remove(place));
            shard.store(vector);
        }
        shard.link_all(16);
        shard.sweep(500);
    }
    check_recall(&mut shard, queries);
    assert_eq!(members(&shard).len(), 1_500);
    let used = shard.writer.view().stats().used_bytes as f64;
    let fresh = rebuilt(&shard).writer.view().stats().used_bytes as f64;
    assert!(used < 1.15 * fresh, "{used} bytes, afresh {fresh}");
}

#[test]
fn a_region_that_is_updated_again_and_again_stays_connected() {
    let mut random = Random::new(42);
    let all = random.vectors(2_200, DIMS, 25);
    let (queries, rows) = all.split_at(200);
    let mut shard = Shard::with(params(), rows);
    for _ in 0..30 {
        let centre = rows[random.below(2_000) as usize].clone();
        let region = shard.exact(&centre, 150, |_| true);
        for hit in region {
            let Some(vector) = shard.vectors[hit.slot as usize].clone() else { continue };
            shard.kill(hit.slot);
            shard.store(&vector);
        }
        shard.link_all(16);
        shard.sweep(500);
    }
    check_recall(&mut shard, queries);
}

#[test]
fn an_index_that_shrank_to_a_tenth_can_be_filled_again() {
    let mut random = Random::new(43);
    let all = random.vectors(3_800, DIMS, 25);
    let (queries, rows) = all.split_at(200);
    let mut shard = Shard::with(params(), &rows[..2_000]);
    for slot in 0..2_000 {
        if slot % 10 != 0 {
            shard.kill(slot);
        }
    }
    assert_eq!(shard.sweep(500).len(), 1_800);
    check_recall(&mut shard, queries);
    rows[2_000..3_600].iter().for_each(|vector| {
        assert!(shard.store(vector) < 2_000, "freed slots are used first");
    });
    shard.link_all(16);
    check_recall(&mut shard, queries);
}

#[test]
fn no_step_goes_far_beyond_its_budget() {
    let mut shard = Shard::with(params(), &Random::new(44).vectors(2_000, DIMS, 20));
    (0..700).for_each(|slot| shard.kill(slot));
    for slot in 700..800 {
        // The index is not told and has to find them.
        shard.directory.kill(slot);
    }
    for budget in [1, 64, 1_024] {
        let (mut freed, mut steps) = (Vec::new(), 0);
        loop {
            let before = shard.writer.sweep_evaluations();
            let state = shard.writer.sweep_step(&shard.directory.view(), budget, &mut freed);
            let work = shard.writer.sweep_evaluations() - before;
            assert!(work <= budget as u64 + EXCESS_MAX, "{work} distances, budget {budget}");
            steps += 1;
            if state != SweepState::Running {
                break;
            }
        }
        assert!(budget > 64 || steps > 1_000 / budget, "{steps} steps at {budget}");
        let epoch = shard.quiescence.retire_epoch();
        freed.iter().for_each(|&slot| shard.directory.free(slot, epoch));
        let first = 1_000 + budget as Slot / 2;
        for slot in first..first + 400 {
            if shard.directory.view().is_live(slot) {
                shard.kill(slot);
            }
        }
    }
}

/// Takes all links that lead to some nodes out of the graph; returns these nodes.
fn cut_off(shard: &Shard) -> Vec<Slot> {
    let view = shard.writer.view();
    let (entry, end) = (view.entry().unwrap().slot, view.high.load(Ordering::Relaxed));
    let lonely: Vec<Slot> =
        (0..end).filter(|&slot| view.level_of(slot) == 0 && slot != entry).step_by(50).collect();
    for slot in 0..end {
        let distant = |other| crate::search::pool::Neighbour::new(0.0, other);
        let rest = view.neighbours(slot, 0).filter(|other| !lonely.contains(other));
        let rest: Vec<_> = rest.map(distant).collect();
        write_links(&view, slot, 0, &rest);
    }
    assert_eq!(view.graph_stats().unreachable as usize, lonely.len());
    lonely
}

#[test]
fn a_node_that_is_cut_off_is_found_and_linked() {
    let base = Random::new(45).vectors(1_000, DIMS, 10);
    let mut shard = Shard::with(params(), &base);
    let lonely = cut_off(&shard);
    let view = shard.writer.view();
    let entry = view.entry().unwrap().slot;
    shard.kill((0..1_000).find(|slot| !lonely.contains(slot) && *slot != entry).unwrap());
    shard.sweep(300);
    assert_eq!(view.graph_stats().unreachable, 0);
    for slot in lonely {
        let vector = base[slot as usize].clone();
        let (hits, stats) = shard.search(&vector, SearchRequest::new(1, 64));
        assert_eq!((hits[0].slot, stats.exact), (slot, false));
    }
    assert_eq!(view.tail_count.load(Ordering::Relaxed), 0);
}

/// The audit wrote links without saying so. A batch computed before it could choose the changed row
/// anew from what it was, and the node that the audit had linked was cut off again.
#[test]
fn a_batch_from_before_an_audit_that_linked_nodes_is_refused() {
    let base = Random::new(46).vectors(1_001, DIMS, 10);
    let mut shard = Shard::with(params(), &base[..1_000]);
    let lonely = cut_off(&shard);
    let entry = shard.writer.view().entry().unwrap().slot;
    shard.kill((0..1_000).find(|slot| !lonely.contains(slot) && *slot != entry).unwrap());
    let directory = shard.directory.view();
    let mut freed = Vec::new();
    while !matches!(shard.writer.sweep.stage, Some(Stage::Audit(_))) {
        shard.writer.sweep_step(&directory, 64, &mut freed);
    }
    shard.store(&base[1_000]);
    let batch = shard.writer.begin_batch(1).unwrap();
    let mut scratch = LinkScratch::new();
    let rows = batch.gather(vec![batch.find(&directory, 0, &mut scratch)]);
    let pruned = rows.prune(&directory, 0..rows.target_count(), &mut scratch);
    while shard.writer.sweep_step(&directory, 64, &mut freed) != SweepState::Finished {}
    assert_eq!(shard.writer.commit_batch(&rows, &[pruned], &directory).unwrap(), 0);
    assert_eq!(shard.writer.backlog(), 1, "the member goes on waiting");
    assert_eq!(shard.writer.view().graph_stats().unreachable, 0);
}
