//! Bytes that an earlier version wrote stay readable.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use std::collections::BTreeSet;

use common::{SHARD, check_model, fixture, link_all, sweep_all};
use heddle_core::engine::{ScrubStep, SpaceLevel};

/// Rows in segments of version 2, slot facts of image format 2, with a log behind them.
const FORMAT_2: &[u8] = include_bytes!("fixtures/format-2.bin");
/// Rows compressed in segments of version 3, slot facts of image format 3, with a log behind them.
const FORMAT_3: &[u8] = include_bytes!("fixtures/format-3.bin");

/// Versions of the object segments on a disk.
fn segment_versions(world: &common::World) -> BTreeSet<u32> {
    let paths = world.disk.files().into_iter().filter(|path| path.contains("objects-"));
    let version = |path: String| {
        let bytes = world.disk.file_bytes(&path).unwrap();
        u32::from_le_bytes(*bytes[8..].first_chunk().unwrap())
    };
    paths.map(version).collect()
}

fn is_read_written_to_and_read_again(fixture: &[u8], version: u32) {
    let model = fixture::model();
    let mut world = fixture::world();
    fixture::unpack(&world.disk, fixture);
    assert_eq!(segment_versions(&world), BTreeSet::from([version]), "it is what it says");
    world.boot = 1;
    for _ in 0..2 {
        world.run(|engine| {
            let model = model.clone();
            async move {
                check_model(&engine, &model).await;
                while engine.scrub_step().await != ScrubStep::PassEnded {}
                assert_eq!(engine.scrub_stats().findings, []);
                link_all(&engine, 16);
                sweep_all(&engine);
                engine.checkpoint(SHARD).await.unwrap();
                // Everything is rewritten sooner or later.
                engine.set_space(SpaceLevel::Saving);
                while engine.maintain().await.unwrap() {}
                check_model(&engine, &model).await;
            }
        });
    }
}

#[test]
fn a_data_directory_of_format_2_is_read_written_to_and_read_again() {
    is_read_written_to_and_read_again(FORMAT_2, 2);
}

#[test]
fn a_data_directory_of_format_3_is_read_written_to_and_read_again() {
    is_read_written_to_and_read_again(FORMAT_3, 3);
}
