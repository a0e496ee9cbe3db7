//! Nearest neighbours in shards of another node.
//!
//! A *pair* is a query and a shard in which it is searched. Pairs come query by query.

use heddle_types::limits::{
    SEARCH_BATCH_MAX, SEARCH_EF_MAX, SEARCH_K_MAX, SHARDS_PER_COLLECTION_MAX, VECTOR_DIMS_MAX,
};
use rkyv::{Archive, Deserialize, Serialize};

use super::super::check::{Checked, at_most, ends, equal, filter, finite, known, name, positions};
use super::super::{Layout, MessageError, floats, id_chunks, u32s, u64s};
use super::{ShardHead, shards};
use crate::message::u16s;

/// Most pairs of a request.
const PAIRS_MAX: usize = SEARCH_BATCH_MAX * SHARDS_PER_COLLECTION_MAX as usize;

/// Finds the nearest neighbours of vectors in some shards.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct ShardSearchRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// Name of the vector to search; empty for the default one.
    pub vector: String,
    /// The query vectors one after the other, `[queries, dims]`.
    pub queries: Vec<f32>,
    /// Components of each query.
    pub dims: u32,
    /// The shards.
    pub shards: Vec<u64>,
    /// Where the pairs of each query end in places; empty = every query in every shard.
    pub ends: Vec<u32>,
    /// Position in shards of the shard of each pair, ascending within a query.
    pub places: Vec<u16>,
    /// Neighbours to return for each pair.
    pub k: u32,
    /// Candidates to keep for each pair, at least 1.
    pub ef: u32,
    /// Neighbours farther than this are left out; NaN = no bound.
    pub max_distance: f32,
    /// An encoded `heddle_types::Filter`; empty = none.
    pub filter: Vec<u8>,
}

impl ArchivedShardSearchRequest {
    /// The query vectors one after the other, `[queries, dims]`, read in place.
    #[must_use]
    pub fn queries(&self) -> &[f32] {
        floats(&self.queries)
    }

    /// The shards.
    #[must_use]
    pub fn shards(&self) -> &[u64] {
        u64s(&self.shards)
    }

    /// Where the pairs of each query end in [`ArchivedShardSearchRequest::places`]; empty = every
    /// query in every shard.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        u32s(&self.ends)
    }

    /// Position in the shards of the shard of each pair.
    #[must_use]
    pub fn places(&self) -> &[u16] {
        u16s(&self.places)
    }

    /// The bound on distances.
    #[must_use]
    pub fn max_distance(&self) -> Option<f32> {
        Some(self.max_distance.to_native()).filter(|bound| !bound.is_nan())
    }

    fn check_queries(&self) -> Result<usize, MessageError> {
        let dims = self.dims.to_native() as usize;
        at_most("dims", dims, VECTOR_DIMS_MAX as usize)?;
        if dims == 0 || self.queries.is_empty() {
            return Err(MessageError::Mismatch { field: "queries", found: 0, expected: 1 });
        }
        let count = self.queries.len() / dims;
        equal("query values", self.queries.len(), count * dims)?;
        at_most("queries", count, SEARCH_BATCH_MAX)?;
        finite("queries", self.queries())?;
        Ok(count)
    }

    fn check_pairs(&self, queries: usize) -> Checked {
        if self.ends.is_empty() {
            return equal("places without ends", self.places.len(), 0);
        }
        at_most("pairs", self.places.len(), PAIRS_MAX)?;
        ends("ends of pairs", self.ends(), queries, self.places.len())?;
        let mut start = 0;
        for end in self.ends() {
            let places = &self.places()[start..*end as usize];
            start = *end as usize;
            if let Some(index) = places.windows(2).position(|pair| pair[0] >= pair[1]) {
                return Err(MessageError::Order { field: "places", index: index + 1 });
            }
            if let Some(last) = places.last() {
                positions("places", &[u32::from(*last)], self.shards.len())?;
            }
        }
        Ok(())
    }
}

impl Layout for ShardSearchRequest {
    fn check(archived: &ArchivedShardSearchRequest) -> Checked {
        name("vector name length", &archived.vector)?;
        shards(archived.shards.len())?;
        let queries = archived.check_queries()?;
        archived.check_pairs(queries)?;
        at_most("k", archived.k.to_native() as usize, SEARCH_K_MAX as usize)?;
        let ef = archived.ef.to_native();
        at_most("ef", ef as usize, SEARCH_EF_MAX as usize)?;
        if ef == 0 {
            return Err(MessageError::UnknownValue { field: "ef", found: 0 });
        }
        filter(&archived.filter)
    }

    fn size_hint_bytes(&self) -> usize {
        let pairs = 4 * self.ends.len() + 2 * self.places.len();
        256 + 4 * self.queries.len() + 8 * self.shards.len() + pairs + self.filter.len()
    }
}

/// The neighbours of each pair, nearest first.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ShardSearchReply {
    /// Where the neighbours of each pair end.
    pub ends: Vec<u32>,
    /// 16 bytes a neighbour.
    pub ids: Vec<u8>,
    /// Slot of each neighbour in its shard.
    pub slots: Vec<u32>,
    /// Distance of each neighbour.
    pub distances: Vec<f32>,
    /// Distance computations of each pair.
    pub evaluations: Vec<u32>,
    /// 1 where every row was looked at, 0 where the graph was followed.
    pub exact: Vec<u8>,
}

impl ArchivedShardSearchReply {
    /// Where the neighbours of each pair end.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        u32s(&self.ends)
    }

    /// Ids of all neighbours.
    #[must_use]
    pub fn ids(&self) -> &[[u8; 16]] {
        id_chunks(&self.ids)
    }

    /// Slots of all neighbours.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        u32s(&self.slots)
    }

    /// Distances of all neighbours.
    #[must_use]
    pub fn distances(&self) -> &[f32] {
        floats(&self.distances)
    }

    /// Distance computations of each pair.
    #[must_use]
    pub fn evaluations(&self) -> &[u32] {
        u32s(&self.evaluations)
    }
}

impl Layout for ShardSearchReply {
    fn check(archived: &ArchivedShardSearchReply) -> Checked {
        let (pairs, hits) = (archived.ends.len(), archived.distances.len());
        at_most("pairs", pairs, PAIRS_MAX)?;
        ends("ends", archived.ends(), pairs, hits)?;
        equal("ids", archived.ids.len(), hits * 16)?;
        equal("slots", archived.slots.len(), hits)?;
        equal("evaluations", archived.evaluations.len(), pairs)?;
        equal("exact flags", archived.exact.len(), pairs)?;
        archived.exact.iter().try_for_each(|flag| known("exact flag", *flag, 1))?;
        match archived.distances().iter().position(|distance| distance.is_nan()) {
            Some(index) => Err(MessageError::NotFinite { field: "distances", index }),
            None => Ok(()),
        }
    }

    fn size_hint_bytes(&self) -> usize {
        256 + 9 * self.ends.len() + 24 * self.distances.len()
    }
}
