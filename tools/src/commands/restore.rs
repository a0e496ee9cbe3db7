//! `heddle restore`.

use crate::backup::restore::{Missing, Wanted, check, restore};
use crate::cli::Restore;
use crate::commands::backup::Report;
use crate::failure::Failure;

pub(crate) fn run(arguments: &Restore) -> Result<(), Failure> {
    let directory = &arguments.directory;
    let (manifest, sentence) = match &arguments.data_dir {
        Some(data_dir) => {
            let wanted = Wanted {
                shards: arguments.shards,
                missing: if arguments.allow_missing { Missing::Empty } else { Missing::Refuse },
            };
            let manifest = restore(directory, data_dir, wanted)?;
            (manifest, format!("restored to {}", data_dir.display()))
        }
        None => {
            let manifest = check(directory)?;
            let lacks = if manifest.missing.is_empty() { "" } else { ", but for what is missing" };
            (manifest, format!("{} is whole{lacks}", directory.display()))
        }
    };
    Report::of(&manifest).print(&sentence, arguments.json)
}
