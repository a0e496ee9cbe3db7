//! The heddle command: server and command line.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks by printing")]
#![expect(
    clippy::disallowed_methods,
    reason = "the command measures time and waits for child processes; no core of a node runs here"
)]

mod backup;
mod bench;
mod cli;
mod commands;
mod config;
mod crash;
mod demo;
mod failure;
mod filter;
mod import;
mod leftovers;
mod node_process;
mod output;
mod scratch;
mod session;
mod status;

use std::process::ExitCode;

use clap::Parser;

use cli::{Action, Bench, Cli};
use failure::Failure;
use session::block_on;

fn main() -> ExitCode {
    let result = dispatch(&Cli::parse().command);
    leftovers::yield_to_interruption();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("heddle: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn dispatch(action: &Action) -> Result<(), Failure> {
    match action {
        Action::Serve(arguments) => commands::serve::run(arguments),
        Action::Demo(arguments) => demo::run(arguments),
        Action::Doctor(arguments) => commands::doctor::run(arguments),
        Action::Collection(action) => block_on(commands::collection::run(action)),
        Action::Import(arguments) => block_on(commands::import::run(arguments)),
        Action::Get(arguments) => block_on(commands::read::get(arguments)),
        Action::Search(arguments) => block_on(commands::read::search(arguments)),
        Action::Count(arguments) => block_on(commands::read::count(arguments)),
        Action::Check(arguments) => block_on(commands::check::check(arguments)),
        Action::Bench(Bench::Search(arguments)) => block_on(commands::bench::search(arguments)),
        Action::Bench(Bench::Churn(arguments)) => block_on(commands::churn::run(arguments)),
        Action::Bench(Bench::Tenants(arguments)) => block_on(bench::tenants::run(arguments)),
        Action::Bench(Bench::Ingest(arguments)) => block_on(commands::bench::ingest(arguments)),
        Action::Bench(Bench::Writes(arguments)) => bench::writes::run(arguments),
        Action::Status(arguments) => block_on(commands::status::run(arguments)),
        Action::Cluster(action) => block_on(commands::cluster::run(action)),
        Action::Tenant(action) => block_on(commands::tenant::run(action)),
        Action::Node(action) => block_on(commands::cluster::change(action)),
        Action::Backup(arguments) => block_on(commands::backup::run(arguments)),
        Action::Restore(arguments) => commands::restore::run(arguments),
        Action::Completions { shell } => {
            commands::completions::run(*shell);
            Ok(())
        }
        Action::CrashTest(arguments) => crash::run(arguments),
        Action::DiskTest(arguments) => crash::run_on_bad_disks(arguments),
    }
}
