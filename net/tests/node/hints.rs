//! Does a replica that was away get what it missed, without anybody reading it?

use heddle_types::{Consistency, Hlc};
use heddle_wire::message::{
    DeleteAtRequest, DeleteRequest, Durability, GetAtRequest, PutAtRequest, WriteTerms,
};

use crate::harness::TestNode;
use crate::objects::{block_on, docs};
use crate::spread::{Site, get_request, ids, put_request};

fn start(site: &Site) -> Vec<Option<TestNode>> {
    let catalog = site.replicated_catalog(docs(2, Some(8)), &[&[0, 1, 2], &[0, 1, 2]]);
    site.start_all(&catalog).into_iter().map(Some).collect()
}

fn put(site: &Site, through: usize, level: Consistency, rows: std::ops::Range<u64>) {
    let terms = WriteTerms::new(Some(level), Durability::Sync);
    let reply = site.raw(through).call(&PutAtRequest { terms, put: put_request(rows) }).unwrap();
    assert!(reply.into_results().iter().all(Result::is_ok));
}

fn delete(site: &Site, through: usize, rows: std::ops::Range<u64>) {
    let terms = WriteTerms::new(Some(Consistency::Quorum), Durability::Sync);
    let (collection, tenant) = ("Docs".to_owned(), String::new());
    let delete = DeleteRequest { collection, tenant, epoch: 0, ids: ids(rows) };
    let reply = site.raw(through).call(&DeleteAtRequest { terms, delete }).unwrap();
    assert!(reply.delete.into_results().iter().all(Result::is_ok));
}

/// What the replica of a node itself has: at level one a node asks its own.
fn stamps(site: &Site, node: usize, rows: std::ops::Range<u64>) -> Vec<Option<Hlc>> {
    let get = GetAtRequest::new(Consistency::One, get_request(rows));
    let reply = site.raw(node).call(&get).unwrap();
    let mut stamps = reply.get.objects.stamps.iter();
    let found = reply.get.found.iter();
    found.map(|flag| (*flag == 1).then(|| Hlc(*stamps.next().unwrap()))).collect()
}

/// Waits until the hints of a node are what is expected: those that wait, and at least so many that
/// were delivered. A replica that lives but is slow may be given some as well.
fn until_hints(site: &Site, node: usize, waiting: u64, delivered: u64) {
    block_on(async {
        let client = site.client(&[node]).await;
        loop {
            let status = client.status().await.unwrap();
            let cores = status["cores"].as_array().unwrap();
            let sum = |key: &str| -> u64 {
                cores.iter().map(|core| core["routing"][key].as_u64().unwrap()).sum()
            };
            assert_eq!(sum("hints_dropped"), 0, "{status}");
            if sum("hints_waiting") == waiting && sum("hints_delivered") >= delivered {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_node_that_was_away_gets_what_it_missed() {
    let site = Site::new(3);
    let mut nodes = start(&site);
    // So that the node lacks nothing when it dies.
    put(&site, 0, Consistency::All, 0..40);
    nodes[2].take().unwrap().kill();
    put(&site, 0, Consistency::Quorum, 20..60);
    delete(&site, 1, 0..10);
    until_hints(&site, 0, 40, 0);
    until_hints(&site, 1, 10, 0);
    nodes[2] = Some(site.restart(2));
    until_hints(&site, 0, 0, 40);
    until_hints(&site, 1, 0, 10);
    let expected = stamps(&site, 0, 0..60);
    assert!(
        expected[..10].iter().all(Option::is_none) && expected[10..].iter().all(Option::is_some)
    );
    assert_eq!(stamps(&site, 2, 0..60), expected);
}

#[test]
fn hints_outlive_the_process_that_keeps_them() {
    let site = Site::new(3);
    let mut nodes = start(&site);
    nodes[2].take().unwrap().kill();
    put(&site, 0, Consistency::Quorum, 0..30);
    until_hints(&site, 0, 30, 0);
    nodes[0].take().unwrap().kill();
    nodes[0] = Some(site.restart(0));
    until_hints(&site, 0, 30, 0);
    nodes[2] = Some(site.restart(2));
    until_hints(&site, 0, 0, 30);
    assert_eq!(stamps(&site, 2, 0..30), stamps(&site, 1, 0..30));
    nodes[0].take().unwrap().kill();
    nodes[0] = Some(site.restart(0));
    until_hints(&site, 0, 0, 0);
}
