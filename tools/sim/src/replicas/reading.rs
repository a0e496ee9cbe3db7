//! Reads by id and searches, on the node that coordinates them.

use std::collections::BTreeMap;

use futures::channel::mpsc;
use heddle_core::engine::{Replicated, StampedChange, StampedWrite};
use heddle_replication::{
    Candidate, Copy, Hit, ItemAnswer, Items, ReadEffect, ReadEvent, ReadMachine, ReadOutcome,
    ReadRequest, SearchMerge, replica_order,
};
use heddle_types::{ApiError, Consistency, DeletionStrategy, ObjectDigest, ObjectId, Stamp};

use super::bugs::Bug;
use super::coordinator::{Coordinator, LIMIT_US, encode};
use super::model::digest_of;
use super::rpc::{Answer, Call};
use super::writing::item_answer;

/// Another replica is asked when the first ones take longer.
const HEDGE_US: u64 = 300_000;

type Event = ReadEvent<StampedWrite>;
type Machine = ReadMachine<StampedWrite>;

/// What a read found of one id.
#[derive(Debug)]
pub(crate) enum Found {
    Object(StampedWrite),
    Deleted(Stamp),
    Absent,
    Failed,
}

impl Coordinator {
    /// Reads some ids.
    pub(crate) async fn read(self, level: Consistency, ids: Vec<ObjectId>) -> Vec<Found> {
        let level = match (self.world.bug, level) {
            (Some(Bug::ReadFromOne), Consistency::Quorum) => Consistency::One,
            _ => level,
        };
        let order = self.order();
        let mut effects = Vec::new();
        let now_us = self.node.now_us();
        let request = ReadRequest {
            replicas: self.replicas(),
            order: &order,
            level,
            strategy: DeletionStrategy::TimeBasedResolution,
            items: ids.len(),
            now_us,
            hedge_after_us: HEDGE_US,
            deadline_us: now_us + LIMIT_US,
        };
        let mut machine = Machine::start(&request, &mut effects);
        let (sender, mut events) = mpsc::unbounded();
        let mut first = None;
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    ReadEffect::Fetch { replica, items } => {
                        first.get_or_insert(replica);
                        self.fetch(replica, named(&ids, &items), &sender);
                    }
                    ReadEffect::Digest { replica, items } => {
                        let only_first = self.world.bug == Some(Bug::FirstAnswerWins);
                        let asked = first.filter(|_| only_first).unwrap_or(replica);
                        self.digest(replica, asked, named(&ids, &items), &sender);
                    }
                    ReadEffect::Repair { replica, items } => {
                        self.repair(replica, &ids, &items, &machine, &sender).await;
                    }
                    ReadEffect::Answer => return found(&mut machine, ids.len()),
                }
            }
            let Some(deadline_us) = machine.deadline() else {
                return found(&mut machine, ids.len());
            };
            let event = self.next(&mut events, deadline_us).await.unwrap_or(Event::Due);
            machine.handle(self.node.now_us(), event, &mut effects);
        }
    }

    fn order(&self) -> Vec<u8> {
        let candidate = |replica| Candidate {
            is_here: self.is_here(replica),
            is_alive: self.seems_alive(replica),
            load: 0,
        };
        let candidates: Vec<Candidate> = (0..self.replicas() as u8).map(candidate).collect();
        replica_order(&candidates, self.node.next_turn()).to_vec()
    }

    fn fetch(&self, replica: u8, ids: Vec<ObjectId>, sender: &mpsc::UnboundedSender<Event>) {
        self.ask_for(replica, Call::Read(ids), sender, move |answer| {
            Some(match answer {
                Ok(Answer::Copies(copies)) => {
                    let with_digest = |copy: StampedWrite| (digest_of(&copy), copy);
                    let copies = copies.into_iter().map(|copy| copy.map(with_digest)).collect();
                    Event::Copies { replica, copies }
                }
                Ok(other) => panic!("{other:?} is no answer to a fetch"),
                Err(error) => Event::Failed { replica, error: Some(Box::new(error)) },
            })
        });
    }

    fn digest(
        &self,
        replica: u8,
        asked: u8,
        ids: Vec<ObjectId>,
        sender: &mpsc::UnboundedSender<Event>,
    ) {
        self.ask_for(asked, Call::Digest(ids), sender, move |answer| {
            Some(match answer {
                Ok(Answer::Digests(digests)) => Event::Digests { replica, digests },
                Ok(other) => panic!("{other:?} is no answer to a question for digests"),
                Err(error) => Event::Failed { replica, error: Some(Box::new(error)) },
            })
        });
    }

    async fn repair(
        &self,
        replica: u8,
        ids: &[ObjectId],
        items: &[u32],
        machine: &Machine,
        sender: &mpsc::UnboundedSender<Event>,
    ) {
        let bug = self.world.bug;
        let mut writes = Vec::new();
        for item in items {
            let id = ids[*item as usize];
            writes.push(match machine.copy(*item as usize) {
                Some(Copy::Record(record)) => record.clone(),
                Some(Copy::Tombstone(stamp)) => {
                    StampedWrite { id, stamp, change: StampedChange::Delete, exact: true }
                }
                None => panic!("a repair names what is at hand"),
            });
        }
        self.world.repairs.set(self.world.repairs.get() + 1);
        let count = writes.len();
        if bug == Some(Bug::ReadRepairSendsCurrent) {
            for write in &mut writes {
                if let Ok(stamp) = self.running.store.issue().await {
                    (write.stamp, write.exact) = (stamp, false);
                }
            }
        }
        if bug == Some(Bug::ReadRepairDropsDeletions) {
            writes.retain(|write| write.change != StampedChange::Delete);
        }
        let applied = move || vec![ItemAnswer::Applied { existed: false }; count];
        if bug == Some(Bug::ReadRepairNotAwaited) {
            // The request may have ended.
            let _ = sender.unbounded_send(Event::Repaired { replica, answers: applied() });
        }
        let call = Call::Write(writes.iter().map(encode).collect());
        self.ask_for(replica, call, sender, move |answer| {
            if bug == Some(Bug::ReadRepairDropsDeletions) {
                return Some(Event::Repaired { replica, answers: applied() });
            }
            Some(match repaired(answer, bug) {
                Some(answers) => Event::Repaired { replica, answers },
                None => Event::RepairFailed { replica },
            })
        });
    }

    /// All live ids of the shard, as a search with room for all finds them; none when too few
    /// replicas took part.
    pub(crate) async fn search(self, level: Consistency) -> Option<Vec<(ObjectId, Stamp)>> {
        let needed = level.needed(self.replicas());
        let mut asked = Vec::new();
        let mut lists = Vec::new();
        for replica in self.order() {
            if lists.len() < needed
                && let Some(Answer::Live(live)) = self.ask_in_time(replica, Call::Live).await
            {
                let hit = |(id, stamp)| Hit { id, stamp, distance: 1.0 };
                asked.push(replica);
                lists.push(live.into_iter().map(hit).collect());
            }
        }
        if lists.len() < needed {
            return None;
        }
        let merge = SearchMerge::new(lists);
        let mut digests: BTreeMap<(u8, ObjectId), ObjectDigest> = BTreeMap::new();
        for (list, replica) in asked.iter().enumerate() {
            let list = list as u8;
            let wanted: Vec<ObjectId> = merge.wanted(list).collect();
            if wanted.is_empty() || self.world.bug == Some(Bug::SearchForgetsDeletions) {
                continue;
            }
            match self.ask_in_time(*replica, Call::Digest(wanted.clone())).await {
                Some(Answer::Digests(found)) => {
                    let known = wanted.into_iter().zip(found);
                    let known = known.filter_map(|(id, digest)| Some(((list, id), digest?)));
                    digests.extend(known);
                }
                _ => return None,
            }
        }
        let merged = merge.finish(usize::MAX, |list, id| digests.get(&(list, id)).copied());
        Some(merged.into_iter().map(|(hit, _)| (hit.id, hit.stamp)).collect())
    }

    pub(crate) async fn ask_in_time(&self, replica: u8, call: Call) -> Option<Answer> {
        let (sender, mut events) = mpsc::unbounded();
        self.ask_for(replica, call, &sender, Some);
        self.next(&mut events, self.node.now_us() + LIMIT_US).await?.ok()
    }
}

fn repaired(answer: Result<Answer, ApiError>, bug: Option<Bug>) -> Option<Vec<ItemAnswer>> {
    match answer {
        Ok(Answer::Written(results)) => {
            let answer = |result: Result<Replicated, ApiError>| item_answer(result, bug);
            results.into_iter().map(answer).collect()
        }
        Ok(other) => panic!("{other:?} is no answer to a repair"),
        Err(_) => None,
    }
}

fn named(ids: &[ObjectId], items: &Items) -> Vec<ObjectId> {
    items.iter(ids.len()).map(|item| ids[item]).collect()
}

fn found(machine: &mut Machine, count: usize) -> Vec<Found> {
    let one = |item| match machine.outcome(item) {
        Some(ReadOutcome::Found(_)) => {
            Found::Object(machine.take(item).expect("what was found is at hand"))
        }
        Some(ReadOutcome::Deleted(stamp)) => Found::Deleted(stamp),
        Some(ReadOutcome::Absent) => Found::Absent,
        Some(ReadOutcome::Conflict | ReadOutcome::Failed) | None => Found::Failed,
    };
    (0..count).map(one).collect()
}
