//! The built index as a file, so that searches can be measured again without building.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use heddle_index::{DirectoryWriter, IndexParams, Quiescence, VectorWriter};

use super::Failure;
use super::build::{Built, publish_all};
use super::crew::Phases;

/// Bytes moved at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Writes the image of an index, each section behind its length.
pub(crate) fn save(path: &Path, built: &Built, slots: u32) -> Result<(), Failure> {
    let mut file = BufWriter::new(File::create(path)?);
    let view = built.writer.view();
    let mut piece = vec![0; PIECE_BYTES];
    for (section, planned) in view.image_plan(slots).iter().enumerate() {
        file.write_all(&planned.bytes.to_le_bytes())?;
        for offset in (0..planned.bytes).step_by(PIECE_BYTES) {
            let now = (planned.bytes - offset).min(PIECE_BYTES as u64) as usize;
            view.image_read(slots, section, offset, &mut piece[..now]);
            file.write_all(&piece[..now])?;
        }
    }
    Ok(file.flush()?)
}

/// Restores an index of `slots` slots.
pub(crate) fn load(path: &Path, params: IndexParams, slots: u32) -> Result<Built, Failure> {
    let mut file = BufReader::new(File::open(path)?);
    let mut restorer = VectorWriter::restore(params, slots)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut section = 0;
    let mut length = [0; 8];
    while file.read_exact(&mut length).is_ok() {
        let bytes = u64::from_le_bytes(length);
        for offset in (0..bytes).step_by(PIECE_BYTES) {
            let now = (bytes - offset).min(PIECE_BYTES as u64) as usize;
            file.read_exact(&mut piece[..now])?;
            restorer.write(section, offset, &piece[..now])?;
        }
        section += 1;
    }
    let writer = restorer.finish()?;
    let mut directory = DirectoryWriter::new(slots, Quiescence::new(1))?;
    publish_all(&mut directory, slots)?;
    let directory = directory.view();
    Ok(Built { writer, directory, seconds: 0.0, phases: Phases::default() })
}
