//! Cuts a stream of bytes into frames, without IO.

use heddle_types::limits::{BODY_GROWTH_BYTES, NODE_BODY_BYTES_MAX};
use heddle_wire::header::{HEADER_BYTES, Header, HeaderError, parse};
use heddle_wire::{AlignedVec, MessageError};

use crate::limits::READ_BUFFER_BYTES;

/// A body that is still arriving.
struct Partial {
    header: Header,
    body: AlignedVec<16>,
    filled: usize,
}

impl Partial {
    fn is_complete(&self) -> bool {
        self.filled == self.header.body_length as usize
    }

    /// Where the next bytes go; the buffer grows with what has arrived, not with what was
    /// announced.
    fn space(&mut self) -> &mut [u8] {
        if self.filled == self.body.len() {
            let missing = self.header.body_length as usize - self.filled;
            self.body.resize(self.filled + missing.min(BODY_GROWTH_BYTES), 0);
        }
        &mut self.body[self.filled..]
    }
}

/// Why a stream of replies cannot be read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The bytes are the answer of an HTTP server.
    #[error("an HTTP server answers there; the native protocol has another port (7700 by default)")]
    Http,
    /// A header is damaged or foreign.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A body is damaged.
    #[error(transparent)]
    Body(#[from] MessageError),
}

/// Cuts a stream into frames. Small frames share one read buffer; the body of a large one is read
/// straight into its own buffer.
pub(crate) struct FrameReader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    partial: Option<Partial>,
}

impl FrameReader {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        Self { buffer, start: 0, end: 0, partial: None }
    }

    /// Where to read the next bytes into; never empty once [`FrameReader::next_frame`] gave `None`.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if let Some(partial) = &mut self.partial {
            return partial.space();
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.buffer[self.end..]
    }

    /// Says how many bytes were read into the space.
    pub(crate) fn advance(&mut self, count: usize) {
        match &mut self.partial {
            Some(partial) => partial.filled += count,
            None => self.end += count,
        }
    }

    /// The next whole frame.
    ///
    /// Errors: the stream is out of step or damaged; it must not be read on.
    pub(crate) fn next_frame(&mut self) -> Result<Option<(Header, AlignedVec<16>)>, StreamError> {
        if self.partial.is_none() {
            let waiting = &self.buffer[self.start..self.end];
            if waiting.starts_with(b"HTTP") {
                return Err(StreamError::Http);
            }
            let Some(head) = waiting.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let header = parse(head, NODE_BODY_BYTES_MAX)?;
            self.start += HEADER_BYTES;
            self.partial = Some(Partial { header, body: AlignedVec::new(), filled: 0 });
        }
        let Some(partial) = &mut self.partial else { return Ok(None) };
        while self.start < self.end && !partial.is_complete() {
            let space = partial.space();
            let count = space.len().min(self.end - self.start);
            space[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
            self.start += count;
            partial.filled += count;
        }
        if !partial.is_complete() {
            (self.start, self.end) = (0, 0);
            return Ok(None);
        }
        let Some(Partial { header, body, .. }) = self.partial.take() else { return Ok(None) };
        header.check_body(&body)?;
        Ok(Some((header, body)))
    }
}

#[cfg(test)]
mod tests {
    use heddle_wire::encode_reply;
    use heddle_wire::message::{CountReply, NodeStatusReply};

    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, length) in [(1, 3), (2, 100_000), (3, 0), (4, 700_000), (5, 64)] {
            let json = "x".repeat(length);
            bytes.extend_from_slice(&encode_reply(id, &NodeStatusReply { json }).unwrap());
        }
        bytes.extend_from_slice(&encode_reply(6, &CountReply { count: 7 }).unwrap());
        bytes
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<(u64, usize)>, StreamError> {
        let mut reader = FrameReader::new();
        let (mut rest, mut frames) = (bytes, Vec::new());
        loop {
            while let Some((header, body)) = reader.next_frame()? {
                frames.push((header.request_id, body.len()));
            }
            if rest.is_empty() {
                return Ok(frames);
            }
            let space = reader.space();
            let count = step.min(space.len()).min(rest.len());
            assert!(count > 0, "there is always room for more");
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            reader.advance(count);
        }
    }

    #[test]
    fn frames_are_the_same_however_the_bytes_arrive() {
        let bytes = stream();
        let whole = read(&bytes, usize::MAX).unwrap();
        assert_eq!(whole.iter().map(|frame| frame.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        for step in [1, 2, 31, 32, 33, 4_096, 65_536, 100_001] {
            assert_eq!(read(&bytes, step).unwrap(), whole, "step {step}");
        }
    }

    #[test]
    fn a_damaged_stream_ends_with_an_error() {
        let bytes = stream();
        for position in [0, 4, 30, 40, 50_000] {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert!(read(&damaged, 4_096).is_err(), "byte {position}");
        }
    }

    #[test]
    fn an_http_server_is_called_by_its_name() {
        let answer = b"HTTP/1.1 400 Bad Request";
        assert_eq!(read(answer, 1), Err(StreamError::Http));
    }

    #[test]
    fn an_announced_length_costs_nothing() {
        let header = Header {
            version: heddle_wire::VERSION,
            type_number: 0x8040,
            body_length: NODE_BODY_BYTES_MAX as u32,
            body_crc32c: 0,
            request_id: 1,
            deadline_us: 0,
        };
        let mut reader = FrameReader::new();
        reader.space()[..HEADER_BYTES].copy_from_slice(&header.encode());
        reader.advance(HEADER_BYTES);
        assert!(matches!(reader.next_frame(), Ok(None)));
        assert!(reader.space().len() <= BODY_GROWTH_BYTES);
    }
}
