//! The machine.

use heddle_types::limits::REPLICAS_PER_SHARD_MAX;
use heddle_types::{ApiError, Consistency, DeletionStrategy, ErrorCode, ObjectDigest};

use super::event::{ReadEffect, ReadEvent, ReadRequest};
use super::item::{Copy, ReadOutcome};
use crate::replicas::{ItemAnswer, Items, ReplicaSet};
use crate::winner::{Verdict, resolve};

/// Coordinates one [`ReadRequest`]; see the module.
///
/// Cost: a pass over the undecided ids and the replicas asked per event.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReadMachine<R> {
    replicas: usize,
    level: Consistency,
    needed: usize,
    strategy: DeletionStrategy,
    hedge_after_us: u64,
    hedge_us: u64,
    deadline_us: u64,
    /// Replicas not asked yet, the next one last.
    untried: Vec<u8>,
    asked: Vec<Asked>,
    items: Vec<Item<R>>,
    undecided: usize,
    refusal: Option<Box<ApiError>>,
    is_answered: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Item<R> {
    outcome: Option<ReadOutcome>,
    /// The newest record at hand.
    record: Option<(ObjectDigest, R)>,
    /// A fetch of the winner is under way.
    is_fetched: bool,
}

/// A replica that was asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Asked {
    replica: u8,
    /// It is asked for records, not digests.
    is_full: bool,
    /// It answered, so its versions count.
    has_answered: bool,
    /// It answered nothing, or stopped answering: it counts for nothing.
    has_failed: bool,
    /// It takes no repair: its versions count, as they are.
    is_beyond_repair: bool,
    /// Its version of each item, where asked for.
    versions: Vec<Option<ObjectDigest>>,
    /// Items and the newest version of each that it did not take, because it may have been deleted
    /// and forgotten there.
    forgotten: Vec<(u32, ObjectDigest)>,
    /// The fetch or digest under way.
    reading: Option<Items>,
    /// The repair that was sent, or is being put together: items and their versions.
    repairing: Vec<(u32, ObjectDigest)>,
    /// A repair was sent and is not answered.
    is_sending: bool,
}

/// What a replica is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Records,
    Digests,
}

impl Asked {
    /// Whether its version of an item is, or may yet become, the winner.
    fn may_hold(&self, item: usize, winner: Option<ObjectDigest>) -> bool {
        if self.has_answered {
            self.versions[item] >= winner
                || !(self.is_beyond_repair || self.has_forgotten(item, winner))
        } else {
            !self.has_failed
        }
    }

    /// Whether it lacks this version of an item and refuses it for its age.
    fn has_forgotten(&self, item: usize, version: Option<ObjectDigest>) -> bool {
        let mut forgotten = self.forgotten.iter();
        self.has_answered
            && self.versions[item] < version
            && forgotten
                .any(|(known, refused)| *known as usize == item && Some(*refused) >= version)
    }
}

impl<R> ReadMachine<R> {
    /// Begins a read: the first replicas of the order are asked, one for whole records.
    #[must_use]
    pub fn start(request: &ReadRequest<'_>, effects: &mut Vec<ReadEffect>) -> Self {
        let mut seen = ReplicaSet::EMPTY;
        let mut untried: Vec<u8> = Vec::with_capacity(REPLICAS_PER_SHARD_MAX);
        for replica in request.order.iter().copied() {
            if usize::from(replica) < request.replicas && !seen.contains(replica) {
                seen.insert(replica);
                untried.push(replica);
            }
        }
        untried.reverse();
        let item = || Item { outcome: None, record: None, is_fetched: false };
        let mut machine = Self {
            replicas: request.replicas,
            level: request.level,
            needed: request.level.needed(request.replicas).max(1),
            strategy: request.strategy,
            hedge_after_us: request.hedge_after_us,
            hedge_us: request.now_us.saturating_add(request.hedge_after_us),
            deadline_us: request.deadline_us,
            untried,
            asked: Vec::with_capacity(request.replicas.min(REPLICAS_PER_SHARD_MAX)),
            items: std::iter::repeat_with(item).take(request.items).collect(),
            undecided: request.items,
            refusal: None,
            is_answered: false,
        };
        machine.advance(effects);
        machine
    }

    /// Takes in what happened and appends what must be done.
    pub fn handle(&mut self, now_us: u64, event: ReadEvent<R>, effects: &mut Vec<ReadEffect>) {
        if self.is_answered {
            return;
        }
        match event {
            ReadEvent::Copies { replica, copies } => self.take_copies(replica, copies),
            ReadEvent::Digests { replica, digests } => self.take_digests(replica, digests),
            ReadEvent::Failed { replica, error } => self.fail(replica, error),
            ReadEvent::Repaired { replica, answers } => self.take_repair(replica, &answers),
            ReadEvent::RepairFailed { replica } => self.take_repair(replica, &[]),
            ReadEvent::Due if now_us >= self.deadline_us => self.give_up(),
            ReadEvent::Due if now_us >= self.hedge_us => {
                self.hedge_us = now_us.saturating_add(self.hedge_after_us);
                let has_records =
                    self.asked.iter().any(|asked| asked.is_full && asked.has_answered);
                let is_fetching = self.items.iter().any(|item| item.is_fetched);
                let depth =
                    if has_records && !is_fetching { Depth::Digests } else { Depth::Records };
                self.ask_next(depth, effects);
            }
            ReadEvent::Due => return,
        }
        self.advance(effects);
    }

    /// When [`ReadEvent::Due`] must be fed, none once the client is answered.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let hedge_us = if self.untried.is_empty() { u64::MAX } else { self.hedge_us };
        (!self.is_answered).then_some(self.deadline_us.min(hedge_us))
    }

    /// How the read of an id ended; none while it is undecided. It never changes.
    ///
    /// Panics: there is no such item (a caller bug).
    #[must_use]
    pub fn outcome(&self, item: usize) -> Option<ReadOutcome> {
        self.items[item].outcome
    }

    /// The record of an item that was found; a second call has nothing.
    ///
    /// Panics: there is no such item (a caller bug).
    pub fn take(&mut self, item: usize) -> Option<R> {
        let item = &mut self.items[item];
        let is_found = matches!(item.outcome, Some(ReadOutcome::Found(_)));
        if is_found { item.record.take().map(|(_, record)| record) } else { None }
    }

    /// What to write to a replica of an item that [`ReadEffect::Repair`] names, at the time when
    /// the effect comes.
    ///
    /// Panics: there is no such item (a caller bug).
    #[must_use]
    pub fn copy(&self, item: usize) -> Option<Copy<'_, R>> {
        let winner = self.winner(item)?;
        if winner.is_tombstone {
            return Some(Copy::Tombstone(winner.stamp));
        }
        let (version, record) = self.items[item].record.as_ref()?;
        (*version == winner).then_some(Copy::Record(record))
    }

    /// What the client is told of an item that could not be read.
    ///
    /// Panics: there is no such item (a caller bug).
    #[must_use]
    pub fn error(&self, item: usize) -> Option<ApiError> {
        match self.items[item].outcome? {
            ReadOutcome::Conflict => Some(ApiError::new(
                ErrorCode::Unavailable,
                "one replica has the object and another one its deletion, which nobody resolves",
                "a new write or deletion of it, or another deletion strategy",
            )),
            ReadOutcome::Failed => {
                let took_part = self.answered().len();
                let mut message = format!(
                    "{took_part} of {} replicas took part in the read, {} needed for {}",
                    self.replicas, self.needed, self.level
                );
                let forgotten = self.forgotten_by(item);
                if forgotten > 0 {
                    message.push_str(&format!("; {forgotten} may have forgotten its deletion"));
                }
                if let Some(refusal) = &self.refusal {
                    message.push_str(&format!("; one refused: {refusal}"));
                }
                Some(ApiError::transient(ErrorCode::Unavailable, message))
            }
            ReadOutcome::Found(_) | ReadOutcome::Deleted(_) | ReadOutcome::Absent => None,
        }
    }

    /// Replicas whose versions count.
    #[must_use]
    pub fn answered(&self) -> ReplicaSet {
        let answered = self.asked.iter().filter(|asked| asked.has_answered);
        answered.map(|asked| asked.replica).collect()
    }

    fn asked(&mut self, replica: u8) -> Option<&mut Asked> {
        self.asked.iter_mut().find(|asked| asked.replica == replica)
    }

    /// Ends the read that is under way at a replica; none where there is none.
    fn end_reading(&mut self, replica: u8) -> Option<Items> {
        self.asked(replica)?.reading.take()
    }

    fn take_copies(&mut self, replica: u8, copies: Vec<Option<(ObjectDigest, R)>>) {
        let count = self.items.len();
        let Some(items) = self.end_reading(replica) else { return };
        items.iter(count).for_each(|item| self.items[item].is_fetched = false);
        if copies.len() != items.len(count) {
            return self.fail_now(replica);
        }
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.replica == replica) else {
            return;
        };
        asked.has_answered = true;
        for (index, copy) in items.iter(count).zip(copies) {
            asked.versions[index] = copy.as_ref().map(|(version, _)| *version);
            let item = &mut self.items[index];
            let known = item.record.as_ref().map(|(version, _)| *version);
            if asked.versions[index] > known && item.outcome.is_none() {
                item.record = copy;
            }
        }
    }

    fn take_digests(&mut self, replica: u8, digests: Vec<Option<ObjectDigest>>) {
        let count = self.items.len();
        let Some(items) = self.end_reading(replica) else { return };
        if digests.len() != items.len(count) {
            return self.fail_now(replica);
        }
        let Some(asked) = self.asked(replica) else { return };
        asked.has_answered = true;
        for (index, version) in items.iter(count).zip(digests) {
            asked.versions[index] = version;
        }
    }

    fn fail(&mut self, replica: u8, error: Option<Box<ApiError>>) {
        let Some(items) = self.end_reading(replica) else { return };
        items.iter(self.items.len()).for_each(|item| self.items[item].is_fetched = false);
        if self.refusal.is_none() {
            self.refusal = error;
        }
        self.fail_now(replica);
    }

    fn fail_now(&mut self, replica: u8) {
        if let Some(asked) = self.asked(replica) {
            asked.has_failed = true;
            asked.has_answered = false;
        }
    }

    fn take_repair(&mut self, replica: u8, answers: &[ItemAnswer]) {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.replica == replica) else {
            return;
        };
        if !asked.is_sending {
            return;
        }
        let sent = std::mem::take(&mut asked.repairing);
        asked.is_sending = false;
        asked.is_beyond_repair |= sent.len() != answers.len();
        for ((index, version), answer) in sent.into_iter().zip(answers) {
            let item = index as usize;
            match answer {
                ItemAnswer::Applied { .. } | ItemAnswer::Known { .. } | ItemAnswer::Superseded => {
                    asked.versions[item] = asked.versions[item].max(Some(version));
                }
                // A deletion that is forgotten is as good as one that is kept.
                ItemAnswer::BelowFloor if version.is_tombstone => {
                    asked.versions[item] = asked.versions[item].max(Some(version));
                }
                ItemAnswer::BelowFloor => asked.forgotten.push((index, version)),
                ItemAnswer::Refused(error) => {
                    asked.is_beyond_repair = true;
                    self.refusal.get_or_insert_with(|| error.clone());
                }
            }
        }
    }

    fn give_up(&mut self) {
        for item in self.items.iter_mut().filter(|item| item.outcome.is_none()) {
            item.outcome = Some(ReadOutcome::Failed);
        }
        self.undecided = 0;
    }

    /// The version that wins by what is known of an item now; none where nobody has any, or
    /// nobody may say.
    ///
    /// Panics: there is no such item (a caller bug).
    #[must_use]
    pub fn winner(&self, item: usize) -> Option<ObjectDigest> {
        match self.verdict(item) {
            Verdict::Wins(winner) => winner,
            Verdict::Conflict => None,
        }
    }

    fn verdict(&self, item: usize) -> Verdict {
        let answered = self.asked.iter().filter(|asked| asked.has_answered);
        resolve(self.strategy, answered.map(|asked| asked.versions[item]))
    }

    /// Does what the versions known by now ask for.
    fn advance(&mut self, effects: &mut Vec<ReadEffect>) {
        self.decide_forgotten();
        self.ask_enough(effects);
        let mut fetches = Batches::default();
        let mut repairs = Batches::default();
        if self.answered().len() >= self.needed {
            for index in 0..self.items.len() {
                if self.items[index].outcome.is_none() {
                    self.advance_item(index, &mut fetches, &mut repairs);
                }
            }
        }
        for (replica, items) in fetches.0 {
            let items = Items::of(items, self.items.len());
            if let Some(asked) = self.asked(replica) {
                asked.reading = Some(items.clone());
            }
            effects.push(ReadEffect::Fetch { replica, items });
        }
        for (replica, items) in repairs.0 {
            if let Some(asked) = self.asked(replica) {
                asked.is_sending = true;
            }
            effects.push(ReadEffect::Repair { replica, items });
        }
        if self.undecided == 0 {
            self.is_answered = true;
            effects.push(ReadEffect::Answer);
        }
    }

    /// Decides the ids whose newest version so many replicas have forgotten that no quorum can have
    /// it any more: they were deleted. Fewer may have lost what the others still have.
    fn decide_forgotten(&mut self) {
        if self.asked.iter().all(|asked| asked.forgotten.is_empty()) {
            return;
        }
        let bearable = self.replicas.saturating_sub(Consistency::Quorum.needed(self.replicas));
        for index in 0..self.items.len() {
            if self.items[index].outcome.is_none() && self.forgotten_by(index) > bearable {
                self.decide(index, ReadOutcome::Absent);
            }
        }
    }

    /// How many replicas have forgotten the newest version of an item.
    fn forgotten_by(&self, item: usize) -> usize {
        let winner = self.winner(item);
        self.asked.iter().filter(|asked| asked.has_forgotten(item, winner)).count()
    }

    /// Asks more replicas while an id cannot reach its level with those asked, and gives up on the
    /// ids that cannot reach it with anyone.
    fn ask_enough(&mut self, effects: &mut Vec<ReadEffect>) {
        let mut index = 0;
        while index < self.items.len() {
            if self.items[index].outcome.is_some() || self.is_possible(index) {
                index += 1;
                continue;
            }
            let has_full = self.asked.iter().any(|asked| asked.is_full && !asked.has_failed);
            let depth = if has_full { Depth::Digests } else { Depth::Records };
            if !self.ask_next(depth, effects) {
                self.decide(index, ReadOutcome::Failed);
            }
        }
    }

    fn is_possible(&self, item: usize) -> bool {
        let winner = self.winner(item);
        let may_hold = self.asked.iter().filter(|asked| asked.may_hold(item, winner));
        may_hold.count() >= self.needed
    }

    /// Asks the next replica for every undecided id; false when there is none left.
    fn ask_next(&mut self, depth: Depth, effects: &mut Vec<ReadEffect>) -> bool {
        let Some(replica) = self.untried.pop() else { return false };
        let undecided = self.items.iter().enumerate().filter(|(_, item)| item.outcome.is_none());
        let items = if self.undecided == self.items.len() {
            Items::All
        } else {
            Items::Some(undecided.map(|(index, _)| index as u32).collect())
        };
        self.asked.push(Asked {
            replica,
            is_full: depth == Depth::Records,
            has_answered: false,
            has_failed: false,
            is_beyond_repair: false,
            versions: vec![None; self.items.len()],
            forgotten: Vec::new(),
            reading: Some(items.clone()),
            repairing: Vec::new(),
            is_sending: false,
        });
        effects.push(match depth {
            Depth::Records => ReadEffect::Fetch { replica, items },
            Depth::Digests => ReadEffect::Digest { replica, items },
        });
        true
    }

    fn decide(&mut self, item: usize, outcome: ReadOutcome) {
        self.items[item].outcome = Some(outcome);
        self.undecided -= 1;
    }

    /// Fetches the winner where it is not at hand, sends it to who lacks it, and decides the id
    /// once as many replicas as the level asks for have it.
    fn advance_item(&mut self, index: usize, fetches: &mut Batches, repairs: &mut Batches) {
        let winner = match self.verdict(index) {
            Verdict::Conflict => return self.decide(index, ReadOutcome::Conflict),
            Verdict::Wins(None) => return self.decide(index, ReadOutcome::Absent),
            Verdict::Wins(Some(winner)) => winner,
        };
        let at_hand = self.items[index].record.as_ref().map(|(version, _)| *version);
        if !winner.is_tombstone && at_hand != Some(winner) {
            let has_it = |asked: &&Asked| {
                asked.has_answered
                    && asked.versions[index] == Some(winner)
                    && asked.reading.is_none()
            };
            if !self.items[index].is_fetched
                && let Some(holder) = self.asked.iter().find(has_it)
            {
                fetches.add(holder.replica, index);
                self.items[index].is_fetched = true;
            }
            return;
        }
        let mut holders = 0;
        for asked in self.asked.iter_mut().filter(|asked| asked.has_answered) {
            if asked.versions[index] >= Some(winner) {
                holders += 1;
            } else if !asked.is_beyond_repair
                && !asked.is_sending
                && !asked.has_forgotten(index, Some(winner))
            {
                repairs.add(asked.replica, index);
                asked.repairing.push((index as u32, winner));
            }
        }
        if holders >= self.needed {
            self.decide(
                index,
                match winner.is_tombstone {
                    true => ReadOutcome::Deleted(winner.stamp),
                    false => ReadOutcome::Found(winner),
                },
            );
        }
    }
}

/// Items by replica, in the order in which replicas came up.
#[derive(Default)]
struct Batches(Vec<(u8, Vec<u32>)>);

impl Batches {
    fn add(&mut self, replica: u8, item: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == replica) {
            Some((_, items)) => items.push(item as u32),
            None => self.0.push((replica, vec![item as u32])),
        }
    }
}
