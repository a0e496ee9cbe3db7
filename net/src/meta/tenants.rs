//! Tenants that come, go, wake and rest: decided in batches, made true by the home cores.
//!
//! What is new or woken is opened before any core hears of it; what rests or goes is taken from the
//! routes first, so that no request comes while its shards are closed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::lock::Mutex;
use heddle_core::shard::ShardSpec;
use heddle_meta::cluster::{ClusterCommand, NodeState, Wanted as WantedPlaces, place_replicas};
use heddle_meta::{
    CollectionEntry, Command, NewTenant, Placement, ShardEntry, TenantEntry, TenantState,
    place_shards,
};
use heddle_runtime::timeout;
use heddle_types::limits::TENANT_BATCH_MAX;
use heddle_types::schema::check_tenant_name;
use heddle_types::{ApiError, CollectionId, CoreIndex, Epoch, ErrorCode, Retry, ShardId};
use heddle_wire::message::TenantAction;

use super::follow::DECISIONS_MAX;
use super::{Meta, join_all, spec_of};
use crate::cluster::Cluster;
use crate::message::{CoreAnswer, CoreReply, CoreRequest};

/// How long a change that is decided may take to be made true here: an image of each of a thousand
/// shards on a slow disk. Whoever asked gives up when its own time is over.
const MAKING_BUDGET: Duration = Duration::from_secs(120);

/// What became of a change, for those who wait for it.
type Outcome = Rc<RefCell<Option<Result<(Epoch, u32), ApiError>>>>;

/// The tenants that somebody names, and where the outcome goes.
type Part = (Vec<String>, Outcome);

/// Changes that wait for the one that is made now: those alike become one.
#[derive(Default)]
pub(super) struct Wanted {
    turn: Mutex<()>,
    waiting: RefCell<BTreeMap<(String, u8), Vec<Part>>>,
}

/// What the home cores of a node have to do about changed tenants.
#[derive(Default)]
struct Steps {
    create: BTreeMap<CoreIndex, Vec<ShardSpec>>,
    open: BTreeMap<CoreIndex, Vec<ShardSpec>>,
    close: BTreeMap<CoreIndex, Vec<ShardId>>,
    drop: BTreeMap<CoreIndex, Vec<ShardId>>,
}

impl Meta {
    /// Changes tenants of a collection. Those who come while another change is made and want the
    /// same of the same collection share one change.
    ///
    /// Errors: those of the catalog; of a shared change, those of the own part.
    pub(super) async fn change_tenants(
        &self,
        collection: &str,
        action: TenantAction,
        names: Vec<String>,
    ) -> CoreAnswer {
        names.iter().try_for_each(|name| check_tenant_name(name))?;
        let outcome = Outcome::default();
        let key = (collection.to_owned(), action as u8);
        let count = names.len() as u32;
        let own = (names, Rc::clone(&outcome));
        self.wanted.waiting.borrow_mut().entry(key.clone()).or_default().push(own);
        let _turn = self.wanted.turn.lock().await;
        if outcome.borrow().is_none() {
            let batch = self.take_batch(&key, &outcome);
            self.make_batch(collection, action, batch).await;
        }
        let made = outcome.borrow_mut().take().expect("the batch holds the own part");
        made.map(|(epoch, changed)| CoreReply::Tenants(epoch, changed.min(count)))
    }

    /// Makes one change of all parts. One that is refused is cut in halves until the parts are
    /// found that nobody could make: the names of others are not the fault of the rest.
    async fn make_batch(&self, collection: &str, action: TenantAction, batch: Vec<Part>) {
        let mut groups = vec![batch];
        while let Some(mut group) = groups.pop() {
            let mut all: Vec<String> = group.iter().flat_map(|(names, _)| names.clone()).collect();
            if group.len() > 1 {
                all.sort_unstable();
                all.dedup();
            }
            let made = self.make_change(collection, action, all).await;
            let is_of_names = made.as_ref().is_err_and(|error| {
                error.retry == Retry::Never && error.code != ErrorCode::UnknownCollection
            });
            if is_of_names && group.len() > 1 {
                let upper = group.split_off(group.len() / 2);
                groups.extend([upper, group]);
                continue;
            }
            for (_, waiting) in group {
                waiting.replace(Some(made.clone()));
            }
        }
    }

    /// The own part, and others as long as all fit into one change.
    fn take_batch(&self, key: &(String, u8), own: &Outcome) -> Vec<Part> {
        let mut waiting = self.wanted.waiting.borrow_mut();
        let Some(parts) = waiting.remove(key) else { return Vec::new() };
        let (mut batch, others): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(_, outcome)| Rc::ptr_eq(outcome, own));
        // Only changes of one tenant each, as requests make them, become one.
        let is_single = batch.iter().all(|(names, _)| names.len() == 1);
        let mut rest = Vec::new();
        for part in others {
            if is_single && part.0.len() == 1 && batch.len() < TENANT_BATCH_MAX {
                batch.push(part);
            } else {
                rest.push(part);
            }
        }
        if !rest.is_empty() {
            waiting.insert(key.clone(), rest);
        }
        batch
    }

    async fn make_change(
        &self,
        collection: &str,
        action: TenantAction,
        names: Vec<String>,
    ) -> Result<(Epoch, u32), ApiError> {
        if let Some(cluster) = self.core.cluster.get() {
            return self.tenants_in_cluster(cluster, collection, action, names).await;
        }
        let mut store = self.store.lock().await;
        let before = self.entry_with_tenants(collection)?;
        let changed = changed_by(&before, action, &names);
        if changed == 0 && action != TenantAction::Activate && action != TenantAction::Deactivate {
            return Ok((self.catalog().epoch(), 0));
        }
        let command = match action {
            TenantAction::Create | TenantAction::CreateInactive => {
                let names = missing(&before, names);
                let count = before.config.sharding.count as usize;
                let places = place_shards(names.len() * count, &self.loads());
                let replicas = places.into_iter().map(|place| vec![place]).collect();
                let tenants = new_tenants(names, count, replicas);
                Command::AddTenants { collection: before.id, state: state_of(action), tenants }
            }
            TenantAction::Activate | TenantAction::Deactivate => {
                let state = state_of(action);
                Command::SetTenants { collection: before.id, state, names }
            }
            TenantAction::Delete => Command::RemoveTenants { collection: before.id, names },
        };
        self.commit(&mut store, std::slice::from_ref(&command)).await?;
        let after = self.entry_of(before.id).expect("changes of the catalog do not overlap");
        let epoch = self.catalog().epoch();
        if let Err(error) = self.change_shards(epoch, &before, &after).await {
            self.undo_tenants(&mut store, &before, &after, command).await;
            return Err(error);
        }
        Ok((epoch, changed))
    }

    /// Takes a change back that could not be made true: its tenants would refuse every request.
    async fn undo_tenants(
        &self,
        store: &mut super::Store<'_>,
        before: &CollectionEntry,
        after: &CollectionEntry,
        command: Command,
    ) {
        let undo = match command {
            Command::AddTenants { collection, tenants, .. } => {
                let names = tenants.into_iter().map(|tenant| tenant.name).collect();
                Command::RemoveTenants { collection, names }
            }
            Command::SetTenants { collection, state: TenantState::Active, .. } => {
                let changes = before.tenants.changes(&after.tenants);
                let names = changes.iter().map(|change| change.name.to_string()).collect();
                Command::SetTenants { collection, state: TenantState::Inactive, names }
            }
            _ => return,
        };
        let undone = async {
            self.commit(store, &[undo]).await?;
            let now = self.entry_of(before.id).expect("changes of the catalog do not overlap");
            self.change_shards(self.catalog().epoch(), after, &now).await
        };
        if let Err(error) = undone.await {
            tracing::warn!(collection = %before.config.name, %error, "tenants were not taken back");
        }
    }

    /// Closes shards of inactive tenants that a crash kept from being closed.
    pub(crate) async fn finish_closing(
        &self,
        shards: BTreeMap<CoreIndex, Vec<ShardId>>,
    ) -> Result<(), ApiError> {
        let calls = shards.into_iter();
        let calls =
            calls.map(|(home, shards)| self.core.call(home, CoreRequest::CloseShards(shards)));
        join_all(calls).await
    }

    fn entry_with_tenants(&self, collection: &str) -> Result<CollectionEntry, ApiError> {
        // Homes that are not on disk yet count: the shards are there.
        let entry = self.catalog().collection(collection).cloned();
        checked(collection, entry)
    }

    /// Makes true on this node what is other about the tenants of a collection, and tells every
    /// core. Errors: what could not be made; no core was told.
    pub(super) async fn change_shards(
        &self,
        epoch: Epoch,
        was: &CollectionEntry,
        is: &CollectionEntry,
    ) -> Result<(), ApiError> {
        let Steps { create, open, close, drop } = self.steps(was, is);
        let made = create.values().chain(open.values()).flatten().map(|spec| spec.id);
        self.check_no_folder(&is.config.name, made);
        let calls = create
            .into_iter()
            .map(|(home, specs)| self.core.call(home, CoreRequest::CreateShards(specs)));
        join_all(calls).await?;
        let calls = open
            .into_iter()
            .map(|(home, specs)| self.core.call(home, CoreRequest::OpenShards(specs)));
        join_all(calls).await?;
        self.publish_at(epoch, is).await?;
        let calls = close
            .into_iter()
            .map(|(home, shards)| self.core.call(home, CoreRequest::CloseShards(shards)));
        if let Err(error) = join_all(calls).await {
            // It takes no requests and keeps its memory; the next start closes it.
            tracing::warn!(%error, "shards of inactive tenants stay in memory");
        }
        let calls = drop
            .into_iter()
            .map(|(home, shards)| self.core.call(home, CoreRequest::DropShards(shards)));
        if let Err(error) = join_all(calls).await {
            // They are gone from the catalog and from memory; the next start removes the files.
            tracing::warn!(%error, "files of deleted tenants are left");
        }
        Ok(())
    }

    fn steps(&self, was: &CollectionEntry, is: &CollectionEntry) -> Steps {
        let own = self.core.node.identity.node;
        let mut steps = Steps::default();
        let home = |shard: &ShardEntry| shard.home_on(own).map(|home| home as usize);
        for change in was.tenants.changes(&is.tenants) {
            let old: &[ShardEntry] = change.was.map_or(&[], |was| &was.shards);
            let new: &[ShardEntry] = change.is.map_or(&[], |is| &is.shards);
            let has = |shards: &[ShardEntry], shard: &ShardEntry| {
                shards.iter().any(|other| other.id == shard.id)
            };
            for shard in old.iter().filter(|shard| !has(new, shard)) {
                let Some(home) = home(shard) else { continue };
                steps.drop.entry(home).or_default().push(shard.id);
            }
            let is_active = |tenant: Option<&Arc<TenantEntry>>| {
                tenant.is_some_and(|tenant| tenant.state == TenantState::Active)
            };
            let (was_active, now_active) = (is_active(change.was), is_active(change.is));
            for shard in new {
                let Some(home) = home(shard) else { continue };
                let is_new = !has(old, shard);
                let spec = || spec_of(is, shard.id);
                match (is_new, was_active, now_active) {
                    (true, _, true) => steps.create.entry(home).or_default().push(spec()),
                    (false, false, true) => steps.open.entry(home).or_default().push(spec()),
                    // A new one may have been made by an attempt that failed later on.
                    (true, _, false) | (false, true, false) => {
                        steps.close.entry(home).or_default().push(shard.id);
                    }
                    _ => {}
                }
            }
        }
        steps
    }

    async fn tenants_in_cluster(
        &self,
        cluster: &Cluster,
        collection: &str,
        action: TenantAction,
        names: Vec<String>,
    ) -> Result<(Epoch, u32), ApiError> {
        for decision in 1.. {
            let entry = cluster.with_state(|state| state.resolve(collection).cloned());
            let known = checked(collection, entry);
            // This node may not know yet what another one has created.
            let is_behind = match &known {
                Ok(entry) => action_needs_all(action) && missing_any(entry, &names),
                Err(_) => true,
            };
            if is_behind && decision == 1 {
                cluster.catch_up().await?;
                continue;
            }
            let entry = known?;
            let changed = changed_by(&entry, action, &names);
            let command = cluster_command(cluster, &entry, action, names.clone())?;
            match cluster.change(command).await {
                Ok(epoch) => {
                    let made = timeout(MAKING_BUDGET, cluster.until_made_true(epoch)).await;
                    made.map_err(|_late| {
                        let what = "the cluster has decided the change of tenants, this node is";
                        ApiError::unknown(format!("{what} still making it true"))
                    })?;
                    return Ok((epoch, changed));
                }
                // A node began to leave while it was decided where the shards go.
                Err(error) if error.code == ErrorCode::StaleEpoch && decision < DECISIONS_MAX => {
                    cluster.catch_up().await?;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last decision is answered")
    }
}

fn cluster_command(
    cluster: &Cluster,
    entry: &CollectionEntry,
    action: TenantAction,
    names: Vec<String>,
) -> Result<ClusterCommand, ApiError> {
    let collection: CollectionId = entry.id;
    Ok(match action {
        TenantAction::Create | TenantAction::CreateInactive => {
            let names = missing(entry, names);
            let tenants = place_tenants(cluster, entry, names)?;
            ClusterCommand::AddTenants { collection, state: state_of(action), tenants }
        }
        TenantAction::Activate | TenantAction::Deactivate => {
            ClusterCommand::SetTenants { collection, state: state_of(action), names }
        }
        TenantAction::Delete => ClusterCommand::RemoveTenants { collection, names },
    })
}

/// Where the shards of new tenants go.
fn place_tenants(
    cluster: &Cluster,
    entry: &CollectionEntry,
    names: Vec<String>,
) -> Result<Vec<NewTenant>, ApiError> {
    let count = entry.config.sharding.count;
    // Chance decides only between nodes that are alike.
    let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
    cluster.with_state(|state| {
        let rules = state.rules(entry.id);
        let shards = names.len() as u32 * count;
        let wanted =
            WantedPlaces { shards, factor: entry.config.replication.factor, rules: &rules };
        let nodes = state.nodes().filter(|node| node.state != NodeState::Draining);
        let replicas = place_replicas(wanted, nodes, &cluster.loads(state), seed)?;
        Ok(new_tenants(names, count as usize, replicas))
    })
}

fn new_tenants(names: Vec<String>, shards: usize, replicas: Vec<Vec<Placement>>) -> Vec<NewTenant> {
    let mut replicas = replicas.into_iter();
    let tenants = names
        .into_iter()
        .map(|name| NewTenant { name, replicas: replicas.by_ref().take(shards).collect() });
    tenants.collect()
}

fn state_of(action: TenantAction) -> TenantState {
    match action {
        TenantAction::CreateInactive | TenantAction::Deactivate => TenantState::Inactive,
        TenantAction::Create | TenantAction::Activate | TenantAction::Delete => TenantState::Active,
    }
}

/// The names of which there is no tenant yet.
fn missing(entry: &CollectionEntry, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| entry.tenants.get(name).is_none());
    names
}

fn missing_any(entry: &CollectionEntry, names: &[String]) -> bool {
    names.iter().any(|name| entry.tenants.get(name).is_none())
}

/// Does an action ask for tenants that exist?
fn action_needs_all(action: TenantAction) -> bool {
    !matches!(action, TenantAction::Create | TenantAction::CreateInactive)
}

/// How many tenants will be other than before.
fn changed_by(entry: &CollectionEntry, action: TenantAction, names: &[String]) -> u32 {
    let tenants = names.iter().map(|name| entry.tenants.get(name));
    let is_other = |tenant: Option<&Arc<TenantEntry>>| match action {
        TenantAction::Create | TenantAction::CreateInactive => tenant.is_none(),
        TenantAction::Activate | TenantAction::Deactivate => {
            tenant.is_some_and(|tenant| tenant.state != state_of(action))
        }
        TenantAction::Delete => tenant.is_some(),
    };
    tenants.filter(|tenant| is_other(*tenant)).count() as u32
}

fn checked(name: &str, entry: Option<CollectionEntry>) -> Result<CollectionEntry, ApiError> {
    let Some(entry) = entry else {
        let message = format!("collection {name:?} does not exist");
        let expected = "the name of an existing collection";
        return Err(ApiError::new(ErrorCode::UnknownCollection, message, expected));
    };
    if !entry.config.multi_tenancy.enabled {
        let message = format!("collection {name} has no tenants");
        let expected = "a collection with multi_tenancy.enabled true";
        return Err(ApiError::new(ErrorCode::InvalidArgument, message, expected));
    }
    Ok(entry)
}
