//! What all cores of a node see: fixed facts, and three counters that only grow or step.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use heddle_core::engine::SpaceLevel;
use heddle_index::Quiescence;
use heddle_types::ClusterId;
use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::identity::Identity;

/// Seconds for which a search counts as lately.
const SEARCHED_LATELY_S: u64 = 60;

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Recovering; no client is served.
    Starting = 0,
    /// Serving.
    Serving = 1,
    /// Answering what is in flight, taking nothing new.
    Draining = 2,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// Where a serving node is reached: what the ready file holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadyReport {
    /// Process id.
    pub pid: u32,
    /// Identity of the node.
    pub node: heddle_types::NodeId,
    /// Address that the ports are bound to.
    pub listen: std::net::IpAddr,
    /// Native protocol, any core.
    pub native_port: u16,
    /// Native protocol, one port a data core, in order.
    pub core_ports: Vec<u16>,
    /// HTTP.
    pub http_port: u16,
    /// Milliseconds from the start of the process's node to now.
    pub start_ms: u64,
}

/// Seen by every core of a node.
#[derive(Debug)]
pub(crate) struct NodeShared {
    pub(crate) config: NodeConfig,
    pub(crate) identity: Identity,
    /// When the node began to start, monotonic nanoseconds.
    pub(crate) started_ns: u64,
    /// Bytes the node may use.
    pub(crate) memory_bytes: u64,
    pub(crate) quiescence: Arc<Quiescence>,
    /// Open client connections: compared with a limit of the node, so no core can count it alone.
    pub(crate) connections: AtomicUsize,
    phase: AtomicU8,
    // What the process held when it was looked at last, once a second.
    resident_bytes: AtomicU64,
    // Level of the disk, looked at once a second.
    space: AtomicU8,
    // When a search was answered last, in steps of a second; 0 for never.
    searched_s: AtomicU64,
    // Which cluster the node belongs to, once it knows.
    cluster_id: OnceLock<ClusterId>,
    ready: OnceLock<ReadyReport>,
    ready_sender: Option<Sender<ReadyReport>>,
}

impl NodeShared {
    pub(crate) fn new(
        config: NodeConfig,
        identity: Identity,
        started_ns: u64,
        memory_bytes: u64,
        cores: usize,
        ready_sender: Option<Sender<ReadyReport>>,
    ) -> Self {
        Self {
            config,
            identity,
            started_ns,
            memory_bytes,
            quiescence: Quiescence::new(cores),
            connections: AtomicUsize::new(0),
            phase: AtomicU8::new(Phase::Starting as u8),
            resident_bytes: AtomicU64::new(0),
            space: AtomicU8::new(0),
            searched_s: AtomicU64::new(0),
            cluster_id: OnceLock::new(),
            ready: OnceLock::new(),
            ready_sender,
        }
    }

    /// The cluster that this node belongs to; none while it does not know of one.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id.get().copied()
    }

    /// Panics: it is another one already, which is found out before.
    pub(crate) fn set_cluster_id(&self, cluster: ClusterId) {
        assert!(*self.cluster_id.get_or_init(|| cluster) == cluster, "a node has one cluster");
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Moves on; a node never goes back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Would so many bytes more be above the memory budget?
    pub(crate) fn is_memory_full(&self, more: u64) -> bool {
        self.resident_bytes.load(Ordering::Relaxed).saturating_add(more) > self.memory_bytes
    }

    pub(crate) fn set_resident_bytes(&self, bytes: u64) {
        self.resident_bytes.store(bytes, Ordering::Relaxed);
    }

    /// How full the disk is.
    pub(crate) fn space(&self) -> SpaceLevel {
        let number = usize::from(self.space.load(Ordering::Relaxed));
        SpaceLevel::ALL.get(number).copied().unwrap_or_default()
    }

    pub(crate) fn set_space(&self, level: SpaceLevel) {
        self.space.store(level as u8, Ordering::Relaxed);
    }

    /// A search is answered, monotonic nanoseconds. Written once a second at most, so that cores do
    /// not take the line from each other.
    pub(crate) fn note_search(&self, now_ns: u64) {
        let now_s = now_ns / 1_000_000_000;
        if self.searched_s.load(Ordering::Relaxed) < now_s {
            self.searched_s.store(now_s, Ordering::Relaxed);
        }
    }

    /// Was a search answered lately?
    pub(crate) fn is_searched(&self, now_ns: u64) -> bool {
        let last_s = self.searched_s.load(Ordering::Relaxed);
        last_s > 0 && now_ns / 1_000_000_000 <= last_s + SEARCHED_LATELY_S
    }

    /// Where the node is reached; none before it listens.
    pub(crate) fn ready(&self) -> Option<&ReadyReport> {
        self.ready.get()
    }

    /// Set once, when every listener is open.
    pub(crate) fn set_ready(&self, report: ReadyReport) {
        let set = self.ready.set(report);
        assert!(set.is_ok(), "a node becomes ready once");
    }

    /// Tells whoever started the node in this process.
    pub(crate) fn send_ready(&self, report: ReadyReport) {
        if let Some(sender) = &self.ready_sender {
            // Nobody has to wait for it.
            let _ = sender.send(report);
        }
    }
}
