//! What nodes ask each other about the shards that they hold.
//!
//! A node that gets a client's request sends the parts of it that concern shards of other nodes to
//! these. A request names its shards and the version of the catalog by which it was routed.

mod read;
mod replica;
mod search;
mod write;

use heddle_types::limits::{NODE_BODY_BYTES_MAX, SHARDS_PER_COLLECTION_MAX};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{Checked, at_most, ends};
use super::{Body, MessageError, walk};
use crate::kind::{REPLY_BIT, ShardMessage};

pub use read::{
    ArchivedShardCountReply, ArchivedShardCountRequest, ArchivedShardGetReply,
    ArchivedShardGetRequest, ArchivedShardScanReply, ArchivedShardScanRequest, ShardCountReply,
    ShardCountRequest, ShardGetReply, ShardGetRequest, ShardScanReply, ShardScanRequest,
};
pub use replica::{
    ArchivedReplicaConditionalReply, ArchivedReplicaConditionalRequest, ArchivedReplicaDigestReply,
    ArchivedReplicaDigestRequest, ArchivedReplicaReadReply, ArchivedReplicaReadRequest,
    ArchivedReplicaWriteReply, ArchivedReplicaWriteRequest, ReplicaConditionalReply,
    ReplicaConditionalRequest, ReplicaDigestReply, ReplicaDigestRequest, ReplicaOutcome,
    ReplicaReadReply, ReplicaReadRequest, ReplicaWriteReply, ReplicaWriteRequest,
};
pub use search::{
    ArchivedShardSearchReply, ArchivedShardSearchRequest, ShardSearchReply, ShardSearchRequest,
};
pub use write::{
    ArchivedShardDeleteReply, ArchivedShardDeleteRequest, ArchivedShardPutReply,
    ArchivedShardPutRequest, ShardDeleteReply, ShardDeleteRequest, ShardPutReply, ShardPutRequest,
};

/// By what a request between nodes was routed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ShardHead {
    /// Identity of the collection, the bytes of its UUID.
    pub collection: [u8; 16],
    /// Version of the sender's catalog: the receiver works by this one or a later one.
    pub epoch: u64,
}

/// A request between nodes.
pub trait ShardRequest: Body {
    /// What it asks for.
    const TYPE: ShardMessage;
    /// The body of its answer, when that is no error.
    type Reply: Body;

    /// The head of a request that was read in place.
    fn head(archived: &Self::Archived) -> &ArchivedShardHead;
}

/// The shards of a request: at least one, at most what a collection can have.
fn shards(count: usize) -> Checked {
    if count == 0 {
        return Err(MessageError::Mismatch { field: "shards", found: 0, expected: 1 });
    }
    at_most("shards", count, SHARDS_PER_COLLECTION_MAX as usize)
}

/// Where the parts of some shards end in a column of `total` elements.
fn shard_ends(found: &[u32], count: usize, total: usize) -> Checked {
    ends("ends of shards", found, count, total)
}

macro_rules! shard_messages {
    ($($kind:ident: $request:ident => $reply:ident,)*) => {
        $(
            impl Body for $request {
                const NUMBER: u16 = ShardMessage::$kind.request_number();
                const NAME: &'static str = stringify!($request);
                const BODY_BYTES_MAX: usize = NODE_BODY_BYTES_MAX;
            }

            impl Body for $reply {
                const NUMBER: u16 = ShardMessage::$kind.reply_number();
                const NAME: &'static str = stringify!($reply);
                const BODY_BYTES_MAX: usize = NODE_BODY_BYTES_MAX;
            }

            impl ShardRequest for $request {
                const TYPE: ShardMessage = ShardMessage::$kind;
                type Reply = $reply;

                fn head(archived: &Self::Archived) -> &ArchivedShardHead {
                    &archived.head
                }
            }
        )*

        /// Checks a body between nodes and walks all of it.
        ///
        /// Errors: [`MessageError::UnknownType`], else as [`super::access`].
        pub(super) fn decode_any(number: u16, body: &[u8]) -> Result<(), MessageError> {
            match (ShardMessage::from_number(number & !REPLY_BIT), number & REPLY_BIT == 0) {
                $(
                    (Some(ShardMessage::$kind), true) => walk::<$request>(body),
                    (Some(ShardMessage::$kind), false) => walk::<$reply>(body),
                )*
                (None, _) => Err(MessageError::UnknownType { number }),
            }
        }
    };
}

shard_messages! {
    Put: ShardPutRequest => ShardPutReply,
    Delete: ShardDeleteRequest => ShardDeleteReply,
    Get: ShardGetRequest => ShardGetReply,
    Scan: ShardScanRequest => ShardScanReply,
    Count: ShardCountRequest => ShardCountReply,
    Search: ShardSearchRequest => ShardSearchReply,
    ReplicaWrite: ReplicaWriteRequest => ReplicaWriteReply,
    ReplicaDigest: ReplicaDigestRequest => ReplicaDigestReply,
    ReplicaRead: ReplicaReadRequest => ReplicaReadReply,
    ReplicaConditional: ReplicaConditionalRequest => ReplicaConditionalReply,
}

/// A message that carries one of a client's messages and adds nothing to its checks.
macro_rules! wraps {
    ($(#[$doc:meta])* $name:ident, $archived:ident, $field:ident: $inner:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
        #[rkyv(derive(Debug))]
        pub struct $name {
            /// As a client gets it, for the objects of the request between the nodes.
            pub $field: $inner,
        }

        impl Layout for $name {
            fn check(archived: &$archived) -> Checked {
                $inner::check(&archived.$field)
            }

            fn size_hint_bytes(&self) -> usize {
                self.$field.size_hint_bytes()
            }
        }
    };
}
use wraps;
