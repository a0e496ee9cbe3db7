//! The checks that messages share. None allocates.

use heddle_types::floats;
use heddle_types::limits::{NAME_LENGTH_BYTES_MAX, OBJECT_BATCH_MAX};

use crate::error::MessageError;
use crate::limits::FILTER_BYTES_MAX;

pub(super) type Checked = Result<(), MessageError>;

pub(super) fn at_most(field: &'static str, found: usize, limit: usize) -> Checked {
    if found <= limit {
        return Ok(());
    }
    Err(MessageError::TooLarge { field, found: found as u64, limit: limit as u64 })
}

pub(super) fn equal(field: &'static str, found: usize, expected: usize) -> Checked {
    if found == expected {
        return Ok(());
    }
    Err(MessageError::Mismatch { field, found: found as u64, expected: expected as u64 })
}

pub(super) fn known(field: &'static str, found: u8, highest: u8) -> Checked {
    if found <= highest {
        return Ok(());
    }
    Err(MessageError::UnknownValue { field, found: u64::from(found) })
}

/// Names are bounded here; whether they are well formed is the schema's rule, with its own error.
pub(super) fn name(field: &'static str, text: &str) -> Checked {
    at_most(field, text.len(), NAME_LENGTH_BYTES_MAX)
}

pub(super) fn collection_and_tenant(collection: &str, tenant: &str) -> Checked {
    name("collection name length", collection)?;
    name("tenant name length", tenant)
}

pub(super) fn filter(bytes: &[u8]) -> Checked {
    at_most("filter length", bytes.len(), FILTER_BYTES_MAX)
}

/// A column of whole ids, at most a batch of them; returns how many.
pub(super) fn ids(field: &'static str, bytes: &[u8]) -> Result<usize, MessageError> {
    let count = bytes.len() / 16;
    equal(field, bytes.len(), count * 16)?;
    at_most(field, count, OBJECT_BATCH_MAX)?;
    Ok(count)
}

/// One id or nothing.
pub(super) fn optional_id(field: &'static str, bytes: &[u8]) -> Checked {
    if bytes.is_empty() { Ok(()) } else { equal(field, bytes.len(), 16) }
}

/// End offsets: `count` of them, never falling, the last one at `total`.
pub(super) fn ends(field: &'static str, ends: &[u32], count: usize, total: usize) -> Checked {
    equal(field, ends.len(), count)?;
    if let Some(index) = ends.windows(2).position(|pair| pair[0] > pair[1]) {
        return Err(MessageError::Order { field, index: index + 1 });
    }
    equal(field, ends.last().map_or(0, |last| *last as usize), total)
}

/// Positions: each above the one before, all below `count`.
pub(super) fn positions(field: &'static str, positions: &[u32], count: usize) -> Checked {
    if let Some(index) = positions.windows(2).position(|pair| pair[0] >= pair[1]) {
        return Err(MessageError::Order { field, index: index + 1 });
    }
    match positions.last() {
        Some(last) if *last as usize >= count => {
            Err(MessageError::TooLarge { field, found: u64::from(*last), limit: count as u64 })
        }
        _ => Ok(()),
    }
}

pub(super) fn finite(field: &'static str, values: &[f32]) -> Checked {
    match floats::first_not_finite(values) {
        Some(index) => Err(MessageError::NotFinite { field, index }),
        None => Ok(()),
    }
}
