//! The header of an `.npy` file: magic, version, and a Python dictionary literal.
//!
//! Source: NumPy Enhancement Proposal 1. Only C order, little endian and one or two axes.

use super::ElementType;

/// Longest header that is read.
pub(super) const HEADER_BYTES_MAX: u64 = 65_536;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) rows: usize,
    pub(super) dims: usize,
    pub(super) element: ElementType,
    pub(super) data_start: u64,
}

/// Parses the first bytes of a file.
pub(super) fn parse_header(head: &[u8]) -> Result<Header, String> {
    let rest = head.strip_prefix(MAGIC).ok_or("not an .npy file")?;
    let (length_bytes, length) = match *rest {
        [1, 0, a, b, ..] => (2, usize::from(u16::from_le_bytes([a, b]))),
        [2 | 3, 0, a, b, c, d, ..] => (4, u32::from_le_bytes([a, b, c, d]) as usize),
        _ => return Err("an .npy version other than 1, 2 or 3".into()),
    };
    let start = MAGIC.len() + 2 + length_bytes;
    let end = start.checked_add(length).filter(|&end| end <= head.len());
    let end = end.ok_or_else(|| format!("a header of {length} bytes"))?;
    let text = core::str::from_utf8(&head[start..end]).map_err(|error| error.to_string())?;
    let descriptor = quoted(value_of(text, "descr")?)?;
    let element = match descriptor {
        "<f2" => ElementType::F16,
        "<f4" => ElementType::F32,
        "<f8" => ElementType::F64,
        "|u1" | "<u1" => ElementType::U8,
        "|i1" | "<i1" => ElementType::I8,
        "<i4" => ElementType::I32,
        "<i8" => ElementType::I64,
        other => return Err(format!("elements of type {other}")),
    };
    if !value_of(text, "fortran_order")?.starts_with("False") {
        let problem = "Fortran order (columns one after the other), expected rows: save it as \
                       np.save(path, np.ascontiguousarray(array))";
        return Err(problem.into());
    }
    let (rows, dims) = shape(value_of(text, "shape")?)?;
    Ok(Header { rows, dims, element, data_start: end as u64 })
}

/// What follows `'key':`.
fn value_of<'a>(text: &'a str, key: &str) -> Result<&'a str, String> {
    let quoted = format!("'{key}'");
    let after = text.find(&quoted).map(|at| &text[at + quoted.len()..]);
    let value = after.and_then(|rest| rest.trim_start().strip_prefix(':'));
    value.map(str::trim_start).ok_or_else(|| format!("a header without {key}"))
}

fn quoted(value: &str) -> Result<&str, String> {
    let inner = value.strip_prefix('\'').and_then(|rest| rest.split_once('\''));
    inner.map(|(inner, _)| inner).ok_or_else(|| "structured elements".to_owned())
}

fn shape(value: &str) -> Result<(usize, usize), String> {
    let inner = value.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let (inner, _) = inner.ok_or("a shape that is not a tuple")?;
    let axes = inner.split(',').map(str::trim).filter(|axis| !axis.is_empty());
    let axes: Result<Vec<usize>, _> = axes.map(str::parse).collect();
    match axes.map_err(|error| format!("shape ({inner}): {error}"))?.as_slice() {
        [rows, dims] => Ok((*rows, *dims)),
        [rows] => Ok((*rows, 1)),
        other => Err(format!("{} axes", other.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(dictionary: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((dictionary.len() as u16).to_le_bytes());
        bytes.extend(dictionary.as_bytes());
        bytes
    }

    #[test]
    fn headers_are_read_or_refused_with_a_reason() {
        let good = head("{'descr': '<f2', 'fortran_order': False, 'shape': (7, 384), }");
        let header = parse_header(&good).unwrap();
        assert_eq!((header.rows, header.dims, header.element), (7, 384, ElementType::F16));
        assert_eq!(header.data_start, good.len() as u64);
        let bad = [
            b"hello".to_vec(),
            head("{}"),
            head("{'descr': '>f4', 'fortran_order': False, 'shape': (7, 3), }"),
            head("{'descr': '<f4', 'fortran_order': True, 'shape': (7, 3), }"),
            head("{'descr': '<f4', 'fortran_order': False, 'shape': (7, 3, 2), }"),
            head("{'descr': '<f4', 'fortran_order': False, 'shape': (-7, 3), }"),
            good[..20].to_vec(),
            MAGIC.to_vec(),
        ];
        for head in bad {
            assert!(parse_header(&head).is_err(), "{}", String::from_utf8_lossy(&head));
        }
    }
}
