//! What happened, as a hash that is equal in equal runs, and as lines when somebody reads them.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::time::now_us;

/// The trace of one run.
pub(crate) struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    lines: Option<RefCell<Vec<String>>>,
}

impl Trace {
    pub(crate) fn new(keeps_lines: bool) -> Self {
        let lines = keeps_lines.then(RefCell::default);
        Self { hash: Cell::new(0xCBF2_9CE4_8422_2325), events: Cell::new(0), lines }
    }

    /// An event: its kind, the numbers that tell it from others, and a line about it.
    pub(crate) fn note<L: fmt::Display>(
        &self,
        kind: &str,
        numbers: &[u64],
        line: impl FnOnce() -> L,
    ) {
        self.events.set(self.events.get() + 1);
        let mut hash = self.hash.get();
        let mut mix = |word: u64| {
            hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01B3);
            hash ^= hash >> 29;
        };
        mix(now_us());
        kind.bytes().for_each(|byte| mix(u64::from(byte)));
        numbers.iter().copied().for_each(&mut mix);
        self.hash.set(hash);
        if let Some(lines) = &self.lines {
            let seconds = now_us() as f64 / 1e6;
            lines.borrow_mut().push(format!("{seconds:12.6} {kind:<9} {}", line()));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.lines.as_ref().map(RefCell::take).unwrap_or_default()
    }
}
