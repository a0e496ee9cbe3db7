//! The 32 bytes in front of every body.

use heddle_types::ApiError;
use heddle_types::limits::CLIENT_BODY_BYTES_MAX;
use heddle_wire::header::parse;
use heddle_wire::{HEADER_BYTES, Header, MessageType, VERSION};

/// Parses the bytes as a header, as they are and with magic and checksum made right.
pub fn run(data: &[u8]) {
    let Some((head, body)) = data.split_first_chunk::<HEADER_BYTES>() else { return };
    check(head, body);
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    let repaired = Header {
        version: u16_at(4),
        type_number: u16_at(6),
        body_length: u32_at(8),
        body_crc32c: u32_at(12),
        request_id: u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32,
        deadline_us: u32_at(24),
    };
    let bytes = repaired.encode();
    check(&bytes, body);
    if let Ok(header) = parse(&bytes, usize::MAX) {
        assert_eq!(header, repaired, "a field changed in a round trip");
    } else {
        assert_ne!(repaired.version, VERSION, "a sound header was refused");
    }
}

fn check(head: &[u8; HEADER_BYTES], body: &[u8]) {
    match parse(head, CLIENT_BODY_BYTES_MAX) {
        Ok(header) => {
            assert!(header.body_length as usize <= CLIENT_BODY_BYTES_MAX);
            assert_eq!(header.encode(), *head, "two headers for one frame");
            _ = header.kind();
            _ = header.check_body(body).map_err(|error| ApiError::from(error).to_string());
        }
        Err(error) => {
            _ = error.request_id();
            assert!(!ApiError::from(error).message.is_empty());
        }
    }
}

/// Headers of several types, with and without bodies.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let header = Header {
        version: VERSION,
        type_number: MessageType::Search.request_number(),
        body_length: 0,
        body_crc32c: 0,
        request_id: 0x0102_0304_0506_0708,
        deadline_us: 250_000,
    };
    let with_body = Header { body_length: 7, ..header };
    let huge = Header { body_length: u32::MAX, ..header };
    let other_version = Header { version: 2, type_number: 0x7ABC, ..header };
    [header, with_body, huge, other_version]
        .iter()
        .map(|header| [header.encode().as_slice(), b"warping"].concat())
        .collect()
}
