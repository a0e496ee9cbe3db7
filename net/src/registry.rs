//! What a core knows of collections and shards: enough to route and to search without asking.
//!
//! Every data core has its own copy. The meta core and the home cores replace parts of it by
//! message and wait for every core before they acknowledge the change to a client.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_core::engine::quarantine_refusal;
use heddle_core::shard::ShardView;
use heddle_meta::CollectionEntry;
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, CoreIndex, Epoch, ErrorCode, ObjectId, RoutingTable,
    ShardId,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::message::{Publication, ViewSet};

/// How the requests of one collection are routed.
#[derive(Debug)]
pub(crate) struct CollectionRoute {
    pub(crate) id: CollectionId,
    pub(crate) config: Arc<CollectionConfig>,
    pub(crate) routing: RoutingTable,
    /// The shards with their home cores, in catalog order.
    pub(crate) shards: Vec<(ShardId, CoreIndex)>,
}

impl CollectionRoute {
    pub(crate) fn of(entry: &CollectionEntry) -> Self {
        Self {
            id: entry.id,
            config: Arc::clone(&entry.config),
            routing: entry.routing.clone(),
            shards: entry.shards.iter().map(|shard| (shard.id, shard.home as usize)).collect(),
        }
    }

    /// Position in [`CollectionRoute::shards`] of the shard that owns an object.
    pub(crate) fn place_of(&self, id: &ObjectId) -> usize {
        if self.shards.len() == 1 {
            return 0;
        }
        let owner = self.routing.shard_of(id);
        self.shards
            .iter()
            .position(|(shard, _)| *shard == owner)
            .expect("the routing table names shards of its collection")
    }
}

/// A core's copy of the routes and views.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    epoch: Cell<Epoch>,
    collections: RefCell<BTreeMap<String, Arc<CollectionRoute>>>,
    views: RefCell<FxHashMap<ShardId, (u64, Arc<ShardView>)>>,
    // Shards that are gone for good: the catalog never gives a number twice.
    dropped: RefCell<FxHashSet<ShardId>>,
    // Shards that are damaged, and what a request to them is told.
    lost: RefCell<FxHashMap<ShardId, ApiError>>,
    // Shards that take no writes until the next start.
    read_only: RefCell<FxHashSet<ShardId>>,
    // Shards that are not served, and why.
    quarantined: RefCell<FxHashMap<ShardId, String>>,
}

impl Registry {
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch.get()
    }

    /// The route of a collection. Errors: `UnknownCollection`.
    pub(crate) fn route(&self, name: &str) -> Result<Arc<CollectionRoute>, ApiError> {
        self.collections.borrow().get(name).cloned().ok_or_else(|| {
            ApiError::new(
                ErrorCode::UnknownCollection,
                format!("collection {name:?} does not exist"),
                "the name of an existing collection",
            )
        })
    }

    /// Every route, by name.
    pub(crate) fn routes(&self) -> Vec<Arc<CollectionRoute>> {
        self.collections.borrow().values().cloned().collect()
    }

    /// The view of a shard. Errors: `Unavailable` when its home core has not published it,
    /// `Corrupt` when it never will, because the shard is lost or quarantined.
    pub(crate) fn view(&self, shard: ShardId) -> Result<Arc<ShardView>, ApiError> {
        if let Some((_, view)) = self.views.borrow().get(&shard) {
            return Ok(Arc::clone(view));
        }
        if let Some(lost) = self.lost.borrow().get(&shard) {
            return Err(lost.clone());
        }
        Err(match self.quarantined.borrow().get(&shard) {
            Some(reason) => quarantine_refusal(shard, reason),
            None => {
                let message = format!("shard {shard} is not served yet");
                ApiError::transient(ErrorCode::Unavailable, message)
            }
        })
    }

    /// Errors: `DiskFull` when a shard takes no writes.
    pub(crate) fn check_writable(&self, shard: ShardId) -> Result<(), ApiError> {
        if !self.read_only.borrow().contains(&shard) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::DiskFull,
            format!("shard {shard} moved to another core and could not be written to disk there"),
            "free space, then a restart of the node",
        ))
    }

    pub(crate) fn install(&self, publication: Publication) {
        match publication {
            Publication::Collection(epoch, route) => {
                self.epoch.set(self.epoch.get().max(epoch));
                let name = route.config.name.clone();
                self.collections.borrow_mut().insert(name, route);
            }
            Publication::Removed(epoch, name, shards) => {
                self.epoch.set(self.epoch.get().max(epoch));
                self.collections.borrow_mut().remove(&name);
                let mut views = self.views.borrow_mut();
                for shard in &shards {
                    views.remove(shard);
                    self.lost.borrow_mut().remove(shard);
                    self.quarantined.borrow_mut().remove(shard);
                }
                self.dropped.borrow_mut().extend(shards);
            }
            Publication::Lost(shards) => self.lost.borrow_mut().extend(shards),
            Publication::ReadOnly(shards) => self.read_only.borrow_mut().extend(shards),
            Publication::Version(epoch) => self.epoch.set(self.epoch.get().max(epoch)),
            Publication::Views(set) => self.install_views(set),
            Publication::Quarantined(shards) => self.quarantined.borrow_mut().extend(shards),
        }
    }

    // Two publications of one home core may overtake each other: the newer version stays. They may
    // also come in after a drop that they knew nothing of: a view kept then would keep the memory
    // of its shard for as long as the node runs.
    fn install_views(&self, set: ViewSet) {
        let dropped = self.dropped.borrow();
        let mut views = self.views.borrow_mut();
        for view in set.views.into_iter().filter(|view| !dropped.contains(&view.id)) {
            match views.get(&view.id) {
                Some((version, _)) if *version > set.version => {}
                _ => {
                    views.insert(view.id, (set.version, view));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_index::{DirectoryWriter, Quiescence};

    use super::*;

    fn views(version: u64, shards: &[u64]) -> Publication {
        let directory = DirectoryWriter::new(0, Quiescence::new(1)).unwrap().view();
        let view = |id: &u64| {
            Arc::new(ShardView {
                id: ShardId(*id),
                collection: CollectionId::default(),
                config: Arc::default(),
                directory: Arc::clone(&directory),
                vectors: Vec::new(),
            })
        };
        Publication::Views(ViewSet { version, views: shards.iter().map(view).collect() })
    }

    #[test]
    fn a_late_view_of_a_dropped_shard_is_not_taken() {
        let registry = Registry::default();
        registry.install(views(1, &[1, 2]));
        registry.install(Publication::Removed(Epoch(5), "Docs".to_owned(), vec![ShardId(1)]));
        registry.install(views(2, &[1, 2]));
        assert!(registry.view(ShardId(1)).is_err());
        assert!(registry.view(ShardId(2)).is_ok());
        assert_eq!(registry.epoch(), Epoch(5));
    }

    #[test]
    fn a_shard_that_could_not_settle_takes_no_writes() {
        let registry = Registry::default();
        registry.install(Publication::ReadOnly(vec![ShardId(1)]));
        assert_eq!(registry.check_writable(ShardId(1)).unwrap_err().code, ErrorCode::DiskFull);
        assert_eq!(registry.check_writable(ShardId(2)), Ok(()));
    }

    #[test]
    fn a_quarantined_shard_is_refused_with_the_reason() {
        let registry = Registry::default();
        let reason = "logs/0000/0000000001.wal: corrupt at offset 4096".to_owned();
        registry.install(Publication::Quarantined(vec![(ShardId(1), reason.clone())]));
        let refused = registry.view(ShardId(1)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Corrupt);
        assert!(refused.message.contains(&reason), "{refused}");
        assert_eq!(registry.view(ShardId(2)).unwrap_err().code, ErrorCode::Unavailable);
    }

    #[test]
    fn the_version_of_an_empty_catalog_is_known() {
        let registry = Registry::default();
        registry.install(Publication::Version(Epoch(7)));
        registry.install(Publication::Version(Epoch(6)));
        assert_eq!(registry.epoch(), Epoch(7));
    }
}
