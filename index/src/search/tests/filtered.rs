//! How filtered searches choose their way, and that none of the ways loses recall.

use crate::testing::{Random, Shard};
use crate::{IndexParams, Metric, SearchRequest, Slot, SlotBitmap, Strategy};

const DIMS: usize = 16;
const ROWS: usize = 8_000;
const CLUSTERS: usize = 40;

/// Clustered rows, ordered by cluster: slot `s` lies in cluster `s / (ROWS / CLUSTERS)`. Queries
/// come from all clusters.
fn clustered(seed: u64) -> (Shard, Vec<Vec<f32>>) {
    let mut random = Random::new(seed);
    let centres: Vec<Vec<f32>> =
        (0..CLUSTERS).map(|_| (0..DIMS).map(|_| random.gauss() * 3.0).collect()).collect();
    let mut near = |cluster: usize| -> Vec<f32> {
        centres[cluster].iter().map(|x| x + random.gauss()).collect()
    };
    let rows: Vec<_> = (0..ROWS).map(|row| near(row * CLUSTERS / ROWS)).collect();
    let queries = (0..CLUSTERS * 3).map(|query| near(query % CLUSTERS)).collect();
    let mut params = IndexParams::new(DIMS as u32, Metric::L2Squared);
    params.flat_cutoff = 0;
    params.ef_construction = 64;
    (Shard::with(params, &rows), queries)
}

/// The slots of some clusters.
fn of_clusters(pass: impl Fn(usize) -> bool) -> SlotBitmap {
    (0..ROWS as Slot).filter(|&slot| pass(slot as usize * CLUSTERS / ROWS)).collect()
}

#[test]
fn a_query_far_from_what_passes_finds_it_at_no_more_than_the_price_of_a_scan() {
    let (mut shard, queries) = clustered(51);
    // Queries of the clusters that do not pass are far from every row that does.
    let filter = of_clusters(|cluster| cluster >= CLUSTERS / 2);
    let outside: Vec<_> =
        queries.iter().enumerate().filter(|(n, _)| n % CLUSTERS < CLUSTERS / 2).collect();
    let outside: Vec<_> = outside.into_iter().map(|(_, query)| query.clone()).collect();
    let request = SearchRequest { filter: Some(&filter), ..SearchRequest::new(10, 32) };
    let recall = shard.recall(&outside, request);
    assert!(recall > 0.93, "recall {recall}");
    let mut evaluations = 0;
    for query in &outside {
        let (_, stats) = shard.search(query, request);
        evaluations += stats.evaluations;
    }
    let mean = evaluations / outside.len() as u64;
    assert!(mean < ROWS as u64 * 6 / 10, "{mean} distances for {} passing rows", ROWS / 2);
}

#[test]
fn the_way_follows_what_passes_around_the_query() {
    let (mut shard, queries) = clustered(52);
    let filter = of_clusters(|cluster| cluster >= CLUSTERS / 2);
    let request = SearchRequest { filter: Some(&filter), ..SearchRequest::new(10, 32) };
    let (mut inside, mut outside) = (0, 0);
    for (number, query) in queries.iter().enumerate() {
        let (_, stats) = shard.search(query, request);
        let passes = number % CLUSTERS >= CLUSTERS / 2;
        inside += usize::from(passes && stats.strategy == Strategy::Collect);
        outside += usize::from(!passes && stats.strategy != Strategy::Collect);
    }
    let half = queries.len() / 2;
    assert!(inside * 10 > half * 9, "{inside} of {half} collect where all passes");
    assert!(outside * 10 > half * 9, "{outside} of {half} go another way where nothing does");
}

#[test]
fn few_passing_rows_are_scanned_and_many_are_not() {
    let (mut shard, queries) = clustered(53);
    for (step, is_scanned) in [(400, true), (100, true), (2, false)] {
        let filter: SlotBitmap = (0..ROWS as Slot).step_by(step).collect();
        let request = SearchRequest { filter: Some(&filter), ..SearchRequest::new(10, 32) };
        let (_, stats) = shard.search(&queries[0], request);
        assert_eq!(stats.exact, is_scanned, "every {step}th row passes");
        assert_eq!(stats.strategy == Strategy::Scan, is_scanned);
        assert!(!is_scanned || stats.evaluations <= filter.len().into());
    }
}

#[test]
fn a_walk_that_costs_more_than_the_scan_is_given_up() {
    let (mut shard, queries) = clustered(54);
    let filter: SlotBitmap = (0..ROWS as Slot).step_by(20).collect();
    for ef in [64, 200, 1_000] {
        let request = SearchRequest { filter: Some(&filter), ..SearchRequest::new(10, ef) };
        for query in queries.iter().step_by(7) {
            let (hits, stats) = shard.search(query, request);
            assert_eq!(hits.len(), 10);
            // The scan, a walk of the same price, and what a single step may exceed it by.
            let most = u64::from(filter.len()) * 2 + 2_000;
            assert!(stats.evaluations <= most, "{} distances at ef {ef}", stats.evaluations);
        }
    }
}

#[test]
fn the_same_searches_in_the_same_order_take_the_same_ways() {
    let run = || {
        let (mut shard, queries) = clustered(55);
        let thin: SlotBitmap = (0..ROWS as Slot).step_by(9).collect();
        let half = of_clusters(|cluster| cluster % 2 == 0);
        let mut all = Vec::new();
        for query in &queries {
            for filter in [&thin, &half] {
                let request = SearchRequest { filter: Some(filter), ..SearchRequest::new(5, 24) };
                all.push(shard.search(query, request));
            }
        }
        all
    };
    assert!(run() == run());
}
