//! `heddle status`.

use crate::cli::Status;
use crate::failure::Failure;
use crate::output::{Style, Table, bytes, grouped, print_json};
use crate::session;
use crate::status::NodeStatus;

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
        "  memory       {} of {}",
        bytes(status.memory.resident_bytes),
        bytes(status.memory.budget_bytes)
    );
    println!(
        "  disk         {} free of {} at {}",
        bytes(status.disk.free_bytes),
        bytes(status.disk.total_bytes),
        status.disk.data_dir
    );
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
    Ok(())
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
            shard.id.to_string(),
            core.to_string(),
            grouped(shard.objects),
            grouped(shard.tail),
            grouped(shard.index_bytes.checked_div(shard.vectors).unwrap_or_default()),
            grouped(shard.tombstones),
            bytes(shard.log_bytes),
            age,
            if shard.poisoned { "refuses writes" } else { "ok" }.to_owned(),
        ]);
    }
    table
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
