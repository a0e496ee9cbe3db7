//! Sessions in which all replicas of a shard become equal, on the node that leads one.

use std::collections::BTreeMap;

use futures::channel::mpsc;
use heddle_core::engine::{StampedChange, StampedWrite};
use heddle_replication::{
    LeafSet, RepairEffect, RepairEvent, RepairReport, RepairRequest, RepairSession,
};
use heddle_types::{DeletionStrategy, Hlc, ObjectId, Stamp};

use super::bugs::Bug;
use super::coordinator::{Coordinator, LIMIT_US, encode};
use super::rpc::{Answer, Call, ENTRIES_MAX};

type Events = mpsc::UnboundedSender<RepairEvent>;

/// Longest time between two events of a session before those who are asked count as lost.
const PATIENCE_US: u64 = 3 * LIMIT_US;
/// How far a floor stays behind: more than clocks drift apart in a history.
const FLOOR_LAG_US: u64 = 40_000_000;

impl Coordinator {
    /// Leads one session; what came of it. Writes the floor when there is one.
    pub(crate) async fn lead_repair(self) -> RepairReport {
        let request = RepairRequest {
            replicas: self.replicas(),
            reachable: self.reachable(),
            strategy: DeletionStrategy::TimeBasedResolution,
        };
        let mut effects = Vec::new();
        let mut session = RepairSession::start(request, &mut effects);
        let (sender, mut events) = mpsc::unbounded();
        let mut begun: BTreeMap<u8, Hlc> = BTreeMap::new();
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    RepairEffect::Begin { replica } => self.begin(replica, &sender),
                    RepairEffect::Page { replica, after } => {
                        self.page(replica, session.leaves().clone(), after, &sender);
                    }
                    RepairEffect::Copy { source, target, ids } => {
                        self.copy(source, target, ids, &sender);
                    }
                    RepairEffect::Bury { target, tombstones } => {
                        self.bury(target, tombstones, &sender);
                    }
                    RepairEffect::Finish => {
                        let report = session.report();
                        self.finish(&report, &begun).await;
                        return report;
                    }
                }
            }
            let deadline_us = self.node.now_us() + PATIENCE_US;
            match self.next(&mut events, deadline_us).await {
                Some(event) => {
                    if let RepairEvent::Began { replica, hlc, .. } = &event {
                        begun.insert(*replica, *hlc);
                    }
                    session.handle(event, &mut effects);
                }
                // Somebody does not answer; the session goes on with nobody.
                None => {
                    for replica in request.reachable.iter() {
                        session.handle(RepairEvent::Lost { replica }, &mut effects);
                    }
                }
            }
        }
    }

    fn begin(&self, replica: u8, sender: &Events) {
        self.ask_for(replica, Call::Begin, sender, move |answer| {
            Some(match answer {
                Ok(Answer::Began { hlc, floor, leaves }) => {
                    RepairEvent::Began { replica, hlc, floor, leaves }
                }
                Ok(other) => panic!("{other:?} is no answer to the beginning of a session"),
                Err(_) => RepairEvent::Lost { replica },
            })
        });
    }

    fn page(&self, replica: u8, mut leaves: LeafSet, after: Option<ObjectId>, sender: &Events) {
        if self.world.bug == Some(Bug::LeafOffByOne) {
            leaves = without_last(&leaves);
        }
        self.ask_for(replica, Call::Entries { leaves, after }, sender, move |answer| {
            Some(match answer {
                Ok(Answer::Entries(entries)) => {
                    let is_last = entries.len() < ENTRIES_MAX;
                    RepairEvent::Page { replica, entries, is_last }
                }
                Ok(other) => panic!("{other:?} is no answer to a question for entries"),
                Err(_) => RepairEvent::Lost { replica },
            })
        });
    }

    fn copy(&self, source: u8, target: u8, ids: Vec<ObjectId>, sender: &Events) {
        let (this, sender) = (self.clone(), sender.clone());
        self.node.spawn(async move {
            let count = ids.len();
            let refused = match this.ask_in_time(source, Call::Read(ids)).await {
                Some(Answer::Copies(copies)) => {
                    let mut writes: Vec<StampedWrite> = copies.into_iter().flatten().collect();
                    if this.world.bug == Some(Bug::RepairRestamped) {
                        for write in &mut writes {
                            if let Ok(stamp) = this.running.store.issue().await {
                                (write.stamp, write.exact) = (stamp, false);
                            }
                        }
                    }
                    let missing = count - writes.len();
                    missing + this.push(target, writes).await
                }
                _ => count,
            };
            let event = RepairEvent::Copied { source: Some(source), target, refused };
            // The session may have ended.
            let _ = sender.unbounded_send(event);
        });
    }

    fn bury(&self, target: u8, tombstones: Vec<(ObjectId, Stamp)>, sender: &Events) {
        let (this, sender) = (self.clone(), sender.clone());
        self.node.spawn(async move {
            let tombstone = |(id, stamp)| StampedWrite {
                id,
                stamp,
                change: StampedChange::Delete,
                exact: true,
            };
            let writes = tombstones.into_iter().map(tombstone).collect();
            let refused = match this.world.bug {
                Some(Bug::RepairSkipsDeletions) => 0,
                _ => this.push(target, writes).await,
            };
            let event = RepairEvent::Copied { source: None, target, refused };
            // The session may have ended.
            let _ = sender.unbounded_send(event);
        });
    }

    /// Writes copies to a replica; how many it did not take.
    async fn push(&self, target: u8, writes: Vec<StampedWrite>) -> usize {
        let count = writes.len();
        let call = Call::Write(writes.iter().map(encode).collect());
        match self.ask_in_time(target, call).await {
            Some(Answer::Written(results)) => {
                results.iter().filter(|result| result.is_err()).count()
            }
            _ => count,
        }
    }

    async fn finish(&self, report: &RepairReport, begun: &BTreeMap<u8, Hlc>) {
        let from_some = || begun.values().min().copied().filter(|_| begun.len() > 1);
        let floor = match self.world.bug {
            Some(Bug::FloorFromSome) => report.floor.or_else(from_some),
            _ => report.floor.map(behind),
        };
        self.world.session_ended(self.shard, report);
        let Some(floor) = floor else { return };
        for replica in 0..self.replicas() as u8 {
            // Who does not hear of it keeps its deletions longer.
            let _ = self.ask_in_time(replica, Call::SetFloor(floor)).await;
        }
    }
}

/// A floor stays behind the comparison, as in a node: what a coordinator stamps whose clock lags,
/// or what takes long, is older than the comparison when it comes in.
fn behind(floor: Hlc) -> Hlc {
    Hlc::from_unix_us(floor.unix_us().saturating_sub(FLOOR_LAG_US))
}

fn without_last(leaves: &LeafSet) -> LeafSet {
    let mut words = leaves.words().to_vec();
    if let Some(word) = words.iter_mut().rev().find(|word| **word != 0) {
        *word &= !(1 << (63 - word.leading_zeros()));
    }
    LeafSet::from_words(leaves.height(), words).expect("fewer leaves of the same tree")
}
