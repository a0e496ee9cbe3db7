//! One message of every kind between nodes.

use super::*;
use heddle_wire::message::{
    ShardCountReply, ShardCountRequest, ShardDeleteReply, ShardDeleteRequest, ShardGetReply,
    ShardGetRequest, ShardHead, ShardPutReply, ShardPutRequest, ShardScanReply, ShardScanRequest,
    ShardSearchReply, ShardSearchRequest,
};

fn head() -> ShardHead {
    ShardHead { collection: [9; 16], epoch: 5 }
}

pub(crate) fn shard_put() -> ShardPutRequest {
    let (collection, tenant) = (String::new(), String::new());
    let put = PutRequest { collection, tenant, epoch: 0, ..put_request() };
    ShardPutRequest { head: head(), shard: 11, durability: Durability::Batched as u8, put }
}

pub(crate) fn shard_delete() -> ShardDeleteRequest {
    ShardDeleteRequest { head: head(), shard: 11, durability: 0, ids: ids(&[1, 2]) }
}

/// An id of the first shard, two of the second.
pub(crate) fn shard_get() -> ShardGetRequest {
    ShardGetRequest {
        head: head(),
        shards: vec![11, 12],
        ends: vec![1, 3],
        ids: ids(&[1, 2, 3]),
        slots: vec![100, 200, 300],
        want: Want { vectors: true, ..Want::default() }.bits(),
    }
}

pub(crate) fn shard_scan() -> ShardScanRequest {
    let (after, filter) = (ids(&[1]), vec![4, 5]);
    ShardScanRequest { head: head(), shard: 12, after, limit: 100, filter, want: 1 }
}

pub(crate) fn shard_count() -> ShardCountRequest {
    ShardCountRequest { head: head(), shards: vec![11, 12], filter: vec![6] }
}

/// The first query in the second shard, the second one in both.
pub(crate) fn shard_search() -> ShardSearchRequest {
    ShardSearchRequest {
        head: head(),
        vector: "title".to_owned(),
        queries: vec![1.0, 2.0, 3.0, -1.0, -2.0, -3.0],
        dims: 3,
        shards: vec![11, 12],
        ends: vec![1, 3],
        places: vec![1, 0, 1],
        k: 10,
        ef: 64,
        max_distance: f32::NAN,
        filter: vec![1, 2, 3],
    }
}

pub(crate) fn shard_search_reply() -> ShardSearchReply {
    ShardSearchReply {
        ends: vec![0, 1, 3],
        ids: ids(&[1, 3, 5]),
        slots: vec![7, 8, 9],
        distances: vec![0.125, 0.5, 0.75],
        evaluations: vec![0, 1_500, 20],
        exact: vec![0, 0, 1],
    }
}

pub(super) fn all() -> Vec<(&'static str, Frame)> {
    let error = ApiError::new(ErrorCode::InvalidVector, "vector has 3 dimensions", "128");
    let mut put = PutReply::default();
    put.push(Ok(Hlc(77)));
    put.push(Err(&error));
    let mut delete = DeleteReply::default();
    delete.push(Ok(true));
    delete.push(Err(&error));
    let get = GetReply { found: vec![1, 0, 1], objects: objects() };
    let scan = ScanReply { objects: objects(), next: ids(&[3]) };
    vec![
        ("shard_put.request", reply(20, &shard_put())),
        ("shard_put.reply", reply(20, &ShardPutReply { put })),
        ("shard_delete.request", reply(21, &shard_delete())),
        ("shard_delete.reply", reply(21, &ShardDeleteReply { delete })),
        ("shard_get.request", reply(22, &shard_get())),
        ("shard_get.reply", reply(22, &ShardGetReply { get })),
        ("shard_scan.request", reply(23, &shard_scan())),
        ("shard_scan.reply", reply(23, &ShardScanReply { scan })),
        ("shard_count.request", reply(24, &shard_count())),
        ("shard_count.reply", reply(24, &ShardCountReply { counts: vec![1 << 40, 3] })),
        ("shard_search.request", reply(25, &shard_search())),
        ("shard_search.reply", reply(25, &shard_search_reply())),
    ]
}
