//! Writing the rows of a vector file into a collection, from several connections, with progress.
//!
//! Row numbers are identities, so sending a row twice does no harm: what was refused for now or
//! lost on the way is simply sent again, and an import that was cut off goes on after the last row
//! below which everything is acknowledged.

pub(crate) mod infer;
pub(crate) mod progress;
pub(crate) mod rows;
mod waiting;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use heddle_bench::vectors::VectorFile;
use heddle_client::{Client, ClientError, ClientOptions, Collection, Consistency, Object, PutMode};
use heddle_types::json::properties_from_json;
use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::schema::VectorConfig;
use heddle_types::{CollectionConfig, Distance, ErrorCode, Quantization, RawVectors, Retry};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;
use crate::session;
use crate::status::NodeStatus;
use infer::Inferred;
use progress::{Acknowledged, Noted, StateFile, Subject};
use rows::{PropertyLines, take_id};
use waiting::Waiting;

/// Time without any acknowledged row after which an import gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// First and longest pause before a row is sent again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often progress is written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the node is asked how far its graph is.
const BACKLOG_INTERVAL: Duration = Duration::from_millis(200);
/// Most connections of one import.
const CONNECTIONS_MAX: usize = 256;

/// When an import is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Every row is durable.
    Acknowledged,
    /// And in the graph.
    Indexed,
}

/// What to import, and how.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    pub(crate) addresses: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) collection: String,
    /// Empty for a collection without tenants.
    pub(crate) tenant: String,
    pub(crate) vectors: PathBuf,
    pub(crate) properties: Option<PathBuf>,
    /// Distance of a collection that is created.
    pub(crate) distance: Option<Distance>,
    /// Its quantization.
    pub(crate) quantization: Option<Quantization>,
    /// Where its vectors rest as given.
    pub(crate) raw: Option<RawVectors>,
    pub(crate) batch: usize,
    pub(crate) connections: usize,
    /// Replicas that must have a row; none for the default.
    pub(crate) consistency: Option<Consistency>,
    pub(crate) limit: Option<u64>,
    pub(crate) resume: bool,
    pub(crate) state: Option<PathBuf>,
    pub(crate) wait: Wait,
}

/// What an import did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) collection: String,
    pub(crate) created: bool,
    /// Rows of this run.
    pub(crate) rows: u64,
    pub(crate) resumed_at: u64,
    pub(crate) seconds: f64,
    pub(crate) rows_per_second: f64,
    /// Time from the last acknowledgement until the graph held everything.
    pub(crate) index_wait_seconds: Option<f64>,
    pub(crate) properties_left_over: bool,
}

/// Rows that go into one request.
struct Batch {
    first: u64,
    objects: Vec<Object>,
}

/// Reads batches, in row order.
struct Source {
    vectors: VectorFile,
    properties: Option<PropertyLines>,
    config: CollectionConfig,
    next: u64,
    end: u64,
    batch: u64,
    values: Vec<f32>,
}

impl Import {
    /// Runs the import; `bar` shows it.
    pub(crate) async fn run(&self, client: &Client, bar: &ProgressBar) -> Result<Report, Failure> {
        self.check()?;
        let vectors = VectorFile::open(&self.vectors)?;
        let end = self.limit.unwrap_or(u64::MAX).min(vectors.rows() as u64);
        let (config, created) = self.prepare_collection(client, &vectors, end, bar).await?;
        let state = self.state_file(client)?;
        let resumed_at = self.resumed_at(&state, created, end)?;
        let mut source = Source {
            vectors,
            properties: self.properties.as_deref().map(PropertyLines::open).transpose()?,
            config,
            next: resumed_at,
            end,
            batch: self.batch as u64,
            values: Vec::new(),
        };
        if let Some(lines) = &mut source.properties {
            lines.skip(resumed_at)?;
        }
        show(bar, end, resumed_at, "rows");
        let start = Instant::now();
        self.write_all(&mut source, &state, resumed_at, bar).await?;
        let seconds = start.elapsed().as_secs_f64();
        let index_wait_seconds = match self.wait {
            Wait::Acknowledged => None,
            Wait::Indexed => Some(self.wait_for_graph(client, end, bar).await?.as_secs_f64()),
        };
        bar.finish_and_clear();
        let rows = end - resumed_at;
        let left_over = self.limit.is_none() && source.has_more_properties()?;
        Ok(Report {
            collection: self.collection.clone(),
            created,
            rows,
            resumed_at,
            seconds,
            rows_per_second: rows as f64 / seconds.max(1e-9),
            index_wait_seconds,
            properties_left_over: left_over,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        if self.batch == 0 || self.batch > OBJECT_BATCH_MAX {
            return Err(Failure::usage(format!("--batch must be 1 to {OBJECT_BATCH_MAX}")));
        }
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return Err(Failure::usage(format!("--connections must be 1 to {CONNECTIONS_MAX}")));
        }
        Ok(())
    }

    /// The collection as it is, or made from what the files hold.
    async fn prepare_collection(
        &self,
        client: &Client,
        vectors: &VectorFile,
        end: u64,
        bar: &ProgressBar,
    ) -> Result<(CollectionConfig, bool), Failure> {
        match client.collection_config(&self.collection).await {
            Ok(config) => {
                self.check_fit(&config, vectors)?;
                Ok((config, false))
            }
            Err(error) if error.code() == Some(ErrorCode::UnknownCollection) => {
                if self.resume {
                    return Err(Failure::usage(format!(
                        "collection {} does not exist, so no import of it can go on; start \
                         without --resume",
                        self.collection
                    )));
                }
                if !self.tenant.is_empty() {
                    return Err(Failure::usage(format!(
                        "collection {0} does not exist; one with tenants is made by heddle \
                         collection create {0} --tenants",
                        self.collection
                    )));
                }
                let config = self.infer_collection(vectors, end, bar)?;
                Ok((client.create_collection(&config).await?, true))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn check_fit(&self, config: &CollectionConfig, vectors: &VectorFile) -> Result<(), Failure> {
        let name = &self.collection;
        match (config.multi_tenancy.enabled, self.tenant.is_empty()) {
            (true, true) => {
                return Err(Failure::usage(format!("{name} has tenants: name one with --tenant")));
            }
            (false, false) => {
                let tenant = &self.tenant;
                return Err(Failure::usage(format!("{name} has no tenants, so none is {tenant}")));
            }
            _ => {}
        }
        let Some((_, vector)) = config.vector("") else {
            return Err(Failure::usage(format!("{name} has only named vectors")));
        };
        if let Some(dims) = vector.dims.filter(|dims| *dims as usize != vectors.dims()) {
            let found = vectors.dims();
            let path = self.vectors.display();
            let problem = format!("{name} holds vectors of {dims} components, {path} of {found}");
            return Err(Failure::usage(problem));
        }
        let differs = |what: &str, asked: Option<&str>, found: Option<&str>| match asked {
            Some(asked) if Some(asked) != found => Err(Failure::usage(format!(
                "{name} exists with {what} {}, not {asked}",
                found.unwrap_or("open")
            ))),
            _ => Ok(()),
        };
        let asked = self.distance.map(Distance::name);
        differs("distance", asked, Some(vector.distance.name()))?;
        let (asked, found) = (self.quantization, vector.quantization);
        differs("quantization", asked.map(Quantization::name), found.map(Quantization::name))?;
        differs("raw", self.raw.map(RawVectors::name), vector.raw.map(RawVectors::name))
    }

    /// A definition from the files: components of the vectors, types of the properties.
    fn infer_collection(
        &self,
        vectors: &VectorFile,
        end: u64,
        bar: &ProgressBar,
    ) -> Result<CollectionConfig, Failure> {
        let dims = u32::try_from(vectors.dims()).ok();
        let distance = self.distance.unwrap_or_default();
        let mut config = CollectionConfig {
            name: self.collection.clone(),
            vectors: vec![VectorConfig {
                dims,
                distance,
                quantization: self.quantization,
                raw: self.raw,
                ..VectorConfig::default()
            }],
            ..CollectionConfig::default()
        };
        if let Some(path) = &self.properties {
            show(bar, end, 0, "rows looked at for their types");
            let mut lines = PropertyLines::open(path)?;
            let mut inferred = Inferred::default();
            for row in 0..end {
                let Some(mut object) = lines.next_object()? else {
                    return Err(too_few_lines(row, end));
                };
                take_id(row, &mut object);
                inferred.add(&object, row).map_err(|error| Failure::usage(error.to_string()))?;
                if row.is_multiple_of(1024) {
                    bar.set_position(row);
                }
            }
            config.properties = inferred.into_definitions();
        }
        config.validate().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(config)
    }

    fn state_file(&self, client: &Client) -> Result<StateFile, Failure> {
        let topology = client.topology();
        let route = topology.collections.get(&self.collection);
        let id = route.map_or_else(String::new, |route| route.id.to_string());
        let properties = self.properties.as_deref();
        let into = (self.collection.as_str(), self.tenant.as_str());
        let subject = Subject::new(into, &id, &self.vectors, properties)?;
        Ok(StateFile::new(self.state.as_deref(), subject))
    }

    /// The first row to send.
    ///
    /// Going on without a note that fits would begin at row 0 and replace whole objects: rows
    /// imported with properties would lose them to a run without.
    fn resumed_at(&self, state: &StateFile, created: bool, end: u64) -> Result<u64, Failure> {
        let noted = if created { Noted::Nothing } else { state.load() };
        match (noted, self.resume) {
            (Noted::Rows(row), true) => Ok(row.min(end)),
            (Noted::Rows(row), false) => {
                eprintln!(
                    "An earlier import of these files had {row} rows acknowledged; --resume goes \
                     on there. This one begins at row 0."
                );
                Ok(0)
            }
            (_, false) => Ok(0),
            (noted, true) => {
                let mut message =
                    "no unfinished import of these files; start without --resume".to_owned();
                if let Noted::Other(what) = noted {
                    let place = state.path().display();
                    message.push_str(&format!("\n({place} is of {what})"));
                }
                Err(Failure::usage(message))
            }
        }
    }

    async fn write_all(
        &self,
        source: &mut Source,
        state: &StateFile,
        resumed_at: u64,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let mut idle = Vec::new();
        for _ in 0..self.connections {
            let options = ClientOptions { deadline: self.timeout, retry_writes: true };
            let client = Client::connect_with(self.addresses.clone(), options).await?;
            let collection = session::collection(&client, &self.collection, self.consistency);
            idle.push(collection.tenant(&self.tenant));
        }
        let idle = RefCell::new(idle);
        let waiting = Waiting::on(bar);
        let mut acknowledged = Acknowledged::from(resumed_at);
        let mut saved = Instant::now();
        let batches = stream::iter(std::iter::from_fn(|| source.next_batch().transpose()));
        let mut sent =
            batches.map(|batch| send(batch, &idle, &waiting)).buffer_unordered(self.connections);
        let mut outcome = Ok(());
        while let Some(result) = sent.next().await {
            match result {
                Ok((first, count)) => {
                    acknowledged.add(first, count);
                    bar.inc(count);
                }
                Err(failure) => {
                    outcome = Err(failure);
                    break;
                }
            }
            if saved.elapsed() >= SAVE_INTERVAL {
                state.save(acknowledged.contiguous())?;
                saved = Instant::now();
            }
        }
        drop(sent);
        match outcome {
            Ok(()) => {
                state.remove();
                Ok(())
            }
            Err(failure) => {
                bar.abandon();
                state.save(acknowledged.contiguous())?;
                let rows = acknowledged.contiguous();
                let note = match rows {
                    0 => "row 0 is not acknowledged: there is nothing to --resume".to_owned(),
                    rows => format!(
                        "{rows} rows are acknowledged (noted in {}); --resume goes on",
                        state.path().display()
                    ),
                };
                Err(Failure { message: format!("{failure}\n{note}"), ..failure })
            }
        }
    }

    async fn wait_for_graph(
        &self,
        client: &Client,
        end: u64,
        bar: &ProgressBar,
    ) -> Result<Duration, Failure> {
        let start = Instant::now();
        show(bar, end, 0, "rows in the graph");
        loop {
            let backlog = NodeStatus::fetch(client).await?.backlog(&self.collection);
            bar.set_position(end.saturating_sub(backlog));
            if backlog == 0 {
                return Ok(start.elapsed());
            }
            tokio::time::sleep(BACKLOG_INTERVAL).await;
        }
    }
}

impl Source {
    /// The next rows; `None` behind the last.
    fn next_batch(&mut self) -> Result<Option<Batch>, Failure> {
        let (first, count) = (self.next, self.batch.min(self.end - self.next));
        if count == 0 {
            return Ok(None);
        }
        self.vectors.read_rows(first as usize, count as usize, &mut self.values)?;
        let mut objects = Vec::with_capacity(count as usize);
        for (row, vector) in (first..).zip(self.values.chunks_exact(self.vectors.dims())) {
            let mut json = match &mut self.properties {
                Some(lines) => lines.next_object()?.ok_or_else(|| too_few_lines(row, self.end))?,
                None => serde_json::Map::new(),
            };
            let id = take_id(row, &mut json);
            let properties = properties_from_json(&self.config.properties, &json)
                .map_err(|error| Failure::usage(format!("row {row}: {error}")))?;
            objects.push(Object::new(id).with_properties(properties).with_vector(vector.to_vec()));
        }
        self.next += count;
        Ok(Some(Batch { first, objects }))
    }

    fn has_more_properties(&mut self) -> Result<bool, Failure> {
        match &mut self.properties {
            Some(lines) => Ok(lines.next_object()?.is_some()),
            None => Ok(false),
        }
    }
}

fn too_few_lines(row: u64, end: u64) -> Failure {
    Failure::usage(format!("the properties end after {row} lines, but there are {end} vectors"))
}

fn show(bar: &ProgressBar, length: u64, position: u64, what: &str) {
    let template = format!(
        "  {{bar:32}} {{human_pos}}/{{human_len}} {what}  {{per_sec}}  {{eta}} left{{msg}}"
    );
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_length(length);
    bar.set_position(position);
    bar.reset_eta();
}

/// Sends one batch on an idle connection until all of it is acknowledged; returns its first row and
/// its row count.
async fn send(
    batch: Result<Batch, Failure>,
    idle: &RefCell<Vec<Collection>>,
    waiting: &Waiting,
) -> Result<(u64, u64), Failure> {
    let Batch { first, objects } = batch?;
    let count = objects.len() as u64;
    let collection = idle.borrow_mut().pop();
    let collection = collection.ok_or_else(|| Failure::failed("more batches than connections"))?;
    let sent = send_until_acknowledged(&collection, first, objects, waiting).await;
    idle.borrow_mut().push(collection);
    sent.map(|()| (first, count))
}

async fn send_until_acknowledged(
    collection: &Collection,
    first: u64,
    objects: Vec<Object>,
    waiting: &Waiting,
) -> Result<(), Failure> {
    let mut rows: Vec<u64> = (first..).take(objects.len()).collect();
    let mut left = objects;
    let mut last_success = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let outcomes = match collection.put_batch(PutMode::Replace, &left).await {
            Ok(outcomes) => outcomes,
            Err(error) => left.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut refused = None;
        let mut kept = Vec::new();
        for (position, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(_) => {}
                Err(error) if may_try_again(&error) => {
                    kept.push(position);
                    refused = Some((rows[position], error));
                }
                Err(error) => return Err(of_row(rows[position], error)),
            }
        }
        let Some((row, error)) = refused else {
            waiting.goes_on();
            return Ok(());
        };
        if kept.len() < left.len() {
            last_success = Instant::now();
            pause = PAUSE_MIN;
            left = kept.iter().map(|position| left[*position].clone()).collect();
            rows = kept.iter().map(|position| rows[*position]).collect();
        }
        if last_success.elapsed() > PATIENCE {
            return Err(of_row(row, error));
        }
        waiting.waits_for(&error, PATIENCE);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn of_row(row: u64, error: ClientError) -> Failure {
    let failure = Failure::from(error);
    Failure { message: format!("row {row}: {}", failure.message), ..failure }
}

/// May the same rows be sent again with hope? Rows are named by their numbers, so repeating one
/// that was applied after all changes nothing.
fn may_try_again(error: &ClientError) -> bool {
    match error {
        ClientError::Api(error) => error.retry != Retry::Never,
        ClientError::Connection { .. }
        | ClientError::Timeout { .. }
        | ClientError::UnknownOutcome { .. } => true,
        _ => false,
    }
}
