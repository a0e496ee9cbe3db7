//! Writing an image and making it the checkpoint.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use heddle_types::limits::{CHECKPOINT_CHUNK_BYTES, PAGE_SIZE_BYTES};
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, Lsn, OpenMode, ShardId};

use super::format::{
    Chunk, FILES_MAX, FIRST_SECTION_OFFSET, FORMAT_VERSION, ImageKey, META_BYTES_MAX, SECTIONS_MAX,
    SUPERBLOCK_BYTES, Section, Superblock, Table, encode_image_header,
};
use super::reader::newest_superblock;
use super::{
    CheckpointError, SUPERBLOCK_NAMES, SectionId, TEMPORARY_SUFFIX, generation_of, image_name,
    ledger, remove_other_images, remove_unused_images,
};
use crate::engine::yield_now;

/// An image that is being written. Dropping it leaves a temporary file that the next writer or
/// start removes; the last committed checkpoint is never touched before the commit.
pub struct ImageWriter<D: Device> {
    device: D,
    directory: String,
    key: ImageKey,
    file: D::File,
    /// Where the buffer goes.
    offset: u64,
    buffer: AlignedBuf,
    open: Option<OpenSection>,
    table: Table,
    /// The image before, whose chunks are used again.
    previous: Previous,
    /// Digests of this image's chunks by section.
    digests: BTreeMap<u32, Vec<u64>>,
}

/// What a committed image consists of, for the next one: with it only chunks that have changed are
/// written. It lives in memory alone, so the first image after a start is written whole.
#[derive(Clone, Debug, Default)]
pub struct Previous {
    sections: BTreeMap<u32, (Section, Vec<u64>)>,
    /// Generations of the files that the image consists of.
    files: Vec<u64>,
}

/// The digest of a chunk that has to be written anew.
const FORGOTTEN: u64 = 0;

impl Previous {
    /// Generations of the files that the image consists of, ascending.
    pub(crate) fn files(&self) -> &[u64] {
        &self.files
    }

    /// The chunk that holds these bytes already.
    fn find(&self, section: u32, position: usize, bytes: usize, digest: u64) -> Option<Chunk> {
        let (section, digests) = self.sections.get(&section)?;
        let is_same =
            digests.get(position) == Some(&digest) && section.chunk_bytes(position) == bytes;
        section.chunks.get(position).filter(|_| is_same).copied()
    }

    /// Forgets the chunks of files of which less than half is in use: they are written anew, the
    /// files go, and images never take more than about twice their size. And all of them when there
    /// are too many files.
    fn without_sparse_files(mut self) -> Self {
        let mut used: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (section, _) in self.sections.values() {
            for (position, chunk) in section.chunks.iter().enumerate() {
                let bytes = section.chunk_bytes(position) as u64;
                let (live, end) = used.entry(chunk.file).or_default();
                *live += bytes;
                *end = (*end).max(chunk.offset + bytes);
            }
        }
        // One more is to come.
        if used.len() >= FILES_MAX {
            return Self::default();
        }
        for (section, digests) in self.sections.values_mut() {
            for (chunk, digest) in section.chunks.iter().zip(digests) {
                let (live, end) = used[&chunk.file];
                if live * 2 < end {
                    *digest = FORGOTTEN;
                }
            }
        }
        self
    }
}

/// Tells contents of one chunk apart. It never leaves memory, so it may differ between builds; 64
/// bits, because a chunk that has changed and looks the same would be lost.
fn digest_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    match hasher.finish() {
        FORGOTTEN => 1,
        digest => digest,
    }
}

struct OpenSection {
    section: Section,
    written: u64,
}

impl<D: Device> ImageWriter<D> {
    /// Begins the image of a shard; `generation` is one above that of the last one (1 for the
    /// first). The directory must exist durably.
    pub async fn begin(
        device: D,
        directory: &str,
        shard: ShardId,
        generation: u64,
    ) -> Result<Self, CheckpointError> {
        let path = temporary_path(directory, generation);
        match device.remove(&path).await {
            Ok(()) | Err(DeviceError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let file = device.open(&path, OpenMode::CreateNew).await?;
        let key = ImageKey { shard, generation };
        let header = encode_image_header(key, FORMAT_VERSION);
        file.write_at(0, AlignedBuf::from_slice(&header)).await?;
        Ok(Self {
            device,
            directory: directory.to_owned(),
            key,
            file,
            offset: FIRST_SECTION_OFFSET,
            buffer: AlignedBuf::zeroed(0),
            open: None,
            table: Table::default(),
            previous: Previous::default(),
            digests: BTreeMap::new(),
        })
    }

    /// Writes only what differs from the image before, which is that of the last commit; its files
    /// must be there still.
    #[must_use]
    pub fn with_previous(mut self, previous: Previous) -> Self {
        self.previous = previous.without_sparse_files();
        self
    }

    /// Ends the open section and begins one of exactly `length` bytes.
    ///
    /// Errors: [`CheckpointError::SectionLength`] when the section before got another number of
    /// bytes than announced, [`CheckpointError::TooLarge`].
    pub async fn section(&mut self, id: SectionId, length: u64) -> Result<(), CheckpointError> {
        self.end_section().await?;
        if self.table.sections.len() == SECTIONS_MAX {
            let (found, limit) = (SECTIONS_MAX as u64 + 1, SECTIONS_MAX as u64);
            return Err(CheckpointError::TooLarge { what: "sections", found, limit });
        }
        assert!(
            self.table.sections.iter().all(|section| section.id != id.0),
            "a section is written once"
        );
        let section = Section { id: id.0, length, chunks: Vec::new() };
        self.open = Some(OpenSection { section, written: 0 });
        Ok(())
    }

    /// Adds bytes to the open section. Yields to other tasks at each chunk that is full.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), CheckpointError> {
        let open = self.open.as_mut().expect("write follows section");
        open.written += bytes.len() as u64;
        if open.written > open.section.length {
            return Err(length_error(open));
        }
        while !bytes.is_empty() {
            let taken = bytes.len().min(CHECKPOINT_CHUNK_BYTES - self.buffer.len());
            let (now, later) = bytes.split_at(taken);
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHECKPOINT_CHUNK_BYTES {
                self.flush_chunk().await?;
            }
        }
        Ok(())
    }

    async fn end_section(&mut self) -> Result<(), CheckpointError> {
        if self.open.as_ref().is_some_and(|open| open.written != open.section.length) {
            return Err(self.open.as_ref().map(length_error).expect("it was just looked at"));
        }
        self.flush_chunk().await?;
        self.table.sections.extend(self.open.take().map(|open| open.section));
        Ok(())
    }

    async fn flush_chunk(&mut self) -> Result<(), CheckpointError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let open = self.open.as_mut().expect("bytes belong to a section");
        let (id, position) = (open.section.id, open.section.chunks.len());
        let digest = digest_of(&self.buffer);
        self.digests.entry(id).or_default().push(digest);
        if let Some(chunk) = self.previous.find(id, position, self.buffer.len(), digest) {
            open.section.chunks.push(chunk);
            self.buffer.truncate(0);
            // A write would have let other tasks run.
            yield_now().await;
            return Ok(());
        }
        open.section.chunks.push(Chunk {
            file: self.key.generation,
            offset: self.offset,
            crc: self.key.chunk_crc(self.offset, &self.buffer),
            // Known at the commit.
            lsn: Lsn(0),
        });
        let buffer = std::mem::replace(&mut self.buffer, AlignedBuf::zeroed(0));
        let written = buffer.padded().len() as u64;
        let mut buffer = self.file.write_at(self.offset, buffer).await?;
        self.offset += written;
        buffer.truncate(0);
        self.buffer = buffer;
        Ok(())
    }

    /// Writes the ledger of this image, see [`super::read_ledger`]; durable when this returns.
    ///
    /// Errors: as [`ImageWriter::write`], or [`CheckpointError::TooLarge`].
    pub async fn ledger(&self, body: &[u8]) -> Result<(), CheckpointError> {
        ledger::write(&self.device, &self.directory, self.key, body).await
    }

    /// Makes the image durable, then makes it the checkpoint, then removes the older images.
    ///
    /// `covers`: the last record that the image holds, so replay begins after it. `meta`: the
    /// caller's own bytes, given back by [`super::ImageReader::meta`]. When this returns, log
    /// records up to `covers` are not needed any more. Errors: the checkpoint before is still
    /// there, or this one already is; both are right.
    pub async fn commit(self, covers: Lsn, meta: &[u8]) -> Result<(), CheckpointError> {
        self.commit_and_keep(covers, meta).await.map(drop)
    }

    /// As [`ImageWriter::commit`]; gives back what the next image is compared with.
    pub async fn commit_and_keep(
        mut self,
        covers: Lsn,
        meta: &[u8],
    ) -> Result<Previous, CheckpointError> {
        self.end_section().await?;
        if meta.len() > META_BYTES_MAX {
            let (found, limit) = (meta.len() as u64, META_BYTES_MAX as u64);
            return Err(CheckpointError::TooLarge { what: "meta", found, limit });
        }
        self.table.meta = meta.to_vec();
        let own = self.key.generation;
        let chunks = self.table.sections.iter_mut().flat_map(|section| &mut section.chunks);
        chunks.filter(|chunk| chunk.file == own).for_each(|chunk| chunk.lsn = covers);
        let table = self.table.encode();
        let superblock = Superblock {
            version: FORMAT_VERSION,
            key: self.key,
            covers,
            image_bytes: self.offset + table.len().next_multiple_of(PAGE_SIZE_BYTES) as u64,
            table_offset: self.offset,
            table_bytes: table.len() as u64,
            table_crc: self.key.chunk_crc(self.offset, &table),
        };
        self.file.write_at(self.offset, AlignedBuf::from_slice(&table)).await?;
        self.file.sync().await?;
        self.file.close().await?;
        let path = format!("{}/{}", self.directory, image_name(self.key.generation));
        self.device.rename(&temporary_path(&self.directory, self.key.generation), &path).await?;
        self.device.sync_dir(&self.directory).await?;
        // One after the other: at every moment one of the two is whole and durable. Afterwards
        // both name this image, so that damage to either is survived. The one that names the
        // present checkpoint comes last: a commit before may have stopped between the two.
        // When both are damaged there is nothing to keep: the shard was built without them.
        let found = newest_superblock(&self.device, &self.directory, self.key.shard).await;
        let found = match found {
            Err(CheckpointError::Device(error)) => return Err(error.into()),
            found => found.ok().flatten(),
        };
        let mut names = SUPERBLOCK_NAMES;
        if found.is_some_and(|found| found.stale.contains(&SUPERBLOCK_NAMES[1])) {
            names.reverse();
        }
        for name in names {
            write_superblock(&self.device, &self.directory, name, &superblock).await?;
        }
        let mut files = self.table.files();
        // It holds the table, even when all of its chunks are elsewhere.
        if files.last() != Some(&own) {
            files.push(own);
        }
        remove_unused_images(&self.device, &self.directory, &files).await?;
        let mut digests = self.digests;
        let sections = self.table.sections.into_iter().map(|section| {
            let digests = digests.remove(&section.id).unwrap_or_default();
            (section.id, (section, digests))
        });
        Ok(Previous { sections: sections.collect(), files })
    }

    /// Gives the image up and removes its file.
    pub async fn abort(self) -> Result<(), CheckpointError> {
        let path = temporary_path(&self.directory, self.key.generation);
        self.file.close().await?;
        Ok(self.device.remove(&path).await?)
    }
}

/// The generation of the next image of a shard; `committed` is that of the last one whose commit
/// was reported (0: none ever was), `tried` the highest that was begun.
///
/// Above all that is there: a commit that failed may have left a superblock that names its image,
/// which must not be written over. While nothing was ever committed, all that such tries left is
/// removed, superblocks durably first, and the first generation is given again: images of later
/// ones say that a superblock was durable, and a superblock whose sync failed is none.
pub async fn next_generation<D: Device>(
    device: &D,
    directory: &str,
    committed: u64,
    tried: u64,
) -> Result<u64, CheckpointError> {
    if committed == 0 {
        if tried > 0 {
            remove_superblocks(device, directory).await?;
        }
        remove_other_images(device, directory, 0).await?;
        device.sync_dir(directory).await?;
        return Ok(1);
    }
    let names = device.list(directory).await?;
    let there = names.iter().filter_map(|name| generation_of(name));
    Ok(there.fold(tried.max(committed), u64::max) + 1)
}

async fn remove_superblocks<D: Device>(device: &D, directory: &str) -> Result<(), CheckpointError> {
    for name in SUPERBLOCK_NAMES {
        match device.remove(&format!("{directory}/{name}")).await {
            Ok(()) | Err(DeviceError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(device.sync_dir(directory).await?)
}

/// Makes both superblocks name the checkpoint in use; for a start, before older images are removed:
/// a superblock left behind would else name an image that is gone.
///
/// Errors: the device's, or damage to both superblocks; the checkpoint in use is untouched.
pub async fn repair_superblocks<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
) -> Result<(), CheckpointError> {
    let Some(found) = newest_superblock(device, directory, shard).await? else { return Ok(()) };
    for name in found.stale {
        write_superblock(device, directory, name, &found.newest).await?;
    }
    Ok(())
}

fn temporary_path(directory: &str, generation: u64) -> String {
    format!("{directory}/{}{TEMPORARY_SUFFIX}", image_name(generation))
}

fn length_error(open: &OpenSection) -> CheckpointError {
    let (expected, found) = (open.section.length, open.written);
    CheckpointError::SectionLength { section: open.section.id, expected, found }
}

async fn write_superblock<D: Device>(
    device: &D,
    directory: &str,
    name: &str,
    superblock: &Superblock,
) -> Result<(), CheckpointError> {
    const _: () = assert!(SUPERBLOCK_BYTES <= PAGE_SIZE_BYTES);
    let path = format!("{directory}/{name}");
    let page = AlignedBuf::from_slice(&superblock.encode());
    match device.open(&path, OpenMode::Write).await {
        Ok(file) => {
            file.write_at(0, page).await?;
            file.sync().await?;
            file.close().await?;
        }
        Err(DeviceError::NotFound { .. }) => {
            let file = device.open(&path, OpenMode::CreateNew).await?;
            file.write_at(0, page).await?;
            file.sync().await?;
            file.close().await?;
            device.sync_dir(directory).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
