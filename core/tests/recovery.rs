//! What is there after a stop: clean, with and without images, torn, moved or damaged.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::*;
use futures::executor::block_on;
use futures::future::join;
use heddle_core::engine::{Object, PutItem, PutMode, Want};
use heddle_sim::{Crash, Fault, Random};
use heddle_types::{ObjectId, ShardId};

/// A few hundred random writes; the model follows.
async fn write_some(engine: &SimEngine, random: &mut Random, model: &mut Model, count: usize) {
    for _ in 0..count {
        let target = id(random.below(120));
        match random.below(10) {
            0 | 1 => assert_eq!(delete(engine, target).await, model.delete(target)),
            2 => {
                let item = random_item(random, target);
                model.merge(&item);
                let results = engine.put(SHARD, PutMode::Merge, vec![item]).await.unwrap();
                assert!(results[0].is_ok(), "{results:?}");
            }
            _ => {
                let item = random_item(random, target);
                model.put(&item);
                put(engine, item).await;
            }
        }
    }
}

type Found = (Vec<Object>, Vec<(ObjectId, f32)>, u64);

async fn found(engine: &SimEngine) -> Found {
    let hits = search(engine, 0, &[3.0, 0.1, 0.2, -0.3, 0.4, 0.5], 20, None);
    (dump(engine, SHARD).await, hits, engine.status().shards[0].tombstones)
}

/// Objects with the bits of their vectors, so that zeros of either sign differ.
fn bits(found: &Found) -> Vec<(ObjectId, Vec<u32>)> {
    let objects = found.0.iter();
    let bits = objects.map(|object| {
        let values = object.vectors.iter().flat_map(|vector| &vector.values);
        (object.id, values.map(|value| value.to_bits()).collect())
    });
    bits.collect()
}

#[test]
fn a_restart_gives_the_same_with_and_without_an_image() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        let mut model = Model::default();
        for round in 0..5_u64 {
            let (before, after_model) = {
                let mut model = model.clone();
                world.run(|engine| async move {
                    let mut random = Random::new(seed * 100 + round);
                    write_some(&engine, &mut random, &mut model, 80).await;
                    if random.one_in(2) {
                        link_all(&engine, 16);
                    }
                    if random.one_in(2) {
                        sweep_all(&engine);
                    }
                    if random.one_in(2) {
                        engine.checkpoint(SHARD).await.unwrap();
                        write_some(&engine, &mut random, &mut model, 30).await;
                    }
                    while random.one_in(2) && engine.maintain().await.unwrap() {}
                    check_model(&engine, &model).await;
                    (found(&engine).await, model)
                })
            };
            model = after_model;
            let model = model.clone();
            let again = world.run(|engine| async move {
                check_model(&engine, &model).await;
                found(&engine).await
            });
            assert_eq!(bits(&again), bits(&before));
            assert_eq!(again, before);
        }
    }
}

#[test]
fn an_image_written_among_writes_is_right() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.disk.set_latency_turns_max(3);
        let (before, model) = world.run(|engine| async move {
            let mut random = Random::new(seed);
            let mut model = Model::default();
            write_some(&engine, &mut random, &mut model, 100).await;
            link_all(&engine, 16);
            for _ in 0..3 {
                let image = engine.checkpoint(SHARD);
                let writes = write_some(&engine, &mut random, &mut model, 60);
                let (image, ()) = join(image, writes).await;
                image.unwrap();
                sweep_all(&engine);
            }
            check_model(&engine, &model).await;
            (found(&engine).await, model)
        });
        let again = world.run(|engine| async move {
            check_model(&engine, &model).await;
            found(&engine).await
        });
        assert_eq!(again, before);
    }
}

#[test]
fn images_release_the_log() {
    let mut world = World::new(1);
    world.run(|engine| async move {
        let mut random = Random::new(1);
        let mut model = Model::default();
        let mut checkpoints = 0;
        for _ in 0..30 {
            write_some(&engine, &mut random, &mut model, 60).await;
            for shard in engine.checkpoint_due() {
                engine.checkpoint(shard).await.unwrap();
                checkpoints += 1;
            }
        }
        assert!(checkpoints > 2, "{checkpoints}");
        let wal = engine.status().wal;
        assert!(wal.segment_bytes <= 8 * (64 << 10), "{wal:?}");
        engine.checkpoint(SHARD).await.unwrap();
        assert!(engine.changed_shards().is_empty());
    });
}

#[test]
fn a_log_of_another_core_is_taken_over_and_removed() {
    let mut world = World::new(2);
    world.logs = vec![1];
    world.shards = vec![1, 2];
    let (model, before) = world.run(|engine| async move {
        let mut random = Random::new(2);
        let mut model = Model::default();
        write_some(&engine, &mut random, &mut model, 100).await;
        engine.checkpoint(SHARD).await.unwrap();
        write_some(&engine, &mut random, &mut model, 50).await;
        let before = found(&engine).await;
        (model, before)
    });
    world.logs = vec![0, 1];
    let kept = model.clone();
    let again = world.run(|engine| async move {
        check_model(&engine, &kept).await;
        let again = found(&engine).await;
        let due = engine.checkpoint_due();
        assert_eq!(due.len(), 2);
        for shard in due {
            engine.checkpoint(shard).await.unwrap();
        }
        again
    });
    assert_eq!(again, before);
    assert!(world.disk.files().iter().all(|path| !path.starts_with("logs/0001")));
    world.logs = vec![0];
    world.run(|engine| async move { check_model(&engine, &model).await });
}

/// A write whose answer did not come: either state is right.
#[derive(Clone)]
struct Attempt {
    item: Option<PutItem>,
    id: ObjectId,
}

/// What is known for sure, and the write that was under way when the power went.
#[derive(Clone, Default)]
struct Known {
    model: Model,
    open: Option<Attempt>,
}

impl Known {
    fn acknowledge(&mut self, target: ObjectId, item: Option<&PutItem>) {
        match item {
            Some(item) => self.model.put(item),
            None => {
                self.model.delete(target);
            }
        }
        self.open = None;
    }
}

/// Writes until the power goes.
async fn write_until_dark(engine: SimEngine, seed: u64, known: Rc<RefCell<Known>>) {
    let mut random = Random::new(seed);
    loop {
        let target = id(random.below(30));
        let item = (!random.one_in(4)).then(|| random_item(&mut random, target));
        known.borrow_mut().open = Some(Attempt { item: item.clone(), id: target });
        let outcome = match &item {
            Some(item) => {
                let put = engine.put(SHARD, PutMode::Replace, vec![item.clone()]).await;
                put.map(|mut results| results.remove(0).is_ok())
            }
            None => {
                let deleted = engine.delete(SHARD, vec![target]).await;
                deleted.map(|mut results| results.remove(0).is_ok())
            }
        };
        if outcome != Ok(true) {
            return;
        }
        known.borrow_mut().acknowledge(target, item.as_ref());
        if random.one_in(8) {
            link_all(&engine, 4);
        }
        if random.one_in(8) {
            sweep_all(&engine);
        }
        if random.one_in(12) && engine.checkpoint(SHARD).await.is_err() {
            return;
        }
        if random.one_in(6) && engine.maintain().await.is_err() {
            return;
        }
    }
}

/// Every object is as acknowledged, or as the one open write would make it.
fn check_known(objects: &[Object], known: &Known) {
    let mut expected = known.model.clone();
    if let Some(open) = &known.open {
        let target = objects.iter().find(|object| object.id == open.id);
        let acknowledged = expected.objects.get(&open.id);
        let is_old = match (target, acknowledged) {
            (Some(object), Some(old)) => same_object(object, old),
            (None, None) => true,
            _ => false,
        };
        if !is_old {
            match &open.item {
                Some(item) => expected.put(item),
                None => {
                    expected.delete(open.id);
                }
            }
        }
    }
    let ids: Vec<ObjectId> = objects.iter().map(|object| object.id).collect();
    let expected_ids: Vec<ObjectId> = expected.objects.keys().copied().collect();
    assert_eq!(ids, expected_ids);
    for object in objects {
        assert!(same_object(object, &expected.objects[&object.id]), "{object:?}");
    }
}

#[test]
fn a_power_cut_loses_nothing_acknowledged_and_brings_nothing_back() {
    for seed in 0..150 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut world = World::new(seed);
        world.disk.set_latency_turns_max(2);
        let known = Rc::new(RefCell::new(Known::default()));
        for life in 0..3_u64 {
            let cut = world.disk.operations() + 20 + random.below(500);
            world.disk.fail_operation(cut, Fault::PowerCut);
            let following = Rc::clone(&known);
            // The power may go while the engine opens; then nothing was written.
            let _dark =
                world.try_run(|engine| write_until_dark(engine, seed * 10 + life, following));
            let crash = match random.below(5) {
                0 => Crash::LoseUnsynced,
                1 => Crash::KeepAll,
                2 => Crash::KeepNames,
                3 => Crash::KeepData,
                _ => Crash::Random(random.next_u64()),
            };
            world.disk = world.disk.crashed(crash);
            let objects = world.run(|engine| async move { dump(&engine, SHARD).await });
            check_known(&objects, &known.borrow());
            let mut known = known.borrow_mut();
            known.open = None;
            known.model = Model::default();
            for object in objects {
                let item = PutItem {
                    id: object.id,
                    properties: object.properties,
                    vectors: object.vectors,
                };
                known.model.put(&item);
            }
        }
    }
}

#[test]
fn a_damaged_image_is_repaired_or_refused_never_believed() {
    let mut world = World::new(3);
    let (before, model) = world.run(|engine| async move {
        let mut random = Random::new(3);
        let mut model = Model::default();
        write_some(&engine, &mut random, &mut model, 150).await;
        link_all(&engine, 16);
        engine.checkpoint(SHARD).await.unwrap();
        (found(&engine).await.0, model)
    });
    let path = "shards/0000000001/image-1";
    let bytes = world.disk.file_bytes(path).unwrap();
    let (mut rebuilt, mut lost, mut graphs, mut properties) = (0, 0, 0, 0);
    for offset in (0..bytes.len()).step_by(1_777) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        let mut other = world.clone();
        other.disk = world.disk.crashed(Crash::KeepAll);
        other.disk.plant_file(path, damaged);
        match futures::executor::block_on(other.open()) {
            Err(error) => panic!("offset {offset}: {error}"),
            Ok((engine, report)) => {
                if !report.shards_lost.is_empty() {
                    // Vectors that rest in memory are in the image alone.
                    assert_eq!(report.shards_lost[0].0, ShardId(1));
                    lost += 1;
                    continue;
                }
                while let Some((shard, built)) = futures::executor::block_on(engine.rebuild_next())
                {
                    assert_eq!((shard, built), (ShardId(1), Ok(())), "offset {offset}");
                    rebuilt += 1;
                }
                graphs += report.graphs_to_rebuild.len();
                properties += report.properties_rebuilt.len();
                let model = model.clone();
                let objects = futures::executor::block_on(async {
                    check_model(&engine, &model).await;
                    link_all(&engine, 16);
                    check_model(&engine, &model).await;
                    dump(&engine, SHARD).await
                });
                let stamps = |objects: &[Object]| -> Vec<_> {
                    objects.iter().map(|object| (object.id, object.stamp)).collect()
                };
                assert_eq!(stamps(&objects), stamps(&before));
            }
        }
    }
    let found = (rebuilt, lost, graphs, properties);
    println!("{found:?}");
    assert!(rebuilt > 0 && lost > 0 && graphs > 0 && properties > 0, "{found:?}");
}

#[test]
fn damaged_vectors_on_disk_are_named_and_everything_else_is_read() {
    let mut world = World::new(5);
    world.run(|engine| async move {
        let mut random = Random::new(5);
        for n in 0..20 {
            let vectors = vec![random_vector(&mut random, 0), random_vector(&mut random, 2)];
            let properties = row(&random_properties(&mut random));
            put(&engine, PutItem { id: id(n), properties, vectors }).await;
        }
        link_all(&engine, 8);
        engine.checkpoint(SHARD).await.unwrap();
    });
    let is_segment = |name: &String| name.contains("/objects-");
    let segment = world.disk.files().into_iter().find(is_segment).unwrap();
    let mut bytes = world.disk.file_bytes(&segment).unwrap();
    // The components of a vector of five: 20 bytes behind a head that begins with its table.
    let is_head = |line: &[u8]| line[36..38] == [5, 0] && line[38..64] == [0; 26];
    let heads: Vec<usize> = (4_096..bytes.len() - 128)
        .step_by(64)
        .filter(|at| is_head(&bytes[*at..*at + 64]))
        .collect();
    assert_eq!(heads.len(), 20);
    bytes[heads[7] + 64 + 3] ^= 0x10;
    world.disk.plant_file(&segment, bytes);
    world.run(|engine| async move {
        let ids: Vec<ObjectId> = (0..20).map(id).collect();
        let rows = Want { properties: true, vectors: false };
        let found = engine.get(SHARD, &ids, rows).await.unwrap();
        assert!(found.iter().all(Option::is_some));
        let mut damaged = 0;
        for target in ids {
            match engine.get(SHARD, &[target], Want::ALL).await {
                Ok(found) => assert_eq!(found[0].as_ref().unwrap().vectors.len(), 2),
                Err(error) => {
                    assert_eq!(error.code, heddle_types::ErrorCode::Corrupt);
                    let message = error.message;
                    assert!(message.contains(&segment), "{message}");
                    assert!(message.contains("checksum of the vectors"), "{message}");
                    damaged += 1;
                }
            }
        }
        assert_eq!(damaged, 1);
        let hits = search(&engine, 2, &[3.0, 0.1, 0.2, -0.3, 0.4], 20, None);
        assert_eq!(hits.len(), 20, "the codes are whole");
    });
}

#[test]
fn merges_and_compactions_keep_vectors_on_disk_bit_for_bit() {
    let mut world = World::new(6);
    world.memtable_bytes = 4 << 10;
    let expected = world.run(|engine| async move {
        let mut random = Random::new(6);
        let mut model = Model::default();
        for n in 0..60 {
            let mut item = random_item(&mut random, id(n));
            item.vectors.retain(|vector| vector.index != 2);
            item.vectors.push(random_vector(&mut random, 2));
            model.put(&item);
            put(&engine, item).await;
        }
        let mut segments = engine.status().shards[0].rows.segments;
        let mut compacted = false;
        for turn in 0..20 {
            for n in 0..60 {
                let vectors =
                    if n % 3 == 0 { vec![random_vector(&mut random, 0)] } else { Vec::new() };
                let properties = row(&random_properties(&mut random));
                let item = PutItem { id: id(n), properties, vectors };
                model.merge(&item);
                let merged = engine.put(SHARD, PutMode::Merge, vec![item]).await.unwrap();
                assert!(merged[0].is_ok(), "turn {turn}: {merged:?}");
            }
            // Rows are rewritten once the images that the log waits for are written.
            for shard in engine.checkpoint_due() {
                engine.checkpoint(shard).await.unwrap();
            }
            while engine.maintain().await.unwrap() {
                let now = engine.status().shards[0].rows.segments;
                compacted |= now < segments;
                segments = now;
            }
        }
        assert!(compacted, "nothing was rewritten");
        check_model(&engine, &model).await;
        model
    });
    world.run(|engine| async move { check_model(&engine, &expected).await });
}

#[test]
fn a_clock_set_back_still_orders_writes() {
    let mut world = World::new(4);
    let item = |n: u64, year| PutItem {
        id: id(n),
        properties: row(&properties([("year", heddle_types::Value::Int(year))])),
        vectors: vec![body_vector([1.0; 6])],
    };
    world.run(|engine| async move { put(&engine, item(1, 1)).await });
    world.clock.set_unix_us(1_000);
    world.run(|engine| async move {
        put(&engine, item(1, 2)).await;
        assert!(delete(&engine, id(1)).await);
        put(&engine, item(1, 3)).await;
    });
    let objects = world.run(|engine| async move { dump(&engine, SHARD).await });
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0].properties, item(1, 3).properties);
}

#[test]
fn a_start_with_little_memory_sorts_property_values_in_by_and_by() {
    const SEED: u64 = 11;
    let mut world = World::new(SEED);
    let model = world.run(|engine| async move {
        let mut model = Model::default();
        write_some(&engine, &mut Random::new(SEED), &mut model, 400).await;
        model
    });
    let (_, report) = block_on(world.clone().open()).unwrap();
    assert_eq!(report.values_sorted_in, 0, "all of them are few");
    world.memory_bytes_max = 16 << 10;
    let (engine, report) = block_on(world.open()).unwrap();
    assert!(report.values_sorted_in > 1, "{report:?}");
    block_on(check_model(&engine, &model));
}
