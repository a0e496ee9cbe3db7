//! What the Raft of another node says.

use heddle_meta::cluster::{ClusterCommand, ClusterState, CommandId, Request};
use heddle_meta::raft::message::{
    SnapshotPart, decode_append, decode_appended, decode_ballot, decode_moved, decode_snapshot,
    decode_taken, decode_transfer, decode_voted, encode_append, encode_appended, encode_ballot,
    encode_moved, encode_snapshot, encode_taken, encode_transfer, encode_voted,
};
use heddle_meta::raft::{
    Entry, Leader, LogId, Member, Membership, Payload, RaftTypes, SnapshotMeta, StoredMembership,
    Vote,
};
use heddle_sim::SimHost;
use heddle_types::NodeId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use uuid::Uuid;

type Types = RaftTypes<SimHost>;

/// Reads the bytes behind the first one as the message that it stands for. What was read is written
/// and read again.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 8 {
        0 => {
            let Ok(request) = decode_append::<SimHost>(bytes) else { return };
            check_entries(&request);
            // JSON has several texts for one change: the second one is always the same.
            let written = encode_append(&request);
            let again = decode_append::<SimHost>(&written).expect("it was one");
            assert_eq!(encode_append(&again), written);
        }
        1 => same(decode_appended::<SimHost>(bytes).map(|it| encode_appended(&it)), bytes),
        2 => same(decode_ballot::<SimHost>(bytes).map(|it| encode_ballot(&it)), bytes),
        3 => same(decode_voted::<SimHost>(bytes).map(|it| encode_voted(&it)), bytes),
        4 => same(SnapshotPart::decode(bytes).map(|it| it.encode()), bytes),
        5 => same(decode_taken::<SimHost>(bytes).map(|it| encode_taken(it.as_ref())), bytes),
        6 => same(decode_transfer::<SimHost>(bytes).map(|it| encode_transfer(&it)), bytes),
        _ => {
            same(decode_moved::<SimHost>(bytes).map(|it| encode_moved(&it)), bytes);
            // The file of a snapshot has a target of its own.
            let _ = decode_snapshot(bytes).map_err(|error| assert!(!error.what.is_empty()));
        }
    }
}

fn same<E: std::fmt::Display>(again: Result<Vec<u8>, E>, bytes: &[u8]) {
    match again {
        Ok(again) => assert_eq!(again, bytes, "two messages for one meaning"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check_entries(request: &AppendEntriesRequest<Types>) {
    assert!(request.vote.committed);
    let mut next = request.prev_log_id.map_or(0, |last| last.index.wrapping_add(1));
    for entry in &request.entries {
        assert_eq!(entry.log_id.index, next);
        next = next.wrapping_add(1);
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: Leader { term, node_id: NodeId::from(7) }, index }
}

fn vote(committed: bool) -> Vote {
    Vote { leader_id: Leader { term: 9, node_id: NodeId::from(7) }, committed }
}

fn membership() -> Membership {
    let members = [1, 2]
        .map(|number| (NodeId::from(number), Member { address: format!("10.0.0.{number}:7500") }));
    let members = std::collections::BTreeMap::from(members);
    Membership::new(vec![[NodeId::from(1)].into()], members).expect("voters are members")
}

/// One of each message, behind the byte that stands for it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let command = ClusterCommand::RemoveNode { node: NodeId::from(5) };
    let change = Request::new(CommandId(Uuid::from_u128(1)), command).expect("it is small");
    let append: AppendEntriesRequest<Types> = AppendEntriesRequest {
        vote: vote(true),
        prev_log_id: Some(log_id(2, 4)),
        entries: vec![
            Entry { log_id: log_id(3, 5), payload: Payload::Blank },
            Entry { log_id: log_id(3, 6), payload: Payload::Normal(change) },
            Entry { log_id: log_id(4, 7), payload: Payload::Membership(membership()) },
        ],
        leader_commit: Some(log_id(2, 3)),
    };
    let appended: AppendEntriesResponse<Types> =
        AppendEntriesResponse::PartialSuccess(Some(log_id(1, 2)));
    let higher: AppendEntriesResponse<Types> = AppendEntriesResponse::HigherVote(vote(false));
    let ballot: VoteRequest<Types> = VoteRequest::new(vote(false), Some(log_id(1, 2)));
    let voted: VoteResponse<Types> = VoteResponse::new(vote(false), Some(log_id(1, 2)), true);
    let state = ClusterState::default().encode().expect("it is small");
    let last_membership = StoredMembership::new(Some(log_id(1, 0)), membership());
    let meta = SnapshotMeta { last_log_id: Some(log_id(4, 7)), last_membership };
    let snapshot = encode_snapshot(&meta, state);
    let part = SnapshotPart {
        vote: vote(true),
        checksum: crc32c::crc32c(&snapshot),
        length: snapshot.len(),
        offset: 0,
        bytes: &snapshot,
    };
    let transfer: TransferLeaderRequest<Types> =
        TransferLeaderRequest::new(vote(true), NodeId::from(2), Some(log_id(1, 2)));
    let changed = TransferLeaderError::VoteChanged { expected: vote(true), actual: vote(false) };
    let behind = TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2)), actual: None };
    let messages = [
        (0, encode_append(&append)),
        (1, encode_appended(&appended)),
        (1, encode_appended(&higher)),
        (2, encode_ballot(&ballot)),
        (3, encode_voted(&voted)),
        (4, part.encode()),
        (5, encode_taken::<SimHost>(None)),
        (6, encode_transfer(&transfer)),
        (7, encode_moved::<SimHost>(&Err(changed))),
        (7, encode_moved::<SimHost>(&Err(behind))),
        (7, snapshot),
    ];
    messages.into_iter().map(|(kind, bytes)| [&[kind][..], &bytes].concat()).collect()
}
