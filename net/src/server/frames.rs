//! Cuts a byte stream into frames; knows no socket.
//!
//! A body's buffer grows only as its bytes arrive, and its checksum is carried along with them, so
//! neither a length nor a long body makes one step long. A body that nobody wants (unknown type, no
//! room) is counted through and thrown away, and the stream goes on behind it.

use std::rc::Rc;

use heddle_types::limits::BODY_GROWTH_BYTES;
use heddle_wire::{AlignedVec, HEADER_BYTES, Header, HeaderError, header};

use crate::limits::DIRECT_READ_BYTES_MIN;
use crate::server::buffers::Buffers;

/// What to do with the body that follows a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Read it.
    Keep,
    /// Skip it.
    Skip,
}

/// Something complete in the stream.
#[derive(Debug)]
pub(crate) enum FrameEvent {
    /// A whole frame whose body matches its checksum.
    Frame(Header, AlignedVec<16>),
    /// A frame whose body was skipped.
    Skipped(Header),
    /// No header; the stream cannot go on.
    BadHeader(HeaderError),
    /// A body that does not match its checksum; the stream cannot go on.
    BadChecksum {
        /// Its header.
        header: Header,
        /// What the bytes give.
        found: u32,
    },
}

#[derive(Debug)]
struct Body {
    header: Header,
    admission: Admission,
    bytes: AlignedVec<16>,
    // Bytes of the body so far, kept or skipped.
    arrived: usize,
    checksum: u32,
    // Offset up to which `bytes` may be filled by a direct read.
    opened: usize,
}

/// Where a stream stands.
#[derive(Debug)]
pub(crate) struct FrameReader {
    body_bytes_max: usize,
    buffers: Rc<Buffers>,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body: Option<Body>,
}

impl FrameReader {
    /// `buffers`: where short bodies get their memory from; who has used a body gives it back.
    pub(crate) fn new(body_bytes_max: usize, buffers: Rc<Buffers>) -> Self {
        Self { body_bytes_max, buffers, header: [0; HEADER_BYTES], header_filled: 0, body: None }
    }

    /// Does the stream stand between two frames?
    pub(crate) fn at_boundary(&self) -> bool {
        self.header_filled == 0 && self.body.is_none()
    }

    /// Memory that the body being read takes, or is about to take in one piece.
    pub(crate) fn held_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.bytes.capacity().min(body.length()))
    }

    /// Memory that the next bytes of the body being read may take on top.
    pub(crate) fn growth_bytes(&self) -> usize {
        let keeping = self.body.as_ref().filter(|body| body.admission == Admission::Keep);
        keeping.map_or(0, |body| body.missing().min(BODY_GROWTH_BYTES))
    }

    /// Gives up the body being read: what is there is thrown away, the rest is counted through.
    pub(crate) fn skip_body(&mut self) {
        if let Some(body) = &mut self.body {
            body.admission = Admission::Skip;
            body.bytes = AlignedVec::new();
        }
    }

    /// The request whose body is being read, once its header is known.
    pub(crate) fn current_request(&self) -> Option<u64> {
        self.body.as_ref().map(|body| body.header.request_id)
    }

    /// Takes bytes off the front of `input` up to the end of the next frame.
    ///
    /// `admit` is asked once for each header. After an event that the stream cannot go on behind,
    /// do not call this again.
    pub(crate) fn absorb(
        &mut self,
        input: &mut &[u8],
        admit: &mut dyn FnMut(&Header) -> Admission,
    ) -> Option<FrameEvent> {
        if self.body.is_none() {
            let taken = input.len().min(HEADER_BYTES - self.header_filled);
            let (head, rest) = input.split_at(taken);
            self.header[self.header_filled..self.header_filled + taken].copy_from_slice(head);
            self.header_filled += taken;
            *input = rest;
            if self.header_filled < HEADER_BYTES {
                return None;
            }
            self.header_filled = 0;
            let header = match header::parse(&self.header, self.body_bytes_max) {
                Ok(header) => header,
                Err(error) => return Some(FrameEvent::BadHeader(error)),
            };
            let admission = admit(&header);
            self.body = Some(Body::new(header, admission, &self.buffers));
        }
        let body = self.body.as_mut()?;
        let taken = input.len().min(body.missing());
        let (head, rest) = input.split_at(taken);
        body.push(head);
        *input = rest;
        self.finish_if_whole()
    }

    /// Where a socket may be read to directly, when much of a kept body is missing.
    pub(crate) fn direct_target(&mut self) -> Option<&mut [u8]> {
        let body = self.body.as_mut().filter(|body| body.admission == Admission::Keep)?;
        if body.missing() < DIRECT_READ_BYTES_MIN {
            return None;
        }
        // Nothing has been opened, or the last read filled all of it.
        if body.opened == body.arrived {
            body.opened = body.arrived + body.missing().min(BODY_GROWTH_BYTES);
            body.bytes.resize(body.opened, 0);
        }
        Some(&mut body.bytes[body.arrived..body.opened])
    }

    /// Says that a direct read has put `count` bytes at the start of the target.
    pub(crate) fn direct_filled(&mut self, count: usize) -> Option<FrameEvent> {
        let body = self.body.as_mut()?;
        let end = body.arrived + count;
        body.checksum = crc32c::crc32c_append(body.checksum, &body.bytes[body.arrived..end]);
        body.arrived = end;
        self.finish_if_whole()
    }

    fn finish_if_whole(&mut self) -> Option<FrameEvent> {
        let body = self.body.take_if(|body| body.missing() == 0)?;
        let Body { header, admission, bytes, checksum, .. } = body;
        if checksum != header.body_crc32c {
            return Some(FrameEvent::BadChecksum { header, found: checksum });
        }
        Some(match admission {
            Admission::Keep => FrameEvent::Frame(header, bytes),
            Admission::Skip => FrameEvent::Skipped(header),
        })
    }
}

impl Body {
    fn new(header: Header, admission: Admission, buffers: &Buffers) -> Self {
        let length = header.body_length as usize;
        let mut bytes = AlignedVec::new();
        // A short body gets its whole place at once.
        if admission == Admission::Keep && length < DIRECT_READ_BYTES_MIN {
            bytes = buffers.take();
            bytes.reserve(length);
        }
        Self { header, admission, bytes, arrived: 0, checksum: 0, opened: 0 }
    }

    fn length(&self) -> usize {
        self.header.body_length as usize
    }

    fn missing(&self) -> usize {
        self.length() - self.arrived
    }

    fn push(&mut self, input: &[u8]) {
        self.checksum = crc32c::crc32c_append(self.checksum, input);
        if self.admission == Admission::Keep {
            if self.opened > self.arrived {
                // Part of a direct target is still open: fill it first.
                let end = self.arrived + input.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[self.arrived..end].copy_from_slice(input);
            } else {
                self.bytes.extend_from_slice(input);
            }
        }
        self.arrived += input.len();
        self.opened = self.opened.max(self.arrived);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 4 << 20;

    fn reader() -> FrameReader {
        FrameReader::new(LIMIT, Rc::default())
    }

    fn frame(request_id: u64, body: &[u8]) -> Vec<u8> {
        let header = Header {
            version: heddle_wire::VERSION,
            type_number: 0x30,
            body_length: body.len() as u32,
            body_crc32c: crc32c::crc32c(body),
            request_id,
            deadline_us: 0,
        };
        [&header.encode()[..], body].concat()
    }

    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
    }

    /// Feeds a stream in pieces, through both ways in, and collects the bodies.
    fn read_all(stream: &[u8], piece: usize, direct: bool) -> Vec<(u64, Vec<u8>)> {
        let mut reader = reader();
        let mut found = Vec::new();
        let mut take = |event| match event {
            Some(FrameEvent::Frame(header, body)) => {
                found.push((header.request_id, body.to_vec()));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        };
        let mut rest = stream;
        while !rest.is_empty() {
            if direct && let Some(target) = reader.direct_target() {
                let count = target.len().min(piece).min(rest.len());
                target[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                take(reader.direct_filled(count));
                continue;
            }
            let (mut input, later) = rest.split_at(piece.min(rest.len()));
            while !input.is_empty() {
                take(reader.absorb(&mut input, &mut |_| Admission::Keep));
            }
            rest = later;
        }
        assert!(reader.at_boundary());
        found
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let lengths = [0, 1, 31, 32, 33, 70_000, 5, 1 << 20, 0, 300_001];
        let stream: Vec<u8> = lengths
            .iter()
            .enumerate()
            .flat_map(|(index, length)| frame(index as u64, &body(*length)))
            .collect();
        for (piece, direct) in
            [(7, false), (4_096, true), (65_536, true), (65_537, false), (1 << 22, true)]
        {
            let found = read_all(&stream, piece, direct);
            assert_eq!(found.len(), lengths.len(), "piece {piece}");
            for (index, (id, bytes)) in found.iter().enumerate() {
                assert_eq!(*id, index as u64);
                assert!(*bytes == body(lengths[index]), "piece {piece} frame {index}");
            }
        }
    }

    #[test]
    fn a_length_alone_costs_no_memory() {
        let bytes = frame(1, &body(LIMIT));
        let mut reader = reader();
        let mut input = &bytes[..HEADER_BYTES];
        assert!(reader.absorb(&mut input, &mut |_| Admission::Keep).is_none());
        assert_eq!(reader.current_request(), Some(1));
        assert_eq!(reader.direct_target().unwrap().len(), BODY_GROWTH_BYTES);
        assert!(reader.body.as_ref().unwrap().bytes.capacity() <= 2 * BODY_GROWTH_BYTES);
    }

    #[test]
    fn a_skipped_body_is_checked_and_costs_no_memory() {
        let mut stream = frame(1, &body(100_000));
        stream.extend(frame(2, b"kept"));
        let mut reader = reader();
        let mut admit = |header: &Header| match header.request_id {
            1 => Admission::Skip,
            _ => Admission::Keep,
        };
        let mut input = &stream[..];
        let first = reader.absorb(&mut input, &mut admit);
        assert!(matches!(first, Some(FrameEvent::Skipped(header)) if header.request_id == 1));
        let second = reader.absorb(&mut input, &mut admit);
        assert!(matches!(second, Some(FrameEvent::Frame(_, body)) if body[..] == *b"kept"));
    }

    #[test]
    fn a_body_given_up_half_way_frees_its_memory_and_leaves_the_stream_in_step() {
        let mut stream = frame(1, &body(500_000));
        stream.extend(frame(2, b"kept"));
        let mut reader = reader();
        let (mut first, mut rest) = stream.split_at(200_000);
        assert!(reader.absorb(&mut first, &mut |_| Admission::Keep).is_none());
        assert!(reader.held_bytes() >= 199_000);
        assert_eq!(reader.growth_bytes(), BODY_GROWTH_BYTES);
        reader.skip_body();
        assert_eq!((reader.held_bytes(), reader.growth_bytes()), (0, 0));
        let first = reader.absorb(&mut rest, &mut |_| Admission::Keep);
        assert!(matches!(first, Some(FrameEvent::Skipped(header)) if header.request_id == 1));
        let second = reader.absorb(&mut rest, &mut |_| Admission::Keep);
        assert!(matches!(second, Some(FrameEvent::Frame(_, body)) if body[..] == *b"kept"));
    }

    #[test]
    fn a_damaged_body_is_named() {
        let mut stream = frame(9, b"hello");
        stream[HEADER_BYTES] ^= 1;
        let event = reader().absorb(&mut &stream[..], &mut |_| Admission::Keep);
        assert!(matches!(event, Some(FrameEvent::BadChecksum { header, .. })
            if header.request_id == 9));
    }
}
