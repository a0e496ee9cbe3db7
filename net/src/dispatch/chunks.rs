//! How many objects to ask a home core for at once, so that a page of large objects stays bounded.

use std::cell::Cell;

use heddle_core::engine::{Object, Want};
use heddle_types::{CollectionConfig, VectorConfig};
use heddle_wire::message::ObjectColumns;

/// Objects of the first chunk: 16 of the largest rows are 64 MiB.
const CHUNK_OBJECTS_MIN: usize = 16;
/// Objects of any chunk.
const CHUNK_OBJECTS_MAX: usize = 1_024;
/// Bytes of an object without its parts.
const OBJECT_BYTES: usize = 64;
/// Most bytes that are taken for a reply before any of it is there (8 MiB).
const EXPECTED_BYTES_MAX: usize = 8 << 20;
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
    OBJECT_BYTES + object.properties.len() + vectors
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

/// What the property rows of a core's replies weigh, so that room is taken before they are fetched.
#[derive(Debug, Default)]
pub(crate) struct ObjectSize {
    // A mean of late that follows larger rows at once and smaller ones slowly.
    row_bytes: Cell<usize>,
}

impl ObjectSize {
    /// Bytes that `count` objects are expected to take, at most what a reply can have.
    pub(super) fn expected(&self, config: &CollectionConfig, want: Want, count: usize) -> usize {
        let dims = |vector: &VectorConfig| 4 * vector.dims.unwrap_or(0) as usize;
        let vectors = if want.vectors { config.vectors.iter().map(dims).sum() } else { 0 };
        let row = if want.properties { self.row_bytes.get() } else { 0 };
        count.saturating_mul(OBJECT_BYTES + vectors + row).min(EXPECTED_BYTES_MAX)
    }

    pub(super) fn observe<'a>(&self, want: Want, objects: impl Iterator<Item = &'a Object>) {
        if !want.properties {
            return;
        }
        let (count, bytes) = objects
            .fold((0, 0), |(count, bytes), object| (count + 1, bytes + object.properties.len()));
        if let Some(mean) = usize::checked_div(bytes, count) {
            let before = self.row_bytes.get();
            self.row_bytes.set(mean.max(before - before / 16));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_types::{ObjectId, Stamp};

    #[test]
    fn room_is_taken_by_the_dimensions_and_by_the_rows_seen_of_late() {
        let vector = VectorConfig { dims: Some(100), ..Default::default() };
        let config = CollectionConfig { vectors: vec![vector], ..Default::default() };
        let all = Want { properties: true, vectors: true };
        let size = ObjectSize::default();
        assert_eq!(size.expected(&config, all, 10), 10 * (64 + 400));
        let object = |bytes| Object {
            id: ObjectId::default(),
            created_us: 0,
            updated_us: 0,
            stamp: Stamp::default(),
            properties: vec![0; bytes],
            vectors: Vec::new(),
        };
        size.observe(all, [object(1_000), object(3_000)].iter());
        assert_eq!(size.expected(&config, all, 10), 10 * (64 + 400 + 2_000));
        size.observe(all, [object(0)].iter());
        assert_eq!(size.expected(&config, all, 10), 10 * (64 + 400 + 1_875));
        let vectors = Want { properties: false, vectors: true };
        assert_eq!(size.expected(&config, vectors, 1), 464);
        assert_eq!(size.expected(&config, all, usize::MAX), EXPECTED_BYTES_MAX);
    }

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
