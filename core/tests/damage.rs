//! Shards whose image is damaged: built again from rows and log, or kept out of the way.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::*;
use futures::executor::block_on;
use heddle_core::engine::{EngineError, PutItem, PutMode, ShardState};
use heddle_sim::{Crash, Fault, Random};
use heddle_types::{ErrorCode, ShardId};

const OTHER: ShardId = ShardId(2);
const DIRECTORY: &str = "shards/0000000001";
/// Everything but deletions can be read from its rows.
const ON_DISK: &str = r#"{"name":"Docs",
    "vectors":[{"name":"cover","dims":5,"distance":"cosine","index":{"m":4},
                "quantization":"4bit","raw":"disk"}],
    "properties":[{"name":"text","type":"text"},{"name":"year","type":"int"},
                  {"name":"tags","type":"text[]"},
                  {"name":"note","type":"text","filterable":false}]}"#;

fn disk_item(random: &mut Random, n: u64) -> PutItem {
    let mut vector = random_vector(random, 2);
    vector.index = 0;
    PutItem { id: id(n), properties: row(&random_properties(random)), vectors: vec![vector] }
}

/// Puts, replacements and deletions, among them images of every kind of age: some deletions are in
/// no log any more, some are only in the log.
async fn fill(engine: SimEngine, make: fn(&mut Random, u64) -> PutItem) -> Model {
    let mut random = Random::new(7);
    let mut model = Model::default();
    for round in 0..3 {
        for n in 0..60 {
            let item = make(&mut random, (n * 7 + round) % 90);
            model.put(&item);
            put(&engine, item).await;
        }
        for n in 0..20 {
            let target = id(n * 4 + round);
            assert_eq!(delete(&engine, target).await, model.delete(target));
        }
        if round < 2 {
            link_all(&engine, 16);
            sweep_all(&engine);
            engine.checkpoint(SHARD).await.unwrap();
        }
        while engine.maintain().await.unwrap() {}
    }
    for n in 0..10 {
        let item = make(&mut random, n);
        let put = engine.put(OTHER, PutMode::Replace, vec![item]).await.unwrap();
        assert!(put[0].is_ok());
    }
    model
}

/// Two shards, the first of which has an image, rows, and a log behind them.
fn written(schema: Option<&str>, make: fn(&mut Random, u64) -> PutItem) -> (World, Model) {
    let mut world = World::new(9);
    world.shards = vec![1, 2];
    world.memtable_bytes = 4 << 10;
    if let Some(schema) = schema {
        world.config = serde_json::from_str(schema).unwrap();
    }
    let model = world.run(|engine| fill(engine, make));
    (world, model)
}

/// Ids, rows and vectors, bit for bit.
async fn check_rows(engine: &SimEngine, model: &Model) {
    let all = dump(engine, SHARD).await;
    let ids: Vec<_> = all.iter().map(|object| object.id).collect();
    let expected: Vec<_> = model.objects.keys().copied().collect();
    assert_eq!(ids, expected);
    assert!(all.iter().all(|object| same_object(object, &model.objects[&object.id])));
}

fn image_path(world: &World) -> String {
    let is_image = |name: &String| name.starts_with(&format!("{DIRECTORY}/image-"));
    world.disk.files().into_iter().find(is_image).unwrap()
}

/// The same disk with one thing done to it.
fn damaged(world: &World, damage: impl FnOnce(&World)) -> World {
    let other = World { disk: world.disk.crashed(Crash::KeepAll), ..world.clone() };
    damage(&other);
    other
}

fn flip(world: &World, path: &str, offset: usize) {
    let mut bytes = world.disk.file_bytes(path).unwrap();
    bytes[offset] ^= 0x10;
    world.disk.plant_file(path, bytes);
}

fn remove(world: &World, path: &str) {
    block_on(heddle_types::Device::remove(&world.disk, path)).unwrap();
}

/// Gives a superblock or ledger another version and a right checksum.
fn set_version(world: &World, path: &str, used_bytes: usize) {
    let mut bytes = world.disk.file_bytes(path).unwrap();
    bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..used_bytes]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    world.disk.plant_file(path, bytes);
}

/// The first shard comes back whole while the second serves; the image after it is whole as well.
fn check_rebuilt(mut world: World, model: &Model, what: &str) {
    let kept = model.clone();
    world.run(|engine| async move {
        assert_eq!(engine.count(OTHER, None).await.unwrap(), 10, "the other shard serves");
        let status = engine.status();
        let state = &status.shards[0].state;
        assert_eq!(*state, ShardState::Rebuilding { entries: 0 }, "{what}");
        let refused = engine.count(SHARD, None).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unavailable);
        assert!(engine.view(SHARD).is_none());
        assert!(!engine.changed_shards().contains(&SHARD), "half a shard gets no image");
        assert_eq!(engine.rebuild_next().await, Some((SHARD, Ok(()))));
        assert_eq!(engine.rebuild_next().await, None);
        check_rows(&engine, &kept).await;
        link_all(&engine, 16);
        let item = disk_item(&mut Random::new(3), 500);
        let put = engine.put(SHARD, PutMode::Replace, vec![item]).await.unwrap();
        assert!(put[0].is_ok());
        assert!(delete(&engine, id(500)).await);
        while engine.maintain().await.unwrap() {}
        check_rows(&engine, &kept).await;
        assert!(engine.checkpoint_due().contains(&SHARD), "an image is due at once");
        engine.checkpoint(SHARD).await.unwrap();
        while engine.maintain().await.unwrap() {}
        check_rows(&engine, &kept).await;
    });
    let kept = model.clone();
    world.run(|engine| async move {
        assert_eq!(engine.status().shards[0].state, ShardState::Serving);
        check_rows(&engine, &kept).await;
    });
}

#[test]
fn a_shard_whose_image_is_unusable_comes_back_from_its_rows() {
    let (world, model) = written(Some(ON_DISK), disk_item);
    let image = image_path(&world);
    let superblocks = [0, 1].map(|n| format!("{DIRECTORY}/superblock.{n}"));
    let header = damaged(&world, |world| flip(world, &image, 17));
    check_rebuilt(header, &model, "the image's header");
    let ids = damaged(&world, |world| flip(world, &image, 4_096 + 20));
    check_rebuilt(ids, &model, "a chunk of ids");
    let gone = damaged(&world, |world| remove(world, &image));
    check_rebuilt(gone, &model, "the image is gone");
    let short = damaged(&world, |world| {
        let bytes = world.disk.file_bytes(&image).unwrap();
        world.disk.plant_file(&image, bytes[..bytes.len() / 8 * 4 / 4096 * 4096].to_vec());
    });
    check_rebuilt(short, &model, "half of the image");
    let version = damaged(&world, |world| {
        superblocks.iter().for_each(|path| set_version(world, path, 96));
    });
    check_rebuilt(version, &model, "superblocks of another version");
    let blank = damaged(&world, |world| {
        superblocks.iter().for_each(|path| world.disk.plant_file(path, vec![0; 4_096]));
    });
    check_rebuilt(blank, &model, "blank superblocks");
    let no_superblocks = damaged(&world, |world| {
        superblocks.iter().for_each(|path| remove(world, path));
    });
    check_rebuilt(no_superblocks, &model, "no superblocks");
}

#[test]
fn vectors_that_rest_in_memory_come_back_from_what_is_left_of_the_image() {
    let make = |random: &mut Random, n| random_item(random, id(n));
    let (world, model) = written(None, make);
    let image = image_path(&world);
    let ids = damaged(&world, |world| flip(world, &image, 4_096 + 20));
    check_rebuilt_model(ids, &model);
    let mut gone = damaged(&world, |world| remove(world, &image));
    gone.run(|engine| async move {
        let lost = engine.count(SHARD, None).await.unwrap_err();
        assert_eq!(lost.code, ErrorCode::Corrupt);
        assert!(lost.message.contains("vectors of \"body\""), "{lost}");
        assert_eq!(engine.count(OTHER, None).await.unwrap(), 10);
    });
}

fn check_rebuilt_model(mut world: World, model: &Model) {
    let model = model.clone();
    world.run(|engine| async move {
        assert_eq!(engine.rebuild_next().await, Some((SHARD, Ok(()))));
        check_model(&engine, &model).await;
        link_all(&engine, 16);
        check_model(&engine, &model).await;
    });
}

/// A world whose first shard cannot be built again: image and ledger are damaged.
fn lost_world() -> World {
    let (world, _) = written(Some(ON_DISK), disk_item);
    damaged(&world, |world| {
        let is_ledger = |name: &String| name.starts_with(&format!("{DIRECTORY}/ledger-"));
        let ledger = world.disk.files().into_iter().find(is_ledger).unwrap();
        flip(world, &ledger, 4_096 + 5);
        remove(world, &image_path(world));
    })
}

#[test]
fn a_shard_that_cannot_be_built_again_is_named_and_its_files_stay() {
    let mut world = lost_world();
    let of_shard = |world: &World| -> Vec<String> {
        let files = world.disk.files().into_iter();
        files.filter(|name| name.starts_with(DIRECTORY)).collect()
    };
    let before = of_shard(&world);
    let (_, report) = block_on(world.clone().open()).unwrap();
    assert_eq!(report.shards_lost.len(), 1);
    world.run(|engine| async move {
        let lost = engine.count(SHARD, None).await.unwrap_err();
        assert_eq!(lost.code, ErrorCode::Corrupt);
        // File, offset and both checksums.
        for part in ["ledger-", "offset 4096", "ledger checksum is 0x", "expected 0x"] {
            assert!(lost.message.contains(part), "{part}: {lost}");
        }
        let refused = engine.put(SHARD, PutMode::Replace, vec![disk_item(&mut Random::new(1), 1)]);
        assert_eq!(refused.await.unwrap_err().code, ErrorCode::Corrupt);
        let state = engine.status().shards[0].state.clone();
        assert!(matches!(state, ShardState::Lost { .. }), "{state:?}");
        // The log keeps what the shard may need, however much others write.
        let first = engine.status().wal.segments;
        let mut random = Random::new(2);
        for n in 0..400 {
            let item = disk_item(&mut random, n);
            assert!(engine.put(OTHER, PutMode::Replace, vec![item]).await.unwrap()[0].is_ok());
        }
        engine.checkpoint(OTHER).await.unwrap();
        assert!(engine.status().wal.segments > first);
    });
    assert_eq!(of_shard(&world), before);
}

#[test]
fn a_lost_shard_can_be_dropped_and_lets_go_of_the_log() {
    let mut world = lost_world();
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let mut random = Random::new(2);
        for n in 0..600 {
            let item = disk_item(&mut random, n);
            assert!(engine.put(OTHER, PutMode::Replace, vec![item]).await.unwrap()[0].is_ok());
        }
        engine.checkpoint(OTHER).await.unwrap();
        let held = engine.status().wal.segments;
        engine.drop_shard(SHARD).await.unwrap();
        assert!(engine.status().wal.segments < held, "{held} segments");
        assert!(disk.files().iter().all(|name| !name.starts_with(DIRECTORY)));
        assert_eq!(engine.count(SHARD, None).await.unwrap_err().code, ErrorCode::Unavailable);
    });
}

#[test]
fn a_power_cut_while_a_shard_is_built_again_loses_nothing() {
    let (world, model) = written(Some(ON_DISK), disk_item);
    let image = image_path(&world);
    let broken = damaged(&world, |world| flip(world, &image, 4_096 + 20));
    let mut at = 1;
    loop {
        let mut life = World { disk: broken.disk.crashed(Crash::KeepAll), ..broken.clone() };
        life.disk.set_latency_turns_max(0);
        let disk = life.disk.clone();
        let finished = life.try_run(|engine| async move {
            disk.fail_operation(disk.operations() + at, Fault::PowerCut);
            match engine.rebuild_next().await {
                Some((_, Ok(()))) => engine.checkpoint(SHARD).await.is_ok(),
                _ => false,
            }
        });
        for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(at)] {
            let mut after = World { disk: life.disk.crashed(crash), ..life.clone() };
            let model = model.clone();
            after.run(|engine| async move {
                while let Some((shard, built)) = engine.rebuild_next().await {
                    assert_eq!((shard, built), (SHARD, Ok(())), "operation {at}, {crash:?}");
                }
                check_rows(&engine, &model).await;
            });
        }
        if finished.unwrap_or(false) {
            break;
        }
        at += 3;
    }
    assert!(at > 40, "{at} operations only");
}

#[test]
fn damaged_rows_cannot_be_built_from() {
    let (world, _) = written(Some(ON_DISK), disk_item);
    let image = image_path(&world);
    let is_segment = |name: &String| name.starts_with(&format!("{DIRECTORY}/objects-"));
    // Not the first one: what was read before has to be taken back.
    let segment = world.disk.files().into_iter().filter(is_segment).nth(1).unwrap();
    let of_shard = |world: &World| -> Vec<String> {
        let files = world.disk.files().into_iter();
        files.filter(|name| name.starts_with(DIRECTORY)).collect()
    };
    let mut broken = damaged(&world, |world| {
        remove(world, &image);
        flip(world, &segment, 4_096 + 40);
    });
    broken.memtable_bytes = 1 << 10;
    let before = of_shard(&broken);
    broken.run(|engine| async move {
        let (shard, built) = engine.rebuild_next().await.unwrap();
        let error = built.unwrap_err();
        assert_eq!((shard, error.code), (SHARD, ErrorCode::Corrupt));
        assert!(error.message.contains("checksum"), "{error}");
        assert!(engine.status().shards[0].state != ShardState::Serving);
        assert_eq!(engine.count(OTHER, None).await.unwrap(), 10);
    });
    assert_eq!(of_shard(&broken), before, "starts do not pile up copies of rows");
    let mut missing = damaged(&world, |world| {
        remove(world, &image);
        remove(world, &segment);
    });
    match block_on(missing.open()) {
        Ok((engine, report)) => {
            assert_eq!(report.shards_lost.len(), 1);
            assert_eq!(report.shards_lost[0].1.code, ErrorCode::Corrupt);
            drop(engine);
        }
        Err(EngineError::Objects { .. }) => panic!("one shard keeps the others from starting"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_sector_that_cannot_be_read_keeps_one_shard_from_serving_and_no_other() {
    // One read error of one image kept the whole node from starting.
    let (world, model) = written(Some(ON_DISK), disk_item);
    let (mut alone, mut whole) = (0, 0);
    for at in 1.. {
        let mut life = World { disk: world.disk.crashed(Crash::KeepAll), ..world.clone() };
        life.disk.set_latency_turns_max(0);
        life.disk.fail_operation(at, Fault::Io);
        let opened = block_on(life.open());
        let is_over = life.disk.operations() < at;
        if let Ok((engine, report)) = opened {
            let serving = |shard| block_on(engine.count(shard, None));
            match report.shards_lost.len() {
                0 => {
                    whole += 1;
                    assert!(serving(SHARD).is_ok() && serving(OTHER).is_ok(), "operation {at}");
                }
                _ => {
                    alone += 1;
                    assert!(serving(SHARD).is_ok() != serving(OTHER).is_ok(), "operation {at}");
                    let (_, refusal) = &report.shards_lost[0];
                    assert!(refusal.message.contains("read"), "{refusal}");
                }
            }
            drop(engine);
        }
        if is_over {
            break;
        }
        let model = model.clone();
        life.run(|engine| async move {
            check_rows(&engine, &model).await;
            assert_eq!(engine.count(OTHER, None).await.unwrap(), 10);
        });
    }
    assert!(alone > 5 && whole > 0, "{alone} starts without one shard, {whole} with all");
}
