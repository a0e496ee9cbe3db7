//! One client connection: at most one task that reads and one that writes.
//!
//! Requests run beside the reader, see [`crate::server::workers`], and answer in whatever order
//! they end. The reader stops reading while too much is unanswered or unread by the peer, so a
//! connection's memory is bounded by TCP itself. An idle connection owns no buffer: bytes are read
//! into a buffer of the core.
//!
//! What a connection holds is counted for its core as it grows: bodies while they arrive and until
//! they are answered, replies while they are gathered and until they are sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures::io::{AsyncRead, AsyncWrite};
use heddle_runtime::net::{Socket, SocketStream};
use heddle_runtime::{Queue, spawn, yield_if_needed};
use heddle_types::limits::{
    CLIENT_BODY_BYTES_MAX, CONNECTION_BYTES_IN_FLIGHT_MAX, CONNECTION_REPLY_BYTES_MAX,
    CONNECTION_REQUESTS_IN_FLIGHT_MAX,
};
use heddle_types::{ApiError, Clock, ErrorCode};
use heddle_wire::message::{FEATURE_TOPOLOGY_NOTICES, TopologyNotice};
use heddle_wire::{
    AlignedVec, Frame, FrameKind, Header, MessageError, MessageType, encode_error, encode_reply,
};

use crate::admission;
use crate::core::Core;
use crate::limits::{
    FRAMES_PER_TURN_MAX, HELD_REPLY_BYTES_MAX, LINGER_BYTES_MAX, WRITE_SLICES_MAX,
};
use crate::server::buffers::Buffers;
use crate::server::frames::{Admission, FrameEvent, FrameReader};
use crate::server::request::{ReplyBudget, RequestFrame, queue_of};
use crate::server::watch::{Progress, Reading};

/// Replies on their way out.
#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Frame>,
    // Bytes of the first frame that are out already.
    sent_of_first: usize,
    bytes: usize,
    // Is there a writing task?
    writing: bool,
    // Is the connection on its core's list of those whose replies are to leave?
    listed: bool,
}

/// Why reading ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The peer sends no more; it may still read.
    PeerDone,
    /// The socket is unusable.
    Broken,
    /// We do not want more: the stream is out of step, or the node drains.
    Refused,
}

/// One client connection.
pub(crate) struct Connection {
    pub(super) core: Rc<Core>,
    stream: SocketStream,
    outbox: RefCell<Outbox>,
    pub(super) requests: Cell<usize>,
    pub(super) request_bytes: Cell<usize>,
    /// Why the node refused the request whose body is being thrown away.
    refusal: RefCell<Option<ApiError>>,
    // Bytes of replies that are being gathered.
    pub(super) reserved: Cell<usize>,
    // Requests that wait until earlier replies are out.
    starting: RefCell<Vec<Waker>>,
    // Memory of input that is no request yet, as counted for the core.
    input_bytes: Cell<usize>,
    // The reader, while it waits for room or for the last reply.
    waiting: Cell<Option<Waker>>,
    // When bytes were read last, monotonic nanoseconds.
    read_ns: Cell<u64>,
    // Nothing can be sent any more; whoever works for this connection may stop.
    pub(super) broken: Cell<bool>,
    /// Feature bits that its hello and this server have in common.
    pub(super) features: Cell<u64>,
    pub(crate) progress: Progress,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({} requests in flight)", self.requests.get())
    }
}

/// Serves a connection until it is closed.
pub(crate) async fn serve(core: Rc<Core>, socket: Socket) {
    let now = core.clock.monotonic_ns();
    let connection = Rc::new(Connection {
        core: Rc::clone(&core),
        stream: SocketStream { socket: Rc::new(socket) },
        outbox: RefCell::default(),
        requests: Cell::new(0),
        request_bytes: Cell::new(0),
        refusal: RefCell::default(),
        reserved: Cell::new(0),
        starting: RefCell::default(),
        input_bytes: Cell::new(0),
        waiting: Cell::new(None),
        read_ns: Cell::new(now),
        broken: Cell::new(false),
        features: Cell::new(0),
        progress: Progress::new(now),
    });
    let number = core.server.enter(&connection);
    if core.is_draining() {
        // It was accepted before the drain began and entered after the others were told.
        connection.stop_reading();
    }
    let end = connection.read_requests().await;
    connection.count_input(0);
    connection.progress.reading.set(Reading::Ended);
    std::future::poll_fn(|context| connection.poll_all_sent(context)).await;
    if end == End::Refused && !connection.broken.get() {
        connection.linger().await;
    }
    core.server.leave(number);
}

impl Connection {
    /// Reads frames and starts their requests until the stream ends.
    async fn read_requests(self: &Rc<Self>) -> End {
        let mut intake = Intake::new(&self.core.server.buffers);
        loop {
            // A peer that never lets its socket run dry does not keep the core for itself.
            yield_if_needed().await;
            std::future::poll_fn(|context| self.poll_room(context)).await;
            if self.broken.get() {
                return End::Broken;
            }
            let refused = match intake.left.is_empty() {
                false => self.take_left(&mut intake),
                true => match std::future::poll_fn(|cx| self.poll_read(cx, &mut intake)).await {
                    Ok(Read::End) if intake.frames.at_boundary() => return End::PeerDone,
                    Ok(Read::End) => {
                        self.refuse_truncated(&intake.frames);
                        return End::PeerDone;
                    }
                    Ok(Read::Bytes { refused }) => refused,
                    Err(_reset) => {
                        self.cut();
                        return End::Broken;
                    }
                },
            };
            self.count_input(intake.held_bytes());
            if refused || self.core.is_draining() {
                return End::Refused;
            }
        }
    }

    fn take_left(self: &Rc<Self>, intake: &mut Intake) -> bool {
        let left = std::mem::take(&mut intake.left);
        self.read_ns.set(self.core.clock.monotonic_ns());
        let (taken, refused) = self.absorb(&left[intake.left_start..], &mut intake.frames);
        intake.left_start += taken;
        if intake.left_start < left.len() {
            intake.left = left;
        } else {
            intake.left_start = 0;
        }
        refused
    }

    /// Counts the memory of input that is no request yet.
    fn count_input(&self, bytes: usize) {
        self.core.server.release(self.input_bytes.replace(bytes));
        self.core.server.hold(bytes);
    }

    /// One read: straight into a long body, otherwise into the core's buffer.
    fn poll_read(
        self: &Rc<Self>,
        context: &mut Context<'_>,
        intake: &mut Intake,
    ) -> Poll<io::Result<Read>> {
        self.progress.reading_at(intake.frames.at_boundary());
        if !self.core.server.has_room(intake.frames.growth_bytes()) {
            // Half of a request that cannot be worked on is of no use to anybody.
            intake.frames.skip_body();
        }
        if let Some(target) = intake.frames.direct_target() {
            let count = std::task::ready!(self.poll_socket(context, target))?;
            if count == 0 {
                return Poll::Ready(Ok(Read::End));
            }
            let event = intake.frames.direct_filled(count);
            let refused = event.is_some_and(|event| self.handle(event));
            return Poll::Ready(Ok(Read::Bytes { refused }));
        }
        let mut buffer = self.core.server.read_buffer.borrow_mut();
        let count = std::task::ready!(self.poll_socket(context, &mut buffer))?;
        if count == 0 {
            return Poll::Ready(Ok(Read::End));
        }
        let (taken, refused) = self.absorb(&buffer[..count], &mut intake.frames);
        intake.left.extend_from_slice(&buffer[taken..count]);
        Poll::Ready(Ok(Read::Bytes { refused }))
    }

    fn poll_socket(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.clone();
        let count = std::task::ready!(Pin::new(&mut stream).poll_read(context, into))?;
        self.read_ns.set(self.core.clock.monotonic_ns());
        self.progress.bytes_read(self.read_ns.get(), count);
        self.core.metrics.bytes_received.add(count as u64);
        Poll::Ready(Ok(count))
    }

    /// Takes some frames out of `bytes` while there is room; the rest waits for another turn. Says
    /// how many bytes were taken, and whether the stream ends.
    fn absorb(self: &Rc<Self>, bytes: &[u8], frames: &mut FrameReader) -> (usize, bool) {
        let mut rest = bytes;
        for _ in 0..FRAMES_PER_TURN_MAX {
            if rest.is_empty() || !self.has_room() {
                break;
            }
            let mut admit = |header: &Header| self.admit(header);
            let event = frames.absorb(&mut rest, &mut admit);
            if event.is_some_and(|event| self.handle(event)) {
                return (bytes.len(), true);
            }
        }
        (bytes.len() - rest.len(), false)
    }

    fn admit(&self, header: &Header) -> Admission {
        self.progress.frame_began(self.read_ns.get());
        match header.kind() {
            FrameKind::Request(kind) if self.admits(kind, header.body_length as usize) => {
                Admission::Keep
            }
            _ => Admission::Skip,
        }
    }

    fn admits(&self, kind: MessageType, bytes: usize) -> bool {
        // Kept: until the body has passed, there may be room again.
        let refusal = admission::of_header(&self.core, kind, bytes).err();
        let is_refused = refusal.is_some();
        self.refusal.replace(refusal);
        !is_refused && self.core.server.admits(bytes)
    }

    /// Why a body was not read: the node has no room for it, or this core.
    fn skipped_error(&self, header: &Header) -> ApiError {
        self.refusal.take().unwrap_or_else(|| skipped_error(header))
    }

    /// Starts a request or answers with an error. True when the stream cannot go on.
    fn handle(self: &Rc<Self>, event: FrameEvent) -> bool {
        match event {
            FrameEvent::Frame(header, body) => {
                self.start(header, body);
                false
            }
            FrameEvent::Skipped(header) => {
                self.refuse(header.request_id, &self.skipped_error(&header));
                false
            }
            FrameEvent::BadHeader(error) => {
                self.refuse(error.request_id(), &error.into());
                true
            }
            FrameEvent::BadChecksum { header, found } => {
                let error =
                    MessageError::BodyChecksum { found: header.body_crc32c, expected: found };
                self.refuse(header.request_id, &error.into());
                true
            }
        }
    }

    fn start(self: &Rc<Self>, header: Header, body: AlignedVec<16>) {
        let FrameKind::Request(kind) = header.kind() else {
            return self.refuse(header.request_id, &skipped_error(&header));
        };
        let bytes = body.len();
        let queue = queue_of(kind);
        self.requests.set(self.requests.get() + 1);
        self.request_bytes.set(self.request_bytes.get() + bytes);
        self.core.server.begin(queue, bytes);
        let (arrived_ns, reply) = (self.read_ns.get(), ReplyBudget::new(self));
        let connection = Rc::clone(self);
        let request = RequestFrame { header, kind, body, arrived_ns, reply, connection };
        if queue == Queue::Search {
            return self.core.server.workers.submit(&self.core, request);
        }
        let core = Rc::clone(&self.core);
        spawn(queue, async move {
            let answered = request.answer(&core).await;
            let connection = request.finish(&core);
            connection.send(answered.frame);
            connection.wake_waiting();
        });
    }

    /// Ready when the replies before leave room for another one to be gathered.
    pub(super) fn poll_start(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.broken.get() || self.has_reply_room() {
            return Poll::Ready(());
        }
        self.starting.borrow_mut().push(context.waker().clone());
        Poll::Pending
    }

    /// Says that the topology has changed, if the client wants to hear of it.
    pub(super) fn notify(self: &Rc<Self>, notice: &TopologyNotice) {
        if self.features.get() & FEATURE_TOPOLOGY_NOTICES != 0 {
            self.send(encode_reply(0, notice).expect("a notice is a number"));
        }
    }

    fn refuse_truncated(self: &Rc<Self>, frames: &FrameReader) {
        let error = ApiError::new(
            ErrorCode::Protocol,
            "the stream ended inside a frame",
            "as many bytes as the header says",
        );
        self.refuse(frames.current_request().unwrap_or(0), &error);
    }

    fn refuse(self: &Rc<Self>, request_id: u64, error: &ApiError) {
        self.core.metrics.refused_frame(error.code);
        self.send(encode_error(request_id, error));
    }

    /// Puts a reply into the outbox; false when nobody will read it.
    fn enqueue(&self, frame: Frame, now_ns: u64) -> bool {
        if self.broken.get() {
            return false;
        }
        let mut outbox = self.outbox.borrow_mut();
        if outbox.frames.is_empty() {
            self.progress.bytes_written(now_ns);
        }
        outbox.bytes += frame.len();
        self.core.server.hold_reply(frame.len());
        outbox.frames.push_back(frame);
        true
    }

    /// Puts a reply into the outbox and sees to it that someone writes it.
    fn send(self: &Rc<Self>, frame: Frame) {
        if self.enqueue(frame, self.core.clock.monotonic_ns()) {
            self.spawn_writer();
        }
    }

    fn spawn_writer(self: &Rc<Self>) {
        if !std::mem::replace(&mut self.outbox.borrow_mut().writing, true) {
            // It starts when its queue gets a turn: replies until then go out in one write.
            spawn(Queue::Search, write_replies(Rc::clone(self)));
        }
    }

    /// Puts a worker's reply into the outbox. It leaves at once when no other request waits for a
    /// worker or when much has gathered, else together with others.
    pub(crate) fn reply_together(self: &Rc<Self>, frame: Frame, now_ns: u64) {
        if self.enqueue(frame, now_ns) {
            let held_bytes = self.outbox.borrow().bytes;
            let is_last = self.requests.get() == 0 && !self.core.server.workers.has_waiting();
            if is_last || held_bytes >= HELD_REPLY_BYTES_MAX {
                return self.send_now(now_ns);
            }
            if !std::mem::replace(&mut self.outbox.borrow_mut().listed, true) {
                self.core.server.workers.send_soon(self, now_ns);
            }
        }
        // There is one request less, whoever waits for that.
        self.wake_waiting();
    }

    /// Sends what was held back for the sake of company.
    pub(crate) fn send_held(self: &Rc<Self>) {
        self.outbox.borrow_mut().listed = false;
        if self.has_unsent_replies() {
            self.send_now(self.core.clock.monotonic_ns());
        }
    }

    /// Writes what the socket takes now; a task waits for the rest.
    fn send_now(self: &Rc<Self>, now_ns: u64) {
        while !self.outbox.borrow().writing {
            match self.write(|pieces| self.stream.socket.try_write_vectored(pieces)) {
                Ok(0) => break,
                Ok(count) if self.advance(count, now_ns) => {}
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.spawn_writer();
                    break;
                }
                Err(_reset) => return self.cut(),
            }
        }
        self.wake_waiting();
    }

    fn has_room(&self) -> bool {
        self.requests.get() < CONNECTION_REQUESTS_IN_FLIGHT_MAX
            && self.request_bytes.get() + CLIENT_BODY_BYTES_MAX <= CONNECTION_BYTES_IN_FLIGHT_MAX
            && self.has_reply_room()
    }

    fn has_reply_room(&self) -> bool {
        self.outbox.borrow().bytes + self.reserved.get() < CONNECTION_REPLY_BYTES_MAX
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.broken.get() || self.has_room() {
            if self.progress.reading.get() == Reading::Paused {
                self.progress.resume(self.core.clock.monotonic_ns());
            }
            return Poll::Ready(());
        }
        self.progress.pause(self.core.clock.monotonic_ns());
        self.waiting.set(Some(context.waker().clone()));
        Poll::Pending
    }

    fn poll_all_sent(&self, context: &mut Context<'_>) -> Poll<()> {
        let sent = self.broken.get() || self.outbox.borrow().frames.is_empty();
        if self.requests.get() == 0 && sent {
            return Poll::Ready(());
        }
        self.waiting.set(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Wakes the reader and the requests that wait for room.
    fn wake_waiting(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
        // In their order; those that find no room line up again in the same order.
        for waker in self.starting.take() {
            waker.wake();
        }
    }

    /// Hands the outbox to a write; 0 when there is nothing in it.
    fn write<T: From<io::Result<usize>>>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let outbox = self.outbox.borrow();
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&outbox.frames) {
            let skip = if count == 0 { outbox.sent_of_first } else { 0 };
            *slice = IoSlice::new(&frame[skip..]);
            count += 1;
        }
        if count == 0 {
            return T::from(Ok(0));
        }
        write(&slices[..count])
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.write(|pieces| Pin::new(&mut self.stream.clone()).poll_write_vectored(context, pieces))
    }

    /// Takes what went out off the outbox. False when nothing is left to write.
    fn advance(&self, count: usize, now_ns: u64) -> bool {
        self.progress.bytes_written(now_ns);
        self.core.metrics.bytes_sent.add(count as u64);
        let mut outbox = self.outbox.borrow_mut();
        outbox.bytes -= count;
        self.core.server.release_reply(count);
        outbox.sent_of_first += count;
        while let Some(first) = outbox.frames.front() {
            let length = first.len();
            if outbox.sent_of_first < length {
                break;
            }
            outbox.sent_of_first -= length;
            if let Some(sent) = outbox.frames.pop_front() {
                self.core.server.buffers.give(sent.into_bytes());
            }
        }
        !outbox.frames.is_empty()
    }

    /// Says that the socket is of no use any more; whoever waits on it finds out.
    pub(crate) fn cut(&self) {
        self.broken.set(true);
        let unsent = self.outbox.take();
        self.core.server.release_reply(unsent.bytes);
        self.shutdown(Shutdown::Both);
        self.wake_waiting();
    }

    /// Makes the reader see the end of the stream: nothing new is taken in.
    pub(crate) fn stop_reading(&self) {
        self.shutdown(Shutdown::Read);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.get() == 0 && self.outbox.borrow().frames.is_empty()
    }

    pub(crate) fn has_unsent_replies(&self) -> bool {
        !self.outbox.borrow().frames.is_empty()
    }

    fn shutdown(&self, how: Shutdown) {
        // A peer that is gone already makes this fail, which is as good.
        let _ = self.stream.socket.shutdown(how);
    }

    /// Lets the peer read our last words: ends our side, then discards what it still sends.
    async fn linger(&self) {
        self.shutdown(Shutdown::Write);
        self.progress.linger(self.core.clock.monotonic_ns());
        let mut left = LINGER_BYTES_MAX;
        loop {
            let read = std::future::poll_fn(|context| {
                let mut buffer = self.core.server.read_buffer.borrow_mut();
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
async fn write_replies(connection: Rc<Connection>) {
    loop {
        match std::future::poll_fn(|context| connection.poll_write(context)).await {
            // The outbox was emptied under us: the connection was cut.
            Ok(0) => return,
            Ok(count) => {
                let more = connection.advance(count, connection.core.clock.monotonic_ns());
                connection.outbox.borrow_mut().writing = more;
                connection.wake_waiting();
                if !more {
                    return;
                }
            }
            Err(_reset) => return connection.cut(),
        }
    }
}

struct Intake {
    frames: FrameReader,
    // Bytes that were read while there was room and not looked at since, from an offset on.
    left: Vec<u8>,
    left_start: usize,
}

impl Intake {
    fn new(buffers: &Rc<Buffers>) -> Self {
        let frames = FrameReader::new(CLIENT_BODY_BYTES_MAX, Rc::clone(buffers));
        Self { frames, left: Vec::new(), left_start: 0 }
    }

    fn held_bytes(&self) -> usize {
        self.frames.held_bytes() + self.left.capacity()
    }
}

enum Read {
    End,
    Bytes { refused: bool },
}

fn skipped_error(header: &Header) -> ApiError {
    match header.kind() {
        FrameKind::Request(_) => ApiError::transient(
            ErrorCode::Overloaded,
            "this core holds as many requests and request bytes as it may",
        ),
        FrameKind::Unknown(number) => MessageError::UnknownType { number }.into(),
        FrameKind::Reply(_) | FrameKind::Error | FrameKind::Notice => ApiError::new(
            ErrorCode::Protocol,
            format!("message type {:#06x} is a reply", header.type_number),
            "a request",
        ),
    }
}
