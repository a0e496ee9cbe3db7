//! One message of every kind that names a level, and of every kind between replicas.

use super::*;
use heddle_types::{Consistency, NodeId, ObjectDigest, Stamp};
use heddle_wire::message::{
    Condition, CountAtReply, CountAtRequest, DeleteAtReply, DeleteAtRequest, GetAtReply,
    GetAtRequest, PutAtReply, PutAtRequest, ReplicaConditionalReply, ReplicaConditionalRequest,
    ReplicaDigestReply, ReplicaDigestRequest, ReplicaOutcome, ReplicaReadReply, ReplicaReadRequest,
    ReplicaWriteReply, ReplicaWriteRequest, STAMP_BYTES, ScanAtReply, ScanAtRequest, SearchAtReply,
    SearchAtRequest, ShardHead, TICKET_BYTES, TicketsReply, TicketsRequest, WriteTerms,
};

fn stamp(hlc: u64) -> Stamp {
    let node = NodeId::from(0x0102_0304_0506_0708);
    Stamp { hlc: Hlc(hlc), boot: 3, core: 1, node }
}

fn stamps(hlcs: &[u64]) -> Vec<u8> {
    hlcs.iter().flat_map(|hlc| stamp(*hlc).encode()).collect()
}

/// Two objects: one must not be there, the other must be the version of a stamp.
pub(crate) fn put_at() -> PutAtRequest {
    let mut terms = WriteTerms::new(Some(Consistency::All), Durability::Batched);
    terms.set_conditions(&[Condition::Absent, Condition::StampIs(stamp(77))]);
    terms.ticket = (0..TICKET_BYTES as u8).collect();
    PutAtRequest { terms, put: put_request() }
}

fn replica_write() -> ReplicaWriteRequest {
    ReplicaWriteRequest {
        head: ShardHead { collection: [9; 16], epoch: 5 },
        shard: 11,
        durability: 0,
        ends: vec![3, 3, 5],
        writes: vec![1, 2, 3, 4, 5],
    }
}

fn replica_conditional() -> ReplicaConditionalRequest {
    let mut terms = WriteTerms::new(Some(Consistency::Quorum), Durability::Sync);
    terms.set_conditions(&[Condition::Always, Condition::StampIs(stamp(5)), Condition::Absent]);
    let ReplicaWriteRequest { head, shard, ends, writes, .. } = replica_write();
    let stamp = stamps(&[9]);
    ReplicaConditionalRequest { head, shard, terms, stamp, merge: 1, ends, writes }
}

pub(crate) fn replica_digest_reply() -> ReplicaDigestReply {
    let mut digests = ReplicaDigestReply::default();
    digests.push(Some(ObjectDigest::live(stamp(300), 12)));
    digests.push(None);
    digests.push(Some(ObjectDigest::tombstone(stamp(301))));
    digests
}

pub(super) fn all() -> Vec<(&'static str, Frame)> {
    let error = ApiError::new(ErrorCode::InvalidVector, "vector has 3 dimensions", "128");
    let (collection, tenant) = ("Docs".to_owned(), "acme".to_owned());
    let names = || (collection.clone(), tenant.clone());
    let mut put = PutReply::default();
    put.push(Ok(Hlc(77)));
    put.push(Err(&error));
    let put_reply = PutAtReply { put, stamps: [stamps(&[77]), vec![0; STAMP_BYTES]].concat() };
    let (collection, tenant) = names();
    let delete = DeleteRequest { collection, tenant, epoch: 5, ids: ids(&[1, 2]) };
    let delete_at = DeleteAtRequest { terms: WriteTerms::new(None, Durability::Sync), delete };
    let mut delete = DeleteReply::default();
    delete.push(Ok(true));
    delete.push(Ok(false));
    let delete_reply = DeleteAtReply { delete, stamps: stamps(&[78, 79]) };
    let (collection, tenant) = names();
    let get = GetRequest { collection, tenant, epoch: 5, ids: ids(&[1, 2, 3]), want: 1 };
    let get_reply = GetAtReply {
        get: GetReply { found: vec![1, 0, 1], objects: objects() },
        stamps: stamps(&[300, 301]),
    };
    let (collection, tenant) = names();
    let (after, filter) = (ids(&[1]), vec![4, 5]);
    let scan = ScanRequest { collection, tenant, epoch: 5, after, limit: 100, filter, want: 1 };
    let (collection, tenant) = names();
    let count = CountRequest { collection, tenant, epoch: 5, filter: vec![6] };
    let level = Consistency::Quorum;
    let head = ShardHead { collection: [9; 16], epoch: 5 };
    let mut written = ReplicaWriteReply::default();
    written.push(Ok(ReplicaOutcome::Applied { existed: true }));
    written.push(Err(&error));
    written.push(Ok(ReplicaOutcome::Superseded));
    let mut decided = ReplicaConditionalReply::default();
    decided.push(Ok((stamp(80), true)));
    decided.push(Err(&error));
    let read = ReplicaReadRequest { head, shard: 11, ids: ids(&[1, 2]) };
    let copies = ReplicaReadReply { ends: vec![0, 4], copies: vec![9, 8, 7, 6] };
    vec![
        ("put_at.request", request(30, 300, &put_at())),
        ("put_at.reply", reply(30, &put_reply)),
        ("delete_at.request", request(31, 310, &delete_at)),
        ("delete_at.reply", reply(31, &delete_reply)),
        ("get_at.request", request(32, 320, &GetAtRequest::new(Consistency::One, get))),
        ("get_at.reply", reply(32, &get_reply)),
        ("tickets.request", request(33, 330, &TicketsRequest { count: 2 })),
        (
            "tickets.reply",
            reply(33, &TicketsReply { tickets: vec![7; 2 * TICKET_BYTES], good_s: 60 }),
        ),
        ("search_at.request", request(34, 340, &SearchAtRequest::new(level, search_request()))),
        ("search_at.reply", reply(34, &SearchAtReply { search: search_reply() })),
        ("scan_at.request", request(35, 350, &ScanAtRequest::new(level, scan))),
        (
            "scan_at.reply",
            reply(35, &ScanAtReply { scan: ScanReply { objects: objects(), next: ids(&[3]) } }),
        ),
        ("count_at.request", request(36, 360, &CountAtRequest::new(level, count))),
        ("count_at.reply", reply(36, &CountAtReply { count: CountReply { count: 1 << 40 } })),
        ("replica_write.request", reply(37, &replica_write())),
        ("replica_write.reply", reply(37, &written)),
        (
            "replica_digest.request",
            reply(38, &ReplicaDigestRequest { head, shard: 11, ids: ids(&[1, 2, 3]) }),
        ),
        ("replica_digest.reply", reply(38, &replica_digest_reply())),
        ("replica_read.request", reply(39, &read)),
        ("replica_read.reply", reply(39, &copies)),
        ("replica_conditional.request", reply(40, &replica_conditional())),
        ("replica_conditional.reply", reply(40, &decided)),
    ]
}
