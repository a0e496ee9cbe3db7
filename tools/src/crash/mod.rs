//! `heddle crash-test`: kills a node with SIGKILL at random moments, while it starts, imports and
//! checkpoints, and checks after each restart that every acknowledged row is there with the vector
//! and the properties it was acknowledged with, bit for bit.
//!
//! Rows are put, updated, deleted and searched through the native protocol from several connections
//! with default durability. An update gives a row another vector, so that a lost update shows as
//! well as a lost row; deleted rows must stay deleted. A write without an answer may have happened
//! or not; after the restart it must stay what it then is. A search must find what was acknowledged
//! before it, and neither deleted nor older rows.

mod disk;
mod ledger;
mod rows;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::{Either, join_all, select};
use heddle_client::{
    Client, ClientOptions, Collection, Object, PutMode, Search, StoredObject, Want,
};
use heddle_types::schema::{DataType, PropertyConfig};
use heddle_types::{CollectionConfig, Distance, ErrorCode, ObjectId, Quantization, Value};
use serde::Serialize;

use crate::cli::CrashTest;
use crate::failure::Failure;
use crate::node_process::{NodeOptions, NodeProcess, native_address};
use crate::output::{duration, grouped, print_json};
use crate::scratch::Scratch;
use crate::session::block_on;
use ledger::{Finding, Ledger, Material, Write};
pub(crate) use rows::{RowSource, Rows, read_rows};

const COLLECTION: &str = "Crash";
/// Rows of one request.
const BATCH: usize = 64;
/// Of so many rows one is deleted after it was put.
const DELETE_RATIO: usize = 8;
/// Of so many rows one is updated after it was put.
const UPDATE_RATIO: usize = 5;
/// Versions of one pass over the rows: put, updated.
const PASS_VERSIONS: u32 = 2;
/// Rows of a batch that are searched by their own vectors.
const SEARCHES: usize = 4;
/// Hits of a search: several rows may share a vector.
const SEARCH_HITS: u32 = 10;
/// Ids of one read.
const READ_BATCH: usize = 1_000;
/// Findings that are printed.
const FINDINGS_SHOWN: usize = 20;
/// One kill in so many falls into the start.
const START_KILL_RATIO: u64 = 4;
/// The node checkpoints all the time, so that kills fall into checkpoints too.
const NODE_FLAGS: [&str; 4] = ["--checkpoint-log-bytes", "1MiB", "--checkpoint-interval-s", "1"];
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What the test found.
#[derive(Clone, Debug, Default, Serialize)]
struct Report {
    seed: u64,
    rounds: u32,
    kills_during_start: u32,
    kills_while_writing: u32,
    acknowledged: u64,
    updates_acknowledged: u64,
    deletes_acknowledged: u64,
    searches: u64,
    /// Searches by a row's own vector that did not find the row: a graph promises no more than its
    /// recall.
    searches_missed: u64,
    hits_checked: u64,
    rows: u64,
    rows_checked: u64,
    lost: u64,
    resurrected: u64,
    wrong: u64,
    failed_starts: u32,
    /// Nodes that ended without being killed.
    crashes: u32,
    start_ms_max: u64,
}

/// SplitMix64: a seed gives the same moments again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

/// What the connections did, while they run.
#[derive(Default)]
struct Traffic {
    updated: Cell<u64>,
    searches: Cell<u64>,
    missed: Cell<u64>,
    hits: Cell<u64>,
    findings: RefCell<Vec<Finding>>,
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}

struct Test {
    traffic: Traffic,
    material: Material,
    config: CollectionConfig,
    ledger: RefCell<Ledger>,
    /// Position in the endless sequence of rows.
    next: Cell<usize>,
    options: NodeOptions,
    connections: usize,
    random: Random,
    start: Duration,
    report: Report,
    findings: Vec<Finding>,
}

pub(crate) fn run(arguments: &CrashTest) -> Result<(), Failure> {
    let scratch = Scratch::new("heddle-crash", arguments.data_dir.as_deref())?;
    let seed = arguments.seed.unwrap_or_else(seed_of_the_clock);
    println!("seed {seed}, data in {}", scratch.path().display());
    let options = NodeOptions {
        data_dir: scratch.path().join("node"),
        cores: arguments.cores,
        flags: NODE_FLAGS.to_vec(),
        leftovers: scratch.leftovers(),
    };
    let mut test = Test::new(arguments, scratch.path(), options, seed)?;
    let result = test.run_rounds(arguments.rounds, arguments.life_ms);
    test.show(arguments.json)?;
    result?;
    let Report { lost, resurrected, wrong, failed_starts, .. } = test.report;
    if lost + resurrected + wrong + u64::from(failed_starts) > 0 {
        return Err(Failure::failed(format!(
            "{lost} rows lost, {resurrected} resurrected, {wrong} wrong, {failed_starts} starts \
             failed (seed {seed})"
        )));
    }
    Ok(())
}

/// Row and version of a stored object.
fn row_of(object: &StoredObject) -> Option<(usize, u32)> {
    let properties = object.properties.as_ref()?;
    let number = |name: &str| match properties.get(name) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    };
    let row = usize::try_from(number("crash_row")?).ok()?;
    Some((row, u32::try_from(number("crash_version")?).ok()?))
}

fn seed_of_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() ^ u64::from(now.subsec_nanos())
}

/// Reads the rows that are written, the demo's or the user's.
fn read_material(
    arguments: &CrashTest,
    folder: &Path,
) -> Result<(Material, CollectionConfig), Failure> {
    let source = RowSource {
        vectors: arguments.vectors.as_deref(),
        properties: arguments.properties.as_deref(),
    };
    let rows = read_rows(&source, folder)?;
    let mut config = rows.config(COLLECTION);
    for name in ["crash_row", "crash_version"] {
        config.properties.push(PropertyConfig {
            name: name.to_owned(),
            data_type: DataType::Int,
            filterable: true,
            searchable: false,
            properties: Vec::new(),
        });
    }
    let vector = &mut config.vectors[0];
    // Stored as given: in memory cosine vectors have unit length and are not bit-equal.
    vector.distance = Distance::L2Squared;
    vector.quantization = Some(arguments.quantization.unwrap_or(Quantization::None));
    vector.raw = arguments.raw;
    let Rows { values, dims, properties, .. } = rows;
    Ok((Material { values, dims, properties }, config))
}

/// Runs the scenarios of [`disk`], each on a disk of its own.
pub(crate) fn run_on_bad_disks(arguments: &CrashTest) -> Result<(), Failure> {
    if let Some(missing) = disk::missing() {
        for scenario in disk::SCENARIOS {
            println!("skipped: {scenario}: this machine has no {missing}");
        }
        return Err(Failure::failed("nothing was tested"));
    }
    for scenario in disk::SCENARIOS {
        println!("\n{scenario}");
        let scratch = Scratch::new("heddle-disk", arguments.data_dir.as_deref())?;
        let bad_disk = disk::LoopDisk::new(scratch.path())?;
        let options = NodeOptions {
            data_dir: bad_disk.data_dir(),
            cores: 1,
            flags: disk::NODE_FLAGS.to_vec(),
            leftovers: scratch.leftovers(),
        };
        let mut test = Test::new(arguments, scratch.path(), options, 1)?;
        if scenario == disk::SCENARIOS[0] {
            test.run_full_disk(&bad_disk)?;
        } else {
            test.run_failing_disk(&bad_disk)?;
        }
        test.show(arguments.json)?;
        if !test.findings.is_empty() {
            return Err(Failure::failed(format!("{scenario}: {:?}", test.findings[0])));
        }
    }
    Ok(())
}

impl Test {
    fn new(
        arguments: &CrashTest,
        folder: &Path,
        options: NodeOptions,
        seed: u64,
    ) -> Result<Self, Failure> {
        let (material, config) = read_material(arguments, folder)?;
        Ok(Self {
            traffic: Traffic::default(),
            ledger: RefCell::new(Ledger::new(material.rows())),
            material,
            config,
            next: Cell::new(0),
            options,
            connections: arguments.connections.clamp(1, 256),
            random: Random(seed),
            start: Duration::from_millis(200),
            report: Report { seed, ..Report::default() },
            findings: Vec::new(),
        })
    }

    fn run_rounds(&mut self, rounds: u32, life_ms: u64) -> Result<(), Failure> {
        for round in 1..=rounds {
            let is_start_kill = self.random.below(START_KILL_RATIO) == 0;
            let mut node = NodeProcess::spawn(&self.options)?;
            if is_start_kill {
                let start_us = u64::try_from(self.start.as_micros()).unwrap_or(u64::MAX);
                let moment = Duration::from_micros(self.random.below(start_us));
                std::thread::sleep(moment);
                node.kill()?;
                self.report.kills_during_start += 1;
                println!("round {round}: killed {} into its start", duration(moment));
            } else {
                let life = Duration::from_millis(50 + self.random.below(life_ms));
                self.live(&mut node, round, life)?;
                self.report.kills_while_writing += 1;
            }
            self.report.rounds = round;
            if self.report.lost + self.report.resurrected + self.report.wrong > 0 {
                return Ok(());
            }
        }
        let mut node = NodeProcess::spawn(&self.options)?;
        let address = self.wait_ready(&mut node)?;
        block_on(self.check_all(&address))?;
        let status = node.stop()?;
        if !status.success() {
            return Err(Failure::failed(format!("the last stop did not end well: {status}")));
        }
        Ok(())
    }

    /// One life of a node: check what is there, write, be killed.
    fn live(&mut self, node: &mut NodeProcess, round: u32, life: Duration) -> Result<(), Failure> {
        let address = self.wait_ready(node)?;
        let before = self.ledger.borrow().acknowledged;
        block_on(async {
            self.check_all(&address).await?;
            self.write_until_killed(&address, node, life).await
        })?;
        let found = std::mem::take(&mut *self.traffic.findings.borrow_mut());
        found.into_iter().for_each(|finding| self.note(Some(finding)));
        let acknowledged = self.ledger.borrow().acknowledged - before;
        println!(
            "round {round}: start {}, checked {} rows, killed after {} and {} acknowledged rows",
            duration(self.start),
            grouped(self.ledger.borrow().certain_count()),
            duration(life),
            grouped(acknowledged)
        );
        Ok(())
    }

    fn wait_ready(&mut self, node: &mut NodeProcess) -> Result<String, Failure> {
        let ready = node.wait_ready();
        let (report, time) = ready.inspect_err(|_| self.report.failed_starts += 1)?;
        self.start = time;
        let start_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.report.start_ms_max = self.report.start_ms_max.max(start_ms);
        Ok(native_address(&report))
    }

    async fn connect(&self, address: &str) -> Result<Client, Failure> {
        let options = ClientOptions { deadline: CALL_TIMEOUT, retry_writes: false };
        Ok(Client::connect_with([address], options).await?)
    }

    /// Reads every row that was ever sent and compares it with the ledger.
    async fn check_all(&mut self, address: &str) -> Result<(), Failure> {
        let client = self.connect(address).await?;
        match client.create_collection(&self.config).await {
            Ok(_) if self.ledger.borrow().certain_count() > 0 => {
                return Err(Failure::failed("the collection was lost"));
            }
            Ok(_) => {}
            Err(error) if error.code() == Some(ErrorCode::CollectionExists) => {}
            // A full disk refuses definitions before it looks at them; the reads below tell whether
            // the collection is there.
            Err(error)
                if error.code() == Some(ErrorCode::DiskFull)
                    && self.ledger.borrow().certain_count() > 0 => {}
            Err(error) => return Err(error.into()),
        }
        let collection = client.collection(COLLECTION);
        let touched = self.ledger.borrow().touched();
        for rows in touched.chunks(READ_BATCH) {
            let ids: Vec<ObjectId> =
                rows.iter().map(|row| ObjectId::from_row(*row as u64)).collect();
            let found = collection.get_batch(&ids, Want::ALL).await?;
            for (row, object) in rows.iter().zip(found) {
                let object = object?;
                let mut ledger = self.ledger.borrow_mut();
                let finding = ledger.check(&self.material, *row, object.as_ref());
                drop(ledger);
                self.note(finding);
                self.report.rows_checked += 1;
            }
        }
        let count = collection.count(None).await?;
        let expected = self.ledger.borrow().certain_count();
        if count != expected {
            self.note(Some(Finding::Wrong(format!("{count} objects counted, {expected} read"))));
        }
        Ok(())
    }

    fn note(&mut self, finding: Option<Finding>) {
        match &finding {
            Some(Finding::Lost(_)) => self.report.lost += 1,
            Some(Finding::Resurrected(_)) => self.report.resurrected += 1,
            Some(Finding::Wrong(_)) => self.report.wrong += 1,
            None => {}
        }
        self.findings.extend(finding);
    }

    /// Writes from every connection until the moment comes.
    async fn write_until_killed(
        &mut self,
        address: &str,
        node: &mut NodeProcess,
        life: Duration,
    ) -> Result<(), Failure> {
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(self.connect(address).await?);
        }
        let end = Instant::now() + life;
        let refused = {
            let writers = clients.iter().map(|client| self.write(client));
            let writers = std::pin::pin!(join_all(writers));
            let moment = std::pin::pin!(tokio::time::sleep_until(end.into()));
            match select(writers, moment).await {
                Either::Left((results, _)) => {
                    results.into_iter().collect::<Result<(), Failure>>().err()
                }
                Either::Right(_) => None,
            }
        };
        if refused.is_some() {
            // A node that is ending may still hold its port for a moment.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let own_end = node.own_end();
        self.report.crashes += u32::from(own_end.is_some());
        node.kill()?;
        // Writers end by themselves only when the server refuses what it must take.
        own_end.or(refused).map_or(Ok(()), Err)
    }

    async fn write(&self, client: &Client) -> Result<(), Failure> {
        let collection = client.collection(COLLECTION);
        loop {
            let first = self.next.get();
            self.next.set(first + BATCH);
            let rows = self.material.rows();
            let version = |place: usize| PASS_VERSIONS * (place / rows) as u32;
            let mut places: Vec<(usize, u32)> =
                (first..first + BATCH).map(|place| (place % rows, version(place))).collect();
            self.put(&collection, PutMode::Replace, &places).await?;
            self.update_some(&collection, &mut places).await?;
            self.search_some(&collection, &places).await?;
            self.delete_some(&collection, &places).await?;
            self.search_some(&collection, &places).await?;
        }
    }

    async fn put(
        &self,
        collection: &Collection,
        mode: PutMode,
        places: &[(usize, u32)],
    ) -> Result<(), Failure> {
        let object = |(row, version): &(usize, u32)| {
            Object::new(ObjectId::from_row(*row as u64))
                .with_properties(self.material.properties(*row, *version))
                .with_vector(self.material.vector(*row, *version).to_vec())
        };
        let objects: Vec<Object> = places.iter().map(object).collect();
        for (row, version) in places {
            self.ledger.borrow_mut().sending(*row, Write::Put(*version));
        }
        let outcomes = collection.put_batch(mode, &objects).await?;
        for (outcome, (row, version)) in outcomes.into_iter().zip(places) {
            outcome.map_err(|error| Failure::failed(format!("row {row}: {error}")))?;
            self.ledger.borrow_mut().acknowledge(*row, Write::Put(*version));
        }
        Ok(())
    }

    /// Updates some of the rows just put, other ones in each pass; their places move on.
    async fn update_some(
        &self,
        collection: &Collection,
        places: &mut [(usize, u32)],
    ) -> Result<(), Failure> {
        let mut chosen = Vec::new();
        for (row, version) in places {
            if (*row + *version as usize).is_multiple_of(UPDATE_RATIO) {
                *version += 1;
                chosen.push((*row, *version));
            }
        }
        add(&self.traffic.updated, chosen.len() as u64);
        self.put(collection, PutMode::Merge, &chosen).await
    }

    /// Searches by the vectors of some rows and checks every hit.
    async fn search_some(
        &self,
        collection: &Collection,
        places: &[(usize, u32)],
    ) -> Result<(), Failure> {
        let step = (places.len() / SEARCHES).max(1);
        for (row, version) in places.iter().step_by(step) {
            let vector = self.material.vector(*row, *version);
            let search = Search::near(vector.to_vec()).k(SEARCH_HITS).with_properties();
            let (sent_at, must_be_found) = {
                let ledger = self.ledger.borrow();
                (ledger.now(), ledger.is_settled(*row, Write::Put(*version)))
            };
            let found = collection.search(&search).await?;
            add(&self.traffic.searches, 1);
            let mut is_found = false;
            for hit in &found.hits {
                let Some((hit_row, hit_version)) = hit.object.as_ref().and_then(row_of) else {
                    // Deleted or replaced between the search and the read of its properties.
                    continue;
                };
                add(&self.traffic.hits, 1);
                is_found |= hit_row == *row;
                let finding = self.ledger.borrow().check_hit(hit_row, hit_version, sent_at);
                self.traffic.findings.borrow_mut().extend(finding);
            }
            add(&self.traffic.missed, u64::from(must_be_found && !is_found));
        }
        Ok(())
    }

    /// Deletes some of the rows just put, other ones at each version.
    async fn delete_some(
        &self,
        collection: &Collection,
        places: &[(usize, u32)],
    ) -> Result<(), Failure> {
        let is_chosen =
            |(row, version): &&(usize, u32)| (row + *version as usize).is_multiple_of(DELETE_RATIO);
        let chosen: Vec<(usize, u32)> = places.iter().filter(is_chosen).copied().collect();
        let ids: Vec<ObjectId> =
            chosen.iter().map(|(row, _)| ObjectId::from_row(*row as u64)).collect();
        for (row, version) in &chosen {
            self.ledger.borrow_mut().sending(*row, Write::Delete(*version));
        }
        let outcomes = collection.delete_batch(&ids).await?;
        for (outcome, (row, version)) in outcomes.into_iter().zip(chosen) {
            let refused = |error| Failure::failed(format!("row {row}: delete: {error}"));
            if !outcome.map_err(refused)? {
                return Err(Failure::failed(format!("row {row} was put and not there to delete")));
            }
            self.ledger.borrow_mut().acknowledge(row, Write::Delete(version));
        }
        Ok(())
    }

    fn show(&mut self, json: bool) -> Result<(), Failure> {
        self.report.acknowledged = self.ledger.borrow().acknowledged;
        self.report.deletes_acknowledged = self.ledger.borrow().deleted;
        self.report.updates_acknowledged = self.traffic.updated.get();
        self.report.searches = self.traffic.searches.get();
        self.report.searches_missed = self.traffic.missed.get();
        self.report.hits_checked = self.traffic.hits.get();
        self.report.rows = self.ledger.borrow().certain_count();
        for finding in self.findings.iter().take(FINDINGS_SHOWN) {
            println!("{finding:?}");
        }
        let report = &self.report;
        if json {
            return print_json(report);
        }
        println!(
            "\n{} rounds ({} killed while writing, {} during the start), slowest start {} ms",
            report.rounds,
            report.kills_while_writing,
            report.kills_during_start,
            report.start_ms_max
        );
        println!(
            "{} writes acknowledged, {} of them updates and {} deletes; {} rows remain, {} rows \
             checked",
            grouped(report.acknowledged),
            grouped(report.updates_acknowledged),
            grouped(report.deletes_acknowledged),
            grouped(report.rows),
            grouped(report.rows_checked)
        );
        println!(
            "{} searches meanwhile, {} of them missed their row, {} hits checked",
            grouped(report.searches),
            grouped(report.searches_missed),
            grouped(report.hits_checked)
        );
        println!(
            "lost {}, resurrected {}, wrong {}, failed starts {}, ended by itself {}",
            report.lost, report.resurrected, report.wrong, report.failed_starts, report.crashes
        );
        Ok(())
    }
}
