//! A whole data directory as bytes, and the history that it holds: what a version wrote is kept
//! in `tests/fixtures` and read by every later one.

use heddle_sim::{Random, SimDisk};
use heddle_types::ObjectId;

use super::{Model, SHARD, SimEngine, World, delete, id, link_all, put, random_item};
use heddle_core::engine::PutItem;

/// What happened, in order.
pub enum Step {
    Put(Box<PutItem>),
    Delete(ObjectId),
    Checkpoint,
}

/// Objects with and without rows, vectors in memory and on disk, some replaced, some deleted,
/// before the image and after it.
pub fn history() -> Vec<Step> {
    let mut random = Random::new(2_026);
    let mut steps = Vec::new();
    for round in 0..3 {
        for _ in 0..40 {
            let object = id(random.below(60));
            if round > 0 && random.one_in(5) {
                steps.push(Step::Delete(object));
            } else {
                steps.push(Step::Put(Box::new(random_item(&mut random, object))));
            }
        }
        if round < 2 {
            steps.push(Step::Checkpoint);
        }
    }
    steps
}

/// What the history leaves behind.
pub fn model() -> Model {
    let mut model = Model::default();
    for step in history() {
        match step {
            Step::Put(item) => model.put(&item),
            Step::Delete(id) => drop(model.delete(id)),
            Step::Checkpoint => {}
        }
    }
    model
}

/// The world that a fixture was written in.
pub fn world() -> World {
    World { memtable_bytes: 4 << 10, segment_bytes: 256 << 10, ..World::new(3) }
}

/// Lives the history.
pub async fn live(engine: &SimEngine) {
    for step in history() {
        match step {
            Step::Put(item) => put(engine, *item).await,
            Step::Delete(id) => drop(delete(engine, id).await),
            Step::Checkpoint => {
                while engine.maintain().await.unwrap() {}
                link_all(engine, 16);
                engine.checkpoint(SHARD).await.unwrap();
            }
        }
    }
}

/// Zeros are left out of a fixture in lines of so many bytes.
const LINE_BYTES: usize = 64;

/// The files of a disk as one run of bytes: name length u16, name, length u64, number of runs u32,
/// and for each run of lines that are not all zeros its offset u32, its length u32, its bytes.
pub fn pack(disk: &SimDisk) -> Vec<u8> {
    let mut out = Vec::new();
    for path in disk.files() {
        let bytes = disk.file_bytes(&path).unwrap();
        let mut runs: Vec<(usize, Vec<u8>)> = Vec::new();
        for (line, bytes) in bytes.chunks(LINE_BYTES).enumerate() {
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let offset = line * LINE_BYTES;
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() == offset => run.extend_from_slice(bytes),
                _ => runs.push((offset, bytes.to_vec())),
            }
        }
        out.extend_from_slice(&u16::try_from(path.len()).unwrap().to_le_bytes());
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(&u32::try_from(runs.len()).unwrap().to_le_bytes());
        for (offset, run) in runs {
            out.extend_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
            out.extend_from_slice(&u32::try_from(run.len()).unwrap().to_le_bytes());
            out.extend_from_slice(&run);
        }
    }
    out
}

/// Puts the files of a fixture on a disk.
pub fn unpack(disk: &SimDisk, mut packed: &[u8]) {
    let packed = &mut packed;
    while !packed.is_empty() {
        let name_bytes = usize::from(u16::from_le_bytes(*take(packed, 2).first_chunk().unwrap()));
        let name = String::from_utf8(take(packed, name_bytes).to_vec()).unwrap();
        let length = u64::from_le_bytes(*take(packed, 8).first_chunk().unwrap());
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        for _ in 0..take_u32(packed) {
            let (offset, length) = (take_u32(packed), take_u32(packed));
            bytes[offset..offset + length].copy_from_slice(take(packed, length));
        }
        disk.plant_file(&name, bytes);
    }
}

fn take_u32(packed: &mut &[u8]) -> usize {
    u32::from_le_bytes(*take(packed, 4).first_chunk().unwrap()) as usize
}

fn take<'a>(packed: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (part, rest) = packed.split_at(length);
    *packed = rest;
    part
}
