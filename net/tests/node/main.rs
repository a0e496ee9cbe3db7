//! Whole nodes as child processes, on real sockets and real files.

mod harness;
mod http;
mod lifecycle;
mod objects;
mod protocol;
mod raw;

/// Not a test of its own: what a child process of the other tests runs.
#[test]
fn node_child() {
    harness::run_child_if_asked();
}
