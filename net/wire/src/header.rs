//! The 32 bytes in front of every body, parsed by hand.
//!
//! The layout of the header never changes; `version` speaks of the bodies. All numbers are little
//! endian:
//!
//! ```text
//!  0        4       6      8             12            16           24           28          32
//!  +--------+-------+------+-------------+-------------+------------+------------+-----------+
//!  | "HDDL" | vers. | type | body length | body crc32c | request id | budget, us | hdr crc32c |
//!  +--------+-------+------+-------------+-------------+------------+------------+-----------+
//! ```

use heddle_types::{ApiError, ErrorCode};

use crate::error::MessageError;
use crate::kind::FrameKind;

/// First four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"HDDL";
/// The version of the bodies that this build speaks.
pub const VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 32;

/// A header whose magic, checksum, version and length are in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Version of the body.
    pub version: u16,
    /// Type field; [`Header::kind`] says what it means.
    pub type_number: u16,
    /// Bytes that follow.
    pub body_length: u32,
    /// CRC-32C of them.
    pub body_crc32c: u32,
    /// Chosen by the requester, repeated in the reply.
    pub request_id: u64,
    /// Microseconds that the requester still waits, counted from when it sent; 0 = no deadline.
    pub deadline_us: u32,
}

/// Why the bytes at the head of a frame are no header.
///
/// After each of these the end of the frame is not known or not worth waiting for: answer with an
/// error frame, then close the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The stream is not Heddle's, or is out of step.
    #[error("frame starts with {found:02x?}, expected \"HDDL\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A byte of the header is damaged, so no field of it can be trusted.
    #[error("header checksum is {found:08x}, the bytes give {expected:08x}")]
    Checksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of its first 28 bytes.
        expected: u32,
    },
    /// The peer speaks another version.
    #[error("frame has version {found}, this side speaks {VERSION}")]
    Version {
        /// The version field.
        found: u16,
        /// The request to answer.
        request_id: u64,
    },
    /// The body is longer than this side accepts.
    #[error("body of {found} bytes is above the limit of {limit}")]
    BodyLength {
        /// The length field.
        found: u32,
        /// The limit.
        limit: usize,
        /// The request to answer.
        request_id: u64,
    },
}

impl HeaderError {
    /// The request that the error frame should name; 0 when the field cannot be trusted.
    #[must_use]
    pub fn request_id(&self) -> u64 {
        match self {
            Self::Magic { .. } | Self::Checksum { .. } => 0,
            Self::Version { request_id, .. } | Self::BodyLength { request_id, .. } => *request_id,
        }
    }
}

impl From<HeaderError> for ApiError {
    fn from(error: HeaderError) -> Self {
        let (code, expected) = match error {
            HeaderError::Magic { .. } => (ErrorCode::Protocol, "magic \"HDDL\"".to_owned()),
            HeaderError::Checksum { expected, .. } => {
                (ErrorCode::Protocol, format!("header checksum {expected:08x}"))
            }
            HeaderError::Version { .. } => (ErrorCode::Protocol, format!("version {VERSION}")),
            HeaderError::BodyLength { limit, .. } => {
                (ErrorCode::TooLarge, format!("a body of at most {limit} bytes"))
            }
        };
        Self::new(code, error.to_string(), expected)
    }
}

fn u16_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

fn u64_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}

/// Parses and checks a header.
///
/// `body_bytes_max` is the largest body that this side accepts. An unknown type is no error here:
/// its body can be skipped, see [`Header::kind`]. Cost: one checksum of 28 bytes, no allocation.
///
/// Errors: [`HeaderError`], in the order magic, checksum, version, length.
pub fn parse(bytes: &[u8; HEADER_BYTES], body_bytes_max: usize) -> Result<Header, HeaderError> {
    let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if magic != MAGIC {
        return Err(HeaderError::Magic { found: magic });
    }
    let (found, expected) = (u32_at(bytes, 28), crc32c::crc32c(&bytes[..28]));
    if found != expected {
        return Err(HeaderError::Checksum { found, expected });
    }
    let header = Header {
        version: u16_at(bytes, 4),
        type_number: u16_at(bytes, 6),
        body_length: u32_at(bytes, 8),
        body_crc32c: u32_at(bytes, 12),
        request_id: u64_at(bytes, 16),
        deadline_us: u32_at(bytes, 24),
    };
    let request_id = header.request_id;
    if header.version != VERSION {
        return Err(HeaderError::Version { found: header.version, request_id });
    }
    if header.body_length as usize > body_bytes_max {
        let found = header.body_length;
        return Err(HeaderError::BodyLength { found, limit: body_bytes_max, request_id });
    }
    Ok(header)
}

impl Header {
    /// What the frame is.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        FrameKind::from_number(self.type_number)
    }

    /// Compares a body with the length and the checksum of its header.
    ///
    /// Errors: [`MessageError::BodyChecksum`], [`MessageError::Mismatch`]; the stream can no longer
    /// be trusted after either.
    pub fn check_body(&self, body: &[u8]) -> Result<(), MessageError> {
        if body.len() != self.body_length as usize {
            let (found, expected) = (body.len() as u64, u64::from(self.body_length));
            return Err(MessageError::Mismatch { field: "body length", found, expected });
        }
        let expected = crc32c::crc32c(body);
        if expected != self.body_crc32c {
            return Err(MessageError::BodyChecksum { found: self.body_crc32c, expected });
        }
        Ok(())
    }

    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&self.version.to_le_bytes());
        out[6..8].copy_from_slice(&self.type_number.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_length.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc32c.to_le_bytes());
        out[16..24].copy_from_slice(&self.request_id.to_le_bytes());
        out[24..28].copy_from_slice(&self.deadline_us.to_le_bytes());
        let checksum = crc32c::crc32c(&out[..28]);
        out[28..32].copy_from_slice(&checksum.to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn sample() -> Header {
        Header {
            version: VERSION,
            type_number: 0x0030,
            body_length: 1_000,
            body_crc32c: 0xDEAD_BEEF,
            request_id: 0x0102_0304_0506_0708,
            deadline_us: 250_000,
        }
    }

    #[test]
    fn layout_is_the_documented_one() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..8], b"HDDL\x01\x00\x30\x00");
        assert_eq!(&bytes[8..16], &[0xE8, 3, 0, 0, 0xEF, 0xBE, 0xAD, 0xDE]);
        assert_eq!(&bytes[16..24], &[8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(&bytes[24..28], &250_000_u32.to_le_bytes());
        assert_eq!(parse(&bytes, LIMIT), Ok(sample()));
    }

    #[test]
    fn each_flipped_bit_is_caught() {
        let good = sample().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = parse(&bytes, LIMIT).expect_err("one bit is wrong");
            let is_magic = matches!(error, HeaderError::Magic { .. });
            let is_checksum = matches!(error, HeaderError::Checksum { .. });
            assert!(if bit < 32 { is_magic } else { is_checksum }, "bit {bit}: {error}");
        }
    }

    #[test]
    fn another_version_names_the_request() {
        let bytes = Header { version: 2, ..sample() }.encode();
        let error = parse(&bytes, LIMIT).unwrap_err();
        assert_eq!(error, HeaderError::Version { found: 2, request_id: sample().request_id });
        assert_eq!(ApiError::from(error).code, ErrorCode::Protocol);
    }

    #[test]
    fn a_length_above_the_limit_is_refused() {
        for length in [LIMIT as u32 + 1, u32::MAX, i32::MIN.cast_unsigned()] {
            let bytes = Header { body_length: length, ..sample() }.encode();
            let error = parse(&bytes, LIMIT).unwrap_err();
            assert_eq!(error.request_id(), sample().request_id);
            assert_eq!(ApiError::from(error).code, ErrorCode::TooLarge);
        }
        let bytes = Header { body_length: LIMIT as u32, ..sample() }.encode();
        assert!(parse(&bytes, LIMIT).is_ok());
    }

    #[test]
    fn an_unknown_type_is_left_to_the_message_layer() {
        let bytes = Header { type_number: 0x7ABC, ..sample() }.encode();
        let header = parse(&bytes, LIMIT).unwrap();
        assert_eq!(header.kind(), FrameKind::Unknown(0x7ABC));
    }

    #[test]
    fn a_changed_body_is_caught() {
        let body = b"some body";
        let header = Header { body_length: 9, body_crc32c: crc32c::crc32c(body), ..sample() };
        assert_eq!(header.check_body(body), Ok(()));
        assert!(header.check_body(b"some bodz").is_err());
        assert!(header.check_body(b"some").is_err());
    }
}
