//! A small store over the real log, object segments and checkpoints, crashed at random.
//!
//! Each seed lives several lives on one disk: puts, deletes, flushes, compactions and checkpoints
//! until the power goes, then a start that must find exactly the operations up to some position at
//! or after the last acknowledged one. `HEDDLE_SIM_SEED` runs one seed, `HEDDLE_SIM_SEEDS` many.

#[path = "crash/points.rs"]
mod points;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;

use futures::executor::block_on;
use futures::future::{Either, select};
use heddle_core::checkpoint::{ImageReader, ImageWriter, SectionId, remove_other_images};
use heddle_core::objects::{Location, NewObject, ObjectConfig, ObjectStore, SpacePressure};
use heddle_core::wal::{RecordKind, Wal, WalConfig, WalError};
use heddle_sim::{Crash, Fault, Random, SimDisk};
use heddle_types::{Device, DeviceError, Lsn, ObjectId, ShardId, Stamp};

const SHARD: ShardId = ShardId(1);
const SHARD_DIRECTORY: &str = "shards/0000000001";
const LOG_DIRECTORY: &str = "logs/0000";
const LOG: WalConfig = WalConfig { segment_bytes: 16 << 10, backlog_bytes_max: 64 << 10 };
const OBJECTS: ObjectConfig = ObjectConfig { memtable_bytes: 8 << 10 };
const ENTRIES: SectionId = SectionId(1);
const KEYS: u64 = 40;
const SEEDS: u64 = 300;

/// `None` deletes the key.
type Operation = (u32, Option<Vec<u8>>);

/// What was done, as the outside saw it.
#[derive(Clone, Default)]
struct History {
    /// The operation at each position, from 1.
    operations: Vec<Operation>,
    acknowledged: u64,
}

impl History {
    fn state_after(&self, position: u64) -> BTreeMap<u32, Vec<u8>> {
        let mut state = BTreeMap::new();
        for (key, value) in &self.operations
            [..usize::try_from(position).expect("the simulation keeps its own sizes")]
        {
            match value {
                Some(value) => state.insert(*key, value.clone()),
                None => state.remove(key),
            };
        }
        state
    }
}

/// What the faults of a simulated disk say, and the log that one of them ended.
const FAULTS: [&str; 5] = [
    "simulated fault",
    "no space left on device",
    "the disk is full",
    "bytes at offset",
    "given up",
];

/// Ends a life: a simulated fault passes, anything else is a finding.
fn pass(error: &(impl std::error::Error + 'static)) {
    let text = error.to_string();
    assert!(FAULTS.iter().any(|fault| text.contains(fault)), "{text}");
}

macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => {
                pass(&error);
                return None;
            }
        }
    };
}

struct Store {
    disk: SimDisk,
    wal: Wal<SimDisk>,
    objects: ObjectStore<SimDisk>,
    places: BTreeMap<u32, Location>,
    generation: u64,
    applied: Lsn,
}

impl Store {
    async fn open(disk: &SimDisk) -> Option<Self> {
        attempt!(disk.create_dir(SHARD_DIRECTORY).await);
        attempt!(disk.sync_dir("shards").await);
        attempt!(disk.sync_dir("").await);
        let image = attempt!(ImageReader::open(disk, SHARD_DIRECTORY, SHARD).await);
        let generation = image.as_ref().map_or(0, ImageReader::generation);
        let covers = image.as_ref().map_or(Lsn(0), ImageReader::covers);
        attempt!(remove_other_images(disk, SHARD_DIRECTORY, generation).await);
        let mut entries = Vec::new();
        let mut referenced = Vec::new();
        if let Some(image) = image {
            entries = attempt!(image.read_all(ENTRIES).await);
            let numbers = image.meta().chunks_exact(4);
            referenced = numbers
                .map(|n| {
                    u32::from_le_bytes(n.try_into().expect("the simulation keeps its own sizes"))
                })
                .collect();
        }
        let opened =
            ObjectStore::open(disk.clone(), SHARD_DIRECTORY, SHARD, OBJECTS, &referenced).await;
        let (objects, _) = attempt!(opened);
        let mut replayed = Vec::new();
        let mut sink = |record: heddle_core::wal::Record<'_>| {
            let (key, value) = record
                .payload
                .split_first_chunk::<4>()
                .expect("the simulation keeps its own sizes");
            let value = (record.kind == RecordKind::Put).then(|| value.to_vec());
            replayed.push((record.lsn, (u32::from_le_bytes(*key), value)));
            Ok(())
        };
        let recovered = Wal::recover(disk.clone(), LOG_DIRECTORY, LOG, &mut sink).await;
        let (wal, report) = attempt!(recovered);
        report.check_covers(covers).expect("the simulation keeps its own sizes");
        let places = BTreeMap::new();
        let disk = disk.clone();
        let mut store = Self { disk, wal, objects, places, generation, applied: covers };
        for entry in entries.chunks_exact(4 + Location::ENCODED_BYTES) {
            let (key, place) =
                entry.split_first_chunk::<4>().expect("the simulation keeps its own sizes");
            let place =
                Location::decode(place.try_into().expect("the simulation keeps its own sizes"));
            store.objects.adopt(place).expect("the simulation keeps its own sizes");
            store.places.insert(u32::from_le_bytes(*key), place);
        }
        replayed.retain(|(lsn, _)| *lsn > covers);
        replayed.into_iter().for_each(|(lsn, operation)| store.apply(lsn, &operation));
        Some(store)
    }

    fn apply(&mut self, lsn: Lsn, (key, value): &Operation) {
        assert_eq!(lsn.0, self.applied.0 + 1, "operations are applied in order");
        self.applied = lsn;
        let place = value.as_ref().map(|row| {
            let (id, stamp) = (ObjectId::from_row(u64::from(*key)), Stamp::default());
            self.objects.put(&NewObject {
                slot: *key,
                id: &id,
                created_us: 0,
                stamp: &stamp,
                row,
                vectors: &[],
            })
        });
        let old = match place {
            Some(place) => self.places.insert(*key, place),
            None => self.places.remove(key),
        };
        if let Some(old) = old {
            self.objects.forget(old);
        }
    }

    async fn check(&self, history: &RefCell<History>) -> Option<()> {
        let expected = {
            let mut history = history.borrow_mut();
            assert!(self.applied.0 >= history.acknowledged, "an acknowledged write is lost");
            history.operations.truncate(
                usize::try_from(self.applied.0).expect("the simulation keeps its own sizes"),
            );
            history.acknowledged = self.applied.0;
            history.state_after(self.applied.0)
        };
        assert!(self.places.keys().eq(expected.keys()), "keys differ");
        for (key, place) in &self.places {
            let found = attempt!(self.objects.read(*place).await);
            assert_eq!((found.slot, Some(&found.row)), (*key, expected.get(key)));
        }
        Some(())
    }

    async fn write(
        &mut self,
        operations: Vec<Operation>,
        history: &RefCell<History>,
    ) -> Option<()> {
        for operation in operations {
            let (key, value) = &operation;
            let kind = if value.is_some() { RecordKind::Put } else { RecordKind::Delete };
            let payload = [&key.to_le_bytes()[..], value.as_deref().unwrap_or_default()];
            let lsn = loop {
                self.wal.room().await;
                match self.wal.append(SHARD, kind, &Stamp::default(), &payload) {
                    Err(WalError::Backlog { .. }) => {}
                    appended => break attempt!(appended),
                }
            };
            history.borrow_mut().operations.push(operation.clone());
            assert_eq!(history.borrow().operations.len() as u64, lsn.0);
            attempt!(self.wal.durable(lsn).await);
            history.borrow_mut().acknowledged = lsn.0;
            self.apply(lsn, &operation);
        }
        Some(())
    }

    async fn compact(&mut self) -> Option<()> {
        let Some(job) = self.objects.begin_compaction(SpacePressure::None, u64::MAX) else {
            return Some(());
        };
        let places = self.places.clone();
        let outcome = job.run(&|key, place| places.get(&key) == Some(&place), &|| true).await;
        for moved in attempt!(self.objects.finish_compaction(outcome)) {
            assert_eq!(self.places.insert(moved.slot, moved.to), Some(moved.from));
        }
        Some(())
    }

    async fn checkpoint(&mut self) -> Option<()> {
        while let Some(job) = self.objects.begin_flush() {
            let outcome = job.run().await;
            attempt!(self.objects.finish_flush(outcome));
        }
        self.objects.begin_checkpoint();
        let segments = self.objects.sealed_segments();
        let meta: Vec<u8> = segments.iter().flat_map(|number| number.to_le_bytes()).collect();
        let entry =
            |(key, place): (&u32, &Location)| [&key.to_le_bytes()[..], &place.encode()].concat();
        let entries: Vec<u8> = self.places.iter().flat_map(entry).collect();
        let (covers, next) = (self.applied, self.generation + 1);
        let begun = ImageWriter::begin(self.disk.clone(), SHARD_DIRECTORY, SHARD, next).await;
        let mut writer = attempt!(begun);
        attempt!(writer.section(ENTRIES, entries.len() as u64).await);
        attempt!(writer.write(&entries).await);
        attempt!(writer.commit(covers, &meta).await);
        self.generation = next;
        attempt!(self.wal.release(Lsn(covers.0 + 1)).await);
        if let Some(job) = self.objects.begin_removal() {
            let outcome = job.run().await;
            attempt!(self.objects.finish_removal(outcome));
        }
        Some(())
    }

    async fn work(&mut self, random: &mut Random, history: &RefCell<History>) -> Option<()> {
        for _ in 0..random.below(40) {
            match random.below(6) {
                0 => self.compact().await?,
                1 => self.checkpoint().await?,
                _ => {
                    let count = 1 + random.below(5);
                    let operations = (0..count).map(|_| operation(random)).collect();
                    self.write(operations, history).await?;
                }
            }
        }
        Some(())
    }
}

fn operation(random: &mut Random) -> Operation {
    let key = u32::try_from(random.below(KEYS)).expect("the simulation keeps its own sizes");
    let length = usize::try_from(random.below(1_200)).expect("the simulation keeps its own sizes");
    (key, (!random.one_in(4)).then(|| random.bytes(length)))
}

/// One life; `None` when the power went.
async fn live(disk: &SimDisk, random: &mut Random, history: &RefCell<History>) -> Option<()> {
    let mut store = Store::open(disk).await?;
    store.check(history).await?;
    let wal = store.wal.clone();
    let run = pin!(wal.run());
    let work = pin!(store.work(random, history));
    match select(run, work).await {
        Either::Left((failure, work)) => {
            pass(&failure);
            work.await
        }
        Either::Right((done, _)) => done,
    }
}

async fn lives(seed: u64) {
    let mut random = Random::new(seed);
    let mut disk = SimDisk::new(seed);
    let history = RefCell::default();
    for _ in 0..8 {
        disk.set_latency_turns_max(random.below(4));
        if !random.one_in(5) {
            disk.fail_change(disk.changes() + 1 + random.below(150), Fault::PowerCut);
        }
        live(&disk, &mut random, &history).await;
        disk = disk.crashed(Crash::Random(random.next_u64()));
    }
    let last = live(&disk, &mut random, &history).await;
    assert!(last.is_some(), "the last life is without faults");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_what_was_acknowledged() {
    let seeds = match number("HEDDLE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HEDDLE_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        println!("HEDDLE_SIM_SEED={seed}");
        block_on(lives(seed));
    }
}

#[test]
fn a_full_disk_is_an_error_of_its_own() {
    block_on(async {
        let disk = SimDisk::new(1);
        disk.set_space_bytes(0);
        let file = disk.create_dir("x").await;
        assert_eq!(file, Ok(()));
        let full = Wal::recover(disk.clone(), LOG_DIRECTORY, LOG, &mut |_| Ok(())).await;
        let (wal, _) = full.unwrap();
        let refused = wal.append(SHARD, RecordKind::Put, &Stamp::default(), &[b"x"]);
        assert_eq!(refused, Err(WalError::Full));
        let no_space = DeviceError::NoSpace { path: "x".into() };
        assert_ne!(no_space.to_string(), refused.unwrap_err().to_string());
    });
}
