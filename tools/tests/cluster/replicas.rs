//! Collections with a replica on every node, while nodes die.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use heddle_client::{Client, Collection, Consistency, Object};
use heddle_types::{ErrorCode, Hlc, ObjectId};

use crate::harness::Cluster;

const DEADLINE: Duration = Duration::from_secs(5);
/// Workers of the load, and how long it goes on before and after the kill.
const WORKERS: u64 = 16;
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(6);

fn create(cluster: &Cluster) {
    let flags = ["--dims", "4", "--shards", "3", "--replication", "3"];
    cluster.json(0, &[&["collection", "create", "Docs"][..], &flags].concat());
}

fn object(row: u64) -> Object {
    let values = vec![1.0, row as f32 + 1.0, (row % 7) as f32, (row % 11) as f32];
    Object::new(ObjectId::from_row(row)).with_vector(values)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Waits until a node has heard that others are gone: so many are left beside it.
fn until_alive(cluster: &Cluster, position: usize, others: usize) {
    let deadline = Instant::now() + crate::harness::PATIENCE;
    loop {
        let status = cluster.json(position, &["status"]);
        let members = status["gossip"]["members"].as_array().map_or(usize::MAX, Vec::len);
        if members == others {
            return;
        }
        assert!(Instant::now() < deadline, "{members} others seem to live, {others} do");
    }
}

#[test]
fn a_minority_refuses_what_needs_a_quorum_and_says_so() {
    let mut cluster = Cluster::start("minority", 3);
    create(&cluster);
    let places = cluster.json(1, &["cluster", "shards"]);
    assert_eq!(places.as_array().unwrap().len(), 9, "three replicas of three shards: {places}");
    block_on(async {
        let client = cluster.client(0, DEADLINE).await;
        let docs = client.collection("Docs");
        for row in 0..30 {
            docs.put(object(row)).await.unwrap();
        }
        cluster.kill(1);
        cluster.kill(2);
        until_alive(&cluster, 0, 0);
        // One without connections to nodes that are gone: what was sent there nobody knows of.
        let docs = cluster.client(0, DEADLINE).await.collection("Docs");
        let refused = docs.put(object(1)).await.unwrap_err();
        let text = refused.to_string();
        assert_eq!(refused.code(), Some(ErrorCode::Unavailable), "{text}");
        assert!(text.contains("1 of 3 replicas can be reached, 2 needed for quorum"), "{text}");
        let unread = docs.get(ObjectId::from_row(1)).await.unwrap_err().to_string();
        assert!(unread.contains("2 needed for quorum"), "{unread}");
        // Who asks for less gets it.
        let one = docs.with_consistency(Consistency::One);
        one.put(object(99)).await.unwrap();
        for row in [1, 29, 99] {
            assert!(one.get(ObjectId::from_row(row)).await.unwrap().is_some());
        }
        assert_eq!(docs.count(None).await.unwrap(), 31);
        cluster.spawn(1);
        cluster.wait_ready(1);
        until_alive(&cluster, 0, 1);
        // What is sent before the connections to it are made anew has an unknown outcome.
        let mut again = docs.put(object(1)).await;
        for _ in 0..100 {
            if again.is_ok() {
                break;
            }
            again = docs.put(object(1)).await;
        }
        again.unwrap();
    });
}

/// What became of the operations of a load.
#[derive(Default)]
struct Log {
    done: Cell<u64>,
    failed: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
    /// When operations succeeded, since the start.
    successes: RefCell<Vec<Duration>>,
    /// The newest acknowledged write of each row.
    written: RefCell<BTreeMap<u64, Hlc>>,
}

async fn work(docs: Collection, worker: u64, begun: Instant, log: &Log) {
    let mut row = worker;
    while begun.elapsed() < BEFORE + AFTER {
        row += WORKERS;
        let failure = match docs.put(object(row)).await {
            Ok(stamp) => {
                log.written.borrow_mut().insert(row, stamp);
                docs.get(ObjectId::from_row(row)).await.err()
            }
            Err(error) => Some(error),
        };
        match failure {
            None => {
                log.done.set(log.done.get() + 1);
                log.successes.borrow_mut().push(begun.elapsed());
            }
            Some(error) => {
                log.failed.set(log.failed.get() + 1);
                *log.errors.borrow_mut().entry(error.to_string()).or_default() += 1;
            }
        }
    }
}

#[test]
fn a_killed_node_costs_no_acknowledged_write_and_clients_go_on_through_the_others() {
    let mut cluster = Cluster::start("killed", 3);
    create(&cluster);
    block_on(async {
        let client: Client = cluster.client(0, DEADLINE).await;
        let docs = client.collection("Docs").with_tickets();
        let log = Log::default();
        let begun = Instant::now();
        let load = futures::future::join_all(
            (0..WORKERS).map(|worker| work(docs.clone(), worker, begun, &log)),
        );
        let kill = async {
            tokio::time::sleep(BEFORE).await;
            cluster.kill(2);
        };
        futures::future::join(load, kill).await;
        let (done, failed) = (log.done.get(), log.failed.get());
        let successes = log.successes.take();
        let gap = successes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        let share = done as f64 / (done + failed) as f64;
        println!("operations {done} done, {failed} failed, share {share:.5}, longest gap {gap:?}");
        for (error, count) in log.errors.take() {
            println!("{count} times {error}");
        }
        let after = successes.iter().filter(|at| **at > BEFORE + Duration::from_secs(1)).count();
        assert!(after > 0, "nobody went on");
        // Through the nodes that are left.
        let reader = cluster.client(1, DEADLINE).await.collection("Docs");
        for (row, stamp) in log.written.take() {
            let found = reader.get(ObjectId::from_row(row)).await.unwrap();
            assert!(found.is_some_and(|found| found.stamp >= stamp), "row {row} is lost");
        }
    });
}
