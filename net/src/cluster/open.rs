//! Opening the Raft of a node: its log, its last snapshot, and the promise of a node that belongs
//! to no cluster yet.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use heddle_meta::cluster::{Assembly, ClusterState};
use heddle_meta::raft::{ClusterMachine, LogError, RaftLog, SnapshotError, raft_config};
use heddle_runtime::{GlommioDevice, fatal};
use heddle_types::{ClusterId, Device, DeviceError, Epoch, FatalReason, NodeId};
use serde::{Deserialize, Serialize};

use super::book::{AddressBook, NameRule};
use super::changed::Changed;
use super::raft_network::RaftLinks;
use super::{Cluster, Raft};
use crate::core::Core;
use crate::identity::replace_file;

/// Folder of vote, log and snapshots, under the data directory.
const FOLDER: &str = "raft";
const PROMISE: &str = "promise.json";
const MEMBER: &str = "member.json";
const IDENTITY: &str = "cluster.json";

/// A promise as it is stored.
#[derive(Serialize, Deserialize)]
struct Promise {
    nodes: BTreeSet<NodeId>,
}

/// What a node stores once its catalog is that of a cluster.
#[derive(Serialize, Deserialize)]
struct Membership {
    cluster: String,
}

/// The cluster that a node belongs to, from when it knows of it.
#[derive(Serialize, Deserialize)]
struct Identity {
    cluster: ClusterId,
}

/// `has_own`: the node has collections from a time when it was alone, or had some.
pub(super) async fn open(core: &Rc<Core>, device: GlommioDevice, has_own: bool) -> Rc<Cluster> {
    let own = core.node.identity.node;
    let config = &core.node.config;
    let belongs_to = cluster_of(&config.data_dir);
    if let Some(name) = belongs_to.as_ref().filter(|name| **name != config.cluster_name) {
        let found = format!("cluster_name is {}", config.cluster_name);
        fatal(FatalReason::Config, format_args!("{found}, this node belongs to {name}"));
    }
    let is_new = match device.list(FOLDER).await {
        Ok(names) => names.is_empty(),
        Err(DeviceError::NotFound { .. }) => true,
        Err(error) => fatal(FatalReason::DataDirectory, error),
    };
    let log = if is_new {
        RaftLog::create(device.clone(), FOLDER, own).await
    } else {
        RaftLog::open(device.clone(), FOLDER, own).await
    };
    let log = log.unwrap_or_else(|error| fatal(reason_of_log(&error), error));
    if let Some(offset) = log.torn_at() {
        tracing::info!(offset, "the log of Raft ended in a torn write, never acknowledged");
    }
    let machine = ClusterMachine::open(device, FOLDER).await;
    let machine = machine.unwrap_or_else(|error| fatal(reason_of_snapshot(&error), error));
    let rule = config
        .raft_fqdn
        .then(|| NameRule { domain: config.raft_fqdn_tld.clone(), port: config.raft_port });
    let book = Rc::new(AddressBook::new(rule));
    machine.with_state(|state| book.follow(state));
    let dial = Rc::clone(&book);
    let links = RaftLinks::new(
        Rc::clone(&core.links),
        Rc::new(move |node, member: &_| dial.target(node, member)),
    );
    let settings =
        raft_config(&config.cluster_name).unwrap_or_else(|error| fatal(FatalReason::Config, error));
    let raft = Raft::new(own, Arc::new(settings), links, log, machine.clone()).await;
    let raft = raft.unwrap_or_else(|error| fatal(FatalReason::CatalogWrite, error));
    let promised = read::<Promise>(&core.node.config.data_dir, PROMISE);
    let promised = promised.map(|promise| promise.nodes).unwrap_or_default();
    let expect = u32::try_from(config.cluster_bootstrap_expect).unwrap_or(u32::MAX);
    let now = std::time::Duration::from_nanos(heddle_types::Clock::monotonic_ns(&core.clock));
    let cluster = Rc::new(Cluster {
        core: Rc::clone(core),
        own,
        raft,
        machine,
        book,
        assembly: RefCell::new(Assembly::new(own, expect, promised, now)),
        is_member: Cell::new(false),
        follows: Cell::new(belongs_to.is_some()),
        has_own,
        complained_at: Cell::new(None),
        made_true: Cell::new(Epoch(0)),
        changed: Changed::default(),
    });
    if let Some(Identity { cluster: id }) = read(&config.data_dir, IDENTITY) {
        cluster.take_identity(id);
    }
    cluster
}

impl Cluster {
    /// Keeps which cluster this is, the first time that the state says so.
    pub(super) fn learn_identity(&self, state: &ClusterState) {
        let Some(found) = state.cluster() else { return };
        match self.core.node.cluster_id() {
            Some(own) if own == found => {}
            Some(own) => {
                let found = format!("the state in {FOLDER} is that of cluster {found}");
                fatal(FatalReason::Corruption, format_args!("{found}, this node's is {own}"));
            }
            None => {
                let stored =
                    store(&self.core.node.config.data_dir, IDENTITY, &Identity { cluster: found });
                stored.unwrap_or_else(|error| fatal(FatalReason::CatalogWrite, error));
                tracing::info!(cluster = %found, "the cluster has an identity");
                self.take_identity(found);
            }
        }
    }

    /// From now on this node speaks to no node of another cluster.
    fn take_identity(&self, cluster: ClusterId) {
        self.core.node.set_cluster_id(cluster);
        if let Some(gossip) = self.core.gossip.get() {
            gossip.set_cluster(&self.core.node.config.cluster_name, cluster);
        }
    }
}

fn reason_of_log(error: &LogError) -> FatalReason {
    match error {
        LogError::Device(_) | LogError::Exists { .. } => FatalReason::DataDirectory,
        LogError::Version { .. } => FatalReason::FormatVersion,
        _ => FatalReason::Corruption,
    }
}

fn reason_of_snapshot(error: &SnapshotError) -> FatalReason {
    match error {
        SnapshotError::Device(_) => FatalReason::DataDirectory,
        SnapshotError::Version { .. } => FatalReason::FormatVersion,
        _ => FatalReason::Corruption,
    }
}

/// Stores a promise; durable when it returns.
pub(super) fn store_promise(data_dir: &Path, nodes: &BTreeSet<NodeId>) -> io::Result<()> {
    store(data_dir, PROMISE, &Promise { nodes: nodes.clone() })
}

/// The cluster whose catalog this node has, if it ever had that of one.
pub(crate) fn cluster_of(data_dir: &Path) -> Option<String> {
    read::<Membership>(data_dir, MEMBER).map(|member| member.cluster)
}

/// Stores that the catalog of this node is that of a cluster; durable when it returns.
pub(super) fn store_cluster(data_dir: &Path, cluster: &str) -> io::Result<()> {
    store(data_dir, MEMBER, &Membership { cluster: cluster.to_owned() })
}

fn store<T: Serialize>(data_dir: &Path, name: &str, value: &T) -> io::Result<()> {
    let folder = data_dir.join(FOLDER);
    let bytes = serde_json::to_vec_pretty(value)?;
    replace_file(&folder.join(format!("{name}.tmp")), &folder.join(name), &bytes)?;
    std::fs::File::open(folder)?.sync_all()
}

/// A small file of the folder, none when it is not there; damage ends the process.
fn read<T: for<'de> Deserialize<'de>>(data_dir: &Path, name: &str) -> Option<T> {
    let path = data_dir.join(FOLDER).join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            fatal(FatalReason::DataDirectory, format_args!("{}: {error}", path.display()))
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => fatal(FatalReason::Corruption, format_args!("{}: {error}", path.display())),
    }
}
