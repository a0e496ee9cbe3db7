//! Whole frames, ready to send: header and body in one aligned buffer.

use heddle_types::{ApiError, ErrorCode};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;

use crate::header::{HEADER_BYTES, Header, VERSION};
use crate::message::{Body, ErrorReply, Request};

/// A frame ready to send. The body starts 32 bytes in, on a 16-byte boundary.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: AlignedVec<16>,
}

impl Frame {
    /// Header and body.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The body alone.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The header that this frame has when it is sent as another request or with another deadline;
    /// the body stays as it is, so one frame can be sent again without encoding it again.
    #[must_use]
    pub fn header_for(&self, request_id: u64, deadline_us: u32) -> [u8; HEADER_BYTES] {
        let bytes = &self.bytes;
        let header = Header {
            version: VERSION,
            type_number: u16::from_le_bytes([bytes[6], bytes[7]]),
            body_length: self.body().len() as u32,
            body_crc32c: u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            request_id,
            deadline_us,
        };
        header.encode()
    }

    /// The buffer.
    #[must_use]
    pub fn into_bytes(self) -> AlignedVec<16> {
        self.bytes
    }
}

impl std::ops::Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message that does not fit into a frame. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message} body has {found} bytes, more than the {limit} of a frame")]
pub struct EncodeError {
    /// The message.
    pub message: &'static str,
    /// Bytes of the encoded body.
    pub found: usize,
    /// Largest body that its receiver accepts.
    pub limit: usize,
}

impl From<EncodeError> for ApiError {
    fn from(error: EncodeError) -> Self {
        let expected = format!("a body of at most {} bytes; use smaller pages", error.limit);
        Self::new(ErrorCode::TooLarge, error.to_string(), expected)
    }
}

/// Encodes a request. `deadline_us` is the time that the sender will still wait, 0 = for ever.
///
/// Errors: the body is above the limit of what servers accept.
pub fn encode_request<M: Request>(
    request_id: u64,
    deadline_us: u32,
    message: &M,
) -> Result<Frame, EncodeError> {
    encode(AlignedVec::new(), request_id, deadline_us, message)
}

/// Encodes the reply to request `request_id`.
///
/// Errors: the body is above the limit of what clients accept; answer with that error instead.
pub fn encode_reply<M: Body>(request_id: u64, message: &M) -> Result<Frame, EncodeError> {
    encode_reply_into(AlignedVec::new(), request_id, message)
}

/// Encodes the reply to request `request_id` into a buffer, whose memory it takes over.
///
/// Errors: as [`encode_reply`]; the buffer is gone then. Cost: no allocation when the buffer is
/// large enough.
pub fn encode_reply_into<M: Body>(
    buffer: AlignedVec<16>,
    request_id: u64,
    message: &M,
) -> Result<Frame, EncodeError> {
    encode(buffer, request_id, 0, message)
}

/// Encodes the reply that carries an error. Texts that are too long are cut.
#[must_use]
pub fn encode_error(request_id: u64, error: &ApiError) -> Frame {
    let reply = ErrorReply::from(error);
    encode_reply(request_id, &reply).expect("the texts of an error are bounded")
}

/// Encodes a body without a header, for a sender that writes headers of its own.
///
/// Errors: the body is above the limit of what its receiver accepts.
pub fn encode_body<M: Body>(message: &M) -> Result<AlignedVec<16>, EncodeError> {
    let hint = message.size_hint_bytes();
    let bytes = AlignedVec::with_capacity(hint);
    let too_large = |found| EncodeError { message: M::NAME, found, limit: M::BODY_BYTES_MAX };
    // Writing to memory fails only where a 32-bit offset no longer reaches.
    let Ok(bytes) = rkyv::api::high::to_bytes_in::<_, Failure>(message, bytes) else {
        return Err(too_large(hint));
    };
    if bytes.len() > M::BODY_BYTES_MAX {
        return Err(too_large(bytes.len()));
    }
    Ok(bytes)
}

fn encode<M: Body>(
    mut bytes: AlignedVec<16>,
    request_id: u64,
    deadline_us: u32,
    message: &M,
) -> Result<Frame, EncodeError> {
    let hint = message.size_hint_bytes();
    bytes.clear();
    bytes.reserve(HEADER_BYTES + hint);
    bytes.resize(HEADER_BYTES, 0);
    // Writing to memory fails only where a 32-bit offset no longer reaches.
    let Ok(mut bytes) = rkyv::api::high::to_bytes_in::<_, Failure>(message, bytes) else {
        return Err(EncodeError { message: M::NAME, found: hint, limit: M::BODY_BYTES_MAX });
    };
    let body = &bytes[HEADER_BYTES..];
    if body.len() > M::BODY_BYTES_MAX {
        let (found, limit) = (body.len(), M::BODY_BYTES_MAX);
        return Err(EncodeError { message: M::NAME, found, limit });
    }
    let header = Header {
        version: VERSION,
        type_number: M::NUMBER,
        body_length: body.len() as u32,
        body_crc32c: crc32c::crc32c(body),
        request_id,
        deadline_us,
    };
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    Ok(Frame { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::CountReply;

    #[test]
    fn a_frame_sent_again_is_the_frame_encoded_for_that_address() {
        let message = CountReply { count: 9 };
        let first = encode(AlignedVec::new(), 1, 2, &message).unwrap();
        // A buffer that was used before leaves nothing behind.
        let mut used = AlignedVec::new();
        used.extend_from_slice(&[7; 300]);
        let second = encode(used, 77, 1_000, &message).unwrap();
        assert_eq!(first.header_for(77, 1_000), second[..HEADER_BYTES]);
        assert_eq!(first.body(), second.body());
        assert_eq!(first.body(), &encode_body(&message).unwrap()[..]);
    }
}
