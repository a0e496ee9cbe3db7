//! `heddle serve`: configuration, logs, then the node.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Receiver, channel};

use heddle_net::{LogLevel, ReadyReport};
use heddle_types::FatalReason;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::Serve;
use crate::config::{LogFormat, Settings, Sources};
use crate::failure::Failure;
use crate::output::print_json;

pub(crate) fn run(arguments: &Serve) -> Result<(), Failure> {
    // Before anything is read that can be read once only.
    let settled = if arguments.print_config { Ok(()) } else { heddle_net::heap::settle_heap() };
    let sources = Sources {
        file: arguments.config.clone(),
        environment: std::env::vars().collect(),
        flags: arguments.settings.0.clone(),
    };
    let mut settings = Settings::load(&sources)
        .map_err(|error| Failure::fatal(FatalReason::Config, error.to_string()))?;
    if arguments.print_config {
        if arguments.json {
            return print_json(&settings.to_json());
        }
        print!("{}", settings.to_toml());
        return Ok(());
    }
    settings.node.accept_data_loss = arguments.accept_data_loss;
    start_log(settings.node.log_level, settings.log_format);
    if let Err(error) = settled {
        tracing::warn!(%error, "the allocator may keep memory of requests that are long answered");
    }
    let (sender, receiver) = channel();
    announce(receiver, settings.ready_line);
    heddle_net::run(settings.node, Some(sender)).map_err(|error| {
        let reason = error.reason();
        // Paths alone do not say which setting chose them.
        let is_of_directory =
            matches!(reason, FatalReason::DataDirectory | FatalReason::DataDirectoryInUse);
        let key = if is_of_directory { "data_dir: " } else { "" };
        Failure::fatal(reason, format!("{key}{error}"))
    })
}

/// Sends log lines to standard error; standard output is for the ready report alone.
fn start_log(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        // It would complain about a log that cannot be written to that very log, and panic: a full
        // disk that holds the log would end the node.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_thread_names(true);
    // It tells of every message at the levels of people; the node says itself what they need.
    let of_raft = if level >= LevelFilter::DEBUG { level } else { LevelFilter::ERROR.min(level) };
    let filter = Targets::new().with_default(level).with_target("openraft", of_raft);
    match format {
        LogFormat::Text => builder.finish().with(filter).init(),
        LogFormat::Json => builder.json().finish().with(filter).init(),
    }
}

/// Says where the node listens as soon as it does: a line of JSON for programs, text for people.
fn announce(ready: Receiver<ReadyReport>, as_json: bool) {
    // The node's own thread is busy until it ends; this one ends with the first report.
    std::thread::spawn(move || {
        let Ok(report) = ready.recv() else { return };
        let mut output = std::io::stdout();
        let text = if as_json {
            serde_json::to_string(&report).unwrap_or_default()
        } else if output.is_terminal() {
            ready_text(&report)
        } else {
            return;
        };
        // Nobody reads it: the node serves all the same.
        let _ = writeln!(output, "{text}").and_then(|()| output.flush());
    });
}

fn ready_text(report: &ReadyReport) -> String {
    let ReadyReport { listen, native_port, http_port, .. } = report;
    format!(
        "Heddle serves {listen}:{native_port} with {} data cores; metrics at \
         http://{listen}:{http_port}/metrics. Ctrl-C stops it.",
        report.core_ports.len()
    )
}
