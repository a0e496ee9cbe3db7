//! Links between nodes on the metrics page, by core and lane.

use std::fmt::Display;

use super::prometheus::Page;
use crate::peer::LaneReport;
use crate::status::NodeReport;

/// What a metric is called, what kind it is, what it means, and where it is found.
type Column = (&'static str, &'static str, &'static str, fn(&LaneReport) -> u64);

const COLUMNS: [Column; 11] = [
    ("heddle_peer_links", "gauge", "Open connections to other nodes.", |lane| lane.open as u64),
    ("heddle_peer_calls_in_flight", "gauge", "Calls to other nodes that wait for answers.", |l| {
        l.in_flight as u64
    }),
    ("heddle_peer_calls_total", "counter", "Calls to other nodes.", |lane| lane.calls),
    ("heddle_peer_call_errors_total", "counter", "Calls to other nodes that failed.", |lane| {
        lane.call_errors
    }),
    ("heddle_peer_dials_total", "counter", "Connections begun to other nodes.", |lane| lane.dials),
    ("heddle_peer_dial_failures_total", "counter", "Those that came to nothing.", |lane| {
        lane.dial_failures
    }),
    ("heddle_peer_requests_in_flight", "gauge", "Requests of other nodes being worked on.", |l| {
        l.serving as u64
    }),
    ("heddle_peer_requests_total", "counter", "Requests of other nodes.", |lane| lane.served),
    ("heddle_peer_request_errors_total", "counter", "Those answered with an error.", |lane| {
        lane.served_errors
    }),
    ("heddle_peer_sent_bytes_total", "counter", "Bytes written to other nodes.", |lane| {
        lane.bytes_sent
    }),
    ("heddle_peer_received_bytes_total", "counter", "Bytes read from other nodes.", |lane| {
        lane.bytes_received
    }),
];

pub(super) fn render(page: &mut Page, report: &NodeReport) {
    for (name, kind, help, value) in COLUMNS {
        page.metric(name, kind, help);
        for core in &report.cores {
            for lane in &core.peers.lanes {
                let labels: [(&str, &dyn Display); 2] =
                    [("core", &core.core), ("lane", &lane.lane)];
                page.line(name, &labels, value(lane));
            }
        }
    }
    let served = ("heddle_peer_served_links", "gauge", "Open connections of other nodes.");
    page.each_core(report, served, |core| core.peers.served);
    let accepted = ("heddle_peer_accepted_total", "counter", "Connections of nodes accepted.");
    page.each_core(report, accepted, |core| core.peers.accepted);
    let refused = ("heddle_peer_refused_total", "counter", "Connections whose handshake failed.");
    page.each_core(report, refused, |core| core.peers.refused);
    let crowded = (
        "heddle_peer_crowded_out_total",
        "counter",
        "Connections ended before their handshake because too many came.",
    );
    page.each_core(report, crowded, |core| core.peers.crowded_out);
    let cut = ("heddle_peer_timed_out_total", "counter", "Connections of nodes cut as stalled.");
    page.each_core(report, cut, |core| core.peers.timed_out);
}
