//! What being a replica costs: the hash tree, and filling an empty replica. CPU time alone: the
//! disk is a simulated one, in memory.
//!
//! `cargo run --release -p heddle-core --example replica -- [objects]`
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]
#![allow(clippy::print_stdout, reason = "it is a program that reports figures")]
#![allow(clippy::disallowed_methods, reason = "it asks the system for the time of its thread")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{SHARD, SimEngine, World, properties, row, text};
use futures::executor::LocalPool;
use futures::task::LocalSpawnExt;
use heddle_core::engine::{Durability, ItemVector, StampedChange, StampedWrite};
use heddle_replication::LeafSet;
use heddle_sim::Random;
use heddle_types::{Hlc, NodeId, ObjectId, Stamp};

const DIMS: usize = 128;
const SCHEMA: &str = r#"{"name":"Docs","vectors":[{"name":"body","dims":128,
    "distance":"l2-squared","quantization":"none"}],
    "properties":[{"name":"note","type":"text","filterable":false}]}"#;
/// Objects of one batch.
const BATCH: usize = 1_000;

/// CPU time of this thread, nanoseconds: others may use the machine.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn world(seed: u64) -> World {
    let mut world = World::new(seed);
    world.config = serde_json::from_str(SCHEMA).unwrap();
    world.segment_bytes = 64 << 20;
    world.memtable_bytes = 16 << 20;
    world
}

fn open(pool: &mut LocalPool, world: &mut World) -> SimEngine {
    let (engine, _) = pool.run_until(world.open()).unwrap();
    let running = engine.clone();
    let log = async move {
        let _failed = running.run_wal().await;
    };
    pool.spawner().spawn_local(log).unwrap();
    engine
}

fn writes(objects: usize, version: u64) -> Vec<Vec<StampedWrite>> {
    let mut random = Random::new(version);
    let note = row(&properties([("note", text(&"what an object says of itself ".repeat(4)))]));
    let mut write = |object: usize| {
        let hlc = Hlc::from_unix_us(1_700_000_000_000_000 - (1 << 40) + (version << 20));
        let values = (0..DIMS).map(|_| random.below(1_000) as f32).collect();
        StampedWrite {
            id: ObjectId::from_row(object as u64),
            stamp: Stamp {
                hlc: Hlc(hlc.0 + object as u64),
                node: NodeId::from(1),
                ..Stamp::default()
            },
            change: StampedChange::Put {
                created_us: 1,
                vectors: vec![ItemVector { index: 0, values }],
                properties: note.clone(),
            },
            exact: true,
        }
    };
    let all: Vec<StampedWrite> = (0..objects).map(&mut write).collect();
    all.chunks(BATCH).map(<[StampedWrite]>::to_vec).collect()
}

/// Applies batches, the last one durably; nanoseconds an object.
async fn apply(engine: &SimEngine, batches: Vec<Vec<StampedWrite>>) -> f64 {
    let objects: usize = batches.iter().map(Vec::len).sum();
    let began = cpu_ns();
    let last = batches.len() - 1;
    for (number, batch) in batches.into_iter().enumerate() {
        let durability = if number == last { Durability::Sync } else { Durability::Batched };
        let results = engine.apply_stamped(SHARD, durability, batch).await.unwrap();
        assert!(results.iter().all(Result::is_ok));
    }
    (cpu_ns() - began) as f64 / objects as f64
}

/// Reads exact copies of everything, encoded as they travel, a batch each.
async fn read_all(source: &SimEngine) -> Vec<Vec<Vec<u8>>> {
    let mut all = LeafSet::empty(0);
    all.insert(0);
    let (mut after, mut batches) = (None, Vec::new());
    loop {
        let page = source.entries(SHARD, &all, after, BATCH).await.unwrap();
        let Some((last, _)) = page.last() else { return batches };
        after = Some(*last);
        let ids = page.iter().map(|(id, _)| *id).collect();
        let copies = source.read_stamped(SHARD, ids).await.unwrap();
        let encoded = copies.into_iter().flatten().map(|copy| {
            let mut bytes = Vec::new();
            copy.encode(&mut bytes);
            bytes
        });
        batches.push(encoded.collect());
    }
}

/// Fills an empty replica with encoded copies.
async fn fill(target: &SimEngine, batches: &[Vec<Vec<u8>>]) {
    target.begin_fill(SHARD, Hlc::default()).await.unwrap();
    for batch in batches {
        let copies = batch.iter().map(|bytes| StampedWrite::decode(bytes).unwrap()).collect();
        let results = target.fill(SHARD, copies).await.unwrap();
        assert!(results.iter().all(Result::is_ok));
    }
    target.end_fill(SHARD).await.unwrap();
}

fn main() {
    let objects = std::env::args().nth(1).map_or(100_000, |count| count.parse().unwrap());
    let mut pool = LocalPool::new();
    let (mut plain, mut kept, mut empty) = (world(1), world(2), world(3));
    let [plain, kept, empty] =
        [&mut plain, &mut kept, &mut empty].map(|world| open(&mut pool, world));
    for engine in [&plain, &kept] {
        pool.run_until(apply(engine, writes(objects, 0)));
    }
    let began = cpu_ns();
    let tree = pool.run_until(kept.tree(SHARD)).unwrap();
    let build_ns = (cpu_ns() - began) as f64 / objects as f64;
    println!(
        "{objects} objects, {} leaves: {build_ns:.0} ns an object to build",
        tree.sums().len()
    );
    for version in 1..6 {
        let without = pool.run_until(apply(&plain, writes(objects, version)));
        let with = pool.run_until(apply(&kept, writes(objects, version)));
        println!("overwrite: {without:.0} ns without a tree, {with:.0} ns with one");
    }
    let began = cpu_ns();
    let all = LeafSet::empty(tree.height());
    let none = pool.run_until(kept.entries(SHARD, &all, None, BATCH)).unwrap();
    assert!(none.is_empty());
    println!("walk: {:.0} ns an object", (cpu_ns() - began) as f64 / objects as f64);
    let began = cpu_ns();
    let batches = pool.run_until(read_all(&kept));
    let read_ns = (cpu_ns() - began) as f64 / objects as f64;
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), objects);
    let began = cpu_ns();
    pool.run_until(fill(&empty, &batches));
    let fill_ns = (cpu_ns() - began) as f64 / objects as f64;
    assert_eq!(empty.status().shards[0].objects, objects as u64);
    println!(
        "fill: {read_ns:.0} ns a row of {DIMS} dimensions to read, {fill_ns:.0} ns to take in"
    );
}
