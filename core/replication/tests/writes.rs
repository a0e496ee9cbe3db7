//! Does a write end as the definition of its level says, whatever the replicas do and in whatever
//! order their answers come?

mod common;

use common::{Random, permutations, refusal};
use heddle_replication::{
    ItemAnswer, Items, ReplicaSet, WriteEffect, WriteEvent, WriteMachine, WriteOutcome,
    WriteRequest,
};
use heddle_types::{Consistency, ErrorCode, Retry};

const DEADLINE_US: u64 = 1_000;

/// All that can happen to a write at one replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Applied,
    Known,
    Superseded,
    BelowFloor,
    RefusedItem,
    RefusedWhole,
    Lost,
    Silent,
}

const FATES: [Fate; 8] = [
    Fate::Applied,
    Fate::Known,
    Fate::Superseded,
    Fate::BelowFloor,
    Fate::RefusedItem,
    Fate::RefusedWhole,
    Fate::Lost,
    Fate::Silent,
];

impl Fate {
    fn event(self, replica: u8) -> Option<WriteEvent> {
        let answer = match self {
            Self::Applied => ItemAnswer::Applied { existed: false },
            Self::Known => ItemAnswer::Known { existed: true },
            Self::Superseded => ItemAnswer::Superseded,
            Self::BelowFloor => ItemAnswer::BelowFloor,
            Self::RefusedItem => ItemAnswer::Refused(refusal("item")),
            Self::RefusedWhole => {
                return Some(WriteEvent::Refused { replica, error: refusal("whole") });
            }
            Self::Lost => return Some(WriteEvent::Lost { replica }),
            Self::Silent => return None,
        };
        Some(WriteEvent::Answered { replica, answers: vec![answer] })
    }

    fn is_ack(self) -> bool {
        matches!(self, Self::Applied | Self::Known)
    }

    /// Whether the replica may have the write, or have had it, for all that the coordinator knows.
    fn may_have(self) -> bool {
        self.is_ack() || matches!(self, Self::Superseded | Self::Lost | Self::Silent)
    }

    fn is_hinted(self) -> bool {
        matches!(self, Self::RefusedItem | Self::RefusedWhole | Self::Lost | Self::Silent)
    }
}

fn request(replicas: u8, level: Consistency, reachable: ReplicaSet, items: usize) -> WriteRequest {
    let replicas = usize::from(replicas);
    WriteRequest { replicas, reachable, level, items, deadline_us: DEADLINE_US }
}

/// One run with one item, checked against the definition step by step.
struct Run {
    factor: u8,
    needed: usize,
    reachable: ReplicaSet,
    fates: Vec<Fate>,
    machine: WriteMachine,
    told: ReplicaSet,
    answered_at: Option<usize>,
    hinted: ReplicaSet,
    is_finished: bool,
    story: String,
}

impl Run {
    fn new(factor: u8, level: Consistency, reachable: ReplicaSet, fates: &[Fate]) -> Self {
        let mut effects = Vec::new();
        let machine = WriteMachine::start(request(factor, level, reachable, 1), &mut effects);
        let needed = level.needed(usize::from(factor));
        let is_possible = reachable.len() >= needed;
        let sent = if is_possible { reachable } else { ReplicaSet::EMPTY };
        let is_send = |effect: &&WriteEffect| matches!(effect, WriteEffect::Send { .. });
        let sends: Vec<&WriteEffect> = effects.iter().filter(is_send).collect();
        let expected: Vec<_> = sent.iter().map(|replica| WriteEffect::Send { replica }).collect();
        assert_eq!(sends, expected.iter().collect::<Vec<_>>());
        let story = format!("{factor} {level} {reachable:?} {fates:?}");
        let mut run = Self {
            factor,
            needed,
            reachable: sent,
            fates: fates.to_vec(),
            machine,
            told: ReplicaSet::EMPTY,
            answered_at: None,
            hinted: ReplicaSet::EMPTY,
            is_finished: false,
            story,
        };
        run.take(0, effects);
        run
    }

    fn fate(&self, replica: u8) -> Fate {
        self.fates[usize::from(replica)]
    }

    fn step(&mut self, step: usize, now_us: u64, event: WriteEvent) {
        let mut effects = Vec::new();
        self.machine.handle(now_us, event, &mut effects);
        self.take(step, effects);
    }

    fn take(&mut self, step: usize, effects: Vec<WriteEffect>) {
        for effect in effects {
            assert!(!self.is_finished, "{}: {effect:?} after the end", self.story);
            match effect {
                WriteEffect::Send { .. } => assert_eq!(step, 0, "{}", self.story),
                WriteEffect::Answer => {
                    assert_eq!(self.answered_at, None, "{}", self.story);
                    self.answered_at = Some(step);
                }
                WriteEffect::Hint { replica, items } => {
                    assert!(self.answered_at.is_some(), "{}: hint before answer", self.story);
                    assert!(!self.hinted.contains(replica), "{}: second hint", self.story);
                    assert_eq!(items, Items::All);
                    self.hinted.insert(replica);
                }
                WriteEffect::Finish => self.is_finished = true,
            }
        }
        self.check(step);
    }

    /// The definition, from what the coordinator can know by now.
    fn check(&self, step: usize) {
        let story = &self.story;
        let acks = self.told.iter().filter(|replica| self.fate(*replica).is_ack()).count();
        let pending = self.reachable.minus(self.told).len();
        let is_reached = acks >= self.needed;
        let is_out_of_reach = acks + pending < self.needed;
        let may_have = self.told.iter().any(|replica| self.fate(replica).may_have());
        let is_decided = is_reached || (is_out_of_reach && (may_have || pending == 0));
        assert_eq!(self.machine.outcome(0).is_some(), is_decided, "{story}: step {step}");
        assert_eq!(self.answered_at.is_some(), is_decided, "{story}: step {step}");
        assert_eq!(self.is_finished, pending == 0, "{story}: step {step}");
        assert_eq!(self.machine.deadline().is_none(), self.is_finished, "{story}");
        if self.answered_at == Some(step) {
            let expected = match (is_reached, may_have) {
                (true, _) => "applied",
                (false, true) => "unknown",
                (false, false) => "not applied",
            };
            assert_eq!(name(self.machine.outcome(0)), expected, "{story}: step {step}");
        }
    }

    fn check_end(&self) {
        let story = &self.story;
        assert!(self.is_finished, "{story}");
        let outcome = self.machine.outcome(0).expect("everything is known at the end");
        let anyone = self.reachable.iter().any(|replica| self.fate(replica).may_have());
        assert_eq!(outcome == WriteOutcome::NotApplied, !anyone, "{story}: nowhere is nowhere");
        let error = self.machine.error(0);
        match outcome {
            WriteOutcome::Applied { .. } => assert_eq!(error, None, "{story}"),
            WriteOutcome::NotApplied => {
                let code = error.map(|error| error.code);
                assert!(code.is_some_and(|code| code != ErrorCode::Unknown), "{story}");
            }
            WriteOutcome::Unknown => {
                let error = error.expect("an unknown outcome is told");
                assert_eq!((error.code, error.retry), (ErrorCode::Unknown, Retry::MayHaveApplied));
            }
        }
        let lacks = |replica: &u8| {
            anyone && (!self.reachable.contains(*replica) || self.fate(*replica).is_hinted())
        };
        let lacking: ReplicaSet = (0..self.factor).filter(lacks).collect();
        assert_eq!(self.hinted, lacking, "{story}: who lacks it gets a hint, and nobody else");
    }
}

fn name(outcome: Option<WriteOutcome>) -> &'static str {
    match outcome {
        None => "open",
        Some(WriteOutcome::Applied { .. }) => "applied",
        Some(WriteOutcome::NotApplied) => "not applied",
        Some(WriteOutcome::Unknown) => "unknown",
    }
}

fn fates_of(mut number: usize, factor: u8) -> Vec<Fate> {
    let mut fates = Vec::new();
    for _ in 0..factor {
        fates.push(FATES[number % FATES.len()]);
        number /= FATES.len();
    }
    fates
}

#[test]
fn every_fate_of_every_replica_in_every_order_ends_as_defined() {
    let mut runs = 0;
    for factor in 1..=3_u8 {
        for number in 0..FATES.len().pow(u32::from(factor)) {
            let fates = fates_of(number, factor);
            for mask in 0..1_u8 << factor {
                let reachable: ReplicaSet = (0..factor).filter(|r| mask & (1 << r) != 0).collect();
                for level in Consistency::LEVELS {
                    for order in permutations(factor) {
                        one_run(factor, level, reachable, &fates, &order);
                        runs += 1;
                    }
                }
            }
        }
    }
    assert_eq!(runs, 8 * 2 * 3 + 64 * 4 * 3 * 2 + 512 * 8 * 3 * 6);
}

fn one_run(factor: u8, level: Consistency, reachable: ReplicaSet, fates: &[Fate], order: &[u8]) {
    let mut run = Run::new(factor, level, reachable, fates);
    for (index, replica) in order.iter().copied().enumerate() {
        let Some(event) = run.fate(replica).event(replica) else { continue };
        if run.reachable.contains(replica) {
            run.told.insert(replica);
        }
        run.step(index + 1, 5, event.clone());
        // A second delivery of the same, or what was lost but comes late, changes nothing.
        run.step(index + 1, 5, event);
        run.step(index + 1, 5, WriteEvent::Answered { replica, answers: Vec::new() });
        run.step(index + 1, DEADLINE_US - 1, WriteEvent::Due);
    }
    run.told = run.reachable;
    run.step(order.len() + 1, DEADLINE_US, WriteEvent::Due);
    run.check_end();
}

#[test]
fn items_of_one_request_end_as_if_each_had_been_alone() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let factor = 1 + random.below(5) as u8;
        let level = Consistency::LEVELS[random.below(3)];
        let reachable: ReplicaSet = (0..factor).filter(|_| random.chance(85)).collect();
        let items = 1 + random.below(9);
        let mut effects = Vec::new();
        let mut whole = WriteMachine::start(request(factor, level, reachable, items), &mut effects);
        let mut alone: Vec<(WriteMachine, Vec<WriteEffect>)> = (0..items)
            .map(|_| {
                let mut effects = Vec::new();
                let request = request(factor, level, reachable, 1);
                (WriteMachine::start(request, &mut effects), effects)
            })
            .collect();
        let mut order: Vec<u8> = (0..factor).collect();
        random.shuffle(&mut order);
        for replica in order {
            let now_us = if random.chance(15) { DEADLINE_US } else { 0 };
            let per_item: Vec<Fate> = match random.below(5) {
                0 => vec![FATES[5 + random.below(3)]; items],
                _ => (0..items).map(|_| FATES[random.below(5)]).collect(),
            };
            feed(&mut whole, now_us, joined(replica, &per_item), &mut effects);
            for (fate, (machine, effects)) in per_item.iter().zip(&mut alone) {
                feed(machine, now_us, fate.event(replica), effects);
            }
        }
        feed(&mut whole, DEADLINE_US, None, &mut effects);
        alone.iter_mut().for_each(|(machine, effects)| feed(machine, DEADLINE_US, None, effects));
        for (item, (machine, effects_alone)) in alone.iter().enumerate() {
            assert_eq!(whole.outcome(item), machine.outcome(0), "seed {seed}, item {item}");
            assert_eq!(whole.acks(item), machine.acks(0), "seed {seed}, item {item}");
            assert_eq!(whole.error(item), machine.error(0), "seed {seed}, item {item}");
            assert_eq!(
                hinted(&effects, item, items),
                hinted(effects_alone, 0, 1),
                "seed {seed}, item {item}"
            );
        }
        let answers = effects.iter().filter(|effect| **effect == WriteEffect::Answer).count();
        assert_eq!(answers, 1, "seed {seed}");
        assert_eq!(effects.last(), Some(&WriteEffect::Finish), "seed {seed}");
    }
}

fn feed(
    machine: &mut WriteMachine,
    now_us: u64,
    event: Option<WriteEvent>,
    effects: &mut Vec<WriteEffect>,
) {
    machine.handle(now_us, event.unwrap_or(WriteEvent::Due), effects);
    machine.handle(now_us, WriteEvent::Due, effects);
}

fn joined(replica: u8, fates: &[Fate]) -> Option<WriteEvent> {
    let mut answers = Vec::new();
    for fate in fates {
        match fate.event(replica)? {
            WriteEvent::Answered { answers: one, .. } => answers.extend(one),
            other => return Some(other),
        }
    }
    Some(WriteEvent::Answered { replica, answers })
}

fn hinted(effects: &[WriteEffect], item: usize, items: usize) -> ReplicaSet {
    let hint = |effect: &WriteEffect| match effect {
        WriteEffect::Hint { replica, items: hinted } => {
            hinted.iter(items).any(|index| index == item).then_some(*replica)
        }
        _ => None,
    };
    effects.iter().filter_map(hint).collect()
}

#[test]
fn an_answer_with_a_wrong_number_of_items_is_no_answer() {
    let everyone = ReplicaSet::first(3);
    let mut effects = Vec::new();
    let mut machine = WriteMachine::start(request(3, Consistency::One, everyone, 2), &mut effects);
    effects.clear();
    let answers = vec![ItemAnswer::Applied { existed: false }; 3];
    machine.handle(0, WriteEvent::Answered { replica: 0, answers }, &mut effects);
    assert_eq!((effects, machine.outcome(0)), (Vec::new(), None));
}

#[test]
fn messages_say_what_was_missing() {
    let one = ReplicaSet::first(1);
    let mut effects = Vec::new();
    let machine = WriteMachine::start(request(3, Consistency::Quorum, one, 1), &mut effects);
    assert_eq!(effects, [WriteEffect::Answer, WriteEffect::Finish]);
    let error = machine.error(0).expect("too few are reachable");
    assert_eq!(
        error.to_string(),
        "Unavailable: 1 of 3 replicas can be reached, 2 needed for quorum"
    );
    assert_eq!(error.retry, Retry::Safe);

    let everyone = ReplicaSet::first(3);
    let mut machine = WriteMachine::start(request(3, Consistency::All, everyone, 1), &mut effects);
    let answers = |answer| vec![answer];
    let applied = answers(ItemAnswer::Applied { existed: true });
    machine.handle(0, WriteEvent::Answered { replica: 0, answers: applied }, &mut effects);
    let answers = answers(ItemAnswer::Superseded);
    machine.handle(0, WriteEvent::Answered { replica: 1, answers }, &mut effects);
    let error = machine.error(0).expect("one replica has a newer version");
    assert_eq!(
        error.message,
        "1 of 3 replicas are known to have the write, 3 needed for all; 1 have a newer one; \
         1 may still answer"
    );
}

#[test]
fn existing_objects_are_told_from_new_ones_by_those_who_answered_in_time() {
    let everyone = ReplicaSet::first(3);
    let mut effects = Vec::new();
    let mut machine =
        WriteMachine::start(request(3, Consistency::Quorum, everyone, 1), &mut effects);
    for (replica, existed) in [(2, false), (0, true), (1, true)] {
        let answers = vec![ItemAnswer::Applied { existed }];
        machine.handle(0, WriteEvent::Answered { replica, answers }, &mut effects);
    }
    assert_eq!(machine.outcome(0), Some(WriteOutcome::Applied { existed: true }));
    let mut machine = WriteMachine::start(request(3, Consistency::One, everyone, 1), &mut effects);
    for (replica, existed) in [(2, false), (0, true)] {
        let answers = vec![ItemAnswer::Applied { existed }];
        machine.handle(0, WriteEvent::Answered { replica, answers }, &mut effects);
    }
    assert_eq!(machine.outcome(0), Some(WriteOutcome::Applied { existed: false }));
    assert_eq!(machine.acks(0).len(), 2);
}
