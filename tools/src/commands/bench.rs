//! `heddle bench`.

use std::path::Path;
use std::time::Duration;

use heddle_bench::vectors::VectorFile;
use heddle_client::Topology;
use heddle_types::limits::OBJECT_BATCH_MAX;

use crate::bench::ingest::{self, IngestLoad, IngestReport};
use crate::bench::{Load, QuerySet, Row, measure};
use crate::cli::{BenchIngest, BenchSearch, Spread};
use crate::failure::Failure;
use crate::output::{Style, Table};
use crate::session;

/// Most connections that insert.
const INGEST_CONNECTIONS_MAX: usize = 256;

pub(crate) async fn search(arguments: &BenchSearch) -> Result<(), Failure> {
    check(arguments)?;
    let queries = read_queries(&arguments.queries, &arguments.truth, arguments.k)?;
    let client = session::connect(&arguments.connection).await?;
    let config = client.collection_config(&arguments.name).await?;
    let filter = session::read_filter(arguments.filter.as_deref(), None, &config)?;
    let encoded = filter.map(|filter| filter.encode()).transpose();
    let load = Load {
        collection: arguments.name.clone(),
        filter: encoded.map_err(|error| Failure::usage(error.to_string()))?.unwrap_or_default(),
        k: arguments.k,
        addresses: addresses(&client.topology(), arguments.spread, arguments.connections)?,
        rate: arguments.rate,
        in_flight: arguments.in_flight,
        time: Duration::from_secs_f64(arguments.seconds.clamp(0.01, 86_400.0)),
        timeout: arguments.connection.timeout(),
    };
    let is_json_output = arguments.json.as_deref() == Some(Path::new("-"));
    let mut rows = Vec::new();
    for ef in &effective_efs(&arguments.ef, arguments.k) {
        let row = measure(&load, &queries, *ef).await?;
        if !is_json_output {
            eprintln!("ef {ef}: recall {:.4}, {:.0} queries/s", row.recall, row.qps);
        }
        rows.push(row);
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&rows)?;
        if is_json_output {
            println!("{text}");
            return Ok(());
        }
        std::fs::write(path, text + "\n").map_err(|error| Failure::file(path, error))?;
    }
    print!("{}", table(&rows).render(Style::of_stdout()));
    Ok(())
}

pub(crate) async fn ingest(arguments: &BenchIngest) -> Result<(), Failure> {
    let load = ingest_load(arguments)?;
    let mut clients = Vec::new();
    for _ in 0..arguments.connections {
        // Each has connections of its own.
        clients.push(session::connect(&arguments.connection).await?);
    }
    let config = clients[0].collection_config(&arguments.name).await?;
    let dims = config.vector("").and_then(|(_, vector)| vector.dims);
    if let Some(dims) = dims.filter(|dims| *dims as usize != load.vectors.dims()) {
        let (name, found) = (&arguments.name, load.vectors.dims());
        let path = arguments.vectors.display();
        let problem = format!("{name} holds vectors of {dims} components, {path} of {found}");
        return Err(Failure::usage(problem));
    }
    let report = ingest::ingest(&load, &arguments.name, &clients).await?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        if path == Path::new("-") {
            println!("{text}");
            return Ok(());
        }
        std::fs::write(path, text + "\n").map_err(|error| Failure::file(path, error))?;
    }
    print!("{}", ingest_table(&report).render(Style::of_stdout()));
    match arguments.keep {
        true => println!("{} rows were left in {}", report.rows, arguments.name),
        false => println!("{} rows were deleted from {}", report.deleted, arguments.name),
    }
    Ok(())
}

fn ingest_load(arguments: &BenchIngest) -> Result<IngestLoad, Failure> {
    if arguments.connections == 0 || arguments.connections > INGEST_CONNECTIONS_MAX {
        let problem = format!("--connections must be 1 to {INGEST_CONNECTIONS_MAX}");
        return Err(Failure::usage(problem));
    }
    if arguments.batch == 0 || arguments.batch > OBJECT_BATCH_MAX {
        return Err(Failure::usage(format!("--batch must be 1 to {OBJECT_BATCH_MAX}")));
    }
    if arguments.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(Failure::usage("--rate must be above 0"));
    }
    let vectors = VectorFile::open(&arguments.vectors)?;
    if arguments.first >= vectors.rows() as u64 {
        let (first, rows) = (arguments.first, vectors.rows());
        let path = arguments.vectors.display();
        return Err(Failure::usage(format!("--first {first}: {path} has {rows} rows")));
    }
    Ok(IngestLoad {
        vectors,
        first: arguments.first,
        rate: arguments.rate,
        time: Duration::from_secs_f64(arguments.seconds.clamp(0.01, 86_400.0)),
        batch: arguments.batch,
        keep: arguments.keep,
    })
}

/// The values that the server will use: it keeps at least k candidates, so values below k would
/// measure the same search under another name.
fn effective_efs(asked: &[u32], k: u32) -> Vec<u32> {
    let mut efs: Vec<u32> = Vec::new();
    for ef in asked {
        if *ef < k {
            eprintln!("heddle: --ef {ef} is below --k {k}: measured and shown as ef {k}");
        }
        let ef = (*ef).max(k);
        if !efs.contains(&ef) {
            efs.push(ef);
        }
    }
    efs
}

fn check(arguments: &BenchSearch) -> Result<(), Failure> {
    if arguments.connections == 0 || arguments.connections > 10_000 {
        return Err(Failure::usage("--connections must be 1 to 10000"));
    }
    if arguments.in_flight == 0 || arguments.in_flight > 1_000 {
        return Err(Failure::usage("--in-flight must be 1 to 1000"));
    }
    match arguments.rate {
        Some(_) if arguments.in_flight > 1 => {
            Err(Failure::usage("--in-flight is for measurements without --rate"))
        }
        Some(rate) if !(rate.is_finite() && rate > 0.0) => {
            Err(Failure::usage("--rate must be above 0"))
        }
        _ => Ok(()),
    }
}

/// Reads queries and their true neighbours, and checks that they belong together.
pub(crate) fn read_queries(queries: &Path, truth: &Path, k: u32) -> Result<QuerySet, Failure> {
    let (query_file, truth_file) = (VectorFile::open(queries)?, VectorFile::open(truth)?);
    let (rows, width) = (query_file.rows(), truth_file.dims());
    if rows == 0 || rows != truth_file.rows() {
        let problem = format!("{rows} queries, but true neighbours of {}", truth_file.rows());
        return Err(Failure::usage(problem));
    }
    if k == 0 || k as usize > width {
        let problem = format!("--k {k}: the truth lists {width} neighbours of each query");
        return Err(Failure::usage(problem));
    }
    Ok(QuerySet {
        values: query_file.read_all()?,
        dims: query_file.dims(),
        truth: truth_file.read_integers()?,
        width,
    })
}

/// One address for each connection.
pub(crate) fn addresses(
    topology: &Topology,
    spread: Spread,
    count: usize,
) -> Result<Vec<String>, Failure> {
    let all: Vec<String> = match spread {
        Spread::Any => topology.nodes.iter().map(|node| node.native_address.clone()).collect(),
        Spread::Core => {
            topology.nodes.iter().flat_map(|node| node.core_addresses.iter().cloned()).collect()
        }
    };
    if all.is_empty() {
        return Err(Failure::failed("the node names no address to connect to"));
    }
    Ok(all.into_iter().cycle().take(count).collect())
}

fn ingest_table(report: &IngestReport) -> Table {
    let mut table = Table::new(&[
        "rows",
        "rows/s",
        "p50 us",
        "p90 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "connections",
        "errors",
        "not in graph",
    ]);
    let us = [report.p50_us, report.p90_us, report.p99_us, report.p999_us, report.max_us];
    let mut cells = vec![report.rows.to_string(), format!("{:.0}", report.rows_per_second)];
    cells.extend(us.iter().map(|us| format!("{us:.0}")));
    let counts = [report.connections as u64, report.errors, report.unlinked_rows];
    cells.extend(counts.iter().map(u64::to_string));
    table.row(cells);
    table
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "ef",
        "recall",
        "qps",
        "p50 us",
        "p90 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "connections",
        "errors",
    ]);
    for row in rows {
        let us = [row.p50_us, row.p90_us, row.p99_us, row.p999_us, row.max_us];
        let mut cells = vec![row.ef.to_string(), format!("{:.4}", row.recall)];
        cells.push(format!("{:.0}", row.qps));
        cells.extend(us.iter().map(|us| format!("{us:.0}")));
        cells.extend([row.connections.to_string(), row.errors.to_string()]);
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ef_below_k_is_measured_once_and_as_k() {
        assert_eq!(effective_efs(&[10, 20, 40, 80], 40), [40, 80]);
        assert_eq!(effective_efs(&[10, 20], 10), [10, 20]);
    }
}
