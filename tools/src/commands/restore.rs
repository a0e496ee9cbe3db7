//! `heddle restore`.

use crate::backup::restore::{check, restore};
use crate::cli::Restore;
use crate::commands::backup::Report;
use crate::failure::Failure;

pub(crate) fn run(arguments: &Restore) -> Result<(), Failure> {
    let directory = &arguments.directory;
    let (manifest, sentence) = match &arguments.data_dir {
        Some(data_dir) => {
            let manifest = restore(directory, data_dir, arguments.shards)?;
            (manifest, format!("restored to {}", data_dir.display()))
        }
        None => (check(directory)?, format!("{} is whole", directory.display())),
    };
    Report::of(&manifest).print(&sentence, arguments.json)
}
