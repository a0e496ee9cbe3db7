//! Is a history linearizable: is there an order of its operations that respects time and in which
//! each has the result that was seen?
//!
//! The search of Wing and Gong with the memory of Lowe: operations are placed one after the other,
//! those that were called first before others, and a set of placed operations that was reached with
//! the same state before is not tried again. An operation without a result may take effect at any
//! moment after its call, or never.

use std::collections::BTreeSet;

/// What operations do.
pub trait Model {
    /// What they act on.
    type State: Clone + Ord;
    /// A call with the result that was seen, if one was.
    type Operation;

    /// The state before everything.
    fn start(&self) -> Self::State;

    /// The state after an operation; `None` when it could not have had its result then.
    fn apply(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;
}

/// An operation and when it was under way, by one clock.
#[derive(Clone, Debug)]
pub struct Event<O> {
    /// When it was called.
    pub called: u64,
    /// When its result came; none when no result is known.
    pub returned: Option<u64>,
    /// What it was.
    pub operation: O,
}

/// What came of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none; so many operations could be placed at most.
    Broken {
        /// Operations that the longest order found holds.
        placed: usize,
    },
    /// More sets would have to be looked at than allowed.
    Undecided,
}

/// Checks a history; `sets_max` bounds memory and time.
///
/// Cost: exponential in how many operations overlap, linear in how many there are.
pub fn check<M: Model>(model: &M, history: &[Event<M::Operation>], sets_max: usize) -> Verdict {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|position| history[*position].called);
    let mut search = Search {
        model,
        history,
        order,
        placed: vec![0; history.len().div_ceil(64)],
        seen: BTreeSet::new(),
        furthest: 0,
    };
    // Each step on the way: the state before it, what else could have come, and what did.
    let mut path: Vec<(M::State, Vec<usize>, usize)> = Vec::new();
    let mut state = model.start();
    let mut candidates = search.candidates();
    loop {
        if search.is_done() {
            return Verdict::Linearizable;
        }
        if search.seen.len() > sets_max {
            return Verdict::Undecided;
        }
        if let Some((position, next)) = search.place(&state, &mut candidates) {
            path.push((std::mem::replace(&mut state, next), candidates, position));
            candidates = search.candidates();
            continue;
        }
        let Some((before, rest, position)) = path.pop() else {
            return Verdict::Broken { placed: search.furthest };
        };
        search.take_back(position);
        (state, candidates) = (before, rest);
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Event<M::Operation>],
    /// The operations by the time of their call.
    order: Vec<usize>,
    placed: Vec<u64>,
    seen: BTreeSet<(Vec<u64>, M::State)>,
    furthest: usize,
}

impl<M: Model> Search<'_, M> {
    fn is_placed(&self, position: usize) -> bool {
        self.placed[position / 64] >> (position % 64) & 1 == 1
    }

    fn take_back(&mut self, position: usize) {
        self.placed[position / 64] &= !(1 << (position % 64));
    }

    /// Every operation with a result has its place.
    fn is_done(&self) -> bool {
        let mut events = self.history.iter().enumerate();
        events.all(|(position, event)| event.returned.is_none() || self.is_placed(position))
    }

    /// The operations that may come next: called before any that is left has returned.
    fn candidates(&self) -> Vec<usize> {
        let left = || self.order.iter().copied().filter(|position| !self.is_placed(*position));
        let returns = left().filter_map(|position| self.history[position].returned);
        let first_return = returns.min().unwrap_or(u64::MAX);
        let may_come = |position: &usize| self.history[*position].called <= first_return;
        // Taken from the end: those with a result before those without, the earliest call first.
        let mut candidates: Vec<usize> = left().take_while(may_come).collect();
        candidates.reverse();
        candidates.sort_by_key(|position| self.history[*position].returned.is_some());
        candidates
    }

    /// Places the next candidate that fits and leads to something new.
    fn place(
        &mut self,
        state: &M::State,
        candidates: &mut Vec<usize>,
    ) -> Option<(usize, M::State)> {
        while let Some(position) = candidates.pop() {
            let operation = &self.history[position].operation;
            let Some(next) = self.model.apply(state, operation) else { continue };
            self.placed[position / 64] |= 1 << (position % 64);
            if self.seen.insert((self.placed.clone(), next.clone())) {
                let count: u32 = self.placed.iter().map(|word| word.count_ones()).sum();
                self.furthest = self.furthest.max(count as usize);
                return Some((position, next));
            }
            self.take_back(position);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is written and read.
    struct Register;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Write(u8),
        Read(u8),
    }
    use Step::{Read, Write};

    impl Model for Register {
        type State = u8;
        type Operation = Step;

        fn start(&self) -> u8 {
            0
        }

        fn apply(&self, state: &u8, operation: &Step) -> Option<u8> {
            match operation {
                Write(value) => Some(*value),
                Read(value) => (value == state).then_some(*state),
            }
        }
    }

    fn event(called: u64, returned: impl Into<Option<u64>>, operation: Step) -> Event<Step> {
        Event { called, returned: returned.into(), operation }
    }

    fn verdict(history: &[Event<Step>]) -> Verdict {
        check(&Register, history, 1 << 20)
    }

    #[test]
    fn operations_one_after_the_other_have_one_order() {
        let good = [event(0, 1, Write(1)), event(2, 3, Read(1)), event(4, 5, Write(2))];
        assert_eq!(verdict(&good), Verdict::Linearizable);
        let stale = [event(0, 1, Write(1)), event(2, 3, Write(2)), event(4, 5, Read(1))];
        assert_eq!(verdict(&stale), Verdict::Broken { placed: 2 });
        assert_eq!(verdict(&[]), Verdict::Linearizable);
    }

    #[test]
    fn overlapping_operations_may_have_any_order_but_one_for_all() {
        let either = [event(0, 9, Write(1)), event(0, 9, Write(2)), event(10, 11, Read(1))];
        assert_eq!(verdict(&either), Verdict::Linearizable);
        // Two readers that see the two writes in different orders.
        let writes = [event(0, 3, Write(1)), event(0, 3, Write(2))];
        let both = [&writes[..], &[event(4, 5, Read(1)), event(6, 7, Read(2))]].concat();
        assert_eq!(verdict(&both), Verdict::Broken { placed: 3 });
    }

    #[test]
    fn an_operation_without_a_result_takes_effect_late_or_never() {
        let write = event(0, None, Write(7));
        for read in [0, 7] {
            let history = [write.clone(), event(5, 6, Read(read))];
            assert_eq!(verdict(&history), Verdict::Linearizable, "reads {read}");
        }
        // Not before it was called, and not undone.
        let early = [event(0, 1, Read(7)), event(2, None, Write(7))];
        assert!(matches!(verdict(&early), Verdict::Broken { .. }));
        let undone = [write, event(1, 2, Read(7)), event(3, 4, Read(0))];
        assert!(matches!(verdict(&undone), Verdict::Broken { .. }));
    }

    #[test]
    fn histories_of_a_register_pass_and_one_impossible_result_breaks_each() {
        for seed in 1..=200_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut draw = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            // Each takes effect at its moment, somewhere between its call and its return.
            let (mut value, mut history) = (0, Vec::new());
            for moment in (100..700).step_by(10) {
                let operation = match draw(2) {
                    0 => {
                        value = draw(5) as u8;
                        Write(value)
                    }
                    _ => Read(value),
                };
                history.push(event(moment - draw(40), moment + draw(40), operation));
            }
            assert_eq!(verdict(&history), Verdict::Linearizable, "seed {seed}");
            let is_read = |event: &&mut Event<Step>| matches!(event.operation, Read(_));
            let read = history.iter_mut().find(is_read).expect("one of sixty is a read");
            read.operation = Read(99);
            assert!(matches!(verdict(&history), Verdict::Broken { .. }), "seed {seed}");
        }
    }
}
