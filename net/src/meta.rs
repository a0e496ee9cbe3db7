//! The catalog on the meta core: one change at a time, durable before anyone hears of it, known to
//! every core before the client does. A node that is alone decides by itself; in a cluster the
//! cluster does (`follow`).

mod follow;
mod tenants;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::LocalBoxFuture;
use futures::lock::{Mutex, MutexGuard};
use heddle_core::shard::ShardSpec;
use heddle_core::validate::{NodeFacts, check_supported, profile_of, settle_profiles};
use heddle_meta::{
    Catalog, CatalogStore, CollectionEntry, Command, CoreLoad, ShardEntry, StoreError, TenantState,
    place_shards,
};
use heddle_runtime::{GlommioDevice, fatal};
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, CoreIndex, DeviceError, Epoch, ErrorCode,
    FatalReason, NodeId, ShardId, VectorConfig,
};

use crate::backup::{Backups, Damaged};
use crate::core::Core;
use crate::home;
use crate::message::{CoreAnswer, CoreReply, CoreRequest, Publication};
use crate::nodes::Nodes;
use crate::registry::CollectionRoute;
use crate::report;

/// Nodes that can hold a replica when the node is alone: this one.
const NODES: u32 = 1;

/// The catalog and its files.
pub(crate) struct Meta {
    core: Rc<Core>,
    // As it is on disk.
    stored: RefCell<Catalog>,
    // Homes that hold in this run and are not on disk yet.
    moves: RefCell<Vec<Command>>,
    // Held for a whole change, shards and publication included: changes never overlap.
    store: Mutex<CatalogStore<GlommioDevice>>,
    // As the cores have made it true: behind what is stored only while a change is made.
    made: RefCell<Catalog>,
    // Folders of shards that the catalog does not know, after one of its copies was damaged.
    unknown_folders: RefCell<BTreeSet<ShardId>>,
    // The nodes as the cores know them.
    nodes: RefCell<Option<Arc<Nodes>>>,
    // Tenants that requests want created or activated, and those who wait for them.
    wanted: tenants::Wanted,
    /// The backup that is taken or waits.
    pub(crate) backups: Backups,
}

type Store<'a> = MutexGuard<'a, CatalogStore<GlommioDevice>>;

impl Meta {
    pub(crate) fn new(
        core: &Rc<Core>,
        catalog: Catalog,
        store: CatalogStore<GlommioDevice>,
    ) -> Rc<Self> {
        Rc::new(Self {
            core: Rc::clone(core),
            made: RefCell::new(catalog.clone()),
            stored: RefCell::new(catalog),
            unknown_folders: RefCell::default(),
            nodes: RefCell::default(),
            moves: RefCell::default(),
            store: Mutex::new(store),
            wanted: tenants::Wanted::default(),
            backups: Backups::new(core),
        })
    }

    /// Works on a request of another core.
    pub(crate) fn handle(
        self: Rc<Self>,
        source: CoreIndex,
        request: CoreRequest,
    ) -> LocalBoxFuture<'static, CoreAnswer> {
        Box::pin(async move {
            match request {
                CoreRequest::CreateCollection(config) => self.create_collection(*config).await,
                CoreRequest::DropCollection(name) => self.drop_collection(name).await,
                CoreRequest::ChangeTenants { collection, action, names } => {
                    self.change_tenants(&collection, action, names).await
                }
                CoreRequest::ChangeNode { node, fate } => self.change_node(&node, fate).await,
                CoreRequest::FixDims { collection, dims } => self.fix_dims(collection, dims).await,
                CoreRequest::BeginBackup(damaged) => self.back_up(damaged).await,
                CoreRequest::ReadBackup(part) => self.backups.read(&part).await,
                CoreRequest::EndBackup(backup) => self.backups.end(backup).await,
                CoreRequest::Report => {
                    let mut report = report::of_core(&self.core);
                    report.backup = self.backups.report();
                    report.cluster = self.core.cluster.get().map(|cluster| cluster.report());
                    Ok(CoreReply::Report(Box::new(report)))
                }
                other => home::handle(Rc::clone(&self.core), source, other).await,
            }
        })
    }

    fn data_cores(&self) -> Range<CoreIndex> {
        0..self.core.data_cores
    }

    /// The catalog as it is now.
    pub(crate) fn catalog(&self) -> Catalog {
        let mut catalog = self.stored.borrow().clone();
        for command in self.moves.borrow().iter() {
            // A shard that was dropped since needs no home.
            let _ = catalog.apply(command);
        }
        catalog
    }

    /// Version of the catalog.
    pub(crate) fn epoch(&self) -> Epoch {
        self.stored.borrow().epoch()
    }

    /// Says which folders of shards there are that the catalog does not know.
    pub(crate) fn hold_unknown_folders(&self, shards: BTreeSet<ShardId>) {
        self.unknown_folders.replace(shards);
    }

    /// Gives shards other homes for this run; the disk keeps the old ones.
    pub(crate) fn hold_moves(&self, moves: Vec<Command>) {
        self.moves.replace(moves);
        let made = self.homed();
        self.made.replace(made);
    }

    /// The catalog as it is stored, with the homes that hold in this run; the epoch is that of what
    /// is stored.
    fn homed(&self) -> Catalog {
        let stored = self.stored.borrow().clone();
        if self.moves.borrow().is_empty() {
            return stored;
        }
        let (own, cores) = (self.core.node.identity.node, self.core.data_cores as u32);
        stored.with_homes_of(&self.catalog(), own, cores)
    }

    /// Writes the new homes down.
    pub(crate) async fn settle_moves(&self) -> Result<(), ApiError> {
        let mut store = self.store.lock().await;
        let next = if self.core.node.config.is_clustered() {
            // The cluster counts the epochs; it is told of the homes once somebody leads it.
            self.homed()
        } else {
            self.catalog()
        };
        self.save(&mut store, next).await?;
        self.moves.take();
        self.made.replace(self.catalog());
        Ok(())
    }

    /// Applies commands and makes the result durable; nothing has changed when it fails.
    ///
    /// Errors: also `Corrupt` when a new shard has a number that a lost catalog gave to another.
    async fn commit(&self, store: &mut Store<'_>, commands: &[Command]) -> Result<(), ApiError> {
        let mut next = self.stored.borrow().clone();
        for command in commands {
            next.apply(command)?;
        }
        self.check_no_lost(&next)?;
        self.save(store, next).await
    }

    /// Errors: a shard of a catalog has a folder that only a lost catalog knew. Opened or emptied,
    /// its rows would be another's or gone.
    fn check_no_lost(&self, next: &Catalog) -> Result<(), ApiError> {
        let found = self.unknown_folders.borrow();
        if found.is_empty() {
            return Ok(());
        }
        let mut shards = next.shards().map(|(_, shard)| shard.id);
        let Some(shard) = shards.find(|shard| found.contains(shard)) else { return Ok(()) };
        let message = format!("shard {shard} has files, the catalog does not know it");
        let expected = "the newer copy of the catalog restored, or its folder moved away";
        Err(ApiError::new(ErrorCode::Corrupt, message, expected))
    }

    /// Makes a catalog durable; the old one holds when it fails.
    async fn save(&self, store: &mut Store<'_>, next: Catalog) -> Result<(), ApiError> {
        match store.save(&next).await {
            Ok(()) => {}
            Err(StoreError::Device(DeviceError::NoSpace { path })) => {
                return Err(ApiError::transient(ErrorCode::DiskFull, format!("{path}: no space")));
            }
            Err(error @ StoreError::TooLarge { .. }) => {
                return Err(ApiError::new(ErrorCode::TooLarge, error.to_string(), ""));
            }
            Err(error) => fatal(FatalReason::CatalogWrite, error),
        }
        self.stored.replace(next);
        Ok(())
    }

    fn entry_of(&self, id: CollectionId) -> Option<CollectionEntry> {
        self.catalog().collections().find(|entry| entry.id == id).cloned()
    }

    async fn create_collection(&self, mut config: CollectionConfig) -> CoreAnswer {
        if let Some(cluster) = self.core.cluster.get() {
            return self.create_in_cluster(cluster, config).await;
        }
        let mut store = self.store.lock().await;
        if config.sharding.count == 0 {
            config.sharding.count = NODES;
        }
        config.validate()?;
        settle_profiles(&mut config);
        check_supported(&config, &NodeFacts { nodes: NODES })?;
        self.check_labels(&config)?;
        let count = if config.multi_tenancy.enabled { 0 } else { config.sharding.count };
        let placements = place_shards(count as usize, &self.loads());
        let id = CollectionId::random();
        let (seed, _) = id.0.as_u64_pair();
        let command = Command::CreateCollection { config, id, seed, placements };
        self.commit(&mut store, &[command]).await?;
        let entry = self.entry_of(id).expect("a committed collection is in the catalog");
        if let Err(error) = self.create_shards(&entry).await {
            return self.undo_create(&mut store, &entry, error).await;
        }
        self.publish(&entry).await
    }

    /// Errors: `InvalidArgument` when this node is not one that may hold the collection.
    fn check_labels(&self, config: &CollectionConfig) -> Result<(), ApiError> {
        let labels = &self.core.node.config.cluster_labels;
        if config.placement.admit(labels) {
            return Ok(());
        }
        let name = &config.name;
        let found =
            format!("collection {name} may not be on this node, whose labels are {labels:?}");
        let expected = "placement rules that the labels of a node (cluster_labels) meet";
        Err(ApiError::new(ErrorCode::InvalidArgument, found, expected))
    }

    /// Takes a collection back whose shards could not be made: without them it would refuse every
    /// request until the next start. Answers with what went wrong at first.
    async fn undo_create(
        &self,
        store: &mut Store<'_>,
        entry: &CollectionEntry,
        error: ApiError,
    ) -> CoreAnswer {
        let name = entry.config.name.clone();
        if let Err(refused) = self.commit(store, &[Command::DropCollection { name }]).await {
            // The catalog has it, so the cores must know it as well: then it can be dropped, and
            // the next start makes the shards that are missing.
            tracing::warn!(collection = %entry.config.name, error = %refused, "not taken back");
            let published = self.publish(entry).await;
            return Err(published.err().unwrap_or(error));
        }
        if let Err(left) = self.drop_shards(entry).await {
            tracing::warn!(error = %left, "files of a collection that was not made are left");
        }
        Err(error)
    }

    fn loads(&self) -> Vec<CoreLoad> {
        let node = self.core.node.identity.node;
        let catalog = self.catalog();
        self.data_cores()
            .map(|core| {
                let core = core as u32;
                let is_home = |shard: &&ShardEntry| shard.home_on(node) == Some(core);
                let shards = catalog.collections().flat_map(|entry| &entry.shards);
                let tenants = catalog.tenant_cores().filter(|(_, home, _)| *home == core);
                let of_tenants: u32 = tenants.map(|(.., uses)| uses.shards).sum();
                let shards = shards.filter(is_home).count() as u32 + of_tenants;
                CoreLoad { node, core, shards, objects: 0 }
            })
            .collect()
    }

    async fn create_shards(&self, entry: &CollectionEntry) -> Result<(), ApiError> {
        let own = self.core.node.identity.node;
        let calls = specs_by_home(std::iter::once(entry), own)
            .into_iter()
            .map(|(home, specs)| self.core.call(home, CoreRequest::CreateShards(specs)));
        join_all(calls).await
    }

    async fn drop_shards(&self, entry: &CollectionEntry) -> Result<(), ApiError> {
        let calls = self
            .by_home(entry.all_shards())
            .into_iter()
            .map(|(home, shards)| self.core.call(home, CoreRequest::DropShards(shards)));
        join_all(calls).await
    }

    async fn publish(&self, entry: &CollectionEntry) -> CoreAnswer {
        self.publish_at(self.catalog().epoch(), entry).await
    }

    async fn publish_at(&self, epoch: Epoch, entry: &CollectionEntry) -> CoreAnswer {
        let route = Arc::new(CollectionRoute::of(entry, self.core.node.identity.node));
        let publication = Publication::Collection(epoch, Arc::clone(&route));
        let request = |_| CoreRequest::Publish(publication.clone());
        self.core.call_all(self.data_cores(), request).await?;
        Ok(CoreReply::Collection(epoch, route))
    }

    /// Takes a backup of the collections that there are now. Others may be created meanwhile, these
    /// may be dropped or get dimensions: the catalog stands still only while it is looked at.
    async fn back_up(&self, damaged: Damaged) -> CoreAnswer {
        if self.core.cluster.get().is_some() {
            let message = "backups of a node that is part of a cluster";
            return Err(ApiError::new(ErrorCode::Unsupported, message, "a node that is alone"));
        }
        let _turn = self.backups.turn().await;
        self.backups.check_space()?;
        let first = self.settled_catalog().await?;
        let taken = self.backups.take(&first, damaged).await?;
        // The log that was copied may know of dimensions that were fixed since, and of shards that
        // were created since, whose numbers must not be given again.
        let meant: BTreeSet<CollectionId> = first.collections().map(|entry| entry.id).collect();
        let last = self.settled_catalog().await?.only(|entry| meant.contains(&entry.id));
        let last = last.with_tenants_of(&first);
        Ok(CoreReply::Backup(self.backups.complete(taken, last).await?))
    }

    /// The catalog while no change of it is under way.
    async fn settled_catalog(&self) -> Result<Catalog, ApiError> {
        let _still = self.store.lock().await;
        if !self.moves.borrow().is_empty() {
            let message = "shards moved at the start and could not be written: make room first";
            return Err(ApiError::transient(ErrorCode::Unavailable, message));
        }
        Ok(self.catalog())
    }

    async fn drop_collection(&self, name: String) -> CoreAnswer {
        if let Some(cluster) = self.core.cluster.get() {
            return self.drop_in_cluster(cluster, name).await;
        }
        let mut store = self.store.lock().await;
        let entry = self.catalog().collection(&name).cloned();
        self.commit(&mut store, &[Command::DropCollection { name: name.clone() }]).await?;
        let entry = entry.expect("a collection that could be dropped was there");
        let epoch = self.catalog().epoch();
        let shards: Vec<ShardId> = entry.all_shards().map(|shard| shard.id).collect();
        let removed = Publication::Removed(epoch, entry.id, name, shards);
        let request = |_| CoreRequest::Publish(removed.clone());
        self.core.call_all(self.data_cores(), request).await?;
        if let Err(error) = self.drop_shards(&entry).await {
            // It is gone from the catalog and from memory; the next start removes the files.
            tracing::warn!(%error, "files of a dropped collection are left");
        }
        Ok(CoreReply::Removed(epoch))
    }

    async fn fix_dims(&self, id: CollectionId, dims: Vec<(String, u32)>) -> CoreAnswer {
        if let Some(cluster) = self.core.cluster.get() {
            return self.fix_dims_in_cluster(cluster, id, dims).await;
        }
        let mut store = self.store.lock().await;
        let Some(entry) = self.entry_of(id) else { return Ok(CoreReply::Done) };
        // Another first insert may have been faster; then its dimensions hold.
        let fix = |(vector, dims): (String, u32)| {
            let (_, config) = entry.config.vector(&vector)?;
            if config.dims.is_some() {
                return None;
            }
            let known = VectorConfig { dims: Some(dims), ..config.clone() };
            let (quantization, raw) = profile_of(&known);
            Some(Command::FixDims { collection: id, vector, dims, quantization, raw })
        };
        let commands: Vec<Command> = dims.into_iter().filter_map(fix).collect();
        if !commands.is_empty() {
            self.commit(&mut store, &commands).await?;
        }
        let entry = self.entry_of(id).expect("changes of the catalog do not overlap");
        self.fix_shards(&entry).await?;
        self.publish(&entry).await
    }

    /// Gives the shards of a collection on this node its definition as it is now.
    async fn fix_shards(&self, entry: &CollectionEntry) -> Result<(), ApiError> {
        let calls = self.by_home(served_shards(entry)).into_iter().map(|(home, shards)| {
            let config = Arc::clone(&entry.config);
            self.core.call(home, CoreRequest::FixShardDims { shards, config })
        });
        join_all(calls).await
    }

    /// Those of some shards of which this node has a replica.
    fn by_home<'a>(
        &self,
        shards: impl Iterator<Item = &'a ShardEntry>,
    ) -> BTreeMap<CoreIndex, Vec<ShardId>> {
        let own = self.core.node.identity.node;
        let mut homes = BTreeMap::<CoreIndex, Vec<ShardId>>::new();
        for shard in shards {
            if let Some(home) = shard.home_on(own) {
                homes.entry(home as usize).or_default().push(shard.id);
            }
        }
        homes
    }
}

/// Waits for every answer, so that nothing is under way when the next step begins.
///
/// Errors: the first one.
async fn join_all(
    calls: impl Iterator<Item = impl Future<Output = CoreAnswer>>,
) -> Result<(), ApiError> {
    let answers = futures::future::join_all(calls).await;
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}

/// What each home core of a node needs to know to serve its shards of some collections.
pub(crate) fn specs_by_home<'a>(
    entries: impl Iterator<Item = &'a CollectionEntry>,
    node: NodeId,
) -> BTreeMap<CoreIndex, Vec<ShardSpec>> {
    let mut homes = BTreeMap::<CoreIndex, Vec<ShardSpec>>::new();
    for entry in entries {
        for shard in served_shards(entry) {
            let Some(home) = shard.home_on(node) else { continue };
            homes.entry(home as usize).or_default().push(spec_of(entry, shard.id));
        }
    }
    homes
}

/// The shards of a collection that are in memory where they are: not those of inactive tenants.
pub(crate) fn served_shards(entry: &CollectionEntry) -> impl Iterator<Item = &ShardEntry> {
    let active = entry.tenants.iter().filter(|(_, tenant)| tenant.state == TenantState::Active);
    entry.shards.iter().chain(active.flat_map(|(_, tenant)| &tenant.shards))
}

/// What a home core needs to know to serve a shard of a collection.
pub(crate) fn spec_of(entry: &CollectionEntry, shard: ShardId) -> ShardSpec {
    ShardSpec {
        id: shard,
        collection: entry.id,
        config: Arc::clone(&entry.config),
        directory: shard_directory(shard),
        seed: entry.seed,
    }
}

/// Folder of a shard, under the data directory.
pub(crate) fn shard_directory(shard: ShardId) -> String {
    format!("shards/{:010}", shard.0)
}
