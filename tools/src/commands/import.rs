//! `heddle import`.

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::cli;
use crate::failure::Failure;
use crate::import::{Import, Wait};
use crate::output::{duration, grouped, print_json};
use crate::session;

pub(crate) async fn run(arguments: &cli::Import) -> Result<(), Failure> {
    let client = session::connect(&arguments.connection).await?;
    let import = Import {
        addresses: arguments.connection.address.clone(),
        timeout: arguments.connection.timeout(),
        collection: arguments.name.clone(),
        tenant: arguments.tenant.clone(),
        vectors: arguments.vectors.clone(),
        properties: arguments.properties.clone(),
        distance: arguments.distance,
        quantization: arguments.quantization,
        raw: arguments.raw,
        batch: arguments.batch,
        connections: arguments.connections,
        consistency: arguments.consistency,
        limit: arguments.limit,
        resume: arguments.resume,
        state: arguments.state.clone(),
        wait: if arguments.no_wait { Wait::Acknowledged } else { Wait::Indexed },
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let report = import.run(&client, &bar).await?;
    if arguments.json {
        return print_json(&report);
    }
    if report.created {
        println!("created collection {}", report.collection);
    }
    if report.resumed_at > 0 {
        println!("went on after row {}", grouped(report.resumed_at));
    }
    println!(
        "imported {} rows in {} ({} rows/s){}",
        grouped(report.rows),
        duration(std::time::Duration::from_secs_f64(report.seconds)),
        grouped(report.rows_per_second as u64),
        match report.index_wait_seconds {
            Some(seconds) => format!(
                "; in the graph after {} more",
                duration(std::time::Duration::from_secs_f64(seconds))
            ),
            None => String::new(),
        }
    );
    if report.properties_left_over {
        eprintln!("heddle: the properties file has more lines than there are vectors");
    }
    Ok(())
}
