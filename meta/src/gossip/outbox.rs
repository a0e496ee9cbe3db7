//! What foca wants done, until the machine has turned it into effects.

use std::time::Duration;

use foca::{Notification, Runtime, Timer};
use heddle_types::NodeId;

use super::identity::Identity;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) sends: Vec<(Identity, Vec<u8>)>,
    pub(super) timers: Vec<(Duration, Timer<Identity>)>,
    /// Members that are new, or new in this run.
    pub(super) met: Vec<Identity>,
    /// Nodes of which something may have changed.
    pub(super) touched: Vec<NodeId>,
    /// The others had declared this node down, and it has a new identity now.
    pub(super) has_rejoined: bool,
}

impl Runtime<Identity> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(member) | Notification::Rename(_, member) => {
                self.met.push(member.clone());
                self.touched.push(member.node);
            }
            Notification::MemberDown(member) => self.touched.push(member.node),
            Notification::Rejoin(_) => self.has_rejoined = true,
            Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, target: Identity, data: &[u8]) {
        self.sends.push((target, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((after, event));
    }
}
