//! What a node needs to know before it starts.

mod cluster;
mod host;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::PathBuf;

use heddle_index::{KERNELS_AUTO, check_kernels, kernel_names};
use heddle_meta::cluster::Labels;
use heddle_types::limits::{CORES_MAX, NAME_LENGTH_BYTES_MAX, WAL_SEGMENT_BYTES};
use serde::{Deserialize, Serialize};

use crate::nodes::PeerNode;

pub use cluster::Secret;
pub use host::HostPort;

/// Smallest log segment: two of the largest records (32 MiB).
const WAL_SEGMENT_BYTES_MIN: u64 = 32 << 20;
/// Smallest memory budget a node starts with (64 MiB).
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// The one port of UDP.
const GOSSIP_PORT: &str = "gossip_port";

const _: () = assert!(WAL_SEGMENT_BYTES_MIN <= WAL_SEGMENT_BYTES);

/// What a node does. Today every node does both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds shards and serves clients.
    Data,
    /// Keeps the catalog.
    Meta,
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what ends or damages the node.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And what happens seldom: starts, checkpoints, schema changes.
    #[default]
    Info,
    /// And each connection.
    Debug,
    /// And each request.
    Trace,
}

/// Settings of a node. Every field has a default; unknown keys are refused.
///
/// Port 0 takes a free port; the chosen ones are in the [`crate::ReadyReport`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Folder that holds everything the node keeps; made when it is missing.
    pub data_dir: PathBuf,
    /// Name of the node for people; the identity is the uuid in the data directory.
    pub name: String,
    /// Address to listen on.
    pub listen: IpAddr,
    /// Host that clients and other nodes are told to connect to; the listen address when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Native protocol, any core.
    pub native_port: u16,
    /// Native protocol of data core `i`: this plus `i`; 0 takes a free port for each.
    pub core_port_base: u16,
    /// HTTP: metrics and health.
    pub http_port: u16,
    /// Data cores; 0 takes all CPUs of the process, less one for the meta core from four on.
    pub cores: usize,
    /// Memory the node may use, bytes; 0 takes four fifths of the machine or container.
    pub memory_bytes: u64,
    /// Bytes of a log segment.
    pub wal_segment_bytes: u64,
    /// Log bytes of a core after which its shards are checkpointed.
    pub checkpoint_log_bytes: u64,
    /// Seconds after which a shard that has changed is checkpointed anyway.
    pub checkpoint_interval_s: u64,
    /// Milliseconds between two comparisons of the replicas of a shard.
    pub repair_interval_ms: u64,
    /// Bytes a second that each core reads to look for damage at rest; 0 never looks.
    pub scrub_bytes_per_s: u64,
    /// Seconds from the start of one look at everything to the next.
    pub scrub_interval_s: u64,
    /// Share of the file system in use, per cent, from which on space is saved and warned of.
    pub disk_warn_percent: u64,
    /// Share from which on no new objects are taken.
    pub disk_no_insert_percent: u64,
    /// Share from which on only deletions are taken, and the reserve is given up for them.
    pub disk_delete_only_percent: u64,
    /// Bytes of a file that keeps space for deletions on a full disk; 0 for none.
    pub disk_reserve_bytes: u64,
    /// Seconds without a read after which a backup is given up that nobody has ended.
    pub backup_idle_s: u64,
    /// Seconds that a stop may take to answer what is in flight, before it goes on without.
    pub drain_timeout_s: u64,
    /// Microseconds an idle core looks for work before it sleeps.
    pub spin_us: u64,
    /// Most that the distance kernels may use: `auto`, or the name of an instruction set.
    pub kernels: String,
    /// How much is logged.
    pub log_level: LogLevel,
    /// What the node does.
    pub roles: Vec<Role>,
    /// Name of the cluster: nodes of another one are not listened to.
    pub cluster_name: String,
    /// What all nodes of the cluster know and nobody else; empty trusts the network.
    pub cluster_secret: Secret,
    /// File that holds the secret instead; white space at its end does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_secret_file: Option<PathBuf>,
    /// Hosts of other nodes, each with or without the port of their Raft. See
    /// [`NodeConfig::is_clustered`].
    pub cluster_join: Vec<String>,
    /// Nodes that must have found each other before they make a new cluster; 0 only joins one.
    pub cluster_bootstrap_expect: usize,
    /// Nodes that vote on changes of the cluster, once there are as many.
    pub cluster_voters: usize,
    /// What operators say of this node, such as its zone.
    pub cluster_labels: Labels,
    /// Replication, data core `i`: this plus `i`.
    pub peer_port_base: u16,
    /// Raft and control of the cluster.
    pub raft_port: u16,
    /// Gossip, UDP.
    pub gossip_port: u16,
    /// Raft dials the name of a node, looked up each time, instead of the address it had given.
    pub raft_fqdn: bool,
    /// Domain that is put behind these names; empty for none.
    pub raft_fqdn_tld: String,
    /// File that is written, whole, once the node serves: the ready report as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_file: Option<PathBuf>,
    /// Serve shards whose log lost durable records, without these. No setting: it is meant for one
    /// start, not for every one.
    #[serde(skip)]
    pub accept_data_loss: bool,
    /// A fixed list of nodes, this one among them, whose catalogs were written by hand. No setting:
    /// it lets tests have several nodes without a cluster that agrees on them.
    #[serde(skip)]
    #[doc(hidden)]
    pub fixed_nodes: Vec<PeerNode>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("heddle-data"),
            name: "heddle".to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise: None,
            native_port: 7700,
            core_port_base: 7701,
            http_port: 8080,
            cores: 0,
            memory_bytes: 0,
            wal_segment_bytes: WAL_SEGMENT_BYTES,
            checkpoint_log_bytes: 512 << 20,
            checkpoint_interval_s: 600,
            repair_interval_ms: 10_000,
            scrub_bytes_per_s: 5 << 20,
            scrub_interval_s: 86_400,
            disk_warn_percent: 85,
            disk_no_insert_percent: 90,
            disk_delete_only_percent: 95,
            disk_reserve_bytes: 256 << 20,
            backup_idle_s: 600,
            drain_timeout_s: 10,
            spin_us: 0,
            kernels: KERNELS_AUTO.to_owned(),
            log_level: LogLevel::Info,
            roles: vec![Role::Data, Role::Meta],
            cluster_name: "heddle".to_owned(),
            cluster_secret: Secret::default(),
            cluster_secret_file: None,
            cluster_join: Vec::new(),
            cluster_bootstrap_expect: 0,
            cluster_voters: 5,
            cluster_labels: Labels::new(),
            peer_port_base: 7600,
            raft_port: 7500,
            gossip_port: 7946,
            raft_fqdn: false,
            raft_fqdn_tld: String::new(),
            ready_file: None,
            accept_data_loss: false,
            fixed_nodes: Vec::new(),
        }
    }
}

/// A setting is out of range. Nothing was started.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key} is {found}, expected {expected}")]
pub struct ConfigError {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

impl NodeConfig {
    /// Checks every rule that needs no look at the machine but at its instruction sets.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |key, found: &dyn std::fmt::Debug, expected: String| {
            Err(ConfigError { key, found: format!("{found:?}"), expected })
        };
        let at_least = |key, found: u64, low: u64| {
            if found >= low { Ok(()) } else { refuse(key, &found, format!("at least {low}")) }
        };
        if self.name.is_empty() || self.name.len() > NAME_LENGTH_BYTES_MAX {
            return refuse("name", &self.name, format!("1 to {NAME_LENGTH_BYTES_MAX} bytes"));
        }
        if self.cores > CORES_MAX {
            return refuse("cores", &self.cores, format!("at most {CORES_MAX}"));
        }
        if self.memory_bytes != 0 {
            at_least("memory_bytes", self.memory_bytes, MEMORY_BYTES_MIN)?;
        }
        at_least("wal_segment_bytes", self.wal_segment_bytes, WAL_SEGMENT_BYTES_MIN)?;
        at_least("checkpoint_log_bytes", self.checkpoint_log_bytes, 1 << 20)?;
        at_least("checkpoint_interval_s", self.checkpoint_interval_s, 1)?;
        at_least("repair_interval_ms", self.repair_interval_ms, 10)?;
        at_least("drain_timeout_s", self.drain_timeout_s, 1)?;
        at_least("scrub_interval_s", self.scrub_interval_s, 1)?;
        at_least("backup_idle_s", self.backup_idle_s, 1)?;
        let levels = [
            ("disk_warn_percent", self.disk_warn_percent, 1),
            ("disk_no_insert_percent", self.disk_no_insert_percent, self.disk_warn_percent),
            (
                "disk_delete_only_percent",
                self.disk_delete_only_percent,
                self.disk_no_insert_percent,
            ),
        ];
        for (key, percent, low) in levels {
            if !(low..=100).contains(&percent) {
                return refuse(key, &percent, format!("{low} to 100, level by level"));
            }
        }
        for role in [Role::Data, Role::Meta] {
            if !self.roles.contains(&role) {
                // As the file writes them.
                let roles = serde_json::to_string(&self.roles).unwrap_or_default();
                let expected = "both data and meta".to_owned();
                return refuse("roles", &format_args!("{roles}"), expected);
            }
        }
        if check_kernels(&self.kernels).is_err() {
            let names = kernel_names().join(", ");
            let expected = format!("{KERNELS_AUTO}, or what this machine can run: {names}");
            return refuse("kernels", &self.kernels, expected);
        }
        self.validate_cluster()?;
        self.validate_ports(self.cores.max(1))
    }

    /// Checks that no port is asked for twice and that every core has one.
    pub(crate) fn validate_ports(&self, data_cores: usize) -> Result<(), ConfigError> {
        let mut taken: Vec<(&str, Range<usize>)> = Vec::new();
        for (key, port, count) in self.ports(data_cores) {
            if port == 0 && self.is_clustered() {
                let expected = "1 to 65535: other nodes must know the ports of a cluster";
                return refuse_port(key, port, expected.to_owned());
            }
            let range = match usize::from(port) {
                0 => 0..0,
                first => first..first + count,
            };
            if range.end > usize::from(u16::MAX) + 1 {
                let most = usize::from(u16::MAX) + 1 - count;
                let expected = format!("at most {most}, or 0: a port for each of {count} cores");
                return refuse_port(key, port, expected);
            }
            let is_shared =
                |other: &Range<usize>| other.start < range.end && range.start < other.end;
            if let Some((other, ports)) = taken.iter().find(|(_, other)| is_shared(other)) {
                let (first, last) = (ports.start, ports.end - 1);
                let shown =
                    if first == last { format!("{first}") } else { format!("{first} to {last}") };
                return refuse_port(key, port, format!("none of the ports of {other}: {shown}"));
            }
            taken.push((key, range));
        }
        Ok(())
    }

    /// Every TCP port that is no free one.
    pub(crate) fn tcp_ports(&self, data_cores: usize) -> impl Iterator<Item = u16> {
        let ports = self.ports(data_cores).into_iter();
        let of_tcp = ports.filter(|(key, first, _)| *key != GOSSIP_PORT && *first != 0);
        of_tcp.flat_map(|(_, first, count)| (0..count).map(move |index| first + index as u16))
    }

    /// The ports of the node: key, first, and how many.
    fn ports(&self, data_cores: usize) -> Vec<(&'static str, u16, usize)> {
        let mut ports = vec![
            ("core_port_base", self.core_port_base, data_cores),
            ("native_port", self.native_port, 1),
            ("http_port", self.http_port, 1),
        ];
        if self.is_clustered() {
            ports.extend([
                ("peer_port_base", self.peer_port_base, data_cores),
                ("raft_port", self.raft_port, 1),
                (GOSSIP_PORT, self.gossip_port, 1),
            ]);
        }
        ports
    }
}

fn refuse_port(key: &'static str, found: u16, expected: String) -> Result<(), ConfigError> {
    Err(ConfigError { key, found: found.to_string(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_round_trip() {
        let config = NodeConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<NodeConfig>(&text).unwrap(), config);
    }

    #[test]
    fn each_rule_names_its_key() {
        let key = |change: fn(&mut NodeConfig)| {
            let mut config = NodeConfig::default();
            change(&mut config);
            config.validate().unwrap_err().key
        };
        assert_eq!(key(|config| config.name.clear()), "name");
        assert_eq!(key(|config| config.cores = CORES_MAX + 1), "cores");
        assert_eq!(key(|config| config.memory_bytes = 1), "memory_bytes");
        assert_eq!(key(|config| config.wal_segment_bytes = 4096), "wal_segment_bytes");
        assert_eq!(key(|config| config.kernels = "sse9".to_owned()), "kernels");
        assert_eq!(key(|config| config.roles = vec![Role::Data]), "roles");
        assert_eq!(key(|config| config.scrub_interval_s = 0), "scrub_interval_s");
        assert_eq!(key(|config| config.backup_idle_s = 0), "backup_idle_s");
        assert_eq!(key(|config| config.disk_warn_percent = 0), "disk_warn_percent");
        assert_eq!(key(|config| config.disk_no_insert_percent = 84), "disk_no_insert_percent");
        assert_eq!(key(|config| config.disk_delete_only_percent = 101), "disk_delete_only_percent");
        assert_eq!(key(|config| config.http_port = config.native_port), "http_port");
        assert_eq!(key(|config| config.http_port = config.core_port_base), "http_port");
        let inside = |config: &mut NodeConfig| {
            config.cores = 4;
            config.native_port = config.core_port_base + 3;
        };
        assert_eq!(key(inside), "native_port");
        let beyond = |config: &mut NodeConfig| {
            config.cores = 4;
            config.core_port_base = u16::MAX - 2;
        };
        assert_eq!(key(beyond), "core_port_base");
    }

    #[test]
    fn the_last_port_is_a_port() {
        let config = NodeConfig { core_port_base: u16::MAX - 3, ..NodeConfig::default() };
        assert_eq!(config.validate_ports(4), Ok(()));
        assert_eq!(config.validate_ports(5).unwrap_err().key, "core_port_base");
        let picked = NodeConfig { native_port: 0, core_port_base: 0, http_port: 0, ..config };
        assert_eq!(picked.validate_ports(1_024), Ok(()));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = serde_json::from_str::<NodeConfig>(r#"{"nativ_port":1}"#).unwrap_err();
        assert!(error.to_string().contains("nativ_port"), "{error}");
    }
}
