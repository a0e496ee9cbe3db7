//! What replicas show each other: trees, entries, floors; and what they may forget.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::*;
use futures::future::join;
use heddle_core::engine::{Durability, Replicated, StampedChange, StampedWrite, Want};
use heddle_replication::{LeafSet, TreeLeaves};
use heddle_sim::{Crash, Fault, Random};
use heddle_types::{
    ApiError, Clock, ErrorCode, Hlc, NodeId, ObjectDigest, ObjectId, Stamp, Value, token_of,
};
use uuid::Uuid;

const NOW_US: u64 = 1_700_000_000_000_000;
const HOUR_US: u64 = 3_600_000_000;

fn stamp(us: u64, node: u128) -> Stamp {
    let hlc = Hlc::from_unix_us(NOW_US - 1_000_000 + us);
    Stamp { hlc, boot: 1, core: 0, node: NodeId(Uuid::from_u128(node)) }
}

fn put_of(row_number: u64, stamp: Stamp) -> StampedWrite {
    let change = StampedChange::Put {
        created_us: (stamp.hlc.unix_us() - 5) as i64,
        vectors: vec![body_vector([row_number as f32; 6])],
        properties: row(&properties([("year", Value::Int(7))])),
    };
    StampedWrite { id: id(row_number), stamp, change, exact: true }
}

fn delete_of(row_number: u64, stamp: Stamp) -> StampedWrite {
    StampedWrite { id: id(row_number), stamp, change: StampedChange::Delete, exact: true }
}

async fn apply(engine: &SimEngine, write: StampedWrite) -> Result<Replicated, ApiError> {
    let results = engine.apply_stamped(SHARD, Durability::Sync, vec![write]).await.unwrap();
    results.into_iter().next().unwrap()
}

async fn tree(engine: &SimEngine) -> TreeLeaves {
    engine.tree(SHARD).await.unwrap()
}

fn all_leaves(height: u8) -> LeafSet {
    let mut all = LeafSet::empty(height);
    (0..1 << height).for_each(|leaf| all.insert(leaf));
    all
}

async fn entries(engine: &SimEngine, leaves: &LeafSet) -> Vec<(ObjectId, ObjectDigest)> {
    let mut all: Vec<(ObjectId, ObjectDigest)> = Vec::new();
    loop {
        let after = all.last().map(|(id, _)| *id);
        let page = engine.entries(SHARD, leaves, after, 7).await.unwrap();
        let is_last = page.len() < 7;
        all.extend(page);
        if is_last {
            return all;
        }
    }
}

fn random_writes(random: &mut Random, count: usize) -> Vec<StampedWrite> {
    let write = |random: &mut Random| {
        let (object, stamp) = (random.below(90), stamp(random.below(900), random.below(3).into()));
        match random.below(3) {
            0 => delete_of(object, stamp),
            _ => put_of(object, stamp),
        }
    };
    (0..count).map(|_| write(random)).collect()
}

#[test]
fn a_tree_depends_on_what_is_there_alone() {
    for seed in 0..15 {
        println!("seed {seed}");
        let writes = random_writes(&mut Random::new(seed), 300);
        let mut trees = Vec::new();
        for replica in 0..3_u64 {
            let mut world = World::new(seed * 10 + replica);
            let mut order = writes.clone();
            let mut random = Random::new(seed * 10 + replica);
            for place in (1..order.len()).rev() {
                order.swap(place, random.below(place as u64 + 1) as usize);
            }
            let disk = world.disk.clone();
            let kept = world.run(|engine| async move {
                for (part, writes) in order.chunks(25).enumerate() {
                    // Built early, late, or while writes go on.
                    let call = engine.apply_stamped(SHARD, Durability::Sync, writes.to_vec());
                    if part as u64 == replica * 5 {
                        let (_early, applied) = join(tree(&engine), call).await;
                        assert!(applied.unwrap().iter().all(Result::is_ok));
                    } else {
                        assert!(call.await.unwrap().iter().all(Result::is_ok));
                    }
                    if random.one_in(6) {
                        engine.checkpoint(SHARD).await.unwrap();
                        link_all(&engine, 16);
                        sweep_all(&engine);
                    }
                    while random.one_in(2) && engine.maintain().await.unwrap() {}
                }
                tree(&engine).await
            });
            // From scratch, after a replay, and after the load of an image.
            let image = disk.crashed(Crash::Random(seed));
            let replayed = world.run(|engine| async move {
                let replayed = tree(&engine).await;
                engine.checkpoint(SHARD).await.unwrap();
                replayed
            });
            assert_eq!(replayed, kept);
            assert_eq!(world.run(|engine| async move { tree(&engine).await }), kept);
            world.disk = image;
            assert_eq!(world.run(|engine| async move { tree(&engine).await }), kept);
            trees.push(kept);
        }
        assert!(trees.windows(2).all(|pair| pair[0] == pair[1]));
        assert_ne!(trees[0].root(), 0);
    }
}

#[test]
fn own_writes_and_those_of_others_are_in_the_tree_alike() {
    let mut world = World::new(1);
    let (copies, own) = world.run(|engine| async move {
        let mut random = Random::new(1);
        let empty = tree(&engine).await;
        assert_eq!(empty.root(), 0);
        for object in 0..40 {
            put(&engine, random_item(&mut random, id(object))).await;
        }
        assert!(delete(&engine, id(3)).await);
        let ids: Vec<ObjectId> = (0..40).map(id).collect();
        let copies = engine.read_stamped(SHARD, ids).await.unwrap();
        let before = tree(&engine).await;
        put(&engine, random_item(&mut random, id(5))).await;
        let after = tree(&engine).await;
        let differing = TreeLeaves::differing(&[&before, &after]);
        assert_eq!(differing.len(), 1);
        assert!(differing.contains(token_of(&id(5))));
        let found = entries(&engine, &differing).await;
        assert!(found.iter().any(|(found, _)| *found == id(5)));
        assert!(found.iter().all(|(found, _)| differing.contains(token_of(found))));
        (copies, before)
    });
    let copied = World::new(2).run(|engine| async move {
        let copies = copies.into_iter().flatten().collect();
        engine.apply_stamped(SHARD, Durability::Sync, copies).await.unwrap();
        tree(&engine).await
    });
    assert_eq!(copied, own);
}

#[test]
fn a_tree_that_has_become_too_low_is_built_anew() {
    let mut world = World::new(3);
    world.memtable_bytes = 4 << 20;
    world.run(|engine| async move {
        assert_eq!(tree(&engine).await.height(), 4);
        let writes = |part: u64| (0..2_000).map(move |row| put_of(part * 2_000 + row, stamp(1, 1)));
        for part in 0..5 {
            let writes = writes(part).collect();
            engine.apply_stamped(SHARD, Durability::Sync, writes).await.unwrap();
        }
        let low = tree(&engine).await;
        assert_eq!(low.height(), 4, "10,000 objects are few enough for it");
        for part in 5..17 {
            let writes = writes(part).collect();
            engine.apply_stamped(SHARD, Durability::Sync, writes).await.unwrap();
        }
        let high = tree(&engine).await;
        assert!(high.height() > 4, "{}", high.height());
        let all = entries(&engine, &all_leaves(0)).await;
        assert_eq!(all.len(), 34_000);
    });
}

#[test]
fn entries_are_objects_and_deletions_by_id_page_by_page() {
    let mut world = World::new(4);
    world.run(|engine| async move {
        let writes = random_writes(&mut Random::new(9), 200);
        engine.apply_stamped(SHARD, Durability::Sync, writes).await.unwrap();
        let ids: Vec<ObjectId> = (0..90).map(id).collect();
        let digests = engine.digests(SHARD, &ids).unwrap();
        let mut expected: Vec<(ObjectId, ObjectDigest)> =
            ids.into_iter().zip(digests).filter_map(|(id, digest)| Some((id, digest?))).collect();
        expected.sort_unstable_by_key(|(id, _)| *id);
        assert_eq!(entries(&engine, &all_leaves(3)).await, expected);
        assert!(entries(&engine, &LeafSet::empty(3)).await.is_empty());
        let mut some = LeafSet::empty(3);
        [1, 6].into_iter().for_each(|leaf| some.insert(leaf));
        expected.retain(|(id, _)| some.contains(token_of(id)));
        assert_eq!(entries(&engine, &some).await, expected);
    });
}

#[test]
fn below_the_floor_only_what_is_known_is_written() {
    let mut world = World::new(5);
    let floor = stamp(500, 0).hlc;
    world.run(|engine| async move {
        apply(&engine, put_of(1, stamp(400, 1))).await.unwrap();
        apply(&engine, delete_of(2, stamp(400, 1))).await.unwrap();
        assert_eq!(engine.repaired_through(SHARD), Ok(Hlc::default()));
        engine.set_repaired_through(SHARD, floor).await.unwrap();
        engine.set_repaired_through(SHARD, stamp(3, 0).hlc).await.unwrap();
    });
    // Deletions of that time may be forgotten by now.
    world.clock.advance_us(4 * HOUR_US);
    for newest in [stamp(400, 1), stamp(450, 1), stamp(451, 1)] {
        world.run(|engine| async move {
            assert_eq!(engine.repaired_through(SHARD), Ok(floor), "kept, and it never goes back");
            for unknown in [put_of(9, stamp(499, 1)), delete_of(9, stamp(499, 1))] {
                let refused = apply(&engine, unknown).await.unwrap_err();
                assert_eq!(refused.code, ErrorCode::BelowFloor);
            }
            assert_eq!(engine.digests(SHARD, &[id(9)]), Ok(vec![None]));
            for known in [1, 2] {
                let older = apply(&engine, put_of(known, stamp(300, 1))).await;
                assert_eq!(older, Ok(Replicated::Superseded { newest }));
                // What is known may be written over.
                let next = Stamp { hlc: Hlc(newest.hlc.0 + (1 << 8)), ..newest };
                let next = if newest == stamp(400, 1) { stamp(450, 1) } else { next };
                assert!(apply(&engine, put_of(known, next)).await.is_ok());
            }
            assert!(apply(&engine, put_of(3, stamp(500, 1))).await.is_ok(), "what is new is new");
            engine.checkpoint(SHARD).await.unwrap();
        });
    }
}

#[test]
fn a_write_that_was_on_its_way_while_replicas_were_compared_is_taken() {
    // Its stamp is older than the floor, and another replica has acknowledged it.
    let mut world = World::new(5);
    world.run(|engine| async move {
        engine.set_repaired_through(SHARD, stamp(500, 0).hlc).await.unwrap();
        for late in [put_of(1, stamp(499, 1)), delete_of(2, stamp(499, 1))] {
            let applied = apply(&engine, late).await;
            assert!(matches!(applied, Ok(Replicated::Applied { .. })), "{applied:?}");
        }
    });
}

#[test]
fn tombstones_are_forgotten_below_the_floor_and_when_they_are_old() {
    for with_image in [false, true] {
        let mut world = World::new(6);
        let clock = world.clock.clone();
        world.run(|engine| async move {
            for row_number in 0..30 {
                apply(&engine, delete_of(row_number, stamp(row_number * 10, 1))).await.unwrap();
            }
            apply(&engine, put_of(50, stamp(7, 1))).await.unwrap();
            let count = || engine.status().shards[0].tombstones;
            engine.set_repaired_through(SHARD, stamp(100, 0).hlc).await.unwrap();
            assert_eq!(count(), 30, "all of them are young");
            clock.advance_us(4 * HOUR_US);
            let (whole, before) = (tree(&engine).await, engine.status().shards[0].objects);
            engine.set_repaired_through(SHARD, stamp(100, 0).hlc).await.unwrap();
            assert_eq!(count(), 20, "those below the floor are gone");
            assert_ne!(tree(&engine).await, whole);
            assert_eq!(engine.status().shards[0].objects, before);
            assert_eq!(engine.digests(SHARD, &[id(9), id(10)]).unwrap()[0], None);
            let now = Hlc::from_unix_us(clock.unix_us());
            apply(&engine, delete_of(77, Stamp { hlc: now, ..stamp(0, 1) })).await.unwrap();
            engine.set_repaired_through(SHARD, Hlc(now.0 + 1)).await.unwrap();
            assert_eq!(count(), 1, "a young one stays below any floor");
            if with_image {
                engine.checkpoint(SHARD).await.unwrap();
            }
        });
        // Without an image the log still has them; they go again with the next floor.
        world.run(|engine| async move {
            let kept = if with_image { 1 } else { 31 };
            assert_eq!(engine.status().shards[0].tombstones, kept);
            let floor = engine.repaired_through(SHARD).unwrap();
            engine.set_repaired_through(SHARD, floor).await.unwrap();
            assert_eq!(engine.status().shards[0].tombstones, 1);
            assert_eq!(dump(&engine, SHARD).await.len(), 1);
        });
    }
}

#[test]
fn an_object_whose_deletion_is_forgotten_is_not_brought_back_by_an_old_copy_of_it() {
    // Three replicas: one was away when the object was deleted, and a hint for it waited.
    let old_put = put_of(1, stamp(10, 1));
    let deletion = delete_of(1, stamp(20, 2));
    let mut worlds = [World::new(1), World::new(2), World::new(3)];
    for world in &mut worlds {
        let (old_put, deletion, clock) = (old_put.clone(), deletion.clone(), world.clock.clone());
        world.run(|engine| async move {
            apply(&engine, old_put.clone()).await.unwrap();
            apply(&engine, deletion).await.unwrap();
            clock.advance_us(24 * HOUR_US);
            let floor = Hlc::from_unix_us(NOW_US + 20 * HOUR_US);
            engine.set_repaired_through(SHARD, floor).await.unwrap();
            assert_eq!(engine.status().shards[0].tombstones, 0, "nobody remembers it");
            engine.checkpoint(SHARD).await.unwrap();
        });
        let old_put = put_of(1, stamp(10, 1));
        world.run(|engine| async move {
            let refused = apply(&engine, old_put).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::BelowFloor);
            assert!(dump(&engine, SHARD).await.is_empty());
        });
    }
}

#[test]
fn a_crash_while_a_floor_is_written_leaves_the_old_or_the_new_one() {
    let (old, new) = (stamp(100, 0).hlc, stamp(200, 0).hlc);
    let mut is_through = false;
    for change in 0..20 {
        let mut world = World::new(7);
        let disk = world.disk.clone();
        let cut = world.disk.clone();
        is_through = world.run(|engine| async move {
            engine.set_repaired_through(SHARD, old).await.unwrap();
            cut.fail_change(cut.changes() + change, Fault::PowerCut);
            let set = engine.set_repaired_through(SHARD, new).await;
            assert_eq!(engine.repaired_through(SHARD), Ok(if set.is_ok() { new } else { old }));
            set.is_ok()
        });
        let crashes = [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData];
        for crash in crashes.into_iter().chain((0..8).map(Crash::Random)) {
            world.disk = disk.crashed(crash);
            let found = world.run(|engine| async move { engine.repaired_through(SHARD).unwrap() });
            assert!(found == new || found == old && !is_through, "{change} {crash:?}: {found:?}");
        }
        if is_through {
            break;
        }
    }
    assert!(is_through, "some change comes after the floor is written");
}

#[test]
fn an_empty_replica_is_filled_with_what_is_older_than_the_floor_and_answers_only_then() {
    let mut world = World::new(8);
    let floor = stamp(500, 0).hlc;
    world.clock.advance_us(4 * HOUR_US);
    let copies: Vec<StampedWrite> = (0..20).map(|row| put_of(row, stamp(row * 10, 1))).collect();
    let refused = copies.clone();
    world.run(|engine| async move {
        engine.begin_fill(SHARD, floor).await.unwrap();
        let code = |error: ApiError| error.code;
        let filled = engine.fill(SHARD, refused[..10].to_vec()).await.unwrap();
        assert!(filled.iter().all(Result::is_ok));
        let late = apply(&engine, refused[15].clone()).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::BelowFloor, "what comes of itself is checked as ever");
        assert!(apply(&engine, put_of(30, stamp(600, 1))).await.is_ok(), "writes go on");
        let got = engine.get(SHARD, &[id(1)], Want::ALL).await.map_err(code);
        assert_eq!(got, Err(ErrorCode::Unavailable));
        let digests = engine.digests(SHARD, &[id(1)]).map_err(code);
        assert_eq!(digests, Err(ErrorCode::Unavailable));
        assert_eq!(engine.count(SHARD, None).await.map_err(code), Err(ErrorCode::Unavailable));
    });
    // A restart in between changes nothing.
    let end = world.run(|engine| async move {
        assert_eq!(engine.is_filling(SHARD), Ok(true));
        engine.begin_fill(SHARD, floor).await.unwrap();
        assert!(engine.count(SHARD, None).await.is_err());
        let filled = engine.fill(SHARD, copies.clone()).await.unwrap();
        assert!(filled.iter().all(Result::is_ok));
        engine.end_fill(SHARD).await.unwrap();
        engine.end_fill(SHARD).await.unwrap();
        assert_eq!(engine.repaired_through(SHARD), Ok(floor));
        let held = dump(&engine, SHARD).await;
        assert_eq!(held.len(), 21);
        assert!(engine.fill(SHARD, copies).await.is_err());
        let full = engine.begin_fill(SHARD, floor).await.unwrap_err();
        assert_eq!(full.code, ErrorCode::InvalidArgument);
        held
    });
    let again = world.run(|engine| async move { dump(&engine, SHARD).await });
    assert_eq!(again, end, "all of it was durable");
}

/// A shard with an image and dead rows on disk; whether tombstones were forgotten.
fn with_dead_rows(world: &mut World, is_forgotten: bool) {
    let clock = world.clock.clone();
    world.run(|engine| async move {
        for row_number in 0..20 {
            apply(&engine, put_of(row_number, stamp(10, 1))).await.unwrap();
        }
        engine.checkpoint(SHARD).await.unwrap();
        apply(&engine, delete_of(1, stamp(20, 1))).await.unwrap();
        clock.advance_us(if is_forgotten { 4 * HOUR_US } else { HOUR_US });
        let floor = Hlc::from_unix_us(clock.unix_us());
        engine.set_repaired_through(SHARD, floor).await.unwrap();
        engine.checkpoint(SHARD).await.unwrap();
        engine.seal().await.unwrap();
    });
}

fn break_images(world: &World) {
    for path in world.disk.files() {
        if path.contains("superblock.") || path.contains("image-") {
            world.disk.plant_file(&path, vec![0; 4_096]);
        }
    }
}

#[test]
fn rows_whose_deletion_is_forgotten_are_not_made_into_a_shard_again() {
    let schema = r#"{"name":"Docs","vectors":[{"name":"body","dims":6,"distance":"l2-squared",
        "quantization":"8bit","raw":"disk"}],"properties":[{"name":"year","type":"int"}]}"#;
    for is_forgotten in [false, true] {
        let mut world = World::new(9);
        world.config = serde_json::from_str(schema).unwrap();
        with_dead_rows(&mut world, is_forgotten);
        break_images(&world);
        world.run(|engine| async move {
            let rebuilt = engine.rebuild_next().await;
            let found = engine.count(SHARD, None).await;
            if is_forgotten {
                assert!(rebuilt.is_none());
                assert_eq!(found.unwrap_err().code, ErrorCode::Corrupt);
            } else {
                assert_eq!((rebuilt, found), (Some((SHARD, Ok(()))), Ok(19)));
            }
        });
    }
}

#[test]
fn a_shard_with_a_damaged_floor_is_not_served() {
    let mut world = World::new(10);
    with_dead_rows(&mut world, true);
    let path = world.disk.files().into_iter().find(|path| path.ends_with("/floor")).unwrap();
    let mut bytes = world.disk.file_bytes(&path).unwrap();
    bytes[30] ^= 1;
    world.disk.plant_file(&path, bytes);
    world.run(|engine| async move {
        let refused = engine.count(SHARD, None).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Corrupt);
        assert!(refused.message.contains("floor: checksum"), "{refused}");
    });
}
