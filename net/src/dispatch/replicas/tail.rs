//! Work that goes on after a client was answered: replicas that have not confirmed a write yet.

use std::cell::Cell;
use std::rc::Rc;

use heddle_runtime::Queue;

use crate::core::Core;

/// How many writes of a core are not settled at all of their replicas.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    open: Cell<usize>,
}

impl Tails {
    /// Writes that are not settled.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }
}

/// One write until it is settled; counts like a request that is worked on.
pub(super) struct Tail {
    core: Rc<Core>,
    bytes: usize,
}

impl Tail {
    pub(super) fn begin(core: &Rc<Core>, bytes: usize) -> Self {
        core.tails.open.set(core.tails.open.get() + 1);
        core.server.begin(Queue::Wal, bytes);
        Self { core: Rc::clone(core), bytes }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.core.tails.open.set(self.core.tails.open.get() - 1);
        self.core.server.end(Queue::Wal, self.bytes);
    }
}
