//! Writes, on the node that coordinates them.

use std::rc::Rc;

use futures::channel::{mpsc, oneshot};
use heddle_core::engine::{Replicated, StampedChange, StampedWrite};
use heddle_replication::{
    ItemAnswer, ReplicaSet, WriteEffect, WriteEvent, WriteMachine, WriteOutcome, WriteRequest,
};
use heddle_types::{ApiError, Consistency, ErrorCode};

use super::bugs::Bug;
use super::coordinator::{Coordinator, LIMIT_US, encode};
use super::rpc::{Answer, Call};
use super::time::sleep_us;

type Events = mpsc::UnboundedSender<WriteEvent>;

impl Coordinator {
    /// Writes; tells the outcome of each item through `answer` once all are decided.
    pub(crate) async fn write(
        self,
        level: Consistency,
        writes: Vec<StampedWrite>,
        answer: oneshot::Sender<Vec<WriteOutcome>>,
    ) {
        let count = writes.len();
        let encoded: Vec<Rc<[u8]>> = writes.iter().map(encode).collect();
        let mut effects = Vec::new();
        let request = WriteRequest {
            replicas: self.replicas(),
            reachable: self.asked_to_write(),
            level: self.level_of_write(level),
            items: count,
            deadline_us: self.node.now_us() + LIMIT_US,
        };
        let mut machine = WriteMachine::start(request, &mut effects);
        let (sender, mut events) = mpsc::unbounded();
        let mut answer = Some(answer);
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    WriteEffect::Send { replica } => {
                        self.send(replica, &writes, encoded.clone(), &sender);
                    }
                    WriteEffect::Answer => {
                        let outcomes = (0..count).filter_map(|item| machine.outcome(item));
                        self.decided(level, &writes, outcomes.collect(), answer.take());
                    }
                    WriteEffect::Hint { replica, items } => {
                        self.hint(replica, items.iter(count).map(|item| &writes[item])).await;
                    }
                    WriteEffect::Finish => return,
                }
            }
            let Some(deadline_us) = machine.deadline() else { return };
            let event = self.next(&mut events, deadline_us).await.unwrap_or(WriteEvent::Due);
            machine.handle(self.node.now_us(), event, &mut effects);
        }
    }

    fn asked_to_write(&self) -> ReplicaSet {
        match self.world.bug {
            Some(Bug::HintCountsAsAck) => ReplicaSet::first(self.replicas()),
            _ => self.reachable(),
        }
    }

    fn level_of_write(&self, level: Consistency) -> Consistency {
        match (self.world.bug, level) {
            (Some(Bug::QuorumIsHalf), Consistency::Quorum) => Consistency::One,
            _ => level,
        }
    }

    fn send(&self, replica: u8, writes: &[StampedWrite], encoded: Vec<Rc<[u8]>>, sender: &Events) {
        let count = encoded.len();
        let bug = self.world.bug;
        let twice = (bug == Some(Bug::SelfCountsTwice) && self.is_here(replica))
            .then(|| (sender.clone(), (replica + 1) % self.replicas() as u8));
        let kept = (bug == Some(Bug::HintCountsAsAck)).then(|| (self.clone(), writes.to_vec()));
        if bug == Some(Bug::TimeoutIsRefusal) {
            let sender = sender.clone();
            self.node.spawn(async move {
                sleep_us(LIMIT_US / 2).await;
                let error = Box::new(super::rpc::refused("no answer in time"));
                // The request may have ended.
                let _ = sender.unbounded_send(WriteEvent::Refused { replica, error });
            });
        }
        self.ask_for(replica, Call::Write(encoded), sender, move |answer| {
            let event = written(replica, answer, bug);
            if let (Some((sender, other)), WriteEvent::Answered { answers, .. }) = (twice, &event) {
                let again = WriteEvent::Answered { replica: other, answers: answers.clone() };
                // The request may have ended.
                let _ = sender.unbounded_send(again);
            }
            if let (Some((this, writes)), WriteEvent::Refused { .. }) = (kept, &event) {
                let node = Rc::clone(&this.node);
                node.spawn(async move { this.hint(replica, writes.iter()).await });
                let answers = vec![ItemAnswer::Applied { existed: false }; count];
                return Some(WriteEvent::Answered { replica, answers });
            }
            Some(event)
        });
    }

    fn decided(
        &self,
        level: Consistency,
        writes: &[StampedWrite],
        outcomes: Vec<WriteOutcome>,
        answer: Option<oneshot::Sender<Vec<WriteOutcome>>>,
    ) {
        for (write, outcome) in writes.iter().zip(&outcomes) {
            if matches!(outcome, WriteOutcome::Applied { .. }) {
                let needed = level.needed(self.replicas());
                self.world.check_acknowledged(self.shard, write, needed);
            }
            if *outcome == WriteOutcome::Unknown && self.world.bug == Some(Bug::RollbackOfUnknown) {
                self.roll_back(write);
            }
        }
        if let Some(answer) = answer {
            // The client may have given up.
            let _ = answer.send(outcomes);
        }
    }

    fn roll_back(&self, write: &StampedWrite) {
        let (this, id) = (self.clone(), write.id);
        self.node.spawn(async move {
            let Ok(stamp) = this.running.store.issue().await else { return };
            let delete = StampedWrite { id, stamp, change: StampedChange::Delete, exact: false };
            for replica in 0..this.replicas() as u8 {
                let call = Call::Write(vec![encode(&delete)]);
                let (sender, _) = mpsc::unbounded::<()>();
                this.ask_for(replica, call, &sender, |_| None);
            }
        });
    }

    /// Keeps writes for a replica that did not take them.
    async fn hint(&self, replica: u8, writes: impl Iterator<Item = &StampedWrite>) {
        let (position, target) = self.owner(replica);
        for write in writes {
            let mut hint = write.clone();
            if self.world.bug == Some(Bug::HintRestamped)
                && let Ok(stamp) = self.running.store.issue().await
            {
                hint.stamp = stamp;
            }
            self.running.hints.keep(&self.node, position, target, self.shard, hint).await;
        }
    }
}

/// What the answer of a replica to a write means.
fn written(replica: u8, answer: Result<Answer, ApiError>, bug: Option<Bug>) -> WriteEvent {
    let results = match answer {
        Ok(Answer::Written(results)) => results,
        Ok(other) => panic!("{other:?} is no answer to a write"),
        Err(error) if error.code == ErrorCode::Unknown => return WriteEvent::Lost { replica },
        Err(error) => return WriteEvent::Refused { replica, error: Box::new(error) },
    };
    match results.into_iter().map(|result| item_answer(result, bug)).collect() {
        Some(answers) => WriteEvent::Answered { replica, answers },
        None => WriteEvent::Lost { replica },
    }
}

/// What a replica says of one write; none when it does not know.
pub(crate) fn item_answer(
    result: Result<Replicated, ApiError>,
    bug: Option<Bug>,
) -> Option<ItemAnswer> {
    Some(match result {
        Ok(Replicated::Applied { existed, .. }) => ItemAnswer::Applied { existed },
        Ok(Replicated::Known { existed, .. }) => ItemAnswer::Known { existed },
        Ok(Replicated::Superseded { .. }) if bug == Some(Bug::SupersededCountsAsAck) => {
            ItemAnswer::Known { existed: true }
        }
        Ok(Replicated::Superseded { .. }) => ItemAnswer::Superseded,
        Err(error) => match error.code {
            ErrorCode::BelowFloor => ItemAnswer::BelowFloor,
            ErrorCode::Unknown => return None,
            _ => ItemAnswer::Refused(Box::new(error)),
        },
    })
}
