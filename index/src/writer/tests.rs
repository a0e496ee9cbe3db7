//! What the graph must be after storing, linking, killing and sweeping.

use crate::testing::{Random, Shard};
use crate::{
    Candidates, Choice, Codes, IndexKind, IndexParams, LinkBatch, LinkRows, LinkScratch, Metric,
    PrunedRows, RawVectors, Scratch, SearchRequest, Slot, SlotDirectory, SweepState,
};

fn params(dims: u32) -> IndexParams {
    let mut params = IndexParams::new(dims, Metric::L2Squared);
    (params.codes, params.raw) = (Codes::None, RawVectors::Memory);
    params.flat_cutoff = 0;
    params.ef_construction = 100;
    params
}

/// Every linked slot can be reached from the entry along layer-0 links.
fn unreachable_count(shard: &Shard) -> usize {
    let view = shard.writer.view();
    let Some(entry) = view.entry() else { return 0 };
    let mut seen = crate::SlotBitmap::new();
    let mut open = vec![entry.slot];
    seen.insert(entry.slot);
    while let Some(slot) = open.pop() {
        for neighbour in view.neighbours(slot, 0) {
            if seen.insert(neighbour) {
                open.push(neighbour);
            }
        }
    }
    let high = view.stats().slots.max(shard.vectors.len() as u32);
    (0..high).filter(|&slot| view.is_linked(slot) && !seen.contains(slot)).count()
}

/// Degrees, self-links, doubles, levels and targets of every row.
fn check_rows(shard: &Shard) {
    let view = shard.writer.view();
    for slot in 0..shard.vectors.len() as u32 {
        if !view.is_linked(slot) {
            continue;
        }
        for level in 0..=view.level_of(slot) {
            let links: Vec<Slot> = view.neighbours(slot, level).collect();
            assert!(links.len() <= if level == 0 { 32 } else { 16 });
            let mut unique = links.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), links.len(), "slot {slot} links twice");
            assert!(!links.contains(&slot), "slot {slot} links to itself");
            assert!(links.iter().all(|&other| view.is_linked(other)));
            assert!(links.iter().all(|&other| view.level_of(other) >= level));
        }
    }
}

#[test]
fn clustered_and_uniform_data_are_found_and_connected() {
    for (seed, clusters) in [(1, 0), (2, 50)] {
        let mut random = Random::new(seed);
        let all = random.vectors(6_100, 24, clusters);
        let (base, queries) = all.split_at(6_000);
        let mut shard = Shard::with(params(24), base);
        check_rows(&shard);
        assert_eq!(shard.writer.backlog(), 0);
        assert!(unreachable_count(&shard) <= 2, "{} unreachable", unreachable_count(&shard));
        let recall = shard.recall(queries, SearchRequest::new(10, 100));
        assert!(recall > 0.97, "recall {recall} with {clusters} clusters");
        let low = shard.recall(queries, SearchRequest::new(10, 10));
        assert!(low > 0.6 && low < recall, "recall {low} at ef 10");
    }
}

#[test]
fn input_sorted_by_cluster_is_found_as_well() {
    let mut random = Random::new(3);
    let mut base = random.vectors(5_000, 16, 25);
    base.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let queries = base.iter().step_by(50).cloned().collect::<Vec<_>>();
    let mut shard = Shard::with(params(16), &base);
    let recall = shard.recall(&queries, SearchRequest::new(10, 100));
    assert!(recall > 0.95, "recall {recall}");
}

#[test]
fn many_equal_vectors_do_not_break_the_graph() {
    let mut base = vec![vec![1.0; 8]; 500];
    base.extend(Random::new(4).vectors(500, 8, 0));
    let mut shard = Shard::with(params(8), &base);
    check_rows(&shard);
    let (hits, _) = shard.search(&[1.0; 8], SearchRequest::new(10, 50));
    assert_eq!(hits.len(), 10);
    assert!(hits.iter().all(|hit| hit.distance == 0.0));
    let recall = shard.recall(&base[500..600], SearchRequest::new(5, 100));
    assert!(recall > 0.9, "recall {recall}");
}

/// Finds and chooses with `threads` threads that take members in turn.
fn choose_with(batch: &LinkBatch, directory: &SlotDirectory, threads: usize) -> Vec<Choice> {
    std::thread::scope(|scope| {
        let thread = |first: usize| {
            scope.spawn(move || {
                let mut scratch = LinkScratch::new();
                let members = (first..batch.len()).step_by(threads);
                members.map(|at| batch.find(directory, at, &mut scratch)).collect::<Vec<_>>()
            })
        };
        let handles: Vec<_> = (0..threads).map(thread).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    })
}

/// Prunes with `threads` threads, each a range of targets.
fn prune_with(rows: &LinkRows, directory: &SlotDirectory, threads: usize) -> Vec<PrunedRows> {
    let size = rows.target_count().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let starts = (0..rows.target_count()).step_by(size);
        let thread = |start: usize| {
            let range = start..rows.target_count().min(start + size);
            scope.spawn(move || rows.prune(directory, range, &mut LinkScratch::new()))
        };
        let handles: Vec<_> = starts.map(thread).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

fn link_with(shard: &mut Shard, batch: usize, threads: usize) {
    let directory = shard.directory.view();
    while let Some(batch) = shard.writer.begin_batch(batch) {
        let rows = batch.gather(choose_with(&batch, &directory, threads));
        let pruned = prune_with(&rows, &directory, threads);
        assert_eq!(shard.writer.commit_batch(&rows, &pruned, &directory).unwrap(), batch.len());
    }
}

#[test]
fn the_same_order_and_seed_give_the_same_graph_whatever_the_number_of_threads() {
    let base = Random::new(5).vectors(1_500, 12, 10);
    let one = Shard::with(params(12), &base).writer.checksum();
    assert_eq!(Shard::with(params(12), &base).writer.checksum(), one);
    let seeded = IndexParams { seed: 9, ..params(12) };
    assert_ne!(Shard::with(seeded, &base).writer.checksum(), one);
    for codes in [Codes::None, Codes::EightBit, Codes::FourBit, Codes::OneBit] {
        let build = |threads: usize| {
            let mut shard = Shard::new(IndexParams { codes, ..params(12) });
            base.iter().for_each(|vector| {
                shard.store(vector);
            });
            link_with(&mut shard, 16, threads);
            check_rows(&shard);
            shard.writer.checksum()
        };
        let single = build(1);
        assert_eq!(single == one, codes == Codes::None);
        for threads in [2, 5] {
            assert_eq!(build(threads), single, "{threads} threads, {codes:?}");
        }
    }
}

#[test]
fn links_chosen_on_codes_are_as_good_as_those_chosen_on_floats() {
    let mut random = Random::new(45);
    let all = random.vectors(4_200, 48, 40);
    let (base, queries) = all.split_at(4_000);
    let request = SearchRequest::new(10, 60);
    let floats = Shard::with(params(48), base).recall(queries, request);
    for codes in [Codes::EightBit, Codes::FourBit] {
        let mut shard = Shard::with(IndexParams { codes, ..params(48) }, base);
        check_rows(&shard);
        assert!(unreachable_count(&shard) <= 2, "{} unreachable", unreachable_count(&shard));
        let recall = shard.recall(queries, request);
        assert!(recall > floats - 0.01, "{codes:?}: recall {recall}, on floats {floats}");
    }
}

#[test]
fn deletes_between_batches_leave_the_graph_independent_of_threads() {
    let base = Random::new(40).vectors(2_400, 12, 10);
    let build = |threads: usize| {
        let mut random = Random::new(41);
        let mut shard = Shard::new(params(12));
        for part in base.chunks(300) {
            part.iter().for_each(|vector| {
                shard.store(vector);
            });
            for _ in 0..60 {
                let slot = random.below(shard.vectors.len() as u64) as Slot;
                if shard.vectors[slot as usize].is_some() {
                    shard.kill(slot);
                }
            }
            link_with(&mut shard, 64, threads);
        }
        shard.sweep(100);
        check_rows(&shard);
        shard
    };
    let (mut one, three) = (build(1), build(3));
    assert_eq!(one.writer.checksum(), three.writer.checksum());
    let recall = one.recall(&base[..100], SearchRequest::new(10, 100));
    assert!(recall > 0.95, "recall {recall}");
}

/// Stores vectors and links all but the last `count`, which are the batch.
fn batch_of_the_last(vectors: &[Vec<f32>], count: usize) -> (Shard, LinkBatch) {
    let mut shard = Shard::with(params(8), &vectors[..vectors.len() - count]);
    vectors[vectors.len() - count..].iter().for_each(|vector| {
        shard.store(vector);
    });
    let batch = shard.writer.begin_batch(count).unwrap();
    assert_eq!(batch.len(), count);
    (shard, batch)
}

#[test]
fn a_member_that_dies_before_its_batch_is_committed_is_linked_by_nobody() {
    let base = Random::new(42).vectors(500, 8, 3);
    let (mut shard, batch) = batch_of_the_last(&base, 40);
    let directory = shard.directory.view();
    let rows = batch.gather(choose_with(&batch, &directory, 1));
    let pruned = prune_with(&rows, &directory, 1);
    let dead: Vec<Slot> = (460..500).step_by(4).chain([3, 77, 200]).collect();
    dead.iter().for_each(|&slot| shard.kill(slot));
    assert_eq!(shard.writer.commit_batch(&rows, &pruned, &directory).unwrap(), 30);
    assert_eq!(shard.writer.backlog(), 0);
    for slot in (460..500).filter(|slot| !dead.contains(slot)) {
        let view = shard.writer.view();
        assert!(view.neighbours(slot, 0).all(|other| !dead.contains(&other)), "slot {slot}");
    }
    shard.sweep(64);
    check_rows(&shard);
    check_all_found(&mut shard);
}

#[test]
fn a_batch_from_before_a_change_of_the_graph_is_not_committed() {
    let base = Random::new(43).vectors(500, 8, 3);
    let (mut shard, batch) = batch_of_the_last(&base, 20);
    let directory = shard.directory.view();
    let rows = batch.gather(choose_with(&batch, &directory, 1));
    let pruned = prune_with(&rows, &directory, 1);
    (100..200).for_each(|slot| shard.kill(slot));
    shard.sweep(64);
    let before = shard.writer.checksum();
    assert_eq!(shard.writer.commit_batch(&rows, &pruned, &directory).unwrap(), 0);
    assert_eq!((shard.writer.checksum(), shard.writer.backlog()), (before, 20));
    link_whole(&mut shard, 20);
    check_rows(&shard);
    check_all_found(&mut shard);
    assert_eq!(shard.writer.commit_batch(&rows, &pruned, &directory).unwrap(), 0);
}

#[test]
fn rows_nobody_chose_anew_keep_their_links_when_they_are_full() {
    let base = Random::new(44).vectors(600, 8, 1);
    let (mut shard, batch) = batch_of_the_last(&base, 60);
    let directory = shard.directory.view();
    let rows = batch.gather(choose_with(&batch, &directory, 2));
    assert_eq!(shard.writer.commit_batch(&rows, &[], &directory).unwrap(), 60);
    check_rows(&shard);
    check_all_found(&mut shard);
}

#[test]
fn growth_keeps_the_graph_and_old_views_stay_readable() {
    let dims = 512;
    let mut random = Random::new(6);
    let count = crate::limits::ARENA_SMALL_BYTES / (dims * 4) + 200;
    let base = random.vectors(count, dims, 20);
    let mut shard = Shard::new(params(dims as u32));
    let first_half = count - 400;
    base[..first_half].iter().for_each(|vector| {
        shard.store(vector);
    });
    shard.link_all(16);
    let (old, old_directory) = (shard.writer.view(), shard.directory.view());
    base[first_half..].iter().for_each(|vector| {
        shard.store(vector);
    });
    assert_eq!(shard.writer.view_version(), 3, "128, 512, 2,048 slots, then a large reservation");
    assert_eq!(shard.writer.backlog(), 400);
    shard.link_all(16);
    check_rows(&shard);
    let recall = shard.recall(&base[count - 20..], SearchRequest::new(10, 100));
    assert!(recall > 0.95, "recall {recall}");
    let mut hits = Vec::new();
    let request = SearchRequest::new(1, 50);
    old.search(&old_directory, &base[7], request, &mut Scratch::new(), &mut hits);
    assert_eq!(hits[0].slot, 7);
}

#[test]
fn growth_copies_every_plane() {
    let dims = 512;
    let count = crate::limits::ARENA_SMALL_BYTES / (dims * 4) + 10;
    let base = Random::new(16).vectors(count, dims, 20);
    let mut codes = params(dims as u32);
    (codes.codes, codes.flat_cutoff) = (Codes::FourBit, u32::MAX);
    let mut shard = Shard::new(codes);
    let old = shard.writer.view();
    base.iter().for_each(|vector| {
        shard.store(vector);
    });
    assert_eq!(shard.writer.view_version(), 3);
    let new = shard.writer.view();
    assert!(new.planes.bytes.walk > 0 && new.planes.bytes.raw > 0);
    for slot in (0..old.capacity).step_by(101) {
        assert_eq!(old.planes.walk_row(slot), new.planes.walk_row(slot));
        assert_eq!(old.planes.factor_row(slot), new.planes.factor_row(slot));
        assert_eq!(old.planes.sign_row(slot), new.planes.sign_row(slot));
        assert!(new.planes.sign_row(slot).iter().any(|&byte| byte != 0));
        assert_eq!(old.vector(slot), new.vector(slot));
    }
    for slot in [0, 77, count - 1] {
        let (hits, _) = shard.search(&base[slot], SearchRequest::new(1, 1));
        assert_eq!((hits[0].slot as usize, hits[0].distance), (slot, 0.0));
    }
}

#[test]
fn a_hint_too_small_for_the_upper_layers_is_outgrown() {
    let mut small = params(4);
    small.m = 4;
    let base = Random::new(7).vectors(20_000, 4, 0);
    let mut shard = Shard::with(small, &base[..3_000]);
    assert!(shard.writer.view().stats().level_max >= 3);
    let recall = shard.recall(&base[..50], SearchRequest::new(5, 60));
    assert!(recall > 0.9, "recall {recall}");
}

#[test]
fn a_sweep_frees_the_dead_and_keeps_recall() {
    let mut random = Random::new(8);
    let all = random.vectors(5_100, 16, 30);
    let (base, queries) = all.split_at(5_000);
    let mut shard = Shard::with(params(16), base);
    let mut killed: Vec<Slot> = Vec::new();
    for slot in 0..5_000u32 {
        if random.below(10) < 6 {
            shard.kill(slot);
            killed.push(slot);
        }
    }
    let entry = shard.writer.view().entry().unwrap().slot;
    if shard.vectors[entry as usize].is_some() {
        shard.kill(entry);
        killed.push(entry);
        killed.sort_unstable();
    }
    assert_eq!(shard.writer.dead_count() as usize, killed.len());
    let before = shard.recall(queries, SearchRequest::new(10, 60));
    assert!(before > 0.95, "recall {before} with dead slots");
    let mut freed = shard.sweep(100);
    freed.sort_unstable();
    assert_eq!(freed, killed);
    assert_eq!(shard.writer.dead_count(), 0);
    check_rows(&shard);
    assert!(unreachable_count(&shard) <= 5, "{} unreachable", unreachable_count(&shard));
    let after = shard.recall(queries, SearchRequest::new(10, 60));
    assert!(after > 0.94, "recall {after} after the sweep");

    let reused: Vec<Slot> = base[..1_000].iter().map(|vector| shard.store(vector)).collect();
    assert!(reused.iter().all(|slot| killed.contains(slot)));
    shard.link_all(16);
    check_rows(&shard);
    let refilled = shard.recall(queries, SearchRequest::new(10, 60));
    assert!(refilled > 0.94, "recall {refilled} after reuse");
}

#[test]
fn the_whole_index_can_die_and_be_filled_again() {
    let base = Random::new(9).vectors(300, 8, 0);
    let mut shard = Shard::with(params(8), &base);
    for slot in 0..300 {
        shard.kill(slot);
    }
    assert!(shard.search(&base[0], SearchRequest::new(5, 50)).0.is_empty());
    assert_eq!(shard.sweep(64).len(), 300);
    assert_eq!(shard.writer.view().entry(), None);
    let again = shard.store(&base[3]);
    assert!(again < 300);
    shard.link_all(4);
    assert_eq!(shard.search(&base[3], SearchRequest::new(5, 50)).0.len(), 1);
}

#[test]
fn nodes_that_die_during_a_pass_lead_nowhere_freed() {
    let base = Random::new(10).vectors(1_000, 8, 5);
    let mut shard = Shard::with(params(8), &base);
    (0..400).for_each(|slot| shard.kill(slot));
    let mut freed = Vec::new();
    let mut next = 400;
    loop {
        let state = shard.writer.sweep_step(&shard.directory.view(), 50, &mut freed);
        if state == SweepState::Finished {
            break;
        }
        let last = (next + 10).min(900);
        (next..last).for_each(|slot| shard.kill(slot));
        next = last;
    }
    freed.sort_unstable();
    assert_eq!(freed, (0..400).collect::<Vec<_>>());
    check_rows(&shard);
}

#[test]
fn a_slot_killed_without_telling_the_index_is_found_by_the_sweep() {
    let base = Random::new(11).vectors(200, 8, 0);
    let mut shard = Shard::with(params(8), &base);
    let tail = shard.store(&base[0]);
    shard.directory.kill(5);
    shard.directory.kill(tail);
    let mut freed = Vec::new();
    while shard.writer.sweep_step(&shard.directory.view(), 64, &mut freed) != SweepState::Idle {}
    freed.sort_unstable();
    assert_eq!(freed, [5, tail]);
    assert!(!shard.writer.view().holds(5) && !shard.writer.view().holds(tail));
}

#[test]
fn a_dynamic_index_scans_until_its_threshold_and_a_flat_one_always() {
    let base = Random::new(12).vectors(400, 8, 0);
    let kind = IndexKind::Dynamic { threshold: 300 };
    let mut shard = Shard::new(IndexParams { kind, ..params(8) });
    for vector in &base[..300] {
        shard.store(vector);
    }
    assert_eq!(shard.writer.backlog(), 0);
    assert!(shard.search(&base[0], SearchRequest::new(5, 20)).1.exact);
    shard.store(&base[300]);
    assert_eq!(shard.writer.backlog(), 301);
    shard.link_all(16);
    assert!(!shard.search(&base[0], SearchRequest::new(5, 20)).1.exact);
    let flat = Shard::with(IndexParams { kind: IndexKind::Flat, ..params(8) }, &base);
    assert_eq!((flat.writer.backlog(), flat.writer.view().stats().tail), (0, 400));
}

#[test]
fn vectors_that_cannot_be_stored_are_refused_and_change_nothing() {
    let mut shard = Shard::new(IndexParams::new(3, Metric::Cosine));
    let slot = shard.directory.push([1; 16]).unwrap();
    let writer = &mut shard.writer;
    use crate::IndexError::{Dimension, NotFinite, SlotTaken, ZeroVector};
    assert!(matches!(writer.store(slot, &[1.0]), Err(Dimension { expected: 3, found: 1 })));
    let bad = [1.0, f32::NAN, 0.0];
    assert!(matches!(writer.store(slot, &bad), Err(NotFinite { index: 1 })));
    assert!(matches!(writer.store(slot, &[0.0; 3]), Err(ZeroVector)));
    assert!(matches!(writer.store(slot, &[1e30; 3]), Err(ZeroVector)));
    assert_eq!(writer.view().stats().slots, 0);
    writer.store(slot, &[3.0, 0.0, 4.0]).unwrap();
    assert!(matches!(writer.store(slot, &[1.0; 3]), Err(SlotTaken { .. })));
    let view = writer.view();
    assert_eq!(view.norm(slot), 5.0);
    assert_eq!(view.vector(slot), [0.6, 0.0, 0.8]);
}

/// Searches every live vector by itself.
fn check_all_found(shard: &mut Shard) {
    for slot in 0..shard.vectors.len() as u32 {
        let Some(vector) = shard.vectors[slot as usize].clone() else { continue };
        for k in [1, 10] {
            let (hits, _) = shard.search(&vector, SearchRequest::new(k, 64));
            assert!(hits.iter().any(|hit| hit.slot == slot), "slot {slot} is not found, k {k}");
        }
    }
}

/// Links until nothing waits; panics when that takes more rounds than there are slots.
fn link_whole(shard: &mut Shard, batch: usize) {
    shard.link_all(batch);
    assert_eq!(shard.writer.backlog(), 0);
}

#[test]
fn vectors_amid_a_dead_cluster_are_linked_to_the_living() {
    let mut random = Random::new(31);
    let far = random.vectors(1_500, 16, 20);
    let centre = [40.0; 16];
    let mut near = |count: usize| -> Vec<Vec<f32>> {
        let mut point = || centre.iter().map(|c| c + random.gauss() * 0.1).collect();
        (0..count).map(|_| point()).collect()
    };
    let (cluster, fresh) = (near(240), near(12));
    let mut shard = Shard::with(params(16), &[far, cluster].concat());
    (1_500..1_740).for_each(|slot| shard.kill(slot));
    for vector in &fresh {
        shard.store(vector);
        link_whole(&mut shard, 1);
    }
    let view = shard.writer.view();
    for slot in 1_740..1_752 {
        let mut links = view.neighbours(slot, 0);
        assert!(links.all(|other| shard.vectors[other as usize].is_some()));
        assert!(view.neighbours(slot, 0).count() > 0);
    }
    check_all_found(&mut shard);
    shard.sweep(64);
    check_rows(&shard);
    check_all_found(&mut shard);
}

#[test]
fn all_can_die_and_be_imported_again_before_any_sweep() {
    let base = Random::new(32).vectors(600, 12, 8);
    for batch in [1, 16] {
        let mut shard = Shard::with(params(12), &base);
        (0..600).for_each(|slot| shard.kill(slot));
        for part in base.chunks(50) {
            part.iter().for_each(|vector| {
                shard.store(vector);
            });
            link_whole(&mut shard, batch);
        }
        let entry = shard.writer.view().entry().unwrap();
        assert!(entry.slot >= 600, "the entry is alive");
        check_all_found(&mut shard);
        shard.sweep(64);
        check_rows(&shard);
        check_all_found(&mut shard);
    }
}

#[test]
fn a_slot_whose_candidates_all_died_is_searched_again() {
    let base = Random::new(33).vectors(400, 8, 0);
    let mut shard = Shard::with(params(8), &base);
    let slot = shard.store(&[60.0; 8]);
    let directory = shard.directory.view();
    let batch = shard.writer.begin_batch(1).unwrap();
    let mut found = Candidates::new();
    shard.writer.view().candidates(&directory, slot, &mut shard.scratch, &mut found);
    let choice = batch.choose(&directory, 0, &found, &mut shard.linking);
    let rows = batch.gather(vec![choice]);
    let died: Vec<Slot> = found.levels[0].iter().map(|candidate| candidate.slot()).collect();
    assert!(died.len() < 400);
    died.iter().for_each(|slot| shard.kill(*slot));
    assert_eq!(shard.writer.commit_batch(&rows, &[], &directory).unwrap(), 0);
    assert_eq!(shard.writer.backlog(), 1, "it stays where scans find it");
    link_whole(&mut shard, 1);
    check_all_found(&mut shard);
}
