//! hyper's view of a socket.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use heddle_runtime::RealClock;
use heddle_runtime::net::SocketStream;
use heddle_types::Clock;

/// Bytes taken off the socket at once; requests here are short.
const READ_BYTES: usize = 2_048;

/// A socket that hyper can drive.
#[derive(Debug)]
pub(super) struct HyperIo {
    pub(super) stream: SocketStream,
    /// When bytes last moved, monotonic nanoseconds.
    pub(super) moved_ns: Rc<Cell<u64>>,
}

impl HyperIo {
    fn moved<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.moved_ns.set(RealClock.monotonic_ns());
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
        let count = ready!(self.moved(read))?;
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
