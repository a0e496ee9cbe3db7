//! Finding the checkpoint of a shard and reading its image.

use futures::StreamExt;
use heddle_types::limits::{CHECKPOINT_CHUNK_BYTES, PAGE_SIZE_BYTES};
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, Lsn, OpenMode, ShardId};

use super::format::{
    FAULT_VERSION, FIRST_SECTION_OFFSET, Fault, META_BYTES_MAX, SECTIONS_MAX, Section, Superblock,
    Table, check_image_header, fault,
};
use super::{CheckpointError, SUPERBLOCK_NAMES, SectionId, image_name};

/// Chunks read ahead while one is handed out.
const CHUNKS_IN_FLIGHT: usize = 8;

/// A committed image, open for reading.
pub struct ImageReader<D: Device> {
    file: D::File,
    path: String,
    superblock: Superblock,
    table: Table,
}

impl<D: Device> ImageReader<D> {
    /// Opens the newest committed image of a shard; `None` when none was ever committed.
    ///
    /// Errors: [`CheckpointError::Corrupt`] when a checkpoint was committed and cannot be found or
    /// trusted, [`CheckpointError::Version`]. Reads the superblocks and the image's table; the
    /// sections are checked when they are read.
    pub async fn open(
        device: &D,
        directory: &str,
        shard: ShardId,
    ) -> Result<Option<Self>, CheckpointError> {
        let Some(superblock) = newest_superblock(device, directory, shard).await? else {
            return Ok(None);
        };
        let superblock = superblock.newest;
        let path = format!("{directory}/{}", image_name(superblock.key.generation));
        let file = match device.open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(DeviceError::NotFound { .. }) => {
                return Err(corrupt(&path, 0, fault("file length", superblock.image_bytes, 0_u64)));
            }
            Err(error) => return Err(error.into()),
        };
        let length = file.length().await?;
        if length < superblock.image_bytes {
            let short = fault("file length", superblock.image_bytes, length);
            return Err(corrupt(&path, length, short));
        }
        let table = read_table(&file, &path, &superblock).await?;
        Ok(Some(Self { file, path, superblock, table }))
    }

    /// The image's generation; the next one gets one more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.superblock.key.generation
    }

    /// The last record that the image holds.
    #[must_use]
    pub fn covers(&self) -> Lsn {
        self.superblock.covers
    }

    /// The bytes that were given at the commit.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.table.meta
    }

    /// Sections and their lengths in bytes, in the order they were written.
    pub fn sections(&self) -> impl Iterator<Item = (SectionId, u64)> {
        self.table.sections.iter().map(|section| (SectionId(section.id), section.length))
    }

    /// Length of a section, bytes; `None` when the image has none of that id.
    #[must_use]
    pub fn section_bytes(&self, id: SectionId) -> Option<u64> {
        self.section(id).map(|section| section.length)
    }

    fn section(&self, id: SectionId) -> Option<&Section> {
        self.table.sections.iter().find(|section| section.id == id.0)
    }

    /// Hands the section's bytes to `consume` in order, each piece verified, with its offset in the
    /// section. Several reads are in flight.
    ///
    /// Errors: [`CheckpointError::NoSection`]; [`CheckpointError::Corrupt`] after the pieces before
    /// the damage were handed out.
    pub async fn read_section(
        &self,
        id: SectionId,
        mut consume: impl FnMut(u64, &[u8]),
    ) -> Result<(), CheckpointError> {
        let section = self
            .section(id)
            .ok_or_else(|| CheckpointError::NoSection { file: self.path.clone(), section: id.0 })?;
        let reads = section.chunk_crcs.iter().zip(0_u64..).map(|(crc, index)| {
            let start = index * CHECKPOINT_CHUNK_BYTES as u64;
            let length = (section.length - start).min(CHECKPOINT_CHUNK_BYTES as u64);
            self.read_chunk(section.offset + start, length, *crc)
        });
        let mut chunks = futures::stream::iter(reads).buffered(CHUNKS_IN_FLIGHT);
        let mut offset = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            consume(offset, &chunk);
            offset += chunk.len() as u64;
        }
        assert_eq!(offset, section.length, "the table was checked to cover the section");
        Ok(())
    }

    async fn read_chunk(
        &self,
        offset: u64,
        length: u64,
        crc: u32,
    ) -> Result<AlignedBuf, CheckpointError> {
        let length = usize::try_from(length).expect("a chunk is 256 KiB at most");
        let mut chunk = self.file.read_at(offset, length.next_multiple_of(PAGE_SIZE_BYTES)).await?;
        chunk.truncate(length);
        let found = self.superblock.key.chunk_crc(offset, &chunk);
        if found != crc {
            return Err(corrupt(&self.path, offset, fault("chunk checksum", crc, found)));
        }
        Ok(chunk)
    }

    /// Path of the image.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Reads and checks one chunk, for scrubbing: sections in order, chunks in order. The bytes
    /// that were read; `None` when there is no such chunk in the section, or no such section.
    pub(crate) async fn verify_chunk(
        &self,
        section: usize,
        chunk: usize,
    ) -> Option<Result<u64, CheckpointError>> {
        let section = self.table.sections.get(section)?;
        let crc = section.chunk_crcs.get(chunk)?;
        let start = chunk as u64 * CHECKPOINT_CHUNK_BYTES as u64;
        let length = (section.length - start).min(CHECKPOINT_CHUNK_BYTES as u64);
        let read = self.read_chunk(section.offset + start, length, *crc).await;
        Some(read.map(|_whole| length))
    }

    /// Sections of the image.
    pub(crate) fn section_count(&self) -> usize {
        self.table.sections.len()
    }

    /// Reads a whole section into memory.
    ///
    /// Errors: as [`ImageReader::read_section`].
    pub async fn read_all(&self, id: SectionId) -> Result<Vec<u8>, CheckpointError> {
        let mut out = Vec::new();
        self.read_section(id, |_, bytes| out.extend_from_slice(bytes)).await?;
        Ok(out)
    }
}

fn corrupt(path: &str, offset: u64, fault: Fault) -> CheckpointError {
    let Fault { what, expected, found } = fault;
    let file = path.to_owned();
    match what {
        FAULT_VERSION => CheckpointError::Version { file, expected, found },
        _ => CheckpointError::Corrupt { file, offset, what, expected, found },
    }
}

/// What is wrong with the superblocks of a shard that has a checkpoint: after a commit both are
/// whole and name the same image. For scrubbing; reads two pages.
pub(crate) async fn verify_superblocks<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
) -> Vec<CheckpointError> {
    let mut wrong = Vec::new();
    for name in SUPERBLOCK_NAMES {
        let path = format!("{directory}/{name}");
        match read_superblock(device, &path).await {
            Ok(Read::Whole(found)) if found.key.shard == shard => {}
            Ok(Read::Whole(found)) => {
                wrong.push(corrupt(&path, 0, fault("shard", shard.0, found.key.shard.0)));
            }
            Ok(Read::Damaged(fault)) => wrong.push(corrupt(&path, 0, fault)),
            Ok(Read::Missing) => {
                wrong.push(corrupt(&path, 0, fault("file length", PAGE_SIZE_BYTES as u64, 0_u64)));
            }
            Err(error) => wrong.push(error),
        }
    }
    wrong
}

/// Bytes of the files that make a committed image: the image and both superblocks.
pub(crate) async fn image_file_bytes<D: Device>(
    device: &D,
    directory: &str,
    generation: u64,
) -> Result<u64, DeviceError> {
    let path = format!("{directory}/{}", image_name(generation));
    let file = device.open(&path, OpenMode::Read).await?;
    let length = file.length().await?;
    file.close().await?;
    Ok(length + SUPERBLOCK_NAMES.len() as u64 * PAGE_SIZE_BYTES as u64)
}

/// What the superblocks of a shard say.
pub(super) struct Found {
    /// The one of the highest generation.
    pub(super) newest: Superblock,
    /// The names under which something else stands, or nothing.
    pub(super) stale: Vec<&'static str>,
}

/// The superblock of the highest generation.
///
/// One bad superblock is explained by a crash while it was written, and the other then names a
/// whole image. Two bad ones are not, unless an image was never named: then nothing was ever
/// committed. One that cannot be read counts as bad as long as the other is whole.
pub(super) async fn newest_superblock<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
) -> Result<Option<Found>, CheckpointError> {
    let mut newest: Option<Superblock> = None;
    let mut whole = Vec::new();
    let mut damage = None;
    let mut missing = 0;
    for name in SUPERBLOCK_NAMES {
        let path = format!("{directory}/{name}");
        let read = match read_superblock(device, &path).await {
            Ok(read) => read,
            Err(error) => {
                damage = damage.or(Some(error));
                continue;
            }
        };
        match read {
            Read::Missing => missing += 1,
            Read::Damaged(fault) => damage = damage.or_else(|| Some(corrupt(&path, 0, fault))),
            Read::Whole(found) if found.key.shard != shard => {
                let other = fault("shard", shard.0, found.key.shard.0);
                return Err(corrupt(&path, 0, other));
            }
            Read::Whole(found) => {
                let newer = newest.filter(|newest| newest.key.generation > found.key.generation);
                newest = newer.or(Some(found));
                whole.push((name, found.key.generation));
            }
        }
    }
    let found = newest.map(|newest| {
        let names = |name: &&str| whole.contains(&(*name, newest.key.generation));
        let stale = SUPERBLOCK_NAMES.into_iter().filter(|name| !names(name)).collect();
        Found { newest, stale }
    });
    match (found, damage) {
        (Some(found), None) => Ok(Some(found)),
        // Another version wrote it: guessing from the rest could go back in time.
        (_, Some(version @ CheckpointError::Version { .. })) => Err(version),
        (Some(found), Some(_)) => Ok(Some(found)),
        (None, Some(unread @ CheckpointError::Device(_))) => Err(unread),
        // The second is only written once the first is durable: the very first commit was torn.
        (None, Some(_)) if missing == 1 && !any_image(device, directory, 2).await? => Ok(None),
        (None, Some(damage)) => Err(damage),
        // The image of a second commit implies that a superblock was durable before it.
        (None, None) if any_image(device, directory, 2).await? => {
            let path = format!("{directory}/{}", SUPERBLOCK_NAMES[0]);
            Err(corrupt(&path, 0, fault("file length", PAGE_SIZE_BYTES as u64, 0_u64)))
        }
        (None, None) => Ok(None),
    }
}

/// Is there an image of this generation or a later one?
async fn any_image<D: Device>(
    device: &D,
    directory: &str,
    generation: u64,
) -> Result<bool, CheckpointError> {
    let names = device.list(directory).await?;
    Ok(names.iter().filter_map(|name| super::image_generation(name)).any(|own| own >= generation))
}

enum Read {
    Missing,
    Damaged(Fault),
    Whole(Superblock),
}

async fn read_superblock<D: Device>(device: &D, path: &str) -> Result<Read, CheckpointError> {
    let file = match device.open(path, OpenMode::Read).await {
        Ok(file) => file,
        Err(DeviceError::NotFound { .. }) => return Ok(Read::Missing),
        Err(error) => return Err(error.into()),
    };
    let length = file.length().await?;
    if length < PAGE_SIZE_BYTES as u64 {
        return Ok(Read::Damaged(fault("file length", PAGE_SIZE_BYTES as u64, length)));
    }
    let page = file.read_at(0, PAGE_SIZE_BYTES).await?;
    Ok(Superblock::decode(&page).map_or_else(Read::Damaged, Read::Whole))
}

async fn read_table<F: DeviceFile>(
    file: &F,
    path: &str,
    superblock: &Superblock,
) -> Result<Table, CheckpointError> {
    let Superblock { key, table_offset, table_bytes, table_crc, .. } = *superblock;
    let most = META_BYTES_MAX as u64 + SECTIONS_MAX as u64 * 32 + superblock.image_bytes / 1_024;
    let end = table_offset.checked_add(table_bytes);
    let inside = end.is_some_and(|end| end <= superblock.image_bytes);
    let aligned = table_offset.is_multiple_of(PAGE_SIZE_BYTES as u64);
    if !inside || !aligned || table_offset < FIRST_SECTION_OFFSET || table_bytes > most {
        return Err(corrupt(path, table_offset, fault("table length", most, table_bytes)));
    }
    let first = file.read_at(0, PAGE_SIZE_BYTES).await?;
    check_image_header(&first, key).map_err(|fault| corrupt(path, 0, fault))?;
    let length = usize::try_from(table_bytes).expect("a table fits into memory");
    let mut bytes = file.read_at(table_offset, length.next_multiple_of(PAGE_SIZE_BYTES)).await?;
    bytes.truncate(length);
    let found = key.chunk_crc(table_offset, &bytes);
    if found != table_crc {
        let wrong = fault("table checksum", table_crc, found);
        return Err(corrupt(path, table_offset, wrong));
    }
    Table::decode(&bytes, table_offset).map_err(|fault| corrupt(path, table_offset, fault))
}
