//! `heddle bench writes`: durable rows a second beside what the disk itself can do.
//!
//! Each measurement keeps a number of single-row puts in flight against a node of its own and
//! takes the time of every acknowledgement. Then the disk is measured with the log's set-up and
//! with batches as large as those that the log has just written: so many batches a second, of so
//! many rows each, are what the disk allows.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::join_all;
use hdrhistogram::Histogram;
use heddle_client::{Client, ClientOptions, Collection, Durability, Object, PutMode};
use heddle_types::ObjectId;
use serde::Serialize;

use super::device::{Syncing, batches_per_s, bytes_per_s};
use crate::crash::{RowSource, Rows, read_rows};
use crate::failure::Failure;
use crate::node_process::{NodeOptions, NodeProcess, native_address};
use crate::output::{Style, Table, grouped};
use crate::scratch::Scratch;
use crate::session::block_on;

const COLLECTION: &str = "Writes";
/// Puts in flight of one client; more would queue in its connections.
const IN_FLIGHT_PER_CLIENT: usize = 64;
/// Longest latency that is told apart from longer ones: 60 s in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Time that each limit of the disk is measured for.
const DEVICE_TIME: Duration = Duration::from_secs(2);
const PAGE_BYTES: usize = 4096;
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct BenchWrites {
    /// Vectors to write, again and again under new ids [default: the demo data]
    #[arg(long, value_name = "FILE")]
    pub(crate) vectors: Option<PathBuf>,
    /// Their properties
    #[arg(long, value_name = "FILE", requires = "vectors")]
    pub(crate) properties: Option<PathBuf>,
    /// Puts in flight, one measurement each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,16,256")]
    pub(crate) in_flight: Vec<usize>,
    /// Length of a measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Data cores of the node
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cores: usize,
    /// Acknowledge before the sync
    #[arg(long)]
    pub(crate) batched: bool,
    /// Folder for the node's data [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    in_flight: usize,
    rows: u64,
    rows_per_s: f64,
    ack_us_p50: u64,
    ack_us_p99: u64,
    rows_per_batch: f64,
    bytes_per_batch: f64,
    device_batches_per_s: f64,
    device_rows_per_s: f64,
    share_of_device: f64,
    times_single_sync: f64,
}

/// The disk alone.
#[derive(Debug, Serialize)]
struct Device {
    page_syncs_per_s: f64,
    two_logs_page_syncs_per_s: f64,
    two_logs_elected_page_syncs_per_s: f64,
    two_logs_64k_syncs_per_s: f64,
    two_logs_elected_64k_syncs_per_s: f64,
    bytes_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    device: Device,
    lines: Vec<Line>,
}

/// Counters of all logs of the node.
#[derive(Clone, Copy, Default)]
struct Logs {
    batches: u64,
    records: u64,
    bytes: u64,
}

pub(crate) fn run(arguments: &BenchWrites) -> Result<(), Failure> {
    let scratch = Scratch::new("heddle-writes", arguments.data_dir.as_deref())?;
    let source = RowSource {
        vectors: arguments.vectors.as_deref(),
        properties: arguments.properties.as_deref(),
    };
    let rows = read_rows(&source, scratch.path())?;
    let device = measure_device(scratch.path())?;
    let mut lines = Vec::new();
    for in_flight in &arguments.in_flight {
        // A node of its own for each: what one leaves behind must not slow the next one.
        let options = NodeOptions {
            data_dir: scratch.path().join(format!("node-{in_flight}")),
            cores: arguments.cores,
            flags: Vec::new(),
            leftovers: scratch.leftovers(),
        };
        let mut node = NodeProcess::spawn(&options)?;
        let address = native_address(&node.wait_ready()?.0);
        let line = block_on(measure(arguments, &rows, &address, *in_flight))?;
        node.stop()?;
        std::fs::remove_dir_all(&options.data_dir)?;
        let line = beside_device(line, scratch.path(), arguments.cores.max(1), &device)?;
        eprintln!("{in_flight} in flight: {:.0} rows/s", line.rows_per_s);
        lines.push(line);
    }
    let report = Report { device, lines };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        show(&report);
    }
    Ok(())
}

fn measure_device(folder: &Path) -> Result<Device, Failure> {
    let rate = |bytes, logs, syncing| batches_per_s(folder, bytes, logs, syncing, DEVICE_TIME);
    Ok(Device {
        page_syncs_per_s: rate(PAGE_BYTES, 1, Syncing::Each)?,
        two_logs_page_syncs_per_s: rate(PAGE_BYTES, 2, Syncing::Each)?,
        two_logs_elected_page_syncs_per_s: rate(PAGE_BYTES, 2, Syncing::Elected)?,
        two_logs_64k_syncs_per_s: rate(16 * PAGE_BYTES, 2, Syncing::Each)?,
        two_logs_elected_64k_syncs_per_s: rate(16 * PAGE_BYTES, 2, Syncing::Elected)?,
        bytes_per_s: bytes_per_s(folder, DEVICE_TIME)?,
    })
}

/// Puts rows one by one, so many at a time.
async fn measure(
    arguments: &BenchWrites,
    rows: &Rows,
    address: &str,
    in_flight: usize,
) -> Result<Line, Failure> {
    let durability = if arguments.batched { Durability::Batched } else { Durability::Sync };
    let mut clients = Vec::new();
    for _ in 0..in_flight.div_ceil(IN_FLIGHT_PER_CLIENT) {
        let options = ClientOptions { deadline: CALL_TIMEOUT, retry_writes: false };
        clients.push(Client::connect_with([address], options).await?);
    }
    clients[0].create_collection(&rows.config(COLLECTION)).await?;
    let before = logs(&clients[0]).await?;
    let end = Instant::now() + Duration::from_secs_f64(arguments.seconds.clamp(0.1, 3_600.0));
    let next = Cell::new(0);
    let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
    let latencies = RefCell::new(histogram.map_err(|error| Failure::failed(error.to_string()))?);
    let start = Instant::now();
    let writers = (0..in_flight).map(|writer| {
        let collection = clients[writer / IN_FLIGHT_PER_CLIENT].collection(COLLECTION);
        let (next, latencies) = (&next, &latencies);
        async move { write(&collection, rows, durability, end, next, latencies).await }
    });
    join_all(writers).await.into_iter().collect::<Result<(), Failure>>()?;
    let elapsed = start.elapsed();
    let after = logs(&clients[0]).await?;
    let latencies = latencies.into_inner();
    let batches = (after.batches - before.batches).max(1) as f64;
    Ok(Line {
        in_flight,
        rows: latencies.len(),
        rows_per_s: latencies.len() as f64 / elapsed.as_secs_f64(),
        ack_us_p50: latencies.value_at_quantile(0.5),
        ack_us_p99: latencies.value_at_quantile(0.99),
        rows_per_batch: (after.records - before.records) as f64 / batches,
        bytes_per_batch: (after.bytes - before.bytes) as f64 / batches,
        device_batches_per_s: 0.0,
        device_rows_per_s: 0.0,
        share_of_device: 0.0,
        times_single_sync: 0.0,
    })
}

async fn write(
    collection: &Collection,
    rows: &Rows,
    durability: Durability,
    end: Instant,
    next: &Cell<usize>,
    latencies: &RefCell<Histogram<u64>>,
) -> Result<(), Failure> {
    while Instant::now() < end {
        let number = next.get();
        next.set(number + 1);
        let (vector, properties) = rows.row(number % rows.count());
        let object = Object::new(ObjectId::from_row(number as u64))
            .with_properties(properties)
            .with_vector(vector.to_vec());
        let begun = Instant::now();
        let objects = std::slice::from_ref(&object);
        let outcomes = collection.put_batch_with(PutMode::Replace, durability, objects).await?;
        for outcome in outcomes {
            outcome?;
        }
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        latencies.borrow_mut().saturating_record(us);
    }
    Ok(())
}

async fn logs(client: &Client) -> Result<Logs, Failure> {
    let status = client.status().await?;
    let number = |wal: &serde_json::Value, name: &str| wal[name].as_u64().unwrap_or_default();
    let mut logs = Logs::default();
    for core in status["cores"].as_array().into_iter().flatten() {
        let wal = &core["engine"]["wal"];
        logs.batches += number(wal, "batches");
        logs.records += number(wal, "records");
        logs.bytes += number(wal, "bytes");
    }
    Ok(logs)
}

/// Adds what the disk does with batches of that size.
fn beside_device(line: Line, folder: &Path, logs: usize, device: &Device) -> Result<Line, Failure> {
    let bytes = (line.bytes_per_batch as usize).max(1);
    let device_batches_per_s = batches_per_s(folder, bytes, logs, Syncing::Each, DEVICE_TIME)?;
    let device_rows_per_s = device_batches_per_s * line.rows_per_batch;
    Ok(Line {
        device_batches_per_s,
        device_rows_per_s,
        share_of_device: line.rows_per_s / device_rows_per_s,
        times_single_sync: line.rows_per_s / device.page_syncs_per_s,
        ..line
    })
}

fn show(report: &Report) {
    let device = &report.device;
    println!(
        "disk alone: {:.0} page syncs/s, {:.0} MB/s; two logs: {:.0} page syncs/s each for itself, \
         {:.0} with one elected; 64 KiB batches {:.0} and {:.0}",
        device.page_syncs_per_s,
        device.bytes_per_s / 1e6,
        device.two_logs_page_syncs_per_s,
        device.two_logs_elected_page_syncs_per_s,
        device.two_logs_64k_syncs_per_s,
        device.two_logs_elected_64k_syncs_per_s
    );
    let mut table = Table::new(&[
        "in flight",
        "rows/s",
        "ack p50 ms",
        "ack p99 ms",
        "rows/batch",
        "KiB/batch",
        "disk batches/s",
        "disk rows/s",
        "of the disk",
        "x one sync",
    ]);
    for line in &report.lines {
        table.row(vec![
            line.in_flight.to_string(),
            grouped(line.rows_per_s as u64),
            format!("{:.2}", line.ack_us_p50 as f64 / 1e3),
            format!("{:.2}", line.ack_us_p99 as f64 / 1e3),
            format!("{:.1}", line.rows_per_batch),
            format!("{:.1}", line.bytes_per_batch / 1024.0),
            grouped(line.device_batches_per_s as u64),
            grouped(line.device_rows_per_s as u64),
            format!("{:.0} %", 100.0 * line.share_of_device),
            format!("{:.1}", line.times_single_sync),
        ]);
    }
    print!("{}", table.render(Style::of_stdout()));
}
