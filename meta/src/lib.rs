//! The catalog of Heddle: which collections exist, how they are cut into shards, where each shard
//! lives.
//!
//! The catalog is a deterministic state machine: equal commands in equal order give equal catalogs
//! on every node. Everything random or measured (ids, seeds, placement) is decided before a command
//! is made and travels inside it.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod cluster;
pub mod gossip;
pub mod handshake;
pub mod manifest;
pub mod placement;
pub mod raft;
pub mod store;
pub mod tenants;

pub use catalog::{
    Catalog, CatalogError, CollectionEntry, Command, CoreTenants, InvalidCatalog, NewTenant,
    ShardEntry, TENANT_BYTES_MAX,
};
pub use manifest::{FileEntry, Manifest, ManifestError, MissingShard};
pub use placement::{CoreLoad, Placement, place_shards};
pub use store::{CatalogStore, Opened, StoreError};
pub use tenants::{TenantEntry, TenantState, Tenants};
