//! One connection: a task that owns the socket, and a handle through which calls reach it.
//!
//! Replies come in any order; each finds its caller by request id. What is in flight is bounded by
//! permits that a caller takes before it sends and that return with the reply, even if the caller
//! has given up meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use heddle_types::ApiError;
use heddle_wire::header::{HEADER_BYTES, Header};
use heddle_wire::message::{
    ErrorReply, FEATURE_TOPOLOGY_NOTICES, HelloReply, HelloRequest, TopologyNotice, decode,
};
use heddle_wire::{AlignedVec, Frame, FrameKind, MessageType, VERSION, encode_request};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::frames::FrameReader;
use crate::error::ClientError;
use crate::limits::{
    BYTES_IN_FLIGHT_MAX, BYTES_IN_FLIGHT_UNIT, IDLE_CLOSE, OVERDUE, READS_PER_TURN_MAX,
    REQUESTS_IN_FLIGHT_MAX, WATCH_INTERVAL, WRITE_FRAMES_MAX,
};

/// A reply as it arrived; its body checksum is checked.
pub(crate) struct ReplyFrame {
    pub(crate) header: Header,
    pub(crate) body: AlignedVec<16>,
}

/// Why a call has no reply.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Was the request handed to the kernel, so that the server may have seen it?
    pub(crate) sent: bool,
    /// Did the caller's deadline pass, while the connection may be sound?
    pub(crate) is_timeout: bool,
    /// What happened.
    pub(crate) error: ClientError,
}

/// How far a call has come; decides whether a caller that gives up may say "not sent".
struct Ticket(AtomicU8);

impl Ticket {
    const QUEUED: u8 = 0;
    const SENT: u8 = 1;
    const CANCELLED: u8 = 2;

    /// Marks the call as sent; `false` when its caller has given up.
    fn send(&self) -> bool {
        self.leave_queue(Self::SENT)
    }

    /// Gives the call up; `false` when it has been sent.
    fn cancel(&self) -> bool {
        self.leave_queue(Self::CANCELLED)
    }

    fn leave_queue(&self, to: u8) -> bool {
        self.0.compare_exchange(Self::QUEUED, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

type Answer = Result<ReplyFrame, Failure>;

struct Permits {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// A frame on its way out: its body may be shared with a later attempt, its header is its own.
struct Outgoing {
    request_id: u64,
    header: [u8; HEADER_BYTES],
    frame: Arc<Frame>,
}

impl Outgoing {
    fn len(&self) -> usize {
        self.frame.len()
    }

    /// Header and body without their first `skipped` bytes.
    fn parts(&self, skipped: usize) -> [&[u8]; 2] {
        let body = self.frame.body();
        [
            &self.header[skipped.min(HEADER_BYTES)..],
            &body[skipped.saturating_sub(HEADER_BYTES).min(body.len())..],
        ]
    }
}

struct Call {
    outgoing: Outgoing,
    deadline: Instant,
    ticket: Arc<Ticket>,
    answer: oneshot::Sender<Answer>,
    permits: Permits,
}

struct Waiting {
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
    _permits: Permits,
}

/// A handle on a connection. The connection closes when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    address: Arc<str>,
    calls: mpsc::Sender<Call>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Permits of `bytes` that exist: no request may wait for more.
    byte_units: Arc<AtomicU32>,
    next_id: Arc<AtomicU64>,
}

/// Permits for all bytes that may be in flight.
const BYTE_UNITS_MAX: u32 = (BYTES_IN_FLIGHT_MAX / BYTES_IN_FLIGHT_UNIT) as u32;

impl Connection {
    /// Connects, starts the task of the connection, and learns what the server allows; gives up at
    /// `limit`.
    ///
    /// `announced` is raised to every epoch that the server announces. Errors:
    /// [`ClientError::Connection`]; an error of the server, which speaks another version or takes
    /// no connections.
    pub(crate) async fn open(
        address: &str,
        limit: Instant,
        announced: &Arc<AtomicU64>,
    ) -> Result<Self, ClientError> {
        let connected = timeout_at(limit, TcpStream::connect(address)).await;
        let stream = match connected {
            Ok(stream) => stream,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| ClientError::connection(address, error))?;
        let (calls, queue) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
        let connection = Self {
            address: address.into(),
            calls,
            requests: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)),
            bytes: Arc::new(Semaphore::new(BYTE_UNITS_MAX as usize)),
            byte_units: Arc::new(AtomicU32::new(BYTE_UNITS_MAX)),
            next_id: Arc::new(AtomicU64::new(1)),
        };
        let limits = [Arc::clone(&connection.requests), Arc::clone(&connection.bytes)];
        let driver = Driver::new(stream, &connection.address, announced);
        tokio::spawn(driver.run(queue, limits));
        connection.hello(limit).await?;
        Ok(connection)
    }

    /// Agrees on the version and lowers the limits to those of the server.
    async fn hello(&self, limit: Instant) -> Result<(), ClientError> {
        let client = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned();
        // Routes that are old are the server's affair: it forwards, and says that they are old.
        let features = FEATURE_TOPOLOGY_NOTICES;
        let hello = HelloRequest { version_min: VERSION, version_max: VERSION, features, client };
        let frame = Arc::new(encode_request(0, 0, &hello).map_err(ApiError::from)?);
        let reply = self.call(&frame, limit).await;
        let reply = reply.map_err(|failure| failure.error)?;
        let invalid =
            |source| ClientError::InvalidReply { address: self.address().to_owned(), source };
        match reply.header.kind() {
            FrameKind::Reply(MessageType::Hello) => {
                let hello = decode::<HelloReply>(&reply.body).map_err(invalid)?;
                lower(&self.requests, REQUESTS_IN_FLIGHT_MAX, hello.requests_in_flight_max);
                let units = hello.bytes_in_flight_max / BYTES_IN_FLIGHT_UNIT as u32;
                let allowed = lower(&self.bytes, BYTE_UNITS_MAX as usize, units);
                self.byte_units.store(allowed as u32, Ordering::Relaxed);
                Ok(())
            }
            FrameKind::Error => {
                let error = decode::<ErrorReply>(&reply.body).map_err(invalid)?;
                Err(ClientError::Api(error.into()))
            }
            _ => {
                let number = reply.header.type_number;
                Err(invalid(heddle_wire::MessageError::UnknownType { number }))
            }
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Has the task of the connection ended?
    pub(crate) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    /// Sends a frame and waits for its reply until `deadline`. The request id and the time that is
    /// left are written into a header made here; those in the frame do not matter.
    pub(crate) async fn call(&self, frame: &Arc<Frame>, deadline: Instant) -> Answer {
        let started = Instant::now();
        let Ok(permits) = timeout_at(deadline, self.permits(frame.len())).await else {
            return Err(timed_out(false, started));
        };
        let Some(permits) = permits else { return Err(self.closed(false)) };
        let (answer, reply) = oneshot::channel();
        let ticket = Arc::new(Ticket(AtomicU8::new(Ticket::QUEUED)));
        let request_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let header = frame.header_for(request_id, budget_us(deadline));
        let outgoing = Outgoing { request_id, header, frame: Arc::clone(frame) };
        let call = Call { outgoing, deadline, ticket: Arc::clone(&ticket), answer, permits };
        if self.calls.send(call).await.is_err() {
            return Err(self.closed(false));
        }
        match timeout_at(deadline, reply).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.closed(!ticket.cancel())),
            Err(_) => Err(timed_out(!ticket.cancel(), started)),
        }
    }

    async fn permits(&self, length: usize) -> Option<Permits> {
        let request = Arc::clone(&self.requests).acquire_owned().await.ok()?;
        // A request above the limit travels alone.
        let units = length.div_ceil(BYTES_IN_FLIGHT_UNIT) as u32;
        let units = units.min(self.byte_units.load(Ordering::Relaxed));
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(units).await.ok()?;
        Some(Permits { _request: request, _bytes: bytes })
    }

    fn closed(&self, sent: bool) -> Failure {
        let error = io::Error::from(io::ErrorKind::NotConnected);
        let error = ClientError::connection(&self.address, error);
        Failure { sent, is_timeout: false, error }
    }
}

/// Takes away the permits that the server does not grant; at least one stays. Returns how many
/// exist from now on.
fn lower(permits: &Semaphore, granted: usize, server_max: u32) -> usize {
    let allowed = (server_max as usize).clamp(1, granted);
    permits.forget_permits(granted - allowed);
    allowed
}

fn timed_out(sent: bool, started: Instant) -> Failure {
    let error = ClientError::Timeout { after: started.elapsed() };
    Failure { sent, is_timeout: true, error }
}

/// Microseconds until `deadline`, as the header carries them: at least 1, at most 71 minutes.
fn budget_us(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_micros()).unwrap_or(u32::MAX).max(1)
}

/// The task of a connection: owns the socket and everything that waits on it.
struct Driver {
    stream: TcpStream,
    address: Arc<str>,
    reader: FrameReader,
    outbox: VecDeque<Outgoing>,
    /// Bytes of the first frame of the outbox that are written.
    written: usize,
    waiting: BTreeMap<u64, Waiting>,
    /// When a request was last taken or seen waiting.
    used_at: Instant,
    /// The newest epoch that servers have announced.
    announced: Arc<AtomicU64>,
}

impl Driver {
    fn new(stream: TcpStream, address: &Arc<str>, announced: &Arc<AtomicU64>) -> Self {
        Self {
            stream,
            address: Arc::clone(address),
            reader: FrameReader::new(),
            outbox: VecDeque::new(),
            written: 0,
            waiting: BTreeMap::new(),
            used_at: Instant::now(),
            announced: Arc::clone(announced),
        }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Call>, limits: [Arc<Semaphore>; 2]) {
        let error = self.serve(&mut queue).await;
        queue.close();
        for limit in limits {
            limit.close();
        }
        while let Ok(call) = queue.try_recv() {
            if call.ticket.send() {
                let failure = Failure { sent: false, is_timeout: false, error: error.clone() };
                // A caller that has gone needs no answer.
                let _ = call.answer.send(Err(failure));
            }
        }
        let whole = self.outbox.iter().skip(usize::from(self.written > 0));
        let unsent: BTreeSet<u64> = whole.map(|outgoing| outgoing.request_id).collect();
        for (request_id, waiting) in self.waiting {
            let sent = !unsent.contains(&request_id);
            let failure = Failure { sent, is_timeout: false, error: error.clone() };
            let _ = waiting.answer.send(Err(failure));
        }
    }

    /// Moves frames both ways until the connection ends, and says why it ended.
    async fn serve(&mut self, queue: &mut mpsc::Receiver<Call>) -> ClientError {
        let mut watch = interval(WATCH_INTERVAL);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Ok(call) = queue.try_recv() {
                self.accept(call);
            }
            let step = self.write().and_then(|()| self.read());
            if let Err(error) = step {
                return ClientError::connection(&self.address, error);
            }
            tokio::select! {
                call = queue.recv() => match call {
                    Some(call) => self.accept(call),
                    None => return ClientError::connection(
                        &self.address,
                        io::Error::other("the client was dropped"),
                    ),
                },
                _ = self.stream.readable() => {}
                _ = self.stream.writable(), if !self.outbox.is_empty() => {}
                _ = watch.tick() => if let Some(error) = self.find_silence() {
                    return ClientError::connection(&self.address, error);
                },
            }
        }
    }

    fn accept(&mut self, call: Call) {
        if !call.ticket.send() {
            return;
        }
        let Call { outgoing, deadline, answer, permits, .. } = call;
        self.used_at = Instant::now();
        let waiting = Waiting { deadline, answer, _permits: permits };
        self.waiting.insert(outgoing.request_id, waiting);
        self.outbox.push_back(outgoing);
    }

    /// Writes what the socket takes, several frames at a time.
    fn write(&mut self) -> io::Result<()> {
        while let Some(first) = self.outbox.front() {
            let mut slices = [IoSlice::new(&[]); 2 * WRITE_FRAMES_MAX];
            let rest = self.outbox.iter().skip(1).take(WRITE_FRAMES_MAX - 1);
            let frames = rest.map(|outgoing| outgoing.parts(0));
            let parts = std::iter::once(first.parts(self.written)).chain(frames).flatten();
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(count) => self.forget_written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn forget_written(&mut self, mut count: usize) {
        while let Some(first) = self.outbox.front() {
            let left = first.len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.outbox.pop_front();
        }
    }

    /// Reads what has arrived and answers callers; stops now and then for the other duties.
    fn read(&mut self) -> io::Result<()> {
        for _ in 0..READS_PER_TURN_MAX {
            while let Some((header, body)) = self.reader.next_frame().map_err(io::Error::other)? {
                self.deliver(ReplyFrame { header, body })?;
            }
            match self.stream.try_read(self.reader.space()) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(count) => self.reader.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn deliver(&mut self, reply: ReplyFrame) -> io::Result<()> {
        let request_id = reply.header.request_id;
        if let Some(waiting) = self.waiting.remove(&request_id) {
            // A caller that has given up needs no answer.
            let _ = waiting.answer.send(Ok(reply));
            return Ok(());
        }
        if request_id == 0 && reply.header.kind() == FrameKind::Notice {
            let notice = decode::<TopologyNotice>(&reply.body).map_err(io::Error::other)?;
            self.announced.fetch_max(notice.epoch, Ordering::Relaxed);
            return Ok(());
        }
        if request_id == 0 && reply.header.kind() == FrameKind::Error {
            let error = decode::<ErrorReply>(&reply.body).map_err(io::Error::other)?;
            return Err(io::Error::other(ApiError::from(error)));
        }
        Err(io::Error::other(format!("reply to request {request_id}, which was never made")))
    }

    /// Why the connection should end: its server does not answer, or nobody uses it.
    fn find_silence(&mut self) -> Option<io::Error> {
        let now = Instant::now();
        if self.waiting.is_empty() {
            let is_idle = now.duration_since(self.used_at) > IDLE_CLOSE;
            return is_idle.then(|| io::Error::other("idle"));
        }
        self.used_at = now;
        let is_overdue = |waiting: &Waiting| waiting.deadline + OVERDUE < now;
        let is_silent = self.waiting.values().any(is_overdue);
        is_silent.then(|| io::Error::from(io::ErrorKind::TimedOut))
    }
}
