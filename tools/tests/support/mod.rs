//! A node in a child process, and the command line against it.

#![expect(clippy::unwrap_used, reason = "in the support of tests a panic is a failed test")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value as Json;

/// Where the demo data lies.
pub(crate) const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo-data");

/// The command, without settings of the caller's shell.
pub(crate) fn heddle(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heddle"));
    for (name, _) in std::env::vars() {
        if name.starts_with("HEDDLE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
pub(crate) fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A folder of one test, on the disk of the build folder, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let unique = format!("heddle-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the build folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A serving node; killed when dropped.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: String,
    pub(crate) ready: Json,
    // Closing the pipe would make a later write of the node fail.
    _output: BufReader<ChildStdout>,
}

impl Node {
    /// Starts a node on free ports and waits until it serves.
    pub(crate) fn start(data_dir: &str) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// As [`Node::start`], with more flags.
    pub(crate) fn start_with(data_dir: &str, flags: &[&str]) -> Self {
        let mut child = heddle(&["serve", "--config", "/dev/null", "--data-dir", data_dir])
            .args(["--native-port", "0", "--core-port-base", "0", "--http-port", "0"])
            .args(["--ready-line", "always", "--log-level", "error"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the node ended at its start: {}", child.wait().unwrap());
        let ready: Json = serde_json::from_str(&line).unwrap();
        let address = format!("127.0.0.1:{}", ready["native_port"]);
        Self { child, address, ready, _output: output }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the node to drain; returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    /// Runs a client command against this node.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = heddle(arguments).env("HEDDLE_ADDRESS", &self.address).output().unwrap();
        outcome(&output)
    }

    /// Runs a command that must succeed and print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Json {
        let (code, output, error) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{arguments:?}: {error}");
        serde_json::from_str(&output).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
