//! The catalog on disk: two slots, written in turn, each whole or worthless.
//!
//! ```text
//! catalog.0, catalog.1
//!  0        8        12       16           24           32        36        40
//! ┌────────┬────────┬────────┬────────────┬────────────┬─────────┬─────────┐
//! │ magic  │ version│ zero   │ generation │ length     │ payload │ header  │ payload …
//! │ 8 B    │ u32    │ u32    │ u64        │ u64        │ crc u32 │ crc u32 │ (JSON)
//! └────────┴────────┴────────┴────────────┴────────────┴─────────┴─────────┘
//! ```
//!
//! All numbers little endian, checksums CRC-32C. The slot with the highest generation whose two
//! checksums hold is the catalog. A save goes to the other slot and is durable before it is
//! reported, so a crash at any point leaves the old catalog or the new one.

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode};

use crate::catalog::{Catalog, InvalidCatalog};

const MAGIC: &[u8; 8] = b"HDLCATLG";
/// Newest format that is read. A catalog without further replicas is written as version 1, which is
/// the same file without them: a server that knows nothing of replicas can still read it.
const VERSION: u32 = 2;
const VERSION_SINGLE: u32 = 1;
const HEADER_BYTES: usize = 40;
/// Largest catalog that is read (64 MiB): a bound for what a damaged length may ask for.
const CATALOG_BYTES_MAX: usize = 64 << 20;
const SLOTS: [&str; 2] = ["catalog.0", "catalog.1"];

/// Why the catalog could not be read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk refused. After a failed save the old catalog is still the valid one.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Slots exist and none is whole. Nothing was changed; restore the files from a backup.
    #[error("{file} is damaged: {what}, and no other slot is whole")]
    Corrupt {
        /// The file with the newest damage.
        file: String,
        /// What does not hold.
        what: String,
    },
    /// The bytes are those that were written, and no catalog that a node can work by. Nothing was
    /// changed; restore the files from a backup.
    #[error("{file} does not hold a catalog that fits together: {source}")]
    Invalid {
        /// The file.
        file: &'static str,
        /// What does not fit.
        source: InvalidCatalog,
    },
    /// The catalog was written by a newer version. Nothing was changed.
    #[error("{file} has format version {found}, this server reads up to {VERSION}")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
    },
    /// The catalog does not fit its limit; it was not written.
    #[error("catalog of {found} bytes is above the limit {CATALOG_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        found: usize,
    },
}

enum Slot {
    Missing,
    Damaged(String),
    Whole { generation: u64, catalog: Catalog },
}

/// What [`CatalogStore::open`] found.
pub struct Opened<D: Device> {
    /// The store, ready to save.
    pub store: CatalogStore<D>,
    /// The newest whole catalog; none in a fresh data directory.
    pub catalog: Option<Catalog>,
    /// Damage that the other slot made good, for the log: either a save was cut off by a crash
    /// (and never reported), or the disk lost the newest catalog.
    pub damage: Option<String>,
}

/// Reads and writes the catalog of one data directory.
pub struct CatalogStore<D: Device> {
    device: D,
    generation: u64,
}

impl<D: Device> CatalogStore<D> {
    /// Opens the store and reads the newest whole catalog; none when there never was one.
    ///
    /// Errors: damage in every slot, a catalog that does not fit together, a newer format, or the
    /// disk.
    pub async fn open(device: D) -> Result<Opened<D>, StoreError> {
        let mut newest: Option<(u64, Catalog)> = None;
        let mut damage = None;
        let mut missing_count = 0;
        for file in SLOTS {
            match read_slot(&device, file).await? {
                Slot::Missing => missing_count += 1,
                Slot::Damaged(what) => damage = Some((file, what)),
                Slot::Whole { generation, catalog } => {
                    if newest.as_ref().is_none_or(|(found, _)| *found < generation) {
                        newest = Some((generation, catalog));
                    }
                }
            }
        }
        let generation = newest.as_ref().map_or(0, |(generation, _)| *generation);
        if let Some((_, catalog)) = &newest {
            let file = SLOTS[(generation % 2) as usize];
            catalog.validate().map_err(|source| StoreError::Invalid { file, source })?;
        }
        let store = Self { device, generation };
        let damage = match (&newest, damage) {
            (_, None) => None,
            (Some(_), Some((file, what))) => Some(format!("{file} is damaged: {what}")),
            // Only a first save that never finished leaves a damaged slot without the other.
            (None, Some((file, _))) if file == SLOTS[1] && missing_count == 1 => None,
            (None, Some((file, what))) => {
                return Err(StoreError::Corrupt { file: file.to_owned(), what });
            }
        };
        Ok(Opened { store, catalog: newest.map(|(_, catalog)| catalog), damage })
    }

    /// Writes the catalog; it is durable when this returns.
    ///
    /// Errors: the disk refused or is full; the catalog saved before stays valid.
    pub async fn save(&mut self, catalog: &Catalog) -> Result<(), StoreError> {
        let is_first = self.generation == 0;
        self.save_next(catalog).await?;
        if is_first {
            // From the first save on, both slots exist: one that is alone tells of a crash.
            self.save_next(catalog).await?;
        }
        Ok(())
    }

    async fn save_next(&mut self, catalog: &Catalog) -> Result<(), StoreError> {
        let generation = self.generation + 1;
        let bytes = encode(generation, catalog)?;
        let file_name = SLOTS[(generation % 2) as usize];
        let (file, created) = match self.device.open(file_name, OpenMode::Write).await {
            Ok(file) => (file, false),
            Err(DeviceError::NotFound { .. }) => {
                (self.device.open(file_name, OpenMode::CreateNew).await?, true)
            }
            Err(error) => return Err(error.into()),
        };
        file.write_at(0, AlignedBuf::from_slice(&bytes)).await?;
        file.sync().await?;
        file.close().await?;
        if created {
            self.device.sync_dir("").await?;
        }
        self.generation = generation;
        Ok(())
    }
}

/// The files of a catalog that is saved for the first time, by name: for a data directory that is
/// made as a whole.
///
/// Errors: [`StoreError::TooLarge`].
pub fn first_files(catalog: &Catalog) -> Result<[(&'static str, Vec<u8>); 2], StoreError> {
    let file = |generation: u64| -> Result<(&'static str, Vec<u8>), StoreError> {
        let mut bytes = encode(generation, catalog)?;
        bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
        Ok((SLOTS[(generation % 2) as usize], bytes))
    };
    Ok([file(1)?, file(2)?])
}

fn encode(generation: u64, catalog: &Catalog) -> Result<Vec<u8>, StoreError> {
    let payload = serde_json::to_vec(catalog).expect("a catalog has string keys only");
    if payload.len() > CATALOG_BYTES_MAX {
        return Err(StoreError::TooLarge { found: payload.len() });
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(MAGIC);
    let version = if catalog.is_replicated() { VERSION } else { VERSION_SINGLE };
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

async fn read_slot<D: Device>(device: &D, name: &str) -> Result<Slot, StoreError> {
    let file = match device.open(name, OpenMode::Read).await {
        Ok(file) => file,
        Err(DeviceError::NotFound { .. }) => return Ok(Slot::Missing),
        Err(error) => return Err(error.into()),
    };
    let length = file.length().await?;
    let usable = usize::try_from(length).unwrap_or(usize::MAX);
    let page = heddle_types::limits::PAGE_SIZE_BYTES;
    let readable = usable.min(CATALOG_BYTES_MAX + page) / page * page;
    let bytes = match file.read_at(0, readable).await {
        Ok(bytes) => bytes,
        Err(error) => return Err(error.into()),
    };
    file.close().await?;
    decode(name, &bytes)
}

fn decode(name: &str, bytes: &[u8]) -> Result<Slot, StoreError> {
    let damaged = |what: &str| Ok(Slot::Damaged(what.to_owned()));
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return damaged("the file is shorter than its header");
    };
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    if header[..8] != MAGIC[..] || u32_at(36) != crc32c::crc32c(&header[..36]) {
        return damaged("the header's magic or checksum is wrong");
    }
    if u32_at(8) > VERSION {
        return Err(StoreError::Version { file: name.to_owned(), found: u32_at(8) });
    }
    let payload = usize::try_from(u64_at(24)).ok().and_then(|length| rest.get(..length));
    let Some(payload) = payload else {
        return damaged("the payload is longer than the file");
    };
    if crc32c::crc32c(payload) != u32_at(32) {
        return damaged("the payload's checksum is wrong");
    }
    match serde_json::from_slice(payload) {
        Ok(catalog) => Ok(Slot::Whole { generation: u64_at(16), catalog }),
        Err(error) => Ok(Slot::Damaged(format!("the payload is not a catalog: {error}"))),
    }
}
