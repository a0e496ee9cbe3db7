//! When writes are acknowledged, and what is left of them when the node ends.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use std::pin::pin;

use common::*;
use futures::future::{Either, join_all, select};
use heddle_core::engine::{Durability, PutItem, PutMode, Want};
use heddle_sim::Crash;

fn item(n: u64, bytes: usize) -> PutItem {
    let properties = properties([("note", text(&"n".repeat(bytes)))]);
    PutItem { id: id(n), properties: row(&properties), vectors: vec![body_vector([1.0; 6])] }
}

async fn put_with(engine: &SimEngine, durability: Durability, n: u64) -> bool {
    let items = vec![item(n, 10)];
    let results = engine.put_with(SHARD, PutMode::Replace, durability, items).await.unwrap();
    results.into_iter().next().unwrap().unwrap().created
}

fn lags(engine: &SimEngine) -> bool {
    let wal = engine.status().wal;
    wal.durable_lsn.0 + 1 < wal.next_lsn.0
}

#[test]
fn a_batched_write_is_answered_before_its_sync_and_a_plain_one_after() {
    let mut world = World::new(1);
    world.run(|engine| async move {
        assert!(put_with(&engine, Durability::Sync, 1).await);
        assert!(!lags(&engine));
        assert!(put_with(&engine, Durability::Batched, 2).await);
        assert!(lags(&engine), "the answer came before the sync");
        let found = engine.get(SHARD, &[id(2)], Want::NOTHING).await.unwrap();
        assert_eq!(found, [None], "nothing is visible before it is durable");
        // What an answer says of the object before holds for the writes that are on their way.
        assert!(!put_with(&engine, Durability::Batched, 2).await);
        let deleted = engine.delete_with(SHARD, Durability::Batched, vec![id(2)]).await.unwrap();
        assert_eq!(deleted, [Ok(true)]);
        let deleted = engine.delete_with(SHARD, Durability::Batched, vec![id(2)]).await.unwrap();
        assert_eq!(deleted, [Ok(false)]);
        assert!(put_with(&engine, Durability::Batched, 2).await);
        // A plain write behind them takes them along.
        assert!(put_with(&engine, Durability::Sync, 3).await);
        assert!(!lags(&engine));
        assert_eq!(dump(&engine, SHARD).await.len(), 3);
    });
}

#[test]
fn a_crash_loses_batched_writes_from_the_end_and_no_plain_one() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        let disk = world.disk.clone();
        let image = world.run(|engine| async move {
            for n in 0..10 {
                put_with(&engine, Durability::Batched, n).await;
            }
            put_with(&engine, Durability::Sync, 10).await;
            for n in 11..20 {
                put_with(&engine, Durability::Batched, n).await;
            }
            disk.crashed(Crash::Random(seed))
        });
        world.disk = image;
        let found = world.run(|engine| async move { dump(&engine, SHARD).await });
        let ids: Vec<_> = found.iter().map(|object| object.id).collect();
        assert!(ids.len() >= 11, "a write before an acknowledged one is lost");
        let prefix: Vec<_> = (0..ids.len() as u64).map(id).collect();
        assert_eq!(ids, prefix, "what is left is a prefix");
    }
}

#[test]
fn writers_that_do_not_wait_for_the_disk_are_bounded_in_bytes() {
    let mut world = World::new(1);
    world.backlog_bytes_max = 64 << 10;
    world.segment_bytes = 1 << 20;
    world.disk.set_latency_turns_max(40);
    world.run(|engine| async move {
        let mut most = 0;
        let writers = (0..400).map(|n| {
            let items = vec![item(n, 1_000)];
            engine.put_with(SHARD, PutMode::Replace, Durability::Batched, items)
        });
        let mut writers = pin!(join_all(writers));
        loop {
            let step = std::future::ready(());
            match select(writers.as_mut(), pin!(yielded(step))).await {
                Either::Left((results, _)) => {
                    assert!(results.iter().all(|result| result.as_ref().unwrap()[0].is_ok()));
                    break;
                }
                Either::Right(_) => most = most.max(engine.status().writes_in_flight),
            }
        }
        // 64 KiB hold about 58 records of these.
        assert!((30..=70).contains(&most), "{most} writes waited at once");
        put_with(&engine, Durability::Sync, 1_000).await;
        assert_eq!(dump(&engine, SHARD).await.len(), 401);
        assert_eq!(engine.status().writes_in_flight, 0);
    });
}

/// Lets every other task run once before `work`.
async fn yielded<T>(work: impl Future<Output = T>) -> T {
    let mut turned = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut turned, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
    work.await
}
