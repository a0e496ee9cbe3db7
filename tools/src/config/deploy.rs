//! Do the files under `tools/deploy` fit what the node reads? They are taken apart line by line: a
//! reader of their whole formats would be a dependency for this alone.

use std::path::Path;

use clap::Parser;
use heddle_types::FatalReason;

use super::{Settings, Sources};
use crate::cli::{Action, Cli};

const KUBERNETES: &str = include_str!("../../deploy/kubernetes/heddle.yaml");
const UNIT: &str = include_str!("../../deploy/systemd/heddle.service");

/// What stands behind `key:` in a line, without quotes and brackets around it.
fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!("{key}:"))?.1;
    let end = rest.find([',', '}', '#']).unwrap_or(rest.len());
    Some(rest[..end].trim().trim_matches('"'))
}

fn numbers(key: &str) -> Vec<u64> {
    KUBERNETES.lines().filter_map(|line| after(line, key)?.parse().ok()).collect()
}

/// The environment of the first pod, with what Kubernetes fills in.
fn environment() -> Vec<(String, String)> {
    let limit = KUBERNETES.lines().find(|line| line.contains("limits: {")).unwrap();
    let cpus = after(limit, "cpu").unwrap();
    let mut variables: Vec<(String, String)> = Vec::new();
    let lines: Vec<&str> = KUBERNETES.lines().map(str::trim).collect();
    for pair in lines.windows(2) {
        let Some(name) = pair[0].strip_prefix("- name: ") else { continue };
        let value = match pair[1] {
            line if line.starts_with("value: ") => {
                line["value: ".len()..].trim_matches('"').to_owned()
            }
            line if line.contains("metadata.namespace") => "databases".to_owned(),
            line if line.contains("metadata.name") => "heddle-0".to_owned(),
            line if line.contains("limits.cpu") => cpus.to_owned(),
            _ => continue,
        };
        let known = variables.iter();
        let value =
            known.fold(value, |text, (name, value)| text.replace(&format!("$({name})"), value));
        variables.push((name.to_owned(), value));
    }
    variables
}

#[test]
fn the_stateful_set_has_settings_that_a_node_of_a_cluster_accepts() {
    let environment = environment();
    assert!(environment.iter().all(|(_, value)| !value.contains('$')), "{environment:?}");
    let read = environment.iter().filter(|(name, _)| name.starts_with("HEDDLE_")).count();
    assert_eq!(read, 9);
    let node = Settings::load(&Sources { environment, ..Sources::default() }).unwrap().node;
    assert!(node.is_clustered());
    assert_eq!(node.name, "heddle-0");
    let host = "heddle-0.heddle-headless.databases.svc.cluster.local";
    assert_eq!(node.advertised(node.raft_port), format!("{host}:7500"));
    assert_eq!(node.cores, 2);
    assert_eq!(numbers("replicas"), [node.cluster_bootstrap_expect as u64]);
    assert!(numbers("terminationGracePeriodSeconds")[0] > node.drain_timeout_s);
    assert!(KUBERNETES.contains(&format!("mountPath: {}}}", node.data_dir.display())));
    let secret = node.cluster_secret_file.unwrap();
    let folder = secret.parent().unwrap().display().to_string();
    assert!(KUBERNETES.contains(&format!("mountPath: {folder},")));
}

#[test]
fn the_ports_of_the_manifests_are_those_of_the_node() {
    let environment = environment();
    let node = Settings::load(&Sources { environment, ..Sources::default() }).unwrap().node;
    let cores = node.cores as u16;
    let mut expected: Vec<u64> =
        [node.native_port, node.http_port, node.raft_port, node.gossip_port]
            .map(u64::from)
            .to_vec();
    for base in [node.core_port_base, node.peer_port_base] {
        expected.extend((base..base + cores).map(u64::from));
    }
    expected.sort_unstable();
    let mut found = numbers("containerPort");
    found.sort_unstable();
    assert_eq!(found, expected);
    let of_services = numbers(" port");
    assert_eq!(of_services.len(), 6);
    assert!(of_services.iter().all(|port| expected.contains(port)), "{of_services:?}");
    for line in KUBERNETES.lines().filter(|line| line.contains("name: gossip")) {
        assert!(line.contains("protocol: UDP"), "{line}");
    }
}

#[test]
fn the_unit_starts_the_node_with_flags_that_it_has() {
    let value = |key: &str| {
        let line = UNIT.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{key} is missing"))
    };
    let cli = Cli::try_parse_from(value("ExecStart").split_whitespace()).unwrap();
    let Action::Serve(serve) = cli.command else { panic!("{:?}", cli.command) };
    assert_eq!(serve.config.as_deref(), Some(Path::new("/etc/heddle/heddle.toml")));
    let prevented: Vec<i32> = value("RestartPreventExitStatus")
        .split_whitespace()
        .map(|code| code.parse().unwrap())
        .collect();
    assert!(prevented.contains(&FatalReason::IdentityInUse.exit_code()));
    for code in prevented {
        let is_known = FatalReason::ALL.iter().any(|reason| reason.exit_code() == code);
        assert!(is_known, "{code} is no exit code of a node");
    }
}

#[test]
fn the_example_of_a_file_is_one_of_a_cluster() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/heddle.toml");
    let node = Settings::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().node;
    assert!(node.is_clustered());
    assert_eq!(node.cluster_bootstrap_expect, node.cluster_join.len());
    assert_eq!(node.cluster_labels["zone"], "a");
}
