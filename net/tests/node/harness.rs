//! Starts this very test program as a node and stops it in various ways.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use heddle_net::{NodeConfig, PeerNode, ReadyReport};

const CONFIG: &str = "HEDDLE_TEST_NODE_CONFIG";
const NODES: &str = "HEDDLE_TEST_NODES";
const READY: &str = "ready ";
const FAILED: &str = "failed ";

/// In a child process: runs the node of the environment and exits; otherwise does nothing.
pub(crate) fn run_child_if_asked() {
    let Ok(text) = std::env::var(CONFIG) else { return };
    heddle_net::heap::settle_heap().unwrap();
    let mut config: NodeConfig = serde_json::from_str(&text).unwrap();
    if let Ok(nodes) = std::env::var(NODES) {
        config.fixed_nodes = serde_json::from_str(&nodes).unwrap();
    }
    let level = std::env::var("HEDDLE_TEST_LOG").unwrap_or_else(|_| "error".to_owned());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level.parse::<tracing_subscriber::filter::LevelFilter>().unwrap())
        .init();
    let (sender, receiver) = std::sync::mpsc::channel::<ReadyReport>();
    #[expect(clippy::disallowed_methods, reason = "the test's own thread, outside of any core")]
    std::thread::spawn(move || {
        if let Ok(report) = receiver.recv() {
            println!("\n{READY}{}", serde_json::to_string(&report).unwrap());
        }
    });
    match heddle_net::run(config, Some(sender)) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            println!("\n{FAILED}{error}");
            std::process::exit(error.reason().exit_code());
        }
    }
}

/// A directory on the file system of the build folder, removed at the end.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let name = format!("node-{}", uuid::Uuid::new_v4());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp").join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A leftover in the build folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration with small files and free ports.
pub(crate) fn config(dir: &TempDir, cores: usize) -> NodeConfig {
    NodeConfig {
        data_dir: dir.path().join("data"),
        native_port: 0,
        core_port_base: 0,
        http_port: 0,
        cores,
        memory_bytes: 1 << 30,
        wal_segment_bytes: 32 << 20,
        drain_timeout_s: 5,
        // Replicas differ for as long as a test wants it.
        repair_interval_ms: 3_600_000,
        ..NodeConfig::default()
    }
}

/// A running node.
#[derive(Debug)]
pub(crate) struct TestNode {
    child: Child,
    pub(crate) ready: ReadyReport,
}

impl TestNode {
    pub(crate) fn start(config: &NodeConfig) -> Self {
        Self::start_among(config, &[])
    }

    /// Starts a node that knows these nodes, itself among them.
    pub(crate) fn start_among(config: &NodeConfig, nodes: &[PeerNode]) -> Self {
        match try_start_among(config, nodes) {
            Ok(node) => node,
            Err((status, message)) => panic!("the node did not start: {status}: {message}"),
        }
    }

    pub(crate) fn address(&self) -> (std::net::IpAddr, u16) {
        (self.ready.listen, self.ready.native_port)
    }

    pub(crate) fn http_address(&self) -> (std::net::IpAddr, u16) {
        (self.ready.listen, self.ready.http_port)
    }

    /// SIGKILL, and waits.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.send_terminate();
        self.child.wait().unwrap()
    }

    pub(crate) fn send_terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory of the process, bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        text.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // A test that fails leaves no process behind; one that ended is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a node; its exit and last words when it does not come up.
pub(crate) fn try_start(config: &NodeConfig) -> Result<TestNode, (ExitStatus, String)> {
    try_start_among(config, &[])
}

fn try_start_among(
    config: &NodeConfig,
    nodes: &[PeerNode],
) -> Result<TestNode, (ExitStatus, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["node_child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CONFIG, serde_json::to_string(config).unwrap())
        .env(NODES, serde_json::to_string(nodes).unwrap())
        .env_remove("NEXTEST_EXECUTION_MODE")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut message = String::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines {
        let line = line.unwrap();
        if let Some(report) = line.strip_prefix(READY) {
            let ready = serde_json::from_str(report).unwrap();
            return Ok(TestNode { child, ready });
        }
        if let Some(text) = line.strip_prefix(FAILED) {
            message = text.to_owned();
        }
    }
    Err((child.wait().unwrap(), message))
}
