//! Rows to write, read into memory: the demo's or the user's.

use std::path::Path;

use heddle_bench::vectors::VectorFile;
use heddle_types::json::properties_from_json;
use heddle_types::schema::{PropertyConfig, VectorConfig};
use heddle_types::{CollectionConfig, Properties};

use crate::demo::data::DemoData;
use crate::failure::Failure;
use crate::import::infer::Inferred;
use crate::import::rows::{PropertyLines, take_id};

/// Where rows come from; the demo data without vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSource<'a> {
    pub(crate) vectors: Option<&'a Path>,
    pub(crate) properties: Option<&'a Path>,
}

/// Vectors and their properties.
#[derive(Debug)]
pub(crate) struct Rows {
    /// `[rows, dims]`.
    pub(crate) values: Vec<f32>,
    pub(crate) dims: usize,
    /// Properties of each row, or none at all.
    pub(crate) properties: Vec<Properties>,
    definitions: Vec<PropertyConfig>,
}

impl Rows {
    pub(crate) fn count(&self) -> usize {
        self.values.len() / self.dims
    }

    /// The vector and the properties of a row.
    pub(crate) fn row(&self, row: usize) -> (&[f32], Properties) {
        let values = &self.values[row * self.dims..(row + 1) * self.dims];
        (values, self.properties.get(row).cloned().unwrap_or_default())
    }

    /// A collection that holds them.
    pub(crate) fn config(&self, name: &str) -> CollectionConfig {
        let vector =
            VectorConfig { dims: u32::try_from(self.dims).ok(), ..VectorConfig::default() };
        CollectionConfig {
            name: name.to_owned(),
            properties: self.definitions.clone(),
            vectors: vec![vector],
            ..CollectionConfig::default()
        }
    }
}

/// Reads all rows of a source; the demo data is unpacked into `folder`.
pub(crate) fn read_rows(source: &RowSource<'_>, folder: &Path) -> Result<Rows, Failure> {
    let (vectors, lines) = match source.vectors {
        Some(path) => (path.to_owned(), source.properties.map(Path::to_owned)),
        None => {
            let demo = DemoData::unpack(&folder.join("input"))?;
            (demo.vectors(), Some(demo.properties()))
        }
    };
    let file = VectorFile::open(&vectors)?;
    let mut properties = Vec::new();
    let mut definitions = Vec::new();
    if let Some(path) = lines {
        let objects = read_objects(&path, file.rows())?;
        let mut inferred = Inferred::default();
        for (row, object) in objects.iter().enumerate() {
            let added = inferred.add(object, row as u64);
            added.map_err(|error| Failure::usage(error.to_string()))?;
        }
        definitions = inferred.into_definitions();
        for object in &objects {
            properties.push(properties_from_json(&definitions, object)?);
        }
    }
    Ok(Rows { values: file.read_all()?, dims: file.dims(), properties, definitions })
}

fn read_objects(
    path: &Path,
    rows: usize,
) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, Failure> {
    let mut lines = PropertyLines::open(path)?;
    let mut objects = Vec::new();
    while objects.len() < rows {
        let Some(mut object) = lines.next_object()? else { break };
        take_id(objects.len() as u64, &mut object);
        objects.push(object);
    }
    Ok(objects)
}
