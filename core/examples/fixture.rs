//! Writes the data directory of a known history as one file, for `tests/fixtures`: what this
//! version leaves on disk, to be read by the tests of the next ones.
//!
//! `cargo run -p heddle-core --example fixture -- core/tests/fixtures/NAME.bin`
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).expect("the path of the fixture to write");
    let mut world = common::fixture::world();
    world.run(|engine| async move { common::fixture::live(&engine).await });
    let packed = common::fixture::pack(&world.disk);
    std::fs::File::create(path)?.write_all(&packed)
}
