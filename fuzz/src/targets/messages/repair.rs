//! Bodies between replicas that become equal.

use heddle_types::{Hlc, NodeId, ObjectDigest, ObjectId, Stamp};
use heddle_wire::message::{
    CompareReply, CompareRequest, Copies, RepairBeginReply, RepairBeginRequest, RepairCheckReply,
    RepairCheckRequest, RepairFloorReply, RepairFloorRequest, RepairPageReply, RepairPageRequest,
    RepairReadReply, RepairReadRequest, RepairWriteReply, RepairWriteRequest, ShardComparison,
    ShardHead,
};

use super::samples::{COLLECTION, body};

fn found() -> ShardComparison {
    let problem = "node db-2 does not answer".to_owned();
    ShardComparison {
        shard: 3,
        replicas: 3,
        took_part: 2,
        lacking: 7,
        problem,
        ..Default::default()
    }
}

/// What a client asks about replicas.
pub(super) fn of_clients() -> Vec<Vec<u8>> {
    let (collection, tenant) = (COLLECTION.to_owned(), String::new());
    vec![
        body(&CompareRequest { collection, tenant, epoch: 4 }),
        body(&CompareReply { shards: vec![found()] }),
    ]
}

/// What replicas ask each other.
pub(super) fn between_replicas() -> Vec<Vec<u8>> {
    let (head, shard) = (ShardHead { collection: [7; 16], epoch: 5 }, 3);
    let stamp = Stamp { hlc: Hlc(9), node: NodeId::from(1), ..Stamp::default() };
    let entries = [
        (ObjectId::from_row(1), ObjectDigest::live(stamp, 4)),
        (ObjectId::from_row(2), ObjectDigest::tombstone(stamp)),
    ];
    let copies = Copies { ends: vec![2, 5], bytes: vec![1, 2, 3, 4, 5] };
    let page = RepairPageRequest {
        head,
        shard,
        height: 7,
        leaves: vec![1, 2],
        after: vec![8; 16],
        limit: 100,
    };
    vec![
        body(&RepairBeginRequest { head, shard }),
        body(&RepairBeginReply { hlc: 9, floor: 3, sums: vec![1; 64] }),
        body(&page),
        body(&RepairPageReply::of(&entries)),
        body(&RepairReadRequest { head, shard, ids: vec![7; 32] }),
        body(&RepairReadReply { answered: 2, copies: copies.clone() }),
        body(&RepairWriteRequest { head, shard, copies }),
        body(&RepairWriteReply { refused: 1 }),
        body(&RepairFloorRequest { head, shard, floor: 5 }),
        body(&RepairFloorReply { floor: 5 }),
        body(&RepairCheckRequest { head, shard }),
        body(&RepairCheckReply { found: found() }),
    ]
}
