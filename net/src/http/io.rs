//! hyper's view of a socket.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use heddle_runtime::RealClock;
use heddle_runtime::net::SocketStream;
use heddle_types::Clock;

use crate::limits::{HTTP_HEAD_TIMEOUT, HTTP_STALL_TIMEOUT};

/// Bytes taken off the socket at once; requests here are short.
const READ_BYTES: usize = 2_048;

/// A socket that hyper can drive.
#[derive(Debug)]
pub(super) struct HyperIo {
    pub(super) stream: SocketStream,
    pub(super) pace: Rc<Pace>,
}

/// How fast a connection moves. Times are monotonic nanoseconds.
#[derive(Debug)]
pub(super) struct Pace {
    /// When bytes last moved.
    moved_ns: Cell<u64>,
    /// When the head that is being read began; none between requests and while one is answered.
    head_ns: Cell<Option<u64>>,
    answering: Cell<bool>,
}

impl Pace {
    pub(super) fn new(now_ns: u64) -> Self {
        let (moved_ns, head_ns) = (Cell::new(now_ns), Cell::new(None));
        Self { moved_ns, head_ns, answering: Cell::new(false) }
    }

    /// A head is complete; its request is being answered.
    pub(super) fn answer_began(&self) {
        self.answering.set(true);
        self.head_ns.set(None);
    }

    pub(super) fn answer_ended(&self) {
        self.answering.set(false);
    }

    fn moved(&self, now_ns: u64) {
        self.moved_ns.set(now_ns);
    }

    fn read(&self, now_ns: u64) {
        self.moved(now_ns);
        if !self.answering.get() && self.head_ns.get().is_none() {
            self.head_ns.set(Some(now_ns));
        }
    }

    /// Has the connection had its time?
    pub(super) fn is_overdue(&self, now_ns: u64) -> bool {
        let since = |start: u64| Duration::from_nanos(now_ns.saturating_sub(start));
        let is_late = |head_ns| since(head_ns) >= HTTP_HEAD_TIMEOUT;
        self.head_ns.get().is_some_and(is_late) || since(self.moved_ns.get()) >= HTTP_STALL_TIMEOUT
    }
}

impl HyperIo {
    fn moved<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.pace.moved(RealClock.monotonic_ns());
        }
        poll
    }
}

impl hyper::rt::Read for HyperIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut target: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let length = target.remaining().min(READ_BYTES);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut bytes[..length]);
        let count = ready!(read)?;
        self.pace.read(RealClock.monotonic_ns());
        target.put_slice(&bytes[..count]);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for HyperIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.moved(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_head_that_trickles_in_is_late_after_five_seconds() {
        let pace = Pace::new(0);
        pace.read(10 * SECOND);
        assert!(!pace.is_overdue(14 * SECOND));
        pace.read(14 * SECOND);
        assert!(pace.is_overdue(15 * SECOND));
        pace.answer_began();
        pace.read(20 * SECOND);
        assert!(!pace.is_overdue(40 * SECOND), "its next request waits for the answer");
        pace.answer_ended();
        assert!(!pace.is_overdue(49 * SECOND));
        assert!(pace.is_overdue(50 * SECOND), "nothing has moved for half a minute");
    }
}
