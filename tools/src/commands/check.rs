//! `heddle check`.

use heddle_client::ShardComparison;
use serde_json::{Value as Json, json};

use crate::cli;
use crate::failure::Failure;
use crate::output::{Style, Table, grouped, print_json};
use crate::session;

pub(crate) async fn check(arguments: &cli::Check) -> Result<(), Failure> {
    let client = session::connect(&arguments.connection).await?;
    let shards = client.collection(&arguments.name).compare().await?;
    if arguments.json {
        print_json(&shards.iter().map(shard_json).collect::<Vec<Json>>())?;
    } else {
        print_table(&shards);
    }
    let differ = shards.iter().filter(|shard| shard.lacking + shard.undeleted > 0).count();
    let open = shards.iter().filter(|shard| !is_whole(shard)).count();
    match (differ, open) {
        (0, 0) => Ok(()),
        (0, open) => Err(Failure::failed(format!("{open} shards were not compared on all nodes"))),
        (differ, _) => Err(Failure::failed(format!("the replicas of {differ} shards differ"))),
    }
}

/// Did all replicas take part?
fn is_whole(shard: &ShardComparison) -> bool {
    shard.problem.is_empty() && shard.took_part == shard.replicas
}

fn print_table(shards: &[ShardComparison]) {
    let style = Style::of_stdout();
    let mut table = Table::new(&["shard", "replicas", "compared", "lacking", "undeleted", "state"]);
    for shard in shards {
        let state = match (shard.lacking + shard.undeleted, is_whole(shard)) {
            (0, true) => style.green("same"),
            (0, false) if shard.problem.is_empty() => style.yellow("some are away"),
            (0, false) => style.yellow(&shard.problem),
            _ => style.red("differ"),
        };
        table.row(vec![
            shard.shard.to_string(),
            format!("{}/{}", shard.took_part, shard.replicas),
            grouped(shard.compared),
            grouped(shard.lacking),
            grouped(shard.undeleted),
            state,
        ]);
    }
    print!("{}", table.render(style));
}

fn shard_json(shard: &ShardComparison) -> Json {
    json!({
        "shard": shard.shard,
        "replicas": shard.replicas,
        "took_part": shard.took_part,
        "leaves_differing": shard.leaves_differing,
        "compared": shard.compared,
        "lacking": shard.lacking,
        "undeleted": shard.undeleted,
        "problem": shard.problem,
    })
}
