//! Objects of a collection whose shards lie on several nodes, through each of them.

use serde_json::Value as Json;

use crate::harness::Cluster;
use crate::support::DEMO;

const ROWS: &str = "3000";

fn import(cluster: &Cluster, position: usize) {
    let (vectors, properties) = (format!("{DEMO}/base.npy"), format!("{DEMO}/base.jsonl.gz"));
    let arguments = ["import", "Docs", "--vectors", &vectors, "--properties", &properties];
    cluster.json(position, &[&arguments[..], &["--limit", ROWS]].concat());
}

fn hits(found: &Json) -> Vec<(String, String)> {
    let hits = found["hits"].as_array().unwrap().iter();
    hits.map(|hit| (hit["id"].to_string(), hit["distance"].to_string())).collect()
}

#[test]
fn every_node_reads_writes_counts_and_finds_what_is_anywhere() {
    let mut cluster = Cluster::start("data", 3);
    import(&cluster, 0);
    let nodes: std::collections::BTreeSet<String> = cluster
        .json(1, &["cluster", "shards"])
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| shard["node"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(nodes.len(), 3, "a shard on each node");
    let expected = hits(&cluster.json(0, &["search", "Docs", "--like", "42", "--k", "10"]));
    assert_eq!(expected.len(), 10);
    let recent = ["count", "Docs", "--filter", "year >= 2000"];
    let few = cluster.json(0, &recent);
    for position in 0..3 {
        let count = cluster.json(position, &["count", "Docs"]);
        assert_eq!(count["count"], 3_000, "{count}");
        assert_eq!(cluster.json(position, &recent), few);
        let found = cluster.json(position, &["search", "Docs", "--like", "42", "--k", "10"]);
        assert_eq!(hits(&found), expected, "node {position}");
        for row in ["0", "1", "2", "3", "4", "5", "2999"] {
            let (code, _, error) = cluster.run(position, &["get", "Docs", row]);
            assert_eq!(code, 0, "row {row} through node {position}: {error}");
        }
    }
    // Without a node its part is missing, and that is said, not passed over.
    cluster.kill(2);
    let (code, _, error) = cluster.run(0, &["search", "Docs", "--like", "42", "--timeout", "3"]);
    assert!(code != 0 && error.contains("node-3"), "{code} {error}");
    cluster.spawn(2);
    cluster.wait_ready(2);
    let found = cluster.json(1, &["search", "Docs", "--like", "42", "--k", "10"]);
    assert_eq!(hits(&found), expected, "after its return");
}
