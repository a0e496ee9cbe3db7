//! The part of the metrics page that only a node with peers has.

use std::fmt::Display;

use super::prometheus::Page;
use crate::status::NodeReport;

pub(super) fn render(page: &mut Page, report: &NodeReport) {
    let Some(gossip) = &report.gossip else { return };
    let single: [(&str, &str, &str, &dyn Display); 5] = [
        ("heddle_gossip_members", "gauge", "Other nodes that seem to live.", &gossip.members.len()),
        ("heddle_gossip_packets_sent_total", "counter", "Packets sent.", &gossip.sent),
        ("heddle_gossip_packets_taken_total", "counter", "Packets taken.", &gossip.taken),
        (
            "heddle_gossip_packets_unsent_total",
            "counter",
            "Packets that the operating system did not take.",
            &gossip.unsent,
        ),
        (
            "heddle_gossip_stalls_total",
            "counter",
            "Times that gossip was woken more than half a second late.",
            &gossip.stalls,
        ),
    ];
    for (name, kind, help, value) in single {
        page.metric(name, kind, help);
        page.line(name, &[], value);
    }
    let name = "heddle_gossip_packets_dropped_total";
    page.metric(name, "counter", "Packets that were not used, by reason.");
    for (reason, count) in &gossip.dropped {
        page.line(name, &[("reason", reason)], count);
    }
}
