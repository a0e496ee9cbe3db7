//! Failures between the steps of checkpoints, removals and starts, on a simulated disk.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::*;
use futures::executor::block_on;
use futures::future::join;
use heddle_core::engine::{EngineError, IndexedBatch, LinkProgress, PutItem, PutMode};
use heddle_core::objects::ObjectStats;
use heddle_index::LinkScratch;
use heddle_sim::{Crash, Fault, Random, SimDisk};
use heddle_types::{Device, ShardId};

const IMAGES: &str = "shards/0000000001";

fn item(n: u64, year: i64) -> PutItem {
    let properties = properties([("year", heddle_types::Value::Int(year))]);
    PutItem { id: id(n), properties: row(&properties), vectors: vec![body_vector([1.0; 6])] }
}

/// A world whose first life wrote `count` objects.
fn written(seed: u64, count: u64) -> World {
    let mut world = World::new(seed);
    world.disk.set_latency_turns_max(0);
    world.run(|engine| async move {
        for n in 0..count {
            put(&engine, item(n, 1)).await;
        }
    });
    world
}

/// The same world after a power cut of its own.
fn crashed(world: &World, crash: Crash) -> World {
    World { disk: world.disk.crashed(crash), ..world.clone() }
}

fn count(world: &mut World) -> usize {
    world.run(|engine| async move { dump(&engine, SHARD).await.len() })
}

/// Lets every other task run once.
async fn turn() {
    let mut turned = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut turned, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Waits until nothing works on the disk, so that a planted fault meets what the test does next
/// and not a log that makes its spare segment.
async fn settle(disk: &SimDisk) {
    let mut seen = disk.operations() + 1;
    while seen != disk.operations() {
        seen = disk.operations();
        for _ in 0..100 {
            turn().await;
        }
    }
}

fn shard_rows(engine: &SimEngine, shard: u64) -> ObjectStats {
    let shards = engine.status().shards;
    shards.iter().find(|found| found.id == ShardId(shard)).unwrap().rows
}

/// Puts objects until the memtable of a shard is full, and not so full that the writer flushes it.
async fn fill_memtable(engine: &SimEngine, shard: u64, memtable_bytes: usize) {
    let mut n = 0;
    while shard_rows(engine, shard).unwritten_bytes < memtable_bytes as u64 {
        let put = engine.put(ShardId(shard), PutMode::Replace, vec![item(n, 1)]);
        assert!(put.await.unwrap()[0].is_ok());
        n += 1;
    }
    assert_eq!(shard_rows(engine, shard).segments, 0);
}

fn logs_there(disk: &SimDisk) -> Vec<u32> {
    let names = block_on(disk.list("logs")).unwrap();
    let mut logs: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    logs.sort_unstable_by_key(|log| std::cmp::Reverse(*log));
    logs
}

#[test]
fn an_old_log_goes_whole_or_not_at_all() {
    let mut world = World::new(1);
    world.disk.set_latency_turns_max(0);
    world.segment_bytes = 32 << 10;
    world.run(|engine| async move {
        let mut random = Random::new(1);
        for n in 0..400 {
            put(&engine, random_item(&mut random, id(n))).await;
        }
    });
    let segments = world.disk.files().iter().filter(|name| name.ends_with(".wal")).count();
    assert!(segments >= 4, "{segments} segments");
    world.logs = vec![1, 0];
    let (mut at, mut removed) = (1, 0);
    loop {
        let mut other = crashed(&world, Crash::KeepAll);
        let disk = other.disk.clone();
        let finished = other.run(|engine| async move {
            disk.fail_operation(disk.operations() + at, Fault::PowerCut);
            engine.checkpoint(SHARD).await.is_ok()
        });
        for salt in 0..4 {
            let mut after = crashed(&other, Crash::Random(at * 4 + salt));
            after.logs = logs_there(&after.disk);
            removed += usize::from(!after.logs.contains(&0));
            assert_eq!(count(&mut after), 400, "operation {at}, salt {salt}");
            let names = block_on(after.disk.list("logs")).unwrap();
            assert!(names.iter().all(|name| name.parse::<u32>().is_ok()), "{names:?}");
        }
        if finished {
            break;
        }
        at += 1;
    }
    assert!(removed > 0, "the old log is never removed");
}

#[test]
fn an_image_is_not_written_over_by_the_try_after_a_failed_commit() {
    for images in [0, 1] {
        let mut world = written(2, 20);
        if images > 0 {
            world.run(|engine| async move {
                engine.checkpoint(SHARD).await.unwrap();
                put(&engine, item(20, 1)).await;
            });
        }
        let mut at = 1;
        loop {
            let mut failed = false;
            for cut in (1..40).step_by(3) {
                let mut other = crashed(&world, Crash::KeepAll);
                let disk = other.disk.clone();
                failed = other.run(|engine| async move {
                    settle(&disk).await;
                    disk.fail_operation(disk.operations() + at, Fault::Io);
                    if engine.checkpoint(SHARD).await.is_ok() {
                        // The fault lies beyond the checkpoint and would meet the log instead.
                        return false;
                    }
                    put(&engine, item(30, 2)).await;
                    disk.fail_change(disk.changes() + cut, Fault::PowerCut);
                    let _dark = engine.checkpoint(SHARD).await;
                    true
                });
                for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Random(at + cut)] {
                    let mut after = crashed(&other, crash);
                    let expected = 20 + images + usize::from(failed);
                    assert_eq!(count(&mut after), expected, "{at}, {cut}, {crash:?}");
                }
            }
            if !failed {
                break;
            }
            at += 1;
        }
        assert!(at > 20, "a checkpoint has {at} operations only");
    }
}

#[test]
fn a_checkpoint_that_waits_for_a_failing_one_writes_its_own() {
    for at in [1, 5, 10, 20] {
        let mut world = written(3, 20);
        world.disk.set_latency_turns_max(3);
        let disk = world.disk.clone();
        world.run(|engine| async move {
            settle(&disk).await;
            disk.fail_operation(disk.operations() + at, Fault::Io);
            let (first, second) = join(engine.checkpoint(SHARD), engine.checkpoint(SHARD)).await;
            assert!(first.is_err(), "operation {at}");
            assert!(second.is_ok(), "{second:?}");
            assert!(engine.changed_shards().is_empty(), "operation {at}");
        });
    }
}

#[test]
fn a_superblock_left_behind_is_rewritten_at_the_start() {
    let mut world = written(4, 20);
    world.run(|engine| async move { engine.checkpoint(SHARD).await.unwrap() });
    let first = world.disk.file_bytes(&format!("{IMAGES}/superblock.1")).unwrap();
    world.run(|engine| async move {
        put(&engine, item(20, 1)).await;
        engine.checkpoint(SHARD).await.unwrap();
    });
    // As a crash between the two leaves them: one names an image that is no more.
    for (stale, whole) in [(0, 1), (1, 0)] {
        let mut other = crashed(&world, Crash::KeepAll);
        other.disk.plant_file(&format!("{IMAGES}/superblock.{stale}"), first.clone());
        assert_eq!(count(&mut other), 21);
        other.disk.plant_file(&format!("{IMAGES}/superblock.{whole}"), vec![7; 4096]);
        assert_eq!(count(&mut other), 21, "superblock.{whole} is damaged");
    }
}

#[test]
fn nothing_is_removed_before_the_log_was_read() {
    let mut world = written(5, 40);
    world.run(|engine| async move { engine.checkpoint(SHARD).await.unwrap() });
    world.memtable_bytes = 4 << 10;
    world.run(|engine| async move {
        for n in 40..400 {
            put(&engine, item(n, 1)).await;
        }
        while engine.maintain().await.unwrap() {}
        engine.seal().await.unwrap();
    });
    let is_segment = |name: &String| name.contains("/objects-");
    let segments: Vec<String> = world.disk.files().into_iter().filter(is_segment).collect();
    assert!(segments.len() > 1, "{segments:?}");
    let log = world.disk.files().into_iter().find(|name| name.ends_with("1.wal")).unwrap();
    let bytes = world.disk.file_bytes(&log).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 4] ^= 1;
    damaged[8_300] ^= 1;
    world.disk.plant_file(&log, damaged);
    let (_, report) = block_on(world.open()).unwrap();
    assert_eq!(report.quarantined.len(), 1, "damage to the log is noticed");
    for segment in &segments {
        assert!(world.disk.file_bytes(segment).is_some(), "{segment} is gone");
    }
    world.disk.plant_file(&log, bytes);
    assert_eq!(count(&mut world), 400);
}

#[test]
fn a_sealed_log_tells_damage_at_its_end_from_a_torn_write() {
    let mut world = written(6, 30);
    world.run(|engine| async move {
        put(&engine, item(30, 1)).await;
        engine.seal().await.unwrap();
    });
    let log = world.disk.files().into_iter().rfind(|name| name.ends_with("2.wal")).unwrap();
    let mut bytes = world.disk.file_bytes(&log).unwrap();
    bytes[4_096 + 100] ^= 1;
    world.disk.plant_file(&log, bytes);
    let (_, report) = block_on(world.open()).unwrap();
    assert_eq!(report.quarantined.len(), 1, "{report:?}");
    assert_eq!(report.torn_at, None);
}

#[test]
fn an_image_without_slots_is_refused_or_repaired() {
    let mut world = World::new(7);
    world.run(|engine| async move { engine.checkpoint(SHARD).await.unwrap() });
    let path = format!("{IMAGES}/image-1");
    let bytes = world.disk.file_bytes(&path).unwrap();
    let mut rebuilt = 0;
    for offset in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        let mut other = crashed(&world, Crash::KeepAll);
        other.disk.plant_file(&path, damaged);
        match block_on(other.open()) {
            Err(EngineError::Checkpoint { .. }) => {}
            Err(error) => panic!("offset {offset}: {error}"),
            Ok((_, report)) => rebuilt += report.graphs_to_rebuild.len(),
        }
    }
    assert!(rebuilt > 0, "no damage hit an index");
}

#[test]
fn a_core_without_shards_gives_up_its_old_logs() {
    let mut world = written(8, 20);
    world.logs = vec![1, 0];
    world.run(|engine| async move {
        engine.drop_shard(SHARD).await.unwrap();
        engine.drop_shard(SHARD).await.unwrap();
    });
    assert_eq!(logs_there(&world.disk), [1]);
    world.logs = vec![2, 1];
    world.shards.clear();
    world.run(|engine| async move {
        assert!(!engine.maintain().await.unwrap());
    });
    assert_eq!(logs_there(&world.disk), [2]);
}

#[test]
fn one_failing_shard_does_not_keep_the_others_from_upkeep() {
    let mut world = World::new(9);
    world.disk.set_latency_turns_max(0);
    world.shards = vec![1, 2];
    world.memtable_bytes = 2 << 10;
    let memtable_bytes = world.memtable_bytes;
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let segments = || [1, 2].map(|shard| shard_rows(&engine, shard).segments);
        for shard in [1, 2] {
            fill_memtable(&engine, shard, memtable_bytes).await;
        }
        settle(&disk).await;
        disk.fail_operation(disk.operations() + 1, Fault::Io);
        assert!(engine.maintain().await.is_err());
        assert_eq!(segments().iter().sum::<usize>(), 1, "{:?}", segments());
        assert!(engine.maintain().await.unwrap(), "the one that failed is tried again");
        assert_eq!(segments(), [1, 1]);
    });
}

#[test]
fn nothing_is_written_for_a_shard_that_is_dropped_while_others_get_their_upkeep() {
    // It was on the list of those that wait for their turn, and got a file into the directory that
    // was just removed.
    let mut world = World::new(11);
    world.shards = vec![1, 2];
    world.memtable_bytes = 2 << 10;
    let memtable_bytes = world.memtable_bytes;
    let disk = world.disk.clone();
    world.run(|engine| async move {
        for shard in [1, 2] {
            fill_memtable(&engine, shard, memtable_bytes).await;
        }
        settle(&disk).await;
        disk.set_latency_turns_max(3);
        let (kept, dropped) = join(engine.maintain(), async {
            // The first one is being flushed by now.
            turn().await;
            engine.drop_shard(ShardId(2)).await
        })
        .await;
        assert!(dropped.is_ok(), "{dropped:?}");
        assert!(kept.unwrap(), "the shard that stays was flushed");
        assert_eq!(shard_rows(&engine, 1).segments, 1);
        let left: Vec<String> =
            disk.files().into_iter().filter(|name| name.starts_with("shards/0000000002")).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn dead_slots_are_reused_while_new_vectors_never_stop_coming() {
    let mut world = World::new(10);
    world.run(|engine| async move {
        let mut random = Random::new(10);
        let mut scratch = LinkScratch::new();
        for _ in 0..60 {
            let items = (0..300).map(|n| random_item(&mut random, id(n))).collect();
            let results = engine.put(SHARD, PutMode::Replace, items).await.unwrap();
            assert!(results.iter().all(Result::is_ok));
            // Fewer turns than it takes to link everything.
            for _ in 0..12 {
                let Some(batch) = engine.index_batch(16) else {
                    engine.sweep_step();
                    continue;
                };
                let searched = batch.search(&mut scratch);
                let mut rows = IndexedBatch::gather(vec![searched]).unwrap();
                while let LinkProgress::More(rest) = engine.link_batch(rows, 80, &mut scratch) {
                    rows = rest;
                }
            }
        }
        let published = engine.view(SHARD).unwrap().directory.published();
        assert!(published < 6_000, "{published} slots for 300 objects written 60 times");
    });
}

#[test]
fn a_start_that_cannot_read_names_the_file_and_a_later_one_finds_everything() {
    let mut world = written(8, 60);
    world.run(|engine| async move {
        engine.checkpoint(SHARD).await.unwrap();
        for n in 60..200 {
            put(&engine, item(n, 1)).await;
        }
    });
    let whole = World { disk: world.disk.crashed(Crash::KeepAll), ..world.clone() };
    let operations = {
        let mut world = crashed(&whole, Crash::KeepAll);
        let before = world.disk.operations();
        block_on(world.open()).unwrap();
        world.disk.operations() - before
    };
    let mut of_the_log = 0;
    for at in 1..=operations {
        let mut world = crashed(&whole, Crash::KeepAll);
        world.disk.fail_operation(world.disk.operations() + at, Fault::Io);
        match block_on(world.open()) {
            Ok(_) => {}
            Err(error) => {
                let device = error.device();
                assert!(device.is_some(), "operation {at}: {error:?}");
                let path = device.map(ToString::to_string).unwrap_or_default();
                assert!(error.to_string().contains(&path), "{error} does not name {path}");
                of_the_log += usize::from(path.contains(".wal"));
            }
        }
        assert_eq!(count(&mut world), 200, "after the failure of operation {at}");
    }
    assert!(of_the_log > 1, "some of them read the log");
}
