//! What the demo shows.

use std::path::Path;
use std::time::Duration;

use heddle_client::SearchResult;
use heddle_net::ReadyReport;
use heddle_types::{CollectionConfig, Quantization, RawVectors, Value};
use serde_json::{Map, Value as Json};

use super::COLLECTION;
use crate::bench::Row;
use crate::import::Report;
use crate::node_process::native_address;
use crate::output::{Style, Table, duration, grouped, shortened};

/// Widest line.
const WIDTH: usize = 100;

pub(super) struct Screen {
    style: Style,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { style: Style::of_stdout() }
    }

    pub(super) fn title(&self) {
        println!(
            "{}\n",
            self.style.bold("Heddle: one node, real text embeddings, searches, a kill, a restart")
        );
    }

    pub(super) fn heading(&self, name: &str, text: &str) {
        println!("{} {text}", self.style.bold(&format!("{name:<8}")));
    }

    pub(super) fn started(&self, ready: &ReadyReport, time: Duration, folder: &Path) {
        let cores = match ready.core_ports.len() {
            1 => "1 data core".to_owned(),
            count => format!("{count} data cores"),
        };
        let (time, folder) = (duration(time), folder.display());
        self.heading("Start", &format!("process {} serves after {time}, {cores}", ready.pid));
        self.note(&format!("native protocol at {}, data in {folder}", native_address(ready)));
    }

    pub(super) fn imported(
        &self,
        report: &Report,
        config: &CollectionConfig,
        bytes_per_vector: Option<u64>,
    ) {
        let time = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        let rows = grouped(report.rows);
        self.heading(
            "Import",
            &format!(
                "{rows} passages of Python and Rust documentation, 384 dimensions, in {} \
                 ({} rows/s)",
                time(report.seconds),
                grouped(report.rows_per_second as u64)
            ),
        );
        let graph = report.index_wait_seconds.unwrap_or(0.0);
        self.note(&format!(
            "each row was on disk before it was acknowledged; the graph was complete {} later",
            time(graph)
        ));
        for vector in &config.vectors {
            let codes = vector.quantization.unwrap_or(Quantization::None).name();
            let raw = vector.raw.unwrap_or(RawVectors::Memory).name();
            self.note(&format!(
                "quantization {codes}, raw {raw}; a vector and its links take {} bytes \
                 of memory",
                grouped(bytes_per_vector.unwrap_or_default())
            ));
        }
        println!();
    }

    pub(super) fn search(
        &self,
        passage: &Map<String, Json>,
        result: &SearchResult,
        elapsed: Duration,
    ) {
        let text = passage.get("text").and_then(Json::as_str).unwrap_or_default();
        println!("  {}", self.style.bold(&format!("\"{}\"", shortened(text, WIDTH - 6))));
        for hit in &result.hits {
            let properties = hit.object.as_ref().and_then(|object| object.properties.as_ref());
            let value = |name: &str| match properties.and_then(|all| all.get(name)) {
                Some(Value::Text(text)) => text.clone(),
                Some(Value::Int(number)) => number.to_string(),
                _ => String::new(),
            };
            let source = format!("{} {}", value("source"), value("year"));
            let text = shortened(&value("text"), WIDTH - 29);
            println!("    {:.4}  {source:<14}  {text}", hit.distance);
        }
        let distances = grouped(u64::from(result.evaluations));
        self.note(&format!(
            "{} there and back, {} us of it searching ({distances} distances)",
            duration(elapsed),
            result.server_us
        ));
    }

    pub(super) fn filter(&self, expression: &str, passing: u64) {
        let passing = grouped(passing);
        println!();
        self.heading("Filter", &format!("{expression}  ({passing} passages pass)"));
    }

    pub(super) fn measured(&self, rows: &[Row], queries: usize, k: u32, connections: usize) {
        println!();
        self.heading(
            "Measure",
            &format!(
                "{queries} queries against exact neighbours, {connections} connections; client and \
                 node share this machine"
            ),
        );
        let mut table = Table::new(&["      ef", "recall", "queries/s", "p50", "p99", "p99.9"]);
        for row in rows {
            let us = |us: f64| duration(Duration::from_secs_f64(us / 1e6));
            table.row(vec![
                row.ef.to_string(),
                format!("{:.4}", row.recall),
                grouped(row.qps as u64),
                us(row.p50_us),
                us(row.p99_us),
                us(row.p999_us),
            ]);
        }
        print!("{}", table.render(self.style));
        self.note(&format!("recall counts the true {k} nearest that were found"));
        println!();
    }

    pub(super) fn restarted(&self, pid: u32, time: Duration) {
        let time = duration(time);
        self.heading(
            "Kill",
            &format!("SIGKILL to process {pid}; started again, serves after {time}"),
        );
    }

    pub(super) fn check(&self, held: bool, text: &str) {
        let mark = if held { self.style.green("ok  ") } else { self.style.red("LOST") };
        println!("  {mark}  {text}");
    }

    pub(super) fn stopped(&self) {
        println!();
        self.heading("Go on", "the node was stopped and its data removed. Next:");
        let heddle = executable();
        println!("  {heddle} demo --keep                 the same, and the node stays");
        println!("  {heddle} serve --data-dir DIR        a node of your own");
        println!("  {heddle} import NAME --vectors FILE.npy --properties FILE.jsonl.gz");
    }

    pub(super) fn kept(&self, ready: &ReadyReport, folder: &Path, log: &Path) {
        let (heddle, address) = (executable(), native_address(ready));
        println!();
        self.heading("Go on", &format!("the node goes on as process {}", ready.pid));
        println!("  export HEDDLE_ADDRESS={address}");
        println!("  {heddle} search {COLLECTION} --like 42");
        println!("  {heddle} count {COLLECTION} --filter 'source = \"pep\" and year >= 2020'");
        println!("  {heddle} status");
        println!("  curl http://{}:{}/metrics", ready.listen, ready.http_port);
        println!("  kill {}", ready.pid);
        self.note(&format!("data in {}, log in {}", folder.display(), log.display()));
    }

    fn note(&self, text: &str) {
        println!("  {}", self.style.dim(text));
    }
}

/// This executable as the user can type it: the bare name when it was found by name.
fn executable() -> String {
    let Ok(path) = std::env::current_exe() else { return "heddle".to_owned() };
    let search = std::env::var_os("PATH").unwrap_or_default();
    let is_on_path =
        std::env::split_paths(&search).any(|folder| Some(folder.as_path()) == path.parent());
    if is_on_path {
        return "heddle".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(&path).display().to_string()
}
