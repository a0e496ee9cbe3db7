//! Nodes that find each other, restart, move, and go.

use std::time::Duration;

use heddle_client::Object;
use heddle_types::{CollectionConfig, ErrorCode, ObjectId};

use crate::harness::Cluster;

const DEADLINE: Duration = Duration::from_secs(20);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn config(name: &str) -> CollectionConfig {
    CollectionConfig { name: name.to_owned(), ..CollectionConfig::default() }
}

fn create(cluster: &Cluster, position: usize, name: &str) {
    block_on(async {
        let client = cluster.client(position, DEADLINE).await;
        client.create_collection(&config(name)).await.unwrap();
    });
}

fn names(cluster: &Cluster, position: usize) -> Vec<String> {
    block_on(async {
        let client = cluster.client(position, DEADLINE).await;
        let collections = client.collections().await.unwrap();
        collections.into_iter().map(|config| config.name).collect()
    })
}

#[test]
fn three_nodes_become_one_cluster_and_each_takes_changes_for_all() {
    let mut cluster = Cluster::start("three", 3);
    for (position, name) in ["A", "B", "C"].into_iter().enumerate() {
        create(&cluster, position, name);
    }
    let before = cluster.agree();
    for position in 0..3 {
        assert_eq!(names(&cluster, position), ["A", "B", "C"]);
    }
    for position in 0..3 {
        assert_eq!(cluster.stop(position), Some(0));
    }
    for position in 0..3 {
        cluster.spawn(position);
    }
    for position in 0..3 {
        cluster.wait_ready(position);
    }
    assert_eq!(cluster.agree(), before, "a restart of all changes nothing");
    create(&cluster, 1, "D");
    cluster.agree();
    assert_eq!(names(&cluster, 2), ["A", "B", "C", "D"]);
}

#[test]
fn a_cluster_whose_nodes_all_moved_finds_itself_again() {
    let mut cluster = Cluster::start("moved", 3);
    create(&cluster, 0, "A");
    cluster.agree();
    for position in 0..3 {
        cluster.kill(position);
    }
    for position in 0..3 {
        cluster.readdress(position);
    }
    for position in 0..3 {
        cluster.spawn(position);
    }
    for position in 0..3 {
        cluster.wait_ready(position);
    }
    create(&cluster, 2, "B");
    for position in 0..3 {
        let host = cluster.members[position].host.to_string();
        let name = cluster.members[position].name.clone();
        cluster.wait_for(0, "the state names the new address", |report| {
            let nodes = report["nodes"].as_array()?;
            let record = nodes.iter().find(|node| node["name"] == name.as_str())?;
            let raft = record["addresses"]["raft"].as_str()?;
            (raft == format!("{host}:7500")).then_some(())
        });
    }
    cluster.agree();
    assert_eq!(names(&cluster, 1), ["A", "B"]);
}

#[test]
fn a_minority_refuses_changes_and_takes_them_again_when_the_others_are_back() {
    let mut cluster = Cluster::start("minority", 3);
    create(&cluster, 0, "A");
    cluster.agree();
    cluster.kill(1);
    cluster.kill(2);
    let refused = block_on(async {
        let client = cluster.client(0, DEADLINE).await;
        client.create_collection(&config("B")).await.unwrap_err()
    });
    let is_refused = match &refused {
        heddle_client::ClientError::Api(error) => error.code == ErrorCode::Unavailable,
        // The leader that was may have the change in its log.
        heddle_client::ClientError::UnknownOutcome { .. } => true,
        _ => false,
    };
    assert!(is_refused, "{refused}");
    assert_eq!(names(&cluster, 0), ["A"], "it still answers what it knows");
    cluster.spawn(1);
    cluster.wait_ready(1);
    create(&cluster, 0, "C");
    cluster.spawn(2);
    cluster.wait_ready(2);
    cluster.agree();
}

#[test]
fn a_node_that_joins_later_knows_everything_and_becomes_a_voter() {
    let mut cluster = Cluster::start("later", 2);
    create(&cluster, 0, "A");
    let third = cluster.add(3);
    cluster.spawn(third);
    cluster.wait_ready(third);
    assert_eq!(names(&cluster, third), ["A"]);
    cluster.wait_for(third, "three voters", |report| {
        (report["voters"].as_array()?.len() == 3).then_some(())
    });
    // Any two of three decide now.
    let leader = cluster.leader(third);
    cluster.kill(leader);
    let other = (0..3).find(|position| *position != leader).unwrap();
    create(&cluster, other, "B");
    cluster.agree();
}

#[test]
fn a_node_that_was_alone_brings_its_collections_into_the_cluster() {
    let mut cluster = Cluster::empty("alone", 1);
    cluster.add(1);
    cluster.spawn_alone(0);
    cluster.wait_ready(0);
    let id: ObjectId = "00000000-0000-0000-0000-000000000007".parse().unwrap();
    create(&cluster, 0, "Docs");
    block_on(async {
        let docs = cluster.client(0, DEADLINE).await.collection("Docs");
        docs.put(Object::new(id).with_vector(vec![1.0, 0.0])).await.unwrap();
    });
    assert_eq!(cluster.stop(0), Some(0));
    cluster.spawn(0);
    cluster.wait_ready(0);
    let second = cluster.add(2);
    cluster.spawn(second);
    cluster.wait_ready(second);
    cluster.agree();
    assert_eq!(names(&cluster, second), ["Docs"]);
    block_on(async {
        let docs = cluster.client(second, DEADLINE).await.collection("Docs");
        let found = docs.get(id).await.unwrap().expect("it was put before");
        assert_eq!(found.vectors[""], [1.0, 0.0]);
    });
    // It cannot bring them into another cluster, nor go on alone.
    cluster.kill(0);
    let (code, error) = cluster.refused(0, &[]);
    assert!(code == 64 && error.contains("cluster_join"), "{code} {error}");
}

/// Its collections were refused for ever when another node had created one in the first moments.
#[test]
fn a_node_that_was_alone_brings_its_collections_although_another_creates_at_once() {
    let mut cluster = Cluster::empty("alone-two", 2);
    cluster.add(1);
    cluster.add(2);
    cluster.spawn_alone(0);
    cluster.wait_ready(0);
    create(&cluster, 0, "Docs");
    assert_eq!(cluster.stop(0), Some(0));
    cluster.spawn(1);
    cluster.spawn(0);
    cluster.wait_ready(1);
    block_on(async {
        let client = cluster.client(1, DEADLINE).await;
        loop {
            match client.create_collection(&config("First")).await {
                Ok(_) => return,
                Err(heddle_client::ClientError::Api(error)) => {
                    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    cluster.wait_ready(0);
    cluster.agree();
    assert_eq!(names(&cluster, 0), ["Docs", "First"]);
    assert_eq!(names(&cluster, 1), ["Docs", "First"]);
}

#[test]
fn two_clusters_of_one_name_and_secret_stay_two() {
    let mut cluster = Cluster::empty("twins", 1);
    for position in 0..2 {
        cluster.add(position + 1);
        cluster.spawn_apart(position);
        cluster.wait_ready(position);
        create(&cluster, position, ["A", "B"][position]);
    }
    let id = |cluster: &Cluster, position| {
        cluster.wait_for(position, "it has an identity", |report| {
            report["id"].as_str().map(str::to_owned)
        })
    };
    let ids = [id(&cluster, 0), id(&cluster, 1)];
    assert_ne!(ids[0], ids[1]);
    // From now on each has the other one in its join list.
    for position in 0..2 {
        assert_eq!(cluster.stop(position), Some(0));
    }
    cluster.spawn(0);
    cluster.spawn(1);
    for position in 0..2 {
        cluster.wait_ready(position);
    }
    let refused = |position| cluster.counter(position, "heddle_peer_refused_total") > 0.0;
    cluster.wait_for(0, "they refuse each other", |_| (refused(0) || refused(1)).then_some(()));
    for position in 0..2 {
        assert_eq!(id(&cluster, position), ids[position], "identities are for ever");
        let report = cluster.report(position).unwrap();
        assert_eq!(report["nodes"].as_array().unwrap().len(), 1, "{report:#}");
        assert_eq!(names(&cluster, position), [["A", "B"][position]]);
    }
}

#[test]
fn a_collection_lies_only_where_the_labels_of_nodes_meet_its_rules() {
    let flags = ["--cluster-labels", "tier=test,disk=nvme"];
    let mut cluster = Cluster::start_with("labels", 2, &flags);
    let alone = cluster.add(3);
    cluster.spawn_alone(alone);
    cluster.wait_ready(alone);
    let rules = |require: &str, avoid: &str| {
        let mut config = config("Docs");
        let label = |value: &str| [("tier".to_owned(), value.to_owned())].into();
        config.placement.require = label(require);
        if !avoid.is_empty() {
            config.placement.avoid = label(avoid);
        }
        config
    };
    for position in [0, alone] {
        block_on(async {
            let client = cluster.client(position, DEADLINE).await;
            for bad in [rules("live", ""), rules("test", "test")] {
                match client.create_collection(&bad).await {
                    Err(heddle_client::ClientError::Api(error)) => {
                        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
                        assert!(error.to_string().contains("label"), "{error}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            let made = client.create_collection(&rules("test", "live")).await.unwrap();
            assert_eq!(made.placement, rules("test", "live").placement);
        });
    }
    assert_eq!(names(&cluster, 1), ["Docs"]);
}

#[test]
fn a_node_without_shards_is_drained_and_leaves_for_good() {
    let mut cluster = Cluster::start("leaves", 4);
    create(&cluster, 0, "A");
    cluster.agree();
    // The shards of A: a node that holds one cannot leave.
    let placed = cluster.json(0, &["cluster", "shards"]);
    let holders: Vec<&str> =
        placed.as_array().unwrap().iter().map(|shard| shard["node"].as_str().unwrap()).collect();
    assert_eq!(holders.len(), 4, "a shard for each node");
    let (code, _, error) = cluster.run(0, &["node", "drain", "node-4"]);
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = cluster.run(1, &["node", "remove", "node-4"]);
    assert!(code == 1 && error.contains("holds 1 replicas"), "{code} {error}");
    block_on(async {
        let client = cluster.client(2, DEADLINE).await;
        client.drop_collection("A").await.unwrap();
    });
    let (code, _, error) = cluster.run(1, &["node", "remove", "node-4"]);
    assert_eq!(code, 0, "{error}");
    let leader = cluster.leader(0);
    cluster.wait_for(leader, "the voters without it", |report| {
        let voters = report["voters"].as_array()?.len();
        let nodes = report["nodes"].as_array()?.len();
        (voters == 3 && nodes == 3).then_some(())
    });
    cluster.kill(3);
    create(&cluster, 0, "B");
    let (code, _, error) = cluster.run(0, &["node", "remove", "node-9"]);
    assert!(code != 0 && error.contains("node-9"), "{error}");
}

#[test]
fn a_lost_voter_gives_its_place_to_a_node_that_follows() {
    let mut cluster = Cluster::start_with("replaced", 3, &["--cluster-voters", "3"]);
    let fourth = cluster.add(4);
    cluster.spawn(fourth);
    cluster.wait_ready(fourth);
    create(&cluster, 0, "A");
    cluster.agree();
    let id_of = |report: &serde_json::Value, name: &str| {
        let nodes = report["nodes"].as_array()?.iter();
        let record = nodes.clone().find(|node| node["name"] == name)?;
        Some(record["id"].as_str()?.to_owned())
    };
    let leader = cluster.leader(fourth);
    let lost = (0..3).find(|position| *position != leader).unwrap();
    let name = cluster.members[lost].name.clone();
    let votes = |report: &serde_json::Value, name: &str| {
        let id = id_of(report, name)?;
        Some(report["voters"].as_array()?.iter().any(|voter| *voter == id.as_str()))
    };
    cluster.wait_for(fourth, "it only follows", |report| (!votes(report, "node-4")?).then_some(()));
    cluster.kill(lost);
    cluster.wait_for(fourth, "it votes instead", |report| {
        (votes(report, "node-4")? && !votes(report, &name)?).then_some(())
    });
    create(&cluster, fourth, "B");
}

#[test]
fn the_wrong_secret_keeps_a_node_out() {
    let mut cluster = Cluster::start("secret", 1);
    let other = cluster.add(2);
    cluster.spawn_with_secret(other, "another secret of these tests");
    create(&cluster, 0, "A");
    // It asks twice a second; what it does not get is noticed only by waiting for something else.
    cluster.wait_for(0, "refusals are counted", |_| {
        let status = cluster.json(0, &["status"]);
        let cores = status["cores"].as_array()?;
        let refused: u64 = cores.iter().filter_map(|core| core["peers"]["refused"].as_u64()).sum();
        (refused >= 3).then_some(())
    });
    let report = cluster.report(0).unwrap();
    assert_eq!(report["nodes"].as_array().unwrap().len(), 1);
}
