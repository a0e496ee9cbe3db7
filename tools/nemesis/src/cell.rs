//! One cell of the table: a fresh cluster, one fault, one workload, one level, and a verdict.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use heddle_checkers::register::{self, Order, Promise};
use heddle_checkers::{resurrection, set};
use heddle_client::Client;
use heddle_types::{CollectionConfig, Consistency};

use crate::Random;
use crate::cluster::Cluster;
use crate::faults::{Fault, disturb};
use crate::options::Options;
use crate::workload::{CLIENTS, COLLECTION, Record, Version, Worker, Workload, connect};

/// Acknowledged operations a second below which a cell says nothing.
const RATE_MIN: f64 = 100.0;
/// Longest time until a cluster that is well again answers everything.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Violations that a cell names.
const SHOWN: usize = 3;

/// What a cell came to.
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    /// Why it says nothing; none for a valid one.
    pub(crate) invalid: Option<String>,
    pub(crate) faults: u64,
    pub(crate) operations: u64,
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    /// 99 of 100 stale elements of W1 were stale for less, microseconds.
    pub(crate) stale_us_p99: Option<u64>,
}

pub(crate) fn run(
    options: &Options,
    folder: &Path,
    (fault, workload, level): (Fault, Workload, Consistency),
) -> Result<Outcome, String> {
    let mut cluster = Cluster::start(&options.program, folder, options.nodes)?;
    let (addresses, factor, time) = (cluster.addresses(), options.factor, options.time);
    let seed = options.seed;
    let (begun, clients_begin) = std::sync::mpsc::channel();
    let clients = std::thread::spawn(move || {
        clients(&addresses, factor, time, (fault, workload, level), seed, &begun)
    });
    let end = match clients_begin.recv() {
        Ok(end) => end,
        Err(_) => return Err(joined(clients).err().unwrap_or_default()),
    };
    let mut random = Random(seed ^ fault as u64);
    let faults = disturb(&mut cluster, fault, &mut random, end)?;
    let is_gone = |position: &usize| !cluster.is_running(*position);
    if let Some(position) = (0..cluster.count()).find(is_gone) {
        return Err(format!("node {position} is left behind"));
    }
    let mut outcome = joined(clients)?;
    outcome.faults = faults;
    outcome.violations.extend(cluster.complaints());
    let rate = outcome.acknowledged as f64 / time.as_secs_f64();
    if rate < RATE_MIN {
        outcome.invalid = Some(format!("{rate:.0} acknowledged a second, {RATE_MIN:.0} needed"));
    } else if faults == 0 && fault != Fault::None {
        outcome.invalid = Some("no fault took place".to_owned());
    }
    Ok(outcome)
}

fn joined(clients: std::thread::JoinHandle<Result<Outcome, String>>) -> Result<Outcome, String> {
    clients.join().unwrap_or_else(|_| Err("the clients panicked; the reason is above".to_owned()))
}

/// Everything that clients do, on a thread of its own; tells when the workload ends.
fn clients(
    addresses: &[String],
    factor: u32,
    time: Duration,
    (fault, workload, level): (Fault, Workload, Consistency),
    seed: u64,
    begun: &std::sync::mpsc::Sender<Instant>,
) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = connect(addresses).await.map_err(|error| error.to_string())?;
        create(&client, factor).await?;
        let record = Rc::new(Record::default());
        let begin = Instant::now();
        let end = begin + time;
        // Whoever disturbs the cluster waits for it.
        let _ = begun.send(end);
        let worker = |number: u64, client: &Client| Worker {
            record: Rc::clone(&record),
            begin,
            number,
            random: Random(seed ^ (number + 1) << 32),
            copies: level.needed(factor as usize) as u8,
            collection: client.collection(COLLECTION).with_consistency(level),
        };
        let mut tasks = Vec::new();
        for number in 0..CLIENTS {
            let client = connect(addresses).await.map_err(|error| error.to_string())?;
            tasks.push(tokio::task::spawn_local(worker(number, &client).run(workload, end)));
        }
        for task in tasks {
            task.await.map_err(|error| error.to_string())?;
        }
        // A disk that is lost leaves one replica less until somebody gives its place to another.
        let level = if fault == Fault::Wipe { Consistency::Quorum } else { Consistency::All };
        let mut last = worker(CLIENTS, &client);
        last.collection = client.collection(COLLECTION).with_consistency(level);
        last.copies = level.needed(factor as usize) as u8;
        let settled = settle(&last, workload, &record).await?;
        Ok(judge(workload, factor as u8, &record, settled))
    })
}

async fn create(client: &Client, factor: u32) -> Result<(), String> {
    let text = format!(
        r#"{{"name":"{COLLECTION}","replication":{{"factor":{factor}}},
            "vectors":[{{"name":"v","dims":8,"distance":"l2-squared","quantization":"none"}}],
            "properties":[{{"name":"value","type":"int"}}]}}"#
    );
    let config: CollectionConfig =
        serde_json::from_str(&text).map_err(|error| error.to_string())?;
    client.create_collection(&config).await.map_err(|error| error.to_string())?;
    Ok(())
}

/// Reads everything when all is well, until it can be read; when that began.
async fn settle(last: &Worker, workload: Workload, record: &Record) -> Result<u64, String> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let keys: std::collections::BTreeSet<u64> =
        record.history.borrow().iter().map(|operation| operation.key).collect();
    let vectors: Vec<(u64, u64)> =
        record.vectors.borrow().iter().map(|(key, value)| (*key, *value)).collect();
    loop {
        let settled = last.begin.elapsed().as_micros() as u64;
        let is_whole = match workload {
            Workload::W1 => last.scan().await,
            Workload::W2 => read_all(last, &keys, |stamp, _| stamp).await,
            Workload::W3 => read_all(last, &keys, |_, value| value).await,
            Workload::W4 => {
                let mut is_whole = true;
                for (key, value) in &vectors {
                    is_whole &= last.finds(*key, *value).await.unwrap_or(false);
                }
                is_whole
            }
        };
        if is_whole && (workload != Workload::W1 || is_complete(record)) {
            return Ok(settled);
        }
        if Instant::now() > deadline {
            // The verdict says what is missing.
            let (acknowledged, failed) = (record.acknowledged.get(), record.failed.get());
            let last = record.last_error.borrow();
            let counts = format!("{acknowledged} acknowledged, {failed} failed, last: {last}");
            return match workload {
                Workload::W1 => Ok(settled),
                Workload::W2 | Workload::W3 => Err(format!("not all can be read again; {counts}")),
                Workload::W4 => Err(format!("not every vector is found again; {counts}")),
            };
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Does the last list hold everything that was acknowledged?
fn is_complete(record: &Record) -> bool {
    set::check(&record.adds.borrow(), &record.scans.borrow()).lost.is_empty()
}

async fn read_all(
    last: &Worker,
    keys: &std::collections::BTreeSet<u64>,
    version: impl Fn(u64, u64) -> Version + Copy,
) -> bool {
    let mut is_whole = true;
    for key in keys {
        is_whole &= last.read(*key, version).await;
    }
    is_whole
}

fn judge(workload: Workload, factor: u8, record: &Record, settled: u64) -> Outcome {
    let mut violations = Vec::new();
    let mut stale_us_p99 = None;
    let history = record.history.borrow();
    if workload == Workload::W1 {
        let report = set::check(&record.adds.borrow(), &record.scans.borrow());
        stale_us_p99 = set::quantile(&report.stale, 990);
        let lists = [
            ("lost", report.lost.iter().map(|(element, _)| *element).collect()),
            ("twice", report.twice),
            ("phantom", report.phantoms),
        ];
        for (what, elements) in lists {
            let elements: Vec<u64> = elements;
            if !elements.is_empty() {
                let first = &elements[..elements.len().min(SHOWN)];
                violations.push(format!("{} {what}: {first:?}", elements.len()));
            }
        }
    }
    let promise = Promise { factor, order: Order::Monotonic };
    let report = register::check(promise, &history);
    let stories = report.violations.iter().map(|violation| format!("{violation:?}"));
    violations.extend(stories.take(SHOWN));
    let back = resurrection::check(factor, &history, &[], settled);
    violations.extend(back.iter().take(SHOWN).map(|found| format!("came back: {found:?}")));
    Outcome {
        violations,
        invalid: None,
        faults: 0,
        operations: record.operations.get(),
        acknowledged: record.acknowledged.get(),
        failed: record.failed.get(),
        stale_us_p99,
    }
}
