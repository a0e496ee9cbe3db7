//! Creating, listing, activating, deactivating and deleting tenants of a collection.

use heddle_types::limits::{
    NODES_MAX, SHARDS_PER_COLLECTION_MAX, TENANT_BATCH_MAX, TENANT_LIST_MAX,
};
use rkyv::vec::ArchivedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, at_most, ends, equal, known, name};
use super::u32s;

/// What becomes of tenants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TenantAction {
    /// They are created and take requests; those that exist stay as they are.
    Create = 0,
    /// They are created and wait on disk; those that exist stay as they are.
    CreateInactive = 1,
    /// They take requests.
    Activate = 2,
    /// They rest on disk.
    Deactivate = 3,
    /// They go with everything in them; those that do not exist are passed over.
    Delete = 4,
}

impl TenantAction {
    /// Every action, by number.
    pub const ALL: [Self; 5] =
        [Self::Create, Self::CreateInactive, Self::Activate, Self::Deactivate, Self::Delete];
}

/// Changes tenants of a collection, all of them or none.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TenantChangeRequest {
    /// Name of the collection.
    pub collection: String,
    /// A [`TenantAction`].
    pub action: u8,
    /// The tenants, up to 1,000, each once.
    pub tenants: Vec<String>,
}

impl TenantChangeRequest {
    /// A change of these tenants.
    #[must_use]
    pub fn new(collection: &str, action: TenantAction, tenants: Vec<String>) -> Self {
        Self { collection: collection.to_owned(), action: action as u8, tenants }
    }
}

impl ArchivedTenantChangeRequest {
    /// What becomes of the tenants.
    #[must_use]
    pub fn action(&self) -> TenantAction {
        let at = usize::from(self.action).min(TenantAction::ALL.len() - 1);
        TenantAction::ALL[at]
    }
}

fn names(tenants: &ArchivedVec<rkyv::string::ArchivedString>) -> Checked {
    at_most("tenants of a request", tenants.len(), TENANT_BATCH_MAX)?;
    tenants.iter().try_for_each(|tenant| name("tenant name length", tenant))
}

impl Layout for TenantChangeRequest {
    fn check(archived: &ArchivedTenantChangeRequest) -> Checked {
        name("collection name length", &archived.collection)?;
        known("action on tenants", archived.action, TenantAction::Delete as u8)?;
        names(&archived.tenants)
    }

    fn size_hint_bytes(&self) -> usize {
        512 + self.tenants.iter().map(|tenant| tenant.len() + 16).sum::<usize>()
    }
}

/// The change is made and known to every core of the node that answers.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TenantChangeReply {
    /// Version of the catalog with it.
    pub epoch: u64,
    /// How many tenants were created, deleted, or are in another state than before.
    pub changed: u32,
}

impl Layout for TenantChangeReply {
    fn check(_: &ArchivedTenantChangeReply) -> Checked {
        Ok(())
    }
}

/// Lists tenants by name, page by page, or tells of some.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct TenantListRequest {
    /// Name of the collection.
    pub collection: String,
    /// Only these, up to 1,000; empty = all.
    pub tenants: Vec<String>,
    /// Only those behind this name; empty = from the first.
    pub after: String,
    /// Most tenants of the page, up to 10,000.
    pub limit: u32,
    /// 1: also where their shards are.
    pub places: u8,
}

impl Layout for TenantListRequest {
    fn check(archived: &ArchivedTenantListRequest) -> Checked {
        name("collection name length", &archived.collection)?;
        name("tenant name length", &archived.after)?;
        at_most(
            "tenants of a page",
            archived.limit.to_native() as usize,
            TENANT_LIST_MAX as usize,
        )?;
        known("places of tenants", archived.places, 1)?;
        names(&archived.tenants)
    }

    fn size_hint_bytes(&self) -> usize {
        512 + self.tenants.iter().map(|tenant| tenant.len() + 16).sum::<usize>()
    }
}

/// One tenant.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct TenantItem {
    /// Its name.
    pub name: String,
    /// 1 active, 0 inactive.
    pub active: u8,
    /// Its shards, if places were asked for.
    pub shards: Vec<u64>,
    /// Where the replicas of each shard end.
    pub ends: Vec<u32>,
    /// The nodes of all replicas, 16 bytes each.
    pub nodes: Vec<u8>,
}

/// A page of tenants, by name.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct TenantListReply {
    /// Version of the catalog.
    pub epoch: u64,
    /// All tenants of the collection.
    pub total: u64,
    /// Those of them that are active.
    pub active: u64,
    /// The page; of tenants that were named, those that exist.
    pub tenants: Vec<TenantItem>,
    /// 1: more follow behind the last one.
    pub more: u8,
}

impl Layout for TenantListReply {
    fn check(archived: &ArchivedTenantListReply) -> Checked {
        at_most("tenants of a page", archived.tenants.len(), TENANT_LIST_MAX as usize)?;
        known("more tenants", archived.more, 1)?;
        archived.tenants.iter().try_for_each(|tenant| {
            name("tenant name length", &tenant.name)?;
            known("state of a tenant", tenant.active, 1)?;
            let (shards, replicas) = (tenant.shards.len(), tenant.nodes.len() / 16);
            at_most("shards of a tenant", shards, SHARDS_PER_COLLECTION_MAX as usize)?;
            at_most("replicas of a tenant", replicas, shards * NODES_MAX)?;
            equal("nodes of a tenant", tenant.nodes.len(), replicas * 16)?;
            ends("replicas of each shard", u32s(&tenant.ends), shards, replicas)
        })
    }

    fn size_hint_bytes(&self) -> usize {
        512 + self.tenants.iter().map(|tenant| tenant.name.len() + 128).sum::<usize>()
    }
}
