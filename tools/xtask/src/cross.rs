//! `cargo xtask cross-test`: the tests of the kernels, built for aarch64 and run in an emulator.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::{Failure, run_cargo_with};

pub(crate) const HELP: &str = "\
The tests of the distance kernels on aarch64, in an emulator.

Usage: cargo xtask cross-test [FILTER...]

Runs the tests of heddle-index whose names contain one of the filters (by default those of the
kernels) on an emulated CPU with, and on one without, integer dot products. Needs:

  a Rust standard library for aarch64   rustup target add aarch64-unknown-linux-gnu, or RUSTC=PATH
                                        of another compiler that has it
  aarch64-linux-gnu-gcc and its libc    Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross
  qemu-aarch64-static or qemu-aarch64   Debian: qemu-user-static
";

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATORS: [&str; 2] = ["qemu-aarch64-static", "qemu-aarch64"];

/// Where Debian keeps the libraries of its cross compiler.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// Emulated CPUs: everything the emulator knows, and ARMv8.0, which has no integer dot products.
const CPUS: [&str; 2] = ["max", "cortex-a72"];

/// Parts of the names of all tests of the kernels.
const KERNEL_TESTS: [&str; 3] = ["distance::", "codes::", "instruction_set::"];

/// Checks what is needed, then runs the tests on each CPU.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    if let Some(flag) = arguments.iter().find(|argument| argument.starts_with('-')) {
        return Err(Failure::usage(format!("unexpected argument `{flag}`; it takes filters")));
    }
    has_standard_library()?;
    if !answers(LINKER) {
        return Err(missing(&format!("{LINKER} (Debian: gcc-aarch64-linux-gnu)")));
    }
    let emulator = EMULATORS.into_iter().find(|emulator| answers(emulator));
    let emulator = emulator.ok_or_else(|| missing("qemu-aarch64 (Debian: qemu-user-static)"))?;
    let runner = format!("{emulator} -L {LIBRARIES}");
    // Another compiler may be used here: its files stay apart.
    let folder = root.join("target/cross");
    let folder = folder.to_string_lossy();
    let filters: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let filters = if filters.is_empty() { KERNEL_TESTS.to_vec() } else { filters };
    let mut test = vec!["test", "--package", "heddle-index", "--lib", "--target", TARGET, "--"];
    test.extend(filters);
    for cpu in CPUS {
        println!("emulated CPU: {cpu}");
        let variables = [
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER),
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner.as_str()),
            ("CARGO_TARGET_DIR", folder.as_ref()),
            ("QEMU_CPU", cpu),
        ];
        run_cargo_with(root, &test, &variables)?;
    }
    Ok(())
}

fn missing(what: &str) -> Failure {
    Failure::check(format!("{what} is missing; `cargo xtask cross-test --help` lists all it needs"))
}

/// Whether a program is there and runs.
fn answers(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Refuses when the compiler has nothing to link against for the target.
fn has_standard_library() -> Result<(), Failure> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let shown = PathBuf::from(&compiler);
    let mut command = Command::new(&compiler);
    command.args(["--print", "target-libdir", "--target", TARGET]).stdin(Stdio::null());
    let output = command.output().map_err(|error| Failure::io(&shown, &error))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && folder.is_dir() {
        return Ok(());
    }
    Err(missing(&format!("a standard library of {} for {TARGET}", shown.display())))
}
