//! Nodes that are killed soon after each start: what their logs and starts grow to.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::*;
use heddle_core::engine::{PutItem, PutMode};
use heddle_sim::{Crash, Fault};
use heddle_types::{Filter, Operator, ShardId};

/// Log bytes of the worlds here that make an image due.
const CHECKPOINT_LOG_BYTES: u64 = 64 << 10;

fn item(n: u64, note_bytes: usize) -> PutItem {
    let properties = properties([("note", text(&"n".repeat(note_bytes)))]);
    PutItem { id: id(n), properties: row(&properties), vectors: vec![body_vector([1.0; 6])] }
}

fn with_text(value: &str) -> Filter {
    let (property, operator) = ("text".to_owned(), Operator::Equal);
    Filter::Compare { property, operator, value: text(value) }
}

/// Upkeep as a node does it, until the power goes or nothing is left to do.
async fn keep_up_until_dark(engine: &SimEngine) {
    loop {
        let Ok(is_busy) = engine.maintain().await else { return };
        let due = engine.checkpoint_due();
        if !is_busy && due.is_empty() {
            return;
        }
        for shard in due {
            if engine.checkpoint(shard).await.is_err() {
                return;
            }
        }
    }
}

#[test]
fn a_node_that_is_killed_again_and_again_has_a_bounded_log() {
    const LIVES: u64 = 40;
    const SHARDS: u64 = 6;
    const ROWS: u64 = 12;
    const OPERATIONS: u64 = 100;
    let shards = (1..=SHARDS).collect();
    let mut world = World { memtable_bytes: 1 << 10, shards, ..World::new(3) };
    let mut replayed_most = 0;
    for life in 0..LIVES {
        let disk = world.disk.clone();
        let replayed = world.run(|engine| async move {
            let replayed = engine.status().shards.iter().map(|shard| shard.records_replayed).sum();
            // The same few objects: most rows are dead, so that there is always much to rewrite.
            for n in 0..ROWS {
                for shard in 1..=SHARDS {
                    let items = vec![item((life * ROWS + n) % 30, 300)];
                    let put = engine.put(ShardId(shard), PutMode::Replace, items).await;
                    assert!(put.unwrap()[0].is_ok());
                }
            }
            disk.fail_operation(disk.operations() + OPERATIONS, Fault::PowerCut);
            keep_up_until_dark(&engine).await;
            replayed
        });
        replayed_most = replayed_most.max(replayed);
        world.disk = world.disk.crashed(Crash::KeepAll);
    }
    let records = CHECKPOINT_LOG_BYTES / 300;
    assert!(replayed_most <= records, "{replayed_most} records were replayed at a start");
}

#[test]
fn a_log_of_many_updates_is_replayed_into_few_slots_and_old_values_are_gone() {
    const ROWS: u64 = 40;
    const UPDATES: u64 = 400;
    // No image: the log alone tells what there is.
    let mut world = World { memtable_bytes: 64 << 10, ..World::new(5) };
    world.run(|engine| async move {
        for update in 0..UPDATES {
            let of_row = |n| {
                let tag = text(&format!("update {update}"));
                let properties = row(&properties([("text", tag)]));
                PutItem { id: id(n), properties, vectors: vec![body_vector([update as f32; 6])] }
            };
            let items = (0..ROWS).map(of_row).collect();
            for put in engine.put(SHARD, PutMode::Replace, items).await.unwrap() {
                assert!(put.is_ok());
            }
        }
    });
    world.disk = world.disk.crashed(Crash::KeepAll);
    world.run(|engine| async move {
        let status = engine.status().shards.remove(0);
        assert_eq!(status.records_replayed, ROWS * UPDATES);
        // At most so many wait to be reused at once.
        assert!(status.dead_slots < 4_096 + 2 * 1_024, "{} dead slots", status.dead_slots);
        // Written from now on: what is freed is used again, so an image is as small.
        engine.checkpoint(SHARD).await.unwrap();
        let image_bytes = engine.status().shards[0].image_bytes;
        assert!(image_bytes < 4 << 20, "an image of {image_bytes} bytes");
        let last = UPDATES - 1;
        for update in [0, 100, last - 1, last] {
            let filter = with_text(&format!("update {update}"));
            let expected = if update == last { ROWS } else { 0 };
            assert_eq!(engine.count(SHARD, Some(&filter)).await.unwrap(), expected, "{update}");
        }
        // Slots are used by others from now on, and nothing of theirs shows.
        link_all(&engine, 16);
        sweep_all(&engine);
        for n in 0..ROWS {
            let put = PutItem { vectors: vec![body_vector([-1.0; 6])], ..item(1_000 + n, 3) };
            assert!(engine.put(SHARD, PutMode::Replace, vec![put]).await.unwrap()[0].is_ok());
        }
        let filter = with_text(&format!("update {last}"));
        assert_eq!(engine.count(SHARD, Some(&filter)).await.unwrap(), ROWS);
        assert_eq!(dump(&engine, SHARD).await.len() as u64, 2 * ROWS);
    });
}
