//! Who holds which bytes of disk, what a full disk still takes, and that space comes back.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::{SHARD, SimEngine, World, delete, fixture, id, link_all, put, random_item};
use heddle_core::engine::{EngineStatus, PutMode, ShardStatus, SpaceLevel};
use heddle_sim::{Random, SimDisk};
use heddle_types::{ErrorCode, ObjectId, ShardId};

/// Bytes of files that a status accounts for.
fn accounted(status: &EngineStatus) -> u64 {
    let wal = status.wal.segment_bytes + status.wal.spare_bytes;
    let shards = status.shards.iter();
    let of_shard = |shard: &heddle_core::engine::ShardStatus| {
        shard.image_bytes + shard.rows.disk_bytes + shard.rows.retired_bytes
    };
    wal + shards.map(of_shard).sum::<u64>()
}

/// Waits until nothing works on the disk: the log makes a spare segment of a released one.
async fn settle(disk: &SimDisk) {
    let mut seen = disk.operations() + 1;
    while seen != disk.operations() {
        seen = disk.operations();
        for _ in 0..100 {
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
    }
}

fn assert_accounted(engine: &SimEngine, disk: &SimDisk) {
    let status = engine.status();
    assert_eq!(accounted(&status), disk.used_bytes(), "{status:#?} {:?}", disk.files());
}

#[test]
fn the_status_accounts_for_every_byte_of_every_file() {
    const SEED: u64 = 4;
    println!("seed {SEED}");
    let mut world = World { memtable_bytes: 2 << 10, segment_bytes: 64 << 10, ..World::new(SEED) };
    let disk = world.disk.clone();
    for _ in 0..2 {
        let disk = disk.clone();
        world.run(|engine| async move {
            let mut random = Random::new(SEED);
            for round in 0..30 {
                for _ in 0..20 {
                    let object = id(random.below(60));
                    put(&engine, random_item(&mut random, object)).await;
                }
                while engine.maintain().await.unwrap() {}
                link_all(&engine, 16);
                if round % 4 == 0 {
                    engine.checkpoint(SHARD).await.unwrap();
                }
            }
            engine.checkpoint(SHARD).await.unwrap();
            settle(&disk).await;
            assert_accounted(&engine, &disk);
        });
    }
}

async fn try_put(engine: &SimEngine, object: ObjectId) -> Result<(), ErrorCode> {
    let item = random_item(&mut Random::new(1), object);
    let mut results = engine.put(SHARD, PutMode::Replace, vec![item]).await.unwrap();
    results.remove(0).map(drop).map_err(|error| error.code)
}

#[test]
fn a_disk_that_fills_up_takes_less_and_less_and_everything_again_with_space() {
    let mut world = fixture::world();
    world.run(|engine| async move {
        for object in 0..10 {
            try_put(&engine, id(object)).await.unwrap();
        }
        for level in [SpaceLevel::Saving, SpaceLevel::Plenty] {
            engine.set_space(level);
            assert_eq!(try_put(&engine, id(10)).await, Ok(()));
        }
        engine.set_space(SpaceLevel::NoInserts);
        assert_eq!(try_put(&engine, id(11)).await, Err(ErrorCode::DiskFull));
        assert_eq!(try_put(&engine, id(1)).await, Ok(()), "an object that exists is replaced");
        assert!(delete(&engine, id(1)).await);
        assert_eq!(try_put(&engine, id(1)).await, Err(ErrorCode::DiskFull), "it is new again");
        engine.set_space(SpaceLevel::DeletesOnly);
        assert_eq!(try_put(&engine, id(2)).await, Err(ErrorCode::DiskFull));
        assert!(delete(&engine, id(2)).await);
        assert_eq!(engine.count(SHARD, None).await, Ok(9));
        engine.set_space(SpaceLevel::Plenty);
        assert_eq!(try_put(&engine, id(11)).await, Ok(()));
        assert_eq!(engine.count(SHARD, None).await, Ok(10));
    });
}

#[test]
fn deletions_give_their_space_back_to_the_file_system() {
    let mut world = World { memtable_bytes: 8 << 10, ..fixture::world() };
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let mut random = Random::new(7);
        for object in 0..400 {
            put(&engine, random_item(&mut random, id(object))).await;
            engine.maintain().await.unwrap();
        }
        engine.checkpoint(SHARD).await.unwrap();
        let full = rows(&engine);
        for object in 0..390 {
            assert!(delete(&engine, id(object)).await);
        }
        // The log is long, and its image comes before rows are rewritten.
        assert_eq!(engine.checkpoint_due(), [SHARD]);
        engine.checkpoint(SHARD).await.unwrap();
        engine.set_space(SpaceLevel::Saving);
        while engine.maintain().await.unwrap() {}
        assert!(rows(&engine).retired_bytes > 0);
        assert_eq!(engine.checkpoint_due(), [SHARD], "the image is due for what it would free");
        engine.checkpoint(SHARD).await.unwrap();
        let left = rows(&engine);
        assert_eq!(left.retired_bytes, 0);
        assert!(left.disk_bytes * 4 < full.disk_bytes, "{left:?} of {full:?}");
        let on_disk = disk.files().into_iter().filter(|path| path.contains("objects-"));
        let on_disk: u64 = on_disk.map(|path| disk.file_bytes(&path).unwrap().len() as u64).sum();
        assert_eq!(on_disk, left.disk_bytes);
        assert!(engine.checkpoint_due().is_empty());
    });
}

fn rows(engine: &SimEngine) -> heddle_core::objects::ObjectStats {
    engine.status().shards[0].rows
}

#[test]
fn nothing_is_rewritten_that_would_not_fit_beside_the_log() {
    let mut world = World { memtable_bytes: 8 << 10, ..fixture::world() };
    let (disk, segment_bytes) = (world.disk.clone(), world.segment_bytes);
    world.run(|engine| async move {
        let mut random = Random::new(7);
        for object in 0..400 {
            put(&engine, random_item(&mut random, id(object))).await;
            engine.maintain().await.unwrap();
        }
        engine.checkpoint(SHARD).await.unwrap();
        // Every other one: each segment is half dead, and what lives has to be written anew.
        for object in (0..400).step_by(2) {
            assert!(delete(&engine, id(object)).await);
        }
        while engine.maintain().await.unwrap() {}
        engine.checkpoint(SHARD).await.unwrap();
        settle(&disk).await;
        let before = rows(&engine);
        disk.set_space_bytes(disk.used_bytes() + segment_bytes + (4 << 10));
        engine.set_space(SpaceLevel::Saving);
        assert!(!engine.maintain().await.unwrap());
        assert_eq!(rows(&engine).compacted_bytes, before.compacted_bytes, "there is no room");
        // Half of it is for the image that gives the space back.
        disk.set_space_bytes(disk.used_bytes() + segment_bytes + (128 << 10));
        while engine.maintain().await.unwrap() {}
        assert!(rows(&engine).compacted_bytes > before.compacted_bytes);
    });
}

#[test]
fn an_image_is_not_written_for_a_gain_that_is_small_beside_it() {
    let mut world = World { memtable_bytes: 4 << 10, ..fixture::world() };
    world.run(|engine| async move {
        let mut random = Random::new(7);
        for object in 0..1_500 {
            put(&engine, random_item(&mut random, id(object))).await;
            engine.maintain().await.unwrap();
        }
        while engine.maintain().await.unwrap() {}
        engine.checkpoint(SHARD).await.unwrap();
        let image_bytes = engine.status().shards[0].image_bytes;
        engine.set_space(SpaceLevel::Saving);
        while engine.maintain().await.unwrap() {}
        engine.checkpoint(SHARD).await.unwrap();
        let (mut was_small, mut deleted) = (false, 0);
        while engine.checkpoint_due().is_empty() {
            assert!(delete(&engine, id(deleted)).await);
            deleted += 1;
            while engine.maintain().await.unwrap() {}
            was_small |= rows(&engine).retired_bytes > 0 && engine.checkpoint_due().is_empty();
        }
        let retired_bytes = rows(&engine).retired_bytes;
        assert!(was_small, "the first segment that is given up makes no image due");
        assert!(retired_bytes * 4 > image_bytes / 2, "{retired_bytes} for {image_bytes}");
        engine.checkpoint(SHARD).await.unwrap();
        assert_eq!(rows(&engine).retired_bytes, 0);
    });
}

#[test]
fn the_parts_of_the_memory_add_up_to_what_the_budget_counts() {
    let mut world = World { memtable_bytes: 2 << 10, shards: vec![1, 2], ..World::new(4) };
    world.run(|engine| async move {
        let mut random = Random::new(4);
        for round in 0..20 {
            for shard in [1, 2] {
                let items = vec![random_item(&mut random, id(round))];
                let put = engine.put(ShardId(shard), PutMode::Replace, items).await.unwrap();
                assert!(put[0].is_ok());
            }
            if round == 10 {
                while engine.maintain().await.unwrap() {}
            }
        }
        let status = engine.status();
        assert!(status.shards.iter().all(|shard| shard.rows.table_bytes > 0), "{status:#?}");
        let parts = |shard: &ShardStatus| {
            let memory = shard.memory;
            [
                memory.vector_bytes,
                memory.link_bytes,
                memory.directory_bytes,
                memory.property_bytes,
                memory.id_bytes,
                shard.rows.memory_bytes,
                shard.rows.table_bytes,
            ]
            .into_iter()
            .sum::<u64>()
        };
        let sum: u64 = status.shards.iter().map(parts).sum();
        assert_eq!(sum, status.memory_bytes);
        let of_shards: u64 = status.shards.iter().map(ShardStatus::memory_bytes).sum();
        assert_eq!(sum, of_shards);
    });
}

#[test]
fn the_tables_of_segments_count_against_the_memory_budget() {
    let mut world = World { memtable_bytes: 1 << 10, ..World::new(4) };
    world.run(|engine| async move {
        let mut random = Random::new(4);
        for object in 0..40 {
            put(&engine, random_item(&mut random, id(object))).await;
            engine.maintain().await.unwrap();
        }
        engine.checkpoint(SHARD).await.unwrap();
    });
    let status = world.run(|engine| async move { engine.status() });
    let table_bytes = status.shards[0].rows.table_bytes;
    assert!(table_bytes > 0);
    // Room for everything but the tables.
    world.memory_bytes_max = status.memory_bytes - table_bytes;
    world.run(|engine| async move {
        let item = random_item(&mut Random::new(9), id(100));
        let refused = engine.put(SHARD, PutMode::Replace, vec![item]).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::MemoryFull);
    });
    world.memory_bytes_max = status.memory_bytes;
    world.run(|engine| async move { assert_eq!(try_put(&engine, id(100)).await, Ok(())) });
}

#[test]
fn a_compaction_that_makes_way_for_an_image_counts_against_the_rate() {
    const BYTES_PER_S: u64 = 1 << 10;
    let mut world =
        World { memtable_bytes: 32 << 10, compaction_bytes_per_s: BYTES_PER_S, ..fixture::world() };
    let clock = world.clock.clone();
    world.run(|engine| async move {
        let mut random = Random::new(7);
        for object in 0..400 {
            put(&engine, random_item(&mut random, id(object))).await;
            engine.maintain().await.unwrap();
        }
        engine.checkpoint(SHARD).await.unwrap();
        for object in (0..400).step_by(4).flat_map(|first| first..first + 3) {
            assert!(delete(&engine, id(object)).await);
        }
        engine.checkpoint(SHARD).await.unwrap();
        clock.advance_us(1_000_000_000);
        let compacted = || rows(&engine).compacted_bytes;
        let before = compacted();
        // It asks for the space, then it begins to read.
        let mut upkeep = std::pin::pin!(engine.maintain());
        for _ in 0..2 {
            assert!(futures::FutureExt::now_or_never(&mut upkeep).is_none());
        }
        // Meanwhile the log has become long.
        let mut object = 1_000;
        while engine.status().shards[0].log_bytes < 64 << 10 {
            put(&engine, random_item(&mut random, id(object))).await;
            object += 1;
        }
        assert!(!upkeep.await.unwrap(), "it has made way");
        assert_eq!(compacted(), before);
        engine.checkpoint(SHARD).await.unwrap();
        // There is as much to rewrite as before, and it waits for its turn.
        while engine.maintain().await.unwrap() {}
        assert_eq!(compacted(), before);
        clock.advance_us(1_000_000_000);
        while engine.maintain().await.unwrap() {}
        assert!(compacted() > before);
    });
}
