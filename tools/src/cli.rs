//! The command line: every command, flag and example.

mod bench;
mod cluster;
mod node;
mod tenant;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use heddle_types::{Consistency, DeletionStrategy, Distance, Quantization, RawVectors};

use crate::config::keys::{self, KEYS, Key};

pub(crate) use bench::{Bench, BenchChurn, BenchIngest, BenchSearch, Spread};
pub(crate) use cluster::{Cluster, ClusterView, Node, NodeChange};
pub(crate) use node::{Backup, CrashTest, Restore, Status};
pub(crate) use tenant::{Tenant, TenantList, Tenants};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed or refused, 2 wrong usage or an input file that is missing or
malformed, 3 no server answered, 4 not found, 5 a write whose outcome is unknown;
`heddle serve` adds 64 to 75 (docs/operations.md).";

/// Heddle: a vector database, and the command that runs and talks to it.
#[derive(Parser, Debug)]
#[command(name = "heddle", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Action,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Action {
    /// Run a node
    #[command(after_help = "\
Settings come from heddle.toml, then HEDDLE_* variables, then flags; the later wins. Weaviate's
variables for clusters are read for what none of them sets.

Examples:
  heddle serve --data-dir /var/lib/heddle
  HEDDLE_CORES=2 heddle serve --config node1.toml --http-port 9090
  heddle serve --print-config")]
    Serve(Box<Serve>),
    /// Show a node at work: real data, searches, a kill and a restart
    #[command(after_help = "\
Examples:
  heddle demo
  heddle demo --keep        leave the node running and print its addresses")]
    Demo(Demo),
    /// Check whether this machine can run a node
    #[command(after_help = "\
Examples:
  heddle doctor --data-dir /var/lib/heddle
  heddle doctor --json | jq '.checks[] | select(.state != \"ok\")'")]
    Doctor(Doctor),
    /// Create, list, show and drop collections
    #[command(subcommand)]
    Collection(Collection),
    /// Create, list, activate, deactivate and delete tenants of a collection
    #[command(subcommand)]
    Tenant(Tenant),
    /// Write the rows of a vector file into a collection
    #[command(after_help = "\
Row i gets the UUID whose last 8 bytes are i, big endian, unless its properties hold an `id` that is
a UUID. A collection that does not exist is created; the types of its properties are inferred.

Examples:
  heddle import Docs --vectors base.npy --properties base.jsonl.gz
  heddle import Sift --vectors base.fvecs --distance l2-squared --connections 8
  heddle import Shops --tenant acme --vectors acme.npy

An import that was cut off goes on after its last acknowledged row with the same files and --resume:
  heddle import Docs --vectors base.npy --properties base.jsonl.gz --resume")]
    Import(Import),
    /// Read one object
    #[command(after_help = "\
Examples:
  heddle get Docs 00000000-0000-0000-0000-00000000002a
  heddle get Docs 42 --vector           a plain number means that row of an import
  heddle get Shops 42 --tenant acme")]
    Get(Get),
    /// Find the nearest neighbours of a vector
    #[command(after_help = "\
Filters: = != < <= > >= like, in [..], contains any|all [..], is [not] null; and, or, not, ( ).

Examples:
  heddle search Docs --like 42 --k 5
  heddle search Docs --row queries.npy:0 --filter 'year >= 2020 and source = \"pep\"'
  heddle search Tiny --vector '[0.1, 0.2, 0.3]' --json
  heddle search Shops --tenant acme --like 42")]
    Search(Search),
    /// Count objects
    #[command(after_help = "\
Examples:
  heddle count Docs
  heddle count Docs --filter 'section is null or year < 2000'
  heddle count Shops --tenant acme")]
    Count(Count),
    /// Compare the replicas of a collection
    #[command(after_help = "\
Nothing is changed; nodes compare replicas and repair what differs by themselves all the time.
Writes that are on their way may count as differences. Exit code 1: replicas differ, or were not
all compared.

Examples:
  heddle check Docs
  heddle check Docs --json | jq '.[] | select(.lacking + .undeleted > 0)'")]
    Check(Check),
    /// Measure a running node
    #[command(subcommand)]
    Bench(Bench),
    /// Show what a node is doing
    #[command(after_help = "\
Examples:
  heddle status
  heddle status --json | jq '.cores[].engine.shards[]?'")]
    Status(Status),
    /// Show the cluster: its nodes, its shards, and who leads
    #[command(subcommand)]
    Cluster(Cluster),
    /// Let a node leave the cluster
    #[command(subcommand)]
    Node(Node),
    /// Copy all that a node holds into a directory, while it serves
    #[command(after_help = "\
Everything that was acknowledged before the command began is in the copy. The directory is new or
empty; without its MANIFEST, which is written last, it is no backup.

Examples:
  heddle backup /backups/monday
  heddle backup /backups/monday --json | jq .bytes")]
    Backup(Backup),
    /// Make the data directory of a new node from a backup
    #[command(after_help = "\
The data directory is new or empty. Every file is checked against the manifest first. The node that
is started on it has an identity of its own; it may have another number of cores.

Examples:
  heddle restore /backups/monday --data-dir /var/lib/heddle
  heddle restore /backups/monday --data-dir /var/lib/heddle --shards 4
  heddle restore /backups/monday --check        only look whether it is whole")]
    Restore(Restore),
    /// Print a completion script for a shell
    #[command(after_help = "\
Example:
  heddle completions bash > ~/.local/share/bash-completion/completions/heddle")]
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// For developers: kill a node at random moments and check all that it acknowledged
    #[command(after_help = "\
Starts a node of its own in a temporary folder, writes, updates and deletes rows, ends the node with
SIGKILL at random moments, and compares every row after each restart. Ends with 1 when one is lost.

Examples:
  heddle crash-test
  heddle crash-test --quantization 4bit --raw disk
  heddle crash-test --rounds 500 --seed 7 --json")]
    CrashTest(CrashTest),
    /// For developers: fill and break the disk under a node and check all that it acknowledged
    #[command(after_help = "\
Puts a file system of its own on a loop device in memory, fills it, and makes its writes fail. Needs
root; names what it skips where something is missing, and ends with 1 then.

Example:
  unshare --mount heddle disk-test")]
    DiskTest(CrashTest),
}

/// How to reach a node.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connection {
    /// Native addresses of the node, separated by commas
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "HEDDLE_ADDRESS",
        default_value = "127.0.0.1:7700"
    )]
    pub(crate) address: Vec<String>,
    /// Longest time one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub(crate) timeout: f64,
}

impl Connection {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout.clamp(0.001, 86_400.0))
    }
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Configuration file [default: heddle.toml, when there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the configuration and where each value comes from, then exit
    #[arg(long)]
    pub(crate) print_config: bool,
    /// With --print-config: as JSON
    #[arg(long, requires = "print_config")]
    pub(crate) json: bool,
    /// Serve shards whose log lost durable records, without these; meant for one start
    #[arg(long)]
    pub(crate) accept_data_loss: bool,
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
}

/// One flag for each setting of [`KEYS`].
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingFlags(pub(crate) Vec<(&'static Key, String)>);

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().filter(|key| key.is_public()).fold(command, |command, key| {
            command.arg(
                clap::Arg::new(key.name)
                    .long(key.flag())
                    .value_name(key.placeholder)
                    .help(key.help)
                    .help_heading("Settings"),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |key: &'static Key| {
            matches.get_one::<String>(key.name).map(|value| (key, value.clone()))
        };
        let public = keys::KEYS.iter().filter(|key| key.is_public());
        Ok(Self(public.filter_map(value).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Leave the node running at the end
    #[arg(long)]
    pub(crate) keep: bool,
    /// Folder for the node's data [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Data cores; 0 takes every CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) cores: usize,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Folder that the node will use; its file system is tried out
    #[arg(long, value_name = "DIR", default_value = "heddle-data")]
    pub(crate) data_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Collection {
    /// Create a collection
    #[command(after_help = "\
Examples:
  heddle collection create Docs --dims 384 --distance cosine \\
      --property text:text --property year:int --property tags:text[]
  heddle collection create Small --dims 384 --quantization 4bit --raw disk
  heddle collection create Shops --dims 384 --tenants --auto-activate
  heddle collection create --file schema.json")]
    Create(CollectionCreate),
    /// List collections
    #[command(after_help = "\
Examples:
  heddle collection list
  heddle collection list --json | jq -r '.[].name'")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the definition of a collection
    #[command(after_help = "\
Examples:
  heddle collection show Docs
  heddle collection show Docs --json > schema.json")]
    Show {
        /// Name of the collection
        name: String,
        #[command(flatten)]
        connection: Connection,
        /// Print the definition as JSON, as `create --file` reads it
        #[arg(long)]
        json: bool,
    },
    /// Drop a collection and its data
    #[command(after_help = "\
Examples:
  heddle collection drop Docs           asks for the name first
  heddle collection drop Docs --yes --json")]
    Drop {
        /// Name of the collection
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        connection: Connection,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CollectionCreate {
    /// Name of the collection
    #[arg(required_unless_present = "file")]
    pub(crate) name: Option<String>,
    /// Whole definition as JSON; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Components of the vector [default: those of the first one written]
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) dims: Option<u32>,
    /// cosine, dot, l2-squared, manhattan or hamming
    #[arg(long, default_value = "cosine", value_parser = distance, conflicts_with = "file")]
    pub(crate) distance: Distance,
    /// A property and its type; `NAME:TYPE:nofilter` keeps no index for it
    #[arg(long = "property", value_name = "NAME:TYPE", conflicts_with = "file")]
    pub(crate) properties: Vec<String>,
    /// Physical shards; 0 takes one a node
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) shards: Option<u32>,
    /// Replicas of each shard, every one on a node of its own [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) replication: Option<u32>,
    /// TimeBasedResolution, DeleteOnConflict or NoAutomatedResolution: which of a write and a
    /// deletion wins that not every replica has seen [default: TimeBasedResolution]
    #[arg(long, value_name = "STRATEGY", value_parser = deletion_strategy, conflicts_with = "file")]
    pub(crate) deletion_strategy: Option<DeletionStrategy>,
    /// Divide it among tenants, each with shards of its own
    #[arg(long, conflicts_with = "file")]
    pub(crate) tenants: bool,
    /// With --tenants: writing to a tenant that does not exist creates it
    #[arg(long, requires = "tenants")]
    pub(crate) auto_create: bool,
    /// With --tenants: a request for an inactive tenant activates it
    #[arg(long, requires = "tenants")]
    pub(crate) auto_activate: bool,
    /// A label that every node with a part of it must carry; may be repeated
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "file")]
    pub(crate) require: Vec<String>,
    /// A label that no node with a part of it may carry; may be repeated
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "file")]
    pub(crate) avoid: Vec<String>,
    /// Links per node of the graph
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) m: Option<u16>,
    /// Candidates kept while inserting
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) ef_construction: Option<u16>,
    /// Candidates kept while searching, when a search does not say
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) ef: Option<u32>,
    /// none, half, 8bit, 4bit or 1bit [default: the server's choice]
    #[arg(long, value_name = "CODES", value_parser = quantization, conflicts_with = "file")]
    pub(crate) quantization: Option<Quantization>,
    /// Where vectors rest as given, memory or disk [default: follows from the quantization]
    #[arg(long, value_name = "PLACE", value_parser = raw_vectors, conflicts_with = "file")]
    pub(crate) raw: Option<RawVectors>,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print the definition as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// The distance of a name, with the names in the error.
fn distance(text: &str) -> Result<Distance, String> {
    let text = if text == "l2" { "l2-squared" } else { text };
    Distance::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Distance::ALL.iter().map(|distance| distance.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// The deletion strategy of a name, with the names in the error.
fn deletion_strategy(text: &str) -> Result<DeletionStrategy, String> {
    DeletionStrategy::from_name(text).ok_or_else(|| {
        let names = DeletionStrategy::ALL.map(DeletionStrategy::name);
        format!("expected one of {}", names.join(", "))
    })
}

/// The quantization of a name, with the names in the error.
fn quantization(text: &str) -> Result<Quantization, String> {
    Quantization::from_name(text).ok_or_else(|| {
        format!("expected one of {}", Quantization::ALL.map(Quantization::name).join(", "))
    })
}

/// The place of a name, with the names in the error.
fn raw_vectors(text: &str) -> Result<RawVectors, String> {
    RawVectors::from_name(text)
        .ok_or_else(|| format!("expected {}", RawVectors::ALL.map(RawVectors::name).join(" or ")))
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Name of the collection; created when it does not exist
    pub(crate) name: String,
    /// The tenant that gets the rows, where the collection has tenants
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    /// Vectors: .npy (f32, f16, u8, i8), .fvecs or .bvecs
    #[arg(long, value_name = "FILE")]
    pub(crate) vectors: PathBuf,
    /// Properties: one JSON object a line and row, .jsonl or .jsonl.gz
    #[arg(long, value_name = "FILE")]
    pub(crate) properties: Option<PathBuf>,
    /// Distance of a collection that is created [default: cosine]
    #[arg(long, value_parser = distance)]
    pub(crate) distance: Option<Distance>,
    /// Quantization of a collection that is created [default: the server's choice]
    #[arg(long, value_name = "CODES", value_parser = quantization)]
    pub(crate) quantization: Option<Quantization>,
    /// Where vectors of a collection that is created rest as given, memory or disk
    #[arg(long, value_name = "PLACE", value_parser = raw_vectors)]
    pub(crate) raw: Option<RawVectors>,
    /// Replicas that must have a row: one, quorum or all [default: quorum]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) consistency: Option<Consistency>,
    /// Rows of one request
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch: usize,
    /// Connections that write at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) connections: usize,
    /// Rows to import [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Go on after the last row that an unfinished import of the same files had acknowledged
    #[arg(long)]
    pub(crate) resume: bool,
    /// Where progress is kept [default: in the user's state folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Do not wait until the graph holds every row
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print a report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// Name of the collection
    pub(crate) name: String,
    /// UUID of the object, or the number of an imported row
    pub(crate) id: String,
    /// The tenant that it belongs to, where the collection has tenants
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    /// Show the vectors too
    #[arg(long)]
    pub(crate) vector: bool,
    /// Replicas that must take part: one, quorum or all [default: quorum]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) consistency: Option<Consistency>,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[group(id = "what", required = true, multiple = false, args = ["vector", "like", "row"])]
pub(crate) struct Search {
    /// Name of the collection
    pub(crate) name: String,
    /// Vector to search for, a JSON array; `-` reads standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) vector: Option<String>,
    /// Search for the vector of this object: a UUID, or the number of an imported row
    #[arg(long, value_name = "ID")]
    pub(crate) like: Option<String>,
    /// Search for row N of a vector file
    #[arg(long, value_name = "FILE:N")]
    pub(crate) row: Option<String>,
    /// The tenant to search, where the collection has tenants
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    /// Neighbours to find
    #[arg(short, long, value_name = "N", default_value_t = 10, value_parser = at_least_one())]
    pub(crate) k: u32,
    /// Candidates to keep: more is more exact and slower; 0 takes the collection's default
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) ef: u32,
    /// Only objects that pass, such as 'year >= 2020 and source = "pep"'
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
    /// The filter as JSON: {"and": [..]}, {"property": .., "operator": .., "value": ..}
    #[arg(long, value_name = "JSON", conflicts_with = "filter")]
    pub(crate) filter_json: Option<String>,
    /// Name of the vector to search [default: the collection's unnamed one]
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) vector_name: String,
    /// Replicas of each shard to search: one, quorum or all [default: one]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) consistency: Option<Consistency>,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Count {
    /// Name of the collection
    pub(crate) name: String,
    /// Replicas of each shard to count in: one, quorum or all [default: one]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) consistency: Option<Consistency>,
    /// The tenant whose objects are counted, where the collection has tenants
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    /// Only objects that pass, such as 'year >= 2020'
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
    /// The filter as JSON
    #[arg(long, value_name = "JSON", conflicts_with = "filter")]
    pub(crate) filter_json: Option<String>,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Name of the collection
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_flags_of_serve() {
        let cli =
            Cli::try_parse_from(["heddle", "serve", "--http-port", "0", "--cores=2"]).unwrap();
        let Action::Serve(serve) = cli.command else { panic!("serve was asked for") };
        let given: Vec<(&str, &str)> =
            serve.settings.0.iter().map(|(key, value)| (key.name, value.as_str())).collect();
        assert_eq!(given, [("http_port", "0"), ("cores", "2")]);
    }

    #[test]
    fn a_search_needs_exactly_one_query() {
        let parse = |rest: &[&str]| {
            Cli::try_parse_from([&["heddle", "search", "Docs"], rest].concat()).is_ok()
        };
        assert!(!parse(&[]));
        assert!(!parse(&["--like", "1", "--row", "a.npy:0"]));
        assert!(parse(&["--vector", "[-0.5]"]));
        assert!(!parse(&["--like", "1", "--k", "0"]));
    }

    #[test]
    fn every_command_has_examples() {
        fn check(command: &Command) {
            let children: Vec<&Command> = command.get_subcommands().collect();
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(!children.is_empty() || after.contains("heddle "), "{name} has no example");
            children.into_iter().for_each(check);
        }
        check(&Cli::command());
    }
}
