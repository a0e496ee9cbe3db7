//! Cuts the demo data out of a larger set: passages that may be shipped, held-out queries, and
//! their exact neighbours.
//!
//! Usage: `cargo run --release --package heddle --example make_demo_data -- FOLDER`, where `FOLDER`
//! holds `base.npy` (f16, `[rows, dims]`) and `base.jsonl.gz` (one JSON object a row). Writes
//! `tools/demo-data/`. Everything is chosen by position, so the same folder gives the same bytes.

#![expect(clippy::print_stdout, reason = "a command line talks by printing")]

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value as Json};

/// Sources whose text may be shipped.
const SOURCES: [&str; 3] = ["pep", "rust-rfc", "rust-doc"];
/// Properties kept; the rest describes the larger set.
const PROPERTIES: [&str; 6] = ["source", "doc", "section", "year", "len", "text"];
/// Rows that stay searchable: 8,800 x 384 x 2 bytes = 6.8 MB.
const BASE_ROWS: usize = 8_800;
/// Rows taken out of the base to search with.
const QUERY_ROWS: usize = 200;
/// Neighbours kept for each query.
const NEIGHBOURS: usize = 100;

struct Passage {
    row: usize,
    properties: Map<String, Json>,
}

struct Vectors {
    dims: usize,
    /// IEEE half floats as they stand in the file.
    halves: Vec<u16>,
}

impl Vectors {
    fn row(&self, row: usize) -> &[u16] {
        &self.halves[row * self.dims..(row + 1) * self.dims]
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: make_demo_data FOLDER")?);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-data");
    let vectors = read_halves(&folder.join("base.npy"))?;
    let passages = read_passages(&folder.join("base.jsonl.gz"))?;
    let (base, queries) = split(passages)?;
    std::fs::create_dir_all(&target)?;
    write_rows(&target.join("base.npy"), &vectors, &base)?;
    write_rows(&target.join("queries.npy"), &vectors, &queries)?;
    write_passages(&target.join("base.jsonl.gz"), &base)?;
    write_passages(&target.join("queries.jsonl.gz"), &queries)?;
    write_truth(&target.join("truth.npy"), &vectors, &base, &queries)?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(&target)? {
        bytes += entry?.metadata()?.len();
    }
    println!("{} rows, {} queries, {bytes} bytes", base.len(), queries.len());
    Ok(())
}

fn read_passages(path: &Path) -> Result<Vec<Passage>, Box<dyn Error>> {
    let mut passages = Vec::new();
    for (row, line) in BufReader::new(MultiGzDecoder::new(File::open(path)?)).lines().enumerate() {
        let mut object: Map<String, Json> = serde_json::from_str(&line?)?;
        let source = object.get("source").and_then(Json::as_str).unwrap_or_default();
        if SOURCES.contains(&source) {
            object.retain(|name, _| PROPERTIES.contains(&name.as_str()));
            passages.push(Passage { row, properties: object });
        }
    }
    Ok(passages)
}

/// Every n-th passage that reads well as a question becomes a query; the base is an even sample of
/// the others.
fn split(passages: Vec<Passage>) -> Result<(Vec<Passage>, Vec<Passage>), Box<dyn Error>> {
    let mut candidates: Vec<Passage> = Vec::new();
    let mut queries = Vec::new();
    let stride = passages.len() / (QUERY_ROWS + 1);
    for (index, passage) in passages.into_iter().enumerate() {
        let text = passage.properties.get("text").and_then(Json::as_str).unwrap_or_default();
        let reads_well = (40..=160).contains(&text.chars().count())
            && text.starts_with(char::is_uppercase)
            && text.ends_with('.');
        if reads_well && queries.len() < QUERY_ROWS && index >= queries.len() * stride {
            queries.push(passage);
        } else {
            candidates.push(passage);
        }
    }
    if queries.len() < QUERY_ROWS || candidates.len() < BASE_ROWS {
        return Err("too few passages of the sources that may be shipped".into());
    }
    let count = candidates.len();
    let mut taken = 0;
    candidates = candidates
        .into_iter()
        .enumerate()
        .filter(|(index, _)| {
            let take = (index + 1) * BASE_ROWS / count > taken;
            taken += usize::from(take);
            take
        })
        .map(|(_, passage)| passage)
        .collect();
    Ok((candidates, queries))
}

/// Reads a two-dimensional `<f2` array.
fn read_halves(path: &Path) -> Result<Vectors, Box<dyn Error>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    if !bytes.starts_with(b"\x93NUMPY\x01\x00") {
        return Err(format!("{} is not a .npy file of version 1", path.display()).into());
    }
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + length])?;
    if !header.contains("'<f2'") || !header.contains("'fortran_order': False") {
        return Err(format!("{} holds no f16 rows: {header}", path.display()).into());
    }
    let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
    let numbers = shape.ok_or("the header names no shape")?.0.split(',').map(str::trim);
    let numbers: Vec<usize> = numbers.filter(|n| !n.is_empty()).flat_map(str::parse).collect();
    let &[rows, dims] = numbers.as_slice() else { return Err("expected two dimensions".into()) };
    let (pairs, _) = bytes[10 + length..].as_chunks::<2>();
    if pairs.len() != rows * dims {
        return Err("the file is shorter or longer than its shape says".into());
    }
    Ok(Vectors { dims, halves: pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect() })
}

fn npy_header(kind: &str, rows: usize, columns: usize) -> Vec<u8> {
    let mut text =
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while !(10 + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let length = u16::try_from(text.len()).expect("a header of two numbers is short");
    [b"\x93NUMPY\x01\x00".as_slice(), &length.to_le_bytes(), text.as_bytes()].concat()
}

fn write_rows(path: &Path, vectors: &Vectors, passages: &[Passage]) -> Result<(), Box<dyn Error>> {
    let mut bytes = npy_header("<f2", passages.len(), vectors.dims);
    for passage in passages {
        bytes.extend(vectors.row(passage.row).iter().flat_map(|half| half.to_le_bytes()));
    }
    Ok(std::fs::write(path, bytes)?)
}

fn write_passages(path: &Path, passages: &[Passage]) -> Result<(), Box<dyn Error>> {
    let mut encoder = GzEncoder::new(File::create(path)?, Compression::best());
    for passage in passages {
        writeln!(encoder, "{}", serde_json::to_string(&passage.properties)?)?;
    }
    encoder.finish()?;
    Ok(())
}

/// Exact cosine neighbours over the stored values, summed in f64 so that only true ties tie; ties
/// go to the lower row.
fn write_truth(
    path: &Path,
    vectors: &Vectors,
    base: &[Passage],
    queries: &[Passage],
) -> Result<(), Box<dyn Error>> {
    let unit = |passage: &Passage| -> Vec<f64> {
        let wide: Vec<f64> = vectors.row(passage.row).iter().map(|half| widen(*half)).collect();
        let norm = wide.iter().map(|x| x * x).sum::<f64>().sqrt();
        wide.into_iter().map(|x| x / norm).collect()
    };
    let stored: Vec<Vec<f64>> = base.iter().map(unit).collect();
    let mut bytes = npy_header("<i4", queries.len(), NEIGHBOURS);
    for query in queries {
        let query = unit(query);
        let dot = |row: &Vec<f64>| -> f64 { row.iter().zip(&query).map(|(a, b)| a * b).sum() };
        let mut ranked: Vec<(f64, usize)> =
            stored.iter().map(dot).enumerate().map(|(row, dot)| (1.0 - dot, row)).collect();
        ranked.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
        for (_, row) in ranked.iter().take(NEIGHBOURS) {
            bytes.extend_from_slice(&i32::try_from(*row)?.to_le_bytes());
        }
    }
    Ok(std::fs::write(path, bytes)?)
}

/// The value of an IEEE 754 half.
fn widen(half: u16) -> f64 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(half >> 10 & 0x1f);
    let fraction = f64::from(half & 0x3ff) / 1024.0;
    match exponent {
        0 => sign * fraction * 2f64.powi(-14),
        0x1f => f64::NAN,
        _ => sign * (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}
