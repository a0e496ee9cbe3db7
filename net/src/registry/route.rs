//! How the requests of a collection or of a tenant are routed.

use std::sync::Arc;

use heddle_meta::{CollectionEntry, Placement, ShardEntry, TenantEntry, Tenants};
use heddle_types::{
    CollectionConfig, CollectionId, CoreIndex, NodeId, ObjectId, RoutingTable, ShardId, token_of,
};

/// Where a replica of a shard is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReplicaPlace {
    /// The node that holds it.
    pub(crate) node: NodeId,
    /// The data core of that node which works on it.
    pub(crate) home: CoreIndex,
    /// Is that node this one?
    pub(crate) is_here: bool,
}

/// A shard and everywhere it is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ShardPlace {
    pub(crate) id: ShardId,
    /// Its replicas, in catalog order; never empty.
    pub(crate) replicas: Vec<ReplicaPlace>,
}

impl ShardPlace {
    /// The shard at one of its replicas.
    pub(crate) fn at(&self, replica: usize) -> ShardAt {
        let ReplicaPlace { node, home, is_here } = self.replicas[replica];
        ShardAt { id: self.id, node, home, is_here, replica: replica as u8 }
    }

    /// The position of this node's replica, if it has one.
    pub(crate) fn here(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.is_here)
    }
}

/// A shard at one of the replicas that it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShardAt {
    pub(crate) id: ShardId,
    /// The node of that replica.
    pub(crate) node: NodeId,
    /// The data core of that node which works on it.
    pub(crate) home: CoreIndex,
    /// Is that node this one?
    pub(crate) is_here: bool,
    /// Which of the replicas it is.
    pub(crate) replica: u8,
}

/// How the requests of one collection are routed.
#[derive(Debug)]
pub(crate) struct CollectionRoute {
    pub(crate) id: CollectionId,
    pub(crate) config: Arc<CollectionConfig>,
    pub(crate) routing: RoutingTable,
    /// The shards, in catalog order.
    pub(crate) shards: Vec<ShardPlace>,
    /// Each shard at its first replica.
    pub(crate) firsts: Vec<ShardAt>,
    /// Are the first replicas of all shards on this node?
    pub(crate) is_all_here: bool,
    /// Has a shard more than one replica?
    pub(crate) is_replicated: bool,
    /// The tenants, which have the shards then; none of a collection without, and of the route of
    /// one tenant. All cores and the catalog share them.
    pub(crate) tenants: Option<Tenants>,
    /// The node that routes.
    pub(super) own: NodeId,
    // Position in `shards` of the owner of each virtual shard.
    owners: Vec<u16>,
    // Position in `shards` of each shard, by its number.
    positions: Vec<(ShardId, u16)>,
}

impl CollectionRoute {
    /// The route of a collection, as the node `own` sees it.
    pub(crate) fn of(entry: &CollectionEntry, own: NodeId) -> Self {
        let tenants = entry.config.multi_tenancy.enabled.then(|| entry.tenants.clone());
        let route = Self::with_shards(entry.id, &entry.config, &entry.shards, &entry.routing, own);
        Self { tenants, ..route }
    }

    /// The route of one of its tenants: as that of a collection which has the tenant's shards.
    pub(crate) fn of_tenant(&self, tenant: &TenantEntry) -> Self {
        let ids: Vec<ShardId> = tenant.shards.iter().map(|shard| shard.id).collect();
        let routing = match ids.as_slice() {
            [] | [_] => RoutingTable::none(),
            ids => RoutingTable::deal(ids, self.config.sharding.virtual_per_physical),
        };
        Self::with_shards(self.id, &self.config, &tenant.shards, &routing, self.own)
    }

    fn with_shards(
        id: CollectionId,
        config: &Arc<CollectionConfig>,
        shards: &[ShardEntry],
        routing: &RoutingTable,
        own: NodeId,
    ) -> Self {
        let replica = |place: &Placement| ReplicaPlace {
            node: place.node,
            home: place.home as usize,
            is_here: place.node == own,
        };
        let place = |shard: &ShardEntry| ShardPlace {
            id: shard.id,
            replicas: shard.replicas.iter().map(replica).collect(),
        };
        let shards: Vec<ShardPlace> = shards.iter().map(place).collect();
        let firsts: Vec<ShardAt> = shards.iter().map(|shard| shard.at(0)).collect();
        let mut positions: Vec<(ShardId, u16)> =
            shards.iter().map(|shard| shard.id).zip(0..).collect();
        positions.sort_unstable();
        let owner = |id: &ShardId| {
            let found = positions.binary_search_by_key(id, |(shard, _)| *shard);
            positions[found.expect("the routing table names shards of its collection")].1
        };
        let owners = routing.owners().iter().map(owner).collect();
        Self {
            id,
            config: Arc::clone(config),
            routing: routing.clone(),
            is_all_here: firsts.iter().all(|shard| shard.is_here),
            is_replicated: shards.iter().any(|shard| shard.replicas.len() > 1),
            shards,
            firsts,
            owners,
            positions,
            tenants: None,
            own,
        }
    }

    /// Position in [`CollectionRoute::shards`] of a shard.
    pub(crate) fn position(&self, shard: ShardId) -> Option<usize> {
        let found = self.positions.binary_search_by_key(&shard, |(id, _)| *id).ok()?;
        Some(usize::from(self.positions[found].1))
    }

    /// Position in [`CollectionRoute::shards`] of the owner of each virtual shard.
    pub(crate) fn owners(&self) -> &[u16] {
        &self.owners
    }

    /// Position in [`CollectionRoute::shards`] of the shard that owns an object. Cost: a hash of
    /// the id, however many shards there are.
    pub(crate) fn place_of(&self, id: &ObjectId) -> usize {
        if self.shards.len() == 1 {
            return 0;
        }
        usize::from(self.owners[self.routing.virtual_of(token_of(id))])
    }
}
