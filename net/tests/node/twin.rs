//! Two processes of one node notice each other and end.

use std::path::Path;

use heddle_net::NodeConfig;
use heddle_types::FatalReason;

use crate::harness::{TempDir, TestNode, config, try_start};

/// A node of a cluster of its own, at an address that no other test uses.
fn clustered(dir: &TempDir, folder: &str, host: u8) -> NodeConfig {
    let defaults = NodeConfig::default();
    NodeConfig {
        data_dir: dir.path().join(folder),
        name: "db".to_owned(),
        listen: format!("127.0.7.{host}").parse().unwrap(),
        native_port: defaults.native_port,
        core_port_base: defaults.core_port_base,
        http_port: defaults.http_port,
        cluster_bootstrap_expect: 1,
        ..config(dir, 1)
    }
}

fn copy(source: &Path, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let target = target.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_copy_of_a_data_directory_beside_the_original_ends_both() {
    let dir = TempDir::new();
    let original = clustered(&dir, "original", 1);
    assert_eq!(TestNode::start(&original).terminate().code(), Some(0));
    let mut second = clustered(&dir, "copy", 2);
    second.cluster_join = vec![original.listen.to_string()];
    copy(&original.data_dir, &second.data_dir);

    let node = TestNode::start(&original);
    let expected = Some(FatalReason::IdentityInUse.exit_code());
    // It may be told before it serves.
    match try_start(&second) {
        Ok(twin) => assert_eq!(twin.wait().code(), expected),
        Err((status, message)) => assert_eq!(status.code(), expected, "{message}"),
    }
    assert_eq!(node.wait().code(), expected);
}
