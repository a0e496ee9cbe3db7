//! How far an import came: which rows are acknowledged without a gap, and the file that remembers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Acknowledged rows: everything below a mark, and batches beyond it that finished early.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    contiguous: u64,
    /// First row and row behind the last of each batch beyond the mark.
    beyond: BTreeMap<u64, u64>,
}

impl Acknowledged {
    /// Begins where everything below `contiguous` is acknowledged.
    pub(crate) fn from(contiguous: u64) -> Self {
        Self { contiguous, beyond: BTreeMap::new() }
    }

    /// A batch was acknowledged.
    pub(crate) fn add(&mut self, first: u64, count: u64) {
        self.beyond.insert(first, first + count);
        while let Some(end) = self.beyond.remove(&self.contiguous) {
            self.contiguous = end;
        }
    }

    /// Every row below this is acknowledged.
    pub(crate) fn contiguous(&self) -> u64 {
        self.contiguous
    }
}

/// A file as it was when an import began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Fingerprint {
    path: PathBuf,
    bytes: u64,
    modified_ms: u64,
}

impl Fingerprint {
    fn of(path: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::file(path, error);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let modified = metadata.modified().map_err(failed)?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            path: path.canonicalize().map_err(failed)?,
            bytes: metadata.len(),
            modified_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// What is imported where. Progress is only taken up when all of it is the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Subject {
    collection: String,
    /// Identity of the collection: one that was dropped and created again starts anew.
    collection_id: String,
    vectors: Fingerprint,
    properties: Option<Fingerprint>,
}

impl Subject {
    pub(crate) fn new(
        collection: &str,
        collection_id: &str,
        vectors: &Path,
        properties: Option<&Path>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            collection: collection.to_owned(),
            collection_id: collection_id.to_owned(),
            vectors: Fingerprint::of(vectors)?,
            properties: properties.map(Fingerprint::of).transpose()?,
        })
    }

    /// File name for the progress of this subject in a folder shared with others.
    fn file_name(&self) -> String {
        let key = format!("{}\n{}", self.collection_id, self.vectors.path.display());
        let token = heddle_types::routing::token_of_bytes(key.as_bytes());
        format!("import-{}-{token:016x}.json", self.collection)
    }
}

#[derive(Serialize, Deserialize)]
struct Saved {
    subject: Subject,
    acknowledged: u64,
}

/// The file that remembers how far an import came.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    subject: Subject,
}

impl StateFile {
    /// The file of this subject: the given one, or one in the user's state folder.
    pub(crate) fn new(given: Option<&Path>, subject: Subject) -> Self {
        let path = match given {
            Some(path) => path.to_owned(),
            None => state_folder().join(subject.file_name()),
        };
        Self { path, subject }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Rows that an earlier import of the same files had acknowledged without a gap.
    pub(crate) fn load(&self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let saved: Saved = serde_json::from_str(&text).ok()?;
        (saved.subject == self.subject).then_some(saved.acknowledged)
    }

    /// Replaces the file in one step, so that a crash leaves the old or the new one.
    pub(crate) fn save(&self, acknowledged: u64) -> Result<(), Failure> {
        let saved = Saved { subject: self.subject.clone(), acknowledged };
        let failed = |error: std::io::Error| Failure::file(&self.path, error);
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let fresh = self.path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_string(&saved)?).map_err(failed)?;
        std::fs::rename(&fresh, &self.path).map_err(failed)
    }

    /// The import is complete: nothing is left to remember.
    pub(crate) fn remove(&self) {
        // A file that stays is taken up only by the same import, which then has nothing to do.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `$XDG_STATE_HOME/heddle`, else `~/.local/state/heddle`, else the temporary folder.
fn state_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = variable("XDG_STATE_HOME") {
        return PathBuf::from(folder).join("heddle");
    }
    match variable("HOME") {
        Some(home) => PathBuf::from(home).join(".local/state/heddle"),
        None => std::env::temp_dir().join("heddle"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_moves_over_gaps_only_when_they_close() {
        let mut acknowledged = Acknowledged::from(100);
        acknowledged.add(110, 10);
        acknowledged.add(130, 5);
        assert_eq!(acknowledged.contiguous(), 100);
        acknowledged.add(100, 10);
        assert_eq!(acknowledged.contiguous(), 120);
        acknowledged.add(120, 10);
        assert_eq!(acknowledged.contiguous(), 135);
    }

    #[test]
    fn progress_is_taken_up_for_the_same_files_and_collection_alone() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp/progress");
        std::fs::create_dir_all(&folder).unwrap();
        let vectors = folder.join("a.npy");
        std::fs::write(&vectors, "one").unwrap();
        let state = folder.join("state.json");
        let file = |collection: &str| {
            let subject = Subject::new("Docs", collection, &vectors, None).unwrap();
            StateFile::new(Some(&state), subject)
        };
        let first = file("x");
        first.save(42).unwrap();
        assert_eq!(first.load(), Some(42));
        assert_eq!(file("y").load(), None, "another collection");
        std::fs::write(&vectors, "other content").unwrap();
        assert_eq!(file("x").load(), None, "another file");
        first.remove();
        assert_eq!(first.load(), None);
    }
}
