//! Buffers of a core that go from one request or reply to the next, so that none is allocated.

use std::cell::RefCell;

use heddle_wire::AlignedVec;

use crate::limits::{POOLED_BUFFER_BYTES_MAX, POOLED_BUFFERS_MAX};

/// The buffers of one core that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: RefCell<Vec<AlignedVec<16>>>,
}

impl Buffers {
    /// An empty buffer, used before if there is one.
    pub(crate) fn take(&self) -> AlignedVec<16> {
        self.free.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a buffer back. What it held is forgotten; a large one goes to the allocator.
    pub(crate) fn give(&self, mut buffer: AlignedVec<16>) {
        let mut free = self.free.borrow_mut();
        let fits = (1..=POOLED_BUFFER_BYTES_MAX).contains(&buffer.capacity());
        if fits && free.len() < POOLED_BUFFERS_MAX {
            buffer.clear();
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_a_large_one_is_let_go() {
        let buffers = Buffers::default();
        let mut small = buffers.take();
        small.extend_from_slice(&[1; 100]);
        let place = small.as_ptr();
        buffers.give(small);
        let mut large = AlignedVec::with_capacity(POOLED_BUFFER_BYTES_MAX + 1);
        large.extend_from_slice(&[2; 3]);
        buffers.give(large);
        let again = buffers.take();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        assert_eq!(buffers.take().capacity(), 0);
    }

    #[test]
    fn the_pool_is_bounded() {
        let buffers = Buffers::default();
        for _ in 0..POOLED_BUFFERS_MAX + 10 {
            buffers.give(AlignedVec::with_capacity(16));
        }
        assert_eq!(buffers.free.borrow().len(), POOLED_BUFFERS_MAX);
    }
}
