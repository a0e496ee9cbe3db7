//! Start, stop, kill, and what is refused.

use heddle_client::{Client, Collection, Object, PutMode, Search};
use heddle_net::NodeConfig;
use heddle_types::{FatalReason, ObjectId};

use crate::harness::{TempDir, TestNode, config, try_start};
use crate::objects::{block_on, connect, docs, object, put_all, vector};

const ROWS: u64 = 1_000;

pub(crate) async fn fill(client: &Client, shards: u32) {
    client.create_collection(&docs(shards, None)).await.unwrap();
    let docs = client.collection("Docs");
    put_all(&docs, 0..ROWS).await;
    let gone: Vec<ObjectId> = (0..ROWS).step_by(10).map(ObjectId::from_row).collect();
    for existed in docs.delete_batch(&gone).await.unwrap() {
        assert!(existed.unwrap());
    }
}

/// Everything that [`fill`] has written is there, found and not more.
pub(crate) async fn check_filled(docs: &Collection) {
    assert_eq!(docs.count(None).await.unwrap(), ROWS - ROWS / 10);
    let ids: Vec<ObjectId> = (0..ROWS).map(ObjectId::from_row).collect();
    let stored = docs.get_batch(&ids, heddle_client::Want::ALL).await.unwrap();
    for (row, stored) in (0..ROWS).zip(stored) {
        let Some(stored) = stored.unwrap() else {
            assert!(row.is_multiple_of(10), "row {row} is lost");
            continue;
        };
        assert!(!row.is_multiple_of(10), "row {row} has come back");
        assert_eq!(stored.properties, Some(object(row).properties), "row {row}");
        assert_eq!(stored.vectors.get(""), Some(&vector(row)), "row {row}");
    }
    for row in [1, 345, 999] {
        let result = docs.search(&Search::near(vector(row)).k(1)).await.unwrap();
        assert_eq!(result.hits[0].id, ObjectId::from_row(row));
        assert_eq!(result.hits[0].distance, 0.0);
    }
}

fn check_after_start(config: &NodeConfig) -> TestNode {
    let node = TestNode::start(config);
    block_on(async { check_filled(&connect(&node).await.collection("Docs")).await });
    node
}

#[test]
fn acknowledged_writes_survive_a_kill_a_stop_and_another_kill() {
    let dir = TempDir::new();
    let config = config(&dir, 2);
    let node = TestNode::start(&config);
    block_on(async { fill(&connect(&node).await, 2).await });
    node.kill();
    check_after_start(&config).kill();
    let status = check_after_start(&config).terminate();
    assert_eq!(status.code(), Some(0));
    check_after_start(&config).kill();
    check_after_start(&config);
}

#[test]
fn a_node_may_come_back_with_other_cores() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async { fill(&connect(&node).await, 4).await });
    node.kill();
    check_after_start(&config(&dir, 1)).kill();
    let node = check_after_start(&config(&dir, 2));
    block_on(async { put_all(&connect(&node).await.collection("Docs"), ROWS..ROWS + 50).await });
    node.kill();
    let node = TestNode::start(&config(&dir, 1));
    block_on(async {
        let docs = connect(&node).await.collection("Docs");
        assert_eq!(docs.count(None).await.unwrap(), ROWS - ROWS / 10 + 50);
    });
}

/// Writes batches until the node is gone; the rows that were acknowledged.
async fn put_until_gone(docs: &Collection, started: impl FnOnce()) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let mut started = Some(started);
    for batch in 0.. {
        let rows: Vec<u64> = (batch * 50..(batch + 1) * 50).collect();
        let objects: Vec<Object> = rows.iter().map(|row| object(*row)).collect();
        let Ok(outcomes) = docs.put_batch(PutMode::Replace, &objects).await else { break };
        let fine = rows.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        acknowledged.extend(fine.map(|(row, _)| *row));
        if outcomes.iter().any(Result::is_err) {
            break;
        }
        if batch == 20
            && let Some(started) = started.take()
        {
            started();
        }
    }
    acknowledged
}

async fn all_there(docs: &Collection, rows: &[u64]) {
    let ids: Vec<ObjectId> = rows.iter().map(|row| ObjectId::from_row(*row)).collect();
    let stored = docs.get_batch(&ids, heddle_client::Want::ALL).await.unwrap();
    for (row, stored) in rows.iter().zip(stored) {
        let stored = stored.unwrap().unwrap_or_else(|| panic!("row {row} is lost"));
        assert_eq!(stored.vectors.get(""), Some(&vector(*row)));
    }
}

#[test]
fn a_stop_under_load_loses_nothing_and_exits_zero() {
    let dir = TempDir::new();
    let config = config(&dir, 2);
    let node = TestNode::start(&config);
    let acknowledged = block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(2, Some(8))).await.unwrap();
        put_until_gone(&client.collection("Docs"), || node.send_terminate()).await
    });
    assert!(acknowledged.len() >= 1_000);
    assert_eq!(node.wait().code(), Some(0));
    let node = TestNode::start(&config);
    block_on(async { all_there(&connect(&node).await.collection("Docs"), &acknowledged).await });
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    let (status, message) = try_start(&config(&dir, 1)).unwrap_err();
    assert_eq!(status.code(), Some(FatalReason::DataDirectoryInUse.exit_code()), "{message}");
    assert!(message.contains(&node.ready.pid.to_string()), "{message}");
}

#[test]
fn a_second_node_on_the_same_port_is_refused() {
    let (dir, other) = (TempDir::new(), TempDir::new());
    let mut node = TestNode::start(&config(&dir, 1));
    let taken = |change: fn(&mut NodeConfig, &TestNode)| {
        let mut config = config(&other, 1);
        change(&mut config, &node);
        let (status, message) = try_start(&config).unwrap_err();
        assert_eq!(status.code(), Some(FatalReason::Listen.exit_code()), "{message}");
        assert!(message.contains("in use"), "{message}");
    };
    taken(|config, node| config.native_port = node.ready.native_port);
    taken(|config, node| config.core_port_base = node.ready.core_ports[0]);
    taken(|config, node| config.http_port = node.ready.http_port);
    assert!(node.is_running());
}

#[test]
fn what_cannot_be_used_is_refused_with_its_own_exit_code() {
    let dir = TempDir::new();
    let check = |config: NodeConfig, reason: FatalReason| {
        let (status, message) = try_start(&config).unwrap_err();
        assert_eq!(status.code(), Some(reason.exit_code()), "{message}");
    };
    check(NodeConfig { memory_bytes: 1, ..config(&dir, 1) }, FatalReason::Config);
    check(config(&dir, 1_000), FatalReason::Config);
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    check(NodeConfig { data_dir: file, ..config(&dir, 1) }, FatalReason::DataDirectory);
    let foreign = dir.path().join("foreign");
    std::fs::create_dir_all(foreign.join("shards")).unwrap();
    check(NodeConfig { data_dir: foreign, ..config(&dir, 1) }, FatalReason::DataDirectory);
    let newer = dir.path().join("newer");
    std::fs::create_dir_all(&newer).unwrap();
    std::fs::write(newer.join("node.json"), br#"{"format_version":99}"#).unwrap();
    check(NodeConfig { data_dir: newer, ..config(&dir, 1) }, FatalReason::FormatVersion);
}

#[test]
fn what_a_drop_has_left_is_removed_at_the_next_start() {
    let dir = TempDir::new();
    let config = config(&dir, 1);
    let node = TestNode::start(&config);
    block_on(async { fill(&connect(&node).await, 1).await });
    node.kill();
    let left = config.data_dir.join("shards/0000000099");
    std::fs::create_dir_all(left.join("part")).unwrap();
    let foreign = config.data_dir.join("shards/notes");
    std::fs::create_dir(&foreign).unwrap();
    drop(check_after_start(&config));
    assert!(!left.exists() && foreign.exists());
}

#[test]
fn a_collection_whose_shards_cannot_be_made_is_taken_back() {
    // It stayed in the catalog: it refused every request and could not be created again.
    let dir = TempDir::new();
    let config = config(&dir, 2);
    let node = TestNode::start(&config);
    let shards = config.data_dir.join("shards");
    block_on(async {
        let client = connect(&node).await;
        std::fs::write(&shards, b"in the way").unwrap();
        client.create_collection(&docs(2, None)).await.unwrap_err();
        assert!(client.collections().await.unwrap().is_empty());
        std::fs::remove_file(&shards).unwrap();
        fill(&client, 2).await;
    });
    node.kill();
    check_after_start(&config);
}

#[test]
fn the_version_of_the_catalog_survives_its_last_collection() {
    let dir = TempDir::new();
    let config = config(&dir, 1);
    let epoch = |node: &TestNode| block_on(async { connect(node).await.topology().epoch });
    let node = TestNode::start(&config);
    block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(1, None)).await.unwrap();
        client.drop_collection("Docs").await.unwrap();
    });
    let before = epoch(&node);
    assert_eq!(node.terminate().code(), Some(0));
    assert_eq!(epoch(&TestNode::start(&config)), before);
}

#[test]
fn the_ready_file_names_the_ports() {
    let dir = TempDir::new();
    let path = dir.path().join("ready.json");
    let node = TestNode::start(&NodeConfig { ready_file: Some(path.clone()), ..config(&dir, 2) });
    let text = std::fs::read(path).unwrap();
    let report: heddle_net::ReadyReport = serde_json::from_slice(&text).unwrap();
    assert_eq!(report, node.ready);
    assert_eq!(report.core_ports.len(), 2);
}
