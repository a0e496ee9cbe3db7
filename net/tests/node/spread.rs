//! Collections whose shards are on several nodes: is it as if there were one?
//!
//! The nodes have a catalog that was written before their start, and a list of the nodes.

use std::collections::BTreeMap;

use heddle_client::{Client, ClientError, Collection, Object, Scan, Search, Want};
use heddle_core::validate::settle_profiles;
use heddle_meta::store::first_files;
use heddle_meta::{Catalog, Command, Placement};
use heddle_net::identity::{FORMAT_VERSION, Identity};
use heddle_net::{NodeConfig, PeerNode};
use heddle_types::schema::ShardingConfig;
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, Distance, ErrorCode, NodeId, ObjectId, Properties,
    Value, VectorConfig,
};
use heddle_wire::message::{
    CountRequest, DeleteRequest, FEATURE_STALE_EPOCH, FEATURE_TOPOLOGY_NOTICES, GetRequest,
    HelloRequest, PutMode, PutRequest, ScanRequest, SearchRequest, TopologyNotice, decode,
};
use heddle_wire::{FrameKind, VERSION, encode_request};
use uuid::Uuid;

use crate::harness::{TempDir, TestNode, config};
use crate::objects::{block_on, docs, everything_holds, object, put_all, vector};
use crate::raw::RawClient;

/// Data cores of each node.
const CORES: usize = 2;

/// Some nodes, each at an address of its own.
pub(crate) struct Site {
    dirs: Vec<TempDir>,
    pub(crate) nodes: Vec<PeerNode>,
    pub(crate) configs: Vec<NodeConfig>,
}

impl Site {
    /// `count` nodes that are not started yet. The addresses are drawn, so that tests do not meet.
    pub(crate) fn new(count: u8) -> Self {
        let [_, a, b, ..] = Uuid::new_v4().into_bytes();
        let mut site = Self { dirs: Vec::new(), nodes: Vec::new(), configs: Vec::new() };
        for number in 1..=count {
            let ip = std::net::IpAddr::from([127, a, b, number]);
            let dir = TempDir::new();
            let defaults = NodeConfig::default();
            let config = NodeConfig {
                name: format!("node-{number}"),
                listen: ip,
                native_port: defaults.native_port,
                core_port_base: defaults.core_port_base,
                http_port: defaults.http_port,
                ..config(&dir, CORES)
            };
            let address = |port| format!("{ip}:{port}");
            site.nodes.push(PeerNode {
                id: NodeId(Uuid::new_v4()),
                name: config.name.clone(),
                native: address(config.native_port),
                core: address(config.core_port_base),
                http: address(config.http_port),
                peer: address(config.peer_port_base),
                data_cores: CORES as u32,
            });
            site.configs.push(config);
            site.dirs.push(dir);
        }
        site
    }

    /// A catalog with these collections, each with shards on these nodes.
    pub(crate) fn catalog(&self, collections: &[(CollectionConfig, &[usize])]) -> Catalog {
        let mut catalog = Catalog::default();
        let mut homes: BTreeMap<usize, u32> = BTreeMap::new();
        for (number, (config, nodes)) in (1..).zip(collections) {
            let mut config = config.clone();
            config.sharding.count = nodes.len() as u32;
            config.fill_defaults();
            settle_profiles(&mut config);
            let placements = nodes.iter().map(|node| {
                let home = homes.entry(*node).or_default();
                *home += 1;
                Placement { node: self.nodes[*node].id, home: (*home - 1) % CORES as u32 }
            });
            let placements = placements.collect();
            let id = CollectionId(Uuid::from_u128(number));
            catalog.apply(&Command::CreateCollection { config, id, seed: 7, placements }).unwrap();
        }
        catalog
    }

    /// A catalog with one collection, with replicas of each shard on these nodes.
    pub(crate) fn replicated_catalog(
        &self,
        config: CollectionConfig,
        shards: &[&[usize]],
    ) -> Catalog {
        let firsts: Vec<usize> = shards.iter().map(|nodes| nodes[0]).collect();
        let mut config = config;
        config.replication.factor = shards[0].len() as u32;
        let catalog = self.catalog(&[(config, &firsts)]);
        let place = |node: &usize| Placement { node: self.nodes[*node].id, home: 0 };
        let replicas: Vec<Vec<Placement>> =
            shards.iter().map(|nodes| nodes.iter().map(place).collect()).collect();
        // Numbers of shards count from 1.
        catalog.with_replicas(|shard| &replicas[shard.0 as usize - 1])
    }

    /// Starts a node again on what it had.
    pub(crate) fn restart(&self, node: usize) -> TestNode {
        TestNode::start_among(&self.configs[node], &self.nodes)
    }

    /// Writes the identity and the catalog of a node, and starts it.
    pub(crate) fn start(&self, node: usize, catalog: &Catalog) -> TestNode {
        let folder = &self.configs[node].data_dir;
        std::fs::create_dir_all(folder).unwrap();
        let identity = Identity {
            format_version: FORMAT_VERSION,
            node: self.nodes[node].id,
            disk: Uuid::new_v4(),
            boot: 0,
        };
        std::fs::write(folder.join("node.json"), serde_json::to_vec(&identity).unwrap()).unwrap();
        for (name, bytes) in first_files(catalog).unwrap() {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        TestNode::start_among(&self.configs[node], &self.nodes)
    }

    pub(crate) fn start_all(&self, catalog: &Catalog) -> Vec<TestNode> {
        (0..self.nodes.len()).map(|node| self.start(node, catalog)).collect()
    }

    pub(crate) async fn client(&self, nodes: &[usize]) -> Client {
        Client::connect(nodes.iter().map(|node| self.nodes[*node].native.clone())).await.unwrap()
    }

    pub(crate) fn raw(&self, node: usize) -> RawClient {
        let config = &self.configs[node];
        RawClient::connect((config.listen, config.native_port))
    }
}

/// The status of a node.
pub(crate) async fn status_of(site: &Site, node: usize) -> serde_json::Value {
    let client = site.client(&[node]).await;
    loop {
        // A client of several nodes asks any of them.
        let status = client.status().await.unwrap();
        if status["name"] == site.nodes[node].name.as_str() {
            return status;
        }
    }
}

/// What a node counts about requests for shards that are elsewhere, over its cores.
async fn routed(site: &Site, node: usize) -> BTreeMap<&'static str, u64> {
    let status = status_of(site, node).await;
    let cores = status["cores"].as_array().unwrap();
    let sum = |key| cores.iter().map(|core| core["routing"][key].as_u64().unwrap()).sum();
    ["to_nodes", "to_cores", "for_peers"].map(|key| (key, sum(key))).into()
}

/// Waits until every vector is in a graph: before that, scans make up for what a graph misses.
async fn until_linked(site: &Site) {
    for node in 0..site.nodes.len() {
        let tail = async || {
            let status = status_of(site, node).await;
            let cores = status["cores"].as_array().unwrap().iter();
            let shards = cores.filter_map(|core| core["engine"]["shards"].as_array()).flatten();
            shards.map(|shard| shard["tail"].as_u64().unwrap()).sum::<u64>()
        };
        while tail().await > 0 {
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn put_request(rows: std::ops::Range<u64>) -> PutRequest {
    let mut put = PutRequest::new("Docs", "", 0, PutMode::Replace);
    for row in rows {
        put.push(&ObjectId::from_row(row), b"");
        assert!(put.push_vector("", &vector(row)));
    }
    put
}

pub(crate) fn ids(rows: std::ops::Range<u64>) -> Vec<u8> {
    rows.flat_map(|row| ObjectId::from_row(row).0).collect()
}

pub(crate) fn get_request(rows: std::ops::Range<u64>) -> GetRequest {
    let (collection, tenant) = ("Docs".to_owned(), String::new());
    GetRequest { collection, tenant, epoch: 0, ids: ids(rows), want: Want::ALL.bits() }
}

pub(crate) fn search_request(row: u64) -> SearchRequest {
    SearchRequest {
        collection: "Docs".to_owned(),
        tenant: String::new(),
        epoch: 0,
        vector: String::new(),
        queries: vector(row),
        dims: 8,
        near_id: Vec::new(),
        k: 5,
        ef: 64,
        offset: 0,
        max_distance: f32::NAN,
        autocut: 0,
        filter: Vec::new(),
        want: 0,
    }
}

pub(crate) fn count_request() -> CountRequest {
    let (collection, tenant) = ("Docs".to_owned(), String::new());
    CountRequest { collection, tenant, epoch: 0, filter: Vec::new() }
}

#[test]
fn objects_round_trip_over_two_nodes() {
    let site = Site::new(2);
    let catalog = site.catalog(&[(docs(1, Some(8)), &[0, 1, 1])]);
    let nodes = site.start_all(&catalog);
    block_on(async {
        let client = site.client(&[0]).await;
        let topology = client.topology();
        let natives: Vec<&String> = topology.nodes.iter().map(|it| &it.native_address).collect();
        assert_eq!(natives.len(), 2);
        assert!(site.nodes.iter().all(|node| natives.contains(&&node.native)), "{natives:?}");
        everything_holds(&client.collection("Docs")).await;
    });
    drop(nodes);
}

#[test]
fn a_node_that_has_no_shard_answers_for_those_that_have() {
    const ROWS: u64 = 300;
    let site = Site::new(2);
    let catalog = site.catalog(&[(docs(1, Some(8)), &[1, 1])]);
    let nodes = site.start_all(&catalog);
    let mut raw = site.raw(0);
    let outcomes = raw.call(&put_request(0..ROWS)).unwrap().into_results();
    assert_eq!(outcomes.len(), ROWS as usize);
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_ok_and(|stamp| stamp.0 > 0)));
    let got = raw.call(&get_request(0..ROWS + 1)).unwrap();
    assert_eq!(got.found.iter().filter(|flag| **flag == 1).count(), ROWS as usize);
    assert_eq!(got.found[ROWS as usize], 0);
    assert_eq!(got.objects.vectors[0].values[8 * 7..8 * 8], vector(7));
    assert_eq!(raw.call(&count_request()).unwrap().count, ROWS);
    let found = raw.call(&search_request(9)).unwrap();
    assert_eq!((found.ids[..16].to_vec(), found.distances[0]), (ids(9..10), 0.0));
    let (collection, tenant) = ("Docs".to_owned(), String::new());
    let delete = DeleteRequest { collection, tenant, epoch: 0, ids: ids(0..2) };
    assert!(raw.call(&delete).unwrap().into_results().into_iter().all(|it| it == Ok(true)));
    assert!(raw.call(&delete).unwrap().into_results().into_iter().all(|it| it == Ok(false)));
    assert_eq!(raw.call(&count_request()).unwrap().count, ROWS - 2);
    drop(nodes);
}

#[test]
fn a_request_goes_over_at_most_one_other_node() {
    let site = Site::new(2);
    let catalog = site.catalog(&[(docs(1, Some(8)), &[1, 1])]);
    let nodes = site.start_all(&catalog);
    let mut raw = site.raw(0);
    raw.call(&put_request(0..1)).unwrap();
    raw.call(&count_request()).unwrap();
    raw.call(&search_request(0)).unwrap();
    block_on(async {
        // One message a shard for the put, one a node for the others.
        assert_eq!(routed(&site, 0).await["to_nodes"], 3);
        let other = routed(&site, 1).await;
        assert_eq!((other["for_peers"], other["to_nodes"]), (3, 0));
        // The put went to the home core itself; the count meets each of two home cores.
        assert_eq!(other["to_cores"], 1);
    });
    drop(nodes);
}

#[test]
fn objects_too_large_for_one_reply_come_in_several() {
    const ROWS: u64 = 40;
    let site = Site::new(2);
    let catalog = site.catalog(&[(docs(1, Some(8)), &[1])]);
    let nodes = site.start_all(&catalog);
    block_on(async {
        let client = site.client(&[0]).await;
        let docs = client.collection("Docs");
        let text = |row: u64| "x".repeat(500_000 + row as usize);
        for row in 0..ROWS {
            let properties = Properties::from([("parity".to_owned(), Value::Text(text(row)))]);
            let large = Object::new(ObjectId::from_row(row)).with_properties(properties);
            docs.put(large.with_vector(vector(row))).await.unwrap();
        }
    });
    let mut raw = site.raw(0);
    let got = raw.call(&get_request(0..ROWS)).unwrap();
    assert_eq!(got.found, vec![1; ROWS as usize]);
    assert!(got.objects.property_bytes.len() > 20_000_000);
    assert_eq!(got.objects.ids, ids(0..ROWS), "in the order that was asked for");
    let (collection, tenant) = ("Docs".to_owned(), String::new());
    let (after, filter) = (Vec::new(), Vec::new());
    let mut scan = ScanRequest { collection, tenant, epoch: 0, after, limit: 100, filter, want: 1 };
    let mut seen = Vec::new();
    loop {
        let page = raw.call(&scan).unwrap();
        seen.extend_from_slice(&page.objects.ids);
        if page.next.is_empty() {
            break;
        }
        scan.after = page.next;
    }
    assert_eq!(seen, ids(0..ROWS));
    drop(nodes);
}

/// Vectors of the repository's demo: passages, queries, and the nearest passages of each query.
struct Demo {
    base: Vec<f32>,
    queries: Vec<f32>,
    truth: Vec<u64>,
}

const DEMO_DIMS: usize = 384;
const DEMO_TRUTH: usize = 100;

impl Demo {
    fn load() -> Self {
        let bytes = |name: &str| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(folder.join("../tools/demo-data").join(name)).unwrap();
            let head = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            bytes[10 + head..].to_vec()
        };
        let halves = |name: &str| {
            bytes(name).as_chunks::<2>().0.iter().map(|it| half(u16::from_le_bytes(*it))).collect()
        };
        let numbers = bytes("truth.npy");
        let truth = numbers.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it).into());
        Self { base: halves("base.npy"), queries: halves("queries.npy"), truth: truth.collect() }
    }

    async fn put(&self, docs: &Collection) {
        let rows: Vec<Object> = (0..)
            .zip(self.base.chunks_exact(DEMO_DIMS))
            .map(|(row, values)| Object::new(ObjectId::from_row(row)).with_vector(values.to_vec()))
            .collect();
        for outcome in docs.put_batch(PutMode::Replace, &rows).await.unwrap() {
            outcome.unwrap();
        }
    }

    /// Share of the ten nearest that are found, and the distances that a query took.
    async fn recall(&self, docs: &Collection, ef: u32) -> (f64, u64) {
        let search = Search::template().k(10).ef(ef);
        let results = docs.search_batch(&search, &self.queries, DEMO_DIMS).await.unwrap();
        let mut found = 0;
        for (result, truth) in results.iter().zip(self.truth.chunks_exact(DEMO_TRUTH)) {
            let truth: Vec<ObjectId> =
                truth[..10].iter().map(|it| ObjectId::from_row(*it)).collect();
            found += result.hits.iter().filter(|hit| truth.contains(&hit.id)).count();
        }
        let distances: u64 = results.iter().map(|result| u64::from(result.evaluations)).sum();
        (found as f64 / (10 * results.len()) as f64, distances / results.len() as u64)
    }
}

/// A half-precision number of normal size, or zero.
fn half(bits: u16) -> f32 {
    let (sign, magnitude) = (u32::from(bits >> 15) << 31, u32::from(bits & 0x7FFF));
    // The exponent of a single is biased by 112 more; subnormal halves are scaled by it too.
    f32::from_bits(sign | magnitude << 13) * f32::from_bits(0x7780_0000)
}

fn demo_config() -> CollectionConfig {
    let vector = VectorConfig {
        dims: Some(DEMO_DIMS as u32),
        distance: Distance::Cosine,
        ..Default::default()
    };
    let sharding = ShardingConfig { count: 1, ..Default::default() };
    let name = "Docs".to_owned();
    CollectionConfig { name, vectors: vec![vector], sharding, ..Default::default() }
}

#[test]
fn recall_of_six_shards_on_three_nodes_is_that_of_one_shard() {
    // Pools so small that one shard misses many, and one at which it misses few.
    const EFS: [u32; 3] = [16, 32, 64];
    let demo = Demo::load();
    let alone = Site::new(1);
    let one = alone.start(0, &alone.catalog(&[(demo_config(), &[0])]));
    let expected = block_on(async {
        let docs = alone.client(&[0]).await.collection("Docs");
        demo.put(&docs).await;
        until_linked(&alone).await;
        let mut recalls = Vec::new();
        for ef in EFS {
            recalls.push(demo.recall(&docs, ef).await);
        }
        recalls
    });
    drop(one);
    let site = Site::new(3);
    let nodes = site.start_all(&site.catalog(&[(demo_config(), &[0, 1, 2, 0, 1, 2])]));
    block_on(async {
        let docs = site.client(&[0]).await.collection("Docs");
        demo.put(&docs).await;
        until_linked(&site).await;
        for (ef, (expected, one)) in EFS.into_iter().zip(expected) {
            let (recall, distances) = demo.recall(&docs, ef).await;
            println!(
                "recall@10 at ef {ef}: {recall:.4} on three nodes with {distances} distances, \
                 {expected:.4} on one with {one}"
            );
            assert!(recall > expected - 0.005, "{recall} instead of {expected} at ef {ef}");
        }
    });
    drop(nodes);
}

#[track_caller]
fn assert_names(error: &ApiError, node: &PeerNode, shard: &str) {
    assert!(error.message.contains(&node.name), "{error}");
    assert!(error.message.contains(shard), "{error}");
}

#[test]
fn a_node_that_is_gone_is_named_and_nothing_is_silently_left_out() {
    let site = Site::new(2);
    let catalog = site.catalog(&[(docs(1, Some(8)), &[0, 1])]);
    let mut nodes = site.start_all(&catalog);
    let mut raw = site.raw(0);
    raw.call(&put_request(0..200)).unwrap();
    nodes.pop().unwrap().kill();
    let gone = &site.nodes[1];
    let error = raw.call(&search_request(1)).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    assert_names(&error, gone, "shard 2");
    let error = raw.call(&count_request()).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    assert_names(&error, gone, "shard 2");
    // Of a put each object tells for itself.
    let outcomes = raw.call(&put_request(0..200)).unwrap().into_results();
    let (written, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert!(written.len() > 50 && failed.len() > 50, "{} and {}", written.len(), failed.len());
    for outcome in failed {
        let error = outcome.unwrap_err();
        assert!(matches!(error.code, ErrorCode::Unavailable | ErrorCode::Unknown), "{error}");
        assert_names(&error, gone, "shard 2");
    }
}

#[test]
fn a_client_goes_on_without_a_node_that_holds_nothing_it_wants() {
    let site = Site::new(2);
    let catalog = site.catalog(&[(docs(1, Some(8)), &[1, 1])]);
    let mut nodes = site.start_all(&catalog);
    block_on(async {
        let client = site.client(&[0]).await;
        let docs = client.collection("Docs");
        put_all(&docs, 0..100).await;
        nodes.remove(0).kill();
        for row in 0..20 {
            // Either node can answer this; what follows needs the other one.
            client.collection_config("Docs").await.unwrap();
            let found = docs.search(&Search::near(vector(row)).k(1)).await.unwrap();
            assert_eq!(found.hits[0].id, ObjectId::from_row(row));
            assert_eq!(docs.count(None).await.unwrap(), 100 + row);
            docs.put(object(100 + row)).await.unwrap();
        }
        client.refresh_topology().await.unwrap();
        let page = docs.scan_page(&Scan { page_objects: 1_000, ..Scan::default() }).await.unwrap();
        assert_eq!(page.objects.len(), 120);
    });
}

#[test]
fn a_node_whose_catalog_is_behind_is_waited_for_by_writes_and_reads_what_it_has() {
    let site = Site::new(2);
    let both: &[(CollectionConfig, &[usize])] = &[
        (docs(1, Some(8)), &[0, 1]),
        (CollectionConfig { name: "Later".to_owned(), ..docs(1, Some(8)) }, &[0]),
    ];
    let catalog = site.catalog(both);
    let entry = catalog.collection("Docs").unwrap();
    let is_there = |row: &u64| {
        let id = ObjectId(ids(*row..row + 1).try_into().unwrap());
        entry.routing.shard_of(&id) == entry.shards[1].id
    };
    let row = (0..).find(is_there).unwrap();
    let (collection, tenant) = ("Docs".to_owned(), String::new());
    let delete = DeleteRequest { collection, tenant, epoch: 0, ids: ids(row..row + 1) };
    let _ahead = site.start(0, &catalog);
    let _behind = site.start(1, &site.catalog(&both[..1]));
    let mut raw = site.raw(0);
    // It does not come to that version in time.
    raw.send_bytes(&encode_request(1, 200_000, &delete).unwrap());
    let (_, error) = raw.receive_error();
    let codes = [ErrorCode::Unavailable, ErrorCode::DeadlineExceeded, ErrorCode::Unknown];
    assert!(codes.contains(&error.code), "{error}");
    assert_names(&error, &site.nodes[1], "shard 2");
    // What it holds it reads all the same.
    assert_eq!(raw.call(&count_request()).unwrap().count, 0);
    // Nor does a client wait for it for ever that has it from elsewhere.
    let ahead = CountRequest { epoch: 2, ..count_request() };
    let mut other = site.raw(1);
    other.send_bytes(&encode_request(1, 200_000, &ahead).unwrap());
    let (_, error) = other.receive_error();
    assert!(codes.contains(&error.code) && error.message.contains("epoch 2"), "{error}");
    // It comes to it while it is waited for.
    let before = block_on(async { routed(&site, 1).await["for_peers"] });
    raw.send(2, &delete);
    block_on(async {
        while routed(&site, 1).await["for_peers"] == before {
            tokio::task::yield_now().await;
        }
    });
    let later = CollectionConfig { name: "Later".to_owned(), ..docs(1, Some(8)) };
    let definition = serde_json::to_string(&later).unwrap();
    other.call(&heddle_wire::message::CollectionCreateRequest { definition }).unwrap();
    let (header, _) = raw.receive().unwrap();
    assert!(matches!(header.kind(), FrameKind::Reply(_)), "{header:?}");
    assert_eq!(other.call(&ahead).unwrap().count, 0);
}

#[test]
fn a_client_hears_of_a_new_topology_and_of_an_old_route_if_it_asked() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    let hello = |features| HelloRequest {
        version_min: VERSION,
        version_max: VERSION,
        features,
        client: "test".to_owned(),
    };
    let create = |name: &str| {
        let config = CollectionConfig { name: name.to_owned(), ..docs(1, Some(8)) };
        let definition = serde_json::to_string(&config).unwrap();
        heddle_wire::message::CollectionCreateRequest { definition }
    };
    let (mut quiet, mut told) =
        (RawClient::connect(node.address()), RawClient::connect(node.address()));
    assert_eq!(quiet.call(&hello(1 << 40)).unwrap().features, 0);
    let features = FEATURE_TOPOLOGY_NOTICES | FEATURE_STALE_EPOCH;
    assert_eq!(told.call(&hello(features | 1 << 40)).unwrap().features, features);
    let first = quiet.call(&create("Docs")).unwrap().epoch;
    let (header, body) = told.receive().unwrap();
    assert_eq!((header.kind(), header.request_id), (FrameKind::Notice, 0));
    assert_eq!(decode::<TopologyNotice>(&body).unwrap().epoch, first);
    quiet.call(&create("More")).unwrap();
    let (header, _) = told.receive().unwrap();
    assert_eq!(header.kind(), FrameKind::Notice);
    // Routed by an epoch that is over: one client wants to know, the other wants the answer.
    let count = CountRequest { epoch: first, ..count_request() };
    assert_eq!(quiet.call(&count).unwrap().count, 0);
    assert_eq!(told.call(&count).unwrap_err().code, ErrorCode::StaleEpoch);
    assert_eq!(told.call(&count_request()).unwrap().count, 0);
}

#[test]
fn a_filter_that_does_not_fit_is_refused_as_by_one_node() {
    let site = Site::new(2);
    let nodes = site.start_all(&site.catalog(&[(docs(1, Some(8)), &[0, 1])]));
    block_on(async {
        let client = site.client(&[0]).await;
        let docs = client.collection("Docs");
        let unknown =
            heddle_types::Filter::compare("nothing", heddle_types::Operator::Equal, Value::Int(1));
        let error = docs.count(Some(&unknown)).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidProperty), "{error}");
        let error = docs.search(&Search::near(vec![1.0; 7])).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidVector), "{error}");
        let bad = Object::new(ObjectId::from_row(1)).with_vector(vec![f32::NAN; 8]);
        let error: ClientError = docs.put(bad).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidVector), "{error}");
    });
    drop(nodes);
}
