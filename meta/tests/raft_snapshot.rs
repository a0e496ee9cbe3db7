//! The snapshot of the cluster's state: whole or the one before, whatever happens to the disk.

use futures::stream;
use heddle_meta::cluster::{
    Addresses, ClusterCommand, ClusterState, CommandId, Labels, NodeRecord, NodeState, Outcome,
    Request,
};
use heddle_meta::raft::{
    ClusterMachine, Entry, Leader, LogId, Member, Membership, Payload, RaftTypes, SnapshotError,
};
use heddle_sim::{Crash, Fault, SimDisk, SimHost};
use heddle_types::{Device, NodeId};
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use uuid::Uuid;

type Types = RaftTypes<SimHost>;
type Machine = ClusterMachine<SimDisk>;

const PATH: &str = "raft/snapshot";

fn log_id(index: u64) -> LogId {
    LogId { leader_id: Leader { term: 1, node_id: NodeId::from(1) }, index }
}

/// The entry of an index: the first one is the membership, each other adds a node.
fn entry(index: u64) -> Entry {
    let address = || format!("host-{index}:7500");
    let payload = if index == 0 {
        let members = [(NodeId::from(1), Member { address: address() })];
        let members = std::collections::BTreeMap::from(members);
        let membership = Membership::new(vec![[NodeId::from(1)].into()], members);
        Payload::Membership(membership.expect("the voter is a member"))
    } else {
        let record = NodeRecord {
            id: NodeId::from(index),
            name: format!("node-{index}"),
            addresses: Addresses {
                native: address(),
                core: address(),
                http: address(),
                peer: address(),
                raft: address(),
                gossip: address(),
            },
            labels: Labels::from([("rack".to_owned(), "r".repeat(100))]),
            data_cores: 1,
            state: if index == 1 { NodeState::Voter } else { NodeState::Learner },
            brings_collections: false,
        };
        let id = CommandId(Uuid::from_u64_pair(3, index));
        let request = Request::new(id, ClusterCommand::AddNode(record));
        Payload::Normal(request.expect("small enough"))
    };
    Entry { log_id: log_id(index), payload }
}

async fn apply(machine: &mut Machine, index: u64) {
    let entries = stream::iter([Ok((entry(index), None))]);
    RaftStateMachine::<Types>::apply(machine, entries).await.expect("applying is no IO");
}

async fn build(machine: &mut Machine) -> std::io::Result<Vec<u8>> {
    let mut builder = RaftStateMachine::<Types>::get_snapshot_builder(machine).await;
    let built = RaftSnapshotBuilder::<Types>::build_snapshot(&mut builder).await?;
    Ok(built.snapshot)
}

/// The state after the entries up to `last`.
fn expected(last: u64) -> ClusterState {
    let mut state = ClusterState::default();
    for index in 1..=last {
        let Payload::Normal(request) = entry(index).payload else { continue };
        assert!(matches!(state.apply(&request), Ok(Outcome::Applied(_))));
    }
    state
}

async fn new_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir("raft").await.expect("the disk is empty");
    disk.sync_dir("").await.expect("the disk is whole");
    disk
}

async fn open(disk: &SimDisk) -> Result<Machine, SnapshotError> {
    ClusterMachine::open(disk.clone(), "raft").await
}

async fn last_applied(machine: &mut Machine) -> Option<u64> {
    let (last, _) = RaftStateMachine::<Types>::applied_state(machine).await.expect("in memory");
    last.map(|last| last.index)
}

/// Applies entries and writes a snapshot after every third; returns the last one reported.
async fn live(machine: &mut Machine) -> Option<u64> {
    let mut reported = None;
    for index in 0..12 {
        apply(machine, index).await;
        if index % 3 == 2 {
            if build(machine).await.is_err() {
                return reported;
            }
            reported = Some(index);
        }
    }
    reported
}

#[test]
fn a_snapshot_is_read_back_with_state_position_and_membership() {
    SimHost::run(1, async {
        let disk = new_disk().await;
        let mut machine = open(&disk).await.unwrap();
        assert_eq!(live(&mut machine).await, Some(11));
        let before = RaftStateMachine::<Types>::applied_state(&mut machine).await.unwrap();
        let mut machine = open(&disk).await.unwrap();
        let after = RaftStateMachine::<Types>::applied_state(&mut machine).await.unwrap();
        assert_eq!(after, before);
        assert_eq!(machine.state(), expected(11));
        assert_eq!(machine.with_state(ClusterState::hash), expected(11).hash());
    });
}

#[test]
fn a_crash_at_any_disk_change_leaves_the_reported_snapshot_or_the_next() {
    SimHost::run(1, async {
        let clean = new_disk().await;
        let first = clean.changes();
        live(&mut open(&clean).await.unwrap()).await;
        let mut next = 0;
        for at in first + 1..=clean.changes() {
            let disk = new_disk().await;
            disk.fail_change(at, Fault::PowerCut);
            let mut machine = open(&disk).await;
            let reported = match &mut machine {
                Ok(machine) => live(machine).await,
                Err(_) => None,
            };
            let single = (0..disk.unsynced()).flat_map(|n| [Crash::Without(n), Crash::Torn(n)]);
            let all = [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData];
            for crash in all.into_iter().chain([Crash::Random(at)]).chain(single) {
                let after = disk.crashed(crash);
                let mut machine = open(&after).await.expect("a crash is no damage");
                let found = last_applied(&mut machine).await;
                let is_next = found == Some(reported.map_or(2, |reported| reported + 3));
                assert!(found == reported || is_next, "{at} {crash:?}: {found:?}");
                assert_eq!(machine.state(), found.map_or_else(ClusterState::default, expected));
                next += usize::from(is_next);
                assert!(!after.files().contains(&"raft/snapshot.tmp".to_owned()));
            }
        }
        assert!(next > 5, "{next} crashes came after the rename");
    });
}

#[test]
fn a_damaged_snapshot_is_named_and_left_as_it_is() {
    SimHost::run(1, async {
        let disk = new_disk().await;
        live(&mut open(&disk).await.unwrap()).await;
        let whole = disk.file_bytes(PATH).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for offset in (0..44).chain((44..used).step_by(37)) {
            let mut damaged = whole.clone();
            damaged[offset] ^= 0x10;
            disk.plant_file(PATH, damaged.clone());
            let error = open(&disk).await.expect_err("the damage is seen");
            assert!(matches!(error, SnapshotError::Corrupt { .. }), "{offset}: {error}");
            assert!(disk.file_bytes(PATH) == Some(damaged));
        }
        for length in [0, 30, used / 2] {
            disk.plant_file(PATH, whole[..length].to_vec());
            let error = open(&disk).await.expect_err("bytes are missing");
            assert!(matches!(error, SnapshotError::Corrupt { .. }), "{length}: {error}");
        }
    });
}

#[test]
fn an_installed_snapshot_replaces_the_state_and_damaged_bytes_do_not() {
    SimHost::run(1, async {
        let source = new_disk().await;
        let mut leader = open(&source).await.unwrap();
        live(&mut leader).await;
        let snapshot = RaftStateMachine::<Types>::get_current_snapshot(&mut leader).await;
        let snapshot = snapshot.unwrap().expect("there is one");
        let disk = new_disk().await;
        let mut follower = open(&disk).await.unwrap();
        apply(&mut follower, 0).await;
        let mut damaged = snapshot.snapshot.clone();
        damaged[40] ^= 1;
        let meta = &snapshot.meta;
        RaftStateMachine::<Types>::install_snapshot(&mut follower, meta, damaged)
            .await
            .unwrap_err();
        assert_eq!((last_applied(&mut follower).await, disk.files().len()), (Some(0), 0));
        RaftStateMachine::<Types>::install_snapshot(&mut follower, meta, snapshot.snapshot)
            .await
            .unwrap();
        assert_eq!(follower.state(), leader.state());
        assert_eq!(open(&disk).await.unwrap().state(), leader.state());
    });
}

#[test]
fn an_older_snapshot_never_takes_the_place_of_a_newer_one() {
    SimHost::run(1, async {
        let disk = new_disk().await;
        let mut machine = open(&disk).await.unwrap();
        apply(&mut machine, 0).await;
        apply(&mut machine, 1).await;
        let mut late = RaftStateMachine::<Types>::get_snapshot_builder(&mut machine).await;
        apply(&mut machine, 2).await;
        build(&mut machine).await.unwrap();
        let built = RaftSnapshotBuilder::<Types>::build_snapshot(&mut late).await.unwrap();
        assert_eq!(built.meta.last_log_id, Some(log_id(2)));
        assert_eq!(last_applied(&mut open(&disk).await.unwrap()).await, Some(2));
    });
}

const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/raft-snapshot-1-identity.bin");
const FIXTURE_WITHOUT_IDENTITY: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/raft-snapshot-1.bin");

#[test]
fn a_snapshot_from_before_clusters_had_identities_is_read() {
    SimHost::run(1, async {
        let disk = new_disk().await;
        disk.plant_file(PATH, std::fs::read(FIXTURE_WITHOUT_IDENTITY).unwrap());
        let read = open(&disk).await.unwrap().state();
        let expected = expected(2);
        assert!(expected.cluster().is_some() && read.cluster().is_none());
        assert_eq!(read.epoch(), expected.epoch());
        assert!(read.nodes().eq(expected.nodes()));
    });
}

#[test]
fn a_snapshot_of_version_1_is_read_and_written_as_it_was() {
    SimHost::run(1, async {
        let disk = new_disk().await;
        let mut machine = open(&disk).await.unwrap();
        for index in 0..3 {
            apply(&mut machine, index).await;
        }
        build(&mut machine).await.unwrap();
        let bytes = disk.file_bytes(PATH).unwrap();
        if std::env::var_os("HEDDLE_WRITE_FIXTURES").is_some() && !std::fs::exists(FIXTURE).unwrap()
        {
            std::fs::write(FIXTURE, &bytes).unwrap();
        }
        let mut stored = std::fs::read(FIXTURE).unwrap();
        assert!(stored == bytes, "a snapshot is written differently than in version 1");
        disk.plant_file(PATH, stored.clone());
        assert_eq!(open(&disk).await.unwrap().state(), expected(2));
        stored[8] = 2;
        let crc = crc32c::crc32c(&stored[..40]);
        stored[40..44].copy_from_slice(&crc.to_le_bytes());
        disk.plant_file(PATH, stored);
        let newer = open(&disk).await.err();
        assert!(matches!(newer, Some(SnapshotError::Version { found: 2, .. })), "{newer:?}");
    });
}
