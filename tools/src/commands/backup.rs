//! `heddle backup`.

use heddle_meta::Manifest;
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
}

impl Report {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self {
            node: manifest.node.to_string(),
            taken_us: manifest.taken_us,
            collections: manifest.catalog.collections().count(),
            files: manifest.files.len(),
            bytes: manifest.bytes(),
        }
    }

    /// Prints it: a sentence that begins so, or JSON.
    pub(crate) fn print(&self, sentence: &str, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(self);
        }
        let (files, collections) = (self.files, self.collections);
        println!("{sentence}: {collections} collections, {files} files, {}", bytes(self.bytes));
        Ok(())
    }
}

pub(crate) async fn run(arguments: &Backup) -> Result<(), Failure> {
    let client = session::connect(&arguments.connection).await?;
    let manifest = fetch(&client, &arguments.directory).await?;
    let sentence = format!("backed up to {}", arguments.directory.display());
    Report::of(&manifest).print(&sentence, arguments.json)
}
