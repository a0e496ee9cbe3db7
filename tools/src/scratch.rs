//! A folder for the data of a node that lives only as long as a command.

use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::failure::Failure;

/// File system type of tmpfs: memory, which would make durability a show.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A fresh folder, removed when it is dropped unless it was kept or belongs to the user.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    is_removed: bool,
}

impl Scratch {
    /// The given folder, or a fresh one on a real disk.
    pub(crate) fn new(name: &str, given: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = given {
            std::fs::create_dir_all(path).map_err(|error| Failure::file(path, error))?;
            return Ok(Self { path: path.to_owned(), is_removed: false });
        }
        let candidates = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
        let on_disk = |folder: &&PathBuf| {
            statfs(folder.as_path()).is_ok_and(|system| system.f_type != TMPFS_MAGIC)
        };
        let base = candidates.iter().find(on_disk).unwrap_or(&candidates[0]);
        let path = base.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Failure::file(&path, error))?;
        Ok(Self { path, is_removed: true })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(&mut self) {
        self.is_removed = false;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_removed {
            // A leftover in a temporary folder harms nobody.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
