//! One run against one target: inputs out of a seed, and what each execution may cost.

use crate::mutate::mutate;
use crate::random::Random;
use crate::targets::Target;

/// What an execution may allocate whatever its input: fixed buffers and tables.
pub const ALLOCATED_FIXED_BYTES_MAX: usize = 1 << 20;

/// An execution that allocated more than its input justifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverAllocation {
    /// Bytes the execution asked for.
    pub allocated_bytes: usize,
    /// Bytes it might have asked for.
    pub limit_bytes: usize,
}

/// A target, its corpus and where in the sequence of inputs the run stands.
#[derive(Debug)]
pub struct Session<'a> {
    target: &'a Target,
    corpus: Vec<Vec<u8>>,
    random: Random,
    input: Vec<u8>,
    execution_count: u64,
    allocated_bytes_highest: usize,
}

impl<'a> Session<'a> {
    /// A session whose inputs follow from `seed`, the target's own seeds and `corpus`.
    #[must_use]
    pub fn new(target: &'a Target, seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        let mut all = (target.seeds)();
        all.extend(corpus);
        all.push(Vec::new());
        Self {
            target,
            corpus: all,
            random: Random::new(seed),
            input: Vec::new(),
            execution_count: 0,
            allocated_bytes_highest: 0,
        }
    }

    /// Makes the next input: first each entry of the corpus as it is, then mutations.
    pub fn advance(&mut self) -> &[u8] {
        let index = usize::try_from(self.execution_count).unwrap_or(usize::MAX);
        match self.corpus.get(index) {
            Some(entry) => self.input.clone_from(entry),
            None => mutate(&self.corpus, &mut self.random, &mut self.input),
        }
        self.execution_count += 1;
        &self.input
    }

    /// Runs the target on the current input; `allocated` reads the allocator's running total.
    ///
    /// Panics where the target does: that is what the run is for.
    pub fn execute(&mut self, allocated: impl Fn() -> usize) -> Result<(), OverAllocation> {
        let before = allocated();
        (self.target.run)(&self.input);
        let allocated_bytes = allocated() - before;
        self.allocated_bytes_highest = self.allocated_bytes_highest.max(allocated_bytes);
        let per_byte = self.target.allocated_per_byte_max;
        let limit_bytes = per_byte * self.input.len() + ALLOCATED_FIXED_BYTES_MAX;
        if allocated_bytes > limit_bytes {
            return Err(OverAllocation { allocated_bytes, limit_bytes });
        }
        Ok(())
    }

    /// The input of the current execution.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// Entries that mutations start from.
    #[must_use]
    pub fn corpus_count(&self) -> usize {
        self.corpus.len()
    }

    /// Inputs made so far.
    #[must_use]
    pub fn execution_count(&self) -> u64 {
        self.execution_count
    }

    /// The most that one execution has allocated so far.
    #[must_use]
    pub fn allocated_bytes_highest(&self) -> usize {
        self.allocated_bytes_highest
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::catch_unwind;

    use super::*;

    thread_local! {
        static COUNTED: Cell<usize> = const { Cell::new(0) };
    }

    /// A decoder with a planted fault: it trusts a length.
    fn trusts_a_length(data: &[u8]) {
        if let Some(length) = data.get(4..8).and_then(|field| field.first_chunk()) {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap();
            COUNTED.set(COUNTED.get() + length);
        }
    }

    /// A decoder with a planted fault: it slices by a length that it read.
    fn slices_by_a_length(data: &[u8]) {
        if data.len() > 1 && data[0] == b'h' {
            assert!(data[1..].len() >= usize::from(data[1]), "planted");
        }
    }

    fn planted(run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
        Target { name: "planted", run, seeds, allocated_per_byte_max: 2 }
    }

    fn seeds() -> Vec<Vec<u8>> {
        vec![b"heddle\x00\x00 guides the warp".to_vec(), b"h\x02ab".to_vec()]
    }

    #[test]
    fn a_decoder_that_trusts_a_length_is_found() {
        let target = planted(trusts_a_length, || vec![vec![0; 16]]);
        let mut session = Session::new(&target, 5, Vec::new());
        let found = (0..20_000).find_map(|_| {
            session.advance();
            session.execute(|| COUNTED.get()).err()
        });
        let found = found.expect("20,000 inputs miss a trusted length");
        assert!(found.allocated_bytes > found.limit_bytes);
        assert!(session.allocated_bytes_highest() >= found.allocated_bytes);
    }

    #[test]
    fn a_decoder_that_panics_is_found() {
        let found = catch_unwind(|| {
            let target = planted(slices_by_a_length, seeds);
            let mut session = Session::new(&target, 5, Vec::new());
            for _ in 0..20_000 {
                session.advance();
                assert_eq!(session.execute(|| 0), Ok(()));
            }
        });
        let message = found.expect_err("20,000 inputs miss a planted panic");
        assert_eq!(message.downcast_ref::<&str>(), Some(&"planted"));
    }

    #[test]
    fn the_corpus_comes_first_and_unchanged() {
        fn nothing(_: &[u8]) {}
        let target = planted(nothing, seeds);
        let mut session = Session::new(&target, 5, vec![b"from a file".to_vec()]);
        let first: Vec<Vec<u8>> = (0..4).map(|_| session.advance().to_vec()).collect();
        assert_eq!(first[..2], seeds()[..]);
        assert_eq!(first[2..], [b"from a file".to_vec(), Vec::new()]);
        assert_eq!(session.execution_count(), 4);
    }
}
