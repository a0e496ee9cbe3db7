//! Looks at the links of a core once a second: which are idle, and which have stalled.

use std::rc::{Rc, Weak};

use heddle_runtime::{Queue, sleep, spawn};
use heddle_types::Clock;

use super::Links;
use super::served::Served;
use crate::limits::{IDLE_TIMEOUT, LINK_IDLE_SERVED_TIMEOUT, PEER_STALL_TIMEOUT, WATCH_INTERVAL};

/// Sees to it that the links of a core are watched for as long as there are any.
pub(super) fn start(links: &Rc<Links>) {
    if !links.watched.replace(true) {
        spawn(Queue::Control, watch(Rc::downgrade(links)));
    }
}

async fn watch(links: Weak<Links>) {
    loop {
        sleep(WATCH_INTERVAL).await;
        let Some(links) = links.upgrade() else { return };
        let is_dialing = links.sweep_dialed(IDLE_TIMEOUT.as_nanos() as u64);
        let is_serving = sweep_served(&links);
        if !is_dialing && !is_serving {
            links.watched.set(false);
            return;
        }
    }
}

/// Cuts served connections that have had their time; true when some are left.
fn sweep_served(links: &Links) -> bool {
    let now_ns = links.clock.monotonic_ns();
    let overdue: Vec<_> = {
        let served = links.served.borrow();
        let overdue = served
            .values()
            .filter_map(|served| overdue(served, now_ns).map(|why| (Rc::clone(served), why)));
        overdue.collect()
    };
    for (served, why) in overdue {
        tracing::debug!(address = %served.address(), why, "a connection between nodes was cut");
        links.counters.timed_out.add(1);
        served.cut();
    }
    !links.served.borrow().is_empty()
}

fn overdue(served: &Served, now_ns: u64) -> Option<&'static str> {
    let pipe = &served.pipe;
    let since_ns = |then_ns: u64| now_ns.saturating_sub(then_ns);
    let stall_ns = PEER_STALL_TIMEOUT.as_nanos() as u64;
    if pipe.unsent_bytes() > 0 && since_ns(pipe.written_ns.get()) > stall_ns {
        return Some("replies are not read");
    }
    if pipe.in_frame.get() && since_ns(pipe.read_ns.get()) > stall_ns {
        return Some("a frame does not arrive");
    }
    let moved_ns = pipe.read_ns.get().max(pipe.written_ns.get());
    let is_idle = since_ns(moved_ns) > LINK_IDLE_SERVED_TIMEOUT.as_nanos() as u64;
    (served.is_quiet() && is_idle).then_some("idle")
}
