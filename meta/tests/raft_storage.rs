//! Does the storage keep openraft's rules on the simulated disk?

use heddle_meta::raft::{ClusterMachine, Host, RaftLog, RaftTypes};
use heddle_sim::{SimDisk, SimHost};
use heddle_types::NodeId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

type Types = RaftTypes<SimHost>;
type Log = RaftLog<SimDisk>;
type Machine = ClusterMachine<SimDisk>;

/// A new disk for each test of the suite.
struct OnSimDisks;

impl StoreBuilder<Types, Log, Machine> for OnSimDisks {
    async fn build(&self) -> Result<((), Log, Machine), StorageError<Types>> {
        let disk = SimDisk::new(SimHost::random());
        let log = RaftLog::create(disk.clone(), "raft", NodeId::from(1)).await;
        let log = log.expect("a new disk has room");
        let machine = ClusterMachine::open(disk, "raft").await.expect("the disk is empty");
        Ok(((), log, machine))
    }
}

#[test]
fn the_storage_passes_openrafts_suite_on_simulated_disks() {
    SimHost::run(1, Suite::test_all(OnSimDisks)).expect("every rule is kept");
}
