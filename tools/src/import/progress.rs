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
        let failed = |error: std::io::Error| Failure::input(path, error);
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
    #[serde(default, skip_serializing_if = "String::is_empty")]
    tenant: String,
    vectors: Fingerprint,
    properties: Option<Fingerprint>,
}

impl Subject {
    pub(crate) fn new(
        (collection, tenant): (&str, &str),
        collection_id: &str,
        vectors: &Path,
        properties: Option<&Path>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            collection: collection.to_owned(),
            collection_id: collection_id.to_owned(),
            tenant: tenant.to_owned(),
            vectors: Fingerprint::of(vectors)?,
            properties: properties.map(Fingerprint::of).transpose()?,
        })
    }

    /// What `self` is, where it differs from what is asked for.
    fn difference(&self, asked: &Self) -> String {
        if self.collection_id != asked.collection_id {
            return format!("another collection {}", self.collection);
        }
        if self.tenant != asked.tenant {
            return match self.tenant.as_str() {
                "" => format!("{} without a tenant", self.collection),
                tenant => format!("tenant {tenant} of {}", self.collection),
            };
        }
        if self.vectors.path != asked.vectors.path {
            return self.vectors.path.display().to_string();
        }
        if self.vectors != asked.vectors {
            return format!("{} before it changed", self.vectors.path.display());
        }
        match (&self.properties, &asked.properties) {
            (Some(own), Some(asked)) if own.path == asked.path => {
                format!("an import with {} before it changed", own.path.display())
            }
            (Some(own), _) => format!("an import with --properties {}", own.path.display()),
            (None, _) => "an import without --properties".to_owned(),
        }
    }

    /// File name for the progress of this subject in a folder shared with others.
    fn file_name(&self) -> String {
        let mut key = format!("{}\n{}", self.collection_id, self.vectors.path.display());
        if !self.tenant.is_empty() {
            key.push('\n');
            key.push_str(&self.tenant);
        }
        let token = heddle_types::routing::token_of_bytes(key.as_bytes());
        format!("import-{}-{token:016x}.json", self.collection)
    }
}

#[derive(Serialize, Deserialize)]
struct Saved {
    subject: Subject,
    acknowledged: u64,
}

/// What a state file says to an import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Noted {
    /// There is no note, or one that cannot be read.
    Nothing,
    /// The note is of another import: of what.
    Other(String),
    /// Rows of this very import that are acknowledged without a gap; above 0.
    Rows(u64),
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

    /// What an earlier import noted.
    pub(crate) fn load(&self) -> Noted {
        match read(&self.path) {
            None | Some(Saved { acknowledged: 0, .. }) => Noted::Nothing,
            Some(saved) if saved.subject == self.subject => Noted::Rows(saved.acknowledged),
            Some(saved) => Noted::Other(saved.subject.difference(&self.subject)),
        }
    }

    /// Replaces the file in one step, so that a crash leaves the old or the new one. No rows leave
    /// no file: there would be nothing to go on with.
    pub(crate) fn save(&self, acknowledged: u64) -> Result<(), Failure> {
        if acknowledged == 0 {
            return Ok(());
        }
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

fn read(path: &Path) -> Option<Saved> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// Removes what imports into a collection noted in the user's state folder: it was dropped.
pub(crate) fn forget_collection(id: &str) {
    forget_collection_in(&state_folder(), id);
}

fn forget_collection_in(folder: &Path, id: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if read(&path).is_some_and(|saved| saved.subject.collection_id == id) {
            // A file that stays is never taken up: no other collection has this identity.
            let _ = std::fs::remove_file(path);
        }
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
            let subject = Subject::new(("Docs", ""), collection, &vectors, None).unwrap();
            StateFile::new(Some(&state), subject)
        };
        let first = file("x");
        first.save(42).unwrap();
        assert_eq!(first.load(), Noted::Rows(42));
        let is_other = |noted: Noted| matches!(noted, Noted::Other(_));
        assert!(is_other(file("y").load()), "another collection");
        let of_tenant = Subject::new(("Docs", "acme"), "x", &vectors, None).unwrap();
        assert_ne!(of_tenant.file_name(), first.subject.file_name());
        assert!(is_other(StateFile::new(Some(&state), of_tenant).load()), "another tenant");
        let subject = Subject::new(("Docs", ""), "x", &vectors, Some(&vectors)).unwrap();
        let with_properties = StateFile::new(Some(&state), subject);
        assert!(is_other(with_properties.load()), "other properties");
        std::fs::write(&vectors, "other content").unwrap();
        assert!(is_other(file("x").load()), "another file");
        first.remove();
        assert_eq!(first.load(), Noted::Nothing);
        first.save(0).unwrap();
        assert!(!state.exists(), "no rows are nothing to go on with");
    }

    #[test]
    fn a_dropped_collection_is_forgotten_alone() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp/forget");
        std::fs::create_dir_all(&folder).unwrap();
        let vectors = folder.join("a.npy");
        std::fs::write(&vectors, "one").unwrap();
        let save = |id: &str| {
            let subject = Subject::new(("Docs", ""), id, &vectors, None).unwrap();
            let path = folder.join(subject.file_name());
            StateFile::new(Some(&path), subject).save(7).unwrap();
            path
        };
        let (dropped, other) = (save("x"), save("y"));
        forget_collection_in(&folder, "x");
        assert!(!dropped.exists() && other.exists() && vectors.exists());
    }
}
