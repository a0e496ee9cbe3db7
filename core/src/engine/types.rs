//! What goes into an engine and what comes out of it.

use heddle_types::{ObjectId, Stamp};

use crate::objects::NewVector;

/// What a put does with an object that exists already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutMode {
    /// The new object takes the place of the old one.
    Replace,
    /// Listed properties and vectors take the place of the old ones, all others stay; an object
    /// that does not exist is created.
    Merge,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// When it is on disk and visible.
    #[default]
    Sync,
    /// When the log has taken it, before its sync: it becomes durable and visible with the next
    /// one, in its place among all writes of the core, unless the process or the machine ends
    /// before that.
    Batched,
}

/// One object to put.
#[derive(Clone, PartialEq, Debug)]
pub struct PutItem {
    /// Identity.
    pub id: ObjectId,
    /// Properties as a row (`heddle_types::row`); empty for none.
    pub properties: Vec<u8>,
    /// Vectors, each at most once.
    pub vectors: Vec<ItemVector>,
}

/// One vector of an object.
#[derive(Clone, PartialEq, Debug)]
pub struct ItemVector {
    /// Position in the collection's `vectors`.
    pub index: u8,
    /// Components, as many as the collection declares.
    pub values: Vec<f32>,
}

impl ItemVector {
    /// As the object store takes it.
    pub(crate) fn as_new(&self) -> NewVector<'_> {
        NewVector { index: self.index, values: &self.values }
    }
}

/// What became of one put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The stamp of the write, its identity for life.
    pub stamp: Stamp,
    /// Creation time of the object, microseconds since the Unix epoch.
    pub created_us: i64,
    /// Did no object of this id exist before?
    pub created: bool,
}

/// Which parts of an object a reader wants beside id, times and stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Want {
    /// The property row; costs a read of the device unless the row is new.
    pub properties: bool,
    /// Every vector; costs a copy from memory, or a read of the device where they rest on disk.
    pub vectors: bool,
}

impl Want {
    /// Everything.
    pub const ALL: Self = Self { properties: true, vectors: true };
    /// Id, times and stamp alone.
    pub const NOTHING: Self = Self { properties: false, vectors: false };
}

/// One object as it is stored.
#[derive(Clone, PartialEq, Debug)]
pub struct Object {
    /// Identity.
    pub id: ObjectId,
    /// When it was created, microseconds since the Unix epoch.
    pub created_us: i64,
    /// When it was last written, microseconds since the Unix epoch.
    pub updated_us: i64,
    /// Stamp of the last write.
    pub stamp: Stamp,
    /// Property row; empty when not wanted or when there are none.
    pub properties: Vec<u8>,
    /// Vectors; empty when not wanted. Those that rest on disk come back bit for bit. In memory
    /// cosine vectors have unit length and are given back with the length they had, so components
    /// may differ from what was put in the last bit.
    pub vectors: Vec<ItemVector>,
}
