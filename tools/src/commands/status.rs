//! `heddle status`.

use crate::cli::Status;
use crate::failure::Failure;
use crate::output::{Style, Table, bytes, grouped, print_json};
use crate::session;
use crate::status::{Finding, NodeStatus, Shard};

pub(crate) async fn run(arguments: &Status) -> Result<(), Failure> {
    let client = session::connect(&arguments.connection).await?;
    if arguments.json {
        return print_json(&client.status().await?);
    }
    let status = NodeStatus::fetch(&client).await?;
    let style = Style::of_stdout();
    println!(
        "{}  {}  version {}  up {}",
        style.bold(&status.name),
        status.phase,
        status.version,
        uptime(status.uptime_s)
    );
    println!("  cores        {}", status.data_cores);
    println!("  connections  {}", status.connections);
    println!(
        "  memory       {} of {}, {} of it in shards",
        bytes(status.memory.resident_bytes),
        bytes(status.memory.budget_bytes),
        bytes(status.memory.shards_bytes)
    );
    println!(
        "  disk         {} free of {} at {}",
        bytes(status.disk.free_bytes),
        bytes(status.disk.total_bytes),
        status.disk.data_dir
    );
    let level = match status.disk.level.as_str() {
        "saving" => "the disk fills up: space is saved",
        "no_inserts" => "the disk is nearly full: new objects are refused",
        "deletes_only" => "the disk is nearly full: all but deletions is refused",
        _ => "",
    };
    if !level.is_empty() {
        println!("  {}", style.yellow(level));
    }
    if let Some(backup) = &status.backup {
        println!(
            "  backup       {} of {} fetched, nothing for {}",
            bytes(backup.read_bytes),
            bytes(backup.bytes),
            uptime(backup.idle_s as f64)
        );
    }
    for tenants in &status.tenants {
        let (active, inactive) = (grouped(tenants.active), grouped(tenants.inactive));
        println!("  tenants      {}: {active} active, {inactive} inactive", tenants.collection);
    }
    print_scrub(&status, style);
    let failed = |core: &&crate::status::Core| core.engine.as_ref().is_some_and(|e| e.failed);
    for core in status.cores.iter().filter(failed) {
        println!("  {}", style.red(&format!("the log of core {} failed", core.core)));
    }
    for quarantined in status.quarantined() {
        println!("shard {} is quarantined: {}", quarantined.shard, quarantined.reason);
    }
    if status.shards().next().is_none() {
        println!("no shards");
        return Ok(());
    }
    print!("\n{}", shard_table(&status).render(style));
    print!("\n{}", byte_table(&status).render(style));
    Ok(())
}

/// What reading everything on disk has found.
fn print_scrub(status: &NodeStatus, style: Style) {
    let engines = || status.cores.iter().filter_map(|core| core.engine.as_ref());
    let read = engines().map(|engine| engine.scrub.bytes).sum();
    let passes = engines().map(|engine| engine.scrub.passes).min().unwrap_or_default();
    let damaged: u64 = engines().map(|engine| engine.scrub.damaged).sum();
    println!("  scrub        {} read, {passes} times everything, {damaged} damaged", bytes(read));
    for finding in engines().flat_map(|engine| &engine.scrub.findings) {
        let Finding { file, offset, what, expected, found } = finding;
        let text = format!("{file} at {offset}: {what} is {found:#x}, expected {expected:#x}");
        println!("  {}", style.red(&text));
    }
}

/// Memory and disk by use. What is no shard's stands in a line of its own.
fn byte_table(status: &NodeStatus) -> Table {
    let mut table = Table::new(&[
        "collection",
        "shard",
        "vectors",
        "links",
        "directory",
        "properties",
        "ids",
        "rows",
        "disk: image",
        "rows",
        "given up",
        "log",
    ]);
    for (_, shard) in status.shards() {
        let mut cells = vec![shard.collection.clone(), shard.shown()];
        let rows = shard.row_memory_bytes + shard.row_table_bytes;
        let parts = [
            shard.vector_bytes,
            shard.link_bytes,
            shard.directory_bytes,
            shard.property_bytes,
            shard.id_bytes,
            rows,
            shard.image_bytes,
            shard.row_disk_bytes,
            shard.row_retired_bytes,
        ];
        cells.extend(parts.map(grouped));
        cells.push("-".to_owned());
        table.row(cells);
    }
    for core in &status.cores {
        let Some(engine) = &core.engine else { continue };
        let mut cells = vec![format!("(core {})", core.core)];
        cells.extend(std::iter::repeat_n("-".to_owned(), 10));
        cells.push(grouped(engine.wal.segment_bytes + engine.wal.spare_bytes));
        table.row(cells);
    }
    table
}

fn shard_table(status: &NodeStatus) -> Table {
    let mut table = Table::new(&[
        "collection",
        "shard",
        "core",
        "objects",
        "not in the graph",
        "bytes/vector",
        "tombstones",
        "log to replay",
        "image age",
        "state",
    ]);
    for (core, shard) in status.shards() {
        let age =
            shard.image_age_us.map_or_else(|| "none".to_owned(), |us| uptime(us as f64 / 1e6));
        table.row(vec![
            shard.collection.clone(),
            shard.shown(),
            core.to_string(),
            grouped(shard.objects),
            grouped(shard.tail),
            grouped(shard.index_bytes.checked_div(shard.vectors).unwrap_or_default()),
            grouped(shard.tombstones),
            bytes(shard.log_bytes),
            age,
            state_of(shard),
        ]);
    }
    table
}

fn state_of(shard: &Shard) -> String {
    match (&shard.problem, shard.poisoned) {
        (Some(problem), _) => format!("{}: {problem}", shard.state),
        (None, true) => "refuses writes".to_owned(),
        (None, false) if shard.burden_percent > 100 => "writers wait for linking".to_owned(),
        (None, false) => "ok".to_owned(),
    }
}

/// `45 s`, `12 min`, `3 h 20 min`, `5 d 2 h`.
fn uptime(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        let shown =
            [(45.9, "45 s"), (720.0, "12 min"), (12_000.0, "3 h 20 min"), (439_300.0, "5 d 2 h")];
        for (seconds, text) in shown {
            assert_eq!(uptime(seconds), text);
        }
    }
}
