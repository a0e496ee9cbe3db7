//! Nodes in network namespaces of their own, with addresses of their own, that find each other by a
//! name. Needs root, `ip`, and a kernel with bridges; elsewhere the test says so and passes.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::Cluster;

/// The name that all nodes have in common.
const NAME: &str = "nodes.heddle.test";

fn ip(arguments: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace()).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("ip {arguments}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A bridge and namespaces on it; what the names of nodes mean in each stands in a file of its own.
struct Network {
    tag: String,
    count: usize,
}

impl Network {
    /// Errors: what this machine does not allow.
    fn make(count: usize) -> Result<Self, String> {
        let tag = format!("hd{}", std::process::id() % 100_000);
        // Dropped on the way it takes away what is there by then.
        let network = Self { tag, count };
        let tag = &network.tag;
        ip(&format!("link add {tag}b type bridge"))?;
        ip(&format!("link set {tag}b up"))?;
        for number in 1..=count {
            let space = network.namespace(number);
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {tag}p{number} type veth peer name {tag}e netns {space}"))?;
            ip(&format!("link set {tag}p{number} master {tag}b up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("-n {space} link set {tag}e up"))?;
            let folder = network.folder(number);
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        }
        Ok(network)
    }

    fn namespace(&self, number: usize) -> String {
        format!("{}n{number}", self.tag)
    }

    /// `ip netns exec` shows the files of this folder as those of /etc.
    fn folder(&self, number: usize) -> PathBuf {
        PathBuf::from("/etc/netns").join(self.namespace(number))
    }

    /// Gives the namespaces these addresses and no others, and the name all of them.
    fn address(&self, addresses: &[Ipv4Addr]) {
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for address in addresses {
            writeln!(hosts, "{address} {NAME}").unwrap();
        }
        for (number, address) in (1..).zip(addresses) {
            let (space, tag) = (self.namespace(number), &self.tag);
            ip(&format!("-n {space} addr flush dev {tag}e")).unwrap();
            ip(&format!("-n {space} addr add {address}/24 dev {tag}e")).unwrap();
            std::fs::write(self.folder(number).join("hosts"), &hosts).unwrap();
        }
    }

    /// Plugs a node out, or in again.
    fn plug(&self, number: usize, state: &str) {
        ip(&format!("link set {}p{number} {state}", self.tag)).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was not made cannot be taken away.
        for number in 1..=self.count {
            let _ = ip(&format!("netns del {}", self.namespace(number)));
            let _ = std::fs::remove_dir_all(self.folder(number));
        }
        let _ = ip(&format!("link del {}b", self.tag));
    }
}

fn addresses(first: u8) -> Vec<Ipv4Addr> {
    (0..3).map(|number| Ipv4Addr::new(10, 231, 57, first + number)).collect()
}

fn start_all(cluster: &mut Cluster, addresses: &[Ipv4Addr]) {
    for (position, address) in addresses.iter().enumerate() {
        cluster.members[position].host = *address;
    }
    for position in 0..addresses.len() {
        cluster.spawn(position);
    }
    for position in 0..addresses.len() {
        cluster.wait_ready(position);
    }
}

fn create(cluster: &Cluster, position: usize, name: &str) {
    let (code, _, error) = cluster.run(position, &["collection", "create", name]);
    assert_eq!(code, 0, "{error}");
}

fn kill_all(cluster: &mut Cluster) {
    for position in 0..3 {
        cluster.kill(position);
    }
}

fn knows(cluster: &Cluster, position: usize, name: &str) -> bool {
    cluster.run(position, &["collection", "show", name]).0 == 0
}

#[test]
fn three_nodes_with_networks_of_their_own_find_each_other_by_a_name_restart_and_move() {
    let network = match Network::make(3) {
        Ok(network) => network,
        Err(why) => {
            println!("skipped: no network namespaces here ({why}); run it as root with iproute2");
            return;
        }
    };
    network.address(&addresses(1));
    let mut cluster = Cluster::empty("namespaces", 3);
    cluster.join = Some(NAME.to_owned());
    for number in 1..=3 {
        let position = cluster.add(number);
        cluster.members[position].namespace = Some(network.namespace(number));
    }
    start_all(&mut cluster, &addresses(1));
    create(&cluster, 0, "A");
    let before = cluster.agree();

    // All at once, as after a power cut.
    kill_all(&mut cluster);
    start_all(&mut cluster, &addresses(1));
    assert_eq!(cluster.agree(), before, "a restart of all changes nothing");

    // All at once, and every address is another one.
    kill_all(&mut cluster);
    network.address(&addresses(101));
    start_all(&mut cluster, &addresses(101));
    create(&cluster, 2, "B");
    cluster.wait_for(0, "the state names the new addresses", |report| {
        let nodes = report["nodes"].as_array()?;
        let is_new = |node: &serde_json::Value| {
            node["addresses"]["raft"].as_str().is_some_and(|raft| raft.starts_with("10.231.57.10"))
        };
        nodes.iter().all(is_new).then_some(())
    });
    cluster.agree();

    // A cable is pulled: the other two go on, and the third one learns of it later.
    network.plug(3, "down");
    create(&cluster, 0, "C");
    assert!(!knows(&cluster, 2, "C"), "nobody could tell it");
    network.plug(3, "up");
    cluster.agree();
    assert!(knows(&cluster, 2, "C"));
    drop(cluster);
}
