//! Variables of Weaviate, so that what was written to deploy it also starts Heddle.
//!
//! Each stands for a key of Heddle and is read when that key is set nowhere else. What Weaviate has
//! and this table has not is ignored; a value that cannot be used is refused by the name of its
//! variable.

use heddle_net::HostPort;
use serde_json::Value as Json;

use super::{ConfigError, Origin, Values, keys};

/// The variables of one key each.
const VARIABLES: [(&str, &str); 9] = [
    ("PERSISTENCE_DATA_PATH", "data_dir"),
    ("CLUSTER_HOSTNAME", "name"),
    ("CLUSTER_ADVERTISE_ADDR", "advertise"),
    ("CLUSTER_GOSSIP_BIND_PORT", "gossip_port"),
    ("CLUSTER_DATA_BIND_PORT", "peer_port_base"),
    ("RAFT_PORT", "raft_port"),
    ("RAFT_BOOTSTRAP_EXPECT", "cluster_bootstrap_expect"),
    ("RAFT_ENABLE_FQDN_RESOLVER", "raft_fqdn"),
    ("RAFT_FQDN_RESOLVER_TLD", "raft_fqdn_tld"),
];
/// Hosts that gossip together, each with or without its gossip port.
const CLUSTER_JOIN: &str = "CLUSTER_JOIN";
/// Names of nodes, each with or without its Raft port.
const RAFT_JOIN: &str = "RAFT_JOIN";
/// What makes a cluster of a node.
const CLUSTER_MAKERS: [&str; 3] = [CLUSTER_JOIN, RAFT_JOIN, "RAFT_BOOTSTRAP_EXPECT"];

/// Every variable that is read.
#[cfg(test)]
pub(crate) fn variables() -> impl Iterator<Item = &'static str> {
    let of_keys = VARIABLES.iter().map(|(variable, _)| *variable);
    of_keys.chain([CLUSTER_JOIN, RAFT_JOIN])
}

/// Sets the keys that nothing else has set.
pub(super) fn read(
    environment: &[(String, String)],
    values: &mut Values,
) -> Result<(), ConfigError> {
    // An empty variable is one that a template left without value.
    let text_of = |variable: &str| {
        let found = environment.iter().find(|(name, text)| name == variable && !text.is_empty());
        found.map(|(_, text)| text.as_str())
    };
    for (variable, key) in VARIABLES {
        let Some(text) = text_of(variable).filter(|_| is_default(values, key)) else { continue };
        let json = match key {
            "raft_fqdn" => enabled(text).map(Json::from),
            "gossip_port" | "peer_port_base" | "raft_port" => port(text).map(Json::from),
            key => keys::find(key).and_then(|key| key.read_text(text)),
        };
        let expected = match key {
            "raft_fqdn" => "true, on, enabled or 1; false, off, disabled or 0",
            "gossip_port" | "peer_port_base" | "raft_port" => "1 to 65535",
            "cluster_bootstrap_expect" => "a whole number",
            _ => "a text",
        };
        let json = json.ok_or_else(|| refusal(variable, text, expected))?;
        values.insert(key, (json, Origin::Weaviate(variable)));
    }
    read_join_list(text_of(RAFT_JOIN), text_of(CLUSTER_JOIN), values)?;
    // Weaviate listens on every address, and what deploys it has no variable to say so.
    let maker = CLUSTER_MAKERS
        .into_iter()
        .find(|maker| values.values().any(|(_, origin)| *origin == Origin::Weaviate(maker)));
    if let Some(maker) = maker.filter(|_| is_default(values, "listen")) {
        values.insert("listen", (Json::from("0.0.0.0"), Origin::Weaviate(maker)));
    }
    Ok(())
}

fn is_default(values: &Values, key: &str) -> bool {
    values[key].1 == Origin::Default
}

fn refusal(variable: &'static str, found: &str, expected: &str) -> ConfigError {
    let origin = Origin::Environment;
    ConfigError::Value {
        key: variable,
        found: found.to_owned(),
        origin,
        expected: expected.to_owned(),
    }
}

fn enabled(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "enabled" | "1" => Some(true),
        "false" | "off" | "disabled" | "0" => Some(false),
        _ => None,
    }
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port > 0)
}

/// Both lists become one: they name the same nodes, and whoever is found by either is a peer.
fn read_join_list(
    raft: Option<&str>,
    gossip: Option<&str>,
    values: &mut Values,
) -> Result<(), ConfigError> {
    if !is_default(values, "cluster_join") {
        return Ok(());
    }
    let text = |key: &str| values[key].0.as_str().unwrap_or_default().to_owned();
    let is_looked_up = values["raft_fqdn"].0 == Json::Bool(true);
    let tld = if is_looked_up { text("raft_fqdn_tld") } else { String::new() };
    let mut join: Vec<String> = Vec::new();
    let mut add = |address: HostPort| {
        let address = address.to_string();
        if !join.contains(&address) {
            join.push(address);
        }
    };
    for mut entry in hosts(RAFT_JOIN, raft)? {
        // An address needs no domain, and would become a name that nobody has.
        let is_name = entry.host.parse::<std::net::IpAddr>().is_err();
        if is_name && !tld.is_empty() {
            entry.host = format!("{}.{tld}", entry.host);
        }
        add(entry);
    }
    for mut entry in hosts(CLUSTER_JOIN, gossip)? {
        // The port there is that of gossip; peers are asked on their Raft port.
        entry.port = None;
        add(entry);
    }
    if !join.is_empty() {
        let first = if raft.is_some() { RAFT_JOIN } else { CLUSTER_JOIN };
        let list = Json::Array(join.into_iter().map(Json::from).collect());
        values.insert("cluster_join", (list, Origin::Weaviate(first)));
    }
    Ok(())
}

fn hosts(variable: &'static str, text: Option<&str>) -> Result<Vec<HostPort>, ConfigError> {
    let entries = text.unwrap_or_default().split(',').map(str::trim);
    let parse = |entry: &str| {
        HostPort::parse(entry).ok_or_else(|| refusal(variable, entry, HostPort::EXPECTED))
    };
    entries.filter(|entry| !entry.is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use heddle_net::NodeConfig;

    use super::super::{Settings, Sources};
    use super::*;

    fn load(environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = environment.iter().map(owned).collect();
        Settings::load(&Sources { environment, ..Sources::default() })
    }

    fn node(environment: &[(&str, &str)]) -> NodeConfig {
        load(environment).unwrap().node
    }

    fn refused(environment: &[(&str, &str)]) -> String {
        load(environment).unwrap_err().to_string()
    }

    #[test]
    fn each_variable_sets_its_key() {
        let all = [
            ("PERSISTENCE_DATA_PATH", "/var/lib/weaviate"),
            ("CLUSTER_HOSTNAME", "weaviate-0"),
            ("CLUSTER_ADVERTISE_ADDR", "192.0.2.7"),
            ("CLUSTER_GOSSIP_BIND_PORT", "7100"),
            ("CLUSTER_DATA_BIND_PORT", "7101"),
            ("CLUSTER_JOIN", "weaviate-headless.db.svc.cluster.local."),
            ("RAFT_PORT", "8300"),
            ("RAFT_BOOTSTRAP_EXPECT", "3"),
            ("RAFT_JOIN", "weaviate-0,weaviate-1:8400,weaviate-2"),
            ("RAFT_ENABLE_FQDN_RESOLVER", "true"),
            ("RAFT_FQDN_RESOLVER_TLD", "weaviate-headless.db.svc.cluster.local"),
        ];
        assert_eq!(variables().count(), all.len());
        assert!(all.iter().all(|(name, _)| variables().any(|variable| variable == *name)));
        let found = node(&all);
        let tld = "weaviate-headless.db.svc.cluster.local";
        let expected = NodeConfig {
            data_dir: "/var/lib/weaviate".into(),
            name: "weaviate-0".to_owned(),
            listen: "0.0.0.0".parse().unwrap(),
            advertise: Some("192.0.2.7".to_owned()),
            gossip_port: 7100,
            peer_port_base: 7101,
            raft_port: 8300,
            cluster_bootstrap_expect: 3,
            cluster_join: vec![
                format!("weaviate-0.{tld}"),
                format!("weaviate-1.{tld}:8400"),
                format!("weaviate-2.{tld}"),
                format!("{tld}."),
            ],
            raft_fqdn: true,
            raft_fqdn_tld: tld.to_owned(),
            ..NodeConfig::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_environment_of_weaviates_own_chart_makes_a_node_of_a_cluster() {
        let headless = "weaviate-headless.default.svc.cluster.local.";
        let settings = load(&[
            ("CLUSTER_DATA_BIND_PORT", "7001"),
            ("CLUSTER_GOSSIP_BIND_PORT", "7000"),
            ("GOGC", "100"),
            ("PROMETHEUS_MONITORING_ENABLED", "false"),
            ("QUERY_MAXIMUM_RESULTS", "100000"),
            ("RAFT_BOOTSTRAP_TIMEOUT", "7200"),
            ("STANDALONE_MODE", "true"),
            ("PERSISTENCE_DATA_PATH", "/var/lib/weaviate"),
            ("DEFAULT_VECTORIZER_MODULE", "none"),
            ("RAFT_JOIN", "weaviate-0,weaviate-1,weaviate-2"),
            ("RAFT_BOOTSTRAP_EXPECT", "3"),
            ("CLUSTER_JOIN", headless),
        ])
        .unwrap();
        let node = &settings.node;
        assert_eq!(node.cluster_join, ["weaviate-0", "weaviate-1", "weaviate-2", headless]);
        assert_eq!((node.peer_port_base, node.gossip_port, node.raft_port), (7001, 7000, 7500));
        assert_eq!(settings.values["name"].1, Origin::Host);
        assert!(node.listen.is_unspecified() && node.advertise.is_none());
    }

    #[test]
    fn the_gossip_port_of_a_host_to_join_is_not_a_raft_port() {
        let config =
            node(&[("CLUSTER_JOIN", "node1:7100, [::1]:7102,node1"), ("CLUSTER_HOSTNAME", "b")]);
        assert_eq!(config.cluster_join, ["node1", "[::1]"]);
        assert_eq!(config.cluster_bootstrap_expect, 0);
    }

    #[test]
    fn names_to_join_get_a_domain_only_when_they_are_looked_up() {
        let join = |resolver, tld| {
            node(&[
                ("RAFT_JOIN", "a,b:8300,192.0.2.1"),
                ("RAFT_ENABLE_FQDN_RESOLVER", resolver),
                ("RAFT_FQDN_RESOLVER_TLD", tld),
            ])
            .cluster_join
        };
        assert_eq!(join("false", "x.net"), ["a", "b:8300", "192.0.2.1"]);
        assert_eq!(join("ON", ""), ["a", "b:8300", "192.0.2.1"]);
        assert_eq!(join("1", "x.net"), ["a.x.net", "b.x.net:8300", "192.0.2.1"]);
    }

    #[test]
    fn a_key_of_heddle_wins_over_its_variable() {
        let config = node(&[
            ("CLUSTER_HOSTNAME", "weaviate-0"),
            ("HEDDLE_NAME", "heddle-0"),
            ("RAFT_PORT", "8300"),
            ("HEDDLE_RAFT_PORT", "7501"),
            ("CLUSTER_JOIN", "one"),
            ("RAFT_JOIN", "two"),
            ("HEDDLE_CLUSTER_JOIN", "three"),
            ("HEDDLE_LISTEN", "127.0.0.1"),
            ("RAFT_BOOTSTRAP_EXPECT", "3"),
        ]);
        assert_eq!(config.name, "heddle-0");
        assert_eq!(config.raft_port, 7501);
        assert_eq!(config.cluster_join, ["three"]);
        assert_eq!(config.listen, NodeConfig::default().listen);
        assert_eq!(config.cluster_bootstrap_expect, 3);
    }

    #[test]
    fn a_node_that_is_no_part_of_a_cluster_listens_as_it_did() {
        let config =
            node(&[("CLUSTER_HOSTNAME", "node1"), ("CLUSTER_JOIN", ""), ("RAFT_PORT", "8300")]);
        assert!(!config.is_clustered());
        assert_eq!(config.listen, NodeConfig::default().listen);
        assert_eq!(config.name, "node1");
    }

    #[test]
    fn the_origin_is_the_variable() {
        let printed = load(&[("RAFT_PORT", "8300")]).unwrap().to_toml();
        let line = printed.lines().find(|line| line.starts_with("raft_port = 8300")).unwrap();
        assert!(line.ends_with("environment, RAFT_PORT"), "{line}");
    }

    #[test]
    fn bad_values_are_refused_by_the_name_of_the_variable() {
        let cluster = ("CLUSTER_JOIN", "a");
        for (name, value) in [
            ("CLUSTER_HOSTNAME", "a b"),
            ("CLUSTER_ADVERTISE_ADDR", "192.0.2.7:80"),
            ("CLUSTER_GOSSIP_BIND_PORT", "0"),
            ("CLUSTER_DATA_BIND_PORT", "70000"),
            ("RAFT_PORT", "many"),
            ("RAFT_BOOTSTRAP_EXPECT", "-1"),
            ("RAFT_BOOTSTRAP_EXPECT", "1000"),
            ("RAFT_JOIN", "a,b:x"),
            ("RAFT_ENABLE_FQDN_RESOLVER", "maybe"),
            ("RAFT_FQDN_RESOLVER_TLD", "..net"),
        ] {
            let text = refused(&[cluster, (name, value)]);
            assert!(text.contains(name) && text.contains("expected"), "{text}");
        }
        assert!(refused(&[("CLUSTER_JOIN", "::1")]).contains("CLUSTER_JOIN is ::1"));
    }
}
