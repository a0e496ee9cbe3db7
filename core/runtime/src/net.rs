//! TCP for one core: listeners that share a port between cores, and sockets for one reader and one
//! writer at a time.
//!
//! Reads go straight into the caller's buffer and writes leave straight from it; one epoll instance
//! a core is used to wait. Both directions take `&self`, so the reader and the writer of a
//! connection are two tasks that share an `Rc<Socket>`, without a lock.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use heddle_types::limits::BODY_GROWTH_BYTES;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType,
};

use crate::poller::Watched;
pub use crate::poller::look_for_events;

/// Connections that wait to be accepted by one core.
const LISTEN_BACKLOG: i32 = 1_024;
/// Silence after which a connection is probed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Time between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes without an answer after which the connection is dead.
const KEEPALIVE_PROBES: u32 = 3;
/// Time after which unacknowledged bytes mean a dead connection, milliseconds.
const USER_TIMEOUT_MS: u32 = 15_000;
/// Most pieces of one vectored write (the kernel's limit is 1,024).
const WRITE_PIECES_MAX: usize = 64;

/// Ways to other addresses, `ADDRESS=INSTEAD,...` without ports, for `cargo xtask nemesis`: a
/// connection to an address is made to the one instead, where something stands between.
pub const ROUTES_VARIABLE: &str = "NEMESIS_ROUTES";

/// Where a connection to an address is made.
fn routed(address: SocketAddr) -> SocketAddr {
    static ROUTES: OnceLock<Vec<(IpAddr, IpAddr)>> = OnceLock::new();
    let routes = ROUTES.get_or_init(|| {
        let text = std::env::var(ROUTES_VARIABLE).unwrap_or_default();
        let route = |pair: &str| {
            let (from, to) = pair.split_once('=')?;
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        text.split(',').filter_map(route).collect()
    });
    let instead = routes.iter().find(|(from, _)| *from == address.ip()).map(|(_, to)| *to);
    SocketAddr::new(instead.unwrap_or(address.ip()), address.port())
}

fn open_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Accepted connections inherit all of these from their listener.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)?;
    Ok(socket)
}

/// Accepts the connections that the kernel gives to this core.
///
/// Several cores may listen on one address; the kernel spreads connections by the hash of their
/// addresses. That also lets another process in: hold a [`crate::guard::PortGuard`] first.
pub struct Listener {
    watched: Watched,
    local: SocketAddr,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.local)
    }
}

impl Listener {
    /// Listens on an address; port 0 picks a free one.
    ///
    /// Connections have Nagle's algorithm off, keep-alive probes from 10 s of silence on, and die
    /// when bytes stay unacknowledged for 15 s. Errors: the operating system's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = open_socket(&address)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, LISTEN_BACKLOG)?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Self { watched: Watched::new(socket)?, local })
    }

    /// The address, with the port that was picked.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The next connection.
    ///
    /// Errors: the operating system's. After one (no descriptors left, say) wait a little before
    /// the next try. A connection that its peer gave up meanwhile is skipped.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        loop {
            match rustix::net::acceptfrom_with(self.watched.descriptor(), flags) {
                Ok((socket, Some(peer))) => {
                    return Ok(Accepted { socket, peer: SocketAddr::try_from(peer)? });
                }
                Ok((_, None)) | Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    std::future::poll_fn(|context| self.watched.poll_readable(context)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A new connection that no core owns yet; it may be sent to another core.
#[derive(Debug)]
pub struct Accepted {
    socket: OwnedFd,
    peer: SocketAddr,
}

impl Accepted {
    /// The other end.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// Binds the connection to this core.
    pub fn into_socket(self) -> io::Result<Socket> {
        Socket::new(self.socket, self.peer)
    }
}

/// A connection of this core. One task may read and one may write at the same time.
pub struct Socket {
    watched: Watched,
    // The last read emptied the socket: waiting first saves a call that would find nothing.
    drained: Cell<bool>,
    peer: SocketAddr,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.peer)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.descriptor().as_fd()
    }
}

impl Socket {
    fn new(socket: OwnedFd, peer: SocketAddr) -> io::Result<Self> {
        Ok(Self { watched: Watched::new(socket)?, drained: Cell::new(false), peer })
    }

    /// Connects to an address; gives up after `limit`.
    ///
    /// Errors: [`io::ErrorKind::TimedOut`] or the operating system's. Names are resolved by the
    /// caller, off the core.
    pub async fn connect(address: SocketAddr, limit: Duration) -> io::Result<Self> {
        let descriptor = open_socket(&address)?;
        let begun = rustix::net::connect(&descriptor, &routed(address));
        let socket = Self::new(descriptor, address)?;
        match begun {
            Ok(()) => return Ok(socket),
            Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let connected = std::future::poll_fn(|context| socket.watched.poll_writable(context));
        if let Err(late) = crate::queues::timeout(limit, connected).await {
            return Err(io::Error::new(io::ErrorKind::TimedOut, late));
        }
        sockopt::socket_error(&socket)??;
        Ok(socket)
    }

    /// The other end.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// Reads what there is, at least one byte; 0 means that the peer has finished.
    ///
    /// Dropping the future loses nothing: bytes are taken only in the poll that returns them.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_read(context, buffer)).await
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if !self.drained.get() {
                match rustix::net::recv(self, &mut *buffer, RecvFlags::DONTWAIT) {
                    Ok((count, _)) => {
                        // The end of the stream may have been announced with these bytes.
                        let more = count == buffer.len() || self.watched.is_closing();
                        self.drained.set(count > 0 && !more);
                        return Poll::Ready(Ok(count));
                    }
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            std::task::ready!(self.watched.poll_readable(context));
            self.drained.set(false);
        }
    }

    /// Fills the buffer. Errors: [`io::ErrorKind::UnexpectedEof`] when the peer finishes before.
    ///
    /// Not safe to drop half-way: what was read by then is lost.
    pub async fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let count = self.read(buffer).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    /// Appends exactly `length` bytes to `body`.
    ///
    /// The buffer grows by at most [`BODY_GROWTH_BYTES`] ahead of what has arrived, so an announced
    /// length alone costs nothing. Errors and dropping: as [`Socket::read_exact`].
    pub async fn read_body(&self, body: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let end = body.len() + length;
        while body.len() < end {
            let start = body.len();
            body.resize(end.min(start + BODY_GROWTH_BYTES), 0);
            self.read_exact(&mut body[start..]).await?;
        }
        Ok(())
    }

    /// Writes the whole buffer.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_vectored(&mut [IoSlice::new(bytes)]).await
    }

    /// Writes all pieces in order, in as few system calls as the socket's buffer allows.
    ///
    /// Errors: [`io::ErrorKind::WriteZero`] or the operating system's; how much the peer got is
    /// then unknown. Not safe to drop half-way. The pieces are used up.
    pub async fn write_all_vectored(&self, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            let count = std::future::poll_fn(|context| self.poll_write(context, pieces)).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut pieces, count);
        }
        Ok(())
    }

    fn poll_write(
        &self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
            std::task::ready!(self.watched.poll_writable(context));
        }
    }

    /// Writes what the socket takes at once; says how many bytes that were.
    ///
    /// Errors: [`io::ErrorKind::WouldBlock`] when it takes nothing now, else the operating
    /// system's. Cost: one system call.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let pieces = &pieces[..pieces.len().min(WRITE_PIECES_MAX)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let mut control = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self, pieces, &mut control, flags) {
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Ends one or both directions; ends a read or write that waits in another task.
    ///
    /// Errors: the operating system's; `NotConnected` when the peer was faster, which is fine.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(rustix::net::shutdown(self, how)?)
    }
}

/// A socket as the `futures` IO traits, for code that is written against them.
#[derive(Clone, Debug)]
pub struct SocketStream {
    /// The socket; reading and writing through it directly as well is fine.
    pub socket: Rc<Socket>,
}

impl futures::io::AsyncRead for SocketStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_read(context, buffer)
    }
}

impl futures::io::AsyncWrite for SocketStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(context, pieces)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}
