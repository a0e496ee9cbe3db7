//! Does to the world what the plan says.

use std::rc::Rc;

use super::World;
use super::plan::{Fault, FaultClass, Planned};
use super::time::{now_us, sleep_us};

/// How long a node is down whose log failed.
const REPLACED_US: u64 = 400_000;

impl World {
    /// Lets everything go wrong, each at its time.
    pub(crate) async fn disturb(self: Rc<Self>) {
        for planned in self.plan.faults.clone() {
            sleep_us(planned.at_us.saturating_sub(now_us())).await;
            if self.is_healed.get() {
                return;
            }
            let world = Rc::clone(&self);
            self.spawn(world.inflict(planned));
        }
    }

    async fn inflict(self: Rc<Self>, planned: Planned) {
        let Planned { class, fault, .. } = planned;
        self.trace.note("fault", &[class as u64], || format!("{class:?} {fault:?}"));
        match fault {
            Fault::Cut { cut, for_us } => {
                if !cut.is_empty() {
                    self.fired(class);
                }
                self.network.cut(&cut);
                sleep_us(for_us).await;
                self.network.mend(&cut);
            }
            Fault::Clog { direction, for_us } => {
                self.fired(class);
                self.network.clog(direction, now_us() + for_us);
            }
            Fault::Crash { node, is_torn, down_us, back_us } => {
                if self.crash(node, is_torn) {
                    self.fired(class);
                    sleep_us(down_us).await;
                    self.nodes[node].clock.jump(back_us);
                    self.start(node).await;
                }
            }
            Fault::Pause { node, for_us } => {
                if self.nodes[node].is_up() && !self.nodes[node].is_paused() {
                    self.fired(class);
                    self.nodes[node].pause();
                    sleep_us(for_us).await;
                    self.nodes[node].resume();
                }
            }
            Fault::Jump { node, us, for_us } => {
                self.fired(class);
                self.nodes[node].clock.jump(us);
                sleep_us(for_us).await;
                if !self.is_healed.get() {
                    self.nodes[node].clock.jump(-us);
                }
            }
            Fault::DiskFull { node, for_us } => {
                self.fired(class);
                self.storage(node).set_full(true);
                sleep_us(for_us).await;
                self.storage(node).set_full(false);
            }
            Fault::SlowDisk { node, for_us } => {
                self.fired(class);
                self.storage(node).set_slow(true);
                sleep_us(for_us).await;
                self.storage(node).set_slow(false);
            }
            Fault::DiskError { node } => {
                if self.nodes[node].is_up() {
                    self.storage(node).fail_soon();
                }
            }
            Fault::Wipe { node, down_us } => {
                if !self.nodes[node].is_up() {
                    return;
                }
                self.fired(class);
                self.crash(node, false);
                self.wipe(node);
                sleep_us(down_us).await;
                self.start(node).await;
            }
        }
    }

    /// Cuts the power of a node; false when it was down.
    fn crash(&self, node: usize, is_torn: bool) -> bool {
        if !self.nodes[node].is_up() {
            return false;
        }
        self.trace.note("crash", &[node as u64], || format!("node {node}"));
        self.nodes[node].stop();
        self.storage(node).crash(is_torn);
        true
    }

    /// The log of a node failed, so it ends; whoever looks after it starts it again.
    pub(crate) fn log_failed(self: &Rc<Self>, node: usize) {
        if self.crash(node, true) {
            self.fired(FaultClass::DiskError);
            self.storage(node).heal();
            let world = Rc::clone(self);
            self.spawn(async move {
                sleep_us(REPLACED_US).await;
                world.start(node).await;
            });
        }
    }

    /// Ends all faults: the network is whole, clocks are right, everyone runs.
    pub(crate) async fn heal(self: &Rc<Self>) {
        self.is_healed.set(true);
        self.trace.note("heal", &[], || "everything is well from here on");
        self.network.heal();
        for (position, node) in self.nodes.iter().enumerate() {
            node.clock.mend();
            self.storage(position).heal();
            node.resume();
            self.start(position).await;
        }
    }
}
