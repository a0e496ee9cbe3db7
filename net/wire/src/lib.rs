//! Frames and messages of Heddle's native protocol.
//!
//! A frame is a 32-byte header ([`header`]) and a body ([`message`]) that starts on a 16-byte
//! boundary in memory, so that the vectors in it are read where they lie. `docs/protocol.md`
//! describes the bytes. Floor 1: knows heddle-types; does no IO.
//!
//! Reading: [`header::parse`] the 32 bytes, read the body into an [`AlignedVec<16>`], check it
//! with [`Header::check_body`], find the type with [`Header::kind`], then [`message::access`] it
//! in place or [`message::decode`] it into an owned value.
//!
//! Writing: [`frame::encode_request`], [`frame::encode_reply`], [`frame::encode_error`].

#![forbid(unsafe_code)]

pub mod error;
pub mod frame;
pub mod header;
pub mod kind;
pub mod limits;
pub mod message;

pub use error::MessageError;
pub use frame::{
    EncodeError, Frame, encode_body, encode_error, encode_reply, encode_reply_into, encode_request,
};
pub use header::{HEADER_BYTES, Header, HeaderError, VERSION};
pub use kind::{FrameKind, MessageType, RepairMessage, ShardMessage};
pub use message::{Body, Request, access, decode, decode_any};
pub use rkyv::util::AlignedVec;
