//! The configuration of a node: Weaviate's variables, then `heddle.toml`, then the environment,
//! then flags; later wins.
//!
//! A key that nobody knows is refused by its name, wherever it stands: a misspelt setting must not
//! silently become a default.

#[cfg(test)]
mod deploy;
pub(crate) mod keys;
mod weaviate;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use heddle_net::NodeConfig;
use serde_json::{Map, Value as Json};

use keys::{KEYS, Key};

/// File that is read when none is named and it exists.
const DEFAULT_FILE: &str = "heddle.toml";
/// Variables of this family that are no settings of a node.
const OTHER_VARIABLES: [&str; 2] = ["HEDDLE_CONFIG", "HEDDLE_ADDRESS"];

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    Default,
    File(PathBuf),
    Environment,
    /// A variable of Weaviate.
    Weaviate(&'static str),
    /// The operating system's name of the machine.
    Host,
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Weaviate(variable) => write!(f, "environment, {variable}"),
            Self::Host => f.write_str("host name"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Why there is no configuration. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{} cannot be read: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} is not TOML: {source}", path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("unknown key {key} ({origin}){hint}")]
    UnknownKey { key: String, origin: Origin, hint: String },
    #[error("{key} is {found} ({origin}), expected {expected}")]
    Value { key: &'static str, found: String, origin: Origin, expected: String },
}

/// Each key's value, and where it came from.
type Values = BTreeMap<&'static str, (Json, Origin)>;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A whole configuration, and where each value came from.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeConfig,
    pub(crate) log_format: LogFormat,
    /// Print the ready report on standard output.
    pub(crate) ready_line: bool,
    values: Values,
}

/// What stands outside the file.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The file that a flag names.
    pub(crate) file: Option<PathBuf>,
    /// Environment variables; others than `HEDDLE_*` and some of Weaviate's are ignored.
    pub(crate) environment: Vec<(String, String)>,
    /// Values of flags, by key.
    pub(crate) flags: Vec<(&'static Key, String)>,
}

impl Settings {
    /// Reads and checks the configuration.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut values = default_values();
        if let Some(path) = file_of(sources) {
            read_file(&path, &mut values)?;
        }
        for (variable, text) in &sources.environment {
            if let Some(name) = variable.strip_prefix("HEDDLE_") {
                read_variable(variable, name, text, &mut values)?;
            }
        }
        for (key, text) in &sources.flags {
            set(key, key.read_text(text), text, Origin::Flag, &mut values)?;
        }
        weaviate::read(&sources.environment, &mut values)?;
        let mut settings = Self::from_values(values)?;
        // The one default of names would be that of every node.
        if settings.node.is_clustered() && settings.values["name"].1 == Origin::Default {
            let mut values = settings.values;
            values.insert("name", (Json::from(host_name()), Origin::Host));
            settings = Self::from_values(values)?;
        }
        Ok(settings)
    }

    fn from_values(values: Values) -> Result<Self, ConfigError> {
        let mut node = json_of(&NodeConfig::default());
        for (key, (json, origin)) in &values {
            if OWN_KEYS.contains(key) || *origin == Origin::Default {
                continue;
            }
            let previous = node.insert((*key).to_owned(), json.clone());
            // One key at a time, so that a refusal names its key.
            if let Err(error) = serde_json::from_value::<NodeConfig>(Json::Object(node.clone())) {
                return Err(ConfigError::Value {
                    key,
                    found: json.to_string(),
                    origin: origin.clone(),
                    expected: format!(
                        "something like {}: {error}",
                        previous.unwrap_or(Json::from("a text"))
                    ),
                });
            }
        }
        let config: NodeConfig = serde_json::from_value(Json::Object(node))
            .expect("every value was accepted one by one");
        config.validate().map_err(|error| {
            let heddle_net::ConfigError { key, found, expected } = error;
            ConfigError::Value { key, found, origin: values[key].1.clone(), expected }
        })?;
        let log_format = one_of(&values, "log_format", LOG_FORMATS)?;
        let ready_line = one_of(&values, "ready_line", READY_LINES)?;
        Ok(Self { node: config, log_format, ready_line, values })
    }

    /// The configuration as a `heddle.toml`, each line with its origin.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = String::new();
        for key in &KEYS {
            let (json, origin) = &self.values[key.name];
            let line = match json {
                // TOML has no null; a key without value stays out.
                Json::Null => format!("# {key} ="),
                json if !key.is_public() && json.as_str() != Some("") => {
                    format!("# {key} is not shown")
                }
                Json::Object(entries) => format!("{key} = {}", inline_table(entries)),
                json => format!("{key} = {json}"),
            };
            text.push_str(&format!("{line:<40}  # {origin}\n"));
        }
        text
    }

    /// The configuration as one JSON object, with origins.
    pub(crate) fn to_json(&self) -> Json {
        let entry = |(key, (json, origin)): (&&str, &(Json, Origin))| {
            let is_public = keys::find(key).is_some_and(Key::is_public);
            let shown = if is_public { json } else { &Json::Null };
            let value = serde_json::json!({ "value": shown, "origin": origin.to_string() });
            ((*key).to_owned(), value)
        };
        Json::Object(self.values.iter().map(entry).collect())
    }
}

/// A table as TOML has it in one line: quoted keys, and `=` for the colon of JSON.
fn inline_table(entries: &Map<String, Json>) -> String {
    let entry = |(key, value): (&String, &Json)| format!("{} = {value}", Json::from(key.as_str()));
    let entries: Vec<String> = entries.iter().map(entry).collect();
    format!("{{ {} }}", entries.join(", "))
}

/// The name of this machine.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Settings that the command keeps for itself.
const OWN_KEYS: [&str; 2] = ["log_format", "ready_line"];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const READY_LINES: &[(&str, bool)] = &[("never", false), ("always", true)];

fn json_of(config: &NodeConfig) -> Map<String, Json> {
    match serde_json::to_value(config) {
        Ok(Json::Object(object)) => object,
        _ => unreachable!("a configuration is an object of plain values"),
    }
}

fn default_values() -> Values {
    let node = json_of(&NodeConfig::default());
    let value = |key: &Key| match key.name {
        "log_format" => Json::from("text"),
        "ready_line" => Json::from("never"),
        name => node.get(name).cloned().unwrap_or(Json::Null),
    };
    KEYS.iter().map(|key| (key.name, (value(key), Origin::Default))).collect()
}

fn one_of<T: Copy>(
    values: &Values,
    key: &'static str,
    choices: &[(&str, T)],
) -> Result<T, ConfigError> {
    let (json, origin) = &values[key];
    let chosen = choices.iter().find(|(word, _)| json.as_str() == Some(word));
    chosen.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        ConfigError::Value {
            key,
            found: json.to_string(),
            origin: origin.clone(),
            expected: words.join(" or "),
        }
    })
}

fn file_of(sources: &Sources) -> Option<PathBuf> {
    let from_environment = || {
        let named = sources.environment.iter().find(|(name, _)| name == "HEDDLE_CONFIG");
        named.map(|(_, path)| PathBuf::from(path))
    };
    let present = || Path::new(DEFAULT_FILE).exists().then(|| PathBuf::from(DEFAULT_FILE));
    sources.file.clone().or_else(from_environment).or_else(present)
}

fn read_file(path: &Path, values: &mut Values) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    let table: toml::Table = text.parse().map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    for (name, value) in &table {
        let origin = Origin::File(path.to_owned());
        let Some(key) = keys::find(name) else { return Err(unknown_key(name, name, origin)) };
        let shown = serde_json::to_string(value).unwrap_or_default();
        set(key, key.read_toml(value), &shown, origin, values)?;
    }
    Ok(())
}

fn read_variable(
    variable: &str,
    name: &str,
    text: &str,
    values: &mut Values,
) -> Result<(), ConfigError> {
    if OTHER_VARIABLES.contains(&variable) || is_service_link(name, text) {
        return Ok(());
    }
    match KEYS.iter().find(|key| key.variable() == variable) {
        Some(key) => set(key, key.read_text(text), text, Origin::Environment, values),
        None => Err(unknown_key(variable, &name.to_ascii_lowercase(), Origin::Environment)),
    }
}

/// True for what Kubernetes tells its pods of a service whose name begins with `heddle`, such as
/// `HEDDLE_SERVICE_HOST` or `HEDDLE_HTTP_PORT=tcp://10.0.0.1:8080`.
fn is_service_link(name: &str, text: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let is_of_port = parts.windows(3).any(|part| {
        let [before, number, protocol] = part else { return false };
        *before == "PORT" && number.parse::<u16>().is_ok() && ["TCP", "UDP"].contains(protocol)
    });
    let is_of_service = parts.windows(2).any(|part| {
        let [before, what] = part else { return false };
        *before == "SERVICE" && ["HOST", "PORT"].contains(what)
    });
    let is_url = ["tcp://", "udp://"].iter().any(|scheme| text.starts_with(scheme));
    is_of_port || is_of_service || (is_url && parts.last() == Some(&"PORT"))
}

fn set(
    key: &'static Key,
    json: Option<Json>,
    text: &str,
    origin: Origin,
    values: &mut Values,
) -> Result<(), ConfigError> {
    let Some(json) = json else {
        let expected = key.expected().to_owned();
        let found = if key.is_public() { text.to_owned() } else { "not a text".to_owned() };
        return Err(ConfigError::Value { key: key.name, found, origin, expected });
    };
    values.insert(key.name, (json, origin));
    Ok(())
}

fn unknown_key(shown: &str, name: &str, origin: Origin) -> ConfigError {
    let nearest = KEYS.iter().min_by_key(|key| edit_distance(key.name, name));
    let hint = match nearest.filter(|key| edit_distance(key.name, name) <= 3) {
        Some(key) => format!("; did you mean {key}?"),
        None => "; see `heddle serve --help`".to_owned(),
    };
    ConfigError::UnknownKey { key: shown.to_owned(), origin, hint }
}

/// Insertions, deletions and replacements that turn one text into the other.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(
        file: Option<PathBuf>,
        environment: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Sources {
        Sources {
            file,
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            flags: flags
                .iter()
                .map(|(name, value)| (keys::find(name).unwrap(), (*value).to_owned()))
                .collect(),
        }
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let folder = &Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp/config");
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn error(sources: &Sources) -> String {
        Settings::load(sources).unwrap_err().to_string()
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let path = file("layers.toml", "cores = 1\nhttp_port = 1001\nmemory_bytes = \"1GiB\"\n");
        let environment = [("HEDDLE_CORES", "2"), ("HEDDLE_HTTP_PORT", "1002"), ("PATH", "x")];
        let settings =
            Settings::load(&sources(Some(path.clone()), &environment, &[("cores", "3")])).unwrap();
        assert_eq!(settings.node.cores, 3);
        assert_eq!(settings.node.http_port, 1002);
        assert_eq!(settings.node.memory_bytes, 1 << 30);
        assert_eq!(settings.node.native_port, NodeConfig::default().native_port);
        let printed = settings.to_toml();
        for (line, origin) in [("cores = 3", "flag"), ("http_port = 1002", "environment")] {
            let found = printed.lines().find(|found| found.starts_with(line)).unwrap();
            assert!(found.ends_with(origin), "{found}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_configuration() {
        let flags = [
            ("listen", "0.0.0.0"),
            ("roles", "data,meta"),
            ("log_format", "json"),
            ("cluster_labels", "zone=a,rack=7"),
            ("raft_fqdn", "true"),
        ];
        let first = Settings::load(&sources(None, &[], &flags)).unwrap();
        let path = file("printed.toml", &first.to_toml());
        let second = Settings::load(&sources(Some(path), &[], &[])).unwrap();
        assert_eq!(first.node, second.node);
        assert_eq!(second.log_format, LogFormat::Json);
    }

    #[test]
    fn a_secret_is_read_and_never_printed() {
        let secret = "correct horse battery";
        let settings =
            Settings::load(&sources(None, &[("HEDDLE_CLUSTER_SECRET", secret)], &[])).unwrap();
        assert_eq!(settings.node.cluster_secret.as_bytes(), secret.as_bytes());
        let printed = format!("{}{}", settings.to_toml(), settings.to_json());
        assert!(printed.contains("# cluster_secret is not shown"));
        assert!(!printed.contains(secret));
        let text = error(&sources(None, &[("HEDDLE_CLUSTER_SECRET", "short")], &[]));
        assert!(text.contains("a text of 5 bytes") && !text.contains("short"), "{text}");
    }

    #[test]
    fn a_node_of_a_cluster_without_name_has_that_of_its_host() {
        let settings = Settings::load(&sources(None, &[], &[("cluster_join", "a,b:1")])).unwrap();
        assert_eq!(settings.node.name, host_name());
        assert_eq!(settings.node.cluster_join, ["a", "b:1"]);
        assert!(settings.to_toml().lines().any(|line| line.ends_with("# host name")));
        let named = [("cluster_join", "a"), ("name", "n")];
        assert_eq!(Settings::load(&sources(None, &[], &named)).unwrap().node.name, "n");
        let alone = Settings::load(&sources(None, &[], &[])).unwrap();
        assert_eq!(alone.node.name, NodeConfig::default().name);
    }

    #[test]
    fn weaviates_variables_are_read_before_the_file() {
        let path = file("weaviate.toml", "raft_port = 7501\n");
        let environment = [("RAFT_PORT", "8300"), ("CLUSTER_GOSSIP_BIND_PORT", "7100")];
        let settings = Settings::load(&sources(Some(path), &environment, &[])).unwrap();
        assert_eq!(settings.node.raft_port, 7501);
        assert_eq!(settings.node.gossip_port, 7100);
    }

    #[test]
    fn a_rule_names_where_the_value_came_from() {
        let text = error(&sources(None, &[("HEDDLE_CLUSTER_VOTERS", "4")], &[]));
        assert!(text.starts_with("cluster_voters is 4 (environment), expected an odd"), "{text}");
    }

    #[test]
    fn unknown_keys_are_refused_by_name_wherever_they_stand() {
        let path = file("unknown.toml", "nativ_port = 1\n");
        let text = error(&sources(Some(path), &[], &[]));
        assert!(text.contains("nativ_port") && text.contains("did you mean native_port"), "{text}");
        let text = error(&sources(None, &[("HEDDLE_CORE", "1")], &[]));
        assert!(text.contains("HEDDLE_CORE") && text.contains("did you mean cores"), "{text}");
        let path = file("table.toml", "[server]\nport = 1\n");
        assert!(error(&sources(Some(path), &[], &[])).contains("unknown key server"));
    }

    #[test]
    fn bad_values_name_their_key_and_origin() {
        for (key, value) in [
            ("cores", "many"),
            ("listen", "nowhere"),
            ("log_level", "loud"),
            ("http_port", "70000"),
        ] {
            let text = error(&sources(None, &[], &[(key, value)]));
            assert!(text.contains(key) && text.contains("flag"), "{text}");
        }
        assert!(error(&sources(None, &[], &[("log_format", "xml")])).contains("text or json"));
        assert!(
            error(&sources(None, &[], &[("wal_segment_bytes", "4KiB")])).contains("wal_segment")
        );
        assert!(error(&sources(Some("missing.toml".into()), &[], &[])).contains("missing.toml"));
    }

    #[test]
    fn what_kubernetes_says_of_services_is_no_setting() {
        let links = [
            ("HEDDLE_SERVICE_HOST", "10.0.0.1"),
            ("HEDDLE_SERVICE_PORT", "7700"),
            ("HEDDLE_SERVICE_PORT_NATIVE", "7700"),
            ("HEDDLE_PORT", "tcp://10.0.0.1:7700"),
            ("HEDDLE_PORT_7700_TCP", "tcp://10.0.0.1:7700"),
            ("HEDDLE_PORT_7700_TCP_PROTO", "tcp"),
            ("HEDDLE_HTTP_PORT", "tcp://10.0.0.1:8080"),
        ];
        let settings = Settings::load(&sources(None, &links, &[])).unwrap();
        assert_eq!(settings.node, NodeConfig::default());
        assert!(error(&sources(None, &[("HEDDLE_PORT", "7700")], &[])).contains("HEDDLE_PORT"));
    }

    #[test]
    fn every_key_and_variable_is_documented() {
        let document = include_str!("../../../docs/operations.md");
        let names = KEYS.iter().map(|key| key.name).chain(weaviate::variables());
        for name in names {
            assert!(document.contains(&format!("\n| `{name}` |")), "{name} is not in its table");
        }
    }

    #[test]
    fn the_table_has_every_setting_of_a_node() {
        let full = NodeConfig {
            advertise: Some("x".to_owned()),
            ready_file: Some("y".into()),
            cluster_secret_file: Some("z".into()),
            ..NodeConfig::default()
        };
        let mut names: Vec<String> = json_of(&full).keys().cloned().collect();
        names.extend(OWN_KEYS.map(str::to_owned));
        names.sort();
        let mut table: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        table.sort_unstable();
        assert_eq!(names, table);
    }
}
