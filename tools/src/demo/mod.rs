//! `heddle demo`: a node at work on real text embeddings, in a minute and without a network.
//!
//! The node is this executable started again as `heddle serve`; everything goes through the native
//! protocol. The demo ends well only if every check held.

pub(crate) mod data;
mod screen;

use std::time::{Duration, Instant};

use heddle_client::{Client, Collection, Search, SearchResult, StoredObject, Want};
use heddle_net::ReadyReport;
use heddle_types::{CollectionConfig, Filter, ObjectId};
use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::bench::{Load, QuerySet, Row, measure};
use crate::cli::{self, Spread};
use crate::commands::bench::{addresses, read_queries};
use crate::failure::Failure;
use crate::filter;
use crate::import::{Import, Wait};
use crate::node_process::{NodeOptions, NodeProcess, native_address};
use crate::scratch::Scratch;
use crate::session::block_on;
use crate::status::NodeStatus;
use data::DemoData;
use screen::Screen;

pub(crate) const COLLECTION: &str = "Demo";
/// Queries that are shown: passages that read well by themselves.
const SHOWN: [usize; 4] = [42, 88, 182, 70];
/// The query that is shown with a filter, and the filter.
const FILTERED: (usize, &str) = (163, "source = \"pep\" and year >= 2018");
/// Neighbours shown of each query.
const SHOWN_K: u32 = 3;
/// Candidates kept where the very nearest are wanted.
const EXACTING_EF: u32 = 400;
/// Neighbours that the recall counts.
const RECALL_K: u32 = 10;
/// Candidates kept in the measured runs.
const EFS: [u32; 3] = [16, 32, 64];
const CONNECTIONS: usize = 8;
const MEASURE_TIME: Duration = Duration::from_millis(1_500);
/// One row in so many is read back before and after the kill.
const SAMPLE_STRIDE: u64 = 11;
/// Recall that may be lost over a restart: the graph is built again in another order.
const RECALL_TOLERANCE: f64 = 0.01;

/// What was seen before the kill and must be seen again.
struct Memory {
    count: u64,
    sample: Vec<Option<StoredObject>>,
    searches: Vec<SearchResult>,
    recall: f64,
}

/// The running demo.
struct Demo {
    screen: Screen,
    scratch: Scratch,
    data: DemoData,
    node: NodeProcess,
    options: NodeOptions,
    ready: ReadyReport,
    queries: QuerySet,
    passages: Vec<serde_json::Map<String, serde_json::Value>>,
}

pub(crate) fn run(arguments: &cli::Demo) -> Result<(), Failure> {
    let mut demo = Demo::start(arguments)?;
    let memory = block_on(demo.before_the_kill())?;
    let failed = demo.kill_and_check(&memory)?;
    demo.finish(arguments.keep)?;
    match failed {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} checks failed"))),
    }
}

impl Demo {
    fn start(arguments: &cli::Demo) -> Result<Self, Failure> {
        let screen = Screen::new();
        screen.title();
        let scratch = Scratch::new("heddle-demo", arguments.data_dir.as_deref())?;
        let data = DemoData::unpack(&scratch.path().join("input"))?;
        let options = NodeOptions {
            data_dir: scratch.path().join("node"),
            cores: arguments.cores,
            flags: Vec::new(),
            leftovers: scratch.leftovers(),
        };
        let mut node = NodeProcess::spawn(&options)?;
        let (ready, time) = node.wait_ready()?;
        screen.started(&ready, time, scratch.path());
        let queries = read_queries(&data.queries(), &data.truth(), RECALL_K)?;
        let passages = data.query_passages()?;
        Ok(Self { screen, scratch, data, node, options, ready, queries, passages })
    }

    async fn before_the_kill(&mut self) -> Result<Memory, Failure> {
        let client = self.connect().await?;
        self.import(&client).await?;
        let config = client.collection_config(COLLECTION).await?;
        let collection = client.collection(COLLECTION);
        self.screen.heading("Search", "the queries are passages that are not in the collection");
        for row in SHOWN {
            self.show_search(&collection, row, None).await?;
        }
        let (row, expression) = FILTERED;
        let filter = read(expression, &config)?;
        let passing = collection.count(Some(&filter)).await?;
        self.screen.filter(expression, passing);
        self.show_search(&collection, row, Some(filter)).await?;
        let rows = self.measure(&client).await?;
        self.screen.measured(&rows, self.queries.rows(), RECALL_K, CONNECTIONS);
        self.remember(&client).await
    }

    async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect([native_address(&self.ready)]).await?)
    }

    async fn import(&self, client: &Client) -> Result<(), Failure> {
        let import = Import {
            addresses: vec![native_address(&self.ready)],
            timeout: Duration::from_secs(30),
            collection: COLLECTION.to_owned(),
            tenant: String::new(),
            vectors: self.data.vectors(),
            properties: Some(self.data.properties()),
            distance: None,
            quantization: None,
            raw: None,
            batch: 128,
            connections: 4,
            consistency: None,
            limit: None,
            resume: false,
            state: Some(self.scratch.path().join("import.json")),
            wait: Wait::Indexed,
        };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let report = import.run(client, &bar).await?;
        let status = NodeStatus::fetch(client).await?;
        let config = client.collection_config(COLLECTION).await?;
        self.screen.imported(&report, &config, status.bytes_per_vector(COLLECTION));
        Ok(())
    }

    async fn show_search(
        &self,
        collection: &Collection,
        row: usize,
        filter: Option<Filter>,
    ) -> Result<(), Failure> {
        let mut search = Search::near(self.query(row)).k(SHOWN_K).with_properties();
        if let Some(filter) = filter {
            search = search.filter(filter);
        }
        let start = Instant::now();
        let result = collection.search(&search).await?;
        self.screen.search(&self.passages[row], &result, start.elapsed());
        Ok(())
    }

    fn query(&self, row: usize) -> Vec<f32> {
        let dims = self.queries.dims;
        self.queries.values[row * dims..(row + 1) * dims].to_vec()
    }

    fn load(&self, client: &Client) -> Result<Load, Failure> {
        Ok(Load {
            collection: COLLECTION.to_owned(),
            filter: Vec::new(),
            k: RECALL_K,
            addresses: addresses(&client.topology(), Spread::Core, CONNECTIONS)?,
            rate: None,
            in_flight: 1,
            time: MEASURE_TIME,
            timeout: Duration::from_secs(10),
        })
    }

    async fn measure(&self, client: &Client) -> Result<Vec<Row>, Failure> {
        let load = self.load(client)?;
        let mut rows = Vec::new();
        for ef in EFS {
            rows.push(measure(&load, &self.queries, ef).await?);
        }
        Ok(rows)
    }

    /// Everything that is compared before and after the kill.
    async fn remember(&self, client: &Client) -> Result<Memory, Failure> {
        let collection = client.collection(COLLECTION);
        let count = collection.count(None).await?;
        let ids: Vec<ObjectId> =
            (0..count).step_by(SAMPLE_STRIDE as usize).map(ObjectId::from_row).collect();
        let sample = collection.get_batch(&ids, Want::ALL).await?;
        let sample = sample.into_iter().collect::<Result<_, _>>()?;
        let mut searches = Vec::new();
        for row in SHOWN {
            let search = Search::near(self.query(row)).k(SHOWN_K).ef(EXACTING_EF);
            searches.push(collection.search(&search).await?);
        }
        let load = Load { time: Duration::from_millis(1), ..self.load(client)? };
        let recall = measure(&load, &self.queries, EXACTING_EF).await?.recall;
        Ok(Memory { count, sample, searches, recall })
    }

    /// Kills the node, starts it again, and looks for everything; returns how many checks failed.
    fn kill_and_check(&mut self, before: &Memory) -> Result<usize, Failure> {
        let pid = self.node.pid();
        self.node.kill()?;
        self.node = NodeProcess::spawn(&self.options)?;
        let (ready, time) = self.node.wait_ready()?;
        self.ready = ready;
        self.screen.restarted(pid, time);
        let after = block_on(async { self.remember(&self.connect().await?).await })?;
        let objects = before.sample.iter().flatten().count();
        let same_searches = before
            .searches
            .iter()
            .zip(&after.searches)
            .all(|(before, after)| same_hits(before, after));
        let checks = [
            (before.count == after.count, format!("{} objects are there", after.count)),
            (
                objects == before.sample.len() && same_objects(&before.sample, &after.sample),
                format!("{objects} of them read back: vectors, properties and times bit for bit"),
            ),
            (same_searches, "the searches above find the same neighbours".to_owned()),
            (
                after.recall >= before.recall - RECALL_TOLERANCE,
                format!("recall@{RECALL_K} is {:.4}, was {:.4}", after.recall, before.recall),
            ),
        ];
        for (held, text) in &checks {
            self.screen.check(*held, text);
        }
        Ok(checks.iter().filter(|(held, _)| !held).count())
    }

    fn finish(self, keep: bool) -> Result<(), Failure> {
        let Self { screen, scratch, mut node, ready, .. } = self;
        if keep {
            scratch.keep();
            screen.kept(&ready, scratch.path(), node.log());
            node.release();
            return Ok(());
        }
        let status = node.stop()?;
        if !status.success() {
            return Err(Failure::failed(format!("the node did not stop cleanly: {status}")));
        }
        screen.stopped();
        Ok(())
    }
}

fn read(expression: &str, config: &CollectionConfig) -> Result<Filter, Failure> {
    filter::parse(expression, config).map_err(|error| Failure::failed(error.to_string()))
}

/// The same objects, every float bit for bit (`==` would take -0.0 for 0.0).
fn same_objects(before: &[Option<StoredObject>], after: &[Option<StoredObject>]) -> bool {
    let bits = |object: &StoredObject| -> Vec<u32> {
        object.vectors.values().flatten().map(|value| value.to_bits()).collect()
    };
    before.len() == after.len()
        && before.iter().zip(after).all(|pair| match pair {
            (Some(before), Some(after)) => before == after && bits(before) == bits(after),
            _ => false,
        })
}

/// The same neighbours in the same order. Distances may differ in the last digits: an exact scan
/// and a walk of the graph add up in different orders.
fn same_hits(before: &SearchResult, after: &SearchResult) -> bool {
    before.hits.len() == after.hits.len()
        && before.hits.iter().zip(&after.hits).all(|(before, after)| {
            before.id == after.id && (before.distance - after.distance).abs() <= 1e-5
        })
}
