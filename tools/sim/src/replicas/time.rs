//! Time in the world: one true time, and clocks of nodes that are wrong about it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use heddle_meta::raft::Host;
use heddle_types::Clock;

use crate::SimHost;

/// When every world begins, microseconds since the Unix epoch.
pub(crate) const BEGINNING_US: u64 = 1_700_000_000_000_000;

/// True time since the world began, microseconds.
pub(crate) fn now_us() -> u64 {
    SimHost::now().as_micros() as u64
}

/// Waits some true time.
pub(crate) async fn sleep_us(us: u64) {
    SimHost::sleep(Duration::from_micros(us)).await;
}

/// The clock of a node; clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeClock {
    state: Rc<Cell<ClockState>>,
    jumps: Rc<Cell<u32>>,
}

/// How a clock is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClockError {
    /// Ahead of true time by so much; behind when negative.
    pub(crate) offset_us: i64,
    /// Fast by so many millionths; slow when negative.
    pub(crate) drift_ppm: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct ClockState {
    error: ClockError,
    /// True time when the drift last changed, and what had ticked by then.
    since_us: u64,
    ticked_us: u64,
}

impl NodeClock {
    pub(crate) fn new(error: ClockError) -> Self {
        let clock = Self::default();
        clock.state.set(ClockState { error, ..ClockState::default() });
        clock
    }

    /// Times that it was set.
    pub(crate) fn jumps(&self) -> u32 {
        self.jumps.get()
    }

    /// Sets the wall clock forwards or backwards.
    pub(crate) fn jump(&self, us: i64) {
        self.jumps.set(self.jumps.get() + 1);
        let mut state = self.state.get();
        state.error.offset_us += us;
        self.state.set(state);
    }

    /// True time from now on.
    pub(crate) fn mend(&self) {
        self.jumps.set(self.jumps.get() + 1);
        let (since_us, ticked_us) = (now_us(), self.ticked_us());
        let offset_us = since_us as i64 - ticked_us as i64;
        let error = ClockError { offset_us, drift_ppm: 0 };
        self.state.set(ClockState { error, since_us, ticked_us });
    }

    fn ticked_us(&self) -> u64 {
        let ClockState { error, since_us, ticked_us } = self.state.get();
        let passed = (now_us() - since_us) as i64;
        ticked_us + (passed + passed * error.drift_ppm / 1_000_000) as u64
    }
}

impl Clock for NodeClock {
    fn unix_us(&self) -> u64 {
        let offset_us = self.state.get().error.offset_us;
        BEGINNING_US.saturating_add(self.ticked_us()).saturating_add_signed(offset_us)
    }

    fn monotonic_ns(&self) -> u64 {
        self.ticked_us() * 1_000
    }
}
