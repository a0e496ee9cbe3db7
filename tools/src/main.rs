//! The heddle command: server and command line.

fn main() {}
