//! Names to addresses, off the core, anew at each use.
//!
//! Addresses change under a name when a node is moved to another machine; nothing is remembered
//! here. The resolver of the operating system blocks, so it runs on a thread of its own.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use heddle_runtime::{run_lookup, timeout};

use crate::config::HostPort;

/// Longest wait for an answer; the resolver itself may go on for longer when no server answers.
const LIMIT: Duration = Duration::from_secs(3);

/// Every address of `host:port`, in the resolver's order; never an empty list.
///
/// Errors: [`io::ErrorKind::InvalidInput`] when it is no such text, [`io::ErrorKind::TimedOut`]
/// after 3 s, or the resolver's, all with the text. Cost: nothing for an address, else the
/// resolver's time.
pub async fn resolve(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    resolve_within(LIMIT, host_port).await
}

async fn resolve_within(limit: Duration, host_port: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host_port.parse() {
        return Ok(vec![address]);
    }
    let parsed =
        HostPort::parse(host_port).and_then(|parsed| parsed.port.map(|port| (parsed.host, port)));
    let Some((host, port)) = parsed else {
        let text = format!("{host_port:?} is no address, expected host:port");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    let found = run_lookup(move || {
        (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
    });
    let failed = |kind, what: String| Err(io::Error::new(kind, format!("{host_port}: {what}")));
    match timeout(limit, found).await {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(_)) => failed(io::ErrorKind::NotFound, "it has no address".to_owned()),
        Ok(Err(error)) => failed(error.kind(), error.to_string()),
        Err(late) => failed(io::ErrorKind::TimedOut, late.to_string()),
    }
}

/// Where the node of a name is dialled when names are looked up at each dial: `NAME.TLD:port`, or
/// `NAME:port` without a domain.
#[must_use]
pub fn fqdn_address(name: &str, tld: &str, port: u16) -> String {
    if tld.is_empty() { format!("{name}:{port}") } else { format!("{name}.{tld}:{port}") }
}

#[cfg(test)]
mod tests {
    use heddle_runtime::{Queue, run_single, spawn_joinable};

    use super::*;

    fn resolved(text: &'static str) -> io::Result<Vec<SocketAddr>> {
        run_single(resolve(text)).unwrap()
    }

    #[test]
    fn addresses_are_read_as_they_are() {
        for text in ["127.0.0.1:7500", "[::1]:7500"] {
            let shown: Vec<String> =
                resolved(text).unwrap().iter().map(SocketAddr::to_string).collect();
            assert_eq!(shown, [text]);
        }
    }

    #[test]
    fn a_name_gives_its_addresses_with_the_port() {
        let addresses = resolved("localhost:7500").unwrap();
        assert!(!addresses.is_empty());
        assert!(addresses.iter().all(|found| found.ip().is_loopback() && found.port() == 7500));
    }

    #[test]
    fn what_cannot_be_resolved_is_an_error_that_names_it() {
        for text in ["localhost", "localhost:x", "", ":7500", "a b:1"] {
            let error = resolved(text).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
        let error = resolved("no-such-host.invalid:7500").unwrap_err();
        assert!(error.to_string().contains("no-such-host.invalid:7500"), "{error}");
    }

    #[test]
    fn a_resolver_that_hangs_is_given_up_by_whoever_waits_for_it() {
        let outcome = run_single(async {
            let (start, started) = std::sync::mpsc::channel();
            let mut releases = Vec::new();
            for _ in 0..2 {
                let (release, released) = std::sync::mpsc::channel::<()>();
                let start = start.clone();
                let hang = run_lookup(move || {
                    start.send(()).unwrap();
                    released.recv().unwrap_err();
                });
                drop(spawn_joinable(Queue::Control, hang));
                releases.push(release);
            }
            let both = move || started.iter().take(2).count();
            assert_eq!(heddle_runtime::run_blocking(both).await, 2);
            let outcome = resolve_within(Duration::from_millis(20), "localhost:1").await;
            drop(releases);
            outcome
        });
        let error = outcome.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("localhost:1"), "{error}");
    }

    #[test]
    fn the_domain_is_put_behind_the_name_when_there_is_one() {
        assert_eq!(fqdn_address("db-1", "", 7500), "db-1:7500");
        assert_eq!(
            fqdn_address("db-1", "db.svc.cluster.local", 8300),
            "db-1.db.svc.cluster.local:8300"
        );
    }
}
