//! Gossip as a node runs it: its settings, what it offers, and what a twin means.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use heddle_meta::gossip::{Conflict, Key, Offer, cluster_of_name};
use heddle_runtime::{RealClock, fatal};
use heddle_types::{Clock, FatalReason};
use rustix::time::{ClockId, clock_gettime};

use super::{GossipHandle, GossipSettings};
use crate::config::{HostPort, NodeConfig};
use crate::core::Core;
use crate::disk::Space;

/// Steps in which load is told, thousandths: smaller changes are no news.
const LOAD_STEP_PERMILLE: u64 = 10;
/// Steps in which free space is told (64 MiB).
const DISK_STEP_BYTES: u64 = 64 << 20;

/// Starts gossip on the meta core of a node that has peers.
///
/// Ends the process when the port cannot be had, and later when another process turns out to run
/// under the identity of this node: both would issue the same stamps.
pub(crate) fn start(core: &Rc<Core>) -> GossipHandle {
    let config = &core.node.config;
    let listen = SocketAddr::new(config.listen, config.gossip_port);
    let identity = &core.node.identity;
    let handle = GossipHandle::start(GossipSettings {
        node: identity.node,
        boot: identity.boot.into(),
        cluster: cluster_of_name(&config.cluster_name),
        key: Key::from_secret(config.cluster_secret.as_bytes()),
        listen,
        advertise: config.advertise.clone().unwrap_or_else(|| config.listen.to_string()),
        join: gossip_addresses(config),
        offer: offers_of(core),
        on_conflict: Box::new(end_as_twin),
    });
    let handle = handle
        .unwrap_or_else(|error| fatal(FatalReason::Listen, format_args!("{listen}: {error}")));
    assert!(core.gossip.set(handle.clone()).is_ok(), "gossip of a node starts once");
    handle
}

/// The hosts to join with the port of gossip, which all nodes of a cluster have in common unless
/// the state of the cluster says otherwise.
fn gossip_addresses(config: &NodeConfig) -> Vec<String> {
    let parsed = config.cluster_join.iter().filter_map(|entry| HostPort::parse(entry));
    let host = |entry: HostPort| HostPort { port: None, ..entry }.with_default(config.gossip_port);
    parsed.map(host).collect()
}

fn end_as_twin(conflict: &Conflict) {
    let Conflict { node, earlier, later } = conflict;
    let detail = format!(
        "node {node} runs twice, as start {} and as start {} of its data directory. A copy of a \
         data directory must not be started beside the original, nor after it: begin with an empty \
         one, or restore a backup",
        earlier.boot, later.boot
    );
    fatal(FatalReason::IdentityInUse, detail)
}

fn offers_of(core: &Rc<Core>) -> Box<dyn Fn() -> Offer> {
    let core = Rc::clone(core);
    let load = Load::new(core.data_cores);
    Box::new(move || {
        let config = &core.node.config;
        let free = Space::of(&config.data_dir).free_bytes;
        Offer {
            raft_port: config.raft_port,
            peer_port: config.peer_port_base,
            cores: u16::try_from(core.data_cores).expect("cores are at most CORES_MAX"),
            load_permille: load.permille(RealClock.monotonic_ns(), process_ns()),
            disk_free_bytes: free / DISK_STEP_BYTES * DISK_STEP_BYTES,
        }
    })
}

/// CPU time of the process so far.
fn process_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
    let whole = seconds + Duration::from_nanos(time.tv_nsec.unsigned_abs());
    u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX)
}

/// How much of its data cores a process uses: its CPU time since it was last asked, all threads.
struct Load {
    cores: u64,
    last: Cell<(u64, u64)>,
}

impl Load {
    fn new(cores: usize) -> Self {
        Self { cores: cores.max(1) as u64, last: Cell::new((0, 0)) }
    }

    fn permille(&self, now_ns: u64, used_ns: u64) -> u16 {
        let (then_ns, used_before_ns) = self.last.replace((now_ns, used_ns));
        let had = u128::from(now_ns.saturating_sub(then_ns)) * u128::from(self.cores);
        let used = u128::from(used_ns.saturating_sub(used_before_ns)) * 1_000;
        let permille = used.checked_div(had).unwrap_or_default().min(1_000);
        (permille as u64 / LOAD_STEP_PERMILLE * LOAD_STEP_PERMILLE) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_the_share_of_cpu_time_since_the_last_look() {
        let load = Load::new(2);
        load.permille(1_000_000, 500_000);
        assert_eq!(load.permille(2_000_000, 1_500_000), 500);
        assert_eq!(load.permille(3_000_000, 1_750_000), 120, "in steps of ten");
        assert_eq!(load.permille(4_000_000, 9_000_000), 1_000, "never above all");
        assert_eq!(load.permille(4_000_000, 9_000_000), 0, "no time has passed");
    }

    #[test]
    fn hosts_to_join_are_reached_at_the_port_of_gossip() {
        let config = NodeConfig {
            cluster_join: vec!["a".to_owned(), "b:7500".to_owned(), "[::1]:1".to_owned()],
            gossip_port: 9,
            ..NodeConfig::default()
        };
        assert_eq!(gossip_addresses(&config), ["a:9", "b:9", "[::1]:9"]);
    }
}
