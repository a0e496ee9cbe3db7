//! A log that lost durable records: the shards concerned are not served, the others are.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::*;
use heddle_core::engine::{OnDataLoss, PutItem, PutMode};
use heddle_types::{ErrorCode, ShardId, Value};

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
