//! Backups as directories: what one holds, whether it is whole, and the way there and back.

mod device;
pub(crate) mod fetch;
mod reshard;
pub(crate) mod restore;

use std::fs::File;
use std::path::Path;

use crate::failure::Failure;

/// What a directory may hold and still count as empty.
const HARMLESS: &str = "lost+found";

/// Makes a directory, or takes one that is empty.
///
/// Errors: it holds something; the name of the first thing is in the message.
fn make_empty(directory: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory).map_err(|error| Failure::input(directory, error))?;
    let entries = std::fs::read_dir(directory).map_err(|error| Failure::input(directory, error))?;
    for entry in entries {
        let name = entry.map_err(|error| Failure::input(directory, error))?.file_name();
        if name != HARMLESS {
            let found = name.to_string_lossy().into_owned();
            return Err(Failure::input(directory, format!("holds {found}, expected to be empty")));
        }
    }
    Ok(())
}

/// Makes the entries of a directory durable.
fn sync_directory(directory: &Path) -> Result<(), Failure> {
    let synced = File::open(directory).and_then(|file| file.sync_all());
    synced.map_err(|error| Failure::file(directory, error))
}
