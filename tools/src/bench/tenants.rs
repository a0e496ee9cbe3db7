//! `heddle bench tenants`: how fast tenants come, are filled, rest and wake.

use std::time::{Duration, Instant};

use clap::Args;
use futures::stream::{StreamExt, iter};
use heddle_client::{Collection, Object, PutMode, Search, TenantAction};
use heddle_types::ObjectId;
use heddle_types::limits::TENANT_BATCH_MAX;
use serde::Serialize;

use crate::cli::Connection;
use crate::failure::Failure;
use crate::output::{Style, Table, duration, grouped, print_json};
use crate::session;

/// Flags of `heddle bench tenants`.
#[derive(Args, Debug)]
pub(crate) struct BenchTenants {
    /// Name of a collection with tenants and one unnamed vector
    pub(crate) collection: String,
    /// Tenants to create, named tenant-000000 and so on
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) tenants: usize,
    /// The first number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) first: usize,
    /// Rows that each of them gets, in one request
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) rows: usize,
    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) in_flight: usize,
    /// What is measured: create, fill, search, deactivate, activate, delete; in this order
    #[arg(long, value_name = "STEPS", value_delimiter = ',', default_value = "create,fill,search")]
    pub(crate) steps: Vec<Step>,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One thing that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Create all tenants, 1,000 a request.
    Create,
    /// Write their rows.
    Fill,
    /// Search in each once.
    Search,
    /// Deactivate all, 1,000 a request.
    Deactivate,
    /// Activate all, 1,000 a request.
    Activate,
    /// Delete all, 1,000 a request.
    Delete,
}

/// What a step took.
#[derive(Clone, Debug, Serialize)]
struct Row {
    step: Step,
    tenants: usize,
    seconds: f64,
    /// Tenants a second.
    rate: f64,
    /// The slowest request, seconds.
    slowest: f64,
}

pub(crate) async fn run(arguments: &BenchTenants) -> Result<(), Failure> {
    let client = session::connect(&arguments.connection).await?;
    let config = client.collection_config(&arguments.collection).await?;
    let dims = config.vectors.first().and_then(|vector| vector.dims);
    let Some(dims) = dims.filter(|_| config.multi_tenancy.enabled) else {
        return Err(Failure::usage("the collection needs tenants and a vector of known dimension"));
    };
    let collection = client.collection(&arguments.collection);
    let range = arguments.first..arguments.first + arguments.tenants;
    let names: Vec<String> = range.map(|number| format!("tenant-{number:06}")).collect();
    let load = Load { collection, names, rows: arguments.rows, dims: dims as usize };
    let mut rows = Vec::new();
    for step in &arguments.steps {
        let row = load.measure(*step, arguments.in_flight.max(1)).await?;
        if !arguments.json {
            eprintln!("{step:?}: {:.0} tenants/s", row.rate);
        }
        rows.push(row);
    }
    if arguments.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&["step", "tenants", "time", "tenants/s", "slowest request"]);
    for row in &rows {
        table.row(vec![
            format!("{:?}", row.step).to_lowercase(),
            grouped(row.tenants as u64),
            duration(Duration::from_secs_f64(row.seconds)),
            format!("{:.0}", row.rate),
            duration(Duration::from_secs_f64(row.slowest)),
        ]);
    }
    print!("{}", table.render(Style::of_stdout()));
    Ok(())
}

struct Load {
    collection: Collection,
    names: Vec<String>,
    rows: usize,
    dims: usize,
}

impl Load {
    async fn measure(&self, step: Step, in_flight: usize) -> Result<Row, Failure> {
        let start = Instant::now();
        let slowest = match step {
            Step::Create => self.change(TenantAction::Create).await?,
            Step::Deactivate => self.change(TenantAction::Deactivate).await?,
            Step::Activate => self.change(TenantAction::Activate).await?,
            Step::Delete => self.change(TenantAction::Delete).await?,
            Step::Fill => self.each(in_flight, |number| self.fill(number)).await?,
            Step::Search => self.each(in_flight, |number| self.search(number)).await?,
        };
        let (tenants, seconds) = (self.names.len(), start.elapsed().as_secs_f64());
        let slowest = slowest.as_secs_f64();
        Ok(Row { step, tenants, seconds, rate: tenants as f64 / seconds, slowest })
    }

    async fn change(&self, action: TenantAction) -> Result<Duration, Failure> {
        let mut slowest = Duration::ZERO;
        for names in self.names.chunks(TENANT_BATCH_MAX) {
            let start = Instant::now();
            self.collection.change_tenants(action, names).await?;
            slowest = slowest.max(start.elapsed());
        }
        Ok(slowest)
    }

    /// Does something for each tenant, so many at once; how long the slowest took.
    async fn each<F: Future<Output = Result<(), Failure>>>(
        &self,
        in_flight: usize,
        work: impl Fn(usize) -> F,
    ) -> Result<Duration, Failure> {
        let timed = |number| {
            let work = work(number);
            async move {
                let start = Instant::now();
                work.await.map(|()| start.elapsed())
            }
        };
        let mut all = iter((0..self.names.len()).map(timed)).buffer_unordered(in_flight);
        let mut slowest = Duration::ZERO;
        while let Some(took) = all.next().await {
            slowest = slowest.max(took?);
        }
        Ok(slowest)
    }

    /// A vector that no other row of any tenant has.
    fn vector(&self, tenant: usize, row: usize) -> Vec<f32> {
        let mut state = ((tenant as u64) << 32 | row as u64) ^ 0x9E37_79B9_7F4A_7C15;
        let component = || {
            // xorshift64: enough for vectors that differ.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        std::iter::repeat_with(component).take(self.dims).collect()
    }

    async fn fill(&self, tenant: usize) -> Result<(), Failure> {
        let object = |row: usize| {
            Object::new(ObjectId::from_row(row as u64)).with_vector(self.vector(tenant, row))
        };
        let objects: Vec<Object> = (0..self.rows).map(object).collect();
        let handle = self.collection.tenant(&self.names[tenant]);
        for outcome in handle.put_batch(PutMode::Replace, &objects).await? {
            outcome?;
        }
        Ok(())
    }

    async fn search(&self, tenant: usize) -> Result<(), Failure> {
        let row = tenant % self.rows.max(1);
        let handle = self.collection.tenant(&self.names[tenant]);
        let found = handle.search(&Search::near(self.vector(tenant, row)).k(10)).await?;
        if found.hits.first().map(|hit| hit.id) != Some(ObjectId::from_row(row as u64)) {
            let name = &self.names[tenant];
            return Err(Failure::failed(format!("row {row} of {name} is not its own neighbour")));
        }
        Ok(())
    }
}
