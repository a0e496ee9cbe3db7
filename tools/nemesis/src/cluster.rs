//! A cluster of `heddle serve` processes whose links lead through proxies.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::proxy::Network;

const SECRET: &str = "a secret of the nemesis";
/// Longest time until all nodes serve.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// A node, running or not.
struct Node {
    name: String,
    host: Ipv4Addr,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    lines: Option<Receiver<String>>,
    /// How far its wall clock is ahead.
    clock_offset_ms: i64,
    /// Counts the disks that it had.
    disks: u32,
}

/// The nodes, and the network between them.
pub(crate) struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    nodes: Vec<Node>,
    pub(crate) network: Arc<Network>,
}

/// 127.80-95.x.y, a block for each process that does this at once.
fn host(block: u8, third: usize, fourth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 80 + block % 16, third as u8, fourth as u8)
}

impl Cluster {
    /// Starts so many nodes on empty disks and waits until all serve.
    pub(crate) fn start(program: &Path, folder: &Path, count: usize) -> Result<Self, String> {
        let block = std::process::id() as u8;
        let network = Network::new(count);
        let node = |position: usize| Node {
            name: format!("node-{}", position + 1),
            host: host(block, 0, position + 1),
            data_dir: folder.join(format!("node-{}-disk-0", position + 1)),
            log: folder.join(format!("node-{}.log", position + 1)),
            child: None,
            lines: None,
            clock_offset_ms: 0,
            disks: 0,
        };
        let nodes: Vec<Node> = (0..count).map(node).collect();
        for source in 0..count {
            for target in (0..count).filter(|target| *target != source) {
                let route = host(block, source + 1, target + 1);
                let linked = network.link((source, target), route, nodes[target].host);
                linked.map_err(|error| format!("{route}: {error}"))?;
            }
        }
        let (program, folder) = (program.to_owned(), folder.to_owned());
        let mut cluster = Self { program, folder, nodes, network };
        for position in 0..count {
            cluster.run(position)?;
        }
        let deadline = Instant::now() + READY_LIMIT;
        (0..count).try_for_each(|position| cluster.wait_ready(position, deadline))?;
        Ok(cluster)
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where clients connect.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("{}:7700", node.host)).collect()
    }

    /// Starts a node that does not run.
    pub(crate) fn run(&mut self, position: usize) -> Result<(), String> {
        let block = std::process::id() as u8;
        let hosts: Vec<String> = self.nodes.iter().map(|node| node.host.to_string()).collect();
        let routes: Vec<String> = (0..self.nodes.len())
            .filter(|target| *target != position)
            .map(|target| {
                format!("{}={}", self.nodes[target].host, host(block, position + 1, target + 1))
            })
            .collect();
        let expect = self.nodes.len().to_string();
        let node = &mut self.nodes[position];
        let log = File::options().create(true).append(true).open(&node.log);
        let log = log.map_err(|error| format!("{}: {error}", node.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--config", "/dev/null", "--cores", "1", "--memory-bytes", "512MiB"])
            .arg("--data-dir")
            .arg(&node.data_dir)
            .args(["--listen", &node.host.to_string(), "--name", &node.name])
            .args(["--cluster-join", &hosts.join(","), "--cluster-bootstrap-expect", &expect])
            .args(["--wal-segment-bytes", "32MiB", "--disk-reserve-bytes", "0"])
            .args(["--ready-line", "always", "--log-level", "info"])
            .env("HEDDLE_CLUSTER_SECRET", SECRET)
            .env("NEMESIS_ROUTES", routes.join(","))
            .env("NEMESIS_CLOCK_OFFSET_MS", node.clock_offset_ms.to_string())
            .stdout(Stdio::piped())
            .stderr(log);
        let child = command.spawn();
        let mut child = child.map_err(|error| format!("{}: {error}", self.program.display()))?;
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        // Ends with the pipe, that is with the node.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // Nobody may be waiting.
                let _ = sender.send(line);
            }
        });
        (node.child, node.lines) = (Some(child), Some(lines));
        Ok(())
    }

    /// Waits until a node says that it serves.
    pub(crate) fn wait_ready(&mut self, position: usize, deadline: Instant) -> Result<(), String> {
        let node = &mut self.nodes[position];
        let Some(lines) = node.lines.take() else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        let name = &node.name;
        lines.recv_timeout(left).map(|_| ()).map_err(|error| format!("{name}: {error}"))
    }

    pub(crate) fn is_running(&self, position: usize) -> bool {
        self.nodes[position].child.is_some()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, position: usize) {
        if let Some(mut child) = self.nodes[position].child.take() {
            // It may have ended by itself; its log tells.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, position: usize, signal: Signal) {
        if let Some(child) = &self.nodes[position].child {
            // It may have ended by itself.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// The node starts with an empty disk the next time, under the same name.
    pub(crate) fn wipe(&mut self, position: usize) {
        let node = &mut self.nodes[position];
        node.disks += 1;
        let name = format!("{}-disk-{}", node.name, node.disks);
        node.data_dir = self.folder.join(name);
    }

    /// The wall clock of a node is wrong by so much from its next start on.
    pub(crate) fn set_clock_offset_ms(&mut self, position: usize, ms: i64) {
        self.nodes[position].clock_offset_ms = ms;
    }

    /// Nodes that ended by themselves, and words in logs that must not be there.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &mut self.nodes {
            if let Some(Ok(Some(status))) = node.child.as_mut().map(Child::try_wait) {
                found.push(format!("{} ended by itself: {status}", node.name));
            }
            let text = std::fs::read_to_string(&node.log).unwrap_or_default();
            let bad = text.lines().find(|line| line.contains("panicked") || line.contains(SECRET));
            found.extend(bad.map(|line| format!("{}: {line}", node.name)));
        }
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.network.end();
        for position in 0..self.nodes.len() {
            self.signal(position, Signal::CONT);
            self.kill(position);
        }
    }
}
