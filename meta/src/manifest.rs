//! The manifest of a backup: one line of JSON, and a line with its checksum.
//!
//! It is written last, under its name only when it is durable; a directory without it is no backup.

use std::collections::BTreeSet;

use heddle_types::backup::is_backup_name;
use heddle_types::limits::CORES_MAX;
use heddle_types::{NodeId, ShardId};
use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, InvalidCatalog};

/// Name of the manifest.
pub const MANIFEST: &str = "MANIFEST";
/// Version of backups that are written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 2;
/// Largest manifest that is read (256 MiB: some two million files).
pub const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// Largest file that is believed (16 TiB).
const FILE_BYTES_MAX: u64 = 16 << 40;
/// Beginning of the line of the checksum.
const CHECKSUM: &str = "crc32c ";

/// What a backup holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of what a backup consists of.
    pub format_version: u32,
    /// Version of the server that it was taken of.
    pub server_version: String,
    /// The node that it was taken of.
    pub node: NodeId,
    /// When, microseconds since the Unix epoch.
    pub taken_us: u64,
    /// Data cores of that node.
    pub data_cores: u32,
    /// Its collections and where their shards were.
    pub catalog: Catalog,
    /// Shards of these collections that the node could not read any more; since version 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingShard>,
    /// Every file.
    pub files: Vec<FileEntry>,
}

/// A shard that was left out because it is damaged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingShard {
    /// The shard.
    pub shard: ShardId,
    /// Its collection.
    pub collection: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path below the backup's directory, and below the data directory it is restored to.
    pub name: String,
    /// Bytes of the file in the backup.
    pub bytes: u64,
    /// Bytes that it has when restored: the rest are zeros.
    pub length: u64,
    /// Of those bytes; 0 in what the node describes, before they were read.
    #[serde(default)]
    pub crc32c: u32,
}

/// Why a manifest is not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is cut off, or something else.
    #[error("has no line of JSON and line of its checksum")]
    Form,
    /// A byte changed.
    #[error("has checksum {found:08x}, its second line says {expected:08x}")]
    Checksum {
        /// What the second line says.
        expected: u32,
        /// What the first one has.
        found: u32,
    },
    /// Written by a newer version.
    #[error("has format version {found}, this command reads up to {FORMAT_VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// Intact, and no manifest.
    #[error("is no manifest: {0}")]
    Json(String),
    /// Its catalog does not fit together.
    #[error("has a catalog in which {0}")]
    Catalog(InvalidCatalog),
    /// A number of cores that no node has.
    #[error("says that the node had {found} data cores, expected 1 to {CORES_MAX}")]
    Cores {
        /// The number.
        found: u32,
    },
    /// A shard is said to be missing that no collection has.
    #[error("says that shard {0} is missing, which its catalog does not know")]
    Missing(ShardId),
    /// A name that leads elsewhere.
    #[error("names the file {0:?}, which has no place in a backup")]
    Name(String),
    /// Two files of one name.
    #[error("names the file {0:?} twice")]
    Twice(String),
    /// A length that makes no sense.
    #[error("says that {name} has {bytes} bytes of a length of {length}")]
    Length {
        /// The file.
        name: String,
        /// Bytes in the backup.
        bytes: u64,
        /// Bytes when restored.
        length: u64,
    },
}

/// The part of any version's manifest that tells its version.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

impl Manifest {
    /// As it is written. Errors: none, as long as a catalog has string keys only.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let body = serde_json::to_string(self)?;
        let crc = crc32c::crc32c(body.as_bytes());
        Ok(format!("{body}\n{CHECKSUM}{crc:08x}\n").into_bytes())
    }

    /// Reads and checks what [`Manifest::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = std::str::from_utf8(bytes).map_err(|_binary| ManifestError::Form)?;
        let (body, rest) = text.split_once('\n').ok_or(ManifestError::Form)?;
        let digits = rest.strip_prefix(CHECKSUM).and_then(|rest| rest.strip_suffix('\n'));
        let digits = digits.filter(|digits| digits.len() == 8).ok_or(ManifestError::Form)?;
        let expected = u32::from_str_radix(digits, 16).map_err(|_other| ManifestError::Form)?;
        let found = crc32c::crc32c(body.as_bytes());
        if found != expected {
            return Err(ManifestError::Checksum { expected, found });
        }
        let json = |error: serde_json::Error| ManifestError::Json(error.to_string());
        let VersionOnly { format_version } = serde_json::from_str(body).map_err(json)?;
        if format_version > FORMAT_VERSION {
            return Err(ManifestError::Version { found: format_version });
        }
        let manifest: Self = serde_json::from_str(body).map_err(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Can all that it says be?
    ///
    /// Errors: `Catalog`, `Cores`, `Missing`, and those of [`Manifest::check_files`].
    pub fn check(&self) -> Result<(), ManifestError> {
        self.catalog.validate().map_err(ManifestError::Catalog)?;
        if !(1..=CORES_MAX as u32).contains(&self.data_cores) {
            return Err(ManifestError::Cores { found: self.data_cores });
        }
        let known: BTreeSet<ShardId> = self.catalog.shards().map(|(_, shard)| shard.id).collect();
        if let Some(missing) = self.missing.iter().find(|it| !known.contains(&it.shard)) {
            return Err(ManifestError::Missing(missing.shard));
        }
        self.check_files()
    }

    /// Every file has a place of its own and a length that makes sense.
    ///
    /// Errors: `Name`, `Twice`, `Length`.
    pub fn check_files(&self) -> Result<(), ManifestError> {
        let mut names = BTreeSet::new();
        for FileEntry { name, bytes, length, .. } in &self.files {
            if !is_backup_name(name) {
                return Err(ManifestError::Name(name.clone()));
            }
            if !names.insert(name) {
                return Err(ManifestError::Twice(name.clone()));
            }
            if bytes > length || *length > FILE_BYTES_MAX {
                let (name, bytes, length) = (name.clone(), *bytes, *length);
                return Err(ManifestError::Length { name, bytes, length });
            }
        }
        Ok(())
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |bytes, file| bytes.saturating_add(file.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(names: &[&str]) -> Manifest {
        let file =
            |name: &&str| FileEntry { name: (*name).to_owned(), bytes: 10, length: 20, crc32c: 7 };
        Manifest {
            format_version: 1,
            server_version: "0.1.0".to_owned(),
            node: NodeId::random(),
            taken_us: 5,
            data_cores: 2,
            catalog: Catalog::default(),
            missing: Vec::new(),
            files: names.iter().map(file).collect(),
        }
    }

    const GOOD: &str = "shards/0000000001/image-3";

    #[test]
    fn every_byte_of_a_manifest_is_checked() {
        let manifest = manifest(&[GOOD]);
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(Manifest::decode(&wrong).is_err(), "byte {at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "length {at}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused_although_the_checksum_holds() {
        for name in ["../x", "/etc/passwd", "node.json", "shards/1/../../x", "logs/0000/a.wal", ""]
        {
            let bytes = manifest(&[GOOD, name]).encode().unwrap();
            assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Name(name.to_owned())));
        }
        let bytes = manifest(&[GOOD, GOOD]).encode().unwrap();
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Twice(GOOD.to_owned())));
    }

    #[test]
    fn newer_versions_and_senseless_lengths_are_refused_by_name() {
        let newer = Manifest { format_version: 3, ..manifest(&[]) }.encode().unwrap();
        assert_eq!(Manifest::decode(&newer), Err(ManifestError::Version { found: 3 }));
        for (bytes, length) in [(11, 10), (1, u64::MAX)] {
            let mut wrong = manifest(&[GOOD]);
            (wrong.files[0].bytes, wrong.files[0].length) = (bytes, length);
            let found = Manifest::decode(&wrong.encode().unwrap());
            assert!(matches!(found, Err(ManifestError::Length { .. })), "{found:?}");
        }
    }
}
