//! A file system that fills up, on a loop device of its own.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use heddle_client::{Client, ClientError, Collection, Object, PutMode, Search};
use heddle_net::NodeConfig;
use heddle_types::{ErrorCode, ObjectId};

use crate::harness::{TempDir, TestNode, config};
use crate::objects::{block_on, connect, docs};
use crate::raw::PATIENCE;

const DISK_BYTES: u64 = 900 << 20;
const DIMS: u32 = 2_000;
/// Objects of one batch: 4 MB.
const BATCH: u64 = 500;

/// A small ext4 of its own, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(dir: &TempDir) -> Option<Self> {
        let (image, place) = (dir.path().join("disk.img"), dir.path().join("disk"));
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        std::fs::create_dir(&place).unwrap();
        let made = run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let mounted =
            made && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place));
        mounted.then_some(Self(place))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all free space but what the node has.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for size in [1 << 20, 4_096] {
            let chunk = vec![1; size];
            while file.write_all(&chunk).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn wide(row: u64) -> Vec<f32> {
    (0..DIMS).map(|place| (row * 7 + u64::from(place)) as f32).collect()
}

/// Puts one batch; how many of its objects were acknowledged, and the first refusal.
async fn put_batch(docs: &Collection, batch: u64) -> (Vec<u64>, Option<ClientError>) {
    let rows: Vec<u64> = (batch * BATCH..(batch + 1) * BATCH).collect();
    let objects: Vec<Object> = rows
        .iter()
        .map(|row| Object::new(ObjectId::from_row(*row)).with_vector(wide(*row)))
        .collect();
    let outcomes = docs.put_batch(PutMode::Replace, &objects).await.unwrap();
    let done = rows.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let done = done.map(|(row, _)| *row).collect();
    (done, outcomes.into_iter().find_map(Result::err))
}

/// Waits until the node sees the disk so.
pub(crate) async fn until_level(client: &Client, level: &str) {
    let seen = async {
        while client.status().await.unwrap()["disk"]["level"] != level {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the level is reached");
}

async fn check_reads(docs: &Collection, rows: &BTreeSet<u64>) {
    let rows: Vec<u64> = rows.iter().copied().collect();
    assert!(docs.count(None).await.unwrap() >= rows.len() as u64);
    for row in [rows[0], rows[rows.len() / 2], rows[rows.len() - 1]] {
        let stored = docs.get(ObjectId::from_row(row)).await.unwrap().unwrap();
        assert_eq!(stored.vectors.get(""), Some(&wide(row)));
        let hits = docs.search(&Search::near(wide(row)).k(1)).await.unwrap().hits;
        assert_eq!(hits[0].id, ObjectId::from_row(row));
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let dir = TempDir::new();
    let Some(disk) = SmallDisk::mount(&dir) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let config = NodeConfig { data_dir: disk.path().join("data"), ..config(&dir, 1) };
    let node = TestNode::start(&config);
    let (mut rows, batch, filler) = block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(1, Some(DIMS))).await.unwrap();
        let docs = client.collection("Docs");
        let mut rows = BTreeSet::new();
        let (done, refused) = put_batch(&docs, 0).await;
        rows.extend(done);
        assert!(refused.is_none());
        let filler = disk.fill();
        let mut batch = 1;
        let error = loop {
            let (done, refused) = put_batch(&docs, batch).await;
            rows.extend(done);
            batch += 1;
            if let Some(error) = refused {
                break error;
            }
            assert!(batch < 100, "the disk does not fill up");
        };
        assert_eq!(error.code(), Some(ErrorCode::DiskFull), "{error}");
        check_reads(&docs, &rows).await;
        until_level(&client, "deletes_only").await;
        let (_, refused) = put_batch(&docs, 0).await;
        let refused = refused.expect("not even objects that exist are replaced");
        assert!(refused.to_string().contains("only deletions"), "{refused}");
        // Deletions work on a full disk, thanks to the reserve.
        for row in rows.iter().copied().take(100).collect::<Vec<u64>>() {
            assert!(docs.delete(ObjectId::from_row(row)).await.unwrap());
            rows.remove(&row);
        }
        check_reads(&docs, &rows).await;
        (rows, batch, filler)
    });
    // A node with a full disk that dies must come up again: without it nobody can make room.
    node.kill();
    let node = TestNode::start(&config);
    let rows = block_on(async {
        let client = connect(&node).await;
        let docs = client.collection("Docs");
        check_reads(&docs, &rows).await;
        std::fs::remove_file(filler).unwrap();
        until_level(&client, "plenty").await;
        let recovered = async {
            loop {
                let (done, refused) = put_batch(&docs, batch).await;
                rows.extend(done);
                let Some(error) = refused else { break };
                assert_eq!(error.code(), Some(ErrorCode::DiskFull), "{error}");
            }
        };
        tokio::time::timeout(PATIENCE, recovered).await.expect("writes come back");
        check_reads(&docs, &rows).await;
        rows
    });
    node.kill();
    let node = TestNode::start(&config);
    block_on(async {
        let docs = connect(&node).await.collection("Docs");
        for row in rows {
            let stored = docs.get(ObjectId::from_row(row)).await.unwrap();
            assert!(stored.is_some_and(|it| it.vectors.get("") == Some(&wide(row))), "row {row}");
        }
    });
    assert_eq!(node.terminate().code(), Some(0));
}
