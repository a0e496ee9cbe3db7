//! The settings of a node that has peers: their rules, and what is found out at the start.

use std::fmt;
use std::net::{IpAddr, UdpSocket};

use heddle_meta::cluster::{check_labels, check_node_name};
use heddle_types::ApiError;
use heddle_types::limits::{NAME_LENGTH_BYTES_MAX, VOTERS_MAX};
use serde::{Deserialize, Serialize};

use super::host::is_name;
use super::{ConfigError, HostPort, NodeConfig};

/// Shortest secret, bytes: less can be guessed from one recorded packet.
const SECRET_BYTES_MIN: usize = 16;
/// Longest secret, bytes.
const SECRET_BYTES_MAX: usize = 1_024;
/// Addresses that nobody has (RFC 5737, RFC 3849): asked of the routing table, never sent to.
const NOWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Its bytes; none when there is no secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(..)" })
    }
}

fn refusal(key: &'static str, found: impl fmt::Debug, expected: impl Into<String>) -> ConfigError {
    ConfigError { key, found: format!("{found:?}"), expected: expected.into() }
}

impl NodeConfig {
    /// True when the node has or expects peers: it has a join list, or is to make a cluster. All
    /// other settings of the cluster are without effect otherwise.
    #[must_use]
    pub fn is_clustered(&self) -> bool {
        !self.cluster_join.is_empty() || self.cluster_bootstrap_expect > 0
    }

    /// Where others reach a port of this node, as `host:port`.
    #[must_use]
    pub fn advertised(&self, port: u16) -> String {
        let host = self.advertise.as_deref().and_then(HostPort::host_alone);
        let listen = || HostPort { host: self.listen.to_string(), port: None };
        host.unwrap_or_else(listen).with_default(port)
    }

    /// Checks the rules of the cluster's settings but those of ports.
    pub(super) fn validate_cluster(&self) -> Result<(), ConfigError> {
        for entry in &self.cluster_join {
            if HostPort::parse(entry).is_none() {
                return Err(refusal("cluster_join", entry, HostPort::EXPECTED));
            }
        }
        let expect = self.cluster_bootstrap_expect;
        if expect > VOTERS_MAX {
            let expected = format!("0 to {VOTERS_MAX}: all of them vote, further nodes join later");
            return Err(refusal("cluster_bootstrap_expect", expect, expected));
        }
        let voters = self.cluster_voters;
        if !(1..=VOTERS_MAX).contains(&voters) || voters.is_multiple_of(2) {
            let expected = format!("an odd number from 1 to {VOTERS_MAX}");
            return Err(refusal("cluster_voters", voters, expected));
        }
        let by_key = |key, found: &dyn fmt::Debug, checked: Result<(), ApiError>| {
            checked.map_err(|error| refusal(key, found, error.expected))
        };
        let labels = &self.cluster_labels;
        by_key("cluster_labels", labels, check_labels("cluster_labels", labels))?;
        let name = &self.cluster_name;
        if !(1..=NAME_LENGTH_BYTES_MAX).contains(&name.len()) {
            let expected = format!("1 to {NAME_LENGTH_BYTES_MAX} bytes");
            return Err(refusal("cluster_name", name, expected));
        }
        if !self.raft_fqdn_tld.is_empty() && !is_name(&self.raft_fqdn_tld) {
            let expected = "a domain such as example.net, or nothing";
            return Err(refusal("raft_fqdn_tld", &self.raft_fqdn_tld, expected));
        }
        check_secret("cluster_secret", &self.cluster_secret.0)?;
        if !self.cluster_secret.is_empty() && self.cluster_secret_file.is_some() {
            let expected = "nothing beside cluster_secret";
            return Err(refusal("cluster_secret_file", &self.cluster_secret_file, expected));
        }
        if self.is_clustered() {
            by_key("name", &self.name, check_node_name(&self.name))?;
            self.validate_advertised()?;
        }
        Ok(())
    }

    fn validate_advertised(&self) -> Result<(), ConfigError> {
        let Some(host) = &self.advertise else { return Ok(()) };
        let expected = "a name or an address of this node, without port";
        let parsed = HostPort::host_alone(host).filter(|parsed| {
            let is_nowhere = |address: IpAddr| address.is_unspecified();
            !parsed.host.parse().is_ok_and(is_nowhere)
        });
        parsed.map(drop).ok_or_else(|| refusal("advertise", host, expected))
    }

    /// Reads the file of the secret, and finds the address that others reach this node by.
    ///
    /// For a node without peers nothing changes. Errors: a file that cannot be read or holds no
    /// secret; no address, when the node listens on all of them and none is advertised.
    pub(crate) fn complete(&mut self) -> Result<(), ConfigError> {
        if !self.is_clustered() {
            return Ok(());
        }
        if let Some(path) = self.cluster_secret_file.take() {
            let key = "cluster_secret_file";
            let read = std::fs::read_to_string(&path);
            let text = read.map_err(|error| {
                refusal(key, &path, format!("a file that can be read ({error})"))
            })?;
            let secret = text.trim_end();
            check_secret(key, secret)?;
            if secret.is_empty() {
                return Err(refusal(key, &path, "a file that is not empty"));
            }
            self.cluster_secret = Secret(secret.to_owned());
        }
        if self.advertise.is_none() {
            let own = if self.listen.is_unspecified() {
                self.routed_address()
            } else {
                Some(self.listen)
            };
            let own = own.ok_or_else(|| {
                let expected =
                    "an address of this node: it listens on all, and has no default route";
                refusal("advertise", &self.advertise, expected)
            })?;
            self.advertise = Some(own.to_string());
        }
        Ok(())
    }

    /// The address by which this machine would leave its network. Nothing is sent.
    fn routed_address(&self) -> Option<IpAddr> {
        let is_of_family = |target: &str| self.listen.is_ipv6() || !target.starts_with('[');
        NOWHERE.into_iter().filter(|target| is_of_family(target)).find_map(|target| {
            let any = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).ok()?;
            socket.connect(target).ok()?;
            socket.local_addr().ok().map(|address| address.ip())
        })
    }
}

fn check_secret(key: &'static str, secret: &str) -> Result<(), ConfigError> {
    if secret.is_empty() || (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
        return Ok(());
    }
    // The text itself stays out of logs.
    let found = format!("a text of {} bytes", secret.len());
    let expected = format!("{SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, or nothing");
    Err(ConfigError { key, found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn clustered() -> NodeConfig {
        NodeConfig {
            name: "db-1".to_owned(),
            cluster_join: vec!["db-2".to_owned(), "[::1]:7500".to_owned()],
            ..NodeConfig::default()
        }
    }

    fn refused(change: impl FnOnce(&mut NodeConfig)) -> ConfigError {
        let mut config = clustered();
        change(&mut config);
        config.validate().unwrap_err()
    }

    #[test]
    fn a_join_list_or_an_expectation_makes_a_cluster() {
        assert!(!NodeConfig::default().is_clustered());
        assert!(clustered().is_clustered());
        assert!(NodeConfig { cluster_bootstrap_expect: 1, ..NodeConfig::default() }.is_clustered());
        assert_eq!(clustered().validate(), Ok(()));
    }

    #[test]
    fn each_rule_of_the_cluster_names_key_found_and_expected() {
        let check = |key: &str, found: &str, expected: &str, change: fn(&mut NodeConfig)| {
            let error = refused(change);
            assert_eq!(error.key, key);
            assert!(error.found.contains(found), "{error}");
            assert!(error.expected.contains(expected), "{error}");
        };
        check("cluster_join", "::1:7", "brackets", |c| c.cluster_join.push("::1:7".to_owned()));
        check("cluster_join", "a:0", "1 to 65535", |c| c.cluster_join.push("a:0".to_owned()));
        check("cluster_bootstrap_expect", "8", "0 to 7", |c| c.cluster_bootstrap_expect = 8);
        check("cluster_voters", "4", "odd", |c| c.cluster_voters = 4);
        check("cluster_voters", "9", "from 1 to 7", |c| c.cluster_voters = 9);
        check("cluster_name", "\"\"", "1 to 128", |c| c.cluster_name.clear());
        check("cluster_labels", "a b", "visible", |c| {
            c.cluster_labels.insert("zone".to_owned(), "a b".to_owned());
        });
        check("raft_fqdn_tld", ".net", "example.net", |c| c.raft_fqdn_tld = ".net".to_owned());
        check("name", "a b", "letters", |c| c.name = "a b".to_owned());
        check("advertise", "db:1", "without port", |c| c.advertise = Some("db:1".to_owned()));
        check("advertise", "0.0.0.0", "of this node", |c| c.advertise = Some("0.0.0.0".to_owned()));
        check("cluster_secret_file", "x", "nothing beside", |c| {
            c.cluster_secret = Secret("0123456789abcdef".to_owned());
            c.cluster_secret_file = Some("x".into());
        });
    }

    #[test]
    fn a_secret_is_shown_by_nothing() {
        let error = refused(|config| config.cluster_secret = Secret("hunter2".to_owned()));
        assert_eq!(error.key, "cluster_secret");
        assert_eq!(error.found, "a text of 7 bytes");
        let config = NodeConfig { cluster_secret: Secret("hunter2".to_owned()), ..clustered() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn ports_of_a_cluster_are_known_numbers_and_each_is_taken_once() {
        let check = |key: &str, expected: &str, change: fn(&mut NodeConfig)| {
            let error = refused(change);
            assert_eq!(error.key, key, "{error}");
            assert!(error.expected.contains(expected), "{error}");
        };
        check("native_port", "1 to 65535", |c| c.native_port = 0);
        check("core_port_base", "1 to 65535", |c| c.core_port_base = 0);
        check("http_port", "1 to 65535", |c| c.http_port = 0);
        check("peer_port_base", "1 to 65535", |c| c.peer_port_base = 0);
        check("raft_port", "1 to 65535", |c| c.raft_port = 0);
        check("gossip_port", "1 to 65535", |c| c.gossip_port = 0);
        check("raft_port", "peer_port_base: 7600 to 7603", |c| (c.cores, c.raft_port) = (4, 7603));
        check("gossip_port", "raft_port: 7500", |c| c.gossip_port = 7500);
        check("peer_port_base", "core_port_base: 7701 to 7704", |c| {
            (c.cores, c.peer_port_base) = (4, 7699);
        });
        check("peer_port_base", "at most 65532", |c| (c.cores, c.peer_port_base) = (4, 65533));
    }

    #[test]
    fn a_node_alone_may_have_ports_and_a_name_that_a_cluster_may_not() {
        let config = NodeConfig {
            name: "my node".to_owned(),
            raft_port: 0,
            gossip_port: 7700,
            native_port: 0,
            ..NodeConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn the_secret_of_a_file_is_taken_without_the_space_at_its_end() {
        let dir = TempDir::new("secret");
        let path = dir.path().join("secret");
        let complete = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut config = NodeConfig { cluster_secret_file: Some(path.clone()), ..clustered() };
            config.complete().map(|()| config.cluster_secret)
        };
        assert_eq!(complete("0123456789abcdef\n").unwrap().as_bytes(), b"0123456789abcdef");
        for (text, found) in [("short\n", "5 bytes"), ("\n", "secret")] {
            let error = complete(text).unwrap_err();
            assert_eq!(error.key, "cluster_secret_file");
            assert!(error.found.contains(found), "{error}");
        }
        let mut missing =
            NodeConfig { cluster_secret_file: Some(dir.path().join("none")), ..clustered() };
        let error = missing.complete().unwrap_err();
        assert!(error.to_string().contains("none") && error.expected.contains("read"), "{error}");
    }

    #[test]
    fn what_is_advertised_is_an_address_that_others_can_dial() {
        let advertised = |listen: &str, advertise: Option<&str>| {
            let mut config = NodeConfig {
                listen: listen.parse().unwrap(),
                advertise: advertise.map(str::to_owned),
                ..clustered()
            };
            config.complete().unwrap();
            config.advertised(7)
        };
        assert_eq!(advertised("127.0.0.3", None), "127.0.0.3:7");
        assert_eq!(advertised("::1", None), "[::1]:7");
        assert_eq!(advertised("0.0.0.0", Some("db.example.net")), "db.example.net:7");
        assert_eq!(advertised("0.0.0.0", Some("2001:db8::1")), "[2001:db8::1]:7");
    }

    #[test]
    fn a_node_that_listens_everywhere_advertises_no_unspecified_address() {
        let mut config = NodeConfig { listen: "0.0.0.0".parse().unwrap(), ..clustered() };
        // A machine without any route has no address to find, and is told so.
        match config.complete() {
            Ok(()) => {
                let found: IpAddr = config.advertise.unwrap().parse().unwrap();
                assert!(!found.is_unspecified() && found.is_ipv4());
            }
            Err(error) => assert_eq!(error.key, "advertise"),
        }
    }
}
