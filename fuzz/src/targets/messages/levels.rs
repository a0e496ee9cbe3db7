//! Samples of the messages that name a level, and of those between replicas.

use heddle_types::{Consistency, Hlc, ObjectDigest, ObjectId, Stamp};
use heddle_wire::message::{
    Condition, CountAtReply, CountAtRequest, CountReply, CountRequest, DeleteAtReply,
    DeleteAtRequest, DeleteReply, DeleteRequest, Durability, GetAtReply, GetAtRequest, GetReply,
    GetRequest, ObjectColumns, PutAtReply, PutAtRequest, PutMode, PutReply, PutRequest,
    ReplicaConditionalReply, ReplicaConditionalRequest, ReplicaDigestReply, ReplicaDigestRequest,
    ReplicaOutcome, ReplicaReadReply, ReplicaReadRequest, ReplicaWriteReply, ReplicaWriteRequest,
    ScanAtReply, ScanAtRequest, ScanReply, ScanRequest, SearchAtReply, SearchAtRequest,
    SearchReply, SearchRequest, ShardHead, TICKET_BYTES, TicketsReply, TicketsRequest, WriteTerms,
};

use super::samples::{COLLECTION, body, error};

fn stamp() -> Stamp {
    Stamp { hlc: Hlc(77), boot: 1, core: 2, ..Stamp::default() }
}

fn ids() -> Vec<u8> {
    [ObjectId::from_row(1).0, ObjectId::from_row(2).0].concat()
}

/// Writes and reads by id.
pub(super) fn by_id() -> Vec<Vec<u8>> {
    let mut put = PutRequest::new(COLLECTION, "", 5, PutMode::Replace);
    put.push(&ObjectId::from_row(1), b"");
    assert!(put.push_vector("", &[0.5, -1.0]));
    put.push(&ObjectId::from_row(2), b"");
    let mut terms = WriteTerms::new(Some(Consistency::All), Durability::Batched);
    terms.set_conditions(&[Condition::Absent, Condition::StampIs(stamp())]);
    terms.ticket = vec![3; TICKET_BYTES];
    let mut put_reply = PutReply::default();
    put_reply.push(Ok(Hlc(77)));
    put_reply.push(Err(&error()));
    let stamps = [stamp().encode(), [0; 32]].concat();
    let (collection, tenant) = (COLLECTION.to_owned(), "t".to_owned());
    let delete = DeleteRequest { collection, tenant, epoch: 5, ids: ids() };
    let mut delete_reply = DeleteReply::default();
    delete_reply.push(Ok(true));
    delete_reply.push(Ok(false));
    let (collection, tenant) = (COLLECTION.to_owned(), "t".to_owned());
    let get = GetRequest { collection, tenant, epoch: 5, ids: ids(), want: 7 };
    let mut objects = ObjectColumns::default();
    objects.push(&ObjectId::from_row(2), 1, 2, Hlc(3), Some(b""));
    let get_reply = GetReply { found: vec![0, 1], objects };
    vec![
        body(&PutAtRequest { terms: terms.clone(), put }),
        body(&PutAtReply { put: put_reply, stamps: stamps.clone() }),
        body(&DeleteAtRequest { terms, delete }),
        body(&DeleteAtReply { delete: delete_reply, stamps }),
        body(&GetAtRequest::new(Consistency::One, get)),
        body(&GetAtReply { get: get_reply, stamps: stamp().encode().to_vec() }),
        body(&TicketsRequest { count: 9 }),
        body(&TicketsReply { tickets: vec![5; TICKET_BYTES], good_s: 60 }),
    ]
}

/// Searches, lists and counts.
pub(super) fn over_shards() -> Vec<Vec<u8>> {
    let names = || (COLLECTION.to_owned(), "t".to_owned());
    let (collection, tenant) = names();
    let search = SearchRequest {
        collection,
        tenant,
        epoch: 5,
        vector: String::new(),
        queries: vec![0.5, 1.0],
        dims: 2,
        near_id: Vec::new(),
        k: 5,
        ef: 20,
        offset: 0,
        max_distance: f32::NAN,
        autocut: 0,
        filter: Vec::new(),
        want: 1,
    };
    let found = SearchReply {
        ends: vec![1],
        ids: ObjectId::from_row(1).0.to_vec(),
        distances: vec![0.5],
        evaluations: vec![7],
        server_us: vec![8],
        ..SearchReply::default()
    };
    let (collection, tenant) = names();
    let (after, filter) = (Vec::new(), Vec::new());
    let scan = ScanRequest { collection, tenant, epoch: 5, after, limit: 9, filter, want: 3 };
    let (collection, tenant) = names();
    let count = CountRequest { collection, tenant, epoch: 5, filter: Vec::new() };
    vec![
        body(&SearchAtRequest::new(Consistency::Quorum, search)),
        body(&SearchAtReply { search: found }),
        body(&ScanAtRequest::new(Consistency::Quorum, scan)),
        body(&ScanAtReply {
            scan: ScanReply { objects: ObjectColumns::default(), next: ids()[..16].to_vec() },
        }),
        body(&CountAtRequest::new(Consistency::All, count)),
        body(&CountAtReply { count: CountReply { count: 12 } }),
    ]
}

/// What replicas say to each other.
pub(super) fn between_replicas() -> Vec<Vec<u8>> {
    let head = ShardHead { collection: [7; 16], epoch: 5 };
    let write = ReplicaWriteRequest {
        head,
        shard: 3,
        durability: 1,
        ends: vec![2, 5],
        writes: vec![1, 2, 3, 4, 5],
    };
    let mut written = ReplicaWriteReply::default();
    written.push(Ok(ReplicaOutcome::Known { existed: true }));
    written.push(Err(&error()));
    let mut digests = ReplicaDigestReply::default();
    digests.push(Some(ObjectDigest::live(stamp(), 4)));
    digests.push(None);
    digests.push(Some(ObjectDigest::tombstone(stamp())));
    let mut terms = WriteTerms::new(None, Durability::Sync);
    terms.set_conditions(&[Condition::StampIs(stamp()), Condition::Absent]);
    let conditional = ReplicaConditionalRequest {
        head,
        shard: 3,
        terms,
        stamp: stamp().encode().to_vec(),
        merge: 1,
        ends: write.ends.clone(),
        writes: write.writes.clone(),
    };
    let mut decided = ReplicaConditionalReply::default();
    decided.push(Ok((stamp(), true)));
    decided.push(Err(&error()));
    vec![
        body(&write),
        body(&written),
        body(&ReplicaDigestRequest { head, shard: 3, ids: ids() }),
        body(&digests),
        body(&ReplicaReadRequest { head, shard: 3, ids: ids() }),
        body(&ReplicaReadReply { ends: vec![0, 3], copies: vec![1, 2, 3] }),
        body(&conditional),
        body(&decided),
    ]
}
