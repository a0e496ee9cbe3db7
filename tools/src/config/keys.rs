//! The settings of `heddle serve`: one table for the file, the environment and the flags.

use std::fmt;

use serde_json::Value as Json;

/// How a setting is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Text, an address or a path.
    Text,
    /// A whole number.
    Count,
    /// Bytes: a whole number, or one with KiB, MiB, GiB or TiB.
    Bytes,
    /// Words: an array in the file, separated by commas elsewhere.
    Words,
    /// Yes or no.
    Switch,
    /// Names with a text each: a table in the file, `name=text` separated by commas elsewhere.
    Labels,
    /// Text that is neither printed nor given as a flag, which other users of the machine see.
    Secret,
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// Name in `heddle.toml`; upper case after `HEDDLE_` in the environment; with hyphens as flag.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// What stands for the value in the help text.
    pub(crate) placeholder: &'static str,
    pub(crate) help: &'static str,
}

const fn key(name: &'static str, kind: Kind, placeholder: &'static str, help: &'static str) -> Key {
    Key { name, kind, placeholder, help }
}

/// Every setting, in the order of the help text.
pub(crate) const KEYS: [Key; 40] = [
    key("data_dir", Kind::Text, "DIR", "Folder that holds everything the node keeps"),
    key("name", Kind::Text, "NAME", "Name of the node; in a cluster the host's when not given"),
    key("listen", Kind::Text, "IP", "Address to listen on"),
    key("advertise", Kind::Text, "HOST", "Host that clients and peers are told to dial"),
    key("native_port", Kind::Count, "PORT", "Native protocol, any core; 0 takes a free port"),
    key(
        "core_port_base",
        Kind::Count,
        "PORT",
        "Native protocol of data core i: this plus i; 0 takes free ports",
    ),
    key("http_port", Kind::Count, "PORT", "HTTP: metrics and health; 0 takes a free port"),
    key("cores", Kind::Count, "N", "Data cores; 0 takes every CPU of the process"),
    key(
        "memory_bytes",
        Kind::Bytes,
        "BYTES",
        "Memory the node may use; 0 takes four fifths of the machine or container",
    ),
    key("wal_segment_bytes", Kind::Bytes, "BYTES", "Bytes of a log segment"),
    key(
        "checkpoint_log_bytes",
        Kind::Bytes,
        "BYTES",
        "Log bytes of a core after which its shards are checkpointed",
    ),
    key(
        "checkpoint_interval_s",
        Kind::Count,
        "SECONDS",
        "Time after which a changed shard is checkpointed anyway",
    ),
    key(
        "repair_interval_ms",
        Kind::Count,
        "MILLISECONDS",
        "Time between two comparisons of the replicas of a shard",
    ),
    key(
        "scrub_bytes_per_s",
        Kind::Bytes,
        "BYTES",
        "Bytes a second that each core reads to look for damage; 0 never looks",
    ),
    key(
        "scrub_interval_s",
        Kind::Count,
        "SECONDS",
        "Time from the start of one look at everything to the next",
    ),
    key(
        "disk_warn_percent",
        Kind::Count,
        "PERCENT",
        "Share of the disk in use from which on space is saved and warned of",
    ),
    key(
        "disk_no_insert_percent",
        Kind::Count,
        "PERCENT",
        "Share of the disk in use from which on no new objects are taken",
    ),
    key(
        "disk_delete_only_percent",
        Kind::Count,
        "PERCENT",
        "Share of the disk in use from which on only deletions are taken",
    ),
    key(
        "disk_reserve_bytes",
        Kind::Bytes,
        "BYTES",
        "Bytes kept for deletions on a full disk; 0 for none",
    ),
    key(
        "backup_idle_s",
        Kind::Count,
        "SECONDS",
        "Time without a read after which a backup is given up",
    ),
    key(
        "drain_timeout_s",
        Kind::Count,
        "SECONDS",
        "Time a stop may take to answer what is running",
    ),
    key("spin_us", Kind::Count, "US", "Time an idle core looks for work before it sleeps"),
    key(
        "kernels",
        Kind::Text,
        "NAME",
        "Most that kernels may use: auto, avx512, avxvnni, avx2, dotprod, neon or portable",
    ),
    key("log_level", Kind::Text, "LEVEL", "error, warn, info, debug or trace"),
    key("log_format", Kind::Text, "FORMAT", "text, or json: one object a line"),
    key("roles", Kind::Words, "ROLES", "What the node does: data,meta"),
    key("cluster_name", Kind::Text, "NAME", "Name of the cluster; others are not listened to"),
    key("cluster_secret", Kind::Secret, "TEXT", "What the nodes of the cluster alone know"),
    key("cluster_secret_file", Kind::Text, "FILE", "File that holds the secret"),
    key(
        "cluster_join",
        Kind::Words,
        "HOSTS",
        "Other nodes, host or host:raft-port; this or the next makes the node one of a cluster",
    ),
    key(
        "cluster_bootstrap_expect",
        Kind::Count,
        "N",
        "Nodes that make a new cluster once they have found each other; 0 only joins one",
    ),
    key("cluster_voters", Kind::Count, "N", "Nodes that vote on changes of the cluster"),
    key("cluster_labels", Kind::Labels, "LABELS", "What to say of this node: zone=a,rack=7"),
    key("peer_port_base", Kind::Count, "PORT", "Replication, data core i: this plus i"),
    key("raft_port", Kind::Count, "PORT", "Raft and control of the cluster"),
    key("gossip_port", Kind::Count, "PORT", "Gossip, UDP"),
    key(
        "raft_fqdn",
        Kind::Switch,
        "BOOL",
        "true: Raft dials the names of nodes, looked up at each dial",
    ),
    key("raft_fqdn_tld", Kind::Text, "DOMAIN", "Domain behind these names"),
    key("ready_file", Kind::Text, "FILE", "Written once the node serves: its addresses as JSON"),
    key("ready_line", Kind::Text, "WHEN", "always: also print that report on standard output"),
];

/// The setting of a name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// Name of the environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("HEDDLE_{}", self.name.to_ascii_uppercase())
    }

    /// Name of the flag, without hyphens in front.
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// True when the value may be shown, and given as a flag.
    pub(crate) fn is_public(&self) -> bool {
        self.kind != Kind::Secret
    }

    /// Reads text from the environment or a flag; `None` when it is not of this kind.
    pub(crate) fn read_text(&self, text: &str) -> Option<Json> {
        match self.kind {
            Kind::Text => Some(Json::from(text)),
            Kind::Count => text.trim().parse::<u64>().ok().map(Json::from),
            Kind::Bytes => bytes_from_text(text).map(Json::from),
            Kind::Words => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Some(Json::Array(words.map(Json::from).collect()))
            }
            Kind::Switch => text.trim().parse::<bool>().ok().map(Json::from),
            Kind::Labels => labels_from_text(text),
            Kind::Secret => Some(Json::from(text)),
        }
    }

    /// Reads a value of the configuration file; `None` when it is not of this kind.
    pub(crate) fn read_toml(&self, value: &toml::Value) -> Option<Json> {
        match (self.kind, value) {
            (Kind::Text | Kind::Bytes | Kind::Secret, toml::Value::String(text)) => {
                self.read_text(text)
            }
            (Kind::Switch, toml::Value::Boolean(switch)) => Some(Json::from(*switch)),
            (Kind::Labels, toml::Value::Table(table)) => {
                let label = |(name, value): (&String, &toml::Value)| {
                    value.as_str().map(|text| (name.clone(), Json::from(text)))
                };
                table.iter().map(label).collect::<Option<_>>().map(Json::Object)
            }
            (Kind::Count | Kind::Bytes, toml::Value::Integer(number)) => {
                u64::try_from(*number).ok().map(Json::from)
            }
            (Kind::Words, toml::Value::Array(items)) => {
                let words = items.iter().map(|item| item.as_str().map(Json::from));
                words.collect::<Option<Vec<_>>>().map(Json::Array)
            }
            _ => None,
        }
    }

    /// How the value should look.
    pub(crate) fn expected(&self) -> &'static str {
        match self.kind {
            Kind::Text => "a text",
            Kind::Count => "a whole number",
            Kind::Bytes => "bytes, such as 67108864 or \"64MiB\"",
            Kind::Words => "a list of words",
            Kind::Switch => "true or false",
            Kind::Labels => "name=text, each name once; in the file a table of texts",
            Kind::Secret => "a text",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn labels_from_text(text: &str) -> Option<Json> {
    let mut labels = serde_json::Map::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once('=')?;
        if labels.insert(name.trim().to_owned(), Json::from(value.trim())).is_some() {
            return None;
        }
    }
    Some(Json::Object(labels))
}

const UNITS: [(&str, u64); 5] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];

/// Reads `64MiB`, `1.5GiB` or `4096`.
pub(crate) fn bytes_from_text(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(plain) = text.parse::<u64>() {
        return Some(plain);
    }
    let (unit, scale) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    let bytes = number * *scale as f64;
    (bytes >= 0.0 && bytes < 2f64.powi(53)).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_unit() {
        assert_eq!(bytes_from_text("4096"), Some(4096));
        assert_eq!(bytes_from_text("64 MiB"), Some(64 << 20));
        assert_eq!(bytes_from_text("1.5GiB"), Some(3 << 29));
        for bad in ["", "MiB", "-1MiB", "1MB", "x", "1e300GiB"] {
            assert_eq!(bytes_from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn labels_are_read_from_text_and_from_a_table() {
        let key = find("cluster_labels").unwrap();
        let expected = serde_json::json!({"zone": "a", "rack": "7=x"});
        assert_eq!(key.read_text("zone=a, rack=7=x"), Some(expected.clone()));
        let table: toml::Table = "l = {zone = \"a\", rack = \"7=x\"}".parse().unwrap();
        assert_eq!(key.read_toml(&table["l"]), Some(expected));
        for bad in ["zone", "zone=a,zone=b"] {
            assert_eq!(key.read_text(bad), None, "{bad}");
        }
        let table: toml::Table = "l = {zone = 1}".parse().unwrap();
        assert_eq!(key.read_toml(&table["l"]), None);
    }

    #[test]
    fn names_are_unique() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.name != key.name), "{key}");
        }
    }
}
