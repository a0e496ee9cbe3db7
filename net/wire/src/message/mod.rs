//! The bodies: one struct a message, flat enough that checked access covers all of it.
//!
//! Only numbers, vectors of numbers, texts and one level of vectors of such structs occur; no maps,
//! no shared pointers, no recursion. [`access`] checks the layout, then what the layout cannot
//! say: that lengths agree, ends ascend, counts stay under their limits, flags are known.
//!
//! The archived form of a struct is read in place; its slices of numbers are slices of the body
//! (see [`floats`]). Property rows and filters are opaque here, heddle-types decodes them.

mod backup;
mod check;
mod collection;
mod compare;
mod durability;
mod error;
mod hello;
mod level;
mod node;
mod notice;
mod object;
mod put;
mod repair;
mod scan;
mod search;
mod shard;
mod tenant;
mod topology;

use rkyv::Archive;
use rkyv::api::high::HighSerializer;
use rkyv::api::low::{LowDeserializer, LowValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::vec::ArchivedVec;
use rkyv::{Deserialize, Portable, Serialize};

use heddle_types::limits::{CLIENT_BODY_BYTES_MAX, NODE_BODY_BYTES_MAX};

use crate::error::MessageError;
use crate::kind::{ERROR_NUMBER, FrameKind, MessageType, NOTICE_NUMBER};

pub use backup::{
    ArchivedBackupBeginReply, ArchivedBackupBeginRequest, ArchivedBackupEndReply,
    ArchivedBackupEndRequest, ArchivedBackupReadReply, ArchivedBackupReadRequest, BackupBeginReply,
    BackupBeginRequest, BackupEndReply, BackupEndRequest, BackupReadReply, BackupReadRequest,
};
pub use collection::{
    ArchivedCollectionCreateReply, ArchivedCollectionCreateRequest, ArchivedCollectionDropReply,
    ArchivedCollectionDropRequest, ArchivedCollectionEntry, ArchivedCollectionListReply,
    ArchivedCollectionListRequest, ArchivedCollectionShowReply, ArchivedCollectionShowRequest,
    CollectionCreateReply, CollectionCreateRequest, CollectionDropReply, CollectionDropRequest,
    CollectionEntry, CollectionListReply, CollectionListRequest, CollectionShowReply,
    CollectionShowRequest,
};
pub use compare::{
    ArchivedCompareReply, ArchivedCompareRequest, ArchivedShardComparison, CompareReply,
    CompareRequest, ShardComparison,
};
pub use durability::{
    ArchivedDeleteWithReply, ArchivedDeleteWithRequest, ArchivedPutWithReply,
    ArchivedPutWithRequest, DeleteWithReply, DeleteWithRequest, Durability, PutWithReply,
    PutWithRequest,
};
pub use error::{ArchivedErrorReply, ErrorReply};
pub use hello::{
    ArchivedHelloReply, ArchivedHelloRequest, FEATURE_STALE_EPOCH, FEATURE_TOPOLOGY_NOTICES,
    FEATURES, HelloReply, HelloRequest,
};
pub use level::{
    ArchivedCountAtReply, ArchivedCountAtRequest, ArchivedDeleteAtReply, ArchivedDeleteAtRequest,
    ArchivedGetAtReply, ArchivedGetAtRequest, ArchivedPutAtReply, ArchivedPutAtRequest,
    ArchivedScanAtReply, ArchivedScanAtRequest, ArchivedSearchAtReply, ArchivedSearchAtRequest,
    ArchivedTicketsReply, ArchivedTicketsRequest, ArchivedWriteTerms, Condition, CountAtReply,
    CountAtRequest, DeleteAtReply, DeleteAtRequest, GetAtReply, GetAtRequest, PutAtReply,
    PutAtRequest, STAMP_BYTES, ScanAtReply, ScanAtRequest, SearchAtReply, SearchAtRequest,
    TICKET_BYTES, TICKETS_MAX, TicketsReply, TicketsRequest, WriteTerms,
};
pub use node::{
    ArchivedNodeChangeReply, ArchivedNodeChangeRequest, ArchivedNodeStatusReply,
    ArchivedNodeStatusRequest, NodeChangeReply, NodeChangeRequest, NodeFate, NodeStatusReply,
    NodeStatusRequest,
};
pub use notice::{ArchivedTopologyNotice, TopologyNotice};
pub use object::{
    ArchivedDeleteReply, ArchivedDeleteRequest, ArchivedGetReply, ArchivedGetRequest,
    ArchivedObjectColumns, ArchivedVectorColumn, DeleteReply, DeleteRequest, GetReply, GetRequest,
    ObjectColumns, ObjectView, VectorColumn, Want,
};
pub use put::{ArchivedPutReply, ArchivedPutRequest, PutMode, PutReply, PutRequest};
pub use repair::{
    ArchivedCopies, ArchivedRepairBeginReply, ArchivedRepairBeginRequest, ArchivedRepairCheckReply,
    ArchivedRepairCheckRequest, ArchivedRepairFloorReply, ArchivedRepairFloorRequest,
    ArchivedRepairPageReply, ArchivedRepairPageRequest, ArchivedRepairReadReply,
    ArchivedRepairReadRequest, ArchivedRepairWriteReply, ArchivedRepairWriteRequest, Copies,
    RepairBeginReply, RepairBeginRequest, RepairCheckReply, RepairCheckRequest, RepairFloorReply,
    RepairFloorRequest, RepairPageReply, RepairPageRequest, RepairReadReply, RepairReadRequest,
    RepairRequest, RepairWriteReply, RepairWriteRequest,
};
pub use scan::{
    ArchivedCountReply, ArchivedCountRequest, ArchivedScanReply, ArchivedScanRequest, CountReply,
    CountRequest, ScanReply, ScanRequest,
};
pub use search::{ArchivedSearchReply, ArchivedSearchRequest, SearchReply, SearchRequest};
pub use shard::{
    ArchivedReplicaConditionalReply, ArchivedReplicaConditionalRequest, ArchivedReplicaDigestReply,
    ArchivedReplicaDigestRequest, ArchivedReplicaReadReply, ArchivedReplicaReadRequest,
    ArchivedReplicaWriteReply, ArchivedReplicaWriteRequest, ArchivedShardCountReply,
    ArchivedShardCountRequest, ArchivedShardDeleteReply, ArchivedShardDeleteRequest,
    ArchivedShardGetReply, ArchivedShardGetRequest, ArchivedShardHead, ArchivedShardPutReply,
    ArchivedShardPutRequest, ArchivedShardScanReply, ArchivedShardScanRequest,
    ArchivedShardSearchReply, ArchivedShardSearchRequest, ReplicaConditionalReply,
    ReplicaConditionalRequest, ReplicaDigestReply, ReplicaDigestRequest, ReplicaOutcome,
    ReplicaReadReply, ReplicaReadRequest, ReplicaWriteReply, ReplicaWriteRequest, ShardCountReply,
    ShardCountRequest, ShardDeleteReply, ShardDeleteRequest, ShardGetReply, ShardGetRequest,
    ShardHead, ShardPutReply, ShardPutRequest, ShardRequest, ShardScanReply, ShardScanRequest,
    ShardSearchReply, ShardSearchRequest,
};
pub use tenant::{
    ArchivedTenantChangeReply, ArchivedTenantChangeRequest, ArchivedTenantItem,
    ArchivedTenantListReply, ArchivedTenantListRequest, TenantAction, TenantChangeReply,
    TenantChangeRequest, TenantItem, TenantListReply, TenantListRequest,
};
pub use topology::{
    ArchivedShardReplicas, ArchivedTopologyCollection, ArchivedTopologyNode,
    ArchivedTopologyReplicasReply, ArchivedTopologyReplicasRequest, ArchivedTopologyReply,
    ArchivedTopologyRequest, ShardReplicas, TopologyCollection, TopologyNode,
    TopologyReplicasReply, TopologyReplicasRequest, TopologyReply, TopologyRequest,
};

#[cfg(target_endian = "big")]
compile_error!("bodies are little endian and read in place; a big-endian host would swap them");

/// What a message struct adds to the layout that rkyv derives.
pub trait Layout: Archive {
    /// Checks what the layout alone does not guarantee. Cost: at most one pass, no allocation.
    fn check(archived: &Self::Archived) -> Result<(), MessageError>;

    /// About how many bytes the encoded body has, so that encoding allocates once.
    fn size_hint_bytes(&self) -> usize {
        512
    }
}

/// A struct that is the body of a frame.
pub trait Body:
    Layout
    + Archive<
        Archived: Portable
                      + for<'a> CheckBytes<LowValidator<'a, Failure>>
                      + Deserialize<Self, LowDeserializer<Failure>>,
    > + for<'a> Serialize<HighSerializer<AlignedVec<16>, ArenaHandle<'a>, Failure>>
    + Sized
{
    /// Type field of its frames.
    const NUMBER: u16;
    /// Name for error messages.
    const NAME: &'static str;
    /// Largest body that its receiver accepts.
    const BODY_BYTES_MAX: usize;
}

/// The body of a request.
pub trait Request: Body {
    /// What it asks for.
    const TYPE: MessageType;
    /// The body of its answer, when that is no error.
    type Reply: Body;
}

/// Checks a body and reads it in place.
///
/// `body` must start on a 16-byte boundary, as the contents of an [`AlignedVec<16>`] do. Cost: one
/// pass over texts and small columns, nothing is copied or allocated.
///
/// Errors: [`MessageError::Unaligned`], [`MessageError::Layout`], and what the check of the message
/// finds.
pub fn access<M: Body>(body: &[u8]) -> Result<&M::Archived, MessageError> {
    let past = body.as_ptr().addr() % 16;
    if past != 0 && !body.is_empty() {
        return Err(MessageError::Unaligned { found: past, expected: 16 });
    }
    let Ok(archived) = rkyv::api::low::access::<M::Archived, Failure>(body) else {
        return Err(MessageError::Layout { message: M::NAME });
    };
    M::check(archived)?;
    Ok(archived)
}

/// Checks a body and copies it into an owned message.
///
/// Errors: as [`access`]. Cost: allocations of at most about the size of the body.
pub fn decode<M: Body>(body: &[u8]) -> Result<M, MessageError> {
    own(access::<M>(body)?)
}

/// Copies a message that was read in place.
///
/// Errors: none for a message that [`access`] returned.
pub fn own<M: Body>(archived: &M::Archived) -> Result<M, MessageError> {
    let Ok(message) = rkyv::api::low::deserialize::<M, Failure>(archived) else {
        return Err(MessageError::Layout { message: M::NAME });
    };
    Ok(message)
}

/// A vector of floats as a slice of the body. Nothing is copied: both sides are little endian.
#[must_use]
pub fn floats(column: &ArchivedVec<rend::f32_le>) -> &[f32] {
    bytemuck::cast_slice(column.as_slice())
}

pub(crate) fn u16s(column: &ArchivedVec<rend::u16_le>) -> &[u16] {
    bytemuck::cast_slice(column.as_slice())
}

pub(crate) fn u32s(column: &ArchivedVec<rend::u32_le>) -> &[u32] {
    bytemuck::cast_slice(column.as_slice())
}

pub(crate) fn u64s(column: &ArchivedVec<rend::u64_le>) -> &[u64] {
    bytemuck::cast_slice(column.as_slice())
}

/// A column of 16-byte ids; a rest that is no whole id is left out (checks refuse it before).
pub(crate) fn id_chunks(bytes: &[u8]) -> &[[u8; 16]] {
    bytes.as_chunks().0
}

/// Encodes one body without its header, decodes it again and drops both.
fn walk<M: Body>(body: &[u8]) -> Result<(), MessageError> {
    decode::<M>(body).map(drop)
}

macro_rules! messages {
    ($($kind:ident: $request:ident => $reply:ident,)*) => {
        $(
            impl Body for $request {
                const NUMBER: u16 = MessageType::$kind.request_number();
                const NAME: &'static str = stringify!($request);
                const BODY_BYTES_MAX: usize = CLIENT_BODY_BYTES_MAX;
            }

            impl Body for $reply {
                const NUMBER: u16 = MessageType::$kind.reply_number();
                const NAME: &'static str = stringify!($reply);
                const BODY_BYTES_MAX: usize = NODE_BODY_BYTES_MAX;
            }

            impl Request for $request {
                const TYPE: MessageType = MessageType::$kind;
                type Reply = $reply;
            }
        )*

        /// Checks a body of any type and walks all of it, for tools and fuzzing.
        ///
        /// Errors: [`MessageError::UnknownType`], else as [`access`].
        pub fn decode_any(type_number: u16, body: &[u8]) -> Result<(), MessageError> {
            match FrameKind::from_number(type_number) {
                $(
                    FrameKind::Request(MessageType::$kind) => walk::<$request>(body),
                    FrameKind::Reply(MessageType::$kind) => walk::<$reply>(body),
                )*
                FrameKind::Error => walk::<ErrorReply>(body),
                FrameKind::Notice => walk::<TopologyNotice>(body),
                FrameKind::Unknown(number) => match repair::decode_any(number, body) {
                    Some(walked) => walked,
                    None => shard::decode_any(number, body),
                },
            }
        }
    };
}

messages! {
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
    NodeStatus: NodeStatusRequest => NodeStatusReply,
    NodeChange: NodeChangeRequest => NodeChangeReply,
    Compare: CompareRequest => CompareReply,
    BackupBegin: BackupBeginRequest => BackupBeginReply,
    BackupRead: BackupReadRequest => BackupReadReply,
    BackupEnd: BackupEndRequest => BackupEndReply,
}

impl Body for TopologyNotice {
    const NUMBER: u16 = NOTICE_NUMBER;
    const NAME: &'static str = "TopologyNotice";
    const BODY_BYTES_MAX: usize = NODE_BODY_BYTES_MAX;
}

impl Body for ErrorReply {
    const NUMBER: u16 = ERROR_NUMBER;
    const NAME: &'static str = "ErrorReply";
    const BODY_BYTES_MAX: usize = NODE_BODY_BYTES_MAX;
}
