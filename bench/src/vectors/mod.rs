//! Files of vectors: `.npy` (f32, f64, f16, u8, i8, i32, i64), `.fvecs`, `.bvecs` and `.ivecs`.
//!
//! A file is opened, its shape checked against its length, and rows are read in pieces, converted
//! to f32; nothing is allocated from a number in the file before that check.

mod convert;
mod npy;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use convert::ElementType;

/// Why a file of vectors was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorFileError {
    /// The system could not open or read the file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The name ends in none of the known suffixes.
    #[error("{}: expected a file that ends in .npy, .fvecs, .bvecs or .ivecs", path.display())]
    Suffix {
        /// Which file.
        path: PathBuf,
    },
    /// The content is not what the suffix says.
    #[error("{path}: {problem}", path = path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
}

/// A matrix file, opened for reading rows.
#[derive(Debug)]
pub struct VectorFile {
    path: PathBuf,
    file: File,
    rows: usize,
    dims: usize,
    element: ElementType,
    /// Byte of the first row.
    start: u64,
    /// Bytes in front of each row (`*vecs` repeat the dimension there).
    row_prefix: usize,
}

/// Rows read and converted per system call, at most this many bytes of the file.
const READ_BYTES: usize = 1 << 20;

/// Most components per row that make sense.
const DIMS_MAX: usize = 1 << 20;

impl VectorFile {
    /// Opens a file and checks that its shape and its length agree.
    ///
    /// # Errors
    /// [`VectorFileError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, VectorFileError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| VectorFileError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        let element = match suffix {
            "npy" => return Self::open_npy(path, file, length),
            "fvecs" => ElementType::F32,
            "bvecs" => ElementType::U8,
            "ivecs" => ElementType::I32,
            _ => return Err(VectorFileError::Suffix { path }),
        };
        Self::open_vecs(path, file, length, element)
    }

    fn open_npy(path: PathBuf, file: File, length: u64) -> Result<Self, VectorFileError> {
        let mut head = vec![0; length.min(npy::HEADER_BYTES_MAX) as usize];
        file.read_exact_at(&mut head, 0)
            .map_err(|source| VectorFileError::Io { path: path.clone(), source })?;
        let refused = |problem| VectorFileError::Format { path: path.clone(), problem };
        let header = npy::parse_header(&head).map_err(refused)?;
        let bytes = header.rows.checked_mul(header.dims);
        let bytes = bytes.and_then(|count| count.checked_mul(header.element.bytes()));
        let expected = bytes.and_then(|bytes| (bytes as u64).checked_add(header.data_start));
        let shape = format!("{} x {}", header.rows, header.dims);
        if header.dims == 0 || header.dims > DIMS_MAX {
            let problem = format!("its shape is {shape}, expected 1 to {DIMS_MAX} columns");
            return Err(refused(problem));
        }
        if expected != Some(length) {
            let expected = expected.map_or_else(|| "more".to_owned(), |bytes| bytes.to_string());
            let problem = format!(
                "{length} bytes, expected {expected} for the {shape} matrix its header names: \
                 the file is cut off or has something behind it"
            );
            return Err(refused(problem));
        }
        let npy::Header { rows, dims, element, data_start } = header;
        Ok(Self { path, file, rows, dims, element, start: data_start, row_prefix: 0 })
    }

    fn open_vecs(
        path: PathBuf,
        file: File,
        length: u64,
        element: ElementType,
    ) -> Result<Self, VectorFileError> {
        let mut first = [0; 4];
        if length > 0 {
            file.read_exact_at(&mut first, 0)
                .map_err(|source| VectorFileError::Io { path: path.clone(), source })?;
        }
        let dims = u32::from_le_bytes(first) as usize;
        let row = (dims * element.bytes()) as u64 + 4;
        if dims == 0 || dims > DIMS_MAX || !length.is_multiple_of(row) {
            let problem = format!("rows of {dims} components do not make {length} bytes");
            return Err(VectorFileError::Format { path, problem });
        }
        let rows = (length / row) as usize;
        Ok(Self { path, file, rows, dims, element, start: 0, row_prefix: 4 })
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Components per row.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// How components are stored.
    #[must_use]
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Reads rows `first..first + count`, cut at the end of the file, into `out` (cleared first) as
    /// `[count, dims]`. Integers beyond 2^24 lose precision; use [`Self::read_integers`] for ids.
    ///
    /// # Errors
    /// [`VectorFileError::Io`], or [`VectorFileError::Format`] when a row repeats another
    /// dimension.
    pub fn read_rows(
        &self,
        first: usize,
        count: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), VectorFileError> {
        out.clear();
        self.each_row(first, count, |row| convert::append_floats(self.element, row, out))
    }

    /// The whole file as `[rows, dims]`.
    ///
    /// # Errors
    /// As for [`Self::read_rows`].
    pub fn read_all(&self) -> Result<Vec<f32>, VectorFileError> {
        let mut out = Vec::with_capacity(self.rows * self.dims);
        self.read_rows(0, self.rows, &mut out)?;
        Ok(out)
    }

    /// The whole file as integers, for tables of row numbers.
    ///
    /// # Errors
    /// As for [`Self::read_rows`], or [`VectorFileError::Format`] when the elements are not
    /// integers.
    pub fn read_integers(&self) -> Result<Vec<i64>, VectorFileError> {
        if !self.element.is_integer() {
            let problem = format!("expected integers, found {:?}", self.element);
            return Err(VectorFileError::Format { path: self.path.clone(), problem });
        }
        let mut out = Vec::with_capacity(self.rows * self.dims);
        self.each_row(0, self.rows, |row| convert::append_integers(self.element, row, &mut out))?;
        Ok(out)
    }

    fn each_row(
        &self,
        first: usize,
        count: usize,
        mut give: impl FnMut(&[u8]),
    ) -> Result<(), VectorFileError> {
        let row_bytes = self.row_prefix + self.dims * self.element.bytes();
        let end = first.saturating_add(count).min(self.rows);
        let step = (READ_BYTES / row_bytes).max(1);
        let mut buffer = Vec::new();
        let mut at = first;
        while at < end {
            let now = step.min(end - at);
            buffer.resize(now * row_bytes, 0);
            let offset = self.start + (at * row_bytes) as u64;
            self.file
                .read_exact_at(&mut buffer, offset)
                .map_err(|source| VectorFileError::Io { path: self.path.clone(), source })?;
            for row in buffer.chunks_exact(row_bytes) {
                let (prefix, row) = row.split_at(self.row_prefix);
                if !prefix.is_empty() && prefix != (self.dims as u32).to_le_bytes() {
                    let problem = format!("not every row has {} components", self.dims);
                    return Err(VectorFileError::Format { path: self.path.clone(), problem });
                }
                give(row);
            }
            at += now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
