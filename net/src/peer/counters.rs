//! What a core counts about its links.

use std::collections::BTreeMap;
use std::rc::Rc;

use heddle_types::NodeId;
use serde::Serialize;

use super::Lane;
use super::link::Link;
use super::served::Served;
use crate::metrics::Counter;

/// Links of a core that a report lists (32 KiB of text); the sums are of all.
const LINKS_REPORTED_MAX: usize = 128;

/// The counts of one lane of a core.
#[derive(Debug, Default)]
pub(super) struct LaneCounters {
    pub(super) calls: Counter,
    pub(super) call_errors: Counter,
    pub(super) dials: Counter,
    pub(super) dial_failures: Counter,
    pub(super) served: Counter,
    pub(super) served_errors: Counter,
    pub(super) bytes_sent: Counter,
    pub(super) bytes_received: Counter,
}

/// The counts of a core.
#[derive(Debug, Default)]
pub(super) struct Counters {
    lanes: [LaneCounters; Lane::ALL.len()],
    pub(super) accepted: Counter,
    /// Handshakes that failed.
    pub(super) refused: Counter,
    /// Connections that had to go before they had proven themselves, because too many came.
    pub(super) crowded_out: Counter,
    pub(super) timed_out: Counter,
}

impl Counters {
    pub(super) fn lane(&self, lane: Lane) -> &LaneCounters {
        &self.lanes[usize::from(lane.number())]
    }
}

/// The links of a core.
#[derive(Debug, Serialize)]
pub(crate) struct PeerReport {
    pub(crate) lanes: Vec<LaneReport>,
    /// Connections that are open to other nodes: the first ones by address.
    pub(crate) links: Vec<LinkReport>,
    /// Connections of other nodes that are open.
    pub(crate) served: usize,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) crowded_out: u64,
    pub(crate) timed_out: u64,
}

/// One lane.
#[derive(Debug, Serialize)]
pub(crate) struct LaneReport {
    pub(crate) lane: &'static str,
    pub(crate) open: usize,
    pub(crate) in_flight: usize,
    pub(crate) calls: u64,
    pub(crate) call_errors: u64,
    pub(crate) dials: u64,
    pub(crate) dial_failures: u64,
    pub(crate) serving: usize,
    pub(crate) served: u64,
    pub(crate) served_errors: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// One connection to another node.
#[derive(Debug, Serialize)]
pub(crate) struct LinkReport {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) core: u32,
    pub(crate) lane: &'static str,
    pub(crate) calls: u64,
    pub(crate) in_flight: usize,
    pub(crate) bytes_in_flight: usize,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

impl PeerReport {
    pub(super) fn of(
        counters: &Counters,
        open: &[(String, Rc<Link>)],
        served: &BTreeMap<u64, Rc<Served>>,
    ) -> Self {
        let lane_of = |lane: Lane| {
            let counted = counters.lane(lane);
            let links = || open.iter().map(|(_, link)| link).filter(|link| link.peer.lane == lane);
            let serving = served.values().filter(|served| served.peer.lane == lane);
            LaneReport {
                lane: lane.name(),
                open: links().count(),
                in_flight: links().map(|link| link.in_flight().0).sum(),
                calls: counted.calls.get(),
                call_errors: counted.call_errors.get(),
                dials: counted.dials.get(),
                dial_failures: counted.dial_failures.get(),
                serving: serving.map(|served| served.requests()).sum(),
                served: counted.served.get(),
                served_errors: counted.served_errors.get(),
                bytes_sent: counted.bytes_sent.get(),
                bytes_received: counted.bytes_received.get(),
            }
        };
        let links = open.iter().take(LINKS_REPORTED_MAX).map(|(address, link)| {
            let (in_flight, bytes_in_flight) = link.in_flight();
            LinkReport {
                node: link.peer.node,
                address: address.clone(),
                core: link.peer.core,
                lane: link.peer.lane.name(),
                calls: link.calls.get(),
                in_flight,
                bytes_in_flight,
                bytes_sent: link.pipe.bytes_written.get(),
                bytes_received: link.pipe.bytes_read.get(),
            }
        });
        Self {
            lanes: Lane::ALL.into_iter().map(lane_of).collect(),
            links: links.collect(),
            served: served.len(),
            accepted: counters.accepted.get(),
            refused: counters.refused.get(),
            crowded_out: counters.crowded_out.get(),
            timed_out: counters.timed_out.get(),
        }
    }
}
