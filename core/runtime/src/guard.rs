//! One process for each port.
//!
//! Every core listens on the same port, and the socket option that allows it would let a second
//! process listen there too and take half of the connections. So before the first listener the
//! process takes a lock that has exactly the reach of a TCP port: an abstract Unix socket named
//! after the address. It exists once in a network namespace, leaves no file, and goes away with the
//! process however that ends. Programs that do not know this lock are found by a trial bind.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The ports were not taken; none of them is held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// Another process listens there.
    #[error("{address} is in use by another process")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The operating system refused the address.
    #[error("{address}: {source}")]
    Io {
        /// The address asked for.
        address: SocketAddr,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// The right of this process to listen on some addresses, until it is dropped.
#[derive(Debug)]
pub struct PortGuard {
    // Only held; nothing is ever sent.
    _locks: Vec<OwnedFd>,
}

impl PortGuard {
    /// Takes addresses before the first listener is bound; addresses with port 0 need none.
    ///
    /// Errors name the address that another process uses.
    pub fn acquire(addresses: &[SocketAddr]) -> Result<Self, GuardError> {
        let mut locks = Vec::new();
        for address in addresses.iter().copied().filter(|address| address.port() != 0) {
            let lock = lock_name(&address).and_then(|name| take(&name));
            match lock.and_then(|lock| try_bind(&address).map(|()| lock)) {
                Ok(lock) => locks.push(lock),
                Err(Errno::ADDRINUSE) => return Err(GuardError::InUse { address }),
                Err(error) => return Err(GuardError::Io { address, source: error.into() }),
            }
        }
        Ok(Self { _locks: locks })
    }
}

fn lock_name(address: &SocketAddr) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(format!("heddle/tcp/{address}").as_bytes())
}

fn take(name: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let kind = SocketType::DGRAM;
    let lock = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&lock, name)?;
    Ok(lock)
}

// Connections of an earlier process that have not faded yet also refuse a bind that shares nothing;
// they are no reason to stay away.
fn try_bind(address: &SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = SocketType::STREAM;
    let trial = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&trial, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&trial, true)?;
    }
    match rustix::net::bind(&trial, address) {
        Err(Errno::ADDRINUSE) if !somebody_listens(address) => Ok(()),
        result => result,
    }
}

fn somebody_listens(address: &SocketAddr) -> bool {
    let table = if address.is_ipv6() { "/proc/self/net/tcp6" } else { "/proc/self/net/tcp" };
    match std::fs::read_to_string(table) {
        Ok(table) => table.lines().skip(1).any(|line| line_listens(line, address)),
        // Without the table the refusal stands.
        Err(_) => true,
    }
}

// A line: `0: 0100007F:1E14 00000000:0000 0A …`, words in host byte order, 0A = LISTEN.
fn line_listens(line: &str, address: &SocketAddr) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (Some(local), Some(_), Some(state)) = (fields.next(), fields.next(), fields.next()) else {
        return false;
    };
    let Some((ip, port)) = local.rsplit_once(':') else { return false };
    let wildcard = ip.bytes().all(|digit| digit == b'0');
    let same_port = u16::from_str_radix(port, 16) == Ok(address.port());
    let same_ip = wildcard || address.ip().is_unspecified() || ip == table_form(address.ip());
    state == "0A" && same_port && same_ip
}

fn table_form(ip: IpAddr) -> String {
    let words: Vec<[u8; 4]> = match ip {
        IpAddr::V4(ip) => vec![ip.octets()],
        IpAddr::V6(ip) => ip
            .octets()
            .chunks_exact(4)
            .map(|word| <[u8; 4]>::try_from(word).expect("chunks of four bytes"))
            .collect(),
    };
    words.into_iter().map(|word| format!("{:08X}", native_word(word))).collect()
}

#[expect(clippy::host_endian_bytes, reason = "the kernel prints each word as the host reads it")]
fn native_word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_connections_is_read_as_the_kernel_writes_it() {
        let line = "   0: 0100007F:1E14 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        let listens = |text: &str| line_listens(line, &text.parse().unwrap());
        assert!(listens("127.0.0.1:7700"));
        assert!(listens("0.0.0.0:7700"));
        assert!(!listens("127.0.0.2:7700"));
        assert!(!listens("127.0.0.1:7701"));
        let faded = line.replace(" 0A ", " 06 ");
        assert!(!line_listens(&faded, &"127.0.0.1:7700".parse().unwrap()));
        let six = "0: 00000000000000000000000001000000:1E14 0:0 0A";
        assert!(line_listens(six, &"[::1]:7700".parse().unwrap()));
        assert!(!line_listens(six, &"[::2]:7700".parse().unwrap()));
        assert!(!line_listens("nonsense", &"[::1]:7700".parse().unwrap()));
    }
}
