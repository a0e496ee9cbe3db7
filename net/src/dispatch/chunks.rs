//! How many objects to ask a home core for at once, so that a page of large objects stays bounded.

use heddle_core::engine::{Object, Want};
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_types::{ApiError, CollectionConfig, ErrorCode};
use heddle_wire::message::ObjectColumns;

/// Objects of the first chunk: 16 of the largest rows are 64 MiB.
const CHUNK_OBJECTS_MIN: usize = 16;
/// Objects of any chunk.
const CHUNK_OBJECTS_MAX: usize = 1_024;
/// Bytes that a chunk should have (1 MiB).
const CHUNK_BYTES: usize = 1 << 20;

/// Learns the size of objects from those that have come.
#[derive(Debug)]
pub(super) struct ChunkSize {
    objects: usize,
}

impl ChunkSize {
    pub(super) fn new(want: Want) -> Self {
        // Objects without their parts are small, whatever they are.
        let small = !want.properties && !want.vectors;
        Self { objects: if small { CHUNK_OBJECTS_MAX } else { CHUNK_OBJECTS_MIN } }
    }

    pub(super) fn objects(&self) -> usize {
        self.objects
    }

    pub(super) fn observe<'a>(&mut self, objects: impl Iterator<Item = &'a Object>) {
        let (count, bytes) = objects
            .fold((0, 0), |(count, bytes), object| (count + 1, bytes + size_of_object(object)));
        if let Some(average) = usize::checked_div(bytes, count) {
            let fitting = CHUNK_BYTES / average.max(1);
            self.objects = fitting.clamp(CHUNK_OBJECTS_MIN, CHUNK_OBJECTS_MAX);
        }
    }
}

/// Bytes of an object in memory, about.
pub(super) fn size_of_object(object: &Object) -> usize {
    let vectors: usize = object.vectors.iter().map(|vector| 4 * vector.values.len()).sum();
    64 + object.properties.len() + vectors
}

/// Adds an object to the columns of a reply.
pub(super) fn push_object(
    columns: &mut ObjectColumns,
    config: &CollectionConfig,
    object: &Object,
    want: Want,
) {
    let row = want.properties.then_some(object.properties.as_slice());
    columns.push(&object.id, object.created_us, object.updated_us, object.stamp.hlc, row);
    for vector in &object.vectors {
        if let Some(declared) = config.vectors.get(usize::from(vector.index)) {
            columns.push_vector(&declared.name, &vector.values);
        }
    }
}

/// Errors: `TooLarge` once a reply cannot be sent any more, so that no more is gathered for it.
pub(super) fn check_reply_size(bytes: usize) -> Result<(), ApiError> {
    if bytes <= NODE_BODY_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::TooLarge,
        format!("the reply would have more than {NODE_BODY_BYTES_MAX} bytes"),
        "fewer objects at once",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_types::{ObjectId, Stamp};

    #[test]
    fn chunks_shrink_and_grow_with_their_objects() {
        let object = |bytes| Object {
            id: ObjectId::default(),
            created_us: 0,
            updated_us: 0,
            stamp: Stamp::default(),
            properties: vec![0; bytes],
            vectors: Vec::new(),
        };
        let mut size = ChunkSize::new(Want::ALL);
        assert_eq!(size.objects(), CHUNK_OBJECTS_MIN);
        size.observe([object(10), object(20)].iter());
        assert_eq!(size.objects(), CHUNK_OBJECTS_MAX);
        size.observe([object(10_000)].iter());
        assert_eq!(size.objects(), CHUNK_BYTES / 10_064);
        size.observe([].iter());
        assert_eq!(size.objects(), CHUNK_BYTES / 10_064);
        size.observe([object(4 << 20)].iter());
        assert_eq!(size.objects(), CHUNK_OBJECTS_MIN);
    }
}
