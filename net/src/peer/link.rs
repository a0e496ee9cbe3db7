//! The dialing end of a connection: calls on their way, matched with their answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;
use heddle_runtime::timeout;
use heddle_types::{ApiError, Clock, ErrorCode, Retry};
use heddle_wire::kind::{ERROR_NUMBER, REPLY_BIT};
use heddle_wire::message::ErrorReply;
use heddle_wire::{AlignedVec, Header, decode};

use super::pipe::{End, Outgoing, Pipe, Side};
use super::room::{NoRoom, Place, Room, RoomLimits};
use super::{Answer, GOODBYE, PeerIdentity};
use crate::limits::{LINK_BYTES_IN_FLIGHT_MAX, LINK_CALLS_IN_FLIGHT_MAX, LINK_CALLS_WAITING_MAX};
use crate::server::frames::{Admission, FrameEvent};

const LIMITS: RoomLimits = RoomLimits {
    calls: LINK_CALLS_IN_FLIGHT_MAX,
    bytes: LINK_BYTES_IN_FLIGHT_MAX,
    waiting: LINK_CALLS_WAITING_MAX,
};

type Reply = Result<(Header, AlignedVec<16>), ApiError>;

/// A call that waits for its answer.
#[derive(Debug)]
struct Pending {
    kind: u16,
    sender: oneshot::Sender<Reply>,
    /// Has the peer got all of the request?
    handed: Rc<Cell<bool>>,
}

/// An open connection to a core of another node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) pipe: Rc<Pipe>,
    pub(super) peer: PeerIdentity,
    room: Rc<Room>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    next_id: Cell<u64>,
    /// Calls since it is open.
    pub(super) calls: Cell<u64>,
    // What the peer did that no peer should.
    fault: RefCell<Option<ApiError>>,
    // The peer stops: it has answered every request that it has taken in.
    is_over: Cell<bool>,
}

impl Link {
    pub(super) fn new(pipe: Rc<Pipe>, peer: PeerIdentity) -> Rc<Self> {
        Rc::new(Self {
            pipe,
            peer,
            room: Room::new(LIMITS),
            pending: RefCell::default(),
            // 0 belongs to no request.
            next_id: Cell::new(1),
            calls: Cell::new(0),
            fault: RefCell::default(),
            is_over: Cell::new(false),
        })
    }

    /// A place among the calls in flight.
    ///
    /// Errors: `Unavailable` when the link has ended, `Overloaded` when too many wait already;
    /// nothing was sent.
    pub(super) async fn place(&self, bytes: usize) -> Result<Place, ApiError> {
        self.room.take(bytes).await.map_err(|refusal| match refusal {
            NoRoom::Closed => self.lost(&Cell::new(false)),
            NoRoom::Crowded => {
                let message = format!(
                    "{LINK_CALLS_WAITING_MAX} calls wait for node {} already",
                    self.peer.node
                );
                ApiError::transient(ErrorCode::Overloaded, message)
            }
        })
    }

    /// Sends a request and waits for its answer. `place`: from [`Link::place`].
    ///
    /// Errors: as [`super::Links::call`].
    pub(super) async fn exchange(
        self: &Rc<Self>,
        kind: u16,
        body: AlignedVec<16>,
        deadline_ns: u64,
        place: Place,
    ) -> Result<Answer, ApiError> {
        let request_id = self.next_id.get();
        self.next_id.set(request_id + 1);
        let left = self.left(deadline_ns);
        let deadline_us = u32::try_from(left.as_micros()).unwrap_or(u32::MAX).max(1);
        let frame = Outgoing::new(kind, request_id, deadline_us, body).await;
        if self.pipe.broken.get() {
            return Err(self.lost(&Cell::new(false)));
        }
        let handed = frame.handed();
        let (sender, receiver) = oneshot::channel();
        let pending = Pending { kind, sender, handed: Rc::clone(&handed) };
        self.pending.borrow_mut().insert(request_id, pending);
        let entry = Entry { link: self, request_id };
        self.pipe.send(frame);
        self.calls.set(self.calls.get() + 1);
        let reply = timeout(self.left(deadline_ns), receiver).await;
        let is_withdrawn = entry.leave();
        drop(place);
        match reply {
            Ok(Ok(reply)) => {
                reply.map(|(header, body)| Answer { node: self.peer.node, header, body })
            }
            Ok(Err(_link_gone)) => Err(self.lost(&handed)),
            Err(_timed_out) => Err(late(self.peer.node, !is_withdrawn)),
        }
    }

    fn left(&self, deadline_ns: u64) -> Duration {
        let now_ns = self.pipe.links.clock.monotonic_ns();
        Duration::from_nanos(deadline_ns.saturating_sub(now_ns))
    }

    /// Why a call failed whose link ended.
    fn lost(&self, handed: &Cell<bool>) -> ApiError {
        let PeerIdentity { node, address, .. } = self.peer;
        let message = match &*self.fault.borrow() {
            Some(fault) => format!("the link to node {node} at {address} was given up: {fault}"),
            None if self.is_over.get() => format!("node {node} at {address} stops"),
            None => format!("the link to node {node} at {address} broke"),
        };
        let may_have_applied = handed.get() && !self.is_over.get();
        let retry = if may_have_applied { Retry::MayHaveApplied } else { Retry::Safe };
        ApiError { retry, ..ApiError::transient(ErrorCode::Unavailable, message) }
    }

    /// Reads answers until the connection ends, then fails the calls that wait.
    pub(super) async fn serve(self: &Rc<Self>) -> End {
        let end = self.pipe.read_frames(self).await;
        self.pipe.cut();
        self.room.close();
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        for call in pending.into_values() {
            let error = self.lost(&call.handed);
            // Nobody waits for a call that was dropped meanwhile.
            let _ = call.sender.send(Err(error));
        }
        end
    }

    /// Calls in flight, and their bytes.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.room.calls(), self.room.bytes())
    }

    fn fail(&self, fault: ApiError) -> bool {
        tracing::warn!(node = %self.peer.node, address = %self.peer.address, %fault, "link ends");
        self.fault.replace(Some(fault));
        true
    }

    fn answer(&self, header: Header, body: AlignedVec<16>) -> bool {
        let Some(call) = self.pending.borrow_mut().remove(&header.request_id) else {
            // Its caller has given up.
            return false;
        };
        let reply = if header.type_number == ERROR_NUMBER {
            match decode::<ErrorReply>(&body) {
                Ok(reply) => Err(reply.into()),
                Err(error) => {
                    Err(ApiError { retry: Retry::MayHaveApplied, ..ApiError::from(error) })
                }
            }
        } else if header.type_number == call.kind | REPLY_BIT {
            Ok((header, body))
        } else {
            let fault = unexpected(&header);
            let error = ApiError { retry: Retry::MayHaveApplied, ..fault.clone() };
            let _ = call.sender.send(Err(error));
            return self.fail(fault);
        };
        let _ = call.sender.send(reply);
        false
    }
}

impl Side for Rc<Link> {
    fn admit(&self, header: &Header) -> Admission {
        let is_waited_for = self.pending.borrow().contains_key(&header.request_id);
        if is_waited_for { Admission::Keep } else { Admission::Skip }
    }

    fn handle(&self, event: FrameEvent) -> bool {
        match event {
            FrameEvent::Frame(header, body) => self.answer(header, body),
            FrameEvent::Skipped(header) if header.type_number == GOODBYE => {
                self.is_over.set(true);
                true
            }
            FrameEvent::Skipped(header) if header.type_number & REPLY_BIT == 0 => {
                self.fail(unexpected(&header))
            }
            FrameEvent::Skipped(header) if header.request_id == 0 => {
                self.fail(ApiError::transient(ErrorCode::Protocol, "the peer refused the stream"))
            }
            FrameEvent::Skipped(_) => false,
            FrameEvent::BadHeader(error) => self.fail(error.into()),
            FrameEvent::BadChecksum { header, found } => {
                let message = format!("the body checksum of reply {} is wrong", header.request_id);
                let expected = format!("{found:08x}");
                self.fail(ApiError::new(ErrorCode::Protocol, message, expected))
            }
        }
    }

    fn has_room(&self) -> bool {
        true
    }
}

fn unexpected(header: &Header) -> ApiError {
    ApiError::new(
        ErrorCode::Protocol,
        format!("message type {:#06x} came as an answer", header.type_number),
        "the reply to a request",
    )
}

/// A call whose budget is used up.
pub(super) fn late(node: impl std::fmt::Display, may_have_applied: bool) -> ApiError {
    let message = format!("node {node} has not answered within the budget of the call");
    let retry = if may_have_applied { Retry::MayHaveApplied } else { Retry::Safe };
    ApiError { retry, ..ApiError::transient(ErrorCode::DeadlineExceeded, message) }
}

/// Removes a call that nobody waits for any more, and its request if none of it is out.
struct Entry<'a> {
    link: &'a Rc<Link>,
    request_id: u64,
}

impl Entry<'_> {
    /// True when the request will never reach the peer.
    fn leave(self) -> bool {
        let is_withdrawn = self.link.pipe.withdraw(self.request_id);
        drop(self);
        is_withdrawn
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.link.pending.borrow_mut().remove(&self.request_id);
        self.link.pipe.withdraw(self.request_id);
    }
}
