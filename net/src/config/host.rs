//! A host with or without a port, as settings name other nodes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest name that DNS has, bytes.
const HOST_BYTES_MAX: usize = 253;

/// A name or an address, and a port when one was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    /// From 1.
    pub port: Option<u16>,
}

impl HostPort {
    /// How [`HostPort::parse`] wants it.
    pub const EXPECTED: &'static str = "a name or an address, then : and a port from 1 to 65535 or \
         nothing; IPv6 addresses stand in brackets";

    /// Reads `host`, `host:port`, `[address]` or `[address]:port`; `None` when it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (host, port)
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            if !is_name(host) {
                return None;
            }
            (host, port)
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port: &u16| *port > 0)?)
            }
            Some(_) => return None,
            None => None,
        };
        Some(Self { host: host.to_owned(), port })
    }

    /// A host that has no port of its own: as [`HostPort::parse`], or a bare IPv6 address.
    #[must_use]
    pub fn host_alone(text: &str) -> Option<Self> {
        if text.parse::<IpAddr>().is_ok() {
            return Some(Self { host: text.to_owned(), port: None });
        }
        Self::parse(text).filter(|parsed| parsed.port.is_none())
    }

    /// As `host:port`, with `port` when none was given.
    #[must_use]
    pub fn with_default(&self, port: u16) -> String {
        Self { host: self.host.clone(), port: Some(self.port.unwrap_or(port)) }.to_string()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// True for what DNS may hold, with or without the dot of the root, and for IPv4 addresses.
/// Underscores are no part of host names, but names of containers have them.
pub(super) fn is_name(text: &str) -> bool {
    let relative = text.strip_suffix('.').unwrap_or(text);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && label.bytes().all(is_allowed)
    };
    relative.len() <= HOST_BYTES_MAX && relative.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read_with_and_without_port() {
        for (text, host, port) in [
            ("db-1", "db-1", None),
            ("db_1.example.net.:7500", "db_1.example.net.", Some(7500)),
            ("192.0.2.1:1", "192.0.2.1", Some(1)),
            ("[::1]", "::1", None),
            ("[2001:db8::7]:65535", "2001:db8::7", Some(65535)),
        ] {
            let parsed = HostPort::parse(text).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        let long = format!("{}.x", "a".repeat(64));
        for text in [
            "",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:b",
            "::1",
            "a b",
            "[::1",
            "[::1]1",
            "[a]:1",
            "[]",
            "-a",
            "a..b",
            ".",
            "http://a",
            "a/b",
            &long,
            &"a.".repeat(130),
        ] {
            assert_eq!(HostPort::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_default_port_stands_in_for_a_missing_one() {
        let address = |text| HostPort::parse(text).unwrap().with_default(7500);
        assert_eq!(address("db-1"), "db-1:7500");
        assert_eq!(address("db-1:8300"), "db-1:8300");
        assert_eq!(address("[::1]"), "[::1]:7500");
    }

    #[test]
    fn a_host_alone_may_be_a_bare_address() {
        assert_eq!(HostPort::host_alone("::1").unwrap().with_default(1), "[::1]:1");
        assert_eq!(HostPort::host_alone("[::1]").unwrap().with_default(1), "[::1]:1");
        assert_eq!(HostPort::host_alone("db.").unwrap().host, "db.");
        assert_eq!(HostPort::host_alone("db:1"), None);
    }
}
