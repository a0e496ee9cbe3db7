//! A directory for one test, removed at its end.

use std::path::{Path, PathBuf};

/// A fresh directory on the file system of the build folder.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        let unique = format!("{name}-{}", uuid::Uuid::new_v4());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp").join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A leftover in the build folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
