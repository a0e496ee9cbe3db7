//! Tenants on three nodes: dealt to them, reached through each, gone from all.

use heddle_client::{Collection, Object, PutMode, Search, TenantAction};
use heddle_types::ObjectId;

use crate::harness::{Cluster, PATIENCE};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn object(tenant: usize, row: u64) -> Object {
    let vector = (0..4).map(|at| (tenant * 100 + row as usize * 3 + at) as f32).collect();
    Object::new(ObjectId::from_row(row)).with_vector(vector)
}

async fn shops(cluster: &Cluster, position: usize) -> Collection {
    cluster.client(position, PATIENCE).await.collection("Shops")
}

async fn check(shops: &Collection, tenant: usize, rows: u64) {
    let handle = shops.tenant(format!("t{tenant}"));
    assert_eq!(handle.count(None).await.unwrap(), rows, "t{tenant}");
    let last = object(tenant, rows - 1);
    let found = handle.search(&Search::near(last.vectors[0].1.clone()).k(2)).await.unwrap();
    assert_eq!((found.hits[0].id, found.hits[0].distance), (last.id, 0.0), "t{tenant}");
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("t{number}")).collect()
}

#[test]
fn tenants_are_dealt_to_all_nodes_and_every_node_serves_every_one_of_them() {
    let mut cluster = Cluster::start("tenants", 3);
    let create = ["collection", "create", "Shops", "--dims", "4", "--distance", "l2-squared"];
    cluster.json(0, &[&create[..], &["--tenants", "--auto-create", "--auto-activate"]].concat());
    block_on(async {
        let first = shops(&cluster, 0).await;
        let created = first.change_tenants(TenantAction::Create, &names(0..300)).await.unwrap();
        assert_eq!(created, 300);
        let shown = first.tenants_named(&names(0..300)).await.unwrap();
        let mut counts = std::collections::BTreeMap::<_, u32>::new();
        for tenant in &shown {
            *counts.entry(tenant.shards[0].1[0]).or_default() += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|count| *count == 100), "{counts:?}");
        // Each tenant is written through another node than it is read.
        for tenant in 0..12 {
            let writer = shops(&cluster, tenant % 3).await.tenant(format!("t{tenant}"));
            let objects: Vec<Object> = (0..9).map(|row| object(tenant, row)).collect();
            let written = writer.put_batch(PutMode::Replace, &objects).await.unwrap();
            assert!(written.iter().all(Result::is_ok), "{written:?}");
        }
        for position in 0..3 {
            let reader = shops(&cluster, position).await;
            for tenant in 0..12 {
                check(&reader, tenant, 9).await;
            }
        }
        // One that nobody has created, through a node that has to tell the others.
        let writer = shops(&cluster, 2).await.tenant("t777");
        writer.put(object(777, 0)).await.unwrap();
        assert_eq!(writer.count(None).await.unwrap(), 1);
        let second = shops(&cluster, 1).await;
        second.change_tenants(TenantAction::Deactivate, &names(0..300)).await.unwrap();
    });
    cluster.agree();
    for position in 0..3 {
        assert_eq!(cluster.stop(position), Some(0));
    }
    for position in 0..3 {
        cluster.spawn(position);
    }
    for position in 0..3 {
        cluster.wait_ready(position);
    }
    block_on(async {
        let second = shops(&cluster, 1).await;
        let page = second.tenants_after("", 10).await.unwrap();
        assert_eq!((page.total, page.active), (301, 1));
        for tenant in 0..12 {
            check(&second, tenant, 9).await;
        }
        let page = second.tenants_after("", 10).await.unwrap();
        assert_eq!(page.active, 13, "requests have activated them");
        let all: Vec<String> = names(0..300).into_iter().chain(["t777".to_owned()]).collect();
        second.change_tenants(TenantAction::Delete, &all).await.unwrap();
    });
    cluster.agree();
    for position in 0..3 {
        let left = cluster.shard_folders(position);
        assert!(left.is_empty(), "node {position}: {left:?}");
    }
}

#[test]
fn a_node_that_was_killed_while_tenants_changed_makes_true_what_it_missed() {
    let mut cluster = Cluster::start("tenants-kill", 3);
    let create = ["collection", "create", "Shops", "--dims", "4", "--distance", "l2-squared"];
    cluster.json(0, &[&create[..], &["--tenants"]].concat());
    block_on(async {
        let first = shops(&cluster, 0).await;
        first.change_tenants(TenantAction::Create, &names(0..60)).await.unwrap();
        for tenant in 0..60 {
            first.tenant(format!("t{tenant}")).put(object(tenant, 0)).await.unwrap();
        }
    });
    let away = (cluster.leader(0) + 1) % 3;
    let here = (away + 1) % 3;
    cluster.kill(away);
    block_on(async {
        let shops = shops(&cluster, here).await;
        shops.change_tenants(TenantAction::Deactivate, &names(0..30)).await.unwrap();
        shops.change_tenants(TenantAction::Delete, &names(30..40)).await.unwrap();
        shops.change_tenants(TenantAction::Activate, &names(0..10)).await.unwrap();
    });
    cluster.spawn(away);
    cluster.wait_ready(away);
    cluster.agree();
    block_on(async {
        let back = shops(&cluster, away).await;
        back.change_tenants(TenantAction::Activate, &names(10..30)).await.unwrap();
        for tenant in (0..30).chain(40..60) {
            check(&back, tenant, 1).await;
        }
        let page = back.tenants_after("", 100).await.unwrap();
        assert_eq!((page.total, page.active), (50, 50));
    });
}
