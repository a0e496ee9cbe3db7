//! Do Raft's messages come back as they were, and is what is no message refused?

use heddle_meta::cluster::{ClusterCommand, ClusterState, CommandId, Request};
use heddle_meta::raft::message::*;
use heddle_meta::raft::{
    Entry, Leader, LogId, Member, Membership, Payload, RaftTypes, SnapshotMeta, StoredMembership,
    Vote,
};
use heddle_sim::SimHost;
use heddle_types::{ApiError, ErrorCode, NodeId};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use uuid::Uuid;

type Types = RaftTypes<SimHost>;
type Append = AppendEntriesRequest<Types>;
type Appended = AppendEntriesResponse<Types>;

fn node(number: u64) -> NodeId {
    NodeId::from(number)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: Leader { term, node_id: node(7) }, index }
}

fn vote(committed: bool) -> Vote {
    Vote { leader_id: Leader { term: 9, node_id: node(7) }, committed }
}

fn membership() -> Membership {
    let member = |number: u64| (node(number), Member { address: format!("10.0.0.{number}:7500") });
    Membership::new(
        vec![[node(1), node(2)].into()],
        (1..=3).map(member).collect::<std::collections::BTreeMap<_, _>>(),
    )
    .expect("voters are members")
}

fn request() -> Request {
    let command = ClusterCommand::RemoveNode { node: node(5) };
    Request::new(CommandId(Uuid::from_u128(1)), command).expect("it is small")
}

fn entries() -> Vec<Entry> {
    vec![
        Entry { log_id: log_id(3, 5), payload: Payload::Blank },
        Entry { log_id: log_id(3, 6), payload: Payload::Normal(request()) },
        Entry { log_id: log_id(4, 7), payload: Payload::Membership(membership()) },
    ]
}

fn append() -> Append {
    AppendEntriesRequest {
        vote: vote(true),
        prev_log_id: Some(log_id(2, 4)),
        entries: entries(),
        leader_commit: Some(log_id(2, 3)),
    }
}

fn snapshot() -> (SnapshotMeta, Vec<u8>) {
    let last_membership = StoredMembership::new(Some(log_id(1, 0)), membership());
    let meta = SnapshotMeta { last_log_id: Some(log_id(4, 7)), last_membership };
    (meta, ClusterState::default().encode().expect("it is small"))
}

/// Decodes and encodes again.
type Again = fn(&[u8]) -> Result<Vec<u8>, MessageError>;

/// One of every message in every shape, with what encodes what was decoded.
fn messages() -> Vec<(&'static str, Vec<u8>, Again)> {
    let mut all: Vec<(&'static str, Vec<u8>, Again)> = Vec::new();
    let again: Again =
        |bytes| decode_append::<SimHost>(bytes).map(|message| encode_append(&message));
    all.push(("append", encode_append(&append()), again));
    let sign: Append = AppendEntriesRequest {
        vote: vote(true),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    all.push(("append", encode_append(&sign), again));
    let again: Again =
        |bytes| decode_appended::<SimHost>(bytes).map(|message| encode_appended(&message));
    for appended in [
        Appended::Success,
        Appended::PartialSuccess(None),
        Appended::PartialSuccess(Some(log_id(1, 2))),
        Appended::Conflict,
        Appended::HigherVote(vote(false)),
    ] {
        all.push(("appended", encode_appended(&appended), again));
    }
    let again: Again =
        |bytes| decode_ballot::<SimHost>(bytes).map(|message| encode_ballot(&message));
    for (last_log_id, leadership_transfer) in [(None, false), (Some(log_id(1, 2)), true)] {
        let ballot: VoteRequest<Types> =
            VoteRequest { vote: vote(false), last_log_id, leadership_transfer };
        all.push(("vote", encode_ballot(&ballot), again));
    }
    let again: Again = |bytes| decode_voted::<SimHost>(bytes).map(|message| encode_voted(&message));
    for vote_granted in [false, true] {
        let last_log_id = vote_granted.then_some(log_id(1, 2));
        let voted: VoteResponse<Types> =
            VoteResponse { vote: vote(true), vote_granted, last_log_id };
        all.push(("voted", encode_voted(&voted), again));
    }
    let part = SnapshotPart {
        vote: vote(true),
        checksum: 0x0102_0304,
        length: 10,
        offset: 4,
        bytes: &[1, 2, 3],
    };
    all.push(("part", part.encode(), |bytes| Ok(SnapshotPart::decode(bytes)?.encode())));
    let taken: SnapshotResponse<Types> = SnapshotResponse { vote: vote(true) };
    let again: Again =
        |bytes| decode_taken::<SimHost>(bytes).map(|message| encode_taken(message.as_ref()));
    all.push(("taken", encode_taken(Some(&taken)), again));
    let again: Again =
        |bytes| decode_transfer::<SimHost>(bytes).map(|message| encode_transfer(&message));
    for last in [None, Some(log_id(1, 2))] {
        let transfer: TransferLeaderRequest<Types> =
            TransferLeaderRequest::new(vote(true), node(2), last);
        all.push(("transfer", encode_transfer(&transfer), again));
    }
    let again: Again = |bytes| decode_moved::<SimHost>(bytes).map(|message| encode_moved(&message));
    for moved in [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: vote(true), actual: vote(false) }),
        Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2)), actual: None }),
    ] {
        all.push(("moved", encode_moved::<SimHost>(&moved), again));
    }
    all
}

#[test]
fn every_message_comes_back_as_it_was_and_no_other_length_does() {
    for (name, bytes, again) in messages() {
        assert_eq!(again(&bytes), Ok(bytes.clone()), "{name}");
        for length in 0..bytes.len() {
            match again(&bytes[..length]) {
                Err(error) => assert_eq!(error.message, name),
                // What is left of a list or of a part is a shorter one.
                Ok(shorter) => assert_eq!(shorter, bytes[..length], "{name}"),
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(name == "part" || again(&longer).is_err(), "{name}");
    }
}

#[test]
fn fields_keep_their_meaning() {
    let decoded = decode_append::<SimHost>(&encode_append(&append())).unwrap();
    assert_eq!(decoded.vote, vote(true));
    assert_eq!(decoded.prev_log_id, Some(log_id(2, 4)));
    assert_eq!(decoded.leader_commit, Some(log_id(2, 3)));
    assert_eq!(decoded.entries, entries());
    let (meta, state) = snapshot();
    let bytes = encode_snapshot(&meta, state.clone());
    assert_eq!(decode_snapshot(&bytes), Ok((meta, state)));
    let none = decode_taken::<SimHost>(&encode_taken::<SimHost>(None)).unwrap();
    assert_eq!(none, None);
}

#[test]
fn the_bytes_of_version_1_are_what_they_were() {
    let all: Vec<u8> = messages().into_iter().flat_map(|(_, bytes, _)| bytes).collect();
    assert_eq!((all.len(), crc32c(&all)), GOLDEN);
}

/// Length and CRC-32C of all messages one after the other.
const GOLDEN: (usize, u32) = (1_157, 1_007_750_100);

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(!0, step)
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(found: Result<T, MessageError>, what: &str) {
    let error = found.expect_err("it is no message");
    assert!(error.what.contains(what), "{error}");
    assert_eq!(ApiError::from(error).code, ErrorCode::Protocol);
}

#[test]
fn entries_that_do_not_follow_each_other_are_refused() {
    let with = |entries: Vec<Entry>, prev_log_id| {
        let request = AppendEntriesRequest { entries, prev_log_id, ..append() };
        decode_append::<SimHost>(&encode_append(&request))
    };
    let blank = |term, index| Entry { log_id: log_id(term, index), payload: Payload::Blank };
    assert!(with(vec![blank(1, 0), blank(1, 1)], None).is_ok());
    let next = "not next";
    assert_refused(with(vec![blank(1, 1)], None), next);
    assert_refused(with(vec![blank(3, 6)], Some(log_id(3, 4))), next);
    assert_refused(with(vec![blank(3, 5), blank(3, 5)], Some(log_id(3, 4))), next);
    assert_refused(with(vec![blank(3, 5), blank(2, 6)], Some(log_id(3, 4))), next);
    assert_refused(with(vec![blank(9, 0)], Some(log_id(3, u64::MAX))), next);
}

#[test]
fn votes_flags_and_kinds_without_a_meaning_are_refused() {
    let leader = "not that of a leader";
    let request = AppendEntriesRequest { vote: vote(false), ..append() };
    assert_refused(decode_append::<SimHost>(&encode_append(&request)), leader);
    let transfer: TransferLeaderRequest<Types> =
        TransferLeaderRequest::new(vote(false), node(2), None);
    assert_refused(decode_transfer::<SimHost>(&encode_transfer(&transfer)), leader);
    let ballot: VoteRequest<Types> = VoteRequest::new(vote(true), None);
    assert_refused(decode_ballot::<SimHost>(&encode_ballot(&ballot)), "is that of a leader");
    let ballot: VoteRequest<Types> = VoteRequest::new(vote(false), None);
    for (place, what) in [(24, "vote"), (25, "flag"), (26, "flag")] {
        let mut bytes = encode_ballot(&ballot);
        bytes[place] = 2;
        assert_refused(decode_ballot::<SimHost>(&bytes), what);
    }
    assert_refused(decode_appended::<SimHost>(&[4]), "kind 4");
    assert_refused(decode_moved::<SimHost>(&[3]), "kind 3");
}

#[test]
fn parts_outside_of_their_snapshot_are_refused() {
    let part =
        SnapshotPart { vote: vote(true), checksum: 0, length: 10, offset: 4, bytes: &[1, 2, 3] };
    let decode = |part: &SnapshotPart<'_>| {
        let bytes = part.encode();
        SnapshotPart::decode(&bytes).map(|part| part.is_last())
    };
    assert_eq!(decode(&part), Ok(false));
    assert_eq!(decode(&SnapshotPart { offset: 7, ..part.clone() }), Ok(true));
    assert_refused(decode(&SnapshotPart { offset: 8, ..part.clone() }), "ends at 11");
    assert_refused(decode(&SnapshotPart { bytes: &[], ..part.clone() }), "0 bytes");
    assert_refused(decode(&SnapshotPart { vote: vote(false), ..part.clone() }), "leader");
    let length = SNAPSHOT_BYTES_MAX + 1;
    assert_refused(decode(&SnapshotPart { length, ..part.clone() }), "at most");
    let bytes = vec![0; SNAPSHOT_PART_BYTES + 1];
    let long = SnapshotPart { bytes: &bytes, length: bytes.len() + 10, ..part };
    assert_refused(decode(&long), "bytes");
}

#[test]
fn a_snapshot_whose_state_is_none_is_refused() {
    let (meta, state) = snapshot();
    assert_refused(decode_snapshot(&encode_snapshot(&meta, b"no state".to_vec())), "");
    let mut damaged = encode_snapshot(&meta, state);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_refused(decode_snapshot(&damaged), "checksum");
    assert_refused(decode_snapshot(b"HDLRAFTS"), "header");
}
