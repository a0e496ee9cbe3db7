//! A cluster of `heddle serve` processes, each on an address of its own in 127.0.0.0/8.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use heddle_client::{Client, ClientOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::support::{Folder, heddle};

/// How long a cluster may take for anything that it does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const SECRET: &str = "a secret of these tests";

/// A node that runs.
struct Running {
    child: Child,
    /// What it prints: a line once it serves.
    lines: Receiver<String>,
}

/// A node of the cluster, running or not.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) host: Ipv4Addr,
    /// The network namespace that it runs in, if it has one of its own.
    pub(crate) namespace: Option<String>,
    data_dir: String,
    running: Option<Running>,
}

/// Some nodes that know each other by a join list.
pub(crate) struct Cluster {
    folder: Folder,
    pub(crate) members: Vec<Member>,
    expect: usize,
    extra: Vec<String>,
    secret: String,
    /// What stands in the join list instead of the addresses.
    pub(crate) join: Option<String>,
}

impl Cluster {
    /// Starts `count` nodes on empty directories and waits until all of them serve.
    pub(crate) fn start(name: &str, count: usize) -> Self {
        Self::start_with(name, count, &[])
    }

    /// As [`Cluster::start`], with more flags for every node.
    pub(crate) fn start_with(name: &str, count: usize, extra: &[&str]) -> Self {
        let mut cluster = Self::empty(name, count);
        cluster.extra = extra.iter().map(|flag| (*flag).to_owned()).collect();
        for number in 1..=count {
            cluster.add(number);
        }
        for position in 0..count {
            cluster.spawn(position);
        }
        for position in 0..count {
            cluster.wait_ready(position);
        }
        cluster
    }

    /// A cluster without nodes; those that are started wait until there are `expect` of them.
    pub(crate) fn empty(name: &str, expect: usize) -> Self {
        let (members, extra, secret) = (Vec::new(), Vec::new(), SECRET.to_owned());
        Self { folder: Folder::new(name), members, expect, extra, secret, join: None }
    }

    /// Another node on an empty directory, not started yet.
    pub(crate) fn add(&mut self, number: usize) -> usize {
        let name = format!("node-{number}");
        let data_dir = self.folder.join(&name);
        let host = free_host();
        self.members.push(Member { name, host, namespace: None, data_dir, running: None });
        self.members.len() - 1
    }

    /// Gives a node that does not run another address.
    pub(crate) fn readdress(&mut self, position: usize) {
        assert!(self.members[position].running.is_none());
        self.members[position].host = free_host();
    }

    /// Starts a node; it may not serve before others have started.
    pub(crate) fn spawn(&mut self, position: usize) {
        let hosts: Vec<String> = self.members.iter().map(|node| node.host.to_string()).collect();
        let hosts = self.join.clone().unwrap_or_else(|| hosts.join(","));
        let expect = self.expect.to_string();
        let flags = ["--cluster-join", &hosts, "--cluster-bootstrap-expect", &expect];
        self.spawn_with(position, &flags);
    }

    /// Starts a node that believes in another secret.
    pub(crate) fn spawn_with_secret(&mut self, position: usize, secret: &str) {
        let hosts: Vec<String> = self.members.iter().map(|node| node.host.to_string()).collect();
        self.secret = secret.to_owned();
        self.spawn_with(position, &["--cluster-join", &hosts.join(",")]);
        self.secret = SECRET.to_owned();
    }

    /// Starts a node that makes a cluster of its own.
    pub(crate) fn spawn_apart(&mut self, position: usize) {
        let host = self.members[position].host.to_string();
        let flags = ["--cluster-join", &host, "--cluster-bootstrap-expect", "1"];
        self.spawn_with(position, &flags);
    }

    /// Starts a node that knows of no others.
    pub(crate) fn spawn_alone(&mut self, position: usize) {
        self.spawn_with(position, &[]);
    }

    fn spawn_with(&mut self, position: usize, flags: &[&str]) {
        let data_dir = &self.members[position].data_dir;
        let serve = ["serve", "--config", "/dev/null", "--data-dir", data_dir];
        let mut command = self.command(position, &serve);
        let member = &mut self.members[position];
        let mut child = command
            .args(["--listen", &member.host.to_string(), "--name", &member.name, "--cores", "1"])
            .args(flags)
            .env("HEDDLE_CLUSTER_SECRET", &self.secret)
            .args(["--wal-segment-bytes", "32MiB", "--disk-reserve-bytes", "0"])
            .args(["--ready-line", "always", "--log-level", "warn"])
            .args(&self.extra)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the pipe, that is with the node.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        member.running = Some(Running { child, lines });
    }

    /// The command of a node's version, where the node is.
    fn command(&self, position: usize, arguments: &[&str]) -> Command {
        let plain = heddle(arguments);
        let Some(namespace) = &self.members[position].namespace else { return plain };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts a node that must refuse to run, with these flags alone: its exit code and its words.
    pub(crate) fn refused(&self, position: usize, flags: &[&str]) -> (i32, String) {
        let member = &self.members[position];
        let output = heddle(&["serve", "--config", "/dev/null", "--data-dir", &member.data_dir])
            .args(["--listen", &member.host.to_string(), "--cores", "1"])
            .args(flags)
            .output();
        let (code, _, error) = crate::support::outcome(&output.unwrap());
        (code, error)
    }

    /// Waits until a started node serves.
    pub(crate) fn wait_ready(&mut self, position: usize) {
        let member = &mut self.members[position];
        let running = member.running.as_mut().unwrap();
        match running.lines.recv_timeout(PATIENCE) {
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => {
                panic!("a node ended at its start: {}", running.child.wait().unwrap());
            }
            Err(RecvTimeoutError::Timeout) => panic!("{} does not start", member.name),
        }
    }

    pub(crate) fn is_running(&self, position: usize) -> bool {
        self.members[position].running.is_some()
    }

    /// As a power cut would.
    pub(crate) fn kill(&mut self, position: usize) {
        let mut running = self.members[position].running.take().unwrap();
        running.child.kill().unwrap();
        running.child.wait().unwrap();
    }

    /// Stops a node in order; its exit code.
    pub(crate) fn stop(&mut self, position: usize) -> Option<i32> {
        self.signal(position, Signal::TERM);
        let mut running = self.members[position].running.take().unwrap();
        running.child.wait().unwrap().code()
    }

    pub(crate) fn signal(&self, position: usize, signal: Signal) {
        let running = self.members[position].running.as_ref().unwrap();
        kill_process(Pid::from_child(&running.child), signal).unwrap();
    }

    /// The folders of shards that a node has.
    pub(crate) fn shard_folders(&self, position: usize) -> Vec<String> {
        let shards = format!("{}/shards", self.members[position].data_dir);
        let Ok(entries) = std::fs::read_dir(shards) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Where clients connect to a node.
    pub(crate) fn address(&self, position: usize) -> String {
        format!("{}:7700", self.members[position].host)
    }

    /// A client whose calls give up after `deadline`, told of one node.
    pub(crate) async fn client(&self, position: usize, deadline: Duration) -> Client {
        let options = ClientOptions { deadline, ..ClientOptions::default() };
        Client::connect_with([self.address(position)], options).await.unwrap()
    }

    /// Runs a client command against a node: exit code, output, error.
    pub(crate) fn run(&self, position: usize, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command(position, arguments);
        let output = command.env("HEDDLE_ADDRESS", self.address(position)).output();
        crate::support::outcome(&output.unwrap())
    }

    /// Runs a command that must succeed and print JSON.
    pub(crate) fn json(&self, position: usize, arguments: &[&str]) -> Json {
        let (code, output, error) = self.run(position, &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{arguments:?}: {error}");
        serde_json::from_str(&output).unwrap()
    }

    /// A counter of a node, summed over its cores and lanes.
    pub(crate) fn counter(&self, position: usize, name: &str) -> f64 {
        let mut stream = TcpStream::connect((self.members[position].host, 8080)).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: heddle\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What a node says of its cluster; none when it does not answer.
    pub(crate) fn report(&self, position: usize) -> Option<Json> {
        let output = self
            .command(position, &["status", "--json", "--timeout", "2"])
            .env("HEDDLE_ADDRESS", self.address(position))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let status: Json = serde_json::from_slice(&output.stdout).ok()?;
        status.get("cluster").cloned().filter(|cluster| !cluster.is_null())
    }

    /// Asks a running node until it gives an answer that is wanted.
    ///
    /// Panics after [`PATIENCE`].
    pub(crate) fn wait_for<T>(
        &self,
        position: usize,
        what: &str,
        mut wanted: impl FnMut(&Json) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.report(position);
            if let Some(found) = report.as_ref().and_then(&mut wanted) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: {report:#?}");
        }
    }

    /// The position of the node that leads, as a running node sees it.
    pub(crate) fn leader(&self, asked: usize) -> usize {
        self.wait_for(asked, "nobody leads", |report| {
            let leader = report["leader"].as_str()?;
            let nodes = report["nodes"].as_array()?;
            let record = nodes.iter().find(|node| node["id"] == leader)?;
            self.members.iter().position(|member| record["name"] == member.name.as_str())
        })
    }

    /// Waits until all running nodes have made the same state true; its epoch and fingerprint.
    pub(crate) fn agree(&self) -> (u64, String) {
        let running: Vec<usize> =
            (0..self.members.len()).filter(|position| self.is_running(*position)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let states: Vec<Option<(u64, u64, String)>> = running
                .iter()
                .map(|position| {
                    let report = self.report(*position)?;
                    let number = |key: &str| report[key].as_u64();
                    let hash = report["hash"].as_str()?.to_owned();
                    Some((number("epoch")?, number("made_true")?, hash))
                })
                .collect();
            if let [Some(first), rest @ ..] = &states[..]
                && first.0 == first.1
                && rest.iter().all(|other| other.as_ref() == Some(first))
            {
                return (first.0, first.2.clone());
            }
            assert!(Instant::now() < deadline, "the nodes do not agree: {states:?}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(running) = &mut member.running {
                // It may have ended already.
                let _ = running.child.kill();
                let _ = running.child.wait();
            }
        }
    }
}

/// An address that nobody else uses: of this process, counted up.
fn free_host() -> Ipv4Addr {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // 127.64.0.0/10, a block of 64 for each process that runs tests at once.
    let block = std::process::id() % (1 << 16);
    Ipv4Addr::from(0x7F40_0000 + block * 64 + number % 64)
}
