//! Are today's bytes the bytes of version 1?
//!
//! `fixtures/v1` holds one frame of every message, written once. When the format of a message
//! changes, it gets a new version and new fixtures beside these; run this test with
//! `HEDDLE_WRITE_FIXTURES=1` to write fixtures that do not exist yet.

mod samples;

use std::collections::BTreeSet;
use std::path::PathBuf;

use heddle_wire::header::{HEADER_BYTES, Header, parse};
use heddle_wire::message::*;
use heddle_wire::{
    AlignedVec, Body, Frame, FrameKind, MessageType, ShardMessage, encode_error, encode_reply,
    encode_request,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1")
}

fn split(frame: &[u8]) -> (Header, AlignedVec<16>) {
    let (head, rest) = frame.split_first_chunk::<HEADER_BYTES>().expect("a frame has a header");
    let header = parse(head, 1 << 20).expect("the header is good");
    let mut body = AlignedVec::new();
    body.extend_from_slice(rest);
    assert_eq!(header.check_body(&body), Ok(()));
    (header, body)
}

const VALID: &str = "a fixture is valid and fits into a frame";

fn same<M: Body>(id: u64, body: &[u8]) -> Frame {
    encode_reply(id, &decode::<M>(body).expect(VALID)).expect(VALID)
}

fn shard_again(number: u16, id: u64, body: &[u8]) -> Frame {
    macro_rules! by_kind {
        ($($request:ident => $reply:ident,)*) => {
            match number {
                $(
                    $request::NUMBER => same::<$request>(id, body),
                    $reply::NUMBER => same::<$reply>(id, body),
                )*
                _ => panic!("a fixture of unknown type {number:#06x}"),
            }
        };
    }
    by_kind! {
        ShardPutRequest => ShardPutReply,
        ShardDeleteRequest => ShardDeleteReply,
        ShardGetRequest => ShardGetReply,
        ShardScanRequest => ShardScanReply,
        ShardCountRequest => ShardCountReply,
        ShardSearchRequest => ShardSearchReply,
        ReplicaWriteRequest => ReplicaWriteReply,
        ReplicaDigestRequest => ReplicaDigestReply,
        ReplicaReadRequest => ReplicaReadReply,
        ReplicaConditionalRequest => ReplicaConditionalReply,
    }
}

/// Decodes a frame into an owned message and encodes that again.
fn again(frame: &[u8]) -> Vec<u8> {
    let (header, body) = split(frame);
    let (id, deadline) = (header.request_id, header.deadline_us);
    macro_rules! by_kind {
        ($($kind:ident: $request:ident => $reply:ident,)*) => {
            match header.kind() {
                $(
                    FrameKind::Request(MessageType::$kind) => {
                        let message = decode::<$request>(&body).expect(VALID);
                        encode_request(id, deadline, &message).expect(VALID)
                    }
                    FrameKind::Reply(MessageType::$kind) => {
                        let message = decode::<$reply>(&body).expect(VALID);
                        encode_reply(id, &message).expect(VALID)
                    }
                )*
                FrameKind::Error => {
                    encode_error(id, &decode::<ErrorReply>(&body).expect(VALID).into())
                }
                FrameKind::Notice => same::<TopologyNotice>(id, &body),
                FrameKind::Unknown(number) => shard_again(number, id, &body),
            }
        };
    }
    by_kind! {
        Hello: HelloRequest => HelloReply,
        Topology: TopologyRequest => TopologyReply,
        TopologyReplicas: TopologyReplicasRequest => TopologyReplicasReply,
        CollectionCreate: CollectionCreateRequest => CollectionCreateReply,
        CollectionList: CollectionListRequest => CollectionListReply,
        CollectionShow: CollectionShowRequest => CollectionShowReply,
        CollectionDrop: CollectionDropRequest => CollectionDropReply,
        TenantChange: TenantChangeRequest => TenantChangeReply,
        TenantList: TenantListRequest => TenantListReply,
        Put: PutRequest => PutReply,
        Get: GetRequest => GetReply,
        Delete: DeleteRequest => DeleteReply,
        PutWith: PutWithRequest => PutWithReply,
        DeleteWith: DeleteWithRequest => DeleteWithReply,
        PutAt: PutAtRequest => PutAtReply,
        DeleteAt: DeleteAtRequest => DeleteAtReply,
        GetAt: GetAtRequest => GetAtReply,
        Tickets: TicketsRequest => TicketsReply,
        Search: SearchRequest => SearchReply,
        Scan: ScanRequest => ScanReply,
        Count: CountRequest => CountReply,
        SearchAt: SearchAtRequest => SearchAtReply,
        ScanAt: ScanAtRequest => ScanAtReply,
        CountAt: CountAtRequest => CountAtReply,
        Compare: CompareRequest => CompareReply,
        NodeStatus: NodeStatusRequest => NodeStatusReply,
        NodeChange: NodeChangeRequest => NodeChangeReply,
        BackupBegin: BackupBeginRequest => BackupBeginReply,
        BackupRead: BackupReadRequest => BackupReadReply,
        BackupEnd: BackupEndRequest => BackupEndReply,
    }
    .to_vec()
}

#[test]
fn samples_encode_to_the_fixtures() {
    for (name, frame) in samples::all() {
        let path = folder().join(format!("{name}.bin"));
        if std::env::var_os("HEDDLE_WRITE_FIXTURES").is_some() && !path.exists() {
            std::fs::write(&path, frame.as_slice()).unwrap();
        }
        let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(stored == frame.as_slice(), "{name} is encoded differently than in version 1");
    }
}

#[test]
fn every_fixture_decodes_and_encodes_to_the_same_bytes() {
    let mut seen = BTreeSet::new();
    for file in std::fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        let stored = std::fs::read(&path).unwrap();
        assert!(again(&stored) == stored, "{} changes in a round trip", path.display());
        seen.insert(split(&stored).0.type_number);
    }
    for kind in MessageType::ALL {
        assert!(seen.contains(&kind.request_number()), "no request fixture of {}", kind.name());
        assert!(seen.contains(&kind.reply_number()), "no reply fixture of {}", kind.name());
    }
    for kind in ShardMessage::ALL {
        assert!(seen.contains(&kind.request_number()), "no request fixture of {}", kind.name());
        assert!(seen.contains(&kind.reply_number()), "no reply fixture of {}", kind.name());
    }
    assert!(seen.contains(&heddle_wire::kind::ERROR_NUMBER));
    assert!(seen.contains(&heddle_wire::kind::NOTICE_NUMBER));
}
