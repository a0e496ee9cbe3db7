//! Raft on a core: do runtime and storage keep openraft's rules on glommio and real files, and does
//! a cluster outlive its leader?

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use heddle_meta::cluster::{
    Addresses, ClusterCommand, CommandId, Labels, NodeRecord, NodeState, Request,
};
use heddle_meta::raft::{ClusterMachine, RaftLog, RaftTypes, raft_config};
use heddle_net::raft_host::{GlommioHost, GlommioRuntime};
use heddle_runtime::{GlommioDevice, run_single, sleep, timeout};
use heddle_sim::Crash;
use heddle_sim::raft::RaftCluster;
use heddle_types::{Device, NodeId};
use openraft::StorageError;
use openraft::testing::log::StoreBuilder;
use openraft::testing::{log, runtime};
use uuid::Uuid;

#[test]
fn the_runtime_passes_openrafts_suite_on_a_core() {
    runtime::Suite::<GlommioRuntime>::test_all();
}

/// A directory on the disk of the build tree (not tmpfs, which has no direct IO).
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = base.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the build tree is writable");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("the directory is ours");
    }
}

type Types = RaftTypes<GlommioHost>;
type Log = RaftLog<GlommioDevice>;
type Machine = ClusterMachine<GlommioDevice>;

thread_local! {
    static STORES: Cell<u32> = const { Cell::new(0) };
}

/// A new folder for each test of the suite. It is asked from one thread, but has to be `Sync`, so
/// it keeps its device out of itself.
struct InFolders(PathBuf);

impl StoreBuilder<Types, Log, Machine> for InFolders {
    async fn build(&self) -> Result<((), Log, Machine), StorageError<Types>> {
        let number = STORES.replace(STORES.get() + 1);
        let device = GlommioDevice::new(&self.0).expect("the folder is there");
        let directory = format!("raft-{number}");
        let log = RaftLog::create(device.clone(), &directory, NodeId::from(1)).await;
        let log = log.expect("the disk has room");
        let machine = ClusterMachine::open(device, &directory).await.expect("it is empty");
        Ok(((), log, machine))
    }
}

#[test]
fn the_storage_passes_openrafts_suite_on_real_files() {
    let scratch = Scratch::new("raft-storage");
    let builder = InFolders(scratch.0.clone());
    run_single(log::Suite::test_all(builder)).expect("an executor").expect("every rule is kept");
    run_single(async {
        let device = GlommioDevice::new(&scratch.0).expect("the folder is there");
        assert!(device.list("").await.expect("it can be read").len() > 40, "one folder a store");
    })
    .expect("an executor");
}

/// The change that adds node `number`.
fn change(number: u64) -> Request {
    let address = || format!("10.0.0.{number}:7500");
    let record = NodeRecord {
        id: NodeId::from(1_000 + number),
        name: format!("node-{number}"),
        addresses: Addresses {
            native: address(),
            core: address(),
            http: address(),
            peer: address(),
            raft: address(),
            gossip: address(),
        },
        labels: Labels::new(),
        data_cores: 1,
        state: if number == 0 { NodeState::Voter } else { NodeState::Learner },
        brings_collections: false,
    };
    let id = CommandId(Uuid::from_u64_pair(7, number));
    Request::new(id, ClusterCommand::AddNode(record)).expect("small enough")
}

// Far more than the election that it waits for takes: a busy machine is no failure.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn three_nodes_on_a_core_replace_a_killed_leader_and_keep_every_acknowledged_change() {
    let story = async {
        let config = raft_config("test").expect("the settings are valid");
        let cluster = RaftCluster::<GlommioHost>::new(3, config).await;
        cluster.initialize().await;
        let mut old = NodeId::default();
        for number in 0..20 {
            old = cluster.insist(&change(number), PATIENCE).await.expect("all nodes run").0;
        }
        cluster.kill(old, Crash::LoseUnsynced).await;
        let (new, _) = cluster.insist(&change(20), PATIENCE).await.expect("two of three run");
        assert_ne!(new, old);
        cluster.start(old).await;
        let epoch = |node| cluster.look(node, |state| state.epoch());
        let caught_up = async {
            while epoch(old) != epoch(new) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, caught_up).await.expect("a node that comes back catches up");
        let hash = |node| cluster.look(node, |state| state.hash());
        assert_eq!(hash(old), hash(new));
        for number in 0..=20 {
            let has = |node| {
                cluster.look(node, |state| state.node(NodeId::from(1_000 + number)).is_some())
            };
            assert_eq!((has(old), has(new)), (Some(true), Some(true)), "change {number}");
        }
    };
    run_single(story).expect("an executor");
}
