//! Writing to a shard of another node.

use heddle_types::ObjectId;
use rkyv::{Archive, Deserialize, Serialize};

use super::super::check::{Checked, equal, ids, known};
use super::super::durability::Durability;
use super::super::object::DeleteReply;
use super::super::put::{PutReply, PutRequest};
use super::super::{Layout, id_chunks};
use super::{ShardHead, wraps};

/// Writes objects of one shard, to its home core.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct ShardPutRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// [`Durability`]: 0 sync, 1 batched.
    pub durability: u8,
    /// The objects as a client sends them; collection and tenant are empty and the epoch is 0,
    /// because the head says both.
    pub put: PutRequest,
}

impl ArchivedShardPutRequest {
    /// When the write is to be acknowledged.
    #[must_use]
    pub fn durability(&self) -> Durability {
        Durability::from_number(self.durability)
    }
}

impl Layout for ShardPutRequest {
    fn check(archived: &ArchivedShardPutRequest) -> Checked {
        known("durability", archived.durability, Durability::Batched as u8)?;
        equal("length of names beside a shard", names_length(&archived.put), 0)?;
        PutRequest::check(&archived.put)
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.put.size_hint_bytes()
    }
}

fn names_length(put: &<PutRequest as Archive>::Archived) -> usize {
    put.collection.len() + put.tenant.len()
}

wraps! {
    /// What happened to each object, in the order of the request.
    ShardPutReply, ArchivedShardPutReply, put: PutReply
}

/// Deletes objects of one shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ShardDeleteRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// [`Durability`]: 0 sync, 1 batched.
    pub durability: u8,
    /// 16 bytes an id.
    pub ids: Vec<u8>,
}

impl ArchivedShardDeleteRequest {
    /// When the deletion is to be acknowledged.
    #[must_use]
    pub fn durability(&self) -> Durability {
        Durability::from_number(self.durability)
    }

    /// The ids.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        id_chunks(&self.ids).iter().map(|id| ObjectId(*id))
    }
}

impl Layout for ShardDeleteRequest {
    fn check(archived: &ArchivedShardDeleteRequest) -> Checked {
        known("durability", archived.durability, Durability::Batched as u8)?;
        ids("ids", &archived.ids).map(drop)
    }

    fn size_hint_bytes(&self) -> usize {
        128 + self.ids.len()
    }
}

wraps! {
    /// What happened to each object, in the order of the request.
    ShardDeleteReply, ArchivedShardDeleteReply, delete: DeleteReply
}
