//! Backups: what they keep, for how long, and what goes on beside them.

use std::collections::BTreeSet;

use heddle_client::{Client, ClientError, DamagedShards};
use heddle_meta::Manifest;
use heddle_meta::manifest::MANIFEST;
use heddle_net::NodeConfig;
use heddle_types::{CollectionConfig, ErrorCode};
use uuid::Uuid;

use crate::full_disk::until_level;
use crate::harness::{TempDir, TestNode, config};
use crate::lifecycle::fill;
use crate::objects::{block_on, connect, docs, put_all};
use crate::raw::PATIENCE;

async fn begin(client: &Client) -> (Uuid, u64) {
    client.begin_backup(DamagedShards::Refuse).await.unwrap()
}

/// Reads the manifest in pieces of an odd size.
async fn manifest(client: &Client, (backup, bytes): (Uuid, u64)) -> Manifest {
    let mut whole = Vec::new();
    while (whole.len() as u64) < bytes {
        let wanted = (bytes - whole.len() as u64).min(333);
        let part = client.read_backup(backup, MANIFEST, whole.len() as u64, wanted as u32).await;
        let part = part.unwrap();
        assert_eq!(part.len() as u64, wanted);
        whole.extend(part);
    }
    Manifest::decode(&whole).unwrap()
}

fn code_of<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Api(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

fn named(name: &str) -> CollectionConfig {
    CollectionConfig { name: name.to_owned(), ..docs(2, None) }
}

#[test]
fn the_backup_is_in_the_status_until_it_is_ended() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        fill(&client, 2).await;
        assert!(client.status().await.unwrap()["backup"].is_null());
        let begun = begin(&client).await;
        let manifest = manifest(&client, begun).await;
        let status = client.status().await.unwrap()["backup"].clone();
        assert_eq!(status["backup"], begun.0.to_string());
        assert_eq!(status["bytes"], manifest.bytes());
        assert_eq!(status["files"], manifest.files.len());
        assert_eq!(status["read_bytes"], begun.1);
        // A second one takes its place.
        let second = begin(&client).await;
        assert_eq!(client.status().await.unwrap()["backup"]["backup"], second.0.to_string());
        let read = client.read_backup(begun.0, MANIFEST, 0, 1).await;
        assert_eq!(code_of(read), ErrorCode::InvalidArgument);
        client.end_backup(second.0).await.unwrap();
        assert!(client.status().await.unwrap()["backup"].is_null());
        client.end_backup(second.0).await.unwrap();
    });
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn a_backup_that_nobody_reads_is_given_up() {
    let dir = TempDir::new();
    let config = NodeConfig { backup_idle_s: 1, ..config(&dir, 1) };
    let node = TestNode::start(&config);
    block_on(async {
        let client = connect(&node).await;
        fill(&client, 1).await;
        let (backup, _) = begin(&client).await;
        let given_up = async {
            while !client.status().await.unwrap()["backup"].is_null() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, given_up).await.expect("it is given up");
        let read = client.read_backup(backup, MANIFEST, 0, 1).await;
        assert_eq!(code_of(read), ErrorCode::InvalidArgument);
        let folder = config.data_dir.join("backups").join(backup.to_string());
        let gone = async {
            while folder.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("its files are gone");
    });
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn a_nearly_full_disk_takes_no_backup() {
    let dir = TempDir::new();
    let space = rustix::fs::statvfs(dir.path()).unwrap();
    let used = space.f_blocks - space.f_bfree;
    if used * 100 < used + space.f_bavail {
        println!("skipped: less than one per cent of the file system is in use");
        return;
    }
    let levels = NodeConfig {
        disk_warn_percent: 1,
        disk_no_insert_percent: 1,
        disk_delete_only_percent: 100,
        ..config(&dir, 1)
    };
    let node = TestNode::start(&levels);
    block_on(async {
        let client = connect(&node).await;
        until_level(&client, "no_inserts").await;
        let refused = client.begin_backup(DamagedShards::Refuse).await;
        assert_eq!(code_of(refused), ErrorCode::DiskFull);
    });
}

#[test]
fn collections_come_go_and_get_dimensions_while_backups_are_taken() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        fill(&client, 3).await;
        for round in 0..6 {
            let (old, new) = (format!("Old{round}"), format!("New{round}"));
            let fixed = format!("Fixed{round}");
            client.create_collection(&named(&old)).await.unwrap();
            client.create_collection(&named(&fixed)).await.unwrap();
            let changes = async {
                put_all(&client.collection(&fixed), 0..10).await;
                client.create_collection(&named(&new)).await.unwrap();
                client.drop_collection(&old).await.unwrap();
                // A name that comes back is another collection.
                client.create_collection(&named(&old)).await.unwrap();
            };
            let (begun, ()) = futures::join!(begin(&client), changes);
            let manifest = manifest(&client, begun).await;
            let names: BTreeSet<&str> =
                manifest.catalog.collections().map(|entry| entry.config.name.as_str()).collect();
            assert!(names.contains("Docs") && names.contains(&*fixed), "{names:?}");
            // Exactly what the catalog has is there.
            let folders: BTreeSet<u64> = manifest
                .files
                .iter()
                .filter_map(|file| file.name.strip_prefix("shards/")?.split_once('/'))
                .map(|(number, _)| number.parse().unwrap())
                .collect();
            let shards = manifest.catalog.shards().map(|(_, shard)| shard.id.0);
            assert_eq!(folders, shards.collect::<BTreeSet<u64>>(), "{names:?}");
            for name in [&old, &new, &fixed] {
                client.drop_collection(name).await.unwrap();
            }
        }
    });
    assert_eq!(node.terminate().code(), Some(0));
}
