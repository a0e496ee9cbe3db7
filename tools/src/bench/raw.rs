//! One connection and its replies: the least that stands between a benchmark and the
//! server. The client library adds routing, retries and sharing, which a measurement must not have.

use std::io;

use heddle_types::ApiError;
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_wire::message::{ArchivedSearchReply, ErrorReply, SearchReply};
use heddle_wire::{
    AlignedVec, FrameKind, HEADER_BYTES, HeaderError, MessageError, MessageType, header,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RawError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Header(#[from] HeaderError),
    #[error("{0}")]
    Body(#[from] MessageError),
    #[error("{0}")]
    Refused(ApiError),
    #[error("a reply to request {0}, which was not sent")]
    Unasked(u64),
    #[error("a frame of type {found:#06x} where {expected:#06x} should come")]
    Unexpected { found: u16, expected: u16 },
}

/// A connection; its buffer is reused from reply to reply.
#[derive(Debug)]
pub(crate) struct RawConnection {
    stream: BufReader<TcpStream>,
    body: AlignedVec<16>,
    // Number of the request that was answered last.
    answered: u64,
}

impl RawConnection {
    pub(crate) async fn connect(address: &str) -> Result<Self, RawError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), body: AlignedVec::new(), answered: 0 })
    }

    /// Sends a whole search frame and reads the reply to it, in place.
    ///
    /// Errors: after [`RawError::Refused`] the connection can go on, after any other it cannot.
    pub(crate) async fn search(&mut self, frame: &[u8]) -> Result<&ArchivedSearchReply, RawError> {
        self.send(frame).await?;
        self.receive().await
    }

    /// Sends whole frames.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> Result<(), RawError> {
        Ok(self.stream.write_all(frames).await?)
    }

    /// Has (the beginning of) another reply arrived with the last one?
    pub(crate) fn has_reply(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    /// Number of the request that was answered last, by an error or not.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Reads the next reply, in place. Errors: as [`RawConnection::search`].
    pub(crate) async fn receive(&mut self) -> Result<&ArchivedSearchReply, RawError> {
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).await?;
        let head = header::parse(&head, NODE_BODY_BYTES_MAX)?;
        self.body.resize(head.body_length as usize, 0);
        self.stream.read_exact(&mut self.body).await?;
        head.check_body(&self.body)?;
        self.answered = head.request_id;
        match head.kind() {
            FrameKind::Reply(MessageType::Search) => {
                Ok(heddle_wire::access::<SearchReply>(&self.body)?)
            }
            FrameKind::Error => {
                let reply: ErrorReply = heddle_wire::decode(&self.body)?;
                Err(RawError::Refused(ApiError::from(reply)))
            }
            _ => Err(RawError::Unexpected {
                found: head.type_number,
                expected: MessageType::Search.reply_number(),
            }),
        }
    }
}
