//! The rows of an import: a vector file, and a file of JSON lines beside it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use heddle_types::ObjectId;
use serde_json::{Map, Value as Json};

use crate::failure::Failure;

/// Longest line of a properties file (64 MiB): a file without line ends must not fill the memory.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// First bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// JSON objects, one a line.
pub(crate) struct PropertyLines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    row: u64,
    line: Vec<u8>,
}

impl PropertyLines {
    /// Opens a file, packed by gzip or not, whatever its name says.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::input(path, error);
        let mut file = File::open(path).map_err(failed)?;
        let mut magic = [0; 2];
        let count = file.read(&mut magic).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let reader: Box<dyn BufRead> = if count == 2 && magic == GZIP_MAGIC {
            Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(file))))
        } else {
            Box::new(BufReader::new(file))
        };
        Ok(Self { path: path.to_owned(), reader, row: 0, line: Vec::new() })
    }

    /// The object of the next line; `None` at the end of the file.
    pub(crate) fn next_object(&mut self) -> Result<Option<Map<String, Json>>, Failure> {
        if !self.read_line()? {
            return Ok(None);
        }
        match serde_json::from_slice(&self.line) {
            Ok(object) => Ok(Some(object)),
            Err(error) => Err(self.malformed(&error)),
        }
    }

    /// Passes over lines without reading them as JSON.
    pub(crate) fn skip(&mut self, rows: u64) -> Result<(), Failure> {
        for _ in 0..rows {
            if !self.read_line()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Names the line of the file; the parser counts lines from the one it was given.
    fn malformed(&self, error: &serde_json::Error) -> Failure {
        let text = error.to_string();
        let problem = text.split_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
        let place = match error.column() {
            0 => format!("line {}", self.row),
            column => format!("line {}, column {column}", self.row),
        };
        Failure::input(&self.path, format!("{place}: {problem}"))
    }

    fn read_line(&mut self) -> Result<bool, Failure> {
        self.line.clear();
        let mut limited = self.reader.by_ref().take(LINE_BYTES_MAX);
        let count = limited
            .read_until(b'\n', &mut self.line)
            .map_err(|error| Failure::input(&self.path, error))?;
        if count as u64 == LINE_BYTES_MAX && self.line.last() != Some(&b'\n') {
            let problem = format!("line {} is longer than {LINE_BYTES_MAX} bytes", self.row + 1);
            return Err(Failure::input(&self.path, problem));
        }
        self.row += u64::from(count > 0);
        Ok(count > 0)
    }
}

/// Takes the identity out of a row's properties: an `id` that is a UUID names the object, any other
/// `id` is a property like the rest and the row's number names it.
pub(crate) fn take_id(row: u64, properties: &mut Map<String, Json>) -> ObjectId {
    let given = properties.get("id").and_then(Json::as_str).and_then(|text| text.parse().ok());
    match given {
        Some(id) => {
            properties.remove("id");
            id
        }
        None => ObjectId::from_row(row),
    }
}

/// A UUID, or the number of an imported row.
pub(crate) fn id_from_text(text: &str) -> Result<ObjectId, Failure> {
    if let Ok(row) = text.parse::<u64>() {
        return Ok(ObjectId::from_row(row));
    }
    let refuse = |_no_uuid| Failure::usage(format!("{text:?} is neither a UUID nor a row number"));
    text.parse().map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn folder() -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp/rows");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn packed_and_plain_lines_are_read_alike() {
        let text = "{\"a\":1}\n{\"a\":2}\n{\"a\":3}";
        let plain = folder().join("plain.jsonl");
        std::fs::write(&plain, text).unwrap();
        let packed = folder().join("packed.jsonl");
        let mut encoder = flate2::write::GzEncoder::new(
            File::create(&packed).unwrap(),
            flate2::Compression::fast(),
        );
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        for path in [plain, packed] {
            let mut lines = PropertyLines::open(&path).unwrap();
            lines.skip(1).unwrap();
            assert_eq!(lines.next_object().unwrap().unwrap()["a"], 2);
            assert_eq!(lines.next_object().unwrap().unwrap()["a"], 3);
            assert!(lines.next_object().unwrap().is_none());
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let path = folder().join("bad.jsonl");
        std::fs::write(&path, "{}\n[]\n").unwrap();
        let mut lines = PropertyLines::open(&path).unwrap();
        lines.next_object().unwrap();
        let message = lines.next_object().unwrap_err().message;
        assert!(message.contains("bad.jsonl: line 2"), "{message}");
        assert!(!message.contains("line 1"), "{message}");
    }

    #[test]
    fn only_a_uuid_is_an_identity() {
        let object = |json: Json| {
            let mut object = json.as_object().unwrap().clone();
            let id = take_id(7, &mut object);
            (id, object.len())
        };
        let uuid = "00000000-0000-0000-0000-0000000000ff";
        assert_eq!(object(serde_json::json!({"id": uuid})), (ObjectId::from_row(255), 0));
        assert_eq!(object(serde_json::json!({"id": 12})), (ObjectId::from_row(7), 1));
        assert_eq!(object(serde_json::json!({"id": "x"})), (ObjectId::from_row(7), 1));
        assert_eq!(id_from_text("9").unwrap(), ObjectId::from_row(9));
        assert!(id_from_text("nine").is_err());
    }
}
