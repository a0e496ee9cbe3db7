//! The ledger: the part of an image that nothing else repeats, written a second time.
//!
//! Vectors, links and property indexes follow from rows and log records, and so do ids and places.
//! What does not is which objects were deleted: the log gives those records up once an image holds
//! them. So each image has a ledger beside it with the caller's own bytes about that. A shard whose
//! image is damaged or missing is put together again from ledger, rows and log.
//!
//! A ledger gets its name when it is whole and durable, before the image of its generation gets its
//! own; it goes when the image goes.

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode, ShardId};

use super::format::{ImageKey, LEDGER_BYTES_MAX, LedgerHeader, fault};
use super::reader::corrupt;
use super::{
    CheckpointError, TEMPORARY_SUFFIX, image_generation, ledger_generation, ledger_name,
    ledger_path,
};

/// Bytes written at once (1 MiB).
const PIECE_BYTES: usize = 1 << 20;

/// Writes the ledger of a generation; its name is durable when this returns.
///
/// Errors: [`CheckpointError::TooLarge`], or the device's; a temporary file may be left, which the
/// next checkpoint or start removes.
pub(super) async fn write<D: Device>(
    device: &D,
    directory: &str,
    key: ImageKey,
    body: &[u8],
) -> Result<(), CheckpointError> {
    if body.len() as u64 > LEDGER_BYTES_MAX {
        let (found, limit) = (body.len() as u64, LEDGER_BYTES_MAX);
        return Err(CheckpointError::TooLarge { what: "ledger", found, limit });
    }
    let path = format!("{directory}/{}", ledger_name(key.generation));
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    match device.remove(&temporary).await {
        Ok(()) | Err(DeviceError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = device.open(&temporary, OpenMode::CreateNew).await?;
    let header = LedgerHeader::of(key, body);
    file.write_at(0, AlignedBuf::from_slice(&header.encode())).await?;
    let mut offset = PAGE_SIZE_BYTES as u64;
    for piece in body.chunks(PIECE_BYTES) {
        file.write_at(offset, AlignedBuf::from_slice(piece)).await?;
        offset += PIECE_BYTES as u64;
    }
    file.sync().await?;
    file.close().await?;
    device.rename(&temporary, &path).await?;
    Ok(device.sync_dir(directory).await?)
}

/// The bytes of the newest ledger of a shard, and its generation; `None` when there is none, as
/// beside images of earlier versions.
///
/// Errors: [`CheckpointError::Corrupt`] and [`CheckpointError::Version`]; also when an image is
/// newer than every ledger, because what was deleted between them is then unknown.
pub async fn read_ledger<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
) -> Result<Option<(u64, Vec<u8>)>, CheckpointError> {
    let names = device.list(directory).await?;
    let newest = names.iter().filter_map(|name| ledger_generation(name)).max();
    let Some(generation) = newest else { return Ok(None) };
    let path = format!("{directory}/{}", ledger_name(generation));
    let image = names.iter().filter_map(|name| image_generation(name)).max().unwrap_or_default();
    if image > generation {
        return Err(corrupt(&path, 0, fault("generation", image, generation)));
    }
    let (file, header) = open(device, &path, shard, generation).await?;
    let bytes = usize::try_from(header.body_bytes).expect("it was compared with the file");
    let start = PAGE_SIZE_BYTES as u64;
    let mut body = file.read_at(start, bytes.next_multiple_of(PAGE_SIZE_BYTES)).await?;
    body.truncate(bytes);
    let found = header.key.chunk_crc(start, &body);
    if found != header.body_crc {
        return Err(corrupt(&path, start, fault("ledger checksum", header.body_crc, found)));
    }
    Ok(Some((generation, body.to_vec())))
}

/// Reads and checks the ledger of a generation, for scrubbing. Bytes that were read.
///
/// Errors: as [`read_ledger`]; a ledger that is not there is [`DeviceError::NotFound`].
pub(crate) async fn verify_ledger<D: Device>(
    device: &D,
    directory: &str,
    shard: ShardId,
    generation: u64,
) -> Result<u64, CheckpointError> {
    let path = ledger_path(directory, generation);
    let (file, header) = open(device, &path, shard, generation).await?;
    let start = PAGE_SIZE_BYTES as u64;
    let mut found = header.key.chunk_crc(start, &[]);
    let mut read = 0;
    while read < header.body_bytes {
        // Other tasks run while the device reads the next piece.
        let left = header.body_bytes - read;
        let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let pages = length.next_multiple_of(PAGE_SIZE_BYTES);
        let piece = file.read_at(start + read, pages).await?;
        found = crc32c::crc32c_append(found, &piece[..length]);
        read += length as u64;
    }
    file.close().await?;
    if found != header.body_crc {
        return Err(corrupt(&path, start, fault("ledger checksum", header.body_crc, found)));
    }
    Ok(start + read)
}

/// Opens a ledger and reads its header; the body is as long as the header says.
async fn open<D: Device>(
    device: &D,
    path: &str,
    shard: ShardId,
    generation: u64,
) -> Result<(D::File, LedgerHeader), CheckpointError> {
    let file = device.open(path, OpenMode::Read).await?;
    let length = file.length().await?;
    if length < PAGE_SIZE_BYTES as u64 {
        return Err(corrupt(path, 0, fault("file length", PAGE_SIZE_BYTES as u64, length)));
    }
    let key = ImageKey { shard, generation };
    let page = file.read_at(0, PAGE_SIZE_BYTES).await?;
    let header = LedgerHeader::decode(&page, key).map_err(|fault| corrupt(path, 0, fault))?;
    let end = header.body_bytes.checked_add(PAGE_SIZE_BYTES as u64);
    if end.is_none_or(|end| end > length) || header.body_bytes > LEDGER_BYTES_MAX {
        let short = fault("file length", end.unwrap_or(u64::MAX), length);
        return Err(corrupt(path, 0, short));
    }
    Ok((file, header))
}
