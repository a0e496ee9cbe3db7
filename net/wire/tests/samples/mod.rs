//! One message of every kind, each field set to something that tells it from the others.

mod levels;
mod shards;

#[allow(unused_imports, reason = "not every test program uses all samples")]
pub(crate) use levels::{put_at, replica_digest_reply};
#[allow(unused_imports, reason = "not every test program uses all samples")]
pub(crate) use shards::{
    shard_count, shard_delete, shard_get, shard_put, shard_scan, shard_search, shard_search_reply,
};

use heddle_types::{ApiError, ErrorCode, Hlc, ObjectId};
use heddle_wire::message::{
    BackupBeginReply, BackupBeginRequest, BackupEndReply, BackupEndRequest, BackupReadReply,
    BackupReadRequest, CollectionCreateReply, CollectionCreateRequest, CollectionDropReply,
    CollectionDropRequest, CollectionEntry, CollectionListReply, CollectionListRequest,
    CollectionShowReply, CollectionShowRequest, CountReply, CountRequest, DeleteReply,
    DeleteRequest, DeleteWithReply, DeleteWithRequest, Durability, GetReply, GetRequest,
    HelloReply, HelloRequest, NodeChangeReply, NodeChangeRequest, NodeFate, NodeStatusReply,
    NodeStatusRequest, ObjectColumns, PutMode, PutReply, PutRequest, PutWithReply, PutWithRequest,
    ScanReply, ScanRequest, SearchReply, SearchRequest, ShardReplicas, TopologyCollection,
    TopologyNode, TopologyNotice, TopologyReplicasReply, TopologyReplicasRequest, TopologyReply,
    TopologyRequest, Want,
};
use heddle_wire::message::{CompareReply, CompareRequest, ShardComparison};
use heddle_wire::message::{
    TenantAction, TenantChangeReply, TenantChangeRequest, TenantItem, TenantListReply,
    TenantListRequest,
};
use heddle_wire::{Body, Frame, Request, encode_error, encode_reply, encode_request};

fn request<M: Request>(id: u64, deadline_us: u32, message: &M) -> Frame {
    encode_request(id, deadline_us, message).expect("a sample fits into a frame")
}

fn reply<M: Body>(id: u64, message: &M) -> Frame {
    encode_reply(id, message).expect("a sample fits into a frame")
}

/// Every sample with the name of its fixture.
pub(crate) fn all() -> Vec<(&'static str, Frame)> {
    let mut samples = plain();
    samples.extend(tenants());
    samples.extend(comparisons());
    samples.extend(data());
    samples.extend(shards::all());
    samples.extend(levels::all());
    samples
}

fn entry() -> CollectionEntry {
    CollectionEntry { id: [9; 16], definition: r#"{"name":"Docs"}"#.to_owned() }
}

fn ids(rows: &[u64]) -> Vec<u8> {
    rows.iter().flat_map(|row| ObjectId::from_row(*row).0).collect()
}

fn topology() -> TopologyReply {
    let node = TopologyNode {
        id: [1; 16],
        name: "node-one".to_owned(),
        address: "192.0.2.7".to_owned(),
        native_port: 7_700,
        http_port: 8_080,
        core_ports: vec![7_701, 7_702],
    };
    let collection = TopologyCollection {
        id: [9; 16],
        definition: r#"{"name":"Docs"}"#.to_owned(),
        shard_ids: vec![11, 12],
        shard_nodes: vec![0, 0],
        shard_cores: vec![0, 1],
        owners: vec![0, 1, 0, 1],
    };
    TopologyReply { epoch: 5, answering_node: 0, nodes: vec![node], collections: vec![collection] }
}

pub(crate) fn topology_replicas() -> TopologyReplicasReply {
    let mut topology = topology();
    let second = TopologyNode {
        id: [2; 16],
        name: "node-two".to_owned(),
        address: "192.0.2.8".to_owned(),
        ..topology.nodes[0].clone()
    };
    topology.nodes.push(second);
    let replicas =
        ShardReplicas { ends: vec![2, 4], nodes: vec![0, 1, 0, 1], cores: vec![0, 1, 1, 0] };
    TopologyReplicasReply { topology, replicas: vec![replicas] }
}

fn hello() -> HelloReply {
    HelloReply {
        version: 1,
        core: 1,
        core_count: 2,
        features: 0,
        node_id: [1; 16],
        node_name: "node-one".to_owned(),
        server_version: "0.1.0".to_owned(),
        server_time_us: 1_800_000_000_000_000,
        body_bytes_max: 16 << 20,
        requests_in_flight_max: 128,
        bytes_in_flight_max: 32 << 20,
    }
}

pub(crate) fn tenant_list() -> TenantListReply {
    let (shards, ends, nodes) = (vec![11, 12], vec![2, 3], vec![7; 48]);
    let acme = TenantItem { name: "acme".to_owned(), active: 1, shards, ends, nodes };
    let other = TenantItem { name: "other-1".to_owned(), ..TenantItem::default() };
    TenantListReply { epoch: 5, total: 9, active: 4, tenants: vec![acme, other], more: 1 }
}

pub(crate) fn tenant_change() -> TenantChangeRequest {
    let tenants = vec!["acme".to_owned(), "other-1".to_owned()];
    TenantChangeRequest::new("Docs", TenantAction::Deactivate, tenants)
}

fn tenants() -> Vec<(&'static str, Frame)> {
    let list = TenantListRequest {
        collection: "Docs".to_owned(),
        tenants: vec!["acme".to_owned()],
        after: "a".to_owned(),
        limit: 100,
        places: 1,
    };
    vec![
        ("tenant_change.request", request(61, 61, &tenant_change())),
        ("tenant_change.reply", reply(61, &TenantChangeReply { epoch: 5, changed: 2 })),
        ("tenant_list.request", request(62, 62, &list)),
        ("tenant_list.reply", reply(62, &tenant_list())),
    ]
}

fn comparisons() -> Vec<(&'static str, Frame)> {
    let (collection, tenant) = ("Docs".to_owned(), "acme".to_owned());
    let found = ShardComparison {
        shard: 11,
        replicas: 3,
        took_part: 2,
        leaves_differing: 4,
        compared: 300,
        lacking: 5,
        undeleted: 1,
        problem: "one replica does not answer".to_owned(),
    };
    let shards = vec![found, ShardComparison { shard: 12, ..ShardComparison::default() }];
    vec![
        ("compare.request", request(63, 63, &CompareRequest { collection, tenant, epoch: 5 })),
        ("compare.reply", reply(63, &CompareReply { shards })),
    ]
}

fn plain() -> Vec<(&'static str, Frame)> {
    let definition = entry().definition;
    let error = ApiError::new(ErrorCode::InvalidVector, "vector has 3 dimensions", "128");
    let (collection, epoch) = (entry(), 5);
    let collections = vec![entry(), CollectionEntry { id: [8; 16], ..entry() }];
    let client = "heddle-client 0.1.0".to_owned();
    let hello_request = HelloRequest { version_min: 1, version_max: 1, features: 0, client };
    let json = r#"{"version":"0.1.0"}"#.to_owned();
    let name = "Docs".to_owned();
    let backup = vec![7; 16];
    let backup_read = BackupReadRequest {
        backup: backup.clone(),
        name: "shards/0000000001/image-3".to_owned(),
        offset: 4_096,
        length: 1 << 20,
    };
    vec![
        ("hello.request", request(1, 10, &hello_request)),
        ("hello.reply", reply(1, &hello())),
        ("topology.request", request(2, 20, &TopologyRequest { known_epoch: 4 })),
        ("topology.reply", reply(2, &topology())),
        ("topology_replicas.request", request(21, 20, &TopologyReplicasRequest { known_epoch: 4 })),
        ("topology_replicas.reply", reply(21, &topology_replicas())),
        ("collection_create.request", request(3, 30, &CollectionCreateRequest { definition })),
        (
            "collection_create.reply",
            reply(3, &CollectionCreateReply { epoch, collection: collection.clone() }),
        ),
        (
            "collection_list.request",
            request(4, 40, &CollectionListRequest { prefix: "Do".to_owned() }),
        ),
        ("collection_list.reply", reply(4, &CollectionListReply { epoch, collections })),
        ("collection_show.request", request(5, 50, &CollectionShowRequest { name: name.clone() })),
        ("collection_show.reply", reply(5, &CollectionShowReply { epoch, collection })),
        ("collection_drop.request", request(6, 60, &CollectionDropRequest { name })),
        ("collection_drop.reply", reply(6, &CollectionDropReply { epoch })),
        ("node_status.request", request(7, 70, &NodeStatusRequest::default())),
        ("node_status.reply", reply(7, &NodeStatusReply { json })),
        (
            "node_change.request",
            request(16, 0, &NodeChangeRequest::new("db-3".to_owned(), NodeFate::Drain)),
        ),
        ("node_change.reply", reply(16, &NodeChangeReply { epoch: 9 })),
        ("backup_begin.request", request(9, 90, &BackupBeginRequest::default())),
        (
            "backup_begin.reply",
            reply(
                9,
                &BackupBeginReply {
                    backup: backup.clone(),
                    json: "{\"manifest_bytes\":9000}".to_owned(),
                },
            ),
        ),
        ("backup_read.request", request(10, 100, &backup_read)),
        ("backup_read.reply", reply(10, &BackupReadReply { bytes: vec![1, 2, 3] })),
        ("backup_end.request", request(11, 110, &BackupEndRequest { backup })),
        ("backup_end.reply", reply(11, &BackupEndReply::default())),
        ("error.reply", encode_error(8, &error)),
        ("topology_notice", reply(0, &TopologyNotice { epoch: 6 })),
    ]
}

/// Two objects; the second has a second vector.
pub(crate) fn put_request() -> PutRequest {
    let mut put = PutRequest::new("Docs", "acme", 5, PutMode::Merge);
    put.push(&ObjectId::from_row(1), b"row one");
    assert!(put.push_vector("", &[1.0, -2.5, 0.25]));
    put.push(&ObjectId::from_row(2), b"");
    assert!(put.push_vector("", &[4.0, 5.0, f32::MIN_POSITIVE]));
    assert!(put.push_vector("title", &[7.0]));
    put
}

fn objects() -> ObjectColumns {
    let mut objects = ObjectColumns::default();
    objects.push(&ObjectId::from_row(1), 100, 200, Hlc(300), Some(b"row one"));
    objects.push_vector("", &[1.0, 2.0]);
    objects.push(&ObjectId::from_row(3), 101, 201, Hlc(301), Some(b"row three"));
    objects.push_vector("title", &[3.0]);
    objects
}

/// A search for two vectors of three components.
pub(crate) fn search_request() -> SearchRequest {
    SearchRequest {
        collection: "Docs".to_owned(),
        tenant: "acme".to_owned(),
        epoch: 5,
        vector: "title".to_owned(),
        queries: vec![1.0, 2.0, 3.0, -1.0, -2.0, -3.0],
        dims: 3,
        near_id: Vec::new(),
        k: 10,
        ef: 64,
        offset: 2,
        max_distance: 0.75,
        autocut: 0,
        filter: vec![1, 2, 3],
        want: Want::ALL.bits(),
    }
}

fn search_near() -> SearchRequest {
    let (queries, near_id) = (Vec::new(), ids(&[7]));
    SearchRequest { queries, dims: 0, near_id, max_distance: f32::NAN, want: 0, ..search_request() }
}

fn search_reply() -> SearchReply {
    SearchReply {
        ends: vec![0, 2],
        ids: ids(&[1, 3]),
        distances: vec![0.125, 0.5],
        objects: objects(),
        evaluations: vec![0, 1_500],
        server_us: vec![3, 90],
        queue_us: 12,
    }
}

fn data() -> Vec<(&'static str, Frame)> {
    let names = || ("Docs".to_owned(), "acme".to_owned());
    let error = ApiError::new(ErrorCode::InvalidVector, "vector has 3 dimensions", "128");
    let (collection, tenant) = names();
    let want = Want { properties: true, ..Want::default() }.bits();
    let get = GetRequest { collection, tenant, epoch: 5, ids: ids(&[1, 2, 3]), want };
    let (collection, tenant) = names();
    let delete = DeleteRequest { collection, tenant, epoch: 5, ids: ids(&[1, 2]) };
    let (collection, tenant) = names();
    let (after, filter) = (ids(&[1]), vec![4, 5]);
    let scan = ScanRequest { collection, tenant, epoch: 5, after, limit: 100, filter, want };
    let (collection, tenant) = names();
    let count = CountRequest { collection, tenant, epoch: 5, filter: vec![6] };
    let mut put_reply = PutReply::default();
    put_reply.push(Ok(Hlc(77)));
    put_reply.push(Err(&error));
    put_reply.push(Err(&error));
    let mut delete_reply = DeleteReply::default();
    delete_reply.push(Ok(true));
    delete_reply.push(Ok(false));
    delete_reply.push(Err(&error));
    let get_reply = GetReply { found: vec![1, 0, 1], objects: objects() };
    let scan_reply = ScanReply { objects: objects(), next: ids(&[3]) };
    let put_with = PutWithRequest::new(Durability::Batched, put_request());
    let put_with_reply = PutWithReply::new(Durability::Batched, put_reply.clone());
    let delete_with = DeleteWithRequest::new(Durability::Batched, delete.clone());
    let delete_with_reply = DeleteWithReply::new(Durability::Sync, delete_reply.clone());
    vec![
        ("put_with.request", request(16, 160, &put_with)),
        ("put_with.reply", reply(16, &put_with_reply)),
        ("delete_with.request", request(17, 170, &delete_with)),
        ("delete_with.reply", reply(17, &delete_with_reply)),
        ("put.request", request(9, 90, &put_request())),
        ("put.reply", reply(9, &put_reply)),
        ("get.request", request(10, 100, &get)),
        ("get.reply", reply(10, &get_reply)),
        ("delete.request", request(11, 110, &delete)),
        ("delete.reply", reply(11, &delete_reply)),
        ("search.request", request(12, 120, &search_request())),
        ("search_near.request", request(13, 0, &search_near())),
        ("search.reply", reply(12, &search_reply())),
        ("scan.request", request(14, 140, &scan)),
        ("scan.reply", reply(14, &scan_reply)),
        ("count.request", request(15, 150, &count)),
        ("count.reply", reply(15, &CountReply { count: 1 << 40 })),
    ]
}
