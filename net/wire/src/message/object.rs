//! Objects in columns, and reading and deleting them by id.

use heddle_types::limits::{OBJECT_BATCH_MAX, VECTOR_DIMS_MAX, VECTORS_PER_COLLECTION_MAX};
use heddle_types::{ApiError, Hlc, ObjectId};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{
    Checked, at_most, collection_and_tenant, ends, equal, ids, known, name, positions,
};
use super::{ErrorReply, Layout, MessageError, floats, id_chunks, u16s, u32s, u64s};

/// Which parts of objects a reply should carry beside id, times and stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Want {
    /// Property rows.
    pub properties: bool,
    /// Every vector.
    pub vectors: bool,
    /// Id, times and stamp, even when neither properties nor vectors are wanted (searches only;
    /// gets and scans always carry them).
    pub metadata: bool,
}

impl Want {
    /// Everything.
    pub const ALL: Self = Self { properties: true, vectors: true, metadata: true };
    const BITS_MAX: u8 = 7;

    /// The flags as they travel: 1 properties, 2 vectors, 4 metadata.
    #[must_use]
    pub fn bits(self) -> u8 {
        u8::from(self.properties) | u8::from(self.vectors) << 1 | u8::from(self.metadata) << 2
    }

    /// Reads the flags; unknown bits, which checked messages never have, are ignored.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        Self { properties: bits & 1 != 0, vectors: bits & 2 != 0, metadata: bits & 4 != 0 }
    }

    /// Must a search reply carry an objects column?
    #[must_use]
    pub fn any(self) -> bool {
        self.bits() != 0
    }
}

pub(super) fn want(bits: u8) -> Checked {
    known("want flags", bits, Want::BITS_MAX)
}

/// The vectors of one name, for the objects that have it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct VectorColumn {
    /// Name of the vector; empty for the default one.
    pub name: String,
    /// Components of each vector.
    pub dims: u32,
    /// Positions of the objects that have it, ascending.
    pub rows: Vec<u32>,
    /// The vectors one after the other, `[rows, dims]`.
    pub values: Vec<f32>,
}

impl VectorColumn {
    /// A column without vectors.
    #[must_use]
    pub fn new(name: impl Into<String>, dims: u32) -> Self {
        Self { name: name.into(), dims, rows: Vec::new(), values: Vec::new() }
    }

    /// Adds the vector of the object at position `row`; rows must come in ascending order.
    ///
    /// Panics: `values` has not `dims` components (a caller bug).
    pub fn push(&mut self, row: u32, values: &[f32]) {
        assert_eq!(values.len(), self.dims as usize, "a column holds vectors of one length");
        self.rows.push(row);
        self.values.extend_from_slice(values);
    }

    /// Bytes of the values and positions.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        64 + self.name.len() + 4 * (self.rows.len() + self.values.len())
    }
}

impl ArchivedVectorColumn {
    /// Positions of the objects that have this vector, ascending.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        u32s(&self.rows)
    }

    /// The vectors one after the other, `[rows, dims]`, read in place.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        floats(&self.values)
    }

    /// The vector of the object at position `row`, read in place. Cost: a binary search.
    #[must_use]
    pub fn of_row(&self, row: u32) -> Option<&[f32]> {
        let index = self.rows().binary_search(&row).ok()?;
        let dims = self.dims.to_native() as usize;
        self.values().get(index * dims..(index + 1) * dims)
    }
}

/// Checks the vector columns of `count` objects.
pub(super) fn columns(columns: &[ArchivedVectorColumn], count: usize) -> Checked {
    at_most("vector columns", columns.len(), VECTORS_PER_COLLECTION_MAX)?;
    for (index, column) in columns.iter().enumerate() {
        name("vector name length", &column.name)?;
        if let Some(twin) = columns[..index].iter().position(|other| other.name == column.name) {
            let (found, expected) = (index as u64, twin as u64);
            return Err(MessageError::Mismatch { field: "twin vector column", found, expected });
        }
        let dims = column.dims.to_native();
        at_most("dims", dims as usize, VECTOR_DIMS_MAX as usize)?;
        at_most("rows of a vector column", column.rows.len(), count)?;
        positions("rows of a vector column", column.rows(), count)?;
        let expected = column.rows.len() as u64 * u64::from(dims);
        let found = column.values.len() as u64;
        if found != expected || dims == 0 {
            return Err(MessageError::Mismatch { field: "vector values", found, expected });
        }
    }
    Ok(())
}

/// The part of a column of byte strings that belongs to position `index`.
pub(super) fn part<'a>(ends: &[u32], bytes: &'a [u8], index: usize) -> Option<&'a [u8]> {
    let end = *ends.get(index)? as usize;
    let start = if index == 0 { 0 } else { ends[index - 1] as usize };
    bytes.get(start..end)
}

/// Whole objects, in columns: position `i` of each column belongs to object `i`.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ObjectColumns {
    /// 16 bytes an object.
    pub ids: Vec<u8>,
    /// Creation time, microseconds since the Unix epoch.
    pub created_us: Vec<i64>,
    /// Time of the last update, microseconds since the Unix epoch.
    pub updated_us: Vec<i64>,
    /// Hybrid time of the stamp.
    pub stamps: Vec<u64>,
    /// Where each property row ends in `property_bytes`; empty when properties are not wanted.
    pub property_ends: Vec<u32>,
    /// The property rows, one after the other.
    pub property_bytes: Vec<u8>,
    /// The vectors; empty when they are not wanted.
    pub vectors: Vec<VectorColumn>,
}

impl ObjectColumns {
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.created_us.len()
    }

    /// Is there no object?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.created_us.is_empty()
    }

    /// Adds an object without its vectors and returns its position.
    ///
    /// `row` is `None` for all objects or for none, as properties are wanted or not.
    pub fn push(
        &mut self,
        id: &ObjectId,
        created_us: i64,
        updated_us: i64,
        stamp: Hlc,
        row: Option<&[u8]>,
    ) -> u32 {
        let position = self.len() as u32;
        self.ids.extend_from_slice(&id.0);
        self.created_us.push(created_us);
        self.updated_us.push(updated_us);
        self.stamps.push(stamp.0);
        if let Some(row) = row {
            self.property_bytes.extend_from_slice(row);
            self.property_ends.push(self.property_bytes.len() as u32);
        }
        position
    }

    /// Adds a vector of the object that was pushed last.
    ///
    /// Panics: no object was pushed, or the length differs from earlier vectors of that name
    /// (caller bugs). Cost: a scan of the column names.
    pub fn push_vector(&mut self, name: &str, values: &[f32]) {
        let row = self.len().checked_sub(1).expect("an object comes before its vectors") as u32;
        let index = self.vectors.iter().position(|column| column.name == name);
        let index = index.unwrap_or_else(|| {
            self.vectors.push(VectorColumn::new(name, values.len() as u32));
            self.vectors.len() - 1
        });
        self.vectors[index].push(row, values);
    }

    /// About how many bytes the columns take in a body: lets a server end a page in time.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let vectors: usize = self.vectors.iter().map(VectorColumn::size_bytes).sum();
        256 + 44 * self.len() + self.property_bytes.len() + vectors
    }
}

/// One object of an [`ObjectColumns`], read in place.
#[derive(Clone, Copy, Debug)]
pub struct ObjectView<'a> {
    columns: &'a ArchivedObjectColumns,
    position: usize,
}

impl<'a> ObjectView<'a> {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        ObjectId(id_chunks(&self.columns.ids)[self.position])
    }

    /// Creation time, microseconds since the Unix epoch.
    #[must_use]
    pub fn created_us(&self) -> i64 {
        self.columns.created_us[self.position].to_native()
    }

    /// Time of the last update, microseconds since the Unix epoch.
    #[must_use]
    pub fn updated_us(&self) -> i64 {
        self.columns.updated_us[self.position].to_native()
    }

    /// Hybrid time of its stamp.
    #[must_use]
    pub fn stamp(&self) -> Hlc {
        Hlc(u64s(&self.columns.stamps)[self.position])
    }

    /// Its property row, unless properties were not wanted.
    #[must_use]
    pub fn row(&self) -> Option<&'a [u8]> {
        part(u32s(&self.columns.property_ends), &self.columns.property_bytes, self.position)
    }

    /// Its vectors with their names. Cost: a binary search each.
    pub fn vectors(&self) -> impl Iterator<Item = (&'a str, &'a [f32])> {
        let columns = &self.columns.vectors;
        self.vectors_by_column()
            .map(move |(column, values)| (columns[column].name.as_str(), values))
    }

    /// Its vectors, each with the position of its column. Cost: a binary search each.
    pub fn vectors_by_column(&self) -> impl Iterator<Item = (usize, &'a [f32])> {
        let row = self.position as u32;
        let columns = self.columns.vectors.iter().enumerate();
        columns.filter_map(move |(index, column)| Some((index, column.of_row(row)?)))
    }
}

impl ArchivedObjectColumns {
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.created_us.len()
    }

    /// Is there no object?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.created_us.is_empty()
    }

    /// The objects, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ObjectView<'_>> {
        (0..self.len()).map(|position| ObjectView { columns: self, position })
    }

    pub(super) fn check(&self) -> Checked {
        let count = self.len();
        equal("object ids", self.ids.len(), count * 16)?;
        equal("update times", self.updated_us.len(), count)?;
        equal("stamps", self.stamps.len(), count)?;
        let (property_ends, bytes) = (u32s(&self.property_ends), &self.property_bytes);
        let rows = if property_ends.is_empty() { 0 } else { count };
        ends("property ends", property_ends, rows, bytes.len())?;
        columns(&self.vectors, count)
    }
}

/// Reads objects by id.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct GetRequest {
    /// Collection.
    pub collection: String,
    /// Tenant; empty when the collection has none.
    pub tenant: String,
    /// Version of the catalog that routed the request; 0 = not routed.
    pub epoch: u64,
    /// 16 bytes an id.
    pub ids: Vec<u8>,
    /// [`Want::bits`].
    pub want: u8,
}

impl ArchivedGetRequest {
    /// The ids.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        id_chunks(&self.ids).iter().map(|id| ObjectId(*id))
    }
}

impl Layout for GetRequest {
    fn check(archived: &ArchivedGetRequest) -> Checked {
        collection_and_tenant(&archived.collection, &archived.tenant)?;
        want(archived.want)?;
        ids("ids", &archived.ids).map(drop)
    }

    fn size_hint_bytes(&self) -> usize {
        512 + self.ids.len()
    }
}

/// The objects that exist, in the order of the request.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct GetReply {
    /// 1 for each requested id that exists, else 0.
    pub found: Vec<u8>,
    /// The objects with a 1.
    pub objects: ObjectColumns,
}

impl Layout for GetReply {
    fn check(archived: &ArchivedGetReply) -> Checked {
        at_most("found flags", archived.found.len(), OBJECT_BATCH_MAX)?;
        flags("found flag", &archived.found)?;
        let found = archived.found.iter().filter(|flag| **flag == 1).count();
        equal("objects", archived.objects.len(), found)?;
        archived.objects.check()
    }

    fn size_hint_bytes(&self) -> usize {
        self.found.len() + self.objects.size_bytes()
    }
}

fn flags(field: &'static str, flags: &[u8]) -> Checked {
    flags.iter().try_for_each(|flag| known(field, *flag, 1))
}

/// Deletes objects by id.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct DeleteRequest {
    /// Collection.
    pub collection: String,
    /// Tenant; empty when the collection has none.
    pub tenant: String,
    /// Version of the catalog that routed the request; 0 = not routed.
    pub epoch: u64,
    /// 16 bytes an id.
    pub ids: Vec<u8>,
}

impl ArchivedDeleteRequest {
    /// The ids.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        id_chunks(&self.ids).iter().map(|id| ObjectId(*id))
    }
}

impl Layout for DeleteRequest {
    fn check(archived: &ArchivedDeleteRequest) -> Checked {
        collection_and_tenant(&archived.collection, &archived.tenant)?;
        ids("ids", &archived.ids).map(drop)
    }

    fn size_hint_bytes(&self) -> usize {
        512 + self.ids.len()
    }
}

/// What happened to each object, in the order of the request.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct DeleteReply {
    /// 0 = deleted durably (or absent), else 1 + a position in `errors`.
    pub outcomes: Vec<u16>,
    /// 1 if the object existed.
    pub existed: Vec<u8>,
    /// The errors; several objects may share one.
    pub errors: Vec<ErrorReply>,
}

impl DeleteReply {
    /// Adds the outcome of the next object.
    pub fn push(&mut self, outcome: Result<bool, &ApiError>) {
        self.outcomes.push(outcome_number(&mut self.errors, outcome.err()));
        self.existed.push(u8::from(outcome == Ok(true)));
    }

    /// The outcomes one by one: did the object exist?
    #[must_use]
    pub fn into_results(self) -> Vec<Result<bool, ApiError>> {
        let Self { outcomes, existed, errors } = self;
        let pairs = outcomes.iter().zip(existed);
        pairs.map(|(outcome, existed)| outcome_result(*outcome, &errors, existed == 1)).collect()
    }
}

impl Layout for DeleteReply {
    fn check(archived: &ArchivedDeleteReply) -> Checked {
        outcomes(u16s(&archived.outcomes), &archived.errors)?;
        equal("existed flags", archived.existed.len(), archived.outcomes.len())?;
        flags("existed flag", &archived.existed)
    }

    fn size_hint_bytes(&self) -> usize {
        256 + 3 * self.outcomes.len() + 256 * self.errors.len()
    }
}

/// The number of an outcome; an error equal to the one before shares its place.
pub(super) fn outcome_number(errors: &mut Vec<ErrorReply>, error: Option<&ApiError>) -> u16 {
    let Some(error) = error else { return 0 };
    let error = ErrorReply::from(error);
    if errors.last() != Some(&error) {
        errors.push(error);
    }
    errors.len() as u16
}

/// The outcome of a number.
pub(super) fn outcome_result<T>(
    number: u16,
    errors: &[ErrorReply],
    value: T,
) -> Result<T, ApiError> {
    let Some(index) = usize::from(number).checked_sub(1) else { return Ok(value) };
    match errors.get(index) {
        Some(error) => Err(error.clone().into()),
        None => Err(ApiError::internal("the reply refers to an error that it does not carry")),
    }
}

/// Checks outcome numbers against their errors.
pub(super) fn outcomes(outcomes: &[u16], errors: &[<ErrorReply as Archive>::Archived]) -> Checked {
    at_most("outcomes", outcomes.len(), OBJECT_BATCH_MAX)?;
    at_most("errors", errors.len(), outcomes.len())?;
    if let Some(outcome) = outcomes.iter().find(|outcome| usize::from(**outcome) > errors.len()) {
        return Err(MessageError::UnknownValue { field: "outcome", found: u64::from(*outcome) });
    }
    errors.iter().try_for_each(ErrorReply::check)
}
