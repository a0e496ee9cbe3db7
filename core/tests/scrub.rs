//! Damage at rest is found and named, wherever it is; what is sound is never suspected.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::{SHARD, SimEngine, World, fixture, id, link_all, put, random_item};
use heddle_core::engine::{FINDINGS_MAX, ScrubStats, ScrubStep};
use heddle_sim::{Crash, Random, SimDisk};
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceFile, OpenMode};

/// One pass over everything.
async fn pass(engine: &SimEngine) -> ScrubStats {
    while engine.scrub_step().await != ScrubStep::PassEnded {}
    engine.scrub_stats()
}

/// Changes bytes of a file under whoever has it open.
async fn change(disk: &SimDisk, path: &str, offset: usize, change: impl FnOnce(&mut [u8])) {
    let file = disk.open(path, OpenMode::Write).await.unwrap();
    let page = offset - offset % PAGE_SIZE_BYTES;
    let mut bytes = file.read_at(page as u64, PAGE_SIZE_BYTES).await.unwrap().to_vec();
    change(&mut bytes[offset - page..]);
    file.write_at(page as u64, AlignedBuf::from_slice(&bytes)).await.unwrap();
    file.sync().await.unwrap();
}

/// A world with segments, an image and a log behind it.
fn lived() -> World {
    let mut world = fixture::world();
    world.disk.set_latency_turns_max(0);
    world.run(|engine| async move { fixture::live(&engine).await });
    world
}

/// The same world on a disk of its own.
fn copy(world: &World) -> World {
    World { disk: world.disk.crashed(Crash::KeepAll), ..world.clone() }
}

/// Files of which every byte that is not zero is under a checksum: not those of logs without a
/// batch, nor what is kept of released ones.
fn covered_files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let files = disk.files().into_iter().map(|path| {
        let bytes = disk.file_bytes(&path).unwrap();
        (path, bytes)
    });
    let is_covered = |path: &str, bytes: &[u8]| {
        let has_batch = || bytes[PAGE_SIZE_BYTES..].iter().any(|byte| *byte != 0);
        !path.ends_with(".tmp") && (!path.starts_with("logs/") || has_batch())
    };
    files.filter(|(path, bytes)| is_covered(path, bytes)).collect()
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_named() {
    const SEED: u64 = 5;
    println!("seed {SEED}");
    let mut random = Random::new(SEED);
    let world = lived();
    let files = covered_files(&world.disk);
    for kind in ["objects-", "image-", "ledger-", "superblock.0", "superblock.1", ".wal"] {
        assert!(files.iter().any(|(path, _)| path.contains(kind)), "no {kind} in {files:?}");
    }
    for (path, bytes) in &files {
        let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for _ in 0..8 {
            let at = places[random.below(places.len() as u64) as usize];
            let mut world = copy(&world);
            let disk = world.disk.clone();
            let stats = world.run(|engine| async move {
                change(&disk, path, at, |bytes| bytes[0] ^= 1 << (at % 8)).await;
                pass(&engine).await
            });
            let found: Vec<_> = stats.findings.iter().filter(|it| it.file == *path).collect();
            assert_eq!(found.len(), 1, "{path} at {at}: {stats:?}");
            assert!(found[0].offset <= at as u64, "{path} at {at}: {found:?}");
            assert_eq!(stats.damaged, stats.findings.len() as u64);
        }
    }
}

#[test]
fn a_write_that_went_to_another_place_is_found() {
    let world = lived();
    let files = covered_files(&world.disk);
    let of = |kind: &str| files.iter().find(|(path, _)| path.contains(kind)).unwrap();
    // The first page of data of each file lands one page further, or in another file.
    for (source, target) in [("objects-", "objects-"), ("image-", "image-"), ("objects-", "image-")]
    {
        let page = of(source).1[PAGE_SIZE_BYTES..2 * PAGE_SIZE_BYTES].to_vec();
        let path = of(target).0.clone();
        let at = if source == target { 2 * PAGE_SIZE_BYTES } else { PAGE_SIZE_BYTES };
        let mut world = copy(&world);
        let disk = world.disk.clone();
        let stats = world.run(|engine| {
            let path = path.clone();
            async move {
                change(&disk, &path, at, |bytes| bytes.copy_from_slice(&page)).await;
                pass(&engine).await
            }
        });
        assert_eq!(stats.findings.len(), 1, "{source} over {target}: {stats:?}");
        assert_eq!(stats.findings[0].file, path);
    }
}

#[test]
fn what_is_sound_is_never_suspected_while_files_come_and_go() {
    const SEED: u64 = 9;
    println!("seed {SEED}");
    let mut world = World { memtable_bytes: 2 << 10, segment_bytes: 64 << 10, ..World::new(SEED) };
    world.run(|engine| async move {
        let mut random = Random::new(SEED);
        for round in 0..60 {
            let writes = async {
                for _ in 0..20 {
                    let object = id(random.below(80));
                    put(&engine, random_item(&mut random, object)).await;
                }
                while engine.maintain().await.unwrap() {}
                link_all(&engine, 16);
                if round % 3 == 0 {
                    engine.checkpoint(SHARD).await.unwrap();
                }
            };
            let reads = async {
                for _ in 0..10 {
                    engine.scrub_step().await;
                }
            };
            futures::join!(writes, reads);
        }
        let stats = pass(&engine).await;
        assert_eq!((stats.damaged, stats.findings.len()), (0, 0), "{stats:?}");
        assert!(stats.passes > 3 && stats.bytes > 1 << 20, "{stats:?}");
    });
}

#[test]
fn damage_is_counted_once_and_a_step_reads_little() {
    let world = lived();
    let mut world = copy(&world);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let files = covered_files(&disk);
        let (path, _) = files.iter().find(|(path, _)| path.contains("objects-")).unwrap();
        change(&disk, path, PAGE_SIZE_BYTES, |bytes| bytes[0] ^= 1).await;
        for _ in 0..3 {
            while let ScrubStep::Read(bytes) = engine.scrub_step().await {
                assert!(bytes < 1 << 20, "{bytes} bytes in one step");
            }
        }
        let stats = engine.scrub_stats();
        assert_eq!((stats.passes, stats.damaged), (3, 1), "{stats:?}");
    });
}

#[test]
fn more_places_than_are_shown_are_counted_once_as_well() {
    // Those beyond the ones that are shown were counted anew by every pass.
    let mut world = World { memtable_bytes: 64, ..World::new(4) };
    world.disk.set_latency_turns_max(0);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let mut random = Random::new(4);
        for row in 0..100 {
            put(&engine, random_item(&mut random, id(row))).await;
            while engine.maintain().await.unwrap() {}
        }
        let files = covered_files(&disk);
        let segments: Vec<_> = files.iter().filter(|(path, _)| path.contains("objects-")).collect();
        assert!(segments.len() > FINDINGS_MAX + 10, "{} segments", segments.len());
        for (path, _) in &segments {
            change(&disk, path, PAGE_SIZE_BYTES, |bytes| bytes[0] ^= 1).await;
        }
        for _ in 0..3 {
            let stats = pass(&engine).await;
            assert_eq!(stats.damaged, segments.len() as u64);
            assert_eq!(stats.findings.len(), FINDINGS_MAX);
        }
    });
}

#[test]
fn damaged_parts_of_an_image_take_their_time_like_sound_ones() {
    let world = lived();
    let read = |damage: bool| {
        let mut world = copy(&world);
        let disk = world.disk.clone();
        world.run(|engine| async move {
            let files = covered_files(&disk);
            let (path, _) = files.iter().find(|(path, _)| path.contains("/image-")).unwrap();
            if damage {
                change(&disk, path, PAGE_SIZE_BYTES + 20, |bytes| bytes[0] ^= 1).await;
            }
            let stats = pass(&engine).await;
            assert_eq!(stats.damaged, u64::from(damage));
            stats.bytes
        })
    };
    assert_eq!(read(true), read(false));
}

#[test]
fn a_superblock_of_an_earlier_image_is_a_write_that_was_lost() {
    for place in 0..2 {
        let mut world = lived();
        let disk = world.disk.clone();
        world.run(|engine| async move {
            let path = format!("shards/0000000001/superblock.{place}");
            let old = disk.file_bytes(&path).unwrap();
            put(&engine, random_item(&mut Random::new(1), id(7))).await;
            engine.checkpoint(SHARD).await.unwrap();
            assert_eq!(pass(&engine).await.damaged, 0);
            change(&disk, &path, 0, |bytes| bytes.copy_from_slice(&old)).await;
            let stats = pass(&engine).await;
            assert_eq!(stats.damaged, 1, "{stats:?}");
            let finding = &stats.findings[0];
            assert_eq!((&finding.file, finding.what.as_str()), (&path, "generation"));
            assert_eq!(finding.expected, finding.found + 1);
        });
    }
}
