//! Files of vectors written by hand and read back.

use super::*;

fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("heddle-vectors-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn npy(descriptor: &str, rows: usize, dims: usize, data: &[u8]) -> Vec<u8> {
    let text = format!(
        "{{'descr': '{descriptor}', 'fortran_order': False, 'shape': ({rows}, {dims}), }}\n"
    );
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn rows_are_read_in_pieces_and_converted() {
    let path = write("bytes.npy", &npy("|u1", 3, 2, &[1, 2, 3, 4, 5, 255]));
    let file = VectorFile::open(path).unwrap();
    assert_eq!((file.rows(), file.dims()), (3, 2));
    assert_eq!(file.read_all().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 255.0]);
    let mut rows = Vec::new();
    file.read_rows(1, 10, &mut rows).unwrap();
    assert_eq!(rows, [3.0, 4.0, 5.0, 255.0]);
    file.read_rows(9, 1, &mut rows).unwrap();
    assert!(rows.is_empty());
    assert_eq!(file.read_integers().unwrap(), [1, 2, 3, 4, 5, 255]);
}

#[test]
fn rows_with_a_dimension_in_front_are_read() {
    let mut bytes = Vec::new();
    for row in [[1.5f32, -2.0], [0.0, 8.0]] {
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
    }
    let file = VectorFile::open(write("two.fvecs", &bytes)).unwrap();
    assert_eq!(file.read_all().unwrap(), [1.5, -2.0, 0.0, 8.0]);
    assert!(matches!(file.read_integers(), Err(VectorFileError::Format { .. })));
    bytes[12] = 3;
    let file = VectorFile::open(write("mixed.fvecs", &bytes)).unwrap();
    assert!(matches!(file.read_all(), Err(VectorFileError::Format { .. })));
}

#[test]
fn a_shape_that_does_not_fit_the_length_is_refused_before_anything_is_allocated() {
    let huge = npy("<f4", usize::MAX / 2, 3, &[0; 12]);
    let short = npy("<f4", 2, 3, &[0; 12]);
    for (name, bytes) in [("huge.npy", huge), ("short.npy", short), ("empty.bvecs", Vec::new())] {
        let opened = VectorFile::open(write(name, &bytes));
        assert!(matches!(opened, Err(VectorFileError::Format { .. })), "{name}");
    }
    let unknown = write("x.csv", b"1,2");
    assert!(matches!(VectorFile::open(unknown), Err(VectorFileError::Suffix { .. })));
    assert!(matches!(VectorFile::open("/no/such.npy"), Err(VectorFileError::Io { .. })));
}
