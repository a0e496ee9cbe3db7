//! Every body of the native protocol. The first byte of the input picks the message, the rest is
//! the body.

mod levels;
mod repair;
mod samples;

use heddle_types::{ApiError, Filter};
use heddle_wire::message::{
    ArchivedObjectColumns, BackupBeginReply, BackupBeginRequest, BackupEndReply, BackupEndRequest,
    BackupReadReply, BackupReadRequest, CollectionCreateReply, CollectionCreateRequest,
    CollectionDropReply, CollectionDropRequest, CollectionListReply, CollectionListRequest,
    CollectionShowReply, CollectionShowRequest, CountReply, CountRequest, DeleteReply,
    DeleteRequest, DeleteWithReply, DeleteWithRequest, ErrorReply, GetReply, GetRequest,
    HelloReply, HelloRequest, NodeChangeReply, NodeChangeRequest, NodeStatusReply,
    NodeStatusRequest, PutReply, PutRequest, PutWithReply, PutWithRequest, ScanReply, ScanRequest,
    SearchReply, SearchRequest, ShardCountReply, ShardCountRequest, ShardDeleteReply,
    ShardDeleteRequest, ShardGetReply, ShardGetRequest, ShardPutReply, ShardPutRequest,
    ShardScanReply, ShardScanRequest, ShardSearchReply, ShardSearchRequest, TopologyNotice,
    TopologyReplicasReply, TopologyReplicasRequest, TopologyReply, TopologyRequest, own,
};
use heddle_wire::message::{
    CompareReply, CompareRequest, RepairBeginReply, RepairBeginRequest, RepairCheckReply,
    RepairCheckRequest, RepairFloorReply, RepairFloorRequest, RepairPageReply, RepairPageRequest,
    RepairReadReply, RepairReadRequest, RepairWriteReply, RepairWriteRequest,
};
use heddle_wire::message::{
    CountAtReply, CountAtRequest, DeleteAtReply, DeleteAtRequest, GetAtReply, GetAtRequest,
    PutAtReply, PutAtRequest, ReplicaConditionalReply, ReplicaConditionalRequest,
    ReplicaDigestReply, ReplicaDigestRequest, ReplicaReadReply, ReplicaReadRequest,
    ReplicaWriteReply, ReplicaWriteRequest, ScanAtReply, ScanAtRequest, SearchAtReply,
    SearchAtRequest, TenantChangeReply, TenantChangeRequest, TenantListReply, TenantListRequest,
    TicketsReply, TicketsRequest,
};
use heddle_wire::{AlignedVec, Body, access, decode, decode_any, encode_reply};

pub use samples::seeds;

/// One check for each message; the position is the first byte of the input.
const CHECKS: [fn(&[u8]); 94] = [
    round_trip::<HelloRequest>,
    round_trip::<HelloReply>,
    round_trip::<TopologyRequest>,
    topology_reply,
    round_trip::<TopologyReplicasRequest>,
    round_trip::<TopologyReplicasReply>,
    round_trip::<CollectionCreateRequest>,
    round_trip::<CollectionCreateReply>,
    round_trip::<CollectionListRequest>,
    round_trip::<CollectionListReply>,
    round_trip::<CollectionShowRequest>,
    round_trip::<CollectionShowReply>,
    round_trip::<CollectionDropRequest>,
    round_trip::<CollectionDropReply>,
    put_request,
    put_reply,
    get_request,
    get_reply,
    delete_request,
    delete_reply,
    round_trip::<PutWithRequest>,
    round_trip::<PutWithReply>,
    round_trip::<DeleteWithRequest>,
    round_trip::<DeleteWithReply>,
    round_trip::<PutAtRequest>,
    round_trip::<PutAtReply>,
    round_trip::<DeleteAtRequest>,
    round_trip::<DeleteAtReply>,
    round_trip::<GetAtRequest>,
    round_trip::<GetAtReply>,
    round_trip::<TicketsRequest>,
    round_trip::<TicketsReply>,
    search_request,
    search_reply,
    scan_request,
    scan_reply,
    count_request,
    round_trip::<CountReply>,
    round_trip::<SearchAtRequest>,
    round_trip::<SearchAtReply>,
    round_trip::<ScanAtRequest>,
    round_trip::<ScanAtReply>,
    round_trip::<CountAtRequest>,
    round_trip::<CountAtReply>,
    round_trip::<NodeStatusRequest>,
    round_trip::<NodeStatusReply>,
    round_trip::<NodeChangeRequest>,
    round_trip::<NodeChangeReply>,
    round_trip::<BackupBeginRequest>,
    round_trip::<BackupBeginReply>,
    round_trip::<BackupReadRequest>,
    round_trip::<BackupReadReply>,
    round_trip::<BackupEndRequest>,
    round_trip::<BackupEndReply>,
    round_trip::<CompareRequest>,
    round_trip::<CompareReply>,
    round_trip::<ErrorReply>,
    round_trip::<TopologyNotice>,
    round_trip::<ShardPutRequest>,
    round_trip::<ShardPutReply>,
    round_trip::<ShardDeleteRequest>,
    round_trip::<ShardDeleteReply>,
    shard_get_request,
    shard_get_reply,
    round_trip::<ShardScanRequest>,
    round_trip::<ShardScanReply>,
    round_trip::<ShardCountRequest>,
    round_trip::<ShardCountReply>,
    shard_search_request,
    shard_search_reply,
    round_trip::<ReplicaWriteRequest>,
    round_trip::<ReplicaWriteReply>,
    round_trip::<ReplicaDigestRequest>,
    round_trip::<ReplicaDigestReply>,
    round_trip::<ReplicaReadRequest>,
    round_trip::<ReplicaReadReply>,
    round_trip::<ReplicaConditionalRequest>,
    round_trip::<ReplicaConditionalReply>,
    round_trip::<RepairBeginRequest>,
    round_trip::<RepairBeginReply>,
    round_trip::<RepairPageRequest>,
    repair_page_reply,
    round_trip::<RepairReadRequest>,
    round_trip::<RepairReadReply>,
    repair_write_request,
    round_trip::<RepairWriteReply>,
    round_trip::<RepairFloorRequest>,
    round_trip::<RepairFloorReply>,
    round_trip::<RepairCheckRequest>,
    round_trip::<RepairCheckReply>,
    tenant_change_request,
    round_trip::<TenantChangeReply>,
    round_trip::<TenantListRequest>,
    tenant_list_reply,
];

/// Checks a body and reads all of it, in place and copied.
pub fn run(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let mut body = AlignedVec::<16>::with_capacity(bytes.len());
    body.extend_from_slice(bytes);
    CHECKS[usize::from(kind) % CHECKS.len()](&body);
}

/// A body that is accepted can be copied, sent again and read again, and the bytes settle.
fn round_trip<M: Body>(body: &[u8]) {
    let archived = match access::<M>(body) {
        Ok(archived) => archived,
        Err(error) => {
            assert_eq!(decode_any(M::NUMBER, body), Err(error));
            assert!(!ApiError::from(error).message.is_empty());
            return;
        }
    };
    let message = own::<M>(archived).expect("an accepted body can be copied");
    let first = encode_reply(1, &message).expect("an accepted body fits a frame");
    let again = decode::<M>(first.body()).expect("a sender's own body is accepted");
    let second = encode_reply(1, &again).expect("the same body fits again");
    assert_eq!(first.as_slice(), second.as_slice(), "{} changed in a round trip", M::NAME);
}

fn repair_page_reply(body: &[u8]) {
    round_trip::<RepairPageReply>(body);
    if let Ok(reply) = access::<RepairPageReply>(body) {
        assert_eq!(reply.entries().len() * 57, reply.entries.len());
    }
}

fn repair_write_request(body: &[u8]) {
    round_trip::<RepairWriteRequest>(body);
    if let Ok(request) = access::<RepairWriteRequest>(body) {
        let bytes: usize = request.copies.iter().map(<[u8]>::len).sum();
        assert_eq!(bytes, request.copies.bytes.len());
    }
}

fn topology_reply(body: &[u8]) {
    round_trip::<TopologyReply>(body);
    let Ok(reply) = access::<TopologyReply>(body) else { return };
    for collection in reply.collections.iter() {
        let shards = collection.shard_ids();
        assert!(collection.owners().iter().all(|owner| usize::from(*owner) < shards.len()));
    }
    _ = reply.nodes.iter().map(|node| node.core_ports().len()).sum::<usize>();
}

fn tenant_change_request(body: &[u8]) {
    round_trip::<TenantChangeRequest>(body);
    let Ok(request) = access::<TenantChangeRequest>(body) else { return };
    assert_eq!(request.action() as u8, request.action);
}

fn tenant_list_reply(body: &[u8]) {
    round_trip::<TenantListReply>(body);
    let Ok(reply) = decode::<TenantListReply>(body) else { return };
    for tenant in reply.tenants {
        assert_eq!(tenant.ends.len(), tenant.shards.len());
        let last = tenant.ends.last().copied().unwrap_or_default();
        assert_eq!(last as usize * 16, tenant.nodes.len());
    }
}

fn put_request(body: &[u8]) {
    round_trip::<PutRequest>(body);
    let Ok(request) = access::<PutRequest>(body) else { return };
    _ = request.mode();
    assert_eq!(request.ids().len(), request.len());
    for index in 0..request.len() {
        super::row::run(request.row(index));
        for (column, values) in request.vectors_of(index) {
            assert_eq!(values.len(), request.vectors[column].dims.to_native() as usize);
        }
    }
}

fn put_reply(body: &[u8]) {
    round_trip::<PutReply>(body);
    let Ok(reply) = decode::<PutReply>(body) else { return };
    let count = reply.outcomes.len();
    assert_eq!(reply.into_results().len(), count);
}

fn get_request(body: &[u8]) {
    round_trip::<GetRequest>(body);
    let Ok(request) = access::<GetRequest>(body) else { return };
    assert_eq!(request.ids().len() * 16, request.ids.len());
}

fn get_reply(body: &[u8]) {
    round_trip::<GetReply>(body);
    if let Ok(reply) = access::<GetReply>(body) {
        objects(&reply.objects);
    }
}

fn delete_request(body: &[u8]) {
    round_trip::<DeleteRequest>(body);
    let Ok(request) = access::<DeleteRequest>(body) else { return };
    assert_eq!(request.ids().len() * 16, request.ids.len());
}

fn delete_reply(body: &[u8]) {
    round_trip::<DeleteReply>(body);
    let Ok(reply) = decode::<DeleteReply>(body) else { return };
    let count = reply.outcomes.len();
    assert_eq!(reply.into_results().len(), count);
}

fn search_request(body: &[u8]) {
    round_trip::<SearchRequest>(body);
    let Ok(request) = access::<SearchRequest>(body) else { return };
    let dims = request.dims.to_native() as usize;
    assert!(request.queries().len() == request.query_count() * dims);
    assert!(request.queries().iter().all(|value| value.is_finite()));
    assert!(request.max_distance().is_none_or(|bound| !bound.is_nan()));
    _ = request.near_id();
    filter(&request.filter);
}

fn search_reply(body: &[u8]) {
    round_trip::<SearchReply>(body);
    let Ok(reply) = access::<SearchReply>(body) else { return };
    assert_eq!(reply.ids().len(), reply.distances().len());
    assert_eq!(reply.evaluations().len(), reply.ends().len());
    assert_eq!(reply.server_us().len(), reply.ends().len());
    objects(&reply.objects);
}

fn scan_request(body: &[u8]) {
    round_trip::<ScanRequest>(body);
    let Ok(request) = access::<ScanRequest>(body) else { return };
    _ = request.after();
    filter(&request.filter);
}

fn scan_reply(body: &[u8]) {
    round_trip::<ScanReply>(body);
    let Ok(reply) = access::<ScanReply>(body) else { return };
    _ = reply.next();
    objects(&reply.objects);
}

fn count_request(body: &[u8]) {
    round_trip::<CountRequest>(body);
    if let Ok(request) = access::<CountRequest>(body) {
        filter(&request.filter);
    }
}

fn shard_get_request(body: &[u8]) {
    round_trip::<ShardGetRequest>(body);
    let Ok(request) = access::<ShardGetRequest>(body) else { return };
    let parts: usize = request.parts().map(|(_, part)| request.ids()[part].len()).sum();
    assert_eq!(parts, request.ids().len());
    assert!(request.slots().is_empty() || request.slots().len() == parts);
}

fn shard_get_reply(body: &[u8]) {
    round_trip::<ShardGetReply>(body);
    if let Ok(reply) = access::<ShardGetReply>(body) {
        objects(&reply.get.objects);
    }
}

fn shard_search_request(body: &[u8]) {
    round_trip::<ShardSearchRequest>(body);
    let Ok(request) = access::<ShardSearchRequest>(body) else { return };
    assert!(request.queries().iter().all(|value| value.is_finite()));
    let shards = request.shards().len();
    assert!(request.places().iter().all(|place| usize::from(*place) < shards));
    let pairs = request.ends().last().map_or(0, |last| *last as usize);
    assert_eq!(pairs, request.places().len());
    assert!(request.max_distance().is_none_or(|bound| !bound.is_nan()));
    filter(&request.filter);
}

fn shard_search_reply(body: &[u8]) {
    round_trip::<ShardSearchReply>(body);
    let Ok(reply) = access::<ShardSearchReply>(body) else { return };
    assert_eq!(reply.ids().len(), reply.distances().len());
    assert_eq!(reply.slots().len(), reply.distances().len());
    assert_eq!(reply.evaluations().len(), reply.ends().len());
}

fn filter(bytes: &[u8]) {
    _ = Filter::decode(bytes).map_err(|error| error.to_string());
}

/// Reads every part of every object.
fn objects(columns: &ArchivedObjectColumns) {
    for object in columns.iter() {
        _ = (object.id(), object.created_us(), object.updated_us(), object.stamp());
        if let Some(row) = object.row() {
            super::row::run(row);
        }
        assert!(object.vectors().all(|(_, values)| !values.is_empty()));
    }
}
