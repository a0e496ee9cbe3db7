//! Tests of the object store on a disk that loses, tears and fails.

use std::collections::BTreeMap;

use futures::executor::block_on;
use heddle_sim::{Crash, Fault, Random, SimDisk};
use heddle_types::{Device, Hlc, NodeId, ObjectId, ShardId, Stamp};

use super::header::SegmentHeader;
use super::*;
use crate::engine::ItemVector;

const DIRECTORY: &str = "shards/0000000007";
const SHARD: ShardId = ShardId(7);
const CONFIG: ObjectConfig = ObjectConfig { memtable_bytes: 64 << 10 };

/// The row of a slot follows from it; some reach over several chunks and pages.
fn row(slot: u32) -> ObjectRow {
    let mut random = Random::new(slot.into());
    let length = match slot % 50 {
        0 => 300_000,
        1 => 0,
        _ => random.below(2_000),
    };
    ObjectRow {
        slot,
        id: ObjectId::from_row(slot.into()),
        created_us: i64::from(slot) - 5,
        stamp: Stamp { hlc: Hlc(random.next_u64()), boot: 1, core: 2, node: NodeId::default() },
        row: random.bytes(usize::try_from(length).unwrap()),
    }
}

/// The vectors of a slot follow from it as well; some have none, some are longer than a chunk.
fn vectors(slot: u32) -> Vec<ItemVector> {
    let mut random = Random::new(u64::from(slot) << 32);
    let indexes: &[u8] = match slot % 4 {
        0 => &[],
        1 => &[0],
        2 => &[15],
        _ => &[0, 3, 15],
    };
    let vector = |index: &u8| {
        let dims = if slot % 40 == 1 { 65_535 } else { 1 + random.below(100) };
        let values = (0..dims).map(|_| f32::from_bits(random.next_u64() as u32)).collect();
        ItemVector { index: *index, values }
    };
    indexes.iter().map(vector).collect()
}

fn put(store: &mut ObjectStore<SimDisk>, slot: u32) -> Location {
    let ObjectRow { id, created_us, stamp, row, .. } = row(slot);
    let vectors = vectors(slot);
    // In any order.
    let vectors: Vec<NewVector<'_>> = vectors.iter().rev().map(ItemVector::as_new).collect();
    let stamp = &stamp;
    store.put(&NewObject { slot, id: &id, created_us, stamp, row: &row, vectors: &vectors })
}

fn bits(vectors: &[ItemVector]) -> Vec<(u8, Vec<u32>)> {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    vectors.iter().map(|vector| (vector.index, bits(&vector.values))).collect()
}

/// The vectors are those of the slot, bit for bit.
fn assert_vectors(slot: u32, found: Option<&ObjectVectors>) {
    let expected = vectors(slot);
    assert_eq!(found.is_some(), !expected.is_empty(), "slot {slot}");
    if let Some(found) = found {
        let ObjectRow { id, stamp, .. } = row(slot);
        assert_eq!((found.slot, found.id, found.hlc), (slot, id, stamp.hlc));
        assert!(bits(&found.vectors) == bits(&expected), "slot {slot}");
    }
}

async fn new_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir(DIRECTORY).await.unwrap();
    disk.sync_dir("shards").await.unwrap();
    disk.sync_dir("").await.unwrap();
    disk
}

async fn open(disk: &SimDisk, referenced: &[u32]) -> ObjectStore<SimDisk> {
    ObjectStore::open(disk.clone(), DIRECTORY, SHARD, CONFIG, referenced).await.unwrap().0
}

async fn flush(store: &mut ObjectStore<SimDisk>) -> Result<(), ObjectError> {
    while let Some(job) = store.begin_flush() {
        let outcome = job.run().await;
        store.finish_flush(outcome)?;
    }
    Ok(())
}

async fn assert_rows(store: &ObjectStore<SimDisk>, places: &BTreeMap<u32, Location>) {
    for (slot, location) in places {
        assert_eq!(store.read(*location).await.as_ref(), Ok(&row(*slot)), "slot {slot}");
        let alone = store.read_parts(*location, Parts::Vectors).await.unwrap();
        assert_eq!(alone.row, None);
        assert_vectors(*slot, alone.vectors.as_ref());
        let whole = store.read_parts(*location, Parts::Both).await.unwrap();
        assert_eq!(whole.row.as_ref(), Some(&row(*slot)), "slot {slot}");
        assert_eq!(whole.vectors.is_some(), alone.vectors.is_some());
        assert_vectors(*slot, whole.vectors.as_ref());
    }
}

#[test]
fn a_location_outlives_the_flush_and_a_restart() {
    block_on(async {
        let disk = new_disk().await;
        let mut store = open(&disk, &[]).await;
        let places: BTreeMap<u32, Location> =
            (0..120).map(|slot| (slot, put(&mut store, slot))).collect();
        assert!(store.needs_flush());
        assert_rows(&store, &places).await;
        let watermark = store.watermark();
        assert!(!store.is_sealed(watermark));
        let job = store.begin_flush().unwrap();
        assert!(store.begin_flush().is_none(), "one flush at a time");
        let late = put(&mut store, 120);
        assert_rows(&store, &places).await;
        store.finish_flush(job.run().await).unwrap();
        assert!(store.is_sealed(watermark));
        assert_rows(&store, &places).await;
        assert_eq!(store.read(late).await, Ok(row(120)));
        let disk = disk.crashed(Crash::LoseUnsynced);
        let mut store = open(&disk, &store.sealed_segments()).await;
        assert_rows(&store, &places).await;
        let gone = store.read(late).await;
        assert_eq!(gone, Err(ObjectError::NotThere { location: late }));
        assert!(store.adopt(late).is_err());
        places.values().for_each(|place| store.adopt(*place).unwrap());
        assert_eq!(store.stats().dead_bytes, 0);
    });
}

#[test]
fn a_compaction_moves_the_living_and_keeps_the_old_place_until_the_checkpoint() {
    block_on(async {
        let disk = new_disk().await;
        let mut store = open(&disk, &[]).await;
        let mut places: BTreeMap<u32, Location> =
            (0..120).map(|slot| (slot, put(&mut store, slot))).collect();
        flush(&mut store).await.unwrap();
        assert!(store.begin_compaction(SpacePressure::None, u64::MAX).is_none());
        let before = places.clone();
        for slot in (0..120).filter(|slot| slot % 3 != 1) {
            store.forget(places.remove(&slot).unwrap());
        }
        let job = store.begin_compaction(SpacePressure::None, u64::MAX).unwrap();
        assert!(
            store.begin_compaction(SpacePressure::None, u64::MAX).is_none(),
            "one compaction at a time"
        );
        let alive = places.clone();
        let compacted =
            job.run(&|slot, location| alive.get(&slot) == Some(&location), &|| true).await;
        // One of them dies while it is moved.
        store.forget(places.remove(&4).unwrap());
        for moved in store.finish_compaction(compacted).unwrap() {
            if places.get(&moved.slot) == Some(&moved.from) {
                places.insert(moved.slot, moved.to);
            } else {
                store.forget(moved.to);
            }
        }
        assert_rows(&store, &places).await;
        assert_rows(&store, &before).await;
        let stats = store.stats();
        assert_eq!((stats.segments, stats.retired), (1, 1));
        assert!(stats.dead_bytes > 0 && stats.dead_bytes < 3_000, "{stats:?}");
        assert!(store.begin_removal().is_none(), "the last image may refer to it");
        store.begin_checkpoint();
        let removed = store.begin_removal().unwrap().run().await;
        store.finish_removal(removed).unwrap();
        assert_eq!(disk.files().len(), 1);
        let referenced = store.sealed_segments();
        assert_rows(&open(&disk.crashed(Crash::LoseUnsynced), &referenced).await, &places).await;
    });
}

#[test]
fn a_dead_segment_is_dropped_and_small_ones_are_merged() {
    block_on(async {
        let disk = new_disk().await;
        let mut store = open(&disk, &[]).await;
        let mut places = BTreeMap::new();
        // Of one size, as memtables that a checkpoint flushes early are.
        let alike = |slot: &u32| (400..1_400).contains(&row(*slot).row.len());
        for slot in (2..).step_by(4).filter(alike).take(10) {
            places.insert(slot, put(&mut store, slot));
            flush(&mut store).await.unwrap();
        }
        let compacted = store
            .begin_compaction(SpacePressure::None, u64::MAX)
            .unwrap()
            .run(&|_, _| true, &|| true)
            .await;
        for moved in store.finish_compaction(compacted).unwrap() {
            places.insert(moved.slot, moved.to);
        }
        assert_eq!(store.stats().segments, 1);
        assert_rows(&store, &places).await;
        places.values().for_each(|place| store.forget(*place));
        let compacted = store
            .begin_compaction(SpacePressure::None, u64::MAX)
            .unwrap()
            .run(&|_, _| false, &|| true)
            .await;
        assert!(store.finish_compaction(compacted).unwrap().is_empty());
        assert_eq!((store.stats().segments, store.stats().disk_bytes), (0, 0));
    });
}

#[test]
fn a_failed_flush_keeps_the_rows_and_can_be_tried_again() {
    block_on(async {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
            let mut at = 1;
            loop {
                let disk = new_disk().await;
                disk.set_latency_turns_max(0);
                let mut store = open(&disk, &[]).await;
                let places: BTreeMap<u32, Location> =
                    (2..30).map(|slot| (slot, put(&mut store, slot))).collect();
                disk.fail_operation(disk.operations() + at, fault);
                let failed = flush(&mut store).await.is_err();
                if !failed {
                    break;
                }
                assert_rows(&store, &places).await;
                flush(&mut store).await.unwrap();
                assert_rows(&store, &places).await;
                let disk = disk.crashed(Crash::LoseUnsynced);
                assert_rows(&open(&disk, &store.sealed_segments()).await, &places).await;
                at += 1;
            }
            assert!(at > 6, "a flush has {at} operations only");
        }
    });
}

#[test]
fn a_crash_at_any_change_of_a_flush_leaves_the_older_segments_and_a_start() {
    block_on(async {
        for at in 1..12 {
            let disk = new_disk().await;
            disk.set_latency_turns_max(0);
            let mut store = open(&disk, &[]).await;
            let places: BTreeMap<u32, Location> =
                (2..20).map(|slot| (slot, put(&mut store, slot))).collect();
            flush(&mut store).await.unwrap();
            let referenced = store.sealed_segments();
            for slot in 20..40 {
                put(&mut store, slot);
            }
            disk.fail_change(disk.changes() + at, Fault::PowerCut);
            drop(flush(&mut store).await);
            for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::Random(at)]
            {
                let crashed = disk.crashed(crash);
                let mut store = open(&crashed, &referenced).await;
                assert_rows(&store, &places).await;
                let whole = |name: &String| !name.ends_with(".tmp");
                assert!(crashed.files().iter().all(whole), "{:?}", crashed.files());
                for slot in 20..40 {
                    put(&mut store, slot);
                }
                flush(&mut store).await.unwrap();
                assert_eq!(store.stats().segments, 2);
            }
        }
    });
}

#[test]
fn damage_is_named_and_missing_segments_are_noticed() {
    block_on(async {
        let disk = new_disk().await;
        let mut store = open(&disk, &[]).await;
        let places: BTreeMap<u32, Location> =
            (2..20).map(|slot| (slot, put(&mut store, slot))).collect();
        flush(&mut store).await.unwrap();
        let path = disk.files().pop().unwrap();
        let bytes = disk.file_bytes(&path).unwrap();
        let (table, _) = SegmentHeader::decode(&bytes).unwrap().table().unwrap();
        let (mut rows, mut all_vectors) = (0, 0);
        for offset in (0..bytes.len()).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 0x10;
            disk.plant_file(&path, damaged);
            let opened = ObjectStore::open(disk.clone(), DIRECTORY, SHARD, CONFIG, &[1]).await;
            let Ok((store, _)) = opened else {
                assert!(offset < 4096 || offset as u64 >= table, "{offset} of {table}");
                continue;
            };
            for (slot, location) in &places {
                match store.read(*location).await {
                    Ok(found) => assert_eq!(found, row(*slot)),
                    Err(ObjectError::Corrupt { file, .. }) => {
                        assert_eq!(file, path);
                        rows += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
                match store.read_parts(*location, Parts::Vectors).await {
                    Ok(found) => assert_vectors(*slot, found.vectors.as_ref()),
                    Err(ObjectError::Corrupt { file, offset: at, what, .. }) => {
                        assert_eq!((file, what), (path.clone(), "checksum of the vectors"));
                        assert!(at <= offset as u64 && at % 64 == 0, "{at} of {offset}");
                        all_vectors += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(rows > 100 && all_vectors > 100, "{rows} rows, {all_vectors} vectors");
        for length in (0..bytes.len()).step_by(100) {
            disk.plant_file(&path, bytes[..length].to_vec());
            assert!(ObjectStore::open(disk.clone(), DIRECTORY, SHARD, CONFIG, &[1]).await.is_err());
        }
        assert!(ObjectStore::open(disk.clone(), DIRECTORY, SHARD, CONFIG, &[1, 2]).await.is_err());
    });
}

#[test]
fn unfinished_files_are_removed_and_segments_and_strangers_left() {
    block_on(async {
        let disk = new_disk().await;
        let names = [
            "objects-0000000009",
            "objects-3.tmp",
            "objects-x",
            "notes",
            "image-3",
            "superblock.0",
        ];
        for name in names {
            disk.plant_file(&format!("{DIRECTORY}/{name}"), b"bytes".to_vec());
        }
        let opened = ObjectStore::open(disk.clone(), DIRECTORY, SHARD, CONFIG, &[]).await;
        let (store, report) = opened.unwrap();
        assert_eq!(report.removed, ["objects-3.tmp"]);
        assert_eq!(report.unreferenced, ["objects-0000000009"]);
        assert_eq!(report.foreign, ["notes", "objects-x"]);
        assert_eq!(disk.files().len(), 5);
        assert_eq!(store.watermark(), 10, "numbers are not used twice");
    });
}

#[test]
fn rows_are_compressed_on_disk_and_the_table_says_where() {
    block_on(async {
        let disk = new_disk().await;
        let mut store = open(&disk, &[]).await;
        let mut put = |slot: u32, row: &[u8]| {
            let id = ObjectId::from_row(slot.into());
            let stamp = &Stamp::default();
            store.put(&NewObject { slot, id: &id, created_us: 0, stamp, row, vectors: &[] })
        };
        let text =
            |slot: u32| format!("the passage of number {slot} is much like others ").repeat(9);
        let places: Vec<Location> = (0..200).map(|slot| put(slot, text(slot).as_bytes())).collect();
        flush(&mut store).await.unwrap();
        let stats = store.stats();
        assert!(stats.disk_bytes * 2 < stats.data_bytes, "{stats:?}");
        let files: u64 =
            disk.files().iter().map(|path| disk.file_bytes(path).unwrap().len() as u64).sum();
        assert_eq!(stats.disk_bytes, files, "the header says how long the file is");
        assert!(stats.table_bytes > 0);
        for (slot, place) in (0..).zip(places) {
            assert_eq!(store.read(place).await.unwrap().row, text(slot).as_bytes());
        }
    });
}

#[test]
fn what_compactions_copy_is_bounded_by_what_died_and_by_tiers() {
    const SEED: u64 = 11;
    println!("seed {SEED}");
    block_on(async {
        let disk = new_disk().await;
        disk.set_latency_turns_max(0);
        let mut store = open(&disk, &[]).await;
        let mut random = Random::new(SEED);
        let mut places: BTreeMap<u32, Location> = BTreeMap::new();
        let mut died = 0;
        for round in 0..400 {
            for _ in 0..random.below(40) {
                // None of the few rows and vectors that are larger than a memtable.
                let slot = 2 + 100 * u32::try_from(random.below(100)).unwrap();
                if let Some(old) = places.insert(slot, put(&mut store, slot)) {
                    died += Memtable::space_of(old);
                    store.forget(old);
                }
            }
            // A checkpoint flushes whatever is there, so segments of all sizes come up.
            flush(&mut store).await.unwrap();
            store.begin_checkpoint();
            while let Some(job) = store.begin_compaction(SpacePressure::None, u64::MAX) {
                let compacted =
                    job.run(&|slot, location| places.get(&slot) == Some(&location), &|| true).await;
                for moved in store.finish_compaction(compacted).unwrap() {
                    places.insert(moved.slot, moved.to);
                }
            }
            if let Some(job) = store.begin_removal() {
                let removed = job.run().await;
                store.finish_removal(removed).unwrap();
            }
            let stats = store.stats();
            let living = stats.data_bytes - stats.dead_bytes;
            assert!(stats.data_bytes <= 2 * living, "round {round}: {stats:?}");
        }
        let stats = store.stats();
        // A row is copied once for each byte that died, and once in each of three tiers.
        assert!(stats.compacted_bytes <= died + 3 * stats.flushed_bytes, "{stats:?}, {died} died");
        assert!(stats.compacted_bytes > stats.flushed_bytes / 8, "{stats:?}");
        assert!(stats.segments < 3 * 8 + 8, "{stats:?}");
        assert_rows(&store, &places).await;
    });
}

#[test]
fn under_pressure_an_eighth_that_is_dead_is_enough() {
    block_on(async {
        let disk = new_disk().await;
        let mut store = open(&disk, &[]).await;
        let places: BTreeMap<u32, Location> =
            (2..50).step_by(4).map(|slot| (slot, put(&mut store, slot))).collect();
        flush(&mut store).await.unwrap();
        let mut dying = places.values();
        while store.stats().dead_bytes * 6 < store.stats().data_bytes {
            store.forget(*dying.next().unwrap());
        }
        let stats = store.stats();
        assert!(stats.dead_bytes * 8 > stats.data_bytes && stats.dead_bytes * 2 < stats.data_bytes);
        assert!(store.begin_compaction(SpacePressure::None, u64::MAX).is_none());
        assert!(store.begin_compaction(SpacePressure::High, u64::MAX).is_some());
    });
}
