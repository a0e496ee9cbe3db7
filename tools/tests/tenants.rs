//! Tenants of one node: a real process, the command line and the client.

#![expect(clippy::unwrap_used, reason = "in the support of tests a panic is a failed test")]

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::process::Stdio;

use heddle_client::{Client, Collection, Object, PutMode, Search, TenantAction};
use heddle_types::{ErrorCode, ObjectId, Properties, Value};

use support::{Folder, Node, heddle, outcome};

const DIMS: usize = 8;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn create_shops(node: &Node, flags: &[&str]) {
    let create = ["collection", "create", "Shops", "--dims", "8", "--distance", "l2-squared"];
    node.json(&[&create[..], &["--property", "row:int", "--tenants"], flags].concat());
}

/// Row `row` of a tenant: no other tenant has its vector.
fn object(tenant: usize, row: u64) -> Object {
    let vector = (0..DIMS).map(|at| (tenant * 1_000 + row as usize * 7 + at) as f32).collect();
    let properties = Properties::from([("row".to_owned(), Value::Int(row as i64))]);
    Object::new(ObjectId::from_row(row)).with_properties(properties).with_vector(vector)
}

async fn fill(shops: &Collection, tenant: usize, rows: u64) {
    let objects: Vec<Object> = (0..rows).map(|row| object(tenant, row)).collect();
    let handle = shops.tenant(format!("t{tenant}"));
    let written = handle.put_batch(PutMode::Replace, &objects).await.unwrap();
    assert!(written.iter().all(Result::is_ok), "{written:?}");
}

/// The tenant holds exactly these rows, by count, search and id.
async fn check(shops: &Collection, tenant: usize, rows: u64) {
    let handle = shops.tenant(format!("t{tenant}"));
    assert_eq!(handle.count(None).await.unwrap(), rows, "t{tenant}");
    let last = object(tenant, rows - 1);
    let query = last.vectors[0].1.clone();
    let found = handle.search(&Search::near(query).k(3)).await.unwrap();
    assert_eq!((found.hits[0].id, found.hits[0].distance), (last.id, 0.0), "t{tenant}");
    let got = handle.get(last.id).await.unwrap().unwrap();
    assert_eq!(got.properties, Some(last.properties));
}

async fn shops_of(node: &Node) -> Collection {
    Client::connect([node.address.clone()]).await.unwrap().collection("Shops")
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("t{number}")).collect()
}

fn shard_folders(data: &str) -> Vec<String> {
    let entries = std::fs::read_dir(format!("{data}/shards")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn rows_of_tenants_are_apart_and_outlive_deactivation_a_restart_and_a_kill() {
    let folder = Folder::new("tenants");
    let data = folder.join("data");
    let node = Node::start_with(&data, &["--cores", "2"]);
    create_shops(&node, &["--auto-create"]);
    block_on(async {
        let shops = shops_of(&node).await;
        for tenant in 0..12 {
            fill(&shops, tenant, 20 + tenant as u64).await;
        }
        for tenant in 0..12 {
            check(&shops, tenant, 20 + tenant as u64).await;
        }
        let changed = shops.change_tenants(TenantAction::Deactivate, &names(0..6)).await.unwrap();
        assert_eq!(changed, 6);
        let refused = shops.tenant("t3").count(None).await.unwrap_err();
        assert!(refused.to_string().contains("t3"), "{refused}");
    });
    let closed = shard_folders(&data).iter().filter(|name| name.ends_with(".closed")).count();
    assert_eq!(closed, 6);
    assert_eq!(node.stop(), Some(0));

    let node = Node::start_with(&data, &["--cores", "2"]);
    block_on(async {
        let shops = shops_of(&node).await;
        check(&shops, 9, 29).await;
        let page = shops.tenants_after("", 100).await.unwrap();
        assert_eq!((page.total, page.active), (12, 6));
        assert_eq!(shops.change_tenants(TenantAction::Activate, &names(0..3)).await.unwrap(), 3);
        for tenant in (0..3).chain(6..12) {
            check(&shops, tenant, 20 + tenant as u64).await;
        }
        // Written after it was opened: these rows are in the log alone.
        fill(&shops, 1, 40).await;
    });
    node.kill();

    let node = Node::start_with(&data, &["--cores", "2"]);
    block_on(async {
        let shops = shops_of(&node).await;
        check(&shops, 1, 40).await;
        assert_eq!(shops.change_tenants(TenantAction::Activate, &names(0..6)).await.unwrap(), 3);
        for tenant in 2..12 {
            check(&shops, tenant, 20 + tenant as u64).await;
        }
    });
}

#[test]
fn a_kill_while_tenants_are_deactivated_loses_no_row() {
    let folder = Folder::new("tenants-kill");
    let data = folder.join("data");
    let node = Node::start_with(&data, &["--cores", "1"]);
    create_shops(&node, &["--auto-create", "--auto-activate"]);
    block_on(async {
        let shops = shops_of(&node).await;
        for tenant in 0..40 {
            fill(&shops, tenant, 10).await;
        }
    });
    let mut running = node;
    for round in 0..4 {
        block_on(async {
            let shops = shops_of(&running).await;
            let all = names(0..40);
            let change = shops.change_tenants(TenantAction::Deactivate, &all);
            // The node goes after some of its answers to others, so some way into the change.
            let looks = async {
                for _ in 0..3 + 4 * round {
                    let _ = shops.tenants_after("", 1).await;
                }
            };
            futures::future::select(std::pin::pin!(change), std::pin::pin!(looks)).await;
        });
        running.kill();
        running = Node::start_with(&data, &["--cores", "1"]);
        block_on(async {
            let shops = shops_of(&running).await;
            for tenant in 0..40 {
                check(&shops, tenant, 10).await;
            }
        });
    }
}

#[test]
fn requests_that_do_not_fit_the_collection_are_refused_by_name() {
    let folder = Folder::new("tenants-refused");
    let node = Node::start_with(&folder.join("data"), &["--cores", "1"]);
    create_shops(&node, &[]);
    node.json(&["collection", "create", "Plain", "--dims", "8"]);
    node.json(&["tenant", "create", "Shops", "t1", "t2", "--inactive"]);
    block_on(async {
        let client = Client::connect([node.address.clone()]).await.unwrap();
        let shops = client.collection("Shops");
        let code = |error: heddle_client::ClientError| match error {
            heddle_client::ClientError::Api(error) => error,
            other => panic!("{other}"),
        };
        for (handle, expected, part) in [
            (shops.clone(), ErrorCode::InvalidArgument, "names none"),
            (shops.tenant("t3"), ErrorCode::UnknownTenant, "no tenant t3"),
            (shops.tenant("t1"), ErrorCode::TenantInactive, "t1 of collection Shops is inactive"),
            (shops.tenant("t 1"), ErrorCode::InvalidName, "t 1"),
            (client.collection("Plain").tenant("t1"), ErrorCode::InvalidArgument, "no tenants"),
        ] {
            let refused = code(handle.count(None).await.unwrap_err());
            assert_eq!(refused.code, expected, "{refused}");
            assert!(refused.message.contains(part), "{refused}");
            let written = handle.put_batch(PutMode::Replace, &[object(1, 1)]).await;
            let refused = match written {
                Ok(mut outcomes) => outcomes.remove(0).unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(code(refused).code, expected);
        }
        let unknown = ["t1".to_owned(), "t9".to_owned()];
        let refused = shops.change_tenants(TenantAction::Activate, &unknown).await.unwrap_err();
        assert_eq!(code(refused).code, ErrorCode::UnknownTenant);
        let page = shops.tenants_after("", 10).await.unwrap();
        assert_eq!(page.active, 0, "none of a refused change");
    });
}

#[test]
fn two_thousand_tenants_are_named_by_lines_listed_by_pages_and_leave_nothing_behind() {
    let folder = Folder::new("tenants-many");
    let data = folder.join("data");
    let node = Node::start_with(&data, &["--cores", "2"]);
    create_shops(&node, &[]);
    let lines: String = (0..2_000).map(|number| format!("shop-{number:05}\n")).collect();
    let file = folder.join("names.txt");
    std::fs::write(&file, &lines).unwrap();
    let mut child = heddle(&["tenant", "create", "Shops", "--file", "-", "--json"])
        .env("HEDDLE_ADDRESS", &node.address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let (code, output, error) = outcome(&child.wait_with_output().unwrap());
    assert_eq!((code, error.as_str()), (0, ""));
    let created: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(
        (created["created"].as_u64(), created["named"].as_u64()),
        (Some(2_000), Some(2_000))
    );
    assert_eq!(shard_folders(&data).len(), 2_000);

    let all = node.json(&["tenant", "list", "Shops", "--all"]);
    assert_eq!((all["total"].as_u64(), all["active"].as_u64()), (Some(2_000), Some(2_000)));
    assert_eq!(all["tenants"].as_array().unwrap().len(), 2_000);
    let page = node.json(&["tenant", "list", "Shops", "--after", "shop-01997", "--limit", "5"]);
    let page = page["tenants"].as_array().unwrap();
    assert_eq!((page.len(), page[0]["name"].as_str()), (2, Some("shop-01998")));
    let shown = node.json(&["tenant", "show", "Shops", "shop-00007"]);
    assert_eq!(shown[0]["shards"].as_array().unwrap().len(), 1);
    let (code, _, error) = node.run(&["tenant", "show", "Shops", "shop-7"]);
    assert!(code == 4 && error.contains("shop-7"), "{error}");

    block_on(async {
        let shops = shops_of(&node).await;
        let handle = shops.tenant("shop-01234");
        handle.put(object(1, 5)).await.unwrap();
        assert_eq!(handle.count(None).await.unwrap(), 1);
        assert_eq!(shops.tenant("shop-01235").count(None).await.unwrap(), 0);
    });
    assert_eq!(node.json(&["count", "Shops", "--tenant", "shop-01234"])["count"], 1);
    let rest = node.json(&["tenant", "deactivate", "Shops", "--file", &file]);
    assert_eq!(rest["deactivated"], 2_000);
    assert_eq!(node.stop(), Some(0));

    let node = Node::start_with(&data, &["--cores", "2"]);
    assert_eq!(node.json(&["collection", "list"])[0]["tenants"], 2_000);
    node.json(&["tenant", "activate", "Shops", "shop-01234", "shop-01235"]);
    assert_eq!(node.json(&["count", "Shops", "--tenant", "shop-01234"])["count"], 1);
    let (code, _, error) = node.run(&["tenant", "delete", "Shops", "shop-01234"]);
    assert!(code == 2 && error.contains("--yes"), "{error}");
    let gone = node.json(&["tenant", "delete", "Shops", "--file", &file, "--yes"]);
    assert_eq!(gone["deleted"], 2_000);
    assert!(shard_folders(&data).is_empty(), "{:?}", shard_folders(&data));
    node.json(&["tenant", "create", "Shops", "shop-01234"]);
    assert_eq!(node.json(&["count", "Shops", "--tenant", "shop-01234"])["count"], 0);
    let dropped = node.json(&["collection", "drop", "Shops", "--yes"]);
    assert_eq!(dropped["tenants"], 1);
    assert!(shard_folders(&data).is_empty());
}

#[test]
fn a_backup_holds_active_and_inactive_tenants() {
    let folder = Folder::new("tenants-backup");
    let (data, copy, restored) = (folder.join("data"), folder.join("copy"), folder.join("new"));
    let node = Node::start_with(&data, &["--cores", "1"]);
    create_shops(&node, &["--auto-create"]);
    block_on(async {
        let shops = shops_of(&node).await;
        for tenant in 0..6 {
            fill(&shops, tenant, 12).await;
        }
        shops.change_tenants(TenantAction::Deactivate, &names(0..3)).await.unwrap();
        shops.change_tenants(TenantAction::CreateInactive, &names(8..9)).await.unwrap();
    });
    node.json(&["backup", &copy]);
    assert_eq!(node.stop(), Some(0));
    let output = heddle(&["restore", &copy, "--data-dir", &restored]).output().unwrap();
    let (code, _, error) = outcome(&output);
    assert_eq!(code, 0, "{error}");
    let node = Node::start_with(&restored, &["--cores", "2"]);
    block_on(async {
        let shops = shops_of(&node).await;
        let page = shops.tenants_after("", 10).await.unwrap();
        assert_eq!((page.total, page.active), (7, 3));
        let all: Vec<String> = names(0..3).into_iter().chain(names(8..9)).collect();
        assert_eq!(shops.change_tenants(TenantAction::Activate, &all).await.unwrap(), 4);
        for tenant in 0..6 {
            check(&shops, tenant, 12).await;
        }
        assert_eq!(shops.tenant("t8").count(None).await.unwrap(), 0);
    });
}

#[test]
fn an_import_goes_to_the_tenant_it_names() {
    let folder = Folder::new("tenants-import");
    let node = Node::start_with(&folder.join("data"), &["--cores", "1"]);
    create_shops(&node, &["--auto-create"]);
    let mut file = Vec::new();
    for row in 0..30 {
        file.extend_from_slice(&(DIMS as u32).to_le_bytes());
        object(3, row).vectors[0].1.iter().for_each(|value| file.extend(value.to_le_bytes()));
    }
    let vectors = folder.join("rows.fvecs");
    std::fs::write(&vectors, file).unwrap();
    let state = folder.join("state.json");
    let import = |name: &'static str, flags: &[&'static str]| {
        let plain = ["import", name, "--vectors", &vectors, "--state", &state];
        node.run(&[&plain[..], flags].concat())
    };
    for (name, flags, problem) in [
        ("Shops", &[][..], "Shops has tenants: name one with --tenant"),
        ("Docs", &["--tenant", "t3"][..], "heddle collection create Docs --tenants"),
    ] {
        let (code, _, error) = import(name, flags);
        assert!(code == 2 && error.contains(problem), "{error}");
    }
    let (code, _, error) = import("Shops", &["--tenant", "t3"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(node.json(&["count", "Shops", "--tenant", "t3"])["count"], 30);
    assert_eq!(node.json(&["tenant", "list", "Shops"])["total"], 1);
    let create = ["collection", "create", "Plain", "--dims", "8"];
    node.json(&create);
    let (code, _, error) = import("Plain", &["--tenant", "t3"]);
    assert!(code == 2 && error.contains("Plain has no tenants"), "{error}");
}
