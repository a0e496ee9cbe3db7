//! The catalog state machine.

mod error;
mod tenants;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_types::limits::COLLECTIONS_MAX;
use heddle_types::{
    CollectionConfig, CollectionId, Epoch, NodeId, Quantization, RawVectors, RoutingTable, ShardId,
};
use serde::{Deserialize, Serialize};

pub use self::error::CatalogError;
pub use self::tenants::{CoreTenants, NewTenant, TENANT_BYTES_MAX};
pub use self::validate::InvalidCatalog;
use crate::placement::Placement;
use crate::tenants::{TenantState, Tenants};
use tenants::TenantUse;

/// One physical shard of a collection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "StoredShard", into = "StoredShard")]
pub struct ShardEntry {
    /// Identity, never reused.
    pub id: ShardId,
    /// Its replicas, each on a node of its own; never empty. Their order is the same everywhere.
    pub replicas: Vec<Placement>,
}

impl ShardEntry {
    /// A shard with one replica.
    #[must_use]
    pub fn single(id: ShardId, place: Placement) -> Self {
        Self { id, replicas: vec![place] }
    }

    /// The first replica.
    #[must_use]
    pub fn first(&self) -> Placement {
        self.replicas[0]
    }

    /// The data core of a node that works on its replica; none when it holds none.
    #[must_use]
    pub fn home_on(&self, node: NodeId) -> Option<u32> {
        self.replicas.iter().find(|place| place.node == node).map(|place| place.home)
    }

    pub(crate) fn place_on(&mut self, node: NodeId) -> Option<&mut Placement> {
        self.replicas.iter_mut().find(|place| place.node == node)
    }
}

/// A shard as it is stored: one with a single replica looks as it did before there were more.
#[derive(Serialize, Deserialize)]
struct StoredShard {
    id: ShardId,
    node: NodeId,
    home: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<Placement>,
}

impl From<StoredShard> for ShardEntry {
    fn from(stored: StoredShard) -> Self {
        let first = Placement { node: stored.node, home: stored.home };
        let replicas = std::iter::once(first).chain(stored.others).collect();
        Self { id: stored.id, replicas }
    }
}

impl From<ShardEntry> for StoredShard {
    fn from(mut entry: ShardEntry) -> Self {
        let others = entry.replicas.split_off(1);
        let Placement { node, home } = entry.first();
        Self { id: entry.id, node, home, others }
    }
}

/// One collection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CollectionEntry {
    /// Identity; a collection recreated under an old name has a new one.
    pub id: CollectionId,
    /// The definition, with every dimension that is known by now.
    pub config: Arc<CollectionConfig>,
    /// Its physical shards; none when it has tenants, which have their own.
    pub shards: Vec<ShardEntry>,
    /// Which shard owns which virtual shard.
    pub routing: RoutingTable,
    /// Seed of graph levels and codes, the same on every replica.
    pub seed: u64,
    /// Its tenants, with all replicas of their shards.
    #[serde(default, skip_serializing_if = "Tenants::is_empty")]
    pub tenants: Tenants,
}

impl CollectionEntry {
    /// Its shards, those of tenants included.
    pub fn all_shards(&self) -> impl Iterator<Item = &ShardEntry> {
        let tenants = self.tenants.iter().flat_map(|(_, tenant)| &tenant.shards);
        self.shards.iter().chain(tenants)
    }
}

/// A change of the catalog.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Adds a collection with one shard per placement.
    CreateCollection {
        /// The definition, defaults filled.
        config: CollectionConfig,
        /// A fresh identity.
        id: CollectionId,
        /// A fresh seed.
        seed: u64,
        /// Where its shards go.
        placements: Vec<Placement>,
    },
    /// Removes a collection.
    DropCollection {
        /// Its name.
        name: String,
    },
    /// Fixes the dimension of a vector that was declared without one, and what was left to follow
    /// from it.
    FixDims {
        /// The collection.
        collection: CollectionId,
        /// The vector's name.
        vector: String,
        /// Its dimension from now on.
        dims: u32,
        /// Its quantization, if none was declared.
        quantization: Quantization,
        /// Where it rests as given, if that was not declared.
        raw: RawVectors,
    },
    /// Moves the home of a replica to another core of its node.
    MoveHome {
        /// The shard.
        shard: ShardId,
        /// The node whose replica it is.
        node: NodeId,
        /// The new home core.
        home: u32,
    },
    /// Adds tenants to a collection; those that exist stay as they are.
    AddTenants {
        /// The collection.
        collection: CollectionId,
        /// Their state.
        state: TenantState,
        /// The tenants, each once, and where their shards go.
        tenants: Vec<NewTenant>,
    },
    /// Activates or deactivates tenants.
    SetTenants {
        /// The collection.
        collection: CollectionId,
        /// Their state from now on.
        state: TenantState,
        /// The tenants, each once.
        names: Vec<String>,
    },
    /// Removes tenants; those that do not exist are passed over.
    RemoveTenants {
        /// The collection.
        collection: CollectionId,
        /// The tenants, each once.
        names: Vec<String>,
    },
}

/// Every collection and where its shards live.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "StoredCatalog")]
pub struct Catalog {
    epoch: Epoch,
    shards_made: u64,
    collections: BTreeMap<String, CollectionEntry>,
    #[serde(skip)]
    uses: TenantUse,
}

/// A catalog as it is stored.
#[derive(Deserialize)]
struct StoredCatalog {
    epoch: Epoch,
    shards_made: u64,
    collections: BTreeMap<String, CollectionEntry>,
}

impl From<StoredCatalog> for Catalog {
    fn from(StoredCatalog { epoch, shards_made, collections }: StoredCatalog) -> Self {
        let uses = TenantUse::of(collections.values());
        Self { epoch, shards_made, collections, uses }
    }
}

impl Catalog {
    /// Version of the catalog: every applied command adds one.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Moves to the next epoch: something that stands beside the collections has changed.
    pub(crate) fn advance_epoch(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
    }

    /// Counts on from another epoch if that is higher.
    pub(crate) fn raise_epoch(&mut self, other: Epoch) {
        self.epoch = self.epoch.max(other);
    }

    /// Shards that were ever made: the number of the newest one.
    #[must_use]
    pub fn shards_made(&self) -> u64 {
        self.shards_made
    }

    /// Did it never have a collection? One that has tenants and none yet has no shard.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.shards_made == 0 && self.collections.is_empty()
    }

    /// Every collection, by name.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionEntry> {
        self.collections.values()
    }

    /// The collection of a name.
    #[must_use]
    pub fn collection(&self, name: &str) -> Option<&CollectionEntry> {
        self.collections.get(name)
    }

    /// Every shard with its collection, those of tenants included.
    pub fn shards(&self) -> impl Iterator<Item = (&CollectionEntry, &ShardEntry)> {
        self.collections().flat_map(|entry| entry.all_shards().map(move |shard| (entry, shard)))
    }

    /// The same catalog without the collections that the test does not hold for. Numbers of shards
    /// are counted on from where they were.
    #[must_use]
    pub fn only(mut self, mut is_wanted: impl FnMut(&CollectionEntry) -> bool) -> Self {
        self.collections.retain(|_, entry| is_wanted(entry));
        self.recount()
    }

    /// The same catalog with some collections as another one has them, or without those that it
    /// does not have; the epoch stays.
    #[must_use]
    pub fn with_collections_of(mut self, other: &Self, some: &[CollectionId]) -> Self {
        let is_meant = |entry: &CollectionEntry| some.contains(&entry.id);
        self.collections.retain(|_, entry| !is_meant(entry));
        let theirs = other.collections.iter().filter(|(_, entry)| is_meant(entry));
        self.collections.extend(theirs.map(|(name, entry)| (name.clone(), entry.clone())));
        self.recount()
    }

    /// The same catalog with every shard on another node: for a restored copy, which is a node of
    /// its own.
    #[must_use]
    pub fn on_node(mut self, node: NodeId) -> Self {
        let moved = |shard: &mut ShardEntry| {
            let home = shard.first().home;
            shard.replicas = vec![Placement { node, home }];
        };
        for entry in self.collections.values_mut() {
            entry.shards.iter_mut().for_each(moved);
            entry.tenants.replace_some(|_, tenant| {
                let mut tenant = tenant.clone();
                tenant.shards.iter_mut().for_each(moved);
                Some(tenant)
            });
        }
        self.recount()
    }

    /// The same catalog with these replicas of each shard; one that gets none keeps what it has.
    #[must_use]
    pub fn with_replicas<'a>(mut self, of: impl Fn(ShardId) -> &'a [Placement]) -> Self {
        for shard in self.collections.values_mut().flat_map(|entry| &mut entry.shards) {
            let replicas = of(shard.id);
            if !replicas.is_empty() {
                shard.replicas = replicas.to_vec();
            }
        }
        self
    }

    /// Has any shard more than one replica?
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.shards().any(|(_, shard)| shard.replicas.len() > 1)
    }

    /// The same catalog with the homes that another one has for the shards of a node; the epoch
    /// stays. Shards that the other one does not know get homes among `cores` cores.
    #[must_use]
    pub fn with_homes_of(mut self, other: &Self, node: NodeId, cores: u32) -> Self {
        self.take_tenant_homes(other, node, cores);
        let home_of = |shard: &ShardEntry| Some((shard.id, shard.home_on(node)?));
        let shards = other.collections().flat_map(|entry| &entry.shards);
        let homes: BTreeMap<ShardId, u32> = shards.filter_map(home_of).collect();
        for shard in self.collections.values_mut().flat_map(|entry| &mut entry.shards) {
            let known = homes.get(&shard.id).copied();
            if let Some(place) = shard.place_on(node) {
                place.home = known.unwrap_or(place.home % cores.max(1));
            }
        }
        self
    }

    /// The same catalog with new numbers for some shards, which then are new and empty: what logs
    /// have of the old ones is nobody's.
    #[must_use]
    pub fn with_new_shards(mut self, old: &[ShardId]) -> Self {
        for entry in self.collections.values_mut() {
            for shard in entry.shards.iter_mut().filter(|shard| old.contains(&shard.id)) {
                self.shards_made += 1;
                let (before, after) = (shard.id, ShardId(self.shards_made));
                shard.id = after;
                let owners = entry.routing.owners().iter();
                let owners = owners.map(|id| if *id == before { after } else { *id }).collect();
                entry.routing = RoutingTable::from_owners(owners).unwrap_or(entry.routing.clone());
            }
            let made = &mut self.shards_made;
            entry.tenants.replace_some(|_, tenant| {
                let is_old = |shard: &ShardEntry| old.contains(&shard.id);
                tenant.shards.iter().any(is_old).then(|| {
                    let mut tenant = tenant.clone();
                    for shard in tenant.shards.iter_mut().filter(|shard| is_old(shard)) {
                        *made += 1;
                        shard.id = ShardId(*made);
                    }
                    tenant
                })
            });
        }
        self.recount()
    }

    /// The same collections cut into `count` new shards each, dealt to `homes` cores of their node.
    /// The routes say where each object goes now.
    ///
    /// Errors: [`CatalogError::Invalid`] for a count that a definition may not have,
    /// [`CatalogError::NoPlacement`] for none.
    pub fn resharded(mut self, count: u32, homes: u32) -> Result<Self, CatalogError> {
        if count == 0 {
            return Err(CatalogError::NoPlacement);
        }
        let mut home = 0;
        for entry in self.collections.values_mut() {
            if entry.config.multi_tenancy.enabled {
                let collection = entry.config.name.clone();
                return Err(CatalogError::HasTenants { collection });
            }
            let mut config = CollectionConfig::clone(&entry.config);
            config.sharding.count = count;
            config.validate()?;
            let node = entry.shards.first().map(|shard| shard.first().node).unwrap_or_default();
            let shards = (0..count).map(|_| {
                self.shards_made += 1;
                home += 1;
                let place = Placement { node, home: (home - 1) % homes.max(1) };
                ShardEntry::single(ShardId(self.shards_made), place)
            });
            entry.shards = shards.collect();
            let ids: Vec<ShardId> = entry.shards.iter().map(|shard| shard.id).collect();
            entry.routing = RoutingTable::deal(&ids, config.sharding.virtual_per_physical);
            entry.config = Arc::new(config);
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        Ok(self)
    }

    /// Applies a command and moves to the next epoch, or refuses it and changes nothing.
    pub fn apply(&mut self, command: &Command) -> Result<(), CatalogError> {
        match command {
            Command::CreateCollection { config, id, seed, placements } => {
                self.create(config, *id, *seed, placements)?;
            }
            Command::DropCollection { name } => {
                let unknown = || CatalogError::Unknown { name: name.clone() };
                let entry = self.collections.remove(name).ok_or_else(unknown)?;
                entry.tenants.iter().for_each(|(name, tenant)| self.uses.take(name, tenant));
            }
            Command::FixDims { collection, vector, dims, quantization, raw } => {
                self.fix_dims(*collection, vector, *dims, (*quantization, *raw))?;
            }
            Command::MoveHome { shard, node, home } => self.move_home(*shard, *node, *home)?,
            Command::AddTenants { collection, state, tenants } => {
                self.add_tenants(*collection, *state, tenants)?;
            }
            Command::SetTenants { collection, state, names } => {
                self.set_tenants(*collection, *state, names)?;
            }
            Command::RemoveTenants { collection, names } => {
                self.remove_tenants(*collection, names)?;
            }
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        Ok(())
    }

    fn create(
        &mut self,
        config: &CollectionConfig,
        id: CollectionId,
        seed: u64,
        placements: &[Placement],
    ) -> Result<(), CatalogError> {
        config.validate()?;
        if self.collections.contains_key(&config.name) {
            return Err(CatalogError::Exists { name: config.name.clone() });
        }
        if self.collections.len() >= COLLECTIONS_MAX {
            return Err(CatalogError::TooMany { limit: COLLECTIONS_MAX });
        }
        if placements.is_empty() != config.multi_tenancy.enabled {
            return Err(CatalogError::NoPlacement);
        }
        let shards: Vec<ShardEntry> = placements
            .iter()
            .zip(self.shards_made + 1..)
            .map(|(place, number)| ShardEntry::single(ShardId(number), *place))
            .collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let routing = match ids.as_slice() {
            [] => RoutingTable::none(),
            ids => RoutingTable::deal(ids, config.sharding.virtual_per_physical),
        };
        self.shards_made += shards.len() as u64;
        let config = Arc::new(config.clone());
        let (name, tenants) = (config.name.clone(), Tenants::default());
        let entry = CollectionEntry { id, config, shards, routing, seed, tenants };
        self.collections.insert(name, entry);
        Ok(())
    }

    fn fix_dims(
        &mut self,
        id: CollectionId,
        vector: &str,
        dims: u32,
        (quantization, raw): (Quantization, RawVectors),
    ) -> Result<(), CatalogError> {
        let entry = self
            .collections
            .values_mut()
            .find(|entry| entry.id == id)
            .ok_or_else(|| CatalogError::Unknown { name: id.to_string() })?;
        let found = entry.config.vector(vector).map(|(index, config)| (index, config.dims));
        let Some((index, None)) = found else {
            return Err(CatalogError::Dims {
                collection: entry.config.name.clone(),
                vector: vector.to_owned(),
                asked: dims,
                fixed: found.and_then(|(_, fixed)| fixed),
            });
        };
        let mut config = CollectionConfig::clone(&entry.config);
        let fixed = &mut config.vectors[index];
        fixed.dims = Some(dims);
        fixed.quantization.get_or_insert(quantization);
        fixed.raw.get_or_insert(raw);
        config.validate()?;
        entry.config = Arc::new(config);
        Ok(())
    }

    fn move_home(&mut self, id: ShardId, node: NodeId, home: u32) -> Result<(), CatalogError> {
        let place = self
            .collections
            .values_mut()
            .flat_map(|entry| &mut entry.shards)
            .find(|shard| shard.id == id)
            .and_then(|shard| shard.place_on(node));
        if let Some(place) = place {
            place.home = home;
            return Ok(());
        }
        if self.move_tenant_home(id, node, home) {
            return Ok(());
        }
        Err(CatalogError::UnknownShard { shard: id, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str, shards: u32) -> Command {
        let mut config = CollectionConfig { name: name.to_owned(), ..Default::default() };
        config.fill_defaults();
        Command::CreateCollection {
            config,
            id: CollectionId::random(),
            seed: 7,
            placements: (0..shards)
                .map(|home| Placement { node: NodeId::default(), home })
                .collect(),
        }
    }

    fn shard_ids(catalog: &Catalog) -> Vec<u64> {
        catalog.shards().map(|(_, shard)| shard.id.0).collect()
    }

    #[test]
    fn created_collections_get_fresh_shards_and_a_full_table() {
        let mut catalog = Catalog::default();
        catalog.apply(&create("A", 2)).unwrap();
        catalog.apply(&create("B", 1)).unwrap();
        assert_eq!((catalog.epoch(), shard_ids(&catalog)), (Epoch(2), vec![1, 2, 3]));
        assert_eq!(catalog.collection("A").unwrap().routing.owners().len(), 256);
    }

    #[test]
    fn some_collections_are_taken_from_another_catalog_or_go_with_it() {
        let mut made = Catalog::default();
        made.apply(&create("A", 1)).unwrap();
        made.apply(&create("B", 1)).unwrap();
        let id = |catalog: &Catalog, name: &str| catalog.collection(name).unwrap().id;
        let mut next = made.clone();
        next.apply(&Command::DropCollection { name: "A".to_owned() }).unwrap();
        next.apply(&create("A", 2)).unwrap();
        next.apply(&Command::DropCollection { name: "B".to_owned() }).unwrap();
        next.apply(&create("C", 1)).unwrap();
        let some = made.clone().with_collections_of(&next, &[id(&made, "A"), id(&next, "A")]);
        assert_eq!(some.collection("A"), next.collection("A"));
        assert_eq!(some.collection("B"), made.collection("B"));
        assert!(some.collection("C").is_none() && some.epoch() == made.epoch());
        let gone = made.clone().with_collections_of(&next, &[id(&made, "B")]);
        assert!(gone.collection("B").is_none() && gone.collection("A") == made.collection("A"));
    }

    #[test]
    fn a_recreated_collection_shares_nothing_with_its_predecessor() {
        let mut catalog = Catalog::default();
        catalog.apply(&create("A", 1)).unwrap();
        let before = catalog.collection("A").unwrap().clone();
        catalog.apply(&Command::DropCollection { name: "A".to_owned() }).unwrap();
        catalog.apply(&create("A", 1)).unwrap();
        let after = catalog.collection("A").unwrap();
        assert_ne!((before.id, before.shards[0].id), (after.id, after.shards[0].id));
    }

    #[test]
    fn a_refused_command_changes_nothing() {
        let mut catalog = Catalog::default();
        catalog.apply(&create("A", 1)).unwrap();
        let before = catalog.clone();
        let id = catalog.collection("A").unwrap().id;
        let fix = |vector: &str, dims| Command::FixDims {
            collection: id,
            vector: vector.to_owned(),
            dims,
            quantization: Quantization::None,
            raw: RawVectors::Memory,
        };
        for command in [
            create("A", 1),
            create("1", 1),
            create("B", 0),
            Command::DropCollection { name: "B".to_owned() },
            fix("other", 3),
            fix("", 0),
            Command::MoveHome { shard: ShardId(99), node: NodeId::default(), home: 0 },
        ] {
            catalog.apply(&command).unwrap_err();
            assert_eq!(catalog, before, "{command:?}");
        }
    }

    #[test]
    fn a_dimension_is_fixed_once_with_what_was_left_to_follow_from_it() {
        let mut catalog = Catalog::default();
        let mut command = create("A", 1);
        if let Command::CreateCollection { config, .. } = &mut command {
            config.vectors[0].quantization = Some(Quantization::Bits8);
        }
        catalog.apply(&command).unwrap();
        let collection = catalog.collection("A").unwrap().id;
        let fix = |dims| Command::FixDims {
            collection,
            vector: String::new(),
            dims,
            quantization: Quantization::Bits4,
            raw: RawVectors::Disk,
        };
        catalog.apply(&fix(3)).unwrap();
        let vector = &catalog.collection("A").unwrap().config.vectors[0];
        assert_eq!(vector.dims, Some(3));
        assert_eq!(vector.quantization, Some(Quantization::Bits8), "as it was declared");
        assert_eq!(vector.raw, Some(RawVectors::Disk));
        let error = catalog.apply(&fix(4)).unwrap_err();
        assert!(matches!(error, CatalogError::Dims { asked: 4, fixed: Some(3), .. }), "{error}");
    }

    #[test]
    fn a_shard_with_one_replica_is_stored_as_before_and_one_with_more_is_read_back() {
        let node = |number: u128| NodeId(uuid::Uuid::from_u128(number));
        let place = |number, home| Placement { node: node(number), home };
        let old = r#"{"id":7,"node":"00000000-0000-0000-0000-000000000001","home":3}"#;
        let single = ShardEntry::single(ShardId(7), place(1, 3));
        assert_eq!(serde_json::to_string(&single).unwrap(), old);
        assert_eq!(serde_json::from_str::<ShardEntry>(old).unwrap(), single);
        let several = ShardEntry { id: ShardId(7), replicas: vec![place(1, 3), place(2, 0)] };
        let text = serde_json::to_string(&several).unwrap();
        assert_eq!(serde_json::from_str::<ShardEntry>(&text).unwrap(), several);
        assert_eq!((several.home_on(node(2)), several.home_on(node(3))), (Some(0), None));
    }

    #[test]
    fn each_node_keeps_the_homes_of_its_own_replicas() {
        let node = |number: u128| NodeId(uuid::Uuid::from_u128(number));
        let place = |number, home| Placement { node: node(number), home };
        let mut catalog = Catalog::default();
        catalog.apply(&create("A", 2)).unwrap();
        let replicas = [place(1, 0), place(2, 5)];
        let catalog = catalog.with_replicas(|_| &replicas);
        assert!(catalog.is_replicated());
        let mut own = catalog.clone();
        own.apply(&Command::MoveHome { shard: ShardId(1), node: node(2), home: 1 }).unwrap();
        own.apply(&Command::MoveHome { shard: ShardId(1), node: node(3), home: 1 }).unwrap_err();
        let settled = catalog.clone().with_homes_of(&own, node(2), 2);
        let homes: Vec<_> = settled.shards().map(|(_, shard)| shard.replicas.clone()).collect();
        assert_eq!(homes, [vec![place(1, 0), place(2, 1)], vec![place(1, 0), place(2, 5)]]);
        let fresh = catalog.with_homes_of(&Catalog::default(), node(2), 2);
        let homes: Vec<_> = fresh.shards().map(|(_, shard)| shard.home_on(node(2))).collect();
        assert_eq!(homes, [Some(1), Some(1)], "a home on a core that there is");
    }

    #[test]
    fn equal_commands_give_equal_catalogs() {
        let commands =
            [create("A", 3), create("B", 2), Command::DropCollection { name: "A".to_owned() }];
        let run = || {
            let mut catalog = Catalog::default();
            commands.iter().for_each(|command| catalog.apply(command).unwrap());
            catalog
        };
        assert_eq!(serde_json::to_string(&run()).unwrap(), serde_json::to_string(&run()).unwrap());
    }
}
