//! The driver: it owns the logs, and does what the policy wants.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use heddle_core::hints::{Hint, HintLog, HintLogConfig};
use heddle_replication::{Admission, HintEffect, HintEvent, HintLimits, HintPolicy};
use heddle_runtime::{GlommioDevice, Queue, spawn, timeout};
use heddle_types::{Clock, Device, DeviceError, NodeId};
use uuid::Uuid;

use super::News;
use super::deliver::{Delivered, deliver};
use crate::core::Core;

/// Folder of the hints, relative to the data directory.
const FOLDER: &str = "hints";
/// Least time between two looks at who lives, while hints wait.
const LOOK: Duration = Duration::from_millis(500);
/// Least time between two turns that nothing new asks for.
const TURN: Duration = Duration::from_millis(1);
/// How long the size of the disk is taken for known, microseconds.
const DISK_KNOWN_US: u64 = 60_000_000;

type Log = HintLog<GlommioDevice>;

/// The logs for one node. Those after the first are of cores that this node had in an earlier run;
/// nothing is added to them, and they are sent first.
#[derive(Default)]
struct Logs {
    logs: Vec<Log>,
    /// This core cannot add to a log for the node.
    is_broken: bool,
}

struct Driver {
    core: Rc<Core>,
    device: GlommioDevice,
    policy: HintPolicy,
    targets: BTreeMap<NodeId, Logs>,
    effects: Vec<HintEffect>,
    /// Wall time that never goes back.
    now_us: u64,
    /// This core's share of the disk.
    disk_bytes: u64,
    disk_known_us: u64,
}

/// Keeps and delivers the hints of a core, as long as the node runs.
pub(crate) async fn run(core: Rc<Core>, device: GlommioDevice) {
    let Some(inbox) = core.hints.inbox.borrow_mut().take() else { return };
    // The bounds are those of a node; each core has its share.
    let cores = core.data_cores.max(1) as u64;
    let of_node = HintLimits::default();
    let limits = HintLimits {
        target_bytes_max: of_node.target_bytes_max / cores,
        bytes_per_second_max: of_node.bytes_per_second_max.div_ceil(cores),
        ..of_node
    };
    let mut driver = Driver {
        core,
        device,
        policy: HintPolicy::new(limits),
        targets: BTreeMap::new(),
        effects: Vec::new(),
        now_us: 0,
        disk_bytes: 0,
        disk_known_us: 0,
    };
    driver.open_all().await;
    driver.serve(inbox).await;
}

/// Names in a folder; none when there is no folder.
async fn names(device: &GlommioDevice, folder: &str) -> Vec<String> {
    match device.list(folder).await {
        Ok(names) => names,
        Err(DeviceError::NotFound { .. }) => Vec::new(),
        Err(error) => {
            tracing::error!(%error, "hints of earlier runs cannot be looked for");
            Vec::new()
        }
    }
}

impl Driver {
    async fn serve(&mut self, mut inbox: UnboundedReceiver<News>) {
        loop {
            self.tell(HintEvent::Due);
            self.look();
            self.carry_out().await;
            self.count();
            let waits = self.policy.deadline();
            let news = match waits {
                // Nothing is on disk that could be sent or dropped.
                None if self.is_idle() && self.effects.is_empty() => inbox.next().await,
                due_us => {
                    let now_us = self.tick();
                    let due =
                        due_us.map(|due_us| Duration::from_micros(due_us.saturating_sub(now_us)));
                    let wait = due.unwrap_or(LOOK).clamp(TURN, LOOK);
                    let wait = if self.effects.is_empty() { wait } else { TURN };
                    match timeout(wait, inbox.next()).await {
                        Ok(news) => news,
                        Err(_elapsed) => continue,
                    }
                }
            };
            let Some(news) = news else { return };
            self.take(news, &mut inbox).await;
        }
    }

    /// Takes what has come, all of it, so that one sync serves all hints for a node.
    async fn take(&mut self, first: News, inbox: &mut UnboundedReceiver<News>) {
        let mut kept: BTreeMap<NodeId, Vec<Hint>> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(news) = next {
            match news {
                News::Kept { target, hints } => kept.entry(target).or_default().extend(hints),
                News::Delivered(delivered) => self.end(delivered).await,
            }
            next = inbox.try_recv().ok();
        }
        for (target, hints) in kept {
            self.keep(target, hints).await;
        }
    }

    fn is_idle(&self) -> bool {
        let mut logs = self.targets.values().flat_map(|target| &target.logs);
        logs.all(|log| log.waiting().bytes == 0)
    }

    fn tick(&mut self) -> u64 {
        self.now_us = self.now_us.max(self.core.clock.unix_us());
        self.now_us
    }

    fn tell(&mut self, event: HintEvent) {
        let now_us = self.tick();
        self.policy.handle(now_us, event, &mut self.effects);
    }

    /// Opens what is there, also of cores that this node no longer has: a core takes those whose
    /// number leaves its own when divided by the number of cores.
    async fn open_all(&mut self) {
        for name in names(&self.device, FOLDER).await {
            let Ok(number) = name.parse::<usize>() else { continue };
            if number % self.core.data_cores != self.core.index {
                continue;
            }
            for node in names(&self.device, &format!("{FOLDER}/{name}")).await {
                let Ok(target) = node.parse::<Uuid>().map(NodeId) else { continue };
                let directory = format!("{FOLDER}/{name}/{node}");
                self.open(target, directory, number == self.core.index).await;
            }
        }
        let targets: Vec<NodeId> = self.targets.keys().copied().collect();
        targets.into_iter().for_each(|target| self.tell_waiting(target));
    }

    async fn open(&mut self, target: NodeId, directory: String, is_own: bool) {
        let opened =
            HintLog::open(self.device.clone(), &directory, target, HintLogConfig::default()).await;
        let logs = self.targets.entry(target).or_default();
        match opened {
            Ok(log) if is_own => logs.logs.insert(0, log),
            Ok(log) if log.waiting().bytes == 0 => drop(log.remove().await),
            Ok(log) => logs.logs.push(log),
            Err(error) => {
                tracing::error!(%directory, %error, "hints cannot be read");
                logs.is_broken |= is_own;
            }
        }
    }

    /// Follows who lives and who left the cluster. Nobody does during the start: a hint whose shard
    /// is in no route yet would count as one for a shard that is gone.
    fn look(&mut self) {
        if !self.core.registry.is_complete() {
            return;
        }
        let own = self.core.node.identity.node;
        let health = self.core.registry.health();
        let nodes = self.core.registry.nodes();
        let targets: Vec<NodeId> = self.targets.keys().copied().collect();
        for target in targets {
            if !nodes.is_empty() && target != own && nodes.get(target).is_none() {
                self.tell(HintEvent::Removed { target });
            } else if target == own || health.of(target).is_alive {
                self.tell(HintEvent::Up { target });
            } else {
                self.tell(HintEvent::Down { target });
            }
        }
    }

    /// Writes down what a node lacks, or drops it.
    async fn keep(&mut self, target: NodeId, hints: Vec<Hint>) {
        let taken: usize = hints.iter().map(|hint| hint.write.len()).sum();
        let now_us = self.tick();
        let disk_bytes = self.disk_bytes().await;
        let given = hints.len() as u64;
        let admitted = |hint: &Hint| {
            let bytes = hint.write.len() as u64;
            self.policy.admit(now_us, target, bytes, disk_bytes) == Admission::Keep
        };
        let kept: Vec<Hint> = hints.into_iter().filter(admitted).collect();
        let mut lost = given - kept.len() as u64;
        if !kept.is_empty() && !self.append(target, &kept, now_us).await {
            lost = given;
        }
        self.core.hints.drop_hints(lost);
        let inbox_bytes = &self.core.hints.inbox_bytes;
        inbox_bytes.set(inbox_bytes.get().saturating_sub(taken));
        self.tell_waiting(target);
    }

    async fn append(&mut self, target: NodeId, hints: &[Hint], now_us: u64) -> bool {
        let is_missing = {
            let logs = self.targets.entry(target).or_default();
            // The first log is the own one, unless there is none yet.
            let own = own_directory(self.core.index, target);
            !logs.is_broken && logs.logs.first().is_none_or(|log| log.directory() != own)
        };
        if is_missing {
            self.open(target, own_directory(self.core.index, target), true).await;
        }
        let Some(logs) = self.targets.get_mut(&target).filter(|logs| !logs.is_broken) else {
            return false;
        };
        let Some(log) = logs.logs.first_mut() else { return false };
        match log.append(hints, now_us).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%target, %error, "hints are dropped");
                false
            }
        }
    }

    async fn disk_bytes(&mut self) -> u64 {
        if self.disk_bytes == 0 || self.now_us > self.disk_known_us + DISK_KNOWN_US {
            match self.device.space().await {
                Ok(space) => {
                    self.disk_bytes = space.total_bytes / self.core.data_cores.max(1) as u64;
                }
                Err(error) => tracing::warn!(%error, "the size of the disk is not known"),
            }
            self.disk_known_us = self.now_us;
        }
        self.disk_bytes
    }

    fn tell_waiting(&mut self, target: NodeId) {
        let Some(logs) = self.targets.get(&target) else { return };
        let waiting = logs.logs.iter().map(|log| log.waiting());
        let bytes = waiting.clone().map(|waiting| waiting.bytes).sum();
        let oldest_us = waiting.filter_map(|waiting| waiting.oldest_us).min();
        self.tell(HintEvent::Waiting { target, bytes, oldest_us });
    }

    /// Does what the policy wants. What it wants about that is for the next turn, so that news is
    /// taken in between.
    async fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                HintEffect::Deliver { target, bytes_max } => {
                    self.deliver(target, bytes_max).await;
                }
                HintEffect::Expire { target, before_us } => {
                    self.expire(target, before_us).await;
                }
                HintEffect::Discard { target } => self.discard(target).await,
            }
        }
    }

    async fn deliver(&mut self, target: NodeId, bytes_max: u64) {
        let logs = self.targets.entry(target).or_default();
        let mut has_failed = false;
        // Those of earlier runs are older.
        for log in logs.logs.iter_mut().rev() {
            match log.read(bytes_max).await {
                Ok(Some(batch)) => {
                    let (core, directory) = (Rc::clone(&self.core), log.directory().to_owned());
                    let delivery = async move {
                        let news = core.hints.news.clone();
                        let delivered = deliver(core, target, directory, batch).await;
                        // The driver goes on as long as the node runs.
                        drop(news.unbounded_send(News::Delivered(delivered)));
                    };
                    return spawn(Queue::Background, delivery);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%target, %error, "hints cannot be read");
                    has_failed = true;
                }
            }
        }
        // There was nothing to send, so nothing may wait: asking again at once would give the same.
        has_failed |= logs.logs.iter().any(|log| log.waiting().bytes > 0);
        self.tell(if has_failed {
            HintEvent::Failed { target }
        } else {
            HintEvent::Delivered { target, bytes: 0 }
        });
        self.tell_waiting(target);
    }

    /// A delivery has ended. What was not taken goes behind the others when that lets others go on:
    /// in front, it would hold them up until it is too old.
    async fn end(&mut self, delivered: Delivered) {
        let Delivered { target, log, bytes, written_us, end, outcome } = delivered;
        let waiting: u64 = match self.targets.get(&target) {
            Some(logs) => logs.logs.iter().map(|log| log.waiting().bytes).sum(),
            // It left the cluster meanwhile.
            None => return self.tell(HintEvent::Delivered { target, bytes: 0 }),
        };
        let has_others = waiting > bytes;
        let is_progress = outcome.is_progress();
        let left = &outcome.left;
        // They keep their age, so that none goes round for ever.
        let is_settled = left.is_empty()
            || ((is_progress || has_others) && self.append(target, left, written_us).await);
        if is_settled {
            let hints = &self.core.hints;
            hints.delivered.set(hints.delivered.get() + outcome.delivered);
            hints.drop_hints(outcome.dropped);
            let logs = self.targets.get_mut(&target).into_iter().flat_map(|it| &mut it.logs);
            if let Some(log) = logs.into_iter().find(|it| it.directory() == log)
                && let Err(error) = log.acknowledge(end).await
            {
                // At worst they are sent once more.
                tracing::warn!(%target, %error, "delivered hints are not marked");
            }
        }
        self.tell(match (is_settled, is_progress) {
            (true, true) => HintEvent::Delivered { target, bytes },
            (true, false) if outcome.is_answered => HintEvent::Refused { target },
            _ => HintEvent::Failed { target },
        });
        self.tell_waiting(target);
    }

    async fn expire(&mut self, target: NodeId, before_us: u64) {
        let Some(logs) = self.targets.get_mut(&target) else { return };
        let mut has_failed = false;
        for log in &mut logs.logs {
            match log.expire(before_us).await {
                Ok(dropped) => self.core.hints.drop_hints(dropped),
                Err(error) => {
                    tracing::warn!(%target, %error, "old hints are not dropped");
                    has_failed = true;
                }
            }
        }
        if has_failed {
            self.tell(HintEvent::Failed { target });
        }
        self.tell_waiting(target);
    }

    /// The node left the cluster for good.
    async fn discard(&mut self, target: NodeId) {
        for log in self.targets.remove(&target).unwrap_or_default().logs {
            self.core.hints.drop_hints(log.waiting().hints);
            if let Err(error) = log.remove().await {
                tracing::warn!(%target, %error, "hints of a node that left are not removed");
            }
        }
    }

    fn count(&self) {
        let logs = self.targets.values().flat_map(|target| &target.logs);
        let (mut hints, mut bytes) = (0, 0);
        for waiting in logs.map(HintLog::waiting) {
            hints += waiting.hints;
            bytes += waiting.bytes;
        }
        self.core.hints.waiting.set(hints);
        self.core.hints.waiting_bytes.set(bytes);
    }
}

fn own_directory(core: usize, target: NodeId) -> String {
    format!("{FOLDER}/{core:04}/{target}")
}
