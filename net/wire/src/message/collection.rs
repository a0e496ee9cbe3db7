//! Creating, listing, showing and dropping collections. Definitions travel as JSON text.

use heddle_types::limits::COLLECTIONS_MAX;
use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, at_most, name};
use crate::limits::DEFINITION_BYTES_MAX;

/// A collection as the catalog holds it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionEntry {
    /// Identity, the bytes of its UUID.
    pub id: [u8; 16],
    /// `CollectionConfig` as JSON text.
    pub definition: String,
}

fn definition(text: &str) -> Checked {
    at_most("definition length", text.len(), DEFINITION_BYTES_MAX)
}

/// Creates a collection.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionCreateRequest {
    /// `CollectionConfig` as JSON text; what it leaves out gets its default.
    pub definition: String,
}

impl Layout for CollectionCreateRequest {
    fn check(archived: &ArchivedCollectionCreateRequest) -> Checked {
        definition(&archived.definition)
    }
}

/// The collection exists on every node that serves it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionCreateReply {
    /// Version of the catalog that holds it.
    pub epoch: u64,
    /// The collection with its defaults filled in.
    pub collection: CollectionEntry,
}

impl Layout for CollectionCreateReply {
    fn check(archived: &ArchivedCollectionCreateReply) -> Checked {
        definition(&archived.collection.definition)
    }
}

/// Lists every collection.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct CollectionListRequest {
    /// Only collections whose name starts so; empty = all.
    pub prefix: String,
}

impl Layout for CollectionListRequest {
    fn check(archived: &ArchivedCollectionListRequest) -> Checked {
        name("prefix length", &archived.prefix)
    }
}

/// The collections, by name.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionListReply {
    /// Version of the catalog.
    pub epoch: u64,
    /// The collections.
    pub collections: Vec<CollectionEntry>,
}

impl Layout for CollectionListReply {
    fn check(archived: &ArchivedCollectionListReply) -> Checked {
        at_most("collections", archived.collections.len(), COLLECTIONS_MAX)?;
        archived.collections.iter().try_for_each(|entry| definition(&entry.definition))
    }
}

/// Shows one collection.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionShowRequest {
    /// Its name.
    pub name: String,
}

impl Layout for CollectionShowRequest {
    fn check(archived: &ArchivedCollectionShowRequest) -> Checked {
        name("collection name length", &archived.name)
    }
}

/// The collection.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionShowReply {
    /// Version of the catalog.
    pub epoch: u64,
    /// The collection.
    pub collection: CollectionEntry,
}

impl Layout for CollectionShowReply {
    fn check(archived: &ArchivedCollectionShowReply) -> Checked {
        definition(&archived.collection.definition)
    }
}

/// Drops a collection and everything in it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionDropRequest {
    /// Its name.
    pub name: String,
}

impl Layout for CollectionDropRequest {
    fn check(archived: &ArchivedCollectionDropRequest) -> Checked {
        name("collection name length", &archived.name)
    }
}

/// The collection is gone.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CollectionDropReply {
    /// Version of the catalog without it.
    pub epoch: u64,
}

impl Layout for CollectionDropReply {
    fn check(_: &ArchivedCollectionDropReply) -> Checked {
        Ok(())
    }
}
