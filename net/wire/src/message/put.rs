//! Writing objects.

use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::{ApiError, Hlc, ObjectId};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{Checked, collection_and_tenant, ends, equal, ids, known};
use super::object::{VectorColumn, columns, outcome_number, outcome_result, outcomes, part};
use super::{ErrorReply, Layout, id_chunks, u16s, u32s};

/// What a put does to an object that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum PutMode {
    /// The new object takes its place.
    #[default]
    Replace = 0,
    /// Listed properties and vectors replace the stored ones, the others stay.
    Merge = 1,
}

/// Writes objects, in columns: position `i` of each column belongs to object `i`.
///
/// Each object succeeds or fails by itself; its vectors are checked (finite, dimension) there too,
/// so that one bad vector costs one object and not the batch.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct PutRequest {
    /// Collection.
    pub collection: String,
    /// Tenant; empty when the collection has none.
    pub tenant: String,
    /// Version of the catalog that routed the request; 0 = not routed.
    pub epoch: u64,
    /// [`PutMode`]: 0 replace, 1 merge.
    pub mode: u8,
    /// 16 bytes an object.
    pub ids: Vec<u8>,
    /// Where each property row ends in `property_bytes`.
    pub property_ends: Vec<u32>,
    /// The property rows (`heddle_types::row`), one after the other; an empty one = no properties.
    pub property_bytes: Vec<u8>,
    /// The vectors.
    pub vectors: Vec<VectorColumn>,
}

impl PutRequest {
    /// A request without objects.
    #[must_use]
    pub fn new(collection: &str, tenant: &str, epoch: u64, mode: PutMode) -> Self {
        Self {
            collection: collection.to_owned(),
            tenant: tenant.to_owned(),
            epoch,
            mode: mode as u8,
            ids: Vec::new(),
            property_ends: Vec::new(),
            property_bytes: Vec::new(),
            vectors: Vec::new(),
        }
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.property_ends.len()
    }

    /// Is there no object?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.property_ends.is_empty()
    }

    /// Adds an object without its vectors.
    pub fn push(&mut self, id: &ObjectId, row: &[u8]) {
        self.ids.extend_from_slice(&id.0);
        self.property_bytes.extend_from_slice(row);
        self.property_ends.push(self.property_bytes.len() as u32);
    }

    /// Adds a vector of the object that was pushed last; `false` when its length differs from
    /// earlier vectors of that name, which one request cannot hold. Cost: a scan of the names.
    #[must_use]
    pub fn push_vector(&mut self, name: &str, values: &[f32]) -> bool {
        let Some(row) = self.len().checked_sub(1) else { return false };
        let index = self.vectors.iter().position(|column| column.name == name);
        let index = index.unwrap_or_else(|| {
            self.vectors.push(VectorColumn::new(name, values.len() as u32));
            self.vectors.len() - 1
        });
        let column = &mut self.vectors[index];
        let fits = column.dims as usize == values.len();
        if fits {
            column.push(row as u32, values);
        }
        fits
    }

    /// About how many bytes the body has.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let vectors: usize = self.vectors.iter().map(VectorColumn::size_bytes).sum();
        512 + 20 * self.len() + self.property_bytes.len() + vectors
    }
}

impl ArchivedPutRequest {
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.property_ends.len()
    }

    /// Is there no object?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.property_ends.is_empty()
    }

    /// What to do with objects that exist.
    #[must_use]
    pub fn mode(&self) -> PutMode {
        if self.mode == PutMode::Merge as u8 { PutMode::Merge } else { PutMode::Replace }
    }

    /// The ids.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        id_chunks(&self.ids).iter().map(|id| ObjectId(*id))
    }

    /// The property row of the object at position `index`, in place.
    ///
    /// Panics: `index` is not below [`ArchivedPutRequest::len`] (a caller bug).
    #[must_use]
    pub fn row(&self, index: usize) -> &[u8] {
        part(u32s(&self.property_ends), &self.property_bytes, index)
            .expect("a checked message has a row for each object")
    }

    /// The vectors of the object at position `index`: position of the column in
    /// [`ArchivedPutRequest::vectors`] and values in place. Cost: a binary search a column.
    pub fn vectors_of(&self, index: usize) -> impl Iterator<Item = (usize, &[f32])> {
        let columns = self.vectors.iter().enumerate();
        columns.filter_map(move |(column, vectors)| {
            Some((column, vectors.of_row(u32::try_from(index).ok()?)?))
        })
    }
}

impl Layout for PutRequest {
    fn check(archived: &ArchivedPutRequest) -> Checked {
        collection_and_tenant(&archived.collection, &archived.tenant)?;
        known("put mode", archived.mode, PutMode::Merge as u8)?;
        let count = ids("ids", &archived.ids)?;
        let bytes = archived.property_bytes.len();
        ends("property ends", u32s(&archived.property_ends), count, bytes)?;
        columns(&archived.vectors, count)
    }

    fn size_hint_bytes(&self) -> usize {
        self.size_bytes()
    }
}

/// What happened to each object, in the order of the request.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct PutReply {
    /// 0 = written durably, else 1 + a position in `errors`.
    pub outcomes: Vec<u16>,
    /// Hybrid time of the stamp of each write; 0 where it failed.
    pub stamps: Vec<u64>,
    /// The errors; several objects may share one.
    pub errors: Vec<ErrorReply>,
}

impl PutReply {
    /// Adds the outcome of the next object.
    pub fn push(&mut self, outcome: Result<Hlc, &ApiError>) {
        self.outcomes.push(outcome_number(&mut self.errors, outcome.err()));
        self.stamps.push(outcome.map_or(0, |stamp| stamp.0));
    }

    /// The outcomes one by one: the hybrid time of the write.
    #[must_use]
    pub fn into_results(self) -> Vec<Result<Hlc, ApiError>> {
        let Self { outcomes, stamps, errors } = self;
        let pairs = outcomes.iter().zip(stamps);
        pairs.map(|(outcome, stamp)| outcome_result(*outcome, &errors, Hlc(stamp))).collect()
    }
}

impl Layout for PutReply {
    fn check(archived: &ArchivedPutReply) -> Checked {
        outcomes(u16s(&archived.outcomes), &archived.errors)?;
        equal("stamps", archived.stamps.len(), archived.outcomes.len())
    }

    fn size_hint_bytes(&self) -> usize {
        256 + 10 * self.outcomes.len() + 256 * self.errors.len()
    }
}

const _: () = assert!(OBJECT_BATCH_MAX < u16::MAX as usize, "outcomes are 16-bit numbers");
