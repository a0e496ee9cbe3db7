//! `heddle backup`.

use heddle_client::DamagedShards;
use heddle_meta::{Manifest, MissingShard};
use serde::Serialize;

use crate::backup::fetch::fetch;
use crate::cli::Backup;
use crate::failure::Failure;
use crate::output::{bytes, print_json};
use crate::session;

/// What a backup holds, in short.
#[derive(Serialize)]
pub(crate) struct Report {
    node: String,
    taken_us: u64,
    collections: usize,
    files: usize,
    bytes: u64,
    /// Shards that it lacks because they were damaged.
    missing: Vec<MissingShard>,
}

impl Report {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self {
            node: manifest.node.to_string(),
            taken_us: manifest.taken_us,
            collections: manifest.catalog.collections().count(),
            files: manifest.files.len(),
            bytes: manifest.bytes(),
            missing: manifest.missing.clone(),
        }
    }

    /// Prints it: a sentence that begins so, or JSON.
    pub(crate) fn print(&self, sentence: &str, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(self);
        }
        let (files, collections) = (self.files, self.collections);
        println!("{sentence}: {collections} collections, {files} files, {}", bytes(self.bytes));
        for MissingShard { shard, collection, reason } in &self.missing {
            println!("missing: shard {shard} of {collection}: {reason}");
        }
        Ok(())
    }
}

pub(crate) async fn run(arguments: &Backup) -> Result<(), Failure> {
    let client = session::connect(&arguments.connection).await?;
    let damaged = match arguments.leave_out_damaged {
        true => DamagedShards::LeaveOut,
        false => DamagedShards::Refuse,
    };
    let manifest = fetch(&client, &arguments.directory, damaged).await?;
    let sentence = format!("backed up to {}", arguments.directory.display());
    Report::of(&manifest).print(&sentence, arguments.json)
}
