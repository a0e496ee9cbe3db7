//! Nearest neighbours.

use heddle_types::ObjectId;
use heddle_types::limits::{SEARCH_BATCH_MAX, SEARCH_EF_MAX, SEARCH_K_MAX, VECTOR_DIMS_MAX};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{
    Checked, at_most, collection_and_tenant, ends, equal, filter, finite, name, optional_id,
};
use super::object::{ObjectColumns, want};
use super::{Layout, MessageError, floats, id_chunks, u32s};

/// Finds the nearest neighbours of one or more vectors, or of a stored object.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct SearchRequest {
    /// Collection.
    pub collection: String,
    /// Tenant; empty when the collection has none.
    pub tenant: String,
    /// Version of the catalog that routed the request; 0 = not routed.
    pub epoch: u64,
    /// Name of the vector to search; empty for the default one.
    pub vector: String,
    /// The query vectors one after the other, `[queries, dims]`; empty with `near_id`.
    pub queries: Vec<f32>,
    /// Components of each query; 0 with `near_id`.
    pub dims: u32,
    /// An object whose stored vector is the query: its id, or nothing.
    pub near_id: Vec<u8>,
    /// Neighbours to return for each query.
    pub k: u32,
    /// Candidates to keep; 0 = as the collection says.
    pub ef: u32,
    /// Nearest neighbours to leave out.
    pub offset: u32,
    /// Neighbours farther than this are left out; NaN = no bound.
    pub max_distance: f32,
    /// Stop after this many jumps in distance; 0 = do not.
    pub autocut: u32,
    /// An encoded `heddle_types::Filter`; empty = none.
    pub filter: Vec<u8>,
    /// `Want::bits`; 0 = ids and distances alone.
    pub want: u8,
}

impl ArchivedSearchRequest {
    /// Number of queries; one with a near object.
    #[must_use]
    pub fn query_count(&self) -> usize {
        match self.dims.to_native() as usize {
            0 => 1,
            dims => self.queries.len() / dims,
        }
    }

    /// The query vectors one after the other, `[queries, dims]`, read in place.
    #[must_use]
    pub fn queries(&self) -> &[f32] {
        floats(&self.queries)
    }

    /// The object whose vector is the query.
    #[must_use]
    pub fn near_id(&self) -> Option<ObjectId> {
        id_chunks(&self.near_id).first().map(|id| ObjectId(*id))
    }

    /// The bound on distances.
    #[must_use]
    pub fn max_distance(&self) -> Option<f32> {
        Some(self.max_distance.to_native()).filter(|bound| !bound.is_nan())
    }

    fn check_queries(&self) -> Checked {
        let dims = self.dims.to_native() as usize;
        optional_id("near id length", &self.near_id)?;
        if !self.near_id.is_empty() {
            equal("dims beside a near id", dims, 0)?;
            return equal("query values beside a near id", self.queries.len(), 0);
        }
        at_most("dims", dims, VECTOR_DIMS_MAX as usize)?;
        if dims == 0 || self.queries.is_empty() {
            return Err(MessageError::Mismatch { field: "queries", found: 0, expected: 1 });
        }
        let count = self.queries.len() / dims;
        equal("query values", self.queries.len(), count * dims)?;
        at_most("queries", count, SEARCH_BATCH_MAX)?;
        finite("queries", self.queries())
    }
}

impl Layout for SearchRequest {
    fn check(archived: &ArchivedSearchRequest) -> Checked {
        collection_and_tenant(&archived.collection, &archived.tenant)?;
        name("vector name length", &archived.vector)?;
        archived.check_queries()?;
        let (k, offset) = (archived.k.to_native(), archived.offset.to_native());
        at_most("offset + k", (u64::from(k) + u64::from(offset)) as usize, SEARCH_K_MAX as usize)?;
        at_most("ef", archived.ef.to_native() as usize, SEARCH_EF_MAX as usize)?;
        filter(&archived.filter)?;
        want(archived.want)
    }

    fn size_hint_bytes(&self) -> usize {
        512 + 4 * self.queries.len() + self.filter.len()
    }
}

/// The neighbours of each query, nearest first.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct SearchReply {
    /// Where the neighbours of each query end in `ids` and `distances`.
    pub ends: Vec<u32>,
    /// 16 bytes a neighbour.
    pub ids: Vec<u8>,
    /// Distance of each neighbour.
    pub distances: Vec<f32>,
    /// The neighbours themselves, in the same order, if any part of them was wanted; else empty.
    pub objects: ObjectColumns,
    /// Distance computations of each query.
    pub evaluations: Vec<u32>,
    /// Microseconds that the server worked on each query.
    pub server_us: Vec<u32>,
    /// Microseconds that the request waited before the work began.
    pub queue_us: u32,
}

impl ArchivedSearchReply {
    /// Where the neighbours of each query end.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        u32s(&self.ends)
    }

    /// Ids of all neighbours.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        id_chunks(&self.ids).iter().map(|id| ObjectId(*id))
    }

    /// Distances of all neighbours.
    #[must_use]
    pub fn distances(&self) -> &[f32] {
        floats(&self.distances)
    }

    /// Distance computations of each query.
    #[must_use]
    pub fn evaluations(&self) -> &[u32] {
        u32s(&self.evaluations)
    }

    /// Microseconds of work for each query.
    #[must_use]
    pub fn server_us(&self) -> &[u32] {
        u32s(&self.server_us)
    }
}

impl Layout for SearchReply {
    fn check(archived: &ArchivedSearchReply) -> Checked {
        let (queries, hits) = (archived.ends.len(), archived.distances.len());
        at_most("queries", queries, SEARCH_BATCH_MAX)?;
        ends("ends", archived.ends(), queries, hits)?;
        equal("ids", archived.ids.len(), hits * 16)?;
        equal("evaluations", archived.evaluations.len(), queries)?;
        equal("server times", archived.server_us.len(), queries)?;
        if let Some(index) = archived.distances().iter().position(|distance| distance.is_nan()) {
            return Err(MessageError::NotFinite { field: "distances", index });
        }
        if !archived.objects.is_empty() {
            equal("objects", archived.objects.len(), hits)?;
        }
        archived.objects.check()
    }

    fn size_hint_bytes(&self) -> usize {
        512 + 12 * self.ends.len() + 20 * self.distances.len() + self.objects.size_bytes()
    }
}
