//! Reading, listing and counting what shards of another node hold.

use heddle_types::ObjectId;
use heddle_types::limits::{OBJECT_BATCH_MAX, SHARDS_PER_COLLECTION_MAX};
use rkyv::{Archive, Deserialize, Serialize};

use super::super::check::{Checked, at_most, equal, filter, ids, optional_id};
use super::super::object::{GetReply, want};
use super::super::scan::ScanReply;
use super::super::{Layout, id_chunks, u32s, u64s};
use super::{ShardHead, shard_ends, shards, wraps};

/// Reads objects by id, or the objects of hits, from some shards.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ShardGetRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shards.
    pub shards: Vec<u64>,
    /// Where the ids of each shard end, in ids.
    pub ends: Vec<u32>,
    /// 16 bytes an id.
    pub ids: Vec<u8>,
    /// The slot in which a search found each object, which is left out when it is elsewhere by now;
    /// empty = wherever it is.
    pub slots: Vec<u32>,
    /// `Want::bits`.
    pub want: u8,
}

impl ArchivedShardGetRequest {
    /// The shards, each with the range of its ids.
    pub fn parts(&self) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> + '_ {
        let mut start = 0;
        u64s(&self.shards).iter().zip(u32s(&self.ends)).map(move |(shard, end)| {
            let part = start..*end as usize;
            start = part.end;
            (*shard, part)
        })
    }

    /// The ids.
    #[must_use]
    pub fn ids(&self) -> &[[u8; 16]] {
        id_chunks(&self.ids)
    }

    /// The slots; empty or one an id.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        u32s(&self.slots)
    }
}

impl Layout for ShardGetRequest {
    fn check(archived: &ArchivedShardGetRequest) -> Checked {
        shards(archived.shards.len())?;
        let count = ids("ids", &archived.ids)?;
        shard_ends(u32s(&archived.ends), archived.shards.len(), count)?;
        if !archived.slots.is_empty() {
            equal("slots", archived.slots.len(), count)?;
        }
        want(archived.want)
    }

    fn size_hint_bytes(&self) -> usize {
        128 + 12 * self.shards.len() + self.ids.len() + 4 * self.slots.len()
    }
}

wraps! {
    /// The objects that exist. It may speak of the first ids of the request alone, at least of one;
    /// then the others have to be asked for again.
    ShardGetReply, ArchivedShardGetReply, get: GetReply
}

/// Lists objects of one shard in the order of their ids.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ShardScanRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// Begin after this id; empty = at the first.
    pub after: Vec<u8>,
    /// Most objects of the page; a page may be shorter before the end.
    pub limit: u32,
    /// An encoded `heddle_types::Filter`; empty = none.
    pub filter: Vec<u8>,
    /// `Want::bits`.
    pub want: u8,
}

impl ArchivedShardScanRequest {
    /// Begin after this id.
    #[must_use]
    pub fn after(&self) -> Option<ObjectId> {
        id_chunks(&self.after).first().map(|id| ObjectId(*id))
    }
}

impl Layout for ShardScanRequest {
    fn check(archived: &ArchivedShardScanRequest) -> Checked {
        optional_id("cursor length", &archived.after)?;
        at_most("limit", archived.limit.to_native() as usize, OBJECT_BATCH_MAX)?;
        filter(&archived.filter)?;
        want(archived.want)
    }

    fn size_hint_bytes(&self) -> usize {
        256 + self.filter.len()
    }
}

wraps! {
    /// One page.
    ShardScanReply, ArchivedShardScanReply, scan: ScanReply
}

/// Counts objects of some shards.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ShardCountRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shards.
    pub shards: Vec<u64>,
    /// An encoded `heddle_types::Filter`; empty = none.
    pub filter: Vec<u8>,
}

impl ArchivedShardCountRequest {
    /// The shards.
    #[must_use]
    pub fn shards(&self) -> &[u64] {
        u64s(&self.shards)
    }
}

impl Layout for ShardCountRequest {
    fn check(archived: &ArchivedShardCountRequest) -> Checked {
        shards(archived.shards.len())?;
        filter(&archived.filter)
    }

    fn size_hint_bytes(&self) -> usize {
        128 + 8 * self.shards.len() + self.filter.len()
    }
}

/// How many, shard by shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ShardCountReply {
    /// Objects of each shard that exist and match.
    pub counts: Vec<u64>,
}

impl ArchivedShardCountReply {
    /// Objects of each shard that exist and match.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        u64s(&self.counts)
    }
}

impl Layout for ShardCountReply {
    fn check(archived: &ArchivedShardCountReply) -> Checked {
        at_most("counts", archived.counts.len(), SHARDS_PER_COLLECTION_MAX as usize)
    }
}
