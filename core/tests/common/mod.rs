//! An engine on a simulated disk, and a model of what it should hold.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod backup;
pub mod fixture;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::executor::LocalPool;
use futures::task::LocalSpawnExt;
use heddle_core::engine::{
    Engine, EngineConfig, EngineError, IndexedBatch, ItemVector, LinkProgress, Object, OnDataLoss,
    OpenReport, PutItem, PutMode, Want,
};
use heddle_core::property::{FilterFacts, matches};
use heddle_core::shard::ShardSpec;
use heddle_core::wal::WalConfig;
use heddle_index::{Hit, LinkScratch, Quiescence, Scratch, SearchRequest};
use heddle_sim::{Random, SimClock, SimDisk};
use heddle_types::row::{decode_row, encode_row};
use heddle_types::{
    CollectionConfig, CollectionId, Filter, NodeId, ObjectId, Properties, ShardId, Value,
};
use uuid::Uuid;

/// Dimensions of `body` (squared distance) and `title` (cosine), which rest in memory, and of
/// `cover` (cosine), which rests on disk.
pub const DIMS: [usize; 3] = [6, 3, 5];

const SCHEMA: &str = r#"{"name":"Docs","index_timestamps":true,
    "vectors":[{"name":"body","dims":6,"distance":"l2-squared","index":{"m":4},
                "quantization":"none"},
               {"name":"title","dims":3,"distance":"cosine","quantization":"none"},
               {"name":"cover","dims":5,"distance":"cosine","index":{"m":4},
                "quantization":"4bit","raw":"disk"}],
    "properties":[{"name":"text","type":"text"},{"name":"year","type":"int"},
                  {"name":"tags","type":"text[]"},{"name":"score","type":"number"},
                  {"name":"note","type":"text","filterable":false}]}"#;

pub type SimEngine = Engine<SimDisk, SimClock>;

pub fn schema() -> CollectionConfig {
    serde_json::from_str(SCHEMA).unwrap()
}

/// What survives restarts of one node.
#[derive(Clone)]
pub struct World {
    pub disk: SimDisk,
    pub clock: SimClock,
    pub node: NodeId,
    pub boot: u32,
    pub shards: Vec<u64>,
    pub logs: Vec<u32>,
    pub segment_bytes: u64,
    pub memtable_bytes: usize,
    pub memory_bytes_max: u64,
    pub on_data_loss: OnDataLoss,
    pub backlog_bytes_max: usize,
    pub paces_writers: bool,
    pub compaction_bytes_per_s: u64,
    pub config: CollectionConfig,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            disk: SimDisk::new(seed),
            clock: SimClock::new(1_700_000_000_000_000),
            node: NodeId(Uuid::from_u128(7)),
            boot: 0,
            shards: vec![1],
            logs: vec![0],
            segment_bytes: 64 << 10,
            memtable_bytes: 16 << 10,
            memory_bytes_max: u64::MAX,
            on_data_loss: OnDataLoss::Quarantine,
            backlog_bytes_max: 64 << 20,
            paces_writers: false,
            compaction_bytes_per_s: u64::MAX,
            config: schema(),
        }
    }

    pub fn spec(&self, shard: u64) -> ShardSpec {
        ShardSpec {
            id: ShardId(shard),
            collection: CollectionId(Uuid::from_u128(99)),
            config: Arc::new(self.config.clone()),
            directory: format!("shards/{shard:010}"),
            seed: 5,
        }
    }

    pub async fn open(&mut self) -> Result<(SimEngine, OpenReport), EngineError> {
        self.open_with(Quiescence::new(2)).await
    }

    pub async fn open_with(
        &mut self,
        quiescence: Arc<Quiescence>,
    ) -> Result<(SimEngine, OpenReport), EngineError> {
        self.boot += 1;
        let segment_bytes = self.segment_bytes;
        let config = EngineConfig {
            wal: WalConfig { segment_bytes, backlog_bytes_max: self.backlog_bytes_max },
            log_indexes: self.logs.clone(),
            memtable_bytes: self.memtable_bytes,
            memory_bytes_max: self.memory_bytes_max,
            on_data_loss: self.on_data_loss,
            paces_writers: self.paces_writers,
            compaction_bytes_per_s: self.compaction_bytes_per_s,
            checkpoint_log_bytes: 64 << 10,
            log_bytes_max: 4 * segment_bytes,
            ..EngineConfig::new(self.node, self.boot, 0)
        };
        let specs = self.shards.iter().map(|shard| self.spec(*shard)).collect();
        let (disk, clock) = (self.disk.clone(), self.clock.clone());
        Engine::open(disk, clock, config, quiescence, specs, |_| {}).await
    }

    /// Opens the engine, runs its log beside `body`, and stops it without any farewell.
    pub fn run<R, F: Future<Output = R>>(&mut self, body: impl FnOnce(SimEngine) -> F) -> R {
        self.try_run(body).expect("the engine opens")
    }

    /// As [`World::run`], for a disk that may fail while the engine opens.
    pub fn try_run<R, F: Future<Output = R>>(
        &mut self,
        body: impl FnOnce(SimEngine) -> F,
    ) -> Result<R, EngineError> {
        let mut pool = LocalPool::new();
        let (engine, _) = pool.run_until(self.open())?;
        let running = engine.clone();
        let log = async move {
            let _failed = running.run_wal().await;
        };
        pool.spawner().spawn_local(log).unwrap();
        Ok(pool.run_until(body(engine)))
    }
}

pub fn id(row: u64) -> ObjectId {
    ObjectId::from_row(row)
}

pub fn row(properties: &Properties) -> Vec<u8> {
    let mut out = Vec::new();
    if !properties.is_empty() {
        encode_row(properties, &mut out).unwrap();
    }
    out
}

pub fn properties<const N: usize>(values: [(&str, Value); N]) -> Properties {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub fn body_vector(values: [f32; 6]) -> ItemVector {
    ItemVector { index: 0, values: values.to_vec() }
}

pub fn random_vector(random: &mut Random, index: u8) -> ItemVector {
    let values = (0..DIMS[usize::from(index)]).map(|_| random.below(2_001) as f32 / 1_000.0 - 1.0);
    let mut values: Vec<f32> = values.collect();
    values[0] += 3.0;
    ItemVector { index, values }
}

pub fn random_properties(random: &mut Random) -> Properties {
    let mut properties = Properties::new();
    if !random.one_in(4) {
        properties.insert("year".to_owned(), Value::Int(random.below(8) as i64));
    }
    if random.one_in(2) {
        let length = if random.one_in(6) { 1_500 } else { 10 };
        let word = ["alpha", "beta", "gamma"][random.below(3) as usize];
        let tail = random.below(4);
        let text = format!("{}{tail}", word.repeat(length / 5));
        properties.insert("text".to_owned(), Value::Text(text));
    }
    if random.one_in(2) {
        let tags = (0..random.below(3)).map(|_| format!("t{}", random.below(4))).collect();
        properties.insert("tags".to_owned(), Value::TextArray(tags));
    }
    if random.one_in(3) {
        properties.insert("note".to_owned(), Value::Text("n".repeat(random.below(300) as usize)));
    }
    properties
}

pub fn random_item(random: &mut Random, id: ObjectId) -> PutItem {
    let mut vectors = vec![random_vector(random, 0)];
    if random.one_in(2) {
        vectors.push(random_vector(random, 1));
    }
    if random.one_in(2) {
        vectors.insert(0, random_vector(random, 2));
    }
    PutItem { id, properties: row(&random_properties(random)), vectors }
}

pub const SHARD: ShardId = ShardId(1);

/// Puts one object; panics unless it is accepted.
pub async fn put(engine: &SimEngine, item: PutItem) {
    let results = engine.put(SHARD, PutMode::Replace, vec![item]).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

pub async fn delete(engine: &SimEngine, id: ObjectId) -> bool {
    engine.delete(SHARD, vec![id]).await.unwrap().remove(0).unwrap()
}

/// Everything a shard holds, in id order.
pub async fn dump(engine: &SimEngine, shard: ShardId) -> Vec<Object> {
    let mut all: Vec<Object> = Vec::new();
    loop {
        let after = all.last().map(|object| object.id);
        let page = engine.scan(shard, after, 7, None, Want::ALL).await.unwrap();
        let count = page.len();
        all.extend(page);
        if count < 7 {
            break;
        }
    }
    assert_eq!(engine.count(shard, None).await.unwrap(), all.len() as u64);
    all
}

/// The nearest ids of a vector index.
pub fn search(
    engine: &SimEngine,
    vector: usize,
    query: &[f32],
    k: u32,
    filter: Option<&heddle_index::SlotBitmap>,
) -> Vec<(ObjectId, f32)> {
    let view = engine.view(SHARD).unwrap();
    let index = view.vector(vector).unwrap();
    let mut hits: Vec<Hit> = Vec::new();
    let request = SearchRequest { filter, ..SearchRequest::new(k, 64) };
    index.search(&view.directory, query, request, &mut Scratch::new(), &mut hits);
    hits.iter().map(|hit| (ObjectId(view.directory.id(hit.slot)), hit.distance)).collect()
}

/// Links everything that waits.
pub fn link_all(engine: &SimEngine, batch: usize) -> usize {
    let mut scratch = LinkScratch::new();
    let mut linked = 0;
    while let Some(batch) = engine.index_batch(batch) {
        linked += batch.len();
        let parts = batch.split(2).into_iter().map(|part| part.search(&mut scratch)).collect();
        let mut rows = IndexedBatch::gather(parts).unwrap();
        loop {
            match engine.link_batch(rows, 30, &mut scratch) {
                LinkProgress::Done => break,
                LinkProgress::More(rest) => rows = rest,
                LinkProgress::Paused(_) => return linked,
            }
        }
    }
    linked
}

pub fn sweep_all(engine: &SimEngine) -> usize {
    let mut steps = 0;
    while engine.sweep_step() {
        steps += 1;
    }
    steps
}

/// What an engine should hold.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Model {
    pub objects: BTreeMap<ObjectId, (Properties, BTreeMap<u8, Vec<f32>>)>,
}

impl Model {
    pub fn put(&mut self, item: &PutItem) {
        let vectors = item.vectors.iter().map(|v| (v.index, v.values.clone())).collect();
        self.objects.insert(item.id, (decode_row(&item.properties).unwrap(), vectors));
    }

    pub fn merge(&mut self, item: &PutItem) {
        let (properties, vectors) = self.objects.entry(item.id).or_default();
        properties.extend(decode_row(&item.properties).unwrap());
        vectors.extend(item.vectors.iter().map(|v| (v.index, v.values.clone())));
    }

    pub fn delete(&mut self, id: ObjectId) -> bool {
        self.objects.remove(&id).is_some()
    }
}

/// Is the stored object the one the model has? Cosine vectors in memory agree up to rounding, all
/// others bit for bit.
pub fn same_object(object: &Object, expected: &(Properties, BTreeMap<u8, Vec<f32>>)) -> bool {
    let (properties, vectors) = expected;
    let same_vector = |vector: &ItemVector| {
        vectors.get(&vector.index).is_some_and(|values| {
            values.len() == vector.values.len()
                && values.iter().zip(&vector.values).all(|(left, right)| {
                    let is_same = left.to_bits() == right.to_bits();
                    is_same || vector.index == 1 && (left - right).abs() < 1e-4
                })
        })
    };
    decode_row(&object.properties).as_ref() == Ok(properties)
        && object.vectors.len() == vectors.len()
        && object.vectors.iter().all(same_vector)
}

/// The engine holds exactly the model: by scan, count, search and filter.
pub async fn check_model(engine: &SimEngine, model: &Model) {
    let all = dump(engine, SHARD).await;
    let ids: Vec<ObjectId> = all.iter().map(|object| object.id).collect();
    let expected: Vec<ObjectId> = model.objects.keys().copied().collect();
    assert_eq!(ids, expected, "ids");
    for object in &all {
        let expected = &model.objects[&object.id];
        assert!(same_object(object, expected), "{object:?} is not {expected:?}");
    }
    check_filters(engine, &all).await;
    check_searches(engine, model);
}

async fn check_filters(engine: &SimEngine, all: &[Object]) {
    use heddle_types::Operator::{ContainsAny, Equal, GreaterThan, IsNull, Like, NotEqual};
    let tags = Value::TextArray(vec!["t1".to_owned(), "t3".to_owned()]);
    let filters = [
        Filter::compare("year", Equal, Value::Int(3)),
        Filter::Not(Box::new(Filter::compare("year", GreaterThan, Value::Int(4)))),
        Filter::compare("year", NotEqual, Value::Int(3)),
        Filter::compare("tags", ContainsAny, tags),
        Filter::compare("text", Like, text("alpha*2")),
        Filter::compare("text", IsNull, Value::Boolean(true)),
    ];
    for filter in filters {
        let passing: Vec<ObjectId> = all
            .iter()
            .filter(|object| {
                let facts = FilterFacts {
                    id: object.id,
                    created_us: object.created_us,
                    updated_us: object.updated_us,
                    properties: &decode_row(&object.properties).unwrap(),
                };
                matches(&filter, &facts)
            })
            .map(|object| object.id)
            .collect();
        let count = engine.count(SHARD, Some(&filter)).await.unwrap();
        assert_eq!(count, passing.len() as u64, "{filter:?}");
        let scanned = engine.scan(SHARD, None, 1_000, Some(&filter), Want::NOTHING).await.unwrap();
        let scanned: Vec<ObjectId> = scanned.iter().map(|object| object.id).collect();
        assert_eq!(scanned, passing, "{filter:?}");
        let bitmap = engine.filter_bitmap(SHARD, &filter).await.unwrap();
        assert_eq!(bitmap.len() as usize, passing.len(), "{filter:?}");
        let hits = search(engine, 0, &[1.0; 6], 1_000, Some(&bitmap));
        assert!(hits.iter().all(|(id, _)| passing.contains(id)), "{filter:?}");
    }
}

fn check_searches(engine: &SimEngine, model: &Model) {
    for query in [[0.0; 6], [3.0, 0.5, -0.5, 0.1, 0.9, -1.0]] {
        let mut expected: Vec<(f32, ObjectId)> = model
            .objects
            .iter()
            .filter_map(|(id, (_, vectors))| {
                let values = vectors.get(&0)?;
                let squares = values.iter().zip(query).map(|(a, b)| (a - b) * (a - b));
                Some((squares.sum::<f32>(), *id))
            })
            .collect();
        expected.sort_by(|left, right| left.0.total_cmp(&right.0));
        expected.truncate(5);
        let found = search(engine, 0, &query, 5, None);
        assert_eq!(found.len(), expected.len());
        for ((_, distance), (exact, _)) in found.iter().zip(&expected) {
            assert!((distance - exact).abs() < 1e-4, "{found:?} is not {expected:?}");
        }
    }
}
