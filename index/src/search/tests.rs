//! What a search must return: metrics, tail, thresholds, filters, interruption.

mod codes;
mod filtered;

use crate::testing::{Random, Shard};
use crate::{Candidates, Codes, IndexParams, Metric, Scratch, SearchRequest, Slot, SlotBitmap};

const METRICS: [Metric; 5] =
    [Metric::L2Squared, Metric::Cosine, Metric::Dot, Metric::Manhattan, Metric::Hamming];

fn params(metric: Metric, dims: u32) -> IndexParams {
    let mut params = IndexParams::new(dims, metric);
    params.flat_cutoff = 0;
    params.ef_construction = 100;
    params
}

#[test]
fn scans_return_the_definition_of_every_metric() {
    let mut random = Random::new(21);
    for metric in METRICS {
        let mut base = random.vectors(300, 37, 3);
        if metric == Metric::Hamming {
            base.iter_mut().flatten().for_each(|x| *x = (*x * 2.0).round());
        }
        let mut shard = Shard::with(IndexParams::new(37, metric), &base);
        for query in base.iter().step_by(29) {
            let (hits, stats) = shard.search(query, SearchRequest::new(20, 20));
            let truth = shard.exact(query, 20, |_| true);
            assert!(stats.exact);
            assert_eq!(hits.len(), 20);
            for (hit, truth) in hits.iter().zip(&truth) {
                let scale = 1e-4 * (1.0 + truth.distance.abs());
                assert!((hit.distance - truth.distance).abs() <= scale, "{metric:?}");
            }
        }
    }
}

#[test]
fn graphs_find_the_neighbours_under_every_metric() {
    let mut random = Random::new(22);
    for metric in METRICS {
        let mut base = random.vectors(3_000, 32, 20);
        if metric == Metric::Hamming {
            base.iter_mut().flatten().for_each(|x| *x = x.round());
        }
        let queries: Vec<_> = base.iter().step_by(60).cloned().collect();
        let mut shard = Shard::with(params(metric, 32), &base);
        let recall = shard.recall(&queries, SearchRequest::new(10, 150));
        // The negated dot product is no distance: hubs of large length shadow their surroundings.
        let least = if metric == Metric::Dot { 0.85 } else { 0.95 };
        assert!(recall > least, "{metric:?} recall {recall}");
    }
}

#[test]
fn the_tail_is_searched_exactly_and_merged() {
    let mut random = Random::new(23);
    let base = random.vectors(2_000, 16, 10);
    let mut shard = Shard::with(params(Metric::L2Squared, 16), &base[..1_500]);
    let tail: Vec<Slot> = base[1_500..].iter().map(|vector| shard.store(vector)).collect();
    assert_eq!(shard.writer.backlog(), 500);
    let recall = shard.recall(&base[..100], SearchRequest::new(10, 80));
    assert!(recall > 0.97, "recall {recall}");
    for (slot, vector) in tail.iter().zip(&base[1_500..]).step_by(17) {
        let (hits, stats) = shard.search(vector, SearchRequest::new(3, 10));
        assert_eq!((hits[0].slot, hits[0].distance), (*slot, 0.0));
        assert!(!stats.exact);
    }
}

#[test]
fn a_walk_whose_nearest_have_settled_ends_before_its_pool_is_used_up() {
    let base = Random::new(27).vectors(6_000, 24, 30);
    let mut shard = Shard::with(params(Metric::L2Squared, 24), &base);
    let request = SearchRequest::new(10, 400);
    let expanded = |shard: &mut Shard, k| {
        let request = SearchRequest { k, ..request };
        let of_query = base.iter().step_by(60).map(|query| shard.search(query, request).1.hops);
        of_query.sum::<u64>() as f64 / 100.0
    };
    // Nothing is watched when all of the pool is wanted: every candidate is expanded.
    let (all, early) = (expanded(&mut shard, 400), expanded(&mut shard, 10));
    assert!(early < 0.95 * all, "{early} of {all} nodes expanded");
    let recall = shard.recall(&base[..100], request);
    assert!(recall > 0.995, "recall {recall}");
}

#[test]
fn a_distance_limit_cuts_the_hits() {
    let base = Random::new(24).vectors(2_000, 16, 10);
    for metric in [Metric::L2Squared, Metric::Cosine] {
        let mut shard = Shard::with(params(metric, 16), &base);
        let truth = shard.exact(&base[5], 50, |_| true);
        let limit = (truth[7].distance + truth[8].distance) / 2.0;
        let request = SearchRequest { max_distance: Some(limit), ..SearchRequest::new(50, 100) };
        let (hits, _) = shard.search(&base[5], request);
        assert_eq!(hits.len(), 8);
        assert!(hits.iter().all(|hit| hit.distance <= limit));
    }
}

#[test]
fn an_interrupted_search_returns_what_an_uninterrupted_one_does() {
    let mut random = Random::new(25);
    let base = random.vectors(2_000, 16, 10);
    let mut shard = Shard::with(params(Metric::L2Squared, 16), &base[..1_800]);
    base[1_800..].iter().for_each(|vector| {
        shard.store(vector);
    });
    let filter: SlotBitmap = (0..2_000).filter(|slot| slot % 2 == 0).collect();
    for filter in [None, Some(&filter)] {
        let request = SearchRequest { filter, ..SearchRequest::new(10, 64) };
        let (whole, whole_stats) = shard.search(&base[9], request);
        let (view, directory) = (shard.writer.view(), shard.directory.view());
        let mut task = view.start(&directory, &base[9], request, &mut shard.scratch);
        let mut steps = 0;
        while task.step(50).is_pending() {
            steps += 1;
        }
        let mut hits = Vec::new();
        let stats = task.finish(&mut hits);
        assert_eq!((hits, stats), (whole, whole_stats));
        assert!(steps > 3, "{steps} steps");
    }
}

#[test]
fn an_interrupted_insert_search_finds_what_an_uninterrupted_one_does() {
    let base = Random::new(29).vectors(2_001, 16, 10);
    let mut shard = Shard::with(params(Metric::L2Squared, 16), &base[..2_000]);
    let slot = shard.store(&base[2_000]);
    let view = shard.writer.view();
    let (mut whole, mut stepped) = (Candidates::new(), Candidates::new());
    let directory = shard.directory.view();
    view.candidates(&directory, slot, &mut shard.scratch, &mut whole);
    let mut task = view.start_candidates(&directory, slot, &mut shard.scratch, &mut stepped);
    let mut steps = 0;
    while task.step(20).is_pending() {
        steps += 1;
    }
    assert!(steps > 3, "{steps} steps");
    assert_eq!(whole.levels, stepped.levels);
    assert_eq!(whole.evaluations(), stepped.evaluations());
}

#[test]
fn odd_requests_have_sensible_answers() {
    let base = Random::new(26).vectors(300, 8, 0);
    let mut shard = Shard::with(params(Metric::L2Squared, 8), &base);
    assert!(shard.search(&base[0], SearchRequest::new(0, 10)).0.is_empty());
    assert_eq!(shard.search(&base[0], SearchRequest::new(10_000, 1)).0.len(), 300);
    let none = SlotBitmap::new();
    let request = SearchRequest { filter: Some(&none), ..SearchRequest::new(5, 10) };
    assert!(shard.search(&base[0], request).0.is_empty());
    let beyond: SlotBitmap = [3, 299, 5_000_000].into_iter().collect();
    let request = SearchRequest { filter: Some(&beyond), ..SearchRequest::new(5, 10) };
    assert_eq!(shard.search(&base[0], request).0.len(), 2);
    let mut empty = Shard::new(params(Metric::Cosine, 8));
    assert!(empty.search(&base[0], SearchRequest::new(5, 10)).0.is_empty());
    let mut cosine = Shard::with(params(Metric::Cosine, 8), &base);
    assert_eq!(cosine.search(&[0.0; 8], SearchRequest::new(5, 10)).0.len(), 5);
}

#[test]
fn filters_of_any_share_keep_recall_whether_correlated_or_not() {
    let mut random = Random::new(27);
    let all = random.vectors(12_060, 16, 40);
    let (base, queries) = all.split_at(12_000);
    let mut shard = Shard::with(params(Metric::L2Squared, 16), base);
    let mut order: Vec<Slot> = (0..12_000).collect();
    order.sort_by(|&a, &b| base[a as usize][0].total_cmp(&base[b as usize][0]));
    for permille in [500, 100, 10, 1] {
        let count = 12_000 * permille / 1_000;
        let uncorrelated: SlotBitmap =
            (0..12_000).filter(|_| random.below(1_000) < permille as u64).collect();
        let correlated: SlotBitmap = order[..count].iter().copied().collect();
        for (name, filter) in [("uncorrelated", &uncorrelated), ("correlated", &correlated)] {
            let request = SearchRequest { filter: Some(filter), ..SearchRequest::new(10, 64) };
            let recall = shard.recall(queries, request);
            assert!(recall > 0.93, "{permille} permille {name}: recall {recall}");
        }
    }
}

#[test]
fn a_filter_and_dead_slots_together_leave_only_live_passing_hits() {
    let mut random = Random::new(28);
    let base = random.vectors(4_000, 16, 10);
    let mut shard = Shard::with(params(Metric::L2Squared, 16), &base);
    for slot in 0..4_000 {
        if slot % 3 != 0 {
            shard.kill(slot);
        }
    }
    let filter: SlotBitmap = (0..4_000).filter(|slot| slot % 2 == 0).collect();
    let request = SearchRequest { filter: Some(&filter), ..SearchRequest::new(10, 40) };
    let recall = shard.recall(&base[..60], request);
    assert!(recall > 0.93, "recall {recall}");
    let unfiltered = shard.recall(&base[..60], SearchRequest::new(10, 40));
    assert!(unfiltered > 0.93, "recall {unfiltered}");
}

#[test]
fn searches_that_take_turns_find_what_each_finds_alone() {
    let mut random = Random::new(31);
    let base = random.vectors(2_000, 24, 15);
    let mut with_codes = params(Metric::Cosine, 24);
    with_codes.codes = Codes::EightBit;
    for params in [params(Metric::L2Squared, 24), with_codes] {
        let mut shard = Shard::with(params, &base[..1_900]);
        base[1_900..].iter().for_each(|vector| {
            shard.store(vector);
        });
        let filter: SlotBitmap = (0..2_000).filter(|slot| slot % 2 == 0).collect();
        // Searches of different length, and kinds of walk, side by side.
        let request = |index: usize| SearchRequest {
            filter: (index % 5 == 3).then_some(&filter),
            ..SearchRequest::new(1 + index as u32 % 20, 10 + index as u32 % 90)
        };
        let queries: Vec<&[f32]> = base.iter().step_by(29).map(Vec::as_slice).collect();
        let (view, directory) = (shard.writer.view(), shard.directory.view());
        for together in [1, 2, 5, 100] {
            let mut scratches: Vec<Scratch> = (0..together).map(|_| Scratch::new()).collect();
            let tagged = queries.iter().enumerate();
            let tagged = tagged.map(|(index, query)| (index, *query, request(index)));
            let mut seen = vec![0; queries.len()];
            let mut buffer = Vec::new();
            view.search_many(
                &directory,
                tagged,
                &mut scratches,
                &mut buffer,
                |index, hits, stats| {
                    let alone = shard.search(queries[index], request(index));
                    assert_eq!((hits, stats), (&alone.0[..], alone.1), "query {index}");
                    seen[index] += 1;
                },
            );
            assert!(seen.iter().all(|&times| times == 1), "{seen:?}");
        }
    }
}
