//! The accepting end of a connection: requests in, answers out in any order.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use heddle_runtime::net::Socket;
use heddle_runtime::{spawn, timeout};
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_types::{ApiError, Clock, ErrorCode};
use heddle_wire::kind::REPLY_BIT;
use heddle_wire::{AlignedVec, Header, MessageError};

use super::pipe::{End, Outgoing, Pipe, Side};
use super::{GOODBYE, Handler, KINDS, Links, PeerCall, PeerIdentity, queue_of};
use crate::limits::{
    LINGER_BYTES_MAX, LINGER_TIMEOUT, LINK_BYTES_IN_FLIGHT_MAX, LINK_CALLS_IN_FLIGHT_MAX,
    PEER_CORE_BYTES_MAX, PEER_REPLY_BYTES_MAX,
};
use crate::server::frames::{Admission, FrameEvent};

/// A connection of another node that has proven itself.
pub(crate) struct Served {
    pub(super) pipe: Rc<Pipe>,
    pub(super) peer: PeerIdentity,
    links: Rc<Links>,
    handler: Handler,
    requests: Cell<usize>,
    request_bytes: Cell<usize>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Served({:?}, {} requests)", self.peer, self.requests.get())
    }
}

impl Served {
    /// Serves a connection until it ends and everything taken in is answered.
    pub(super) async fn run(
        links: &Rc<Links>,
        socket: Rc<Socket>,
        peer: PeerIdentity,
        handler: Handler,
        number: u64,
    ) {
        let served = Rc::new(Self {
            pipe: Pipe::new(links, socket, peer.lane),
            peer,
            links: Rc::clone(links),
            handler,
            requests: Cell::new(0),
            request_bytes: Cell::new(0),
        });
        links.served.borrow_mut().insert(number, Rc::clone(&served));
        if links.draining.get() {
            served.stop_reading();
        }
        let end = served.pipe.read_frames(&served).await;
        served.pipe.all_sent(|| served.requests.get() == 0).await;
        let mut linger_bytes = LINGER_BYTES_MAX;
        if end == End::Refused && links.draining.get() && !served.pipe.broken.get() {
            // The peer goes on until it reads this, which a closed socket would lose.
            linger_bytes = usize::MAX;
            // Everything that was taken in is answered: what is not was never worked on.
            served.pipe.send(Outgoing::new(GOODBYE, 0, 0, AlignedVec::new()).await);
            served.pipe.all_sent(|| true).await;
        }
        if end == End::Refused && !served.pipe.broken.get() {
            // Late is as good as done.
            let _ = timeout(LINGER_TIMEOUT, served.pipe.linger(linger_bytes)).await;
        }
        served.pipe.cut();
        links.served.borrow_mut().remove(&number);
    }

    pub(super) fn stop_reading(&self) {
        self.pipe.stop_reading();
    }

    pub(super) fn cut(&self) {
        self.pipe.cut();
    }

    /// Is nothing being worked on or written?
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.get() == 0 && self.pipe.unsent_bytes() == 0
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.peer.address
    }

    /// Requests being worked on.
    pub(super) fn requests(&self) -> usize {
        self.requests.get()
    }

    fn start(self: &Rc<Self>, header: Header, body: AlignedVec<16>) {
        let bytes = body.len();
        self.requests.set(self.requests.get() + 1);
        self.request_bytes.set(self.request_bytes.get() + bytes);
        self.links.served_bytes.set(self.links.served_bytes.get() + bytes);
        self.links.counters.lane(self.peer.lane).served.add(1);
        let arrived_ns = self.pipe.read_ns.get();
        let call = PeerCall { peer: self.peer, header, body, arrived_ns };
        let served = Rc::clone(self);
        spawn(queue_of(self.peer.lane), async move {
            let frame = served.answer(header, call).await;
            served.finish(bytes, frame);
        });
    }

    async fn answer(&self, header: Header, call: PeerCall) -> Outgoing {
        let Header { request_id, type_number, deadline_us, .. } = header;
        let waited_ns = self.links.clock.monotonic_ns().saturating_sub(call.arrived_ns);
        let budget = Duration::from_micros(u64::from(deadline_us));
        let answered = if deadline_us > 0 && Duration::from_nanos(waited_ns) >= budget {
            let message = "the budget was used up before the work began";
            Err(ApiError::transient(ErrorCode::DeadlineExceeded, message))
        } else {
            (self.handler)(call).await
        };
        match answered {
            Ok((number, body)) => {
                assert_eq!(number, type_number | REPLY_BIT, "a handler answers what it was asked");
                if body.len() > NODE_BODY_BYTES_MAX {
                    return self.error(request_id, &too_large(body.len()));
                }
                Outgoing::new(number, request_id, 0, body).await
            }
            Err(error) => self.error(request_id, &error),
        }
    }

    fn error(&self, request_id: u64, error: &ApiError) -> Outgoing {
        self.links.counters.lane(self.peer.lane).served_errors.add(1);
        Outgoing::error(request_id, error)
    }

    fn finish(self: &Rc<Self>, bytes: usize, frame: Outgoing) {
        self.requests.set(self.requests.get() - 1);
        self.request_bytes.set(self.request_bytes.get() - bytes);
        let total = self.links.served_bytes.get();
        self.links.served_bytes.set(total - bytes);
        self.pipe.send(frame);
        self.pipe.wake_reader();
        if total >= PEER_CORE_BYTES_MAX {
            // Others may wait for the room of this one.
            for other in self.links.served.borrow().values() {
                other.pipe.wake_reader();
            }
        }
    }

    fn refuse(self: &Rc<Self>, request_id: u64, error: &ApiError) {
        let frame = self.error(request_id, error);
        self.pipe.send(frame);
    }
}

impl Side for Rc<Served> {
    fn admit(&self, header: &Header) -> Admission {
        if KINDS.contains(&header.type_number) { Admission::Keep } else { Admission::Skip }
    }

    fn handle(&self, event: FrameEvent) -> bool {
        match event {
            FrameEvent::Frame(header, body) => {
                self.start(header, body);
                false
            }
            FrameEvent::Skipped(header) => {
                let error = MessageError::UnknownType { number: header.type_number };
                self.refuse(header.request_id, &error.into());
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

    fn has_room(&self) -> bool {
        self.requests.get() < LINK_CALLS_IN_FLIGHT_MAX
            && self.request_bytes.get() < LINK_BYTES_IN_FLIGHT_MAX
            && self.pipe.unsent_bytes() < PEER_REPLY_BYTES_MAX
            && (self.links.served_bytes.get() < PEER_CORE_BYTES_MAX || self.requests.get() == 0)
    }
}

fn too_large(found: usize) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("a reply of {found} bytes between nodes"),
        format!("at most {NODE_BODY_BYTES_MAX}; ask for less at once"),
    )
}
