//! One node of the cluster as a child process.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::pause;
use crate::command::Failure;

/// Ports of every node: Heddle's defaults.
const NATIVE_PORT: u16 = 7700;
const HTTP_PORT: u16 = 8080;
/// Memory of each node unless a flag says otherwise: several share one machine.
const MEMORY: &str = "1GiB";
/// Longest time an answer of a node may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Lines of a node's log that a failure shows.
const LOG_LINES_SHOWN: usize = 12;

/// How to start a node.
pub(super) struct NodeOptions<'a> {
    pub(super) program: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    /// The addresses of all nodes.
    pub(super) join: &'a [String],
    pub(super) cores: usize,
    pub(super) flags: &'a [String],
}

/// A running node. Dropping it kills it.
pub(super) struct Node {
    pub(super) name: String,
    address: Ipv4Addr,
    child: Child,
    log: PathBuf,
}

/// What a node says of itself.
#[derive(Debug)]
pub(super) struct State {
    pub(super) is_ready: bool,
    /// Others that it sees, and the version of its catalog; none while it does not answer.
    pub(super) members: Option<u64>,
    pub(super) epoch: Option<u64>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_ready, members, epoch } = self;
        let ready = if *is_ready { "ready" } else { "not ready" };
        write!(f, "{ready}, sees {members:?} others, catalog version {epoch:?}")
    }
}

impl Node {
    pub(super) fn spawn(options: &NodeOptions<'_>) -> Result<Self, Failure> {
        let NodeOptions { folder, name, address, join, .. } = options;
        let log = folder.join(format!("{name}.log"));
        let log_file = File::create(&log).map_err(|error| Failure::io(&log, &error))?;
        let mut command = Command::new(options.program);
        command.arg("serve").arg("--data-dir").arg(folder.join(name));
        for (flag, value) in [
            ("--name", name.clone()),
            ("--listen", address.to_string()),
            ("--cores", options.cores.to_string()),
            ("--memory-bytes", MEMORY.to_owned()),
            ("--native-port", NATIVE_PORT.to_string()),
            ("--http-port", HTTP_PORT.to_string()),
            ("--cluster-join", join.join(",")),
            ("--cluster-bootstrap-expect", join.len().to_string()),
        ] {
            let prefix = format!("{flag}=");
            // A flag is given once: that of the caller wins.
            if !options.flags.iter().any(|given| given.starts_with(&prefix)) {
                command.arg(format!("{prefix}{value}"));
            }
        }
        command.args(options.flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
        // Settings of the caller's shell are meant for another node.
        let is_setting = |name: &std::ffi::OsStr| {
            let name = name.to_string_lossy();
            ["HEDDLE_", "CLUSTER_", "RAFT_"].iter().any(|family| name.starts_with(family))
        };
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| !is_setting(name)));
        // A Ctrl-C of the terminal is for this command, which then ends the nodes.
        command.process_group(0);
        let child = command.spawn().map_err(|error| Failure::io(options.program, &error))?;
        Ok(Self { name: name.clone(), address: *address, child, log })
    }

    /// Where clients connect.
    pub(super) fn native(&self) -> String {
        format!("{}:{NATIVE_PORT}", self.address)
    }

    /// Where metrics are.
    pub(super) fn http(&self) -> String {
        format!("http://{}:{HTTP_PORT}", self.address)
    }

    pub(super) fn state(&self) -> State {
        let ready = self.get("/v1/.well-known/ready");
        let is_ready = ready.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"));
        let page = self.get("/metrics").unwrap_or_default();
        let value = |metric| value_of(&page, metric);
        let (members, epoch) = (value("heddle_gossip_members"), value("heddle_catalog_epoch"));
        State { is_ready, members, epoch }
    }

    /// The answer to a request, head and all; none when there is none in time.
    fn get(&self, path: &str) -> Option<String> {
        let address = SocketAddr::from((self.address, HTTP_PORT));
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).ok()?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: heddle\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub(super) fn fail_when_ended(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("ended by itself ({status})"))),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    /// Asks the node to drain; one that has ended needs no asking.
    pub(super) fn terminate(&self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// Waits for the end of the node; kills it when that takes too long.
    pub(super) fn wait(&mut self, is_late: impl Fn() -> bool) -> Result<(), Failure> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failure(&format!("stopped with {status}"))),
                Ok(None) if is_late() => {
                    // Dropping it ends it.
                    return Err(self.failure("did not stop in time"));
                }
                Ok(None) => pause(),
                Err(error) => return Err(self.failure(&error.to_string())),
            }
        }
    }

    fn failure(&self, what: &str) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        Failure::check(format!("{} {what}; its log ends:\n  {tail}", self.name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has mostly ended by then; there is nothing to kill and nothing to report.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a metric without labels.
fn value_of(page: &str, metric: &str) -> Option<u64> {
    let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# TYPE heddle_a gauge\nheddle_a_b 1\nheddle_a{core=\"0\"} 2\nheddle_a 3\r\n";
        assert_eq!(value_of(page, "heddle_a"), Some(3));
        assert_eq!(value_of(page, "heddle_a_b"), Some(1));
        assert_eq!(value_of(page, "heddle"), None);
    }
}
