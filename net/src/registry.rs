//! What a core knows of collections and shards: enough to route and to search without asking.
//!
//! Every data core has its own copy. The meta core and the home cores replace parts of it by
//! message and wait for every core before they acknowledge the change to a client.

mod route;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Poll, Waker};

use heddle_core::engine::quarantine_refusal;
use heddle_core::shard::ShardView;
use heddle_meta::{TenantEntry, TenantState, Tenants};
use heddle_types::{ApiError, CollectionId, Epoch, ErrorCode, ShardId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::health::Health;
use crate::message::{Publication, ViewSet};
use crate::nodes::Nodes;
pub(crate) use route::{CollectionRoute, ReplicaPlace, ShardAt, ShardPlace};

/// The view of a shard, none when it was closed, and the version of its home core.
type KnownView = (u64, Option<Arc<ShardView>>);

/// A core's copy of the routes and views.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    epoch: Cell<Epoch>,
    // Tasks that wait for a later epoch, by a number of their own.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    waits: Cell<u64>,
    nodes: RefCell<Arc<Nodes>>,
    health: RefCell<Arc<Health>>,
    collections: RefCell<BTreeMap<String, Arc<CollectionRoute>>>,
    names: RefCell<FxHashMap<CollectionId, String>>,
    // Whose shards those of tenants are that this node has replicas of: other nodes name shards.
    tenant_shards: RefCell<FxHashMap<ShardId, Arc<str>>>,
    views: RefCell<FxHashMap<ShardId, KnownView>>,
    // Shards that are gone for good: the catalog never gives a number twice.
    dropped: RefCell<FxHashSet<ShardId>>,
    // Shards that are damaged, and what a request to them is told.
    lost: RefCell<FxHashMap<ShardId, ApiError>>,
    // Shards that take no writes until the next start.
    read_only: RefCell<FxHashSet<ShardId>>,
    // Shards that are not served, and why.
    quarantined: RefCell<FxHashMap<ShardId, String>>,
    // The first word of everything has come.
    is_complete: Cell<bool>,
}

impl Registry {
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch.get()
    }

    /// Waits until the catalog has come to an epoch; says which one it has.
    pub(crate) async fn reached(&self, epoch: Epoch) -> Epoch {
        let wait = Wait { registry: self, number: self.waits.get() };
        self.waits.set(wait.number + 1);
        std::future::poll_fn(|context| {
            if self.epoch() >= epoch {
                return Poll::Ready(self.epoch());
            }
            self.waiting.borrow_mut().insert(wait.number, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Whether what is not here is not anywhere: during a start the routes and the nodes are still
    /// to come.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    /// The nodes of the cluster.
    pub(crate) fn nodes(&self) -> Arc<Nodes> {
        Arc::clone(&self.nodes.borrow())
    }

    /// Which of the nodes live, and how busy they are.
    pub(crate) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health.borrow())
    }

    /// The route of a collection by its identity; none when it is unknown or gone.
    pub(crate) fn route_of(&self, id: CollectionId) -> Option<Arc<CollectionRoute>> {
        let names = self.names.borrow();
        self.collections.borrow().get(names.get(&id)?).cloned()
    }

    /// The route of a collection by which a shard of it is found: that of the tenant whose shard it
    /// is, if it has tenants. None when it is unknown or gone, or the tenant is inactive.
    pub(crate) fn route_holding(
        &self,
        id: CollectionId,
        shard: ShardId,
    ) -> Option<Arc<CollectionRoute>> {
        let route = self.route_of(id)?;
        let Some(tenants) = &route.tenants else { return Some(route) };
        let tenant = tenants.get(self.tenant_shards.borrow().get(&shard)?)?;
        let is_active = tenant.state == TenantState::Active;
        is_active.then(|| Arc::new(route.of_tenant(tenant)))
    }

    /// The route by which a shard is found, of whatever collection; none when the tenant whose
    /// shard it is is inactive. Cost: a look at all collections, and at all tenants for a shard of
    /// theirs that this node does not have.
    pub(crate) fn route_with(&self, shard: ShardId) -> Option<Arc<CollectionRoute>> {
        let named = self.tenant_shards.borrow().get(&shard).cloned();
        let has = |tenant: &TenantEntry| tenant.shards.iter().any(|own| own.id == shard);
        self.routes().into_iter().find_map(|route| {
            let Some(tenants) = &route.tenants else {
                return route.position(shard).is_some().then_some(route);
            };
            let named = named.as_ref().and_then(|name| tenants.get(name));
            let found = named
                .filter(|tenant| has(tenant))
                .or_else(|| tenants.iter().map(|(_, tenant)| tenant).find(|tenant| has(tenant)))?;
            let is_active = found.state == TenantState::Active;
            is_active.then(|| Arc::new(route.of_tenant(found)))
        })
    }

    /// The routes of a collection that lead to replicated shards: its own, or those of its active
    /// tenants with shards on this node. Cost: for one with tenants a look at all that are here,
    /// nothing while there is one replica.
    pub(crate) fn replicated_here(&self, route: Arc<CollectionRoute>) -> Vec<Arc<CollectionRoute>> {
        if route.config.replication.factor < 2 {
            return Vec::new();
        }
        let Some(tenants) = &route.tenants else { return vec![route] };
        let shards = self.tenant_shards.borrow();
        let names: BTreeSet<&str> = shards.values().map(Arc::as_ref).collect();
        let here = names.into_iter().filter_map(|name| tenants.get(name));
        let active = here.filter(|tenant| tenant.state == TenantState::Active);
        active.map(|tenant| Arc::new(route.of_tenant(tenant))).collect()
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
        if let Some((_, Some(view))) = self.views.borrow().get(&shard) {
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

    /// Takes part of the catalog over; its epoch comes last, for those who wait for it.
    pub(crate) fn install(&self, publication: Publication) {
        match publication {
            Publication::Collection(epoch, route) => {
                let name = route.config.name.clone();
                self.names.borrow_mut().insert(route.id, name.clone());
                let known = self.collections.borrow().get(&name).cloned();
                let known = known.filter(|known| known.id == route.id);
                self.note_tenants(known.as_ref().and_then(|known| known.tenants.as_ref()), &route);
                self.collections.borrow_mut().insert(name, route);
                self.advance(epoch);
            }
            Publication::Removed(epoch, id, name, shards) => {
                // The name may be that of a successor by now.
                let mut collections = self.collections.borrow_mut();
                if collections.get(&name).is_some_and(|route| route.id == id) {
                    self.names.borrow_mut().remove(&id);
                    collections.remove(&name);
                }
                drop(collections);
                let mut tenant_shards = self.tenant_shards.borrow_mut();
                shards.iter().for_each(|shard| drop(tenant_shards.remove(shard)));
                drop(tenant_shards);
                let mut views = self.views.borrow_mut();
                for shard in &shards {
                    views.remove(shard);
                    self.lost.borrow_mut().remove(shard);
                    self.quarantined.borrow_mut().remove(shard);
                }
                self.dropped.borrow_mut().extend(shards);
                self.advance(epoch);
            }
            Publication::Nodes(nodes) => drop(self.nodes.replace(nodes)),
            Publication::Health(health) => drop(self.health.replace(health)),
            Publication::Lost(shards) => self.lost.borrow_mut().extend(shards),
            Publication::ReadOnly(shards) => self.read_only.borrow_mut().extend(shards),
            Publication::Version(epoch) => self.advance(epoch),
            Publication::Views(set) => self.install_views(set),
            Publication::Quarantined(shards) => self.quarantined.borrow_mut().extend(shards),
            Publication::Complete => self.is_complete.set(true),
        }
    }

    fn advance(&self, epoch: Epoch) {
        if epoch > self.epoch.get() {
            self.epoch.set(epoch);
            self.waiting.take().into_values().for_each(Waker::wake);
        }
    }

    // Two publications of one home core may overtake each other: the newer version stays. They may
    // also come in after a drop that they knew nothing of: a view kept then would keep the memory
    // of its shard for as long as the node runs.
    fn install_views(&self, set: ViewSet) {
        let dropped = self.dropped.borrow();
        let mut views = self.views.borrow_mut();
        let gone = set.gone.into_iter().map(|shard| (shard, None));
        let there = set.views.into_iter().map(|view| (view.id, Some(view)));
        for (shard, view) in gone.chain(there).filter(|(shard, _)| !dropped.contains(shard)) {
            match views.get(&shard) {
                Some((version, _)) if *version > set.version => {}
                _ => {
                    views.insert(shard, (set.version, view));
                }
            }
        }
    }

    /// Keeps whose shards on this node are whose. Cost: the tenants that changed.
    fn note_tenants(&self, known: Option<&Tenants>, route: &CollectionRoute) {
        let Some(next) = &route.tenants else { return };
        let none = Tenants::default();
        let mut shards = self.tenant_shards.borrow_mut();
        let mut dropped = self.dropped.borrow_mut();
        let mut views = self.views.borrow_mut();
        for change in known.unwrap_or(&none).changes(next) {
            let is = change.is.map_or(&[][..], |is| &is.shards);
            let was = change.was.map_or(&[][..], |was| &was.shards);
            let is_kept = |id: ShardId| is.iter().any(|shard| shard.id == id);
            for shard in was.iter().filter(|shard| !is_kept(shard.id)) {
                shards.remove(&shard.id);
                views.remove(&shard.id);
                self.lost.borrow_mut().remove(&shard.id);
                self.quarantined.borrow_mut().remove(&shard.id);
                dropped.insert(shard.id);
            }
            for shard in is.iter().filter(|shard| shard.home_on(route.own).is_some()) {
                shards.insert(shard.id, Arc::clone(change.name));
            }
        }
    }
}

/// A task that waits for an epoch; one that gives up leaves nothing behind.
struct Wait<'a> {
    registry: &'a Registry,
    number: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.registry.waiting.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use heddle_index::{DirectoryWriter, Quiescence};
    use heddle_meta::{CollectionEntry, Placement, ShardEntry};
    use heddle_types::{CollectionConfig, NodeId, ObjectId, RoutingTable};

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
        let gone = Vec::new();
        Publication::Views(ViewSet { version, views: shards.iter().map(view).collect(), gone })
    }

    #[test]
    fn a_late_view_of_a_dropped_shard_is_not_taken() {
        let registry = Registry::default();
        registry.install(views(1, &[1, 2]));
        let (id, name) = (CollectionId::default(), "Docs".to_owned());
        registry.install(Publication::Removed(Epoch(5), id, name, vec![ShardId(1)]));
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

    fn route(name: &str, id: u128, nodes: &[u128]) -> Arc<CollectionRoute> {
        let node = |id: &u128| NodeId(uuid::Uuid::from_u128(*id));
        let config = CollectionConfig { name: name.to_owned(), ..Default::default() };
        let shards = nodes.iter().zip(1..).map(|(id, number)| {
            ShardEntry::single(ShardId(number), Placement { node: node(id), home: 1 })
        });
        let shards: Vec<ShardEntry> = shards.collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let entry = CollectionEntry {
            id: CollectionId(uuid::Uuid::from_u128(id)),
            config: Arc::new(config),
            routing: RoutingTable::deal(&ids, 4),
            shards,
            seed: 1,
            tenants: Tenants::default(),
        };
        Arc::new(CollectionRoute::of(&entry, node(&1)))
    }

    #[test]
    fn a_route_knows_which_shards_are_elsewhere() {
        let mixed = route("Docs", 9, &[1, 2, 3, 2]);
        assert!(!mixed.is_all_here);
        let is_here: Vec<bool> = mixed.firsts.iter().map(|shard| shard.is_here).collect();
        assert_eq!(is_here, [true, false, false, false]);
        assert!(route("Docs", 9, &[1, 1]).is_all_here);
    }

    #[test]
    fn a_route_has_every_replica_and_finds_the_shard_of_an_object_as_the_table_does() {
        let node = |id: u128| NodeId(uuid::Uuid::from_u128(id));
        let place = |id, home| Placement { node: node(id), home };
        let shard = |number, replicas| ShardEntry { id: ShardId(number), replicas };
        // The numbers of shards do not follow their order.
        let shards = vec![
            shard(9, vec![place(2, 0), place(1, 1)]),
            shard(4, vec![place(3, 0), place(2, 0)]),
        ];
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let entry = CollectionEntry {
            id: CollectionId::default(),
            config: Arc::default(),
            routing: RoutingTable::deal(&ids, 8),
            shards,
            seed: 1,
            tenants: Tenants::default(),
        };
        let route = CollectionRoute::of(&entry, node(1));
        assert_eq!((route.shards[0].here(), route.shards[1].here()), (Some(1), None));
        assert!(route.shards[0].at(1).is_here && !route.shards[0].at(0).is_here);
        assert!(!route.is_all_here, "a first replica is elsewhere");
        for row in 0..200 {
            let id = ObjectId::from_row(row);
            let place = route.place_of(&id);
            assert_eq!(route.shards[place].id, entry.routing.shard_of(&id));
            assert_eq!(route.position(route.shards[place].id), Some(place));
        }
        assert_eq!(route.position(ShardId(5)), None);
    }

    #[test]
    fn a_collection_is_found_by_its_identity_until_it_is_dropped() {
        let registry = Registry::default();
        let docs = route("Docs", 9, &[1]);
        registry.install(Publication::Collection(Epoch(1), Arc::clone(&docs)));
        assert!(registry.route_of(docs.id).is_some());
        let removed = |id| Publication::Removed(Epoch(2), id, "Docs".to_owned(), vec![ShardId(1)]);
        registry.install(removed(CollectionId::default()));
        assert!(registry.route_of(docs.id).is_some(), "a predecessor of that name is gone");
        registry.install(removed(docs.id));
        assert!(registry.route_of(docs.id).is_none());
        registry.install(Publication::Collection(Epoch(3), route("Docs", 10, &[1])));
        assert!(registry.route_of(docs.id).is_none(), "the name is another collection's now");
    }

    /// A collection with these tenants, each with one shard on a node.
    fn shops(tenants: &[(&str, u64, u128, TenantState)]) -> Arc<CollectionRoute> {
        let node = |id: u128| NodeId(uuid::Uuid::from_u128(id));
        let mut config = CollectionConfig { name: "Shops".to_owned(), ..Default::default() };
        config.multi_tenancy.enabled = true;
        let mut map = Tenants::default();
        for (name, shard, on, state) in tenants {
            let place = Placement { node: node(*on), home: 1 };
            let shards = vec![ShardEntry::single(ShardId(*shard), place)];
            map.insert(name, TenantEntry { state: *state, shards });
        }
        let entry = CollectionEntry {
            id: CollectionId(uuid::Uuid::from_u128(8)),
            config: Arc::new(config),
            routing: RoutingTable::none(),
            shards: Vec::new(),
            seed: 1,
            tenants: map,
        };
        Arc::new(CollectionRoute::of(&entry, node(1)))
    }

    #[test]
    fn a_shard_of_an_active_tenant_on_this_node_leads_to_its_route() {
        use TenantState::{Active, Inactive};
        let registry = Registry::default();
        let first = shops(&[("a", 4, 1, Active), ("b", 5, 2, Active), ("c", 6, 1, Inactive)]);
        registry.install(Publication::Collection(Epoch(1), Arc::clone(&first)));
        let holding = |shard| registry.route_holding(first.id, ShardId(shard));
        let own = holding(4).unwrap();
        assert_eq!((own.position(ShardId(4)), own.is_all_here), (Some(0), true));
        assert_eq!(own.place_of(&ObjectId::from_row(9)), 0);
        assert!(holding(5).is_none() && holding(6).is_none() && holding(7).is_none());
        let with = |shard| registry.route_with(ShardId(shard)).is_some();
        assert_eq!([4, 5, 6, 7].map(with), [true, true, false, false], "5 is elsewhere");
        let next = shops(&[("a", 9, 1, Active), ("b", 5, 2, Active), ("c", 6, 1, Active)]);
        registry.install(views(1, &[4, 6]));
        registry.install(Publication::Collection(Epoch(2), next));
        assert!(holding(4).is_none(), "another tenant has the name now");
        assert!(holding(9).is_some() && holding(6).is_some());
        assert!(registry.view(ShardId(4)).is_err(), "its memory is given back");
        registry.install(views(2, &[4]));
        assert!(registry.view(ShardId(4)).is_err(), "a late view of a dropped shard");
    }

    #[test]
    fn a_closed_shard_has_no_view_until_a_newer_one_comes() {
        let registry = Registry::default();
        registry.install(views(1, &[1]));
        let gone = vec![ShardId(1)];
        registry.install(Publication::Views(ViewSet { version: 3, views: Vec::new(), gone }));
        registry.install(views(2, &[1]));
        assert_eq!(registry.view(ShardId(1)).unwrap_err().code, ErrorCode::Unavailable);
        registry.install(views(4, &[1]));
        assert!(registry.view(ShardId(1)).is_ok());
    }

    #[test]
    fn who_waits_for_an_epoch_is_woken_when_it_has_come() {
        let registry = Registry::default();
        let mut waiting = std::pin::pin!(registry.reached(Epoch(2)));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        registry.install(Publication::Version(Epoch(1)));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        registry.install(Publication::Version(Epoch(3)));
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(Epoch(3)));
    }

    #[test]
    fn a_registry_is_complete_when_it_is_told_so_and_no_sooner() {
        let registry = Registry::default();
        assert!(!registry.is_complete());
        registry.install(Publication::Version(Epoch(7)));
        registry.install(Publication::Collection(Epoch(7), route("Docs", 9, &[1])));
        registry.install(Publication::Nodes(Arc::default()));
        assert!(!registry.is_complete());
        registry.install(Publication::Complete);
        assert!(registry.is_complete());
    }

    #[test]
    fn the_version_of_an_empty_catalog_is_known() {
        let registry = Registry::default();
        registry.install(Publication::Version(Epoch(7)));
        registry.install(Publication::Version(Epoch(6)));
        assert_eq!(registry.epoch(), Epoch(7));
    }
}
