//! A folder for the data of a node that lives only as long as a command.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::statfs;

use crate::failure::Failure;
use crate::leftovers::{Leftovers, clear_when_interrupted};

/// File system type of tmpfs: memory, which would make durability a show.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A fresh folder, removed when it is dropped or the command is interrupted, unless it was kept or
/// belongs to the user.
#[derive(Debug)]
pub(crate) struct Scratch {
    leftovers: Arc<Leftovers>,
}

impl Scratch {
    /// The given folder, or a fresh one on a real disk.
    pub(crate) fn new(name: &str, given: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = given {
            std::fs::create_dir_all(path).map_err(|error| Failure::file(path, error))?;
            return Self::watched(Leftovers::of_user(path.to_owned()));
        }
        let candidates = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
        let on_disk = |folder: &&PathBuf| {
            statfs(folder.as_path()).is_ok_and(|system| system.f_type != TMPFS_MAGIC)
        };
        let base = candidates.iter().find(on_disk).unwrap_or(&candidates[0]);
        let path = base.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Failure::file(&path, error))?;
        Self::watched(Leftovers::temporary(path))
    }

    fn watched(leftovers: Leftovers) -> Result<Self, Failure> {
        let scratch = Self { leftovers: Arc::new(leftovers) };
        clear_when_interrupted(&scratch.leftovers)?;
        Ok(scratch)
    }

    /// Where a node says that it runs, so that it ends when the command is interrupted.
    pub(crate) fn leftovers(&self) -> Arc<Leftovers> {
        Arc::clone(&self.leftovers)
    }

    pub(crate) fn path(&self) -> &Path {
        self.leftovers.folder()
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(&self) {
        self.leftovers.keep();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.leftovers.remove();
    }
}
