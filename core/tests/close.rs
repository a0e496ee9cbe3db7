//! Shards that are closed and opened again: what they hold, what they cost, and what a crash in
//! between leaves.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::backup::{FOLDER, new_folder, restored};
use common::*;
use heddle_core::engine::{PutMode, Want, closed_directory};
use heddle_sim::{Crash, Fault, Random};
use heddle_types::{Device, ErrorCode, ShardId};

const DIRECTORY: &str = "shards/0000000001";

/// Puts, replaces, merges and deletes by a seed, linked and swept in between.
async fn fill(engine: &SimEngine, random: &mut Random, model: &mut Model, writes: usize) {
    for number in 0..writes {
        let target = id(random.below(60));
        let item = random_item(random, target);
        match random.below(4) {
            0 => {
                delete(engine, item.id).await;
                model.delete(item.id);
            }
            1 => {
                let merged = engine.put(SHARD, PutMode::Merge, vec![item.clone()]).await.unwrap();
                assert!(merged[0].is_ok());
                model.merge(&item);
            }
            _ => {
                put(engine, item.clone()).await;
                model.put(&item);
            }
        }
        if number % 16 == 0 {
            link_all(engine, 8);
        }
    }
}

async fn close(engine: &SimEngine) {
    engine.close_shard(SHARD).await.unwrap();
    engine.settle_closed(DIRECTORY).await.unwrap();
}

#[test]
fn a_closed_shard_takes_no_memory_and_no_log_and_comes_back_whole() {
    for seed in 0..8 {
        let mut world = World::new(seed);
        let (spec, disk) = (world.spec(1), world.disk.clone());
        world.run(|engine| async move {
            let mut random = Random::new(seed);
            let mut model = Model::default();
            for _ in 0..3 {
                fill(&engine, &mut random, &mut model, 80).await;
                close(&engine).await;
                let status = engine.status();
                assert!(status.shards.is_empty() && status.memory_bytes == 0);
                assert!(engine.changed_shards().is_empty());
                let files = disk.files();
                assert!(files.iter().all(|file| !file.starts_with(&format!("{DIRECTORY}/"))));
                assert_eq!(
                    engine.get(SHARD, &[id(1)], Want::ALL).await.unwrap_err().code,
                    ErrorCode::Unavailable
                );
                let reopened = engine.open_shards(vec![spec.clone()]).await.unwrap();
                assert!(reopened.lost.is_empty() && !reopened.has_rebuilds);
                check_model(&engine, &model).await;
            }
        });
    }
}

#[test]
fn a_closed_shard_is_not_loaded_by_a_start_and_opens_after_it() {
    let mut world = World::new(1);
    let mut model = Model::default();
    let spec = world.spec(1);
    let written = world.run(|engine| async move {
        let mut model = Model::default();
        fill(&engine, &mut Random::new(1), &mut model, 100).await;
        close(&engine).await;
        model
    });
    model.objects.extend(written.objects);
    world.shards.clear();
    world.run(|engine| async move {
        assert!(engine.status().shards.is_empty());
        engine.open_shards(vec![spec.clone()]).await.unwrap();
        check_model(&engine, &model).await;
        // A stamp of the earlier run must not win over a write of this one.
        let item = random_item(&mut Random::new(5), id(7));
        put(&engine, item.clone()).await;
        model.put(&item);
        check_model(&engine, &model).await;
    });
}

#[test]
fn writes_after_an_opening_are_in_the_log_and_found_by_the_next_start() {
    let mut world = World::new(2);
    let spec = world.spec(1);
    let model = world.run(|engine| async move {
        let mut random = Random::new(3);
        let mut model = Model::default();
        fill(&engine, &mut random, &mut model, 60).await;
        close(&engine).await;
        engine.open_shards(vec![spec]).await.unwrap();
        fill(&engine, &mut random, &mut model, 60).await;
        model
    });
    world.run(|engine| async move { check_model(&engine, &model).await });
}

#[test]
fn a_shard_without_files_is_made_when_it_is_opened() {
    let mut world = World::new(3);
    world.shards.clear();
    let spec = world.spec(1);
    world.run(|engine| async move {
        engine.open_shards(vec![spec.clone()]).await.unwrap();
        put(&engine, random_item(&mut Random::new(1), id(1))).await;
        // Opening what is open changes nothing.
        engine.open_shards(vec![spec]).await.unwrap();
        assert_eq!(engine.count(SHARD, None).await.unwrap(), 1);
    });
}

#[test]
fn a_shard_takes_no_writes_while_it_is_closed_and_again_when_that_fails() {
    let mut world = World::new(4);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let mut model = Model::default();
        fill(&engine, &mut Random::new(4), &mut model, 40).await;
        disk.set_latency_turns_max(0);
        disk.fail_operation(disk.operations() + 4, Fault::NoSpace);
        assert!(engine.close_shard(SHARD).await.is_err());
        check_model(&engine, &model).await;
        let item = random_item(&mut Random::new(9), id(3));
        put(&engine, item.clone()).await;
        model.put(&item);
        check_model(&engine, &model).await;

        let (closing, refused) = futures::future::join(engine.close_shard(SHARD), async {
            engine.put(SHARD, PutMode::Replace, vec![item]).await
        })
        .await;
        closing.unwrap();
        assert_eq!(refused.unwrap_err().code, ErrorCode::Unavailable);
    });
}

#[test]
fn a_shard_closes_when_the_last_record_of_the_log_is_no_write() {
    let mut world = World::new(9);
    let spec = world.spec(1);
    world.run(|engine| async move {
        let mut model = Model::default();
        fill(&engine, &mut Random::new(9), &mut model, 40).await;
        // A record that allows stamps goes to the log behind the writes.
        engine.issue_stamp().await.unwrap();
        close(&engine).await;
        engine.open_shards(vec![spec]).await.unwrap();
        check_model(&engine, &model).await;
    });
}

#[test]
fn a_shard_that_is_open_takes_the_definition_it_is_opened_with() {
    let mut world = World::new(12);
    let fixed = world.spec(1);
    world.config.vectors[1].dims = None;
    world.run(|engine| async move {
        assert!(engine.view(SHARD).unwrap().vector(1).is_none());
        engine.open_shards(vec![fixed.clone()]).await.unwrap();
        assert!(engine.view(SHARD).unwrap().vector(1).is_some());
        // Nothing is published when nothing changes.
        let version = engine.view_version();
        engine.open_shards(vec![fixed]).await.unwrap();
        assert_eq!(engine.view_version(), version);
    });
}

#[test]
fn a_closed_shard_that_turns_out_to_be_damaged_does_not_hold_the_log() {
    let mut world = World::new(13);
    world.shards = vec![1, 2];
    let (spec, disk) = (world.spec(1), world.disk.clone());
    world.run(|engine| async move {
        let mut random = Random::new(13);
        fill(&engine, &mut random, &mut Model::default(), 60).await;
        close(&engine).await;
        let closed = closed_directory(DIRECTORY);
        for file in disk.files() {
            let name = file.strip_prefix(&format!("{closed}/")).unwrap_or_default();
            if name.starts_with("image-") || name.starts_with("ledger-") {
                let bytes = disk.file_bytes(&file).unwrap();
                disk.plant_file(&file, vec![0xa5; bytes.len()]);
            }
        }
        let reopened = engine.open_shards(vec![spec]).await.unwrap();
        assert_eq!(reopened.lost.len(), 1);
        assert_eq!(engine.count(SHARD, None).await.unwrap_err().code, ErrorCode::Corrupt);
        for row in 0..600 {
            let item = random_item(&mut random, id(row));
            let put = engine.put(ShardId(2), PutMode::Replace, vec![item]).await.unwrap();
            assert!(put[0].is_ok());
        }
        let held = engine.status().wal.segments;
        engine.checkpoint(ShardId(2)).await.unwrap();
        let left = engine.status().wal.segments;
        assert!(left < held, "{left} of {held} segments");
        engine.drop_shard(SHARD).await.unwrap();
        assert_eq!(engine.status().wal.segments, left, "it held none of them");
    });
}

#[test]
fn files_of_a_closed_shard_are_removed_with_it() {
    let mut world = World::new(5);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        fill(&engine, &mut Random::new(5), &mut Model::default(), 40).await;
        close(&engine).await;
        assert!(disk.files().iter().any(|file| file.starts_with(&closed_directory(DIRECTORY))));
        engine.remove_closed(&[(SHARD, DIRECTORY.to_owned())]).await.unwrap();
        assert!(disk.files().iter().all(|file| !file.starts_with("shards/")));
    });
}

#[test]
fn a_backup_has_all_of_a_shard_that_is_closed_and_opened_meanwhile() {
    for seed in 0..24 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        let (spec, disk) = (world.spec(1), world.disk.clone());
        let (parts, model) = world.run(|engine| async move {
            let mut model = Model::default();
            fill(&engine, &mut Random::new(seed), &mut model, 40).await;
            new_folder(&disk).await;
            disk.set_latency_turns_max(4);
            let moves = async {
                for _ in 0..3 {
                    engine.close_shard(SHARD).await.unwrap();
                    engine.open_shards(vec![spec.clone()]).await.unwrap();
                }
            };
            let backup = async {
                let until = disk.operations() + seed * 3;
                while disk.operations() < until {
                    disk.space().await.unwrap();
                }
                engine.back_up_with(FOLDER, &[SHARD], |_| Some(DIRECTORY.to_owned())).await
            };
            let (part, ()) = futures::join!(backup, moves);
            (part.unwrap(), model)
        });
        assert!(parts.dropped.is_empty());
        restored(&world, &parts.files)
            .run(|engine| async move { check_model(&engine, &model).await });
    }
}

#[test]
fn a_backup_has_a_shard_whose_opening_or_closing_failed_half_way() {
    let mut world = World::new(10);
    let (spec, disk) = (world.spec(1), world.disk.clone());
    let (part, model) = world.run(|engine| async move {
        let mut model = Model::default();
        fill(&engine, &mut Random::new(10), &mut model, 40).await;
        close(&engine).await;
        new_folder(&disk).await;
        // The name is changed back, and then the directory cannot be synced.
        disk.set_latency_turns_max(0);
        disk.fail_operation(disk.operations() + 2, Fault::NoSpace);
        assert!(engine.open_shards(vec![spec]).await.is_err());
        assert!(!disk.files().iter().any(|file| file.starts_with(&closed_directory(DIRECTORY))));
        let directory_of = |_| Some(DIRECTORY.to_owned());
        (engine.back_up_with(FOLDER, &[SHARD], directory_of).await.unwrap(), model)
    });
    restored(&world, &part.files).run(|engine| async move { check_model(&engine, &model).await });
}

/// A start as a node makes it whose catalog says that the shard is closed: what has the name of a
/// closed one stays so, anything else is opened as ever.
async fn is_closed(world: &World) -> bool {
    let names = world.disk.list("shards").await.unwrap();
    names.contains(&closed_directory("0000000001"))
}

#[test]
fn a_crash_at_any_change_of_the_disk_leaves_every_row_in_a_closed_or_an_open_shard() {
    let mut world = World::new(6);
    let model = world.run(|engine| async move {
        let mut model = Model::default();
        fill(&engine, &mut Random::new(6), &mut model, 60).await;
        model
    });
    let mut seen = [0, 0];
    for at in 1.. {
        let mut life = World { disk: world.disk.crashed(Crash::KeepAll), ..world.clone() };
        let disk = life.disk.clone();
        let ended = life.try_run(|engine| async move {
            disk.fail_change(disk.changes() + at, Fault::PowerCut);
            let closed = engine.close_shard(SHARD).await;
            closed.is_ok() && engine.settle_closed(DIRECTORY).await.is_ok()
        });
        let is_over = ended.unwrap();
        for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(at)] {
            let mut after = World { disk: life.disk.crashed(crash), ..life.clone() };
            let closed = futures::executor::block_on(is_closed(&after));
            assert!(closed || !is_over, "a shard that was reported closed is");
            seen[usize::from(closed)] += 1;
            let (spec, model) = (after.spec(1), model.clone());
            if closed {
                after.shards.clear();
            }
            after.run(|engine| async move {
                if closed {
                    engine.open_shards(vec![spec]).await.unwrap();
                }
                check_model(&engine, &model).await;
            });
        }
        if is_over {
            break;
        }
    }
    assert!(seen[0] > 20 && seen[1] > 2, "both ends were seen: {seen:?}");
}

#[test]
fn a_shard_of_a_hundred_rows_takes_little_memory_and_an_empty_one_less() {
    let mut world = World::new(7);
    world.shards = vec![1, 2];
    world.run(|engine| async move {
        let mut random = Random::new(7);
        for row in 0..100 {
            put(&engine, random_item(&mut random, id(row))).await;
        }
        link_all(&engine, 32);
        engine.checkpoint(SHARD).await.unwrap();
        let status = engine.status();
        let bytes = |shard: u64| {
            let found = status.shards.iter().find(|status| status.id == ShardId(shard));
            found.unwrap().memory_bytes()
        };
        // Three vector indexes of a few dimensions and five properties.
        assert!(bytes(1) < 192 << 10, "{} bytes", bytes(1));
        assert!(bytes(2) < 128 << 10, "{} bytes", bytes(2));
    });
}

#[test]
fn who_knows_a_version_of_the_views_is_told_what_changed_since() {
    let mut world = World::new(8);
    world.shards = vec![1, 2, 3];
    world.run(|engine| async move {
        let known = engine.view_version();
        assert!(engine.views_since(known).views.is_empty());
        engine.close_shard(ShardId(2)).await.unwrap();
        for row in 0..200 {
            put(&engine, random_item(&mut Random::new(row), id(row))).await;
        }
        let changes = engine.views_since(known);
        let ids: Vec<ShardId> = changes.views.iter().map(|view| view.id).collect();
        assert_eq!((ids, changes.gone), (vec![SHARD], vec![ShardId(2)]));
        let changes = engine.views_since(engine.view_version());
        assert!(changes.views.is_empty() && changes.gone.is_empty());
    });
}
