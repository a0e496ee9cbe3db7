//! A log that lost durable records: the shards concerned are not served, the others are.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::backup::{FOLDER, new_folder, restored};
use common::*;
use futures::executor::block_on;
use heddle_core::engine::{EngineError, OnDataLoss, PutItem, PutMode, ShardState};
use heddle_types::{Device, ErrorCode, ShardId, Value};

const PAGE: usize = 4096;
/// Bytes of a batch header and of a record header.
const HEAD: usize = 64;

fn item(n: u64) -> PutItem {
    let properties = properties([("year", Value::Int(i64::try_from(n).unwrap()))]);
    PutItem { id: id(n), properties: row(&properties), vectors: vec![body_vector([1.0; 6])] }
}

async fn put_in(engine: &SimEngine, shard: u64, n: u64) {
    let results = engine.put(ShardId(shard), PutMode::Replace, vec![item(n)]).await.unwrap();
    assert!(results[0].is_ok(), "{results:?}");
}

/// Three shards with ten objects each, every one in a batch of its own: object `n` of shard `s` is
/// in page `3 n + s` of the first segment of the log.
fn written() -> World {
    let mut world = World::new(1);
    world.segment_bytes = 256 << 10;
    world.shards = vec![1, 2, 3];
    world.run(|engine| async move {
        for n in 0..10 {
            for shard in 1..=3 {
                put_in(&engine, shard, n).await;
            }
        }
    });
    world
}

fn page_of(n: usize, shard: usize) -> usize {
    (3 * n + shard) * PAGE
}

const LOG: &str = "logs/0000/0000000001.wal";

fn damage(world: &World, offset: usize) {
    let mut bytes = world.disk.file_bytes(LOG).unwrap();
    bytes[offset] ^= 1;
    world.disk.plant_file(LOG, bytes);
}

async fn count(engine: &SimEngine, shard: u64) -> Result<u64, ErrorCode> {
    engine.count(ShardId(shard), None).await.map_err(|error| error.code)
}

async fn counts(engine: &SimEngine) -> [Result<u64, ErrorCode>; 3] {
    [count(engine, 1).await, count(engine, 2).await, count(engine, 3).await]
}

#[test]
fn a_damaged_record_quarantines_its_shard_and_no_other() {
    let mut world = written();
    damage(&world, page_of(4, 2) + 2 * HEAD + 20);
    world.run(|engine| async move {
        assert_eq!(counts(&engine).await, [Ok(10), Err(ErrorCode::Corrupt), Ok(10)]);
        let refused = engine.put(ShardId(2), PutMode::Replace, vec![item(1)]).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Corrupt);
        let place = format!("{LOG}: corrupt at offset {}", page_of(4, 2));
        assert!(refused.message.contains(&place), "{refused}");
        assert!(engine.view(ShardId(2)).is_none());
        assert_eq!(engine.status().quarantined.len(), 1);
        assert!(engine.get(ShardId(2), &[id(1)], Default::default()).await.is_err());
        assert!(engine.delete(ShardId(2), vec![id(1)]).await.is_err());
        // The others go on, and their records go into the same log.
        put_in(&engine, 1, 100).await;
        assert!(engine.delete(ShardId(3), vec![id(0)]).await.unwrap()[0].clone().unwrap());
    });
    for _ in 0..2 {
        world.run(|engine| async move {
            assert_eq!(counts(&engine).await, [Ok(11), Err(ErrorCode::Corrupt), Ok(9)]);
        });
    }
}

#[test]
fn a_record_of_nobody_quarantines_every_shard_without_an_image_of_it() {
    let mut world = written();
    world.run(|engine| async move {
        engine.checkpoint(ShardId(3)).await.unwrap();
        put_in(&engine, 3, 100).await;
    });
    // The record's header: nobody can tell whose it was, but shard 3 has an image behind it.
    damage(&world, page_of(4, 2) + HEAD + 3);
    world.run(|engine| async move {
        let corrupt = Err(ErrorCode::Corrupt);
        assert_eq!(counts(&engine).await, [corrupt, corrupt, Ok(11)]);
    });
}

#[test]
fn damage_that_images_cover_concerns_nobody() {
    let mut world = written();
    world.run(|engine| async move {
        for shard in 1..=3 {
            engine.checkpoint(ShardId(shard)).await.unwrap();
        }
        put_in(&engine, 2, 100).await;
    });
    damage(&world, page_of(4, 2) + HEAD + 3);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        assert_eq!(counts(&engine).await, [Ok(10), Ok(11), Ok(10)]);
        engine.checkpoint(ShardId(2)).await.unwrap();
        assert!(!disk.files().iter().any(|name| name == LOG), "{:?}", disk.files());
    });
}

#[test]
fn accepting_the_loss_serves_what_is_left_and_ends_with_the_next_image() {
    let mut world = written();
    damage(&world, page_of(4, 2) + 2 * HEAD + 20);
    world.on_data_loss = OnDataLoss::Accept;
    let mut told = 0;
    world.run(|engine| async move {
        assert_eq!(counts(&engine).await, [Ok(10), Ok(9), Ok(10)]);
        let found = engine.get(ShardId(2), &[id(4), id(5)], Default::default()).await.unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
        assert_eq!(engine.checkpoint_due(), [ShardId(2)], "the loss is written down");
    });
    // Without an image the flag is needed again.
    world.on_data_loss = OnDataLoss::Quarantine;
    world.run(|engine| async move { assert!(count(&engine, 2).await.is_err()) });
    world.on_data_loss = OnDataLoss::Accept;
    world.run(|engine| async move { engine.checkpoint(ShardId(2)).await.unwrap() });
    world.on_data_loss = OnDataLoss::Quarantine;
    let (engine, report) = futures::executor::block_on(world.open()).unwrap();
    told += report.damage.len();
    assert_eq!(told, 1, "the damage is still there and told");
    assert_eq!(report.quarantined, []);
    assert_eq!(futures::executor::block_on(counts(&engine)), [Ok(10), Ok(9), Ok(10)]);
}

#[test]
fn the_log_stays_while_a_shard_is_quarantined_and_goes_with_it() {
    let mut world = written();
    damage(&world, page_of(4, 2) + 2 * HEAD + 20);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let has_log = || disk.files().iter().any(|name| name == LOG);
        put_in(&engine, 1, 100).await;
        for shard in [1, 3] {
            engine.checkpoint(ShardId(shard)).await.unwrap();
        }
        assert!(has_log(), "the quarantined shard needs it");
        assert!(engine.has_shard(ShardId(2)));
        engine.drop_shard(ShardId(2)).await.unwrap();
        assert!(!engine.has_shard(ShardId(2)));
        assert!(!has_log(), "{:?}", disk.files());
        assert!(!disk.files().iter().any(|name| name.starts_with("shards/0000000002")));
        assert_eq!(count(&engine, 2).await, Err(ErrorCode::Unavailable));
    });
    world.shards = vec![1, 3];
    world.run(|engine| async move { assert_eq!(count(&engine, 1).await, Ok(11)) });
}

#[test]
fn a_shortened_log_quarantines_what_has_no_image_and_positions_go_on() {
    let mut world = written();
    world.run(|engine| async move {
        engine.checkpoint(ShardId(1)).await.unwrap();
        engine.seal().await.unwrap();
    });
    let log = world.disk.files().into_iter().rfind(|name| name.ends_with(".wal")).unwrap();
    let mut bytes = world.disk.file_bytes(&log).unwrap();
    bytes.truncate(PAGE + 10);
    world.disk.plant_file(&log, bytes);
    world.run(|engine| async move {
        let corrupt = Err(ErrorCode::Corrupt);
        // Nobody knows how many records it held: none is sure to have all of its own.
        assert_eq!(counts(&engine).await, [corrupt, corrupt, corrupt]);
    });
    world.on_data_loss = OnDataLoss::Accept;
    world.run(|engine| async move {
        assert_eq!(counts(&engine).await, [Ok(10), Ok(10), Ok(10)]);
        for shard in 1..=3 {
            put_in(&engine, shard, 50).await;
            engine.checkpoint(ShardId(shard)).await.unwrap();
        }
    });
    world.on_data_loss = OnDataLoss::Quarantine;
    world.run(|engine| async move {
        assert_eq!(counts(&engine).await, [Ok(11), Ok(11), Ok(11)]);
    });
}

/// A shard without image and ledger, one whose image is damaged and whose log lost a record that
/// was written behind it, and one that is sound.
fn damaged_in_both_ways() -> World {
    let mut world = written();
    world.run(|engine| async move {
        engine.checkpoint(ShardId(1)).await.unwrap();
        engine.checkpoint(ShardId(2)).await.unwrap();
        put_in(&engine, 2, 100).await;
        put_in(&engine, 3, 100).await;
    });
    let first_of = |shard: u64, kind: &str| {
        let prefix = format!("shards/{shard:010}/{kind}-");
        world.disk.files().into_iter().find(|name| name.starts_with(&prefix)).unwrap()
    };
    block_on(world.disk.remove(&first_of(1, "image"))).unwrap();
    for path in [first_of(1, "ledger"), first_of(2, "image")] {
        let mut bytes = world.disk.file_bytes(&path).unwrap();
        bytes[PAGE + 3] ^= 1;
        world.disk.plant_file(&path, bytes);
    }
    // The record behind the image of the second shard; that of the third vouches for it.
    let has_batch = |path: &String| {
        let bytes = world.disk.file_bytes(path).unwrap_or_default();
        path.ends_with(".wal") && bytes.iter().skip(PAGE).any(|byte| *byte != 0)
    };
    let log = world.disk.files().into_iter().rfind(has_batch).unwrap();
    assert_ne!(log, LOG, "each start writes to a segment of its own");
    let mut bytes = world.disk.file_bytes(&log).unwrap();
    bytes[PAGE + 2 * HEAD + 20] ^= 1;
    world.disk.plant_file(&log, bytes);
    world
}

#[test]
fn shards_lost_by_their_image_and_by_their_log_are_told_apart_and_others_serve() {
    let mut world = damaged_in_both_ways();
    for _ in 0..2 {
        let (engine, report) = block_on(world.open()).unwrap();
        let named = |shards: &[(ShardId, String)]| shards.iter().map(|(id, _)| id.0).collect();
        let quarantined: Vec<u64> = named(&report.quarantined);
        assert_eq!(quarantined, [2], "{report:?}");
        assert_eq!(report.shards_lost.len(), 1, "{report:?}");
        assert_eq!(report.shards_to_rebuild, [], "what log and rows make of it lacks a record");
        drop(engine);
    }
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let corrupt = Err(ErrorCode::Corrupt);
        assert_eq!(counts(&engine).await, [corrupt, corrupt, Ok(11)]);
        assert_eq!(engine.rebuild_next().await, None);
        let lost = engine.count(ShardId(1), None).await.unwrap_err();
        assert!(lost.message.contains("shard 1 is damaged"), "{lost}");
        let quarantined = engine.count(ShardId(2), None).await.unwrap_err();
        assert!(quarantined.message.contains("shard 2 is quarantined"), "{quarantined}");
        let refused = engine.back_up("backups/one", &[ShardId(2)]).await;
        assert!(matches!(refused, Err(EngineError::Unserved { shard: ShardId(2), .. })));
        let status = engine.status();
        assert!(matches!(status.shards[0].state, ShardState::Lost { .. }), "{status:?}");
        assert_eq!(status.quarantined.len(), 1);
        // Both keep the log, and do not make images of the third one due for it.
        put_in(&engine, 3, 101).await;
        engine.checkpoint(ShardId(3)).await.unwrap();
        assert_eq!(engine.checkpoint_due(), []);
        let has_log = || disk.files().iter().any(|name| name == LOG);
        for shard in [1, 2] {
            assert!(has_log() && engine.has_shard(ShardId(shard)));
            engine.drop_shard(ShardId(shard)).await.unwrap();
            assert!(!engine.has_shard(ShardId(shard)));
        }
        assert!(!has_log(), "{:?}", disk.files());
        assert_eq!(engine.unserved(), None);
    });
}

#[test]
fn a_shard_whose_image_and_log_are_damaged_is_built_without_the_record_if_that_is_accepted() {
    let mut world = damaged_in_both_ways();
    world.on_data_loss = OnDataLoss::Accept;
    world.run(|engine| async move {
        assert_eq!(counts(&engine).await[1], Err(ErrorCode::Unavailable));
        assert_eq!(engine.rebuild_next().await, Some((ShardId(2), Ok(()))));
        assert_eq!(counts(&engine).await, [Err(ErrorCode::Corrupt), Ok(10), Ok(11)]);
        assert_eq!(engine.checkpoint_due(), [ShardId(2)], "the loss is written down");
        engine.checkpoint(ShardId(2)).await.unwrap();
    });
    world.on_data_loss = OnDataLoss::Quarantine;
    world.run(|engine| async move {
        assert_eq!(counts(&engine).await, [Err(ErrorCode::Corrupt), Ok(10), Ok(11)]);
    });
}

/// The end of a damaged segment was taken to be its last good record. When the image of the shard
/// reached past that one, nobody seemed to need the file; it was given up, and the next start found
/// no gap and served the shard without the records between its image and the next segment.
#[test]
fn a_segment_damaged_to_its_end_is_kept_for_the_shard_that_lost_what_was_in_it() {
    let mut world = World::new(1);
    world.segment_bytes = 256 << 10;
    world.shards = vec![1, 2, 3];
    world.run(|engine| async move {
        for n in 0..10 {
            for shard in 1..=3 {
                put_in(&engine, shard, n).await;
            }
        }
        engine.checkpoint(ShardId(2)).await.unwrap();
        for n in 100..160 {
            put_in(&engine, 2, n).await;
        }
        put_in(&engine, 1, 100).await;
        for shard in [1, 3] {
            engine.checkpoint(ShardId(shard)).await.unwrap();
        }
    });
    // The image of shard 2 holds the first thirty records; from the twenty-sixth on nothing can be
    // read, up to the end of the segment. The next segment is whole.
    let mut bytes = world.disk.file_bytes(LOG).unwrap();
    bytes[25 * PAGE..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    world.disk.plant_file(LOG, bytes);
    for _ in 0..3 {
        world.run(|engine| async move {
            assert_eq!(counts(&engine).await, [Ok(11), Err(ErrorCode::Corrupt), Ok(10)]);
            while engine.maintain().await.unwrap() {}
            put_in(&engine, 3, 1).await;
            engine.checkpoint(ShardId(3)).await.unwrap();
        });
    }
}

#[test]
fn starts_leave_the_files_of_a_quarantined_shard_as_they_are() {
    // Rows of the log were flushed while it was read, beside what the start before had flushed: a
    // copy of them for each start.
    let mut world = written();
    damage(&world, page_of(4, 2) + 2 * HEAD + 20);
    world.memtable_bytes = 512;
    let of_shard = |world: &World| -> Vec<String> {
        let files = world.disk.files().into_iter();
        files.filter(|name| name.starts_with("shards/0000000002/")).collect()
    };
    let before = of_shard(&world);
    for _ in 0..3 {
        let (_, report) = block_on(world.open()).unwrap();
        assert_eq!(report.quarantined.len(), 1);
        assert_eq!(of_shard(&world), before);
        assert!(world.disk.files().iter().any(|name| name.starts_with("shards/0000000001/obj")));
    }
}

#[test]
fn shards_beside_a_quarantined_one_are_backed_up_without_it() {
    // The log is damaged where the shards that serve have nothing any more, and it is kept there.
    let mut world = written();
    let disk = world.disk.clone();
    damage(&world, page_of(4, 2) + 2 * HEAD + 20);
    let parts = world.run(|engine| async move {
        let all = [1, 2, 3].map(ShardId);
        let refused = engine.not_backed_up(&all);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0].0, ShardId(2));
        assert!(refused[0].1.contains("0000000001.wal"), "{refused:?}");
        let mut parts = Vec::new();
        // With images that are made for it, with those of before, and with writes behind them.
        for n in 0..3 {
            disk.remove_tree("backups").await.unwrap();
            new_folder(&disk).await;
            if n == 2 {
                put_in(&engine, 3, 50).await;
                engine.checkpoint(ShardId(1)).await.unwrap();
            }
            let part = engine.back_up(FOLDER, &[1, 3].map(ShardId)).await.unwrap();
            parts.push((part, disk.crashed(heddle_sim::Crash::KeepAll)));
        }
        parts
    });
    for (n, (part, disk)) in parts.into_iter().enumerate() {
        let world = World { disk, shards: vec![1, 3], ..world.clone() };
        let mut copy = restored(&world, &part.files);
        for round in 0..3 {
            copy.run(|engine| async move {
                assert_eq!(count(&engine, 1).await, Ok(10 + round));
                assert_eq!(count(&engine, 3).await, Ok(10 + u64::from(n == 2)));
                put_in(&engine, 1, 200 + round).await;
            });
        }
    }
}

#[test]
fn a_backup_after_an_accepted_loss_holds_what_is_left() {
    // The image covers positions of the log that nothing in the log shows any more.
    for is_whole_log in [false, true] {
        let mut world = written();
        let disk = world.disk.clone();
        if is_whole_log {
            for shard in 1..=3 {
                world.run(|engine| async move {
                    engine.checkpoint(ShardId(shard)).await.unwrap();
                    put_in(&engine, shard, 99).await;
                });
            }
            for path in disk.files().iter().filter(|path| path.ends_with(".wal")) {
                let mut bytes = disk.file_bytes(path).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
                disk.plant_file(path, bytes);
            }
        } else {
            damage(&world, page_of(4, 2) + 2 * HEAD + 20);
        }
        world.on_data_loss = OnDataLoss::Accept;
        let left = world.run(|engine| async move {
            for shard in engine.checkpoint_due() {
                engine.checkpoint(shard).await.unwrap();
            }
            counts(&engine).await
        });
        assert!(left.iter().all(|count| matches!(count, Ok(9..=11))), "{left:?}");
        world.on_data_loss = OnDataLoss::Quarantine;
        let files = world.run(|engine| async move {
            new_folder(&disk).await;
            engine.back_up(FOLDER, &[1, 2, 3].map(ShardId)).await.unwrap().files
        });
        assert!(files.iter().any(|file| file.name.starts_with("logs/")), "{files:?}");
        let mut copy = restored(&world, &files);
        copy.run(|engine| async move {
            assert_eq!(counts(&engine).await, left);
            put_in(&engine, 1, 500).await;
        });
        copy.run(|engine| async move {
            assert_eq!(count(&engine, 1).await, left[0].map(|count| count + 1));
            assert_eq!(counts(&engine).await[1..], left[1..]);
        });
    }
}
