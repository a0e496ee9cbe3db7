//! One request of writes to one shard: every replica gets it at once, each item is decided as soon
//! as its level is, and who did not take it is known afterwards.

use heddle_types::{ApiError, Consistency, ErrorCode};

use crate::replicas::{ItemAnswer, Items, ReplicaSet};

/// What is to be written, for the machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WriteRequest {
    /// Configured replicas of the shard, at most
    /// [`REPLICAS_PER_SHARD_MAX`](heddle_types::limits::REPLICAS_PER_SHARD_MAX).
    pub replicas: usize,
    /// Those that seem to live. The others are not sent the write and get a hint.
    pub reachable: ReplicaSet,
    /// How many must have an item before the client is told that it is written.
    pub level: Consistency,
    /// Items of the request.
    pub items: usize,
    /// When the client is answered with what is known by then, and replicas that have not
    /// answered are taken for lost.
    pub deadline_us: u64,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteEvent {
    /// A replica answered for each item, in the order of the request.
    Answered {
        /// The replica.
        replica: u8,
        /// One an item; any other number counts as no answer.
        answers: Vec<ItemAnswer>,
    },
    /// A replica refused the request before it applied anything, or it never left this node.
    Refused {
        /// The replica.
        replica: u8,
        /// Why.
        error: Box<ApiError>,
    },
    /// No answer will come, and the replica may have applied all, some or nothing.
    Lost {
        /// The replica.
        replica: u8,
    },
    /// The time of [`WriteMachine::deadline`] has come; ignored before.
    Due,
}

/// What must be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteEffect {
    /// Send the whole request to a replica.
    Send {
        /// To whom.
        replica: u8,
    },
    /// Answer the client: every item is decided ([`WriteMachine::outcome`]). Comes once.
    Answer,
    /// Keep these items for a replica that did not take them. Comes at most once a replica, after
    /// `Answer`; items that are nowhere are never among them.
    Hint {
        /// For whom.
        replica: u8,
        /// What it lacks.
        items: Items,
    },
    /// Everything is known; the machine can go. Comes once, last.
    Finish,
}

/// How a write ended for the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WriteOutcome {
    /// As many replicas have it as the level asks for.
    Applied {
        /// Whether the object lived before on one of them.
        existed: bool,
    },
    /// No replica has it, and none ever will.
    NotApplied,
    /// Some replica may have it, but fewer than the level asks for are known to. It may become
    /// visible later, and is never taken back.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
struct Item {
    acks: ReplicaSet,
    superseded: ReplicaSet,
    below_floor: ReplicaSet,
    existed: bool,
    outcome: Option<WriteOutcome>,
    /// Position of its first refusal in [`WriteMachine::refusals`].
    refusal: Option<u32>,
}

/// Coordinates one [`WriteRequest`]; see the module.
///
/// Cost: a pass over the items per answer, and none of it allocates but hints and refusals.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct WriteMachine {
    request: WriteRequest,
    items: Vec<Item>,
    undecided: usize,
    /// Sent to, and neither answered nor given up.
    pending: ReplicaSet,
    /// May have applied anything.
    lost: ReplicaSet,
    /// Refused as a whole.
    refused: ReplicaSet,
    /// Did not take at least one item and got no hint yet.
    lacking: ReplicaSet,
    refusals: Vec<ApiError>,
    /// The first refusal of the whole request.
    refusal: Option<Box<ApiError>>,
    is_answered: bool,
    is_finished: bool,
}

impl WriteMachine {
    /// Begins a request: it is sent to whoever is reachable, or refused at once when those are
    /// fewer than the level needs, so that nothing is applied then.
    #[must_use]
    pub fn start(request: WriteRequest, effects: &mut Vec<WriteEffect>) -> Self {
        let everyone = ReplicaSet::first(request.replicas);
        let mut pending = request.reachable.intersection(everyone);
        let is_possible = pending.len() >= request.level.needed(request.replicas);
        if !is_possible {
            pending = ReplicaSet::EMPTY;
        }
        let mut machine = Self {
            request,
            items: vec![Item::default(); request.items],
            undecided: request.items,
            pending,
            lost: ReplicaSet::EMPTY,
            refused: ReplicaSet::EMPTY,
            lacking: everyone.minus(pending),
            refusals: Vec::new(),
            refusal: None,
            is_answered: false,
            is_finished: false,
        };
        effects.extend(pending.iter().map(|replica| WriteEffect::Send { replica }));
        machine.settle(effects);
        machine
    }

    /// Takes in what happened and appends what must be done.
    pub fn handle(&mut self, now_us: u64, event: WriteEvent, effects: &mut Vec<WriteEffect>) {
        match event {
            WriteEvent::Answered { replica, answers } if self.pending.contains(replica) => {
                self.pending.remove(replica);
                if answers.len() == self.items.len() {
                    self.take(replica, answers);
                } else {
                    self.lose(ReplicaSet::from_iter([replica]));
                }
            }
            WriteEvent::Refused { replica, error } if self.pending.contains(replica) => {
                self.pending.remove(replica);
                self.refused.insert(replica);
                self.lacking.insert(replica);
                self.refusal.get_or_insert(error);
            }
            WriteEvent::Lost { replica } if self.pending.contains(replica) => {
                self.pending.remove(replica);
                self.lose(ReplicaSet::from_iter([replica]));
            }
            WriteEvent::Due if now_us >= self.request.deadline_us => {
                let silent = std::mem::take(&mut self.pending);
                self.lose(silent);
            }
            _ => return,
        }
        self.settle(effects);
    }

    /// When [`WriteEvent::Due`] must be fed, none once everything is known.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        (!self.is_finished).then_some(self.request.deadline_us)
    }

    /// How an item ended; none while it is undecided. It never changes.
    ///
    /// Panics: there is no such item (a caller bug).
    #[must_use]
    pub fn outcome(&self, item: usize) -> Option<WriteOutcome> {
        self.items[item].outcome
    }

    /// Replicas that are known to have an item by now.
    ///
    /// Panics: there is no such item (a caller bug).
    #[must_use]
    pub fn acks(&self, item: usize) -> ReplicaSet {
        self.items[item].acks
    }

    /// What the client is told of an item that is decided and not applied.
    ///
    /// Panics: there is no such item (a caller bug).
    #[must_use]
    pub fn error(&self, item: usize) -> Option<ApiError> {
        match self.items[item].outcome? {
            WriteOutcome::Applied { .. } => None,
            WriteOutcome::NotApplied => Some(self.refusal_of(item)),
            WriteOutcome::Unknown => Some(ApiError::unknown(self.story(item))),
        }
    }

    fn take(&mut self, replica: u8, answers: Vec<ItemAnswer>) {
        for (item, answer) in self.items.iter_mut().zip(answers) {
            match answer {
                ItemAnswer::Applied { existed } | ItemAnswer::Known { existed } => {
                    item.acks.insert(replica);
                    item.existed |= existed && item.outcome.is_none();
                }
                ItemAnswer::Superseded => item.superseded.insert(replica),
                ItemAnswer::BelowFloor => item.below_floor.insert(replica),
                ItemAnswer::Refused(error) => {
                    self.lacking.insert(replica);
                    if item.refusal.is_none() {
                        item.refusal = Some(self.refusals.len() as u32);
                        self.refusals.push(*error);
                    }
                }
            }
        }
    }

    fn lose(&mut self, replicas: ReplicaSet) {
        self.lost = self.lost.union(replicas);
        self.lacking = self.lacking.union(replicas);
    }

    /// Decides what can be decided by now.
    fn settle(&mut self, effects: &mut Vec<WriteEffect>) {
        if self.undecided > 0 {
            let needed = self.request.level.needed(self.request.replicas);
            let (pending, is_any_lost) = (self.pending.len(), !self.lost.is_empty());
            for item in self.items.iter_mut().filter(|item| item.outcome.is_none()) {
                item.outcome = decide(item, needed, pending, is_any_lost);
                self.undecided -= usize::from(item.outcome.is_some());
            }
        }
        if self.undecided == 0 && !self.is_answered {
            self.is_answered = true;
            effects.push(WriteEffect::Answer);
        }
        if self.is_answered {
            for replica in self.lacking.minus(self.pending).iter() {
                self.lacking.remove(replica);
                self.hint(replica, effects);
            }
        }
        if self.pending.is_empty() && !self.is_finished {
            self.is_finished = true;
            effects.push(WriteEffect::Finish);
        }
    }

    fn hint(&self, replica: u8, effects: &mut Vec<WriteEffect>) {
        let lacks = |item: &Item| {
            let is_there = item.acks.union(item.superseded).union(item.below_floor);
            !is_there.contains(replica) && item.outcome != Some(WriteOutcome::NotApplied)
        };
        let indexed = self.items.iter().enumerate();
        let listed: Vec<u32> =
            indexed.filter(|(_, item)| lacks(item)).map(|(index, _)| index as u32).collect();
        if !listed.is_empty() {
            let items = Items::of(listed, self.items.len());
            effects.push(WriteEffect::Hint { replica, items });
        }
    }

    fn first_refusal(&self, item: usize) -> Option<&ApiError> {
        let own = self.items[item].refusal.map(|position| &self.refusals[position as usize]);
        own.or(self.refusal.as_deref())
    }

    fn refusal_of(&self, item: usize) -> ApiError {
        if let Some(error) = self.first_refusal(item) {
            return error.clone();
        }
        let WriteRequest { replicas, level, .. } = self.request;
        if !self.items[item].below_floor.is_empty() {
            let message = "the write is older than what its replicas have repaired";
            return ApiError::new(ErrorCode::InvalidArgument, message, "a new write");
        }
        let reachable = self.request.reachable.intersection(ReplicaSet::first(replicas)).len();
        let message = format!(
            "{reachable} of {replicas} replicas can be reached, {} needed for {level}",
            level.needed(replicas)
        );
        ApiError::transient(ErrorCode::Unavailable, message)
    }

    fn story(&self, item: usize) -> String {
        let WriteRequest { replicas, level, .. } = self.request;
        let Item { acks, superseded, .. } = self.items[item];
        let mut text = format!(
            "{} of {replicas} replicas are known to have the write, {} needed for {level}",
            acks.len(),
            level.needed(replicas)
        );
        let parts = [
            (superseded.len(), "have a newer one"),
            (self.lost.len(), "did not answer"),
            (self.pending.len(), "may still answer"),
        ];
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            text.push_str(&format!("; {count} {what}"));
        }
        if let Some(error) = self.first_refusal(item) {
            text.push_str(&format!("; refused: {error}"));
        }
        text
    }
}

/// The definition of an outcome. While nobody is known to have the item but somebody may still
/// say so, it stays open: only then can the client be told that nothing happened.
fn decide(item: &Item, needed: usize, pending: usize, is_any_lost: bool) -> Option<WriteOutcome> {
    let acks = item.acks.len();
    if acks >= needed && needed > 0 {
        return Some(WriteOutcome::Applied { existed: item.existed });
    }
    if acks + pending >= needed && pending > 0 {
        return None;
    }
    if acks > 0 || is_any_lost || !item.superseded.is_empty() {
        return Some(WriteOutcome::Unknown);
    }
    (pending == 0).then_some(WriteOutcome::NotApplied)
}
