//! A backup that is taken while writes go on holds what was acknowledged before it, and no half
//! of anything.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use common::backup::{FOLDER, new_folder, restored};
use common::{SHARD, SimEngine, World, delete, dump, id, link_all, put, random_item};
use heddle_core::engine::{PutItem, PutMode, ScrubStep, ShardState};
use heddle_core::wal::{Wal, WalConfig};
use heddle_sim::{Fault, Random, SimDisk};
use heddle_types::backup::is_backup_name;
use heddle_types::row::decode_row;
use heddle_types::{Device, ObjectId, ShardId};

/// What a client knows of an object: every version it sent, and how far it was acknowledged.
#[derive(Default)]
struct Known {
    /// Versions in the order of their writes; `None` is a deletion.
    versions: Vec<Option<PutItem>>,
    acknowledged: usize,
}

/// Is the stored object the version that was written so?
fn is_version(object: Option<&heddle_core::engine::Object>, version: Option<&PutItem>) -> bool {
    match (object, version) {
        (None, None) => true,
        (Some(object), Some(item)) => {
            let row = |bytes: &[u8]| decode_row(bytes).unwrap();
            let stored = object.vectors.iter().map(|vector| vector.index);
            let mut sent: Vec<u8> = item.vectors.iter().map(|vector| vector.index).collect();
            sent.sort_unstable();
            row(&object.properties) == row(&item.properties) && stored.eq(sent)
        }
        _ => false,
    }
}

#[test]
fn a_backup_under_writes_holds_all_that_was_acknowledged_before_it() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut world = World {
            memtable_bytes: 2 << 10,
            segment_bytes: 64 << 10,
            shards: vec![1, 2],
            ..World::new(seed)
        };
        world.disk.set_latency_turns_max(5);
        let disk = world.disk.clone();
        let (files, known, before) = world.run(|engine| async move {
            let known: RefCell<BTreeMap<ObjectId, Known>> = RefCell::default();
            let mut random = Random::new(seed);
            write_some(&engine, &mut random, &known, 120).await;
            new_folder(&disk).await;
            let before: BTreeMap<ObjectId, usize> =
                known.borrow().iter().map(|(id, known)| (*id, known.acknowledged)).collect();
            let is_done = Cell::new(false);
            let writes = async {
                while !is_done.get() {
                    write_some(&engine, &mut random, &known, 5).await;
                    engine.maintain().await.unwrap();
                    link_all(&engine, 16);
                }
            };
            let backup = async {
                let files = engine.back_up(FOLDER, &[SHARD, ShardId(2)]).await.unwrap().files;
                is_done.set(true);
                files
            };
            let (files, ()) = futures::join!(backup, writes);
            // What happens afterwards does not reach into the backup.
            write_some(&engine, &mut random, &known, 60).await;
            engine.checkpoint(SHARD).await.unwrap();
            while engine.maintain().await.unwrap() {}
            (files, known.into_inner(), before)
        });
        let mut copy = restored(&world, &files);
        copy.run(|engine| async move {
            let objects: BTreeMap<ObjectId, _> =
                dump(&engine, SHARD).await.into_iter().map(|object| (object.id, object)).collect();
            for (id, known) in &known {
                let first = before.get(id).copied().unwrap_or(0);
                let object = objects.get(id);
                // Nothing older than what was acknowledged, nothing that was never written.
                let is_known = if first == 0 { object.is_none() } else { false }
                    || known.versions[first.saturating_sub(1)..]
                        .iter()
                        .any(|version| is_version(object, version.as_ref()));
                assert!(is_known, "object {id}: {object:?}");
            }
            assert!(objects.keys().all(|id| known.contains_key(id)));
            // It is a whole node: it takes writes and images.
            put(&engine, random_item(&mut Random::new(1), id(999))).await;
            engine.checkpoint(SHARD).await.unwrap();
            engine.checkpoint(ShardId(2)).await.unwrap();
        });
        copy.run(|engine| async move {
            assert!(dump(&engine, SHARD).await.iter().any(|object| object.id == id(999)));
        });
    }
}

async fn write_some(
    engine: &SimEngine,
    random: &mut Random,
    known: &RefCell<BTreeMap<ObjectId, Known>>,
    count: u64,
) {
    for _ in 0..count {
        let object = id(random.below(40));
        let version = if random.one_in(5) { None } else { Some(random_item(random, object)) };
        known.borrow_mut().entry(object).or_default().versions.push(version.clone());
        match version {
            Some(item) => put(engine, item).await,
            None => drop(delete(engine, object).await),
        }
        let mut known = known.borrow_mut();
        let known = known.get_mut(&object).unwrap();
        known.acknowledged = known.versions.len();
    }
}

#[test]
fn a_backup_that_fails_harms_nothing_and_the_next_one_works() {
    for at in (1..60).step_by(3) {
        let mut world = common::fixture::world();
        world.disk.set_latency_turns_max(0);
        let disk = world.disk.clone();
        let files = world.run(|engine| async move {
            for row in 0..30 {
                put(&engine, random_item(&mut Random::new(row), id(row))).await;
            }
            new_folder(&disk).await;
            disk.fail_change(disk.changes() + at, Fault::NoSpace);
            let failed = engine.back_up(FOLDER, &[SHARD]).await;
            disk.remove_tree(FOLDER).await.unwrap();
            new_folder(&disk).await;
            let files = match engine.back_up(FOLDER, &[SHARD]).await {
                Ok(part) => part.files,
                Err(error) => panic!("at {at}, after {failed:?}: {error}"),
            };
            put(&engine, random_item(&mut Random::new(1), id(99))).await;
            files
        });
        restored(&world, &files).run(|engine| async move {
            assert_eq!(dump(&engine, SHARD).await.len(), 30);
        });
    }
}

#[test]
fn a_shard_is_dealt_to_others_with_stamps_creation_times_and_deletions() {
    let mut world = common::fixture::world();
    let (before, deleted) = world.run(|engine| async move {
        common::fixture::live(&engine).await;
        (dump(&engine, SHARD).await, engine.status().shards[0].tombstones)
    });
    assert!(!before.is_empty() && deleted > 0);
    let target = World { disk: SimDisk::new(5), shards: vec![4, 5, 6], ..world.clone() };
    let route = |id: &ObjectId| ShardId(4 + u64::from(id.0[15]) % 3);
    let disk = target.disk.clone();
    let copied = world.run(|engine| async move {
        let config = WalConfig { segment_bytes: 256 << 10, ..WalConfig::default() };
        let opened = Wal::recover(disk, "logs/0000", config, &mut |_| Ok(())).await;
        let (log, _) = opened.unwrap();
        let copy = async {
            let copied = engine.copy_to_log(SHARD, &log, |id| Some(route(id))).await.unwrap();
            log.seal().await.unwrap();
            copied
        };
        let (run, copy) = (std::pin::pin!(log.run()), std::pin::pin!(copy));
        match futures::future::select(run, copy).await {
            futures::future::Either::Left((error, _)) => panic!("{error}"),
            futures::future::Either::Right((copied, _)) => copied,
        }
    });
    assert_eq!(copied, before.len() as u64 + deleted);
    let mut target = target;
    target.run(|engine| async move {
        let mut after = Vec::new();
        for shard in [4, 5, 6].map(ShardId) {
            let objects = dump(&engine, shard).await;
            assert!(objects.iter().all(|object| route(&object.id) == shard));
            after.extend(objects);
        }
        after.sort_unstable_by_key(|object| object.id);
        assert_eq!(after.len(), before.len());
        for (new, old) in after.iter().zip(&before) {
            assert_eq!((new.id, new.stamp, new.created_us), (old.id, old.stamp, old.created_us));
            assert_eq!(new.properties, old.properties);
            let indexes = |object: &heddle_core::engine::Object| {
                object.vectors.iter().map(|vector| vector.index).collect::<Vec<u8>>()
            };
            assert_eq!(indexes(new), indexes(old));
        }
        let tombstones = engine.status().shards.iter().map(|shard| shard.tombstones).sum::<u64>();
        assert_eq!(tombstones, deleted);
    });
}

#[test]
fn a_shard_that_is_not_there_is_named_and_log_is_given_up_again() {
    let mut world = common::fixture::world();
    let disk = world.disk.clone();
    world.run(|engine| async move {
        new_folder(&disk).await;
        let part = engine.back_up(FOLDER, &[SHARD, ShardId(5)]).await.unwrap();
        assert_eq!(part.dropped, [ShardId(5)]);
        let mut random = Random::new(2);
        for _ in 0..20 {
            for row in 0..30 {
                put(&engine, random_item(&mut random, id(row))).await;
            }
            engine.checkpoint(SHARD).await.unwrap();
        }
        let status = engine.status();
        assert!(status.wal.segments < 5, "{status:?}");
    });
}

#[test]
fn an_image_of_several_files_is_backed_up_whole_with_its_ledger() {
    const ROWS: u64 = 400;
    let mut world = World { memtable_bytes: 8 << 10, ..World::new(21) };
    let disk = world.disk.clone();
    let (files, before, deleted) = world.run(|engine| async move {
        let mut random = Random::new(21);
        for row in 0..ROWS {
            put(&engine, random_item(&mut random, id(row))).await;
        }
        link_all(&engine, 16);
        engine.checkpoint(SHARD).await.unwrap();
        for row in (0..ROWS).step_by(50) {
            assert!(delete(&engine, id(row)).await);
        }
        engine.checkpoint(SHARD).await.unwrap();
        // These are in the log alone.
        for row in (1..ROWS).step_by(80) {
            assert!(delete(&engine, id(row)).await);
        }
        let before = dump(&engine, SHARD).await;
        let deleted = engine.status().shards[0].tombstones;
        new_folder(&disk).await;
        let files = engine.back_up(FOLDER, &[SHARD]).await.unwrap().files;
        // Later images need the files no more, the backup does.
        for round in 0..3 {
            for row in 0..ROWS {
                put(&engine, random_item(&mut random, id(row + round))).await;
            }
            link_all(&engine, 16);
            while engine.maintain().await.unwrap() {}
            engine.checkpoint(SHARD).await.unwrap();
        }
        (files, before, deleted)
    });
    assert_eq!(deleted, 13);
    let count = |kind: &str| files.iter().filter(|file| file.name.contains(kind)).count();
    assert!(count("/image-") > 1, "{files:?}");
    assert_eq!(count("/ledger-"), 1, "{files:?}");
    assert!(files.iter().all(|file| is_backup_name(&file.name)), "{files:?}");
    let mut copy = restored(&world, &files);
    for _ in 0..2 {
        let before = before.clone();
        copy.run(|engine| async move {
            let status = engine.status();
            assert_eq!(status.shards[0].state, ShardState::Serving);
            assert_eq!(status.shards[0].tombstones, deleted);
            assert_eq!(dump(&engine, SHARD).await, before);
            while engine.scrub_step().await != ScrubStep::PassEnded {}
            assert_eq!(engine.scrub_stats().findings, []);
            engine.checkpoint(SHARD).await.unwrap();
        });
    }
}

#[test]
fn a_shard_that_is_dropped_during_a_backup_takes_nothing_else_with_it() {
    let mut left_out = 0;
    for seed in 0..16 {
        println!("seed {seed}");
        let mut world = World { shards: vec![1, 2, 3], ..World::new(seed) };
        world.disk.set_latency_turns_max(0);
        let disk = world.disk.clone();
        let (part, before) = world.run(|engine| async move {
            let mut random = Random::new(seed);
            for row in 0..30 {
                for shard in [1, 2, 3].map(ShardId) {
                    let item = random_item(&mut random, id(row));
                    let put = engine.put(shard, PutMode::Replace, vec![item]).await.unwrap();
                    assert!(put[0].is_ok());
                }
            }
            new_folder(&disk).await;
            disk.set_latency_turns_max(3);
            let drop = async {
                let until = disk.operations() + seed * 60;
                while disk.operations() < until {
                    disk.space().await.unwrap();
                }
                engine.drop_shard(ShardId(2)).await.unwrap();
            };
            let all = [1, 2, 3].map(ShardId);
            let (part, ()) = futures::join!(engine.back_up(FOLDER, &all), drop);
            (part.unwrap(), dump(&engine, ShardId(3)).await)
        });
        left_out += part.dropped.len();
        assert!(part.dropped.is_empty() || part.dropped == [ShardId(2)], "{part:?}");
        let of_dropped = |name: &str| name.starts_with("shards/0000000002/");
        let (gone, files): (Vec<_>, Vec<_>) =
            part.files.into_iter().partition(|file| of_dropped(&file.name));
        assert!(part.dropped.is_empty() || gone.is_empty(), "{gone:?}");
        let mut copy = World { shards: vec![1, 3], ..restored(&world, &files) };
        copy.run(|engine| async move {
            assert_eq!(dump(&engine, ShardId(3)).await, before);
            assert_eq!(dump(&engine, SHARD).await.len(), 30);
        });
    }
    assert!((1..16).contains(&left_out), "left out {left_out} times");
}
