//! Replicas that were away: do they become equal to the others by themselves?

use heddle_client::ShardComparison;
use heddle_types::ObjectId;

use crate::objects::{block_on, docs, put_all};
use crate::spread::{Site, status_of};

const ROWS: u64 = 1_500;
const DELETED: u64 = 40;

fn sum(shards: &[&serde_json::Value], key: &str) -> u64 {
    shards.iter().map(|shard| shard[key].as_u64().unwrap()).sum()
}

/// Objects and remembered deletions of a node.
async fn held(site: &Site, node: usize) -> (u64, u64) {
    let status = status_of(site, node).await;
    let cores = status["cores"].as_array().unwrap().iter();
    let shards: Vec<&serde_json::Value> =
        cores.filter_map(|core| core["engine"]["shards"].as_array()).flatten().collect();
    (sum(&shards, "objects"), sum(&shards, "tombstones"))
}

async fn until_equal(site: &Site, nodes: &[usize]) {
    for node in nodes {
        while held(site, *node).await != (ROWS - DELETED, DELETED) {
            tokio::task::yield_now().await;
        }
    }
}

async fn repaired(site: &Site, node: usize, key: &str) -> u64 {
    let status = status_of(site, node).await;
    let cores = status["cores"].as_array().unwrap();
    cores.iter().map(|core| core["repair"][key].as_u64().unwrap()).sum()
}

#[test]
fn a_replica_that_lost_everything_gets_it_back_whoever_is_down() {
    let mut site = Site::new(3);
    for config in &mut site.configs {
        config.repair_interval_ms = 100;
    }
    let catalog = site.replicated_catalog(docs(2, Some(8)), &[&[0, 1, 2], &[0, 1, 2]]);
    let mut nodes = site.start_all(&catalog);
    block_on(async {
        let client = site.client(&[0, 1, 2]).await;
        let docs = client.collection("Docs");
        put_all(&docs, 0..ROWS).await;
        let ids: Vec<ObjectId> = (0..DELETED).map(ObjectId::from_row).collect();
        let deleted = docs.delete_batch(&ids).await.unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        until_equal(&site, &[0, 1, 2]).await;
    });
    // The one that drives goes, and the next in order has to take over. No hint waits for the last.
    nodes.pop().unwrap().kill();
    nodes.remove(0).kill();
    for folder in ["shards", "logs"] {
        std::fs::remove_dir_all(site.configs[2].data_dir.join(folder)).unwrap();
    }
    nodes.push(site.restart(2));
    block_on(async {
        until_equal(&site, &[2]).await;
        assert!(repaired(&site, 1, "copied").await >= ROWS - DELETED);
        assert!(repaired(&site, 1, "buried").await >= DELETED);
    });
    nodes.push(site.restart(0));
    block_on(async {
        while repaired(&site, 0, "whole").await == 0 {
            tokio::task::yield_now().await;
        }
        until_equal(&site, &[0, 1, 2]).await;
        assert_eq!(repaired(&site, 0, "refused").await, 0);
    });
}

#[test]
fn a_check_finds_what_a_replica_lacks_and_changes_nothing() {
    let site = Site::new(3);
    let catalog = site.replicated_catalog(docs(2, Some(8)), &[&[0, 1, 2], &[0, 1, 2]]);
    let mut nodes = site.start_all(&catalog);
    block_on(async {
        let client = site.client(&[0, 1, 2]).await;
        let docs = client.collection("Docs");
        put_all(&docs, 0..ROWS).await;
        let ids: Vec<ObjectId> = (0..DELETED).map(ObjectId::from_row).collect();
        docs.delete_batch(&ids).await.unwrap();
        until_equal(&site, &[0, 1, 2]).await;
        for shard in docs.compare().await.unwrap() {
            assert_eq!((shard.replicas, shard.took_part, shard.leaves_differing), (3, 3, 0));
            assert_eq!((shard.lacking, shard.undeleted, shard.problem), (0, 0, String::new()));
        }
    });
    nodes.pop().unwrap().kill();
    for folder in ["shards", "logs"] {
        std::fs::remove_dir_all(site.configs[2].data_dir.join(folder)).unwrap();
    }
    nodes.push(site.restart(2));
    block_on(async {
        for through in [0, 1, 2, 0] {
            let client = site.client(&[through]).await;
            let found = client.collection("Docs").compare().await.unwrap();
            let sum = |of: fn(&ShardComparison) -> u64| found.iter().map(of).sum::<u64>();
            assert_eq!(sum(|shard| shard.lacking), ROWS - DELETED);
            assert_eq!(sum(|shard| shard.undeleted), DELETED);
        }
    });
    nodes.remove(1).kill();
    block_on(async {
        let client = site.client(&[0]).await;
        let found = client.collection("Docs").compare().await.unwrap();
        assert!(found.iter().all(|shard| (shard.replicas, shard.took_part) == (3, 2)));
        assert_eq!(held(&site, 2).await, (0, 0), "nothing was changed");
    });
}
