//! What a core knows of collections and shards: enough to route and to search without asking.
//!
//! Every data core has its own copy. The meta core and the home cores replace parts of it by
//! message and wait for every core before they acknowledge the change to a client.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_core::shard::ShardView;
use heddle_meta::CollectionEntry;
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, CoreIndex, Epoch, ErrorCode, ObjectId, RoutingTable,
    ShardId,
};
use rustc_hash::FxHashMap;

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

    /// The view of a shard. Errors: `Unavailable` when its home core has not published it.
    pub(crate) fn view(&self, shard: ShardId) -> Result<Arc<ShardView>, ApiError> {
        let views = self.views.borrow();
        views.get(&shard).map(|(_, view)| Arc::clone(view)).ok_or_else(|| {
            ApiError::transient(ErrorCode::Unavailable, format!("shard {shard} is not served yet"))
        })
    }

    pub(crate) fn install(&self, publication: Publication) {
        match publication {
            Publication::Collection(epoch, route) => {
                self.epoch.set(self.epoch.get().max(epoch));
                let name = route.config.name.clone();
                self.collections.borrow_mut().insert(name, route);
            }
            Publication::Removed(epoch, name) => {
                self.epoch.set(self.epoch.get().max(epoch));
                if let Some(route) = self.collections.borrow_mut().remove(&name) {
                    let mut views = self.views.borrow_mut();
                    for (shard, _) in &route.shards {
                        views.remove(shard);
                    }
                }
            }
            Publication::Views(set) => self.install_views(set),
        }
    }

    // Two publications of one home core may overtake each other: the newer version stays.
    fn install_views(&self, set: ViewSet) {
        let mut views = self.views.borrow_mut();
        for view in set.views {
            match views.get(&view.id) {
                Some((version, _)) if *version > set.version => {}
                _ => {
                    views.insert(view.id, (set.version, view));
                }
            }
        }
    }
}
