//! Start, stop, kill, and what is refused.

use heddle_types::FatalReason;

use crate::harness::{TempDir, TestNode, config, try_start};

#[test]
fn a_term_signal_ends_the_node_with_exit_zero() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    let (status, message) = try_start(&config(&dir, 1)).unwrap_err();
    assert_eq!(status.code(), Some(FatalReason::DataDirectoryInUse.exit_code()), "{message}");
    assert!(message.contains(&node.ready.pid.to_string()), "{message}");
}
