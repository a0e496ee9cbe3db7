//! Replicas that were away: do they become equal to the others by themselves?

use heddle_meta::{Catalog, Placement};
use heddle_types::ObjectId;

use crate::harness::TestNode;
use crate::objects::{block_on, docs, put_all};
use crate::spread::{Site, status_of};

const ROWS: u64 = 1_500;
const DELETED: u64 = 40;

/// A collection of two shards with a replica of each on all nodes, at home on different cores.
fn catalog(site: &Site) -> Catalog {
    let catalog = site.catalog(&[(docs(2, Some(8)), &[0, 0])]);
    let replicas: Vec<Vec<Placement>> = (0..2)
        .map(|shard| {
            let nodes = site.nodes.iter().zip(0..);
            nodes.map(|(node, at)| Placement { node: node.id, home: (shard + at) % 2 }).collect()
        })
        .collect();
    catalog.with_replicas(|shard| &replicas[shard.0 as usize % 2])
}

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
fn replicas_that_were_away_get_what_they_lack_whoever_is_down() {
    let mut site = Site::new(3);
    for config in &mut site.configs {
        config.repair_interval_ms = 100;
    }
    let catalog = catalog(&site);
    let first = site.start(0, &catalog);
    let _second = site.start(1, &catalog);
    block_on(async {
        let client = site.client(&[0]).await;
        let docs = client.collection("Docs");
        put_all(&docs, 0..ROWS).await;
        let ids: Vec<ObjectId> = (0..DELETED).map(ObjectId::from_row).collect();
        let deleted = docs.delete_batch(&ids).await.unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        until_equal(&site, &[0, 1]).await;
    });
    // The one that drives goes, and the next in order has to take over.
    first.kill();
    let _third = site.start(2, &catalog);
    block_on(async {
        until_equal(&site, &[2]).await;
        assert!(repaired(&site, 1, "copied").await >= ROWS - DELETED);
        assert_eq!(repaired(&site, 1, "whole").await, 0, "not all of them took part");
    });
    let _again = TestNode::start_among(&site.configs[0], &site.nodes);
    block_on(async {
        until_equal(&site, &[0, 1, 2]).await;
        while repaired(&site, 0, "whole").await == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(repaired(&site, 0, "refused").await, 0);
    });
}
