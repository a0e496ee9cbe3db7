//! The catalog state machine.

mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_types::limits::COLLECTIONS_MAX;
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, Epoch, ErrorCode, NodeId, Quantization, RawVectors,
    RoutingTable, ShardId,
};
use serde::{Deserialize, Serialize};

pub use self::validate::InvalidCatalog;
use crate::placement::Placement;

/// One physical shard of a collection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Identity, never reused.
    pub id: ShardId,
    /// The node that holds it.
    pub node: NodeId,
    /// The data core of that node which mutates it.
    pub home: u32,
}

/// One collection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CollectionEntry {
    /// Identity; a collection recreated under an old name has a new one.
    pub id: CollectionId,
    /// The definition, with every dimension that is known by now.
    pub config: Arc<CollectionConfig>,
    /// Its physical shards.
    pub shards: Vec<ShardEntry>,
    /// Which shard owns which virtual shard.
    pub routing: RoutingTable,
    /// Seed of graph levels and codes, the same on every replica.
    pub seed: u64,
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
    /// Moves the home of a shard to another core of its node.
    MoveHome {
        /// The shard.
        shard: ShardId,
        /// The new home core.
        home: u32,
    },
}

/// Why a command was refused. The catalog is unchanged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The definition breaks a rule.
    #[error(transparent)]
    Invalid(#[from] ApiError),
    /// The name is taken.
    #[error("collection {name} exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// No such collection.
    #[error("collection {name} does not exist")]
    Unknown {
        /// The name or id asked for.
        name: String,
    },
    /// No such vector, or its dimension is fixed to another number.
    #[error("vector {vector:?} of {collection} cannot have {asked} dimensions, it has {fixed:?}")]
    Dims {
        /// The collection's name.
        collection: String,
        /// The vector's name.
        vector: String,
        /// The dimension asked for.
        asked: u32,
        /// The dimension it has; none when there is no such vector.
        fixed: Option<u32>,
    },
    /// No such shard.
    #[error("shard {shard} does not exist")]
    UnknownShard {
        /// The shard asked for.
        shard: ShardId,
    },
    /// No core can take a shard.
    #[error("no data core can take a shard")]
    NoPlacement,
    /// There are as many collections as there may be.
    #[error("there are {limit} collections already")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let (code, expected) = match &error {
            CatalogError::Invalid(inner) => return inner.clone(),
            CatalogError::Exists { .. } => (ErrorCode::CollectionExists, "a new name"),
            CatalogError::Unknown { .. } => {
                (ErrorCode::UnknownCollection, "the name of an existing collection")
            }
            CatalogError::Dims { .. } => (ErrorCode::InvalidVector, "the fixed dimension"),
            CatalogError::UnknownShard { .. } => (ErrorCode::Internal, ""),
            CatalogError::NoPlacement => (ErrorCode::Unavailable, ""),
            CatalogError::TooMany { .. } => (ErrorCode::TooLarge, "fewer collections"),
        };
        Self::new(code, error.to_string(), expected)
    }
}

/// Every collection and where its shards live.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Catalog {
    epoch: Epoch,
    shards_made: u64,
    collections: BTreeMap<String, CollectionEntry>,
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

    /// Every collection, by name.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionEntry> {
        self.collections.values()
    }

    /// The collection of a name.
    #[must_use]
    pub fn collection(&self, name: &str) -> Option<&CollectionEntry> {
        self.collections.get(name)
    }

    /// Every shard with its collection.
    pub fn shards(&self) -> impl Iterator<Item = (&CollectionEntry, &ShardEntry)> {
        self.collections().flat_map(|entry| entry.shards.iter().map(move |shard| (entry, shard)))
    }

    /// The same catalog without the collections that the test does not hold for. Numbers of shards
    /// are counted on from where they were.
    #[must_use]
    pub fn only(mut self, mut is_wanted: impl FnMut(&CollectionEntry) -> bool) -> Self {
        self.collections.retain(|_, entry| is_wanted(entry));
        self
    }

    /// The same catalog with every shard on another node: for a restored copy, which is a node of
    /// its own.
    #[must_use]
    pub fn on_node(mut self, node: NodeId) -> Self {
        let shards = self.collections.values_mut().flat_map(|entry| &mut entry.shards);
        shards.for_each(|shard| shard.node = node);
        self
    }

    /// The same catalog with the homes that another one has for the shards of a node; the epoch
    /// stays. Shards that the other one does not know get homes among `cores` cores.
    #[must_use]
    pub fn with_homes_of(mut self, other: &Self, node: NodeId, cores: u32) -> Self {
        let homes: BTreeMap<ShardId, u32> = other
            .shards()
            .filter(|(_, shard)| shard.node == node)
            .map(|(_, shard)| (shard.id, shard.home))
            .collect();
        let shards = self.collections.values_mut().flat_map(|entry| &mut entry.shards);
        for shard in shards.filter(|shard| shard.node == node) {
            let known = homes.get(&shard.id).copied();
            shard.home = known.unwrap_or(shard.home % cores.max(1));
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
        }
        self
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
            let mut config = CollectionConfig::clone(&entry.config);
            config.sharding.count = count;
            config.validate()?;
            let node = entry.shards.first().map(|shard| shard.node).unwrap_or_default();
            let shards = (0..count).map(|_| {
                self.shards_made += 1;
                home += 1;
                ShardEntry { id: ShardId(self.shards_made), node, home: (home - 1) % homes.max(1) }
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
                self.collections
                    .remove(name)
                    .ok_or_else(|| CatalogError::Unknown { name: name.clone() })?;
            }
            Command::FixDims { collection, vector, dims, quantization, raw } => {
                self.fix_dims(*collection, vector, *dims, (*quantization, *raw))?;
            }
            Command::MoveHome { shard, home } => self.move_home(*shard, *home)?,
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
        if placements.is_empty() {
            return Err(CatalogError::NoPlacement);
        }
        let shards: Vec<ShardEntry> = placements
            .iter()
            .zip(self.shards_made + 1..)
            .map(|(place, number)| ShardEntry {
                id: ShardId(number),
                node: place.node,
                home: place.home,
            })
            .collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let routing = RoutingTable::deal(&ids, config.sharding.virtual_per_physical);
        self.shards_made += shards.len() as u64;
        let config = Arc::new(config.clone());
        let name = config.name.clone();
        self.collections.insert(name, CollectionEntry { id, config, shards, routing, seed });
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

    fn move_home(&mut self, id: ShardId, home: u32) -> Result<(), CatalogError> {
        let shard = self
            .collections
            .values_mut()
            .flat_map(|entry| &mut entry.shards)
            .find(|shard| shard.id == id)
            .ok_or(CatalogError::UnknownShard { shard: id })?;
        shard.home = home;
        Ok(())
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
            Command::MoveHome { shard: ShardId(99), home: 0 },
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
