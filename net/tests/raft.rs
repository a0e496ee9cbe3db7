//! Do the runtime and the storage that openraft gets keep its rules on glommio and real files?

use std::cell::Cell;
use std::path::{Path, PathBuf};

use heddle_meta::raft::{ClusterMachine, RaftLog, RaftTypes};
use heddle_net::raft_host::{GlommioHost, GlommioRuntime};
use heddle_runtime::{GlommioDevice, run_single};
use heddle_types::{Device, NodeId};
use openraft::StorageError;
use openraft::testing::log::StoreBuilder;
use openraft::testing::{log, runtime};

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
