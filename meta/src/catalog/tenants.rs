//! Changes of tenants: many at a time, and none of them costs more than the tenants it names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_types::limits::{TENANT_BATCH_MAX, TENANT_SHARDS_PER_CORE_MAX, TENANTS_MAX};
use heddle_types::schema::check_tenant_name;
use heddle_types::{ApiError, CollectionId, ErrorCode, NodeId, ShardId};
use serde::{Deserialize, Serialize};

use super::{Catalog, CatalogError, CollectionEntry, ShardEntry};
use crate::placement::Placement;
use crate::tenants::{TenantEntry, TenantState, Tenants};

/// Most bytes of all tenants in the stored form of a state (32 MiB): 100,000 of them with names of
/// 40 bytes and three replicas take 23 MiB.
pub const TENANT_BYTES_MAX: u64 = 32 << 20;

/// A tenant to create.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its name.
    pub name: String,
    /// For each shard its replicas, as many as the definition's replication factor.
    pub replicas: Vec<Vec<Placement>>,
}

/// Tenant shards at home on one core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoreTenants {
    /// All of them.
    pub shards: u32,
    /// Those of active tenants.
    pub active: u32,
}

/// What all tenants take, kept up to date by every change; it follows from the rest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct TenantUse {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) cores: BTreeMap<(NodeId, u32), CoreTenants>,
}

impl TenantUse {
    pub(super) fn add(&mut self, name: &str, entry: &TenantEntry) {
        self.count += 1;
        self.bytes += entry.bytes_max(name);
        for place in entry.shards.iter().flat_map(|shard| &shard.replicas) {
            let core = self.cores.entry((place.node, place.home)).or_default();
            core.shards += 1;
            core.active += u32::from(entry.state == TenantState::Active);
        }
    }

    pub(super) fn take(&mut self, name: &str, entry: &TenantEntry) {
        self.count -= 1;
        self.bytes -= entry.bytes_max(name);
        for place in entry.shards.iter().flat_map(|shard| &shard.replicas) {
            let core = self.cores.entry((place.node, place.home)).or_default();
            core.shards -= 1;
            core.active -= u32::from(entry.state == TenantState::Active);
            if core.shards == 0 {
                self.cores.remove(&(place.node, place.home));
            }
        }
    }

    /// Errors: a core has more shards of active tenants than it may.
    fn check_cores(&self) -> Result<(), CatalogError> {
        let limit = TENANT_SHARDS_PER_CORE_MAX;
        let is_full = |uses: &CoreTenants| uses.active as usize > limit;
        match self.cores.iter().find(|(_, uses)| is_full(uses)) {
            Some(((node, home), _)) => {
                Err(CatalogError::CoreFull { node: *node, home: *home, limit })
            }
            None => Ok(()),
        }
    }

    /// What these collections take. Cost: a pass over all tenants.
    pub(super) fn of<'a>(collections: impl Iterator<Item = &'a CollectionEntry>) -> Self {
        let mut uses = Self::default();
        let tenants = collections.flat_map(|entry| entry.tenants.iter());
        tenants.for_each(|(name, entry)| uses.add(name, entry));
        uses
    }
}

impl Catalog {
    /// How many tenants there are in all collections.
    #[must_use]
    pub fn tenant_count(&self) -> u64 {
        self.uses.count
    }

    /// Bytes that all tenants take at most in the stored form.
    #[must_use]
    pub fn tenant_bytes(&self) -> u64 {
        self.uses.bytes
    }

    /// The tenant shards at home on each core that has any. Cost: what is listed.
    pub fn tenant_cores(&self) -> impl Iterator<Item = (NodeId, u32, CoreTenants)> {
        self.uses.cores.iter().map(|((node, home), uses)| (*node, *home, *uses))
    }

    fn entry_with_tenants(
        &mut self,
        id: CollectionId,
    ) -> Result<&mut CollectionEntry, CatalogError> {
        let mut entries = self.collections.values_mut();
        let entry = entries.find(|entry| entry.id == id);
        let entry = entry.ok_or_else(|| CatalogError::Unknown { name: id.to_string() })?;
        if !entry.config.multi_tenancy.enabled {
            return Err(CatalogError::NoTenants { collection: entry.config.name.clone() });
        }
        Ok(entry)
    }

    /// Adds the tenants that do not exist yet.
    pub(super) fn add_tenants(
        &mut self,
        id: CollectionId,
        state: TenantState,
        tenants: &[NewTenant],
    ) -> Result<(), CatalogError> {
        check_names(tenants.iter().map(|tenant| tenant.name.as_str()))?;
        let mut made = self.shards_made;
        let mut uses = self.uses.clone();
        let entry = self.entry_with_tenants(id)?;
        let config = &entry.config;
        let (shards, factor) = (config.sharding.count as usize, config.replication.factor as usize);
        let mut next = entry.tenants.clone();
        for tenant in tenants {
            if next.get(&tenant.name).is_some() {
                continue;
            }
            let is_whole = tenant.replicas.iter().all(|replicas| replicas.len() == factor);
            if tenant.replicas.len() != shards || !is_whole {
                return Err(CatalogError::TenantPlaces { tenant: tenant.name.clone() });
            }
            let shards = tenant.replicas.iter().map(|replicas| {
                made += 1;
                ShardEntry { id: ShardId(made), replicas: replicas.clone() }
            });
            let new = TenantEntry { state, shards: shards.collect() };
            uses.add(&tenant.name, &new);
            next.insert(&tenant.name, new);
        }
        if uses.count > TENANTS_MAX as u64 {
            return Err(CatalogError::TooManyTenants { limit: TENANTS_MAX });
        }
        if uses.bytes > TENANT_BYTES_MAX {
            return Err(CatalogError::TenantsTooLarge { limit: TENANT_BYTES_MAX });
        }
        uses.check_cores()?;
        entry.tenants = next;
        (self.shards_made, self.uses) = (made, uses);
        Ok(())
    }

    /// Gives tenants a state. All of them exist, or none is changed.
    pub(super) fn set_tenants(
        &mut self,
        id: CollectionId,
        state: TenantState,
        names: &[String],
    ) -> Result<(), CatalogError> {
        check_names(names.iter().map(String::as_str))?;
        let mut uses = self.uses.clone();
        let entry = self.entry_with_tenants(id)?;
        let mut next = entry.tenants.clone();
        for name in names {
            let Some(known) = next.get(name).cloned() else {
                let collection = entry.config.name.clone();
                return Err(CatalogError::UnknownTenant { collection, tenant: name.clone() });
            };
            if known.state != state {
                let new = TenantEntry { state, ..TenantEntry::clone(&known) };
                uses.take(name, &known);
                uses.add(name, &new);
                next.insert(name, new);
            }
        }
        uses.check_cores()?;
        entry.tenants = next;
        self.uses = uses;
        Ok(())
    }

    /// Removes the tenants that exist.
    pub(super) fn remove_tenants(
        &mut self,
        id: CollectionId,
        names: &[String],
    ) -> Result<(), CatalogError> {
        check_names(names.iter().map(String::as_str))?;
        let mut uses = self.uses.clone();
        let entry = self.entry_with_tenants(id)?;
        for name in names {
            if let Some(known) = entry.tenants.remove(name) {
                uses.take(name, &known);
            }
        }
        self.uses = uses;
        Ok(())
    }

    /// A shard of a tenant that another catalog has at home on another core of a node, and on
    /// which. Cost: the tenants that the two do not share.
    #[must_use]
    pub fn moved_tenant(&self, other: &Self, node: NodeId) -> Option<(ShardId, u32)> {
        self.collections.iter().find_map(|(name, entry)| {
            let known = other.collections.get(name).filter(|known| known.id == entry.id)?;
            entry.tenants.changes(&known.tenants).into_iter().find_map(|change| {
                let mut shards = change.is?.shards.iter();
                shards.find_map(|shard| {
                    let own = change.was?.shards.iter().find(|own| own.id == shard.id)?;
                    let (home, known) = (shard.home_on(node)?, own.home_on(node)?);
                    (home != known).then_some((shard.id, home))
                })
            })
        })
    }

    /// The same catalog without the tenants that came after another one was taken of it.
    #[must_use]
    pub fn with_tenants_of(mut self, earlier: &Self) -> Self {
        let none = Tenants::default();
        for (name, entry) in &mut self.collections {
            let known = earlier.collections.get(name).map_or(&none, |known| &known.tenants);
            let own = entry.tenants.clone();
            for change in known.changes(&own) {
                let ids = |tenant: Option<&Arc<TenantEntry>>| -> Vec<ShardId> {
                    tenant.iter().flat_map(|it| &it.shards).map(|shard| shard.id).collect()
                };
                if change.is.is_some() && ids(change.is) != ids(change.was) {
                    entry.tenants.remove(change.name);
                }
            }
        }
        self.recount()
    }

    /// The same catalog without its tenants.
    pub(crate) fn without_tenants(mut self) -> Self {
        self.collections.values_mut().for_each(|entry| entry.tenants = Tenants::default());
        self.recount()
    }

    /// Counts what the tenants take anew, after changes that may concern all of them.
    pub(super) fn recount(mut self) -> Self {
        self.uses = TenantUse::of(self.collections.values());
        self
    }

    /// Gives the tenants' shards on a node the homes that another catalog has for them, and those
    /// that it does not know homes among `cores` cores. Cost: the tenants that the two do not
    /// share.
    pub(super) fn take_tenant_homes(&mut self, other: &Self, node: NodeId, cores: u32) {
        let none = Tenants::default();
        for (name, entry) in &mut self.collections {
            let known = other.collections.get(name).filter(|known| known.id == entry.id);
            let known = known.map_or(&none, |known| &known.tenants);
            let own = entry.tenants.clone();
            for change in known.changes(&own) {
                let Some(is) = change.is else { continue };
                let new = with_homes(is, change.was, node, cores);
                if new != **is {
                    self.uses.take(change.name, is);
                    self.uses.add(change.name, &new);
                    entry.tenants.insert(change.name, new);
                }
            }
        }
    }

    /// Moves the home of a tenant's shard; false when no tenant has it. Cost: a look at all.
    pub(super) fn move_tenant_home(&mut self, id: ShardId, node: NodeId, home: u32) -> bool {
        for entry in self.collections.values_mut() {
            let has = |tenant: &TenantEntry| tenant.shards.iter().any(|shard| shard.id == id);
            let found = entry.tenants.iter().find(|(_, tenant)| has(tenant));
            let found = found.map(|(name, tenant)| (Arc::clone(name), Arc::clone(tenant)));
            let Some((name, tenant)) = found else { continue };
            let mut new = TenantEntry::clone(&tenant);
            let shard = new.shards.iter_mut().find(|shard| shard.id == id);
            let Some(place) = shard.and_then(|shard| shard.place_on(node)) else { return false };
            place.home = home;
            self.uses.take(&name, &tenant);
            self.uses.add(&name, &new);
            entry.tenants.insert(&name, new);
            return true;
        }
        false
    }
}

/// A tenant with the homes that it had before on a node, as far as it has the same shards.
fn with_homes(
    is: &TenantEntry,
    was: Option<&Arc<TenantEntry>>,
    node: NodeId,
    cores: u32,
) -> TenantEntry {
    let mut new = is.clone();
    for shard in &mut new.shards {
        let id = shard.id;
        let mut known = was.into_iter().flat_map(|was| &was.shards);
        let known = known.find(|known| known.id == id).and_then(|known| known.home_on(node));
        if let Some(place) = shard.place_on(node) {
            place.home = known.unwrap_or(place.home % cores.max(1));
        }
    }
    new
}

/// Checks number, uniqueness and form of names.
fn check_names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Result<(), CatalogError> {
    let count = names.len();
    if count > TENANT_BATCH_MAX {
        let message = format!("{count} tenants in one change");
        let expected = format!("at most {TENANT_BATCH_MAX}");
        return Err(ApiError::new(ErrorCode::TooLarge, message, expected).into());
    }
    let mut seen = BTreeSet::new();
    for name in names {
        check_tenant_name(name)?;
        if !seen.insert(name) {
            let message = format!("tenant {name} stands twice in one change");
            let error = ApiError::new(ErrorCode::InvalidArgument, message, "each tenant once");
            return Err(error.into());
        }
    }
    Ok(())
}
