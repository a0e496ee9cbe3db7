//! Time that moves only when told to.

use std::cell::Cell;
use std::rc::Rc;

use heddle_types::Clock;

/// A shared manual clock; clones show the same time.
#[derive(Clone, Debug)]
pub struct SimClock {
    unix_us: Rc<Cell<u64>>,
    monotonic_ns: Rc<Cell<u64>>,
}

impl SimClock {
    /// A clock at `unix_us` microseconds after the Unix epoch.
    #[must_use]
    pub fn new(unix_us: u64) -> Self {
        Self { unix_us: Rc::new(Cell::new(unix_us)), monotonic_ns: Rc::default() }
    }

    /// Lets `us` microseconds pass.
    pub fn advance_us(&self, us: u64) {
        self.unix_us.set(self.unix_us.get() + us);
        self.monotonic_ns.set(self.monotonic_ns.get() + us * 1_000);
    }

    /// Sets the wall clock, forwards or backwards; monotonic time does not jump.
    pub fn set_unix_us(&self, unix_us: u64) {
        self.unix_us.set(unix_us);
    }
}

impl Clock for SimClock {
    fn unix_us(&self) -> u64 {
        self.unix_us.get()
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.get()
    }
}
