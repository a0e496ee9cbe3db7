//! The demo data, carried inside the executable so that an installed one has it too.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::failure::Failure;
use crate::import::rows::PropertyLines;

const FILES: [(&str, &[u8]); 5] = [
    ("base.npy", include_bytes!("../../demo-data/base.npy")),
    ("base.jsonl.gz", include_bytes!("../../demo-data/base.jsonl.gz")),
    ("queries.npy", include_bytes!("../../demo-data/queries.npy")),
    ("queries.jsonl.gz", include_bytes!("../../demo-data/queries.jsonl.gz")),
    ("truth.npy", include_bytes!("../../demo-data/truth.npy")),
];

/// The demo data as files, where the import and the benchmark read it.
#[derive(Clone, Debug)]
pub(crate) struct DemoData {
    folder: PathBuf,
}

impl DemoData {
    /// Writes the files into a folder.
    pub(crate) fn unpack(folder: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(|error| Failure::file(folder, error))?;
        for (name, bytes) in FILES {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|error| Failure::file(&path, error))?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    pub(crate) fn vectors(&self) -> PathBuf {
        self.folder.join("base.npy")
    }

    pub(crate) fn properties(&self) -> PathBuf {
        self.folder.join("base.jsonl.gz")
    }

    pub(crate) fn queries(&self) -> PathBuf {
        self.folder.join("queries.npy")
    }

    pub(crate) fn truth(&self) -> PathBuf {
        self.folder.join("truth.npy")
    }

    /// The passages of the queries.
    pub(crate) fn query_passages(&self) -> Result<Vec<Map<String, Json>>, Failure> {
        let mut lines = PropertyLines::open(&self.folder.join("queries.jsonl.gz"))?;
        let mut passages = Vec::new();
        while let Some(passage) = lines.next_object()? {
            passages.push(passage);
        }
        Ok(passages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_bench::vectors::VectorFile;

    const NEIGHBOURS_CHECKED: usize = 10;

    fn unpacked() -> DemoData {
        let name = format!("../target/tmp/demo-data-{}", std::process::id());
        DemoData::unpack(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    }

    fn unit(vector: &[f32]) -> Vec<f64> {
        let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        vector.iter().map(|x| f64::from(*x) / norm).collect()
    }

    #[test]
    fn exact_search_finds_the_shipped_neighbours() {
        let data = unpacked();
        let base = VectorFile::open(data.vectors()).unwrap();
        let queries = VectorFile::open(data.queries()).unwrap();
        let truth = VectorFile::open(data.truth()).unwrap();
        assert_eq!((base.dims(), queries.dims()), (384, 384));
        assert_eq!((queries.rows(), truth.rows()), (200, 200));
        let neighbours = truth.read_integers().unwrap();
        let stored: Vec<Vec<f64>> = base.read_all().unwrap().chunks_exact(384).map(unit).collect();
        for (row, query) in queries.read_all().unwrap().chunks_exact(384).enumerate() {
            let query = unit(query);
            let dot = |row: &Vec<f64>| row.iter().zip(&query).map(|(a, b)| a * b).sum::<f64>();
            let mut ranked: Vec<(f64, usize)> =
                stored.iter().map(dot).enumerate().map(|(row, dot)| (1.0 - dot, row)).collect();
            ranked.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
            let found: Vec<i64> =
                ranked.iter().take(NEIGHBOURS_CHECKED).map(|(_, row)| *row as i64).collect();
            let start = row * truth.dims();
            assert_eq!(found, neighbours[start..start + NEIGHBOURS_CHECKED], "query {row}");
        }
        std::fs::remove_dir_all(data.folder).unwrap();
    }

    #[test]
    fn every_row_has_its_passage_from_a_source_that_may_be_shipped() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-data");
        let rows = VectorFile::open(folder.join("base.npy")).unwrap().rows();
        let mut lines = PropertyLines::open(&folder.join("base.jsonl.gz")).unwrap();
        let mut count = 0;
        while let Some(passage) = lines.next_object().unwrap() {
            let source = passage["source"].as_str().unwrap();
            assert!(["pep", "rust-rfc", "rust-doc"].contains(&source), "{source}");
            assert!(!passage["text"].as_str().unwrap().is_empty());
            count += 1;
        }
        assert_eq!(count, rows);
        let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 8_000_000, "{bytes} bytes");
    }
}
