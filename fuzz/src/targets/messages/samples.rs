//! One valid body of each message.

use heddle_types::{ApiError, ErrorCode, Filter, Hlc, ObjectId, Operator, Value};
use heddle_wire::message::{
    BackupBeginReply, BackupBeginRequest, BackupEndReply, BackupEndRequest, BackupReadReply,
    BackupReadRequest, CollectionCreateReply, CollectionCreateRequest, CollectionDropReply,
    CollectionDropRequest, CollectionEntry, CollectionListReply, CollectionListRequest,
    CollectionShowReply, CollectionShowRequest, CountReply, CountRequest, DeleteReply,
    DeleteRequest, DeleteWithReply, DeleteWithRequest, Durability, ErrorReply, GetReply,
    GetRequest, HelloReply, HelloRequest, NodeChangeReply, NodeChangeRequest, NodeFate,
    NodeStatusReply, NodeStatusRequest, ObjectColumns, PutMode, PutReply, PutRequest, PutWithReply,
    PutWithRequest, ScanReply, ScanRequest, SearchReply, SearchRequest, ShardCountReply,
    ShardCountRequest, ShardDeleteReply, ShardDeleteRequest, ShardGetReply, ShardGetRequest,
    ShardHead, ShardPutReply, ShardPutRequest, ShardReplicas, ShardScanReply, ShardScanRequest,
    ShardSearchReply, ShardSearchRequest, TopologyCollection, TopologyNode, TopologyNotice,
    TopologyReplicasReply, TopologyReplicasRequest, TopologyReply, TopologyRequest, Want,
};
use heddle_wire::message::{
    TenantAction, TenantChangeReply, TenantChangeRequest, TenantItem, TenantListReply,
    TenantListRequest,
};
use heddle_wire::{Body, encode_reply};

use super::{levels, repair};

pub(super) const COLLECTION: &str = "Passage";
const DEFINITION: &str = r#"{"name":"Passage","properties":[{"name":"a","type":"text"}]}"#;

/// A body in the place of each check, with the byte that picks it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let writes = [objects(), durability(), levels::by_id()].concat();
    let reads = [queries(), levels::over_shards()].concat();
    let about = [status(), repair::of_clients(), errors()].concat();
    let plain = [control(), collections(), writes, reads, about].concat();
    let replicas = [levels::between_replicas(), repair::between_replicas()].concat();
    let shards = [shard_writes(), shard_reads(), replicas].concat();
    let bodies = [plain, shards, tenants()].concat();
    assert_eq!(bodies.len(), super::CHECKS.len(), "one sample for each message");
    let numbered = (0_u8..).zip(bodies);
    numbered.map(|(kind, body)| [vec![kind], body].concat()).collect()
}

pub(super) fn body<M: Body>(message: &M) -> Vec<u8> {
    encode_reply(1, message).expect("samples are small").body().to_vec()
}

fn filter() -> Vec<u8> {
    let is_text = Filter::compare("a", Operator::Equal, Value::Text("weft".to_owned()));
    let filter = Filter::Not(Box::new(Filter::And(vec![is_text])));
    filter.encode().expect("samples are small")
}

pub(super) fn error() -> ApiError {
    ApiError::new(ErrorCode::InvalidVector, "vector has 3 dimensions", "4")
}

fn entry() -> CollectionEntry {
    CollectionEntry { id: [7; 16], definition: DEFINITION.to_owned() }
}

fn tenants() -> Vec<Vec<u8>> {
    let names = vec!["t".to_owned(), "acme-1".to_owned()];
    let (collection, tenants) = (COLLECTION.to_owned(), names.clone());
    let (shards, ends, nodes) = (vec![4, 5], vec![2, 3], vec![7; 48]);
    let item = TenantItem { name: "t".to_owned(), active: 1, shards, ends, nodes };
    vec![
        body(&TenantChangeRequest::new(COLLECTION, TenantAction::Create, names)),
        body(&TenantChangeReply { epoch: 5, changed: 2 }),
        body(&TenantListRequest {
            collection,
            tenants,
            after: "a".to_owned(),
            limit: 9,
            places: 1,
        }),
        body(&TenantListReply { epoch: 5, total: 3, active: 2, tenants: vec![item], more: 1 }),
    ]
}

fn control() -> Vec<Vec<u8>> {
    vec![
        body(&HelloRequest {
            version_min: 1,
            version_max: 3,
            features: 0,
            client: "fuzz 1".to_owned(),
        }),
        body(&HelloReply {
            version: 1,
            core: 0,
            core_count: 2,
            features: 0,
            node_id: [9; 16],
            node_name: "node-1".to_owned(),
            server_version: "0.1.0".to_owned(),
            server_time_us: 1_700_000_000_000_000,
            body_bytes_max: 16 << 20,
            requests_in_flight_max: 128,
            bytes_in_flight_max: 32 << 20,
        }),
        body(&TopologyRequest { known_epoch: 4 }),
        body(&topology()),
        body(&TopologyReplicasRequest { known_epoch: 4 }),
        body(&TopologyReplicasReply {
            topology: topology(),
            replicas: vec![ShardReplicas {
                ends: vec![1, 3],
                nodes: vec![0, 0, 0],
                cores: vec![0, 1, 0],
            }],
        }),
    ]
}

fn topology() -> TopologyReply {
    TopologyReply {
        epoch: 5,
        answering_node: 0,
        nodes: vec![TopologyNode {
            id: [9; 16],
            name: "node-1".to_owned(),
            address: String::new(),
            native_port: 7700,
            http_port: 8080,
            core_ports: vec![7701, 7702],
        }],
        collections: vec![TopologyCollection {
            id: [7; 16],
            definition: DEFINITION.to_owned(),
            shard_ids: vec![1, 2],
            shard_nodes: vec![0, 0],
            shard_cores: vec![0, 1],
            owners: vec![0, 1, 0, 1],
        }],
    }
}

fn collections() -> Vec<Vec<u8>> {
    let name = COLLECTION.to_owned();
    vec![
        body(&CollectionCreateRequest { definition: DEFINITION.to_owned() }),
        body(&CollectionCreateReply { epoch: 6, collection: entry() }),
        body(&CollectionListRequest { prefix: "Pa".to_owned() }),
        body(&CollectionListReply { epoch: 6, collections: vec![entry(), entry()] }),
        body(&CollectionShowRequest { name: name.clone() }),
        body(&CollectionShowReply { epoch: 6, collection: entry() }),
        body(&CollectionDropRequest { name }),
        body(&CollectionDropReply { epoch: 7 }),
    ]
}

fn columns() -> ObjectColumns {
    let mut columns = ObjectColumns::default();
    for (number, row) in (1..).zip(super::super::row::seeds().iter().take(3)) {
        columns.push(&ObjectId::from_row(number), 1, 2, Hlc(3), Some(row));
        columns.push_vector("", &[0.5, -1.0, 2.0, 0.0]);
    }
    columns.push_vector("title", &[1.0]);
    columns
}

fn durability() -> Vec<Vec<u8>> {
    let mut put = PutRequest::new(COLLECTION, "", 5, PutMode::Replace);
    put.push(&ObjectId::from_row(1), b"");
    assert!(put.push_vector("", &[0.5, -1.0]));
    let mut put_reply = PutReply::default();
    put_reply.push(Ok(Hlc(77)));
    put_reply.push(Err(&error()));
    let (collection, tenant) = (COLLECTION.to_owned(), "t".to_owned());
    let ids = ObjectId::from_row(1).0.to_vec();
    let delete = DeleteRequest { collection, tenant, epoch: 5, ids };
    let mut delete_reply = DeleteReply::default();
    delete_reply.push(Ok(true));
    vec![
        body(&PutWithRequest::new(Durability::Batched, put)),
        body(&PutWithReply::new(Durability::Batched, put_reply)),
        body(&DeleteWithRequest::new(Durability::Sync, delete)),
        body(&DeleteWithReply::new(Durability::Sync, delete_reply)),
    ]
}

fn objects() -> Vec<Vec<u8>> {
    let (collection, tenant) = (COLLECTION.to_owned(), "t".to_owned());
    let ids = [ObjectId::from_row(1).0, ObjectId::from_row(2).0].concat();
    let mut put = PutRequest::new(COLLECTION, "", 5, PutMode::Merge);
    for (number, row) in (1..).zip(super::super::row::seeds().iter().take(4)) {
        put.push(&ObjectId::from_row(number), row);
        assert!(put.push_vector("", &[0.5, -1.0, 2.0, 0.0]));
    }
    assert!(put.push_vector("title", &[1.0, 2.0]));
    let mut put_reply = PutReply::default();
    put_reply.push(Ok(Hlc(77)));
    put_reply.push(Err(&error()));
    let mut delete_reply = DeleteReply::default();
    delete_reply.push(Ok(true));
    delete_reply.push(Err(&error()));
    let want = Want::ALL.bits();
    vec![
        body(&put),
        body(&put_reply),
        body(&GetRequest {
            collection: collection.clone(),
            tenant: tenant.clone(),
            epoch: 5,
            ids: ids.clone(),
            want,
        }),
        body(&GetReply { found: vec![1, 0, 1, 1], objects: columns() }),
        body(&DeleteRequest { collection, tenant, epoch: 5, ids }),
        body(&delete_reply),
    ]
}

fn queries() -> Vec<Vec<u8>> {
    let (collection, tenant) = (COLLECTION.to_owned(), String::new());
    let id = ObjectId::from_row(1).0.to_vec();
    vec![
        body(&SearchRequest {
            collection: collection.clone(),
            tenant: tenant.clone(),
            epoch: 5,
            vector: String::new(),
            queries: vec![0.5, -1.0, 2.0, 0.0, 1.0, 1.0, 1.0, 1.0],
            dims: 4,
            near_id: Vec::new(),
            k: 10,
            ef: 40,
            offset: 0,
            max_distance: f32::NAN,
            autocut: 0,
            filter: filter(),
            want: Want::ALL.bits(),
        }),
        body(&SearchReply {
            ends: vec![1, 3],
            ids: [1, 2, 3].map(|number| ObjectId::from_row(number).0).concat(),
            distances: vec![0.25, 0.5, 0.75],
            objects: columns(),
            evaluations: vec![100, 200],
            server_us: vec![90, 80],
            queue_us: 3,
        }),
        body(&ScanRequest {
            collection: collection.clone(),
            tenant: tenant.clone(),
            epoch: 5,
            after: id.clone(),
            limit: 100,
            filter: filter(),
            want: Want::ALL.bits(),
        }),
        body(&ScanReply { objects: columns(), next: id }),
        body(&CountRequest { collection, tenant, epoch: 5, filter: filter() }),
        body(&CountReply { count: 8_800 }),
    ]
}

fn status() -> Vec<Vec<u8>> {
    let (backup, name) = (vec![7; 16], "shards/0000000001/image-3".to_owned());
    vec![
        body(&NodeStatusRequest::default()),
        body(&NodeStatusReply { json: "{\"cores\":2}".to_owned() }),
        body(&NodeChangeRequest::new("db-3".to_owned(), NodeFate::Remove)),
        body(&NodeChangeReply { epoch: 9 }),
        body(&BackupBeginRequest::default()),
        body(&BackupBeginReply {
            backup: backup.clone(),
            json: "{\"manifest_bytes\":9000}".to_owned(),
        }),
        body(&BackupReadRequest { backup: backup.clone(), name, offset: 4_096, length: 1 << 20 }),
        body(&BackupReadReply { bytes: vec![1, 2, 3] }),
        body(&BackupEndRequest { backup }),
        body(&BackupEndReply::default()),
    ]
}

fn errors() -> Vec<Vec<u8>> {
    vec![body(&ErrorReply::from(&error()))]
}

fn head() -> ShardHead {
    ShardHead { collection: [7; 16], epoch: 5 }
}

fn shard_writes() -> Vec<Vec<u8>> {
    let mut put = PutRequest::new("", "", 0, PutMode::Merge);
    put.push(&ObjectId::from_row(1), b"");
    assert!(put.push_vector("title", &[1.0, 2.0]));
    let mut put_reply = PutReply::default();
    put_reply.push(Err(&error()));
    let mut delete = DeleteReply::default();
    delete.push(Ok(true));
    let ids = ObjectId::from_row(1).0.to_vec();
    vec![
        body(&TopologyNotice { epoch: 9 }),
        body(&ShardPutRequest { head: head(), shard: 1, durability: 1, put }),
        body(&ShardPutReply { put: put_reply }),
        body(&ShardDeleteRequest { head: head(), shard: 1, durability: 0, ids }),
        body(&ShardDeleteReply { delete }),
    ]
}

fn shard_reads() -> Vec<Vec<u8>> {
    let ids = [1, 2, 3].map(|number| ObjectId::from_row(number).0).concat();
    let (slots, want) = (vec![4, 5, 6], Want::ALL.bits());
    let shards = vec![1, 2];
    let after = ObjectId::from_row(1).0.to_vec();
    vec![
        body(&ShardGetRequest {
            head: head(),
            shards: shards.clone(),
            ends: vec![1, 3],
            ids: ids.clone(),
            slots: slots.clone(),
            want,
        }),
        body(&ShardGetReply { get: GetReply { found: vec![1, 0, 1, 1], objects: columns() } }),
        body(&ShardScanRequest {
            head: head(),
            shard: 2,
            after: after.clone(),
            limit: 10,
            filter: filter(),
            want,
        }),
        body(&ShardScanReply { scan: ScanReply { objects: columns(), next: after } }),
        body(&ShardCountRequest { head: head(), shards: shards.clone(), filter: filter() }),
        body(&ShardCountReply { counts: vec![3, 4] }),
        body(&ShardSearchRequest {
            head: head(),
            vector: String::new(),
            queries: vec![0.5, -1.0, 2.0, 0.0],
            dims: 2,
            shards,
            ends: vec![1, 3],
            places: vec![1, 0, 1],
            k: 5,
            ef: 20,
            max_distance: f32::NAN,
            filter: filter(),
        }),
        body(&ShardSearchReply {
            ends: vec![1, 3],
            ids,
            slots,
            distances: vec![0.25, 0.5, 0.75],
            evaluations: vec![100, 200],
            exact: vec![0, 1],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use heddle_wire::kind::NOTICE_NUMBER;
    use heddle_wire::{AlignedVec, MessageType, RepairMessage, ShardMessage, decode_any};

    /// Would find a sample in the wrong place: each must be accepted as the type of its place.
    #[test]
    fn samples_stand_in_the_order_of_their_checks() {
        use MessageType::{Compare, TenantChange, TenantList};
        let is_of_tenants = |kind: &MessageType| matches!(kind, TenantChange | TenantList);
        let pair = |kind: MessageType| [kind.request_number(), kind.reply_number()];
        let (tenants, plain): (Vec<_>, Vec<_>) =
            MessageType::ALL.into_iter().partition(is_of_tenants);
        let shards = ShardMessage::ALL.map(|kind| [kind.request_number(), kind.reply_number()]);
        let repair = RepairMessage::ALL.map(|kind| [kind.request_number(), kind.reply_number()]);
        let numbers: Vec<u16> = [
            plain.into_iter().filter(|kind| *kind != Compare).flat_map(pair).collect(),
            pair(Compare).to_vec(),
            vec![0xFFFF, NOTICE_NUMBER],
            shards.concat(),
            repair.concat(),
            tenants.into_iter().flat_map(pair).collect(),
        ]
        .concat();
        let seeds = super::seeds();
        assert_eq!(numbers.len(), seeds.len());
        for (number, seed) in numbers.iter().zip(&seeds) {
            let mut body = AlignedVec::<16>::new();
            body.extend_from_slice(&seed[1..]);
            assert_eq!(decode_any(*number, &body), Ok(()), "type {number:#06x}");
        }
    }
}
