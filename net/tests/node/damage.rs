//! One damaged shard does not keep the others from being served.

use std::path::PathBuf;

use heddle_client::ClientError;
use heddle_meta::Catalog;
use heddle_meta::store::first_files;
use heddle_types::ErrorCode;

use crate::harness::{TempDir, TestNode, config, try_start};
use crate::http::{ask, value};
use crate::lifecycle::{check_filled, fill};
use crate::objects::{block_on, connect};

/// The only file of the first shard whose name begins so.
fn file(dir: &TempDir, prefix: &str) -> PathBuf {
    let folder = dir.path().join("data/shards/0000000001");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_wanted =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    paths.filter(is_wanted).last().unwrap()
}

fn flip(path: &PathBuf, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// A directory with two shards that have images, after a clean stop.
fn stopped(dir: &TempDir) {
    let node = TestNode::start(&config(dir, 1));
    block_on(async { fill(&connect(&node).await, 2).await });
    assert_eq!(node.terminate().code(), Some(0));
}

/// Asks until the answer is yes; each question is a connection of its own, a fraction of a
/// millisecond.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    assert!((0..50_000).any(|_| done()), "{what}");
}

#[test]
fn a_shard_with_a_damaged_image_comes_back_by_itself() {
    let dir = TempDir::new();
    stopped(&dir);
    flip(&file(&dir, "image-"), 4_096 + 20);
    for _ in 0..2 {
        let node = TestNode::start(&config(&dir, 1));
        until("everything is served", || {
            ask(&node, "GET", "/v1/.well-known/ready") == (200, "ready\n".to_owned())
        });
        block_on(async { check_filled(&connect(&node).await.collection("Docs")).await });
        let page = ask(&node, "GET", "/metrics").1;
        let served = page.lines().filter(|line| line.starts_with("heddle_shard_served{"));
        assert_eq!(served.filter(|line| line.ends_with(" 1")).count(), 2, "{page}");
        assert_eq!(node.terminate().code(), Some(0));
    }
}

#[test]
fn a_shard_beyond_repair_says_so_and_can_be_dropped() {
    let dir = TempDir::new();
    stopped(&dir);
    flip(&file(&dir, "ledger-"), 4_096 + 3);
    std::fs::remove_file(file(&dir, "image-")).unwrap();
    let node = TestNode::start(&config(&dir, 1));
    let (status, text) = ask(&node, "GET", "/v1/.well-known/ready");
    assert_eq!(status, 200);
    assert!(text.contains("shard 1: lost") && text.contains("ledger checksum"), "{text}");
    let page = ask(&node, "GET", "/metrics").1;
    assert_eq!(value(&page, "heddle_shard_served{"), 0.0);
    block_on(async {
        let client = connect(&node).await;
        let docs = client.collection("Docs");
        for refused in [
            docs.count(None).await.map(drop),
            docs.search(&heddle_client::Search::near(vec![0.5; 8]).k(1)).await.map(drop),
        ] {
            let Err(ClientError::Api(error)) = refused else { panic!("{refused:?}") };
            assert_eq!(error.code, ErrorCode::Corrupt, "{error}");
        }
        client.drop_collection("Docs").await.unwrap();
        fill(&client, 2).await;
        check_filled(&client.collection("Docs")).await;
    });
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn a_catalog_that_does_not_fit_together_ends_the_start() {
    // Intact by its checksums, and the first request to the collection found a shard of nobody.
    let dir = TempDir::new();
    stopped(&dir);
    let slot = std::fs::read(dir.path().join("data/catalog.0")).unwrap();
    let length = u64::from_le_bytes(slot[24..32].try_into().unwrap()) as usize;
    let whole: serde_json::Value = serde_json::from_slice(&slot[40..40 + length]).unwrap();
    for owners in [serde_json::json!([]), serde_json::json!([77])] {
        let mut catalog = whole.clone();
        catalog["collections"]["Docs"]["routing"]["owners"] = owners;
        let catalog: Catalog = serde_json::from_value(catalog).unwrap();
        for (name, bytes) in first_files(&catalog).unwrap() {
            std::fs::write(dir.path().join("data").join(name), bytes).unwrap();
        }
        let (status, _) = try_start(&config(&dir, 1)).unwrap_err();
        assert_eq!(status.code(), Some(70));
    }
}
