//! Building an index from a file.

use std::sync::Arc;
use std::time::Instant;

use heddle_bench::vectors::VectorFile;
use heddle_index::{DirectoryWriter, IndexParams, Quiescence, SlotDirectory, VectorWriter};

use super::Failure;
use super::crew::{Phases, link_all};

/// A finished index.
pub(crate) struct Built {
    pub(crate) writer: VectorWriter,
    pub(crate) directory: Arc<SlotDirectory>,
    pub(crate) seconds: f64,
    pub(crate) phases: Phases,
}

/// Makes the directory of a restored index: every slot is live.
pub(crate) fn publish_all(directory: &mut DirectoryWriter, slots: u32) -> Result<(), Failure> {
    for row in 0..slots {
        let slot = directory.push(id_of(row))?;
        directory.publish(slot);
    }
    Ok(())
}

/// The id of a row: its number in the last eight bytes.
fn id_of(row: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&u64::from(row).to_be_bytes());
    id
}

/// Rows read from the file at a time.
const READ_ROWS: usize = 4_096;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn build(
    base: &VectorFile,
    rows: usize,
    params: IndexParams,
    threads: usize,
    batch: usize,
) -> Result<Built, Failure> {
    let mut directory = DirectoryWriter::new(0, Quiescence::new(threads))?;
    let mut writer = VectorWriter::new(params)?;
    let mut piece = Vec::new();
    let mut seconds = 0.0;
    for first in (0..rows).step_by(READ_ROWS) {
        base.read_rows(first, READ_ROWS.min(rows - first), &mut piece)?;
        let started = Instant::now();
        for row in piece.chunks_exact(base.dims()) {
            let slot = directory.push(id_of(directory.view().published()))?;
            writer.store(slot, row)?;
            directory.publish(slot);
        }
        seconds += started.elapsed().as_secs_f64();
    }
    let directory = directory.view();
    let started = Instant::now();
    let phases = link_all(&mut writer, &directory, threads, batch)?;
    seconds += started.elapsed().as_secs_f64();
    Ok(Built { writer, directory, seconds, phases })
}
