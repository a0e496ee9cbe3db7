//! What an index with codes must return: the same neighbours, with the distances of the best plane.

use super::params;
use crate::testing::{Random, Shard};
use crate::{Codes, IndexParams, Metric, RawVectors, SearchRequest, Slot, SlotBitmap};

/// Every pair of codes and raw plane that is allowed.
const PROFILES: [(Codes, RawVectors); 7] = [
    (Codes::Half, RawVectors::Memory),
    (Codes::EightBit, RawVectors::Memory),
    (Codes::FourBit, RawVectors::Memory),
    (Codes::OneBit, RawVectors::Memory),
    (Codes::EightBit, RawVectors::Absent),
    (Codes::FourBit, RawVectors::Absent),
    (Codes::OneBit, RawVectors::Absent),
];

fn with_codes(params: IndexParams, (codes, raw): (Codes, RawVectors)) -> IndexParams {
    IndexParams { codes, raw, ..params }
}

/// Share of the true neighbours among the hits, by slot: distances may be those of codes.
fn found(shard: &mut Shard, queries: &[Vec<f32>], request: SearchRequest<'_>) -> f64 {
    let (mut right, mut wanted) = (0, 0);
    for query in queries {
        let pass = |slot| request.filter.is_none_or(|filter| filter.contains(slot));
        let truth = shard.exact(query, request.k as usize, pass);
        let (hits, _) = shard.search(query, request);
        assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance));
        assert!(hits.iter().all(|hit| pass(hit.slot)));
        wanted += truth.len();
        right += truth.iter().filter(|row| hits.iter().any(|hit| hit.slot == row.slot)).count();
    }
    right as f64 / wanted as f64
}

/// How far a returned distance may be from the definition.
fn tolerance(raw: RawVectors, squared_length: f32) -> f32 {
    match raw {
        RawVectors::Memory => 1e-5 * (1.0 + squared_length),
        RawVectors::Absent => 4e-3 * (1.0 + squared_length),
    }
}

#[test]
fn graphs_on_codes_find_the_neighbours_under_every_metric_that_has_codes() {
    let mut random = Random::new(61);
    let base = random.vectors(1_200, 64, 12);
    let queries: Vec<_> = base.iter().step_by(24).cloned().collect();
    for metric in [Metric::L2Squared, Metric::Cosine, Metric::Dot] {
        for profile in PROFILES {
            let mut shard = Shard::with(with_codes(params(metric, 64), profile), &base);
            let recall = found(&mut shard, &queries, SearchRequest::new(10, 100));
            // One bit a component tells 64-dimensional vectors of a cluster apart only roughly, and
            // the negated dot product is no distance: hubs shadow their surroundings.
            let least = match (metric, profile.0) {
                (Metric::Dot, _) => 0.85,
                (_, Codes::OneBit) => 0.9,
                _ => 0.97,
            };
            println!("{metric:?} {profile:?} recall {recall}");
            assert!(recall > least, "{metric:?} {profile:?} recall {recall}");
        }
    }
}

#[test]
fn distances_of_hits_are_those_of_the_best_plane() {
    let mut random = Random::new(62);
    let base = random.vectors(600, 100, 6);
    for metric in [Metric::L2Squared, Metric::Cosine, Metric::Dot] {
        for profile in PROFILES {
            let mut shard = Shard::with(with_codes(params(metric, 100), profile), &base);
            let query = &base[7];
            let length: f32 = query.iter().map(|x| x * x).sum();
            let scale = if metric == Metric::Cosine { 1.0 } else { length };
            let truth = shard.exact(query, base.len(), |_| true);
            let (hits, stats) = shard.search(query, SearchRequest::new(10, 60));
            assert_eq!(hits.len(), 10);
            assert!(stats.rescored >= 10 && stats.rescored <= stats.evaluations, "{stats:?}");
            for hit in hits {
                let expected = truth.iter().find(|row| row.slot == hit.slot).unwrap().distance;
                let error = (hit.distance - expected).abs();
                assert!(error <= tolerance(profile.1, scale), "{metric:?} {profile:?} {error}");
            }
        }
    }
}

#[test]
fn a_scan_on_codes_is_exact_where_the_vectors_are_kept() {
    let mut random = Random::new(63);
    for clusters in [0, 12] {
        let base = random.vectors(2_000, 48, clusters);
        for profile in PROFILES {
            let unlimited = IndexParams { flat_cutoff: u32::MAX, ..params(Metric::L2Squared, 48) };
            let mut shard = Shard::new(with_codes(unlimited, profile));
            base.iter().for_each(|vector| {
                shard.store(vector);
            });
            let (mut found, mut rescored) = (0, 0);
            for query in base.iter().step_by(97) {
                let truth = shard.exact(query, 20, |_| true);
                let (hits, stats) = shard.search(query, SearchRequest::new(20, 20));
                assert!(stats.exact);
                rescored += stats.rescored;
                let truth: Vec<Slot> = truth.iter().map(|row| row.slot).collect();
                found += hits.iter().filter(|hit| truth.contains(&hit.slot)).count();
            }
            let wanted = base.len().div_ceil(97) * 20;
            let least = if profile.1 == RawVectors::Memory { wanted } else { wanted * 98 / 100 };
            assert!(found >= least, "{profile:?}: {found} of {wanted}");
            if profile.0 != Codes::OneBit {
                assert!(rescored < 2_000 / 2 * (wanted / 20) as u64, "{profile:?}: {rescored}");
            }
        }
    }
}

#[test]
fn the_tail_a_limit_and_a_filter_work_on_codes() {
    let mut random = Random::new(64);
    let base = random.vectors(1_000, 32, 5);
    for profile in PROFILES {
        let params = with_codes(params(Metric::L2Squared, 32), profile);
        let mut shard = Shard::with(params, &base[..800]);
        base[800..].iter().for_each(|vector| {
            shard.store(vector);
        });
        let own = if profile.1 == RawVectors::Memory { 0.0 } else { 1e-2 };
        for (slot, query) in base.iter().enumerate().skip(800).step_by(31) {
            let (hits, stats) = shard.search(query, SearchRequest::new(3, 20));
            assert_eq!(hits[0].slot, slot as Slot, "{profile:?}");
            assert!(hits[0].distance <= own && !stats.exact);
        }
        let truth = shard.exact(&base[5], 50, |_| true);
        let limit = (truth[7].distance + truth[8].distance) / 2.0;
        let request = SearchRequest { max_distance: Some(limit), ..SearchRequest::new(50, 200) };
        let (hits, _) = shard.search(&base[5], request);
        assert!((7..=9).contains(&hits.len()), "{profile:?} {} hits", hits.len());
        assert!(hits.iter().all(|hit| hit.distance <= limit));
        for share in [2, 10] {
            let filter: SlotBitmap = (0..1_000).filter(|slot| slot % share == 0).collect();
            let request = SearchRequest { filter: Some(&filter), ..SearchRequest::new(10, 100) };
            let recall = found(&mut shard, &base[..40], request);
            assert!(recall > 0.9, "{profile:?} 1/{share} recall {recall}");
        }
    }
}

#[test]
fn an_interrupted_search_on_codes_returns_what_an_uninterrupted_one_does() {
    let base = Random::new(65).vectors(2_000, 32, 10);
    let profile = (Codes::FourBit, RawVectors::Absent);
    let mut shard = Shard::with(with_codes(params(Metric::Cosine, 32), profile), &base[..1_800]);
    base[1_800..].iter().for_each(|vector| {
        shard.store(vector);
    });
    let request = SearchRequest::new(10, 64);
    let (whole, whole_stats) = shard.search(&base[9], request);
    let (view, directory) = (shard.writer.view(), shard.directory.view());
    let mut task = view.start(&directory, &base[9], request, &mut shard.scratch);
    let mut steps = 0;
    while task.step(10).is_pending() {
        steps += 1;
    }
    let mut hits = Vec::new();
    let stats = task.finish(&mut hits);
    assert_eq!((hits, stats), (whole, whole_stats));
    assert!(steps > 3, "{steps} steps");
}

#[test]
fn vectors_come_back_from_their_codes_nearly_as_they_were() {
    let base = Random::new(66).vectors(50, 100, 0);
    for profile in PROFILES {
        let shard = Shard::with(with_codes(params(Metric::Cosine, 100), profile), &base);
        let view = shard.writer.view();
        assert_eq!(view.has_vectors(), profile.1 == RawVectors::Memory);
        let mut decoded = vec![0.0; 100];
        for (slot, vector) in base.iter().enumerate() {
            view.decode(slot as Slot, &mut decoded);
            let norm = view.norm(slot as Slot);
            let error: f32 = vector.iter().zip(&decoded).map(|(a, b)| (a - b * norm).powi(2)).sum();
            // One bit leaves residuals five times as large as eight bits do, for the same steps.
            let ratio = if profile.0 == Codes::OneBit { 3e-2 } else { 4e-3 };
            assert!(error.sqrt() <= norm * ratio, "{profile:?}: {} of {norm}", error.sqrt());
        }
    }
}

#[test]
fn scans_that_look_at_signs_first_find_the_same_and_compute_little() {
    let mut random = Random::new(67);
    let (dims, rows) = (256, 6_000);
    let base = random.vectors(rows, dims, 30);
    let queries: Vec<_> = base.iter().step_by(150).cloned().collect();
    let filter: SlotBitmap = (0..rows as Slot).filter(|slot| slot % 2 == 0).collect();
    for metric in [Metric::L2Squared, Metric::Cosine, Metric::Dot] {
        let mut all = params(metric, dims as u32);
        // Everything is scanned.
        all.flat_cutoff = rows as u32;
        for profile in [(Codes::FourBit, RawVectors::Absent), (Codes::EightBit, RawVectors::Memory)]
        {
            let mut shard = Shard::new(with_codes(all.clone(), profile));
            base.iter().for_each(|vector| {
                shard.store(vector);
            });
            for filter in [None, Some(&filter)] {
                let request = SearchRequest { filter, ..SearchRequest::new(10, 64) };
                let recall = found(&mut shard, &queries, request);
                let name = format!("{metric:?} {profile:?} {}", filter.is_some());
                assert!(recall >= 0.99, "{name}: recall {recall}");
                let (_, stats) = shard.search(&queries[7], request);
                let passing = filter.map_or(rows as u64, |filter| filter.len().into());
                assert_eq!(stats.glanced, passing, "{name}");
                assert!(stats.exact && stats.evaluations < passing / 2, "{name}: {stats:?}");
            }
        }
    }
}
