//! Writers that come faster than linking and sweeping can follow.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use common::{SHARD, SimEngine, World, id, link_all, random_vector, sweep_all};
use futures::future::{FutureExt, join};
use heddle_core::engine::{IndexedBatch, LinkProgress, PutItem, PutMode, ShardStatus};
use heddle_index::LinkScratch;
use heddle_sim::{Random, SimClock};
use heddle_types::Clock;
use heddle_types::limits::BURDEN_MAX;

/// Vectors of a batch to be linked.
const BATCH: usize = 64;

fn world() -> World {
    World { paces_writers: true, segment_bytes: 4 << 20, memtable_bytes: 4 << 20, ..World::new(3) }
}

fn status(engine: &SimEngine) -> ShardStatus {
    engine.status().shards.remove(0)
}

/// Puts rows with one vector each.
async fn put_rows(engine: &SimEngine, rows: std::ops::Range<u64>) {
    let mut random = Random::new(rows.start);
    let rows: Vec<u64> = rows.collect();
    for rows in rows.chunks(4_096) {
        let item = |row: &u64| {
            let vectors = vec![random_vector(&mut random, 0)];
            PutItem { id: id(*row), properties: Vec::new(), vectors }
        };
        let items: Vec<PutItem> = rows.iter().map(item).collect();
        let results = engine.put(SHARD, PutMode::Replace, items).await.unwrap();
        assert!(results.iter().all(Result::is_ok));
    }
}

/// Links one batch, which takes so long.
fn link_one(engine: &SimEngine, clock: &SimClock, takes_us: u64) -> bool {
    let mut scratch = LinkScratch::new();
    let Some(batch) = engine.index_batch(BATCH) else { return false };
    let mut rows = IndexedBatch::gather(vec![batch.search(&mut scratch)]).unwrap();
    clock.advance_us(takes_us);
    loop {
        match engine.link_batch(rows, usize::MAX, &mut scratch) {
            LinkProgress::Done => return true,
            LinkProgress::More(rest) => rows = rest,
            LinkProgress::Paused(_) => return false,
        }
    }
}

/// Lets everything else come as far as it gets.
async fn settle() {
    for _ in 0..500 {
        let mut turned = false;
        poll_fn(|context| {
            if std::mem::replace(&mut turned, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// Lets writers come until they wait.
async fn come_to_rest(engine: &SimEngine) {
    let count = || engine.status().applied_lsn + engine.status().writes_in_flight;
    let mut seen = None;
    while seen.replace(count()) != Some(count()) {
        for _ in 0..10 {
            settle().await;
        }
    }
}

#[test]
fn writers_wait_at_the_bound_and_go_on_as_rows_are_linked() {
    let mut world = world();
    let clock = world.clock.clone();
    world.run(|engine| async move {
        put_rows(&engine, 0..300).await;
        link_all(&engine, BATCH);
        let writer = put_rows(&engine, 300..30_000);
        let linker = async {
            come_to_rest(&engine).await;
            let full = status(&engine);
            assert_eq!(full.burden_percent / 100, BURDEN_MAX, "{} wait", full.tail);
            assert!(full.tail < 29_000, "{} rows were taken at once", full.tail);
            assert!(link_one(&engine, &clock, 0));
            let linked = full.tail - status(&engine).tail;
            assert!(linked > 0);
            come_to_rest(&engine).await;
            // As many as were linked came, so that the tail is as long as before.
            assert_eq!(status(&engine).objects, full.objects + linked);
            assert_eq!(status(&engine).tail, full.tail);
            while status(&engine).objects < 30_000 {
                link_all(&engine, BATCH);
                settle().await;
            }
        };
        join(writer, linker).await;
    });
}

/// Works to the end, and lets rows go on when their time has come.
async fn driven(engine: &SimEngine, clock: &SimClock, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    while (&mut work).now_or_never().is_none() {
        settle().await;
        if let Some(wait_ns) = engine.held_writers().now_or_never() {
            clock.advance_us(wait_ns.div_ceil(1_000));
            engine.release_writers();
        }
    }
}

#[test]
fn beyond_the_quiet_length_rows_wait_for_their_time() {
    let mut world = world();
    let clock = world.clock.clone();
    world.run(|engine| async move {
        put_rows(&engine, 0..2_000).await;
        // 100 us a row.
        while link_one(&engine, &clock, 100 * BATCH as u64) {}
        let mut writer = pin!(put_rows(&engine, 2_000..8_000));
        while engine.held_writers().now_or_never().is_none() {
            assert!((&mut writer).now_or_never().is_none(), "nothing held it back");
            settle().await;
        }
        let held = status(&engine);
        assert!((101..200).contains(&held.burden_percent), "{held:?}");
        let wait_ns = engine.held_writers().await;
        assert!((1..1_000_000).contains(&wait_ns), "{wait_ns}");
        // Nothing else lets it go on.
        for _ in 0..10 {
            assert!((&mut writer).now_or_never().is_none());
            settle().await;
        }
        assert_eq!(status(&engine).objects, held.objects);
        let begun_ns = clock.monotonic_ns();
        driven(&engine, &clock, writer).await;
        assert_eq!(status(&engine).objects, 8_000);
        // Without linking the last rows come at less than half of its pace.
        let passed_ns = clock.monotonic_ns() - begun_ns;
        assert!((200_000_000..800_000_000).contains(&passed_ns), "{passed_ns}");
        assert!(engine.status().writers_held_ns >= passed_ns / 2);
    });
}

#[test]
fn dead_slots_slow_writers_down_until_a_sweep_has_freed_them() {
    let mut world = world();
    let clock = world.clock.clone();
    world.run(|engine| async move {
        for first in [0, 2_000, 4_000] {
            put_rows(&engine, first..first + 2_000).await;
            while link_one(&engine, &clock, 100 * BATCH as u64) {}
        }
        for first in (0..3_000).step_by(1_000) {
            let ids = (first..first + 1_000).map(id).collect();
            engine.delete(SHARD, ids).await.unwrap();
        }
        let burdened = status(&engine);
        let mut writer = pin!(put_rows(&engine, 6_000..7_000));
        while engine.held_writers().now_or_never().is_none() {
            assert!((&mut writer).now_or_never().is_none(), "nothing held it back: {burdened:?}");
            settle().await;
        }
        sweep_all(&engine);
        assert!(status(&engine).burden_percent <= 100);
        writer.await;
    });
}

#[test]
fn writers_at_the_bound_hear_that_their_shard_is_gone() {
    let mut world = world();
    world.run(|engine| async move {
        put_rows(&engine, 0..300).await;
        link_all(&engine, BATCH);
        put_rows(&engine, 300..17_000).await;
        let mut random = Random::new(1);
        let item = |row| {
            let vectors = vec![random_vector(&mut random, 0)];
            PutItem { id: id(row), properties: Vec::new(), vectors }
        };
        let items = (17_000..19_000).map(item).collect();
        let dropping = async {
            come_to_rest(&engine).await;
            assert_eq!(status(&engine).burden_percent / 100, BURDEN_MAX);
            engine.drop_shard(SHARD).await.unwrap();
        };
        let (written, ()) = join(engine.put(SHARD, PutMode::Replace, items), dropping).await;
        let written = written.unwrap();
        assert!(written.first().is_some_and(Result::is_ok));
        assert!(written.last().is_some_and(Result::is_err));
    });
}
