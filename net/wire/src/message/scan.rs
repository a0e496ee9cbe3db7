//! Listing objects page by page, and counting them.

use heddle_types::ObjectId;
use heddle_types::limits::OBJECT_BATCH_MAX;
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{Checked, at_most, collection_and_tenant, filter, optional_id};
use super::object::{ObjectColumns, want};
use super::{Layout, id_chunks};

/// Lists objects in the order of their ids.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ScanRequest {
    /// Collection.
    pub collection: String,
    /// Tenant; empty when the collection has none.
    pub tenant: String,
    /// Version of the catalog that routed the request; 0 = not routed.
    pub epoch: u64,
    /// Begin after this id; empty = at the first.
    pub after: Vec<u8>,
    /// Most objects of the page; a page may be shorter before the end.
    pub limit: u32,
    /// An encoded `heddle_types::Filter`; empty = none.
    pub filter: Vec<u8>,
    /// `Want::bits`.
    pub want: u8,
}

impl ArchivedScanRequest {
    /// Begin after this id.
    #[must_use]
    pub fn after(&self) -> Option<ObjectId> {
        id_chunks(&self.after).first().map(|id| ObjectId(*id))
    }
}

impl Layout for ScanRequest {
    fn check(archived: &ArchivedScanRequest) -> Checked {
        collection_and_tenant(&archived.collection, &archived.tenant)?;
        optional_id("cursor length", &archived.after)?;
        at_most("limit", archived.limit.to_native() as usize, OBJECT_BATCH_MAX)?;
        filter(&archived.filter)?;
        want(archived.want)
    }
}

/// One page.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ScanReply {
    /// The objects, by id.
    pub objects: ObjectColumns,
    /// Where the next page begins; empty = this was the last.
    pub next: Vec<u8>,
}

impl ArchivedScanReply {
    /// Where the next page begins.
    #[must_use]
    pub fn next(&self) -> Option<ObjectId> {
        id_chunks(&self.next).first().map(|id| ObjectId(*id))
    }
}

impl Layout for ScanReply {
    fn check(archived: &ArchivedScanReply) -> Checked {
        optional_id("cursor length", &archived.next)?;
        at_most("objects", archived.objects.len(), OBJECT_BATCH_MAX)?;
        archived.objects.check()
    }

    fn size_hint_bytes(&self) -> usize {
        self.objects.size_bytes()
    }
}

/// Counts objects.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CountRequest {
    /// Collection.
    pub collection: String,
    /// Tenant; empty when the collection has none.
    pub tenant: String,
    /// Version of the catalog that routed the request; 0 = not routed.
    pub epoch: u64,
    /// An encoded `heddle_types::Filter`; empty = none.
    pub filter: Vec<u8>,
}

impl Layout for CountRequest {
    fn check(archived: &ArchivedCountRequest) -> Checked {
        collection_and_tenant(&archived.collection, &archived.tenant)?;
        filter(&archived.filter)
    }
}

/// How many.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CountReply {
    /// Objects that exist and match.
    pub count: u64,
}

impl Layout for CountReply {
    fn check(_: &ArchivedCountReply) -> Checked {
        Ok(())
    }
}
