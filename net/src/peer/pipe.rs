//! The frames of one connection in both directions, whoever is at which end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures::io::{AsyncRead, AsyncWrite};
use heddle_runtime::net::{Socket, SocketStream};
use heddle_runtime::{spawn, yield_if_needed};
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_types::{ApiError, Clock};
use heddle_wire::{AlignedVec, HEADER_BYTES, Header, VERSION, encode_error};

use super::{Lane, Links, queue_of};
use crate::limits::{FRAMES_PER_TURN_MAX, WRITE_SLICES_MAX};
use crate::server::frames::{Admission, FrameEvent, FrameReader};

/// Bytes of a checksum between two moments when other tasks may run (1 MiB, about 100 us).
const CHECKSUM_STEP_BYTES: usize = 1 << 20;

/// A frame on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) request_id: u64,
    header: [u8; HEADER_BYTES],
    body: AlignedVec<16>,
    /// Set when its last byte was given to the kernel.
    handed: Rc<Cell<bool>>,
}

impl Outgoing {
    /// Makes a frame. Cost: a checksum of the body, in steps.
    pub(super) async fn new(
        type_number: u16,
        request_id: u64,
        deadline_us: u32,
        body: AlignedVec<16>,
    ) -> Self {
        assert!(body.len() <= NODE_BODY_BYTES_MAX, "whoever sends has checked the length");
        let mut body_crc32c = 0;
        for step in body.chunks(CHECKSUM_STEP_BYTES) {
            body_crc32c = crc32c::crc32c_append(body_crc32c, step);
            if step.len() == CHECKSUM_STEP_BYTES {
                yield_if_needed().await;
            }
        }
        let body_length = body.len() as u32;
        let version = VERSION;
        let header =
            Header { version, type_number, body_length, body_crc32c, request_id, deadline_us };
        Self { request_id, header: header.encode(), body, handed: Rc::default() }
    }

    /// The reply that carries an error.
    pub(super) fn error(request_id: u64, error: &ApiError) -> Self {
        let frame = encode_error(request_id, error);
        let (head, rest) = frame.split_first_chunk::<HEADER_BYTES>().expect("it has a header");
        let mut body = AlignedVec::with_capacity(rest.len());
        body.extend_from_slice(rest);
        Self { request_id, header: *head, body, handed: Rc::default() }
    }

    /// Becomes true when the last byte was given to the kernel.
    pub(super) fn handed(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.handed)
    }

    fn len(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Outgoing>,
    // Bytes of the first frame that are out already.
    sent_of_first: usize,
    bytes: usize,
    // Is there a writing task?
    writing: bool,
}

/// What one end makes of the frames that arrive.
pub(super) trait Side {
    /// Is the body that follows wanted?
    fn admit(&self, header: &Header) -> Admission;
    /// Takes a frame. True when the stream cannot go on.
    fn handle(&self, event: FrameEvent) -> bool;
    /// May another frame come in?
    fn has_room(&self) -> bool;
}

/// Why reading ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The peer sends no more; a frame may have been cut off.
    PeerDone,
    /// The socket is unusable.
    Broken,
    /// This side does not want more.
    Refused,
}

/// One connection.
pub(super) struct Pipe {
    pub(super) links: Rc<Links>,
    pub(super) lane: Lane,
    stream: SocketStream,
    outbox: RefCell<Outbox>,
    // The reader, while it waits for bytes, for room or for the last write.
    reader: Cell<Option<Waker>>,
    /// Nothing can be sent any more.
    pub(super) broken: Cell<bool>,
    // Nothing new is to be taken in.
    stopped: Cell<bool>,
    /// When bytes were read last, monotonic nanoseconds.
    pub(super) read_ns: Cell<u64>,
    /// When bytes were written last, or had reason to be.
    pub(super) written_ns: Cell<u64>,
    // In the middle of a frame, and reading.
    pub(super) in_frame: Cell<bool>,
    pub(super) bytes_read: Cell<u64>,
    pub(super) bytes_written: Cell<u64>,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pipe({:?}, {} bytes waiting)", self.stream, self.outbox.borrow().bytes)
    }
}

impl Pipe {
    pub(super) fn new(links: &Rc<Links>, socket: Rc<Socket>, lane: Lane) -> Rc<Self> {
        let now_ns = links.clock.monotonic_ns();
        Rc::new(Self {
            links: Rc::clone(links),
            lane,
            stream: SocketStream { socket },
            outbox: RefCell::default(),
            reader: Cell::new(None),
            broken: Cell::new(false),
            stopped: Cell::new(false),
            read_ns: Cell::new(now_ns),
            written_ns: Cell::new(now_ns),
            in_frame: Cell::new(false),
            bytes_read: Cell::new(0),
            bytes_written: Cell::new(0),
        })
    }

    /// Lines up a frame. It leaves when the queue of the lane gets a turn, with all that gathers
    /// until then.
    pub(super) fn send(self: &Rc<Self>, frame: Outgoing) {
        if self.broken.get() {
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        if outbox.frames.is_empty() {
            self.written_ns.set(self.links.clock.monotonic_ns());
        }
        outbox.bytes += frame.len();
        outbox.frames.push_back(frame);
        if !std::mem::replace(&mut outbox.writing, true) {
            spawn(queue_of(self.lane), write_frames(Rc::clone(self)));
        }
    }

    /// Takes a frame back, unless some of it is out. True when it will never be sent.
    pub(super) fn withdraw(&self, request_id: u64) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let Some(place) = outbox.frames.iter().position(|frame| frame.request_id == request_id)
        else {
            return false;
        };
        if place == 0 && outbox.sent_of_first > 0 {
            return false;
        }
        let Some(frame) = outbox.frames.remove(place) else { return false };
        outbox.bytes -= frame.len();
        true
    }

    /// Bytes that wait to be written.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.outbox.borrow().bytes
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let outbox = self.outbox.borrow();
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let mut count = 0;
        let mut skip = outbox.sent_of_first;
        let parts = outbox.frames.iter().flat_map(|frame| [&frame.header[..], &frame.body[..]]);
        for part in parts {
            if count == slices.len() {
                break;
            }
            let skipped = skip.min(part.len());
            skip -= skipped;
            if skipped < part.len() {
                slices[count] = IoSlice::new(&part[skipped..]);
                count += 1;
            }
        }
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.stream.clone()).poll_write_vectored(context, &slices[..count])
    }

    /// Takes what went out off the outbox.
    fn advance(&self, count: usize) {
        self.written_ns.set(self.links.clock.monotonic_ns());
        self.bytes_written.set(self.bytes_written.get() + count as u64);
        self.links.counters.lane(self.lane).bytes_sent.add(count as u64);
        let mut outbox = self.outbox.borrow_mut();
        outbox.bytes -= count;
        outbox.sent_of_first += count;
        while let Some(first) = outbox.frames.front() {
            let length = first.len();
            if outbox.sent_of_first < length {
                break;
            }
            first.handed.set(true);
            outbox.sent_of_first -= length;
            outbox.frames.pop_front();
        }
    }

    /// Reads frames and hands them to a side until the stream ends.
    pub(super) async fn read_frames(&self, side: &dyn Side) -> End {
        let mut intake = Intake {
            frames: FrameReader::new(NODE_BODY_BYTES_MAX, Rc::clone(&self.links.buffers)),
            left: Vec::new(),
            left_start: 0,
        };
        loop {
            // A peer that never lets its socket run dry does not keep the core for itself.
            yield_if_needed().await;
            let step = std::future::poll_fn(|context| self.poll_step(context, side, &mut intake));
            match step.await {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(_reset) => {
                    self.cut();
                    return End::Broken;
                }
            }
        }
    }

    /// Waits for room, then takes in what is left or what arrives.
    fn poll_step(
        &self,
        context: &mut Context<'_>,
        side: &dyn Side,
        intake: &mut Intake,
    ) -> Poll<io::Result<Option<End>>> {
        self.in_frame.set(false);
        if self.broken.get() {
            return Poll::Ready(Ok(Some(End::Broken)));
        }
        if self.stopped.get() {
            return Poll::Ready(Ok(Some(End::Refused)));
        }
        self.reader.set(Some(context.waker().clone()));
        if !side.has_room() {
            return Poll::Pending;
        }
        let refused = if intake.left.is_empty() {
            self.in_frame.set(!intake.frames.at_boundary());
            let Some(refused) = std::task::ready!(self.poll_take_in(context, side, intake))? else {
                return Poll::Ready(Ok(Some(End::PeerDone)));
            };
            refused
        } else {
            intake.absorb_left(side)
        };
        Poll::Ready(Ok(refused.then_some(End::Refused)))
    }

    /// One read: straight into a long body, otherwise into the core's buffer. None at the end of
    /// the stream, else whether the side has had enough.
    fn poll_take_in(
        &self,
        context: &mut Context<'_>,
        side: &dyn Side,
        intake: &mut Intake,
    ) -> Poll<io::Result<Option<bool>>> {
        if let Some(target) = intake.frames.direct_target() {
            let count = std::task::ready!(self.poll_socket(context, target))?;
            if count == 0 {
                return Poll::Ready(Ok(None));
            }
            let event = intake.frames.direct_filled(count);
            return Poll::Ready(Ok(Some(event.is_some_and(|event| side.handle(event)))));
        }
        let mut buffer = self.links.read_buffer.borrow_mut();
        let count = std::task::ready!(self.poll_socket(context, &mut buffer))?;
        if count == 0 {
            return Poll::Ready(Ok(None));
        }
        let (taken, refused) = absorb(&buffer[..count], side, &mut intake.frames);
        intake.left.extend_from_slice(&buffer[taken..count]);
        Poll::Ready(Ok(Some(refused)))
    }

    fn poll_socket(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.clone();
        let count = std::task::ready!(Pin::new(&mut stream).poll_read(context, into))?;
        self.read_ns.set(self.links.clock.monotonic_ns());
        self.bytes_read.set(self.bytes_read.get() + count as u64);
        self.links.counters.lane(self.lane).bytes_received.add(count as u64);
        Poll::Ready(Ok(count))
    }

    /// Ready when nothing is left to write and `is_done`, or nothing can be written.
    pub(super) async fn all_sent(&self, is_done: impl Fn() -> bool) {
        std::future::poll_fn(|context| {
            if self.broken.get() || (is_done() && self.unsent_bytes() == 0) {
                return Poll::Ready(());
            }
            self.reader.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Something has changed that the reader may wait for.
    pub(super) fn wake_reader(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    /// Takes nothing new in.
    pub(super) fn stop_reading(&self) {
        self.stopped.set(true);
        self.wake_reader();
    }

    /// Says that the socket is of no use any more; whoever waits on it finds out.
    pub(super) fn cut(&self) {
        self.broken.set(true);
        let unsent = std::mem::take(&mut self.outbox.borrow_mut().frames);
        drop(unsent);
        self.outbox.borrow_mut().bytes = 0;
        self.shutdown(Shutdown::Both);
        self.wake_reader();
    }

    fn shutdown(&self, how: Shutdown) {
        // A peer that is gone already makes this fail, which is as good.
        let _ = self.stream.socket.shutdown(how);
    }

    /// Lets the peer read our last words: ends our side, then discards what it still sends, up to
    /// so many bytes.
    pub(super) async fn linger(&self, bytes_max: usize) {
        self.shutdown(Shutdown::Write);
        let mut left = bytes_max;
        loop {
            let read = std::future::poll_fn(|context| {
                let mut buffer = self.links.read_buffer.borrow_mut();
                Pin::new(&mut self.stream.clone()).poll_read(context, &mut buffer)
            });
            match read.await {
                Ok(count) if count > 0 && count < left => left -= count,
                _ => return,
            }
        }
    }
}

/// The writing task: lives while there is something to write.
async fn write_frames(pipe: Rc<Pipe>) {
    loop {
        match std::future::poll_fn(|context| pipe.poll_write(context)).await {
            Ok(0) => break,
            Ok(count) => {
                pipe.advance(count);
                pipe.wake_reader();
            }
            Err(_reset) => {
                pipe.cut();
                break;
            }
        }
        yield_if_needed().await;
    }
    pipe.outbox.borrow_mut().writing = false;
}

struct Intake {
    frames: FrameReader,
    // Bytes that were read while there was room and not looked at since, from an offset on.
    left: Vec<u8>,
    left_start: usize,
}

impl Intake {
    fn absorb_left(&mut self, side: &dyn Side) -> bool {
        let (taken, refused) = absorb(&self.left[self.left_start..], side, &mut self.frames);
        self.left_start += taken;
        if self.left_start == self.left.len() {
            self.left = Vec::new();
            self.left_start = 0;
        }
        refused
    }
}

/// Takes some frames out of `bytes` while there is room; the rest waits for another turn. Says how
/// many bytes were taken, and whether the stream ends.
fn absorb(bytes: &[u8], side: &dyn Side, frames: &mut FrameReader) -> (usize, bool) {
    let mut rest = bytes;
    for _ in 0..FRAMES_PER_TURN_MAX {
        if rest.is_empty() || !side.has_room() {
            break;
        }
        let event = frames.absorb(&mut rest, &mut |header| side.admit(header));
        if event.is_some_and(|event| side.handle(event)) {
            return (bytes.len(), true);
        }
    }
    (bytes.len() - rest.len(), false)
}
