//! UDP for one core: datagrams that may get lost, watched by the epoll instance of the core like
//! all its sockets.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::poller::Watched;

/// A socket for datagrams. One task may receive while any number of them send.
pub struct DatagramSocket {
    watched: Watched,
    local: SocketAddr,
}

impl std::fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DatagramSocket({})", self.local)
    }
}

impl DatagramSocket {
    /// Receives at an address that nobody else receives at; port 0 picks a free one.
    ///
    /// Errors: the operating system's, [`io::ErrorKind::AddrInUse`] among them.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        rustix::net::bind(&socket, &address)?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Self { watched: Watched::new(socket)?, local })
    }

    /// The address, with the port that was picked.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The next datagram: its bytes in `buffer`, how many, and from where it says it comes.
    ///
    /// A longer one is cut; with one byte more than the longest good one that shows. Errors: the
    /// operating system's; the next call may succeed. Dropping the future loses nothing. Cost: one
    /// system call, and one more when the socket has to be waited for.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        std::future::poll_fn(|context| self.poll_receive(context, buffer)).await
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            let descriptor = self.watched.descriptor();
            match rustix::net::recvfrom(descriptor, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _, Some(source))) => {
                    let source = SocketAddr::try_from(source)?;
                    return Poll::Ready(Ok((count, source)));
                }
                // From nobody: there is nothing to answer.
                Ok((_, _, None)) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => std::task::ready!(self.watched.poll_readable(context)),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Sends one datagram; success says nothing about its arrival.
    ///
    /// Errors: [`io::ErrorKind::WouldBlock`] when the socket has no room, else the operating
    /// system's, such as for an address that no route leads to. Nothing was sent then. Cost: one
    /// system call; never waits.
    pub fn try_send(&self, bytes: &[u8], target: SocketAddr) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendto(self.watched.descriptor(), bytes, flags, &target) {
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
        }
    }
}
