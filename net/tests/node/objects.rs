//! Objects written, found, changed and removed through the client, on one and two cores and shards.

use std::future::Future;

use heddle_client::{Client, ClientError, Collection, Durability, Object, PutMode, Scan, Search};
use heddle_types::schema::{PropertyConfig, ShardingConfig};
use heddle_types::{
    CollectionConfig, DataType, Distance, ErrorCode, Filter, ObjectId, Operator, Properties,
    Quantization, Value, VectorConfig,
};

use crate::harness::{TempDir, TestNode, config};

/// Runs a test's calls on a runtime of their own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

pub(crate) async fn connect(node: &TestNode) -> Client {
    let (ip, port) = node.address();
    Client::connect([format!("{ip}:{port}")]).await.unwrap()
}

fn property(name: &str, data_type: DataType) -> PropertyConfig {
    PropertyConfig {
        name: name.to_owned(),
        data_type,
        filterable: true,
        searchable: false,
        properties: Vec::new(),
    }
}

pub(crate) fn docs(shards: u32, dims: Option<u32>) -> CollectionConfig {
    CollectionConfig {
        name: "Docs".to_owned(),
        properties: vec![property("row", DataType::Int), property("parity", DataType::Text)],
        // Exact distances are compared, whatever the default is.
        vectors: vec![VectorConfig {
            dims,
            distance: Distance::L2Squared,
            quantization: Some(Quantization::None),
            ..Default::default()
        }],
        sharding: ShardingConfig { count: shards, ..Default::default() },
        ..Default::default()
    }
}

/// A vector of a row: numbers without a pattern, so that no two distances are equal.
pub(crate) fn vector(row: u64) -> Vec<f32> {
    let component = |place: u64| {
        let mut mixed = (row * 8 + place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 32)) >> 40) as f32 / 65_536.0
    };
    (0..8).map(component).collect()
}

pub(crate) fn object(row: u64) -> Object {
    let parity = if row.is_multiple_of(2) { "even" } else { "odd" };
    let properties = Properties::from([
        ("row".to_owned(), Value::Int(row as i64)),
        ("parity".to_owned(), Value::Text(parity.to_owned())),
    ]);
    Object::new(ObjectId::from_row(row)).with_properties(properties).with_vector(vector(row))
}

pub(crate) async fn put_all(collection: &Collection, rows: std::ops::Range<u64>) {
    let objects: Vec<Object> = rows.map(object).collect();
    for outcome in collection.put_batch(PutMode::Replace, &objects).await.unwrap() {
        outcome.unwrap();
    }
}

/// The rows nearest to a query, computed here.
fn nearest(query: &[f32], rows: impl Iterator<Item = u64>, k: usize) -> Vec<ObjectId> {
    let distance =
        |row| -> f32 { vector(row).iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum() };
    let mut found: Vec<(f32, u64)> = rows.map(|row| (distance(row), row)).collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    found.into_iter().take(k).map(|(_, row)| ObjectId::from_row(row)).collect()
}

async fn found_by(collection: &Collection, search: &Search) -> Vec<ObjectId> {
    let result = collection.search(search).await.unwrap();
    assert!(result.hits.is_sorted_by(|a, b| a.distance <= b.distance));
    result.hits.iter().map(|hit| hit.id).collect()
}

fn even() -> Filter {
    Filter::compare("parity", Operator::Equal, Value::Text("even".to_owned()))
}

async fn everything_round_trips(client: &Client, shards: u32, dims: Option<u32>) {
    client.create_collection(&docs(shards, dims)).await.unwrap();
    everything_holds(&client.collection("Docs")).await;
}

/// Fills an empty collection and looks at it in every way.
pub(crate) async fn everything_holds(docs: &Collection) {
    const ROWS: u64 = 2_000;
    put_all(docs, 0..ROWS).await;
    assert_eq!(docs.count(None).await.unwrap(), ROWS);
    assert_eq!(docs.count(Some(&even())).await.unwrap(), ROWS / 2);
    for row in [0, 1, 777, ROWS - 1] {
        let stored = docs.get(ObjectId::from_row(row)).await.unwrap().unwrap();
        assert_eq!(stored.properties, Some(object(row).properties));
        assert_eq!(stored.vectors.get("").unwrap(), &vector(row));
        let query = vector(row);
        let search = Search::near(query.clone()).k(5).ef(2_000);
        assert_eq!(found_by(docs, &search).await, nearest(&query, 0..ROWS, 5), "row {row}");
        let evens = (0..ROWS).step_by(2);
        let filtered = search.clone().filter(even());
        assert_eq!(found_by(docs, &filtered).await, nearest(&query, evens, 5), "row {row}");
        let near = Search::near_object(ObjectId::from_row(row)).k(1).with_properties();
        let result = docs.search(&near).await.unwrap();
        assert_eq!(result.hits[0].id, ObjectId::from_row(row));
    }
    pages_come_in_order(docs, ROWS).await;
    changes_are_seen(docs, ROWS).await;
}

async fn pages_come_in_order(docs: &Collection, rows: u64) {
    let mut scanner = docs.scan(Scan { page_objects: 300, ..Scan::default() });
    let mut row = 0;
    while let Some(page) = scanner.next_page().await.unwrap() {
        for object in page {
            assert_eq!(object.id, ObjectId::from_row(row));
            row += 1;
        }
    }
    assert_eq!(row, rows);
}

async fn changes_are_seen(docs: &Collection, rows: u64) {
    let id = ObjectId::from_row(5);
    let created = docs.get(id).await.unwrap().unwrap().created_us;
    let moved = vec![5_000.0; 8];
    docs.put(Object { vectors: vec![(String::new(), moved.clone())], ..object(5) }).await.unwrap();
    let search = Search::near(moved.clone()).k(1);
    assert_eq!(found_by(docs, &search).await, [id]);
    let patch = Properties::from([("parity".to_owned(), Value::Text("even".to_owned()))]);
    docs.merge(Object::new(id).with_properties(patch)).await.unwrap();
    let stored = docs.get(id).await.unwrap().unwrap();
    let properties = stored.properties.unwrap();
    assert_eq!(properties["row"], Value::Int(5));
    assert_eq!(properties["parity"], Value::Text("even".to_owned()));
    assert_eq!(stored.vectors.get("").unwrap(), &moved);
    assert_eq!(stored.created_us, created);
    assert_eq!(docs.count(Some(&even())).await.unwrap(), rows / 2 + 1);
    assert!(docs.delete(id).await.unwrap());
    assert!(!docs.delete(id).await.unwrap());
    assert_eq!(docs.get(id).await.unwrap(), None);
    assert_ne!(found_by(docs, &search).await, [id]);
    assert_eq!(docs.count(None).await.unwrap(), rows - 1);
}

#[test]
fn objects_round_trip_on_one_core() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    block_on(async { everything_round_trips(&connect(&node).await, 1, Some(8)).await });
}

#[test]
fn objects_round_trip_on_two_cores_and_two_shards() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async { everything_round_trips(&connect(&node).await, 2, Some(8)).await });
}

#[test]
fn the_first_insert_fixes_the_dimension() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        everything_round_trips(&client, 3, None).await;
        let config = client.collection_config("Docs").await.unwrap();
        assert_eq!(config.vectors[0].dims, Some(8));
        let docs = client.collection("Docs");
        let narrow = Object::new(ObjectId::from_row(1)).with_vector(vec![1.0; 7]);
        let error = docs.put(narrow).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidVector), "{error}");
    });
}

#[test]
fn an_empty_collection_answers_everything_with_nothing() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(2, None)).await.unwrap();
        let docs = client.collection("Docs");
        assert_eq!(docs.count(None).await.unwrap(), 0);
        assert_eq!(docs.get(ObjectId::from_row(1)).await.unwrap(), None);
        assert!(!docs.delete(ObjectId::from_row(1)).await.unwrap());
        assert_eq!(found_by(&docs, &Search::near(vec![1.0; 4])).await, []);
        let page = docs.scan_page(&Scan::default()).await.unwrap();
        assert!(page.objects.is_empty() && page.next.is_none());
    });
}

#[test]
fn collections_come_and_go() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(2, Some(8))).await.unwrap();
        let error = client.create_collection(&docs(2, Some(8))).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::CollectionExists));
        put_all(&client.collection("Docs"), 0..100).await;
        client.drop_collection("Docs").await.unwrap();
        let error = client.collection("Docs").count(None).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::UnknownCollection));
        let error = client.drop_collection("Docs").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::UnknownCollection));
        client.create_collection(&docs(1, Some(8))).await.unwrap();
        assert_eq!(client.collection("Docs").count(None).await.unwrap(), 0);
        let names: Vec<String> =
            client.collections().await.unwrap().into_iter().map(|config| config.name).collect();
        assert_eq!(names, ["Docs"]);
    });
}

#[test]
fn one_bad_object_costs_one_object() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(2, Some(8))).await.unwrap();
        let docs = client.collection("Docs");
        let mut objects: Vec<Object> = (0..50).map(object).collect();
        objects[20].vectors[0].1[3] = f32::NAN;
        objects[30].properties.insert("unknown".to_owned(), Value::Int(1));
        let outcomes = docs.put_batch(PutMode::Replace, &objects).await.unwrap();
        for (row, outcome) in outcomes.iter().enumerate() {
            let code = outcome.as_ref().err().and_then(ClientError::code);
            let expected = match row {
                20 => Some(ErrorCode::InvalidVector),
                30 => Some(ErrorCode::InvalidProperty),
                _ => None,
            };
            assert_eq!(code, expected, "row {row}");
        }
        assert_eq!(docs.count(None).await.unwrap(), 48);
    });
}

#[test]
fn batched_writes_become_visible_on_every_core_by_themselves() {
    // Arenas grow on the way: a core that was not told of it would search the old ones for ever.
    const ROWS: u64 = 40_000;
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(1, Some(8))).await.unwrap();
        let docs = client.collection("Docs");
        for first in (0..ROWS).step_by(2_000) {
            let objects: Vec<Object> = (first..first + 2_000).map(object).collect();
            let outcomes =
                docs.put_batch_with(PutMode::Replace, Durability::Batched, &objects).await;
            assert!(outcomes.unwrap().iter().all(Result::is_ok));
        }
        let deleted = docs.delete_batch_with(Durability::Batched, &[ObjectId::from_row(7)]).await;
        assert!(*deleted.unwrap()[0].as_ref().unwrap());
        // Calls go to the least loaded core, so many of them at once reach both.
        let last = Search::near(vector(ROWS - 1)).k(1).max_distance(0.0);
        let is_everywhere = async || {
            let searches = (0..16).map(|_| docs.search(&last));
            let found = futures::future::join_all(searches).await;
            found.into_iter().all(|found| found.unwrap().hits.len() == 1)
        };
        while !is_everywhere().await || docs.count(None).await.unwrap() != ROWS - 1 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn status_names_cores_shards_and_the_log() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(2, Some(8))).await.unwrap();
        put_all(&client.collection("Docs"), 0..100).await;
        let status = client.status().await.unwrap();
        assert_eq!(status["phase"], "serving");
        let cores = status["cores"].as_array().unwrap();
        assert_eq!(cores.len(), 3, "two data cores and the meta core");
        let shards = |core: usize| &cores[core]["engine"]["shards"];
        let objects: u64 = (0..2)
            .flat_map(|core| shards(core).as_array().unwrap())
            .map(|shard| shard["objects"].as_u64().unwrap())
            .sum();
        assert_eq!(objects, 100);
        assert_eq!(shards(0).as_array().unwrap().len(), 1, "shards are spread over the cores");
        assert!(cores[0]["engine"]["wal"]["syncs"].as_u64().unwrap() > 0);
    });
}
