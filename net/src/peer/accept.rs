//! Listeners for other nodes: accept, let the other side prove itself, serve.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures::future::{Either, select};
use heddle_meta::handshake::Acceptor;
use heddle_runtime::net::{Accepted, Listener, Socket};
use heddle_runtime::{Queue, sleep, spawn, timeout, yield_if_needed};
use heddle_types::{ApiError, Clock, ErrorCode};
use heddle_wire::encode_error;

use super::dial::{Message, ShakeError, nonce, within};
use super::served::Served;
use super::{Handler, Links, PeerIdentity, watch};
use crate::limits::{
    ACCEPT_PAUSE, HANDSHAKE_TIMEOUT, LINGER_TIMEOUT, PEERS_SERVED_MAX, PEERS_UNPROVEN_MAX,
    REFUSAL_LOG_INTERVAL,
};

impl Links {
    pub(crate) fn listen(
        self: &Rc<Self>,
        address: SocketAddr,
        handler: Handler,
    ) -> io::Result<SocketAddr> {
        let listener = Listener::bind(address)?;
        let local = listener.local_address();
        let stop = Rc::new(Stop::default());
        self.listeners.borrow_mut().push(Rc::clone(&stop));
        spawn(Queue::Control, accept(Rc::clone(self), listener, stop, handler));
        Ok(local)
    }

    /// Enters a connection among those that have proven nothing. When there are too many, the
    /// oldest has to go: an honest peer needs milliseconds.
    fn enter_unproven(&self, socket: &Rc<Socket>) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let mut unproven = self.unproven.borrow_mut();
        if unproven.len() >= PEERS_UNPROVEN_MAX
            && let Some((_, oldest)) = unproven.pop_front()
        {
            self.counters.crowded_out.add(1);
            // One that is gone already is as good.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        unproven.push_back((number, Rc::clone(socket)));
        number
    }

    fn leave_unproven(&self, number: u64) {
        self.unproven.borrow_mut().retain(|(other, _)| *other != number);
    }

    fn note_refusal(&self, address: SocketAddr, error: &ShakeError) {
        self.counters.refused.add(1);
        let now_ns = self.clock.monotonic_ns();
        let is_quiet = self.refusal_logged_ns.get().is_some_and(|last_ns| {
            now_ns.saturating_sub(last_ns) < REFUSAL_LOG_INTERVAL.as_nanos() as u64
        });
        if !is_quiet {
            self.refusal_logged_ns.set(Some(now_ns));
            tracing::warn!(peer = %address, %error, "a connection between nodes was refused");
        }
    }
}

/// Tells a listener that it is to close.
#[derive(Default)]
pub(super) struct Stop {
    stopped: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

impl Stop {
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.stopped.get() {
            return Poll::Ready(());
        }
        self.waiting.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

async fn accept(links: Rc<Links>, listener: Listener, stop: Rc<Stop>, handler: Handler) {
    loop {
        // A flood of connections does not keep the core for itself.
        yield_if_needed().await;
        let stopped = std::future::poll_fn(|context| stop.poll(context));
        let accepted = match select(stopped, pin!(listener.accept())).await {
            Either::Left(((), _)) => return,
            Either::Right((accepted, _)) => accepted,
        };
        match accepted.and_then(Accepted::into_socket) {
            Ok(socket) => {
                let serving = serve(Rc::clone(&links), socket, Rc::clone(&handler));
                spawn(Queue::Control, serving);
            }
            Err(error) => {
                // Out of descriptors or memory: others may close meanwhile.
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(links: Rc<Links>, socket: Socket, handler: Handler) {
    let socket = Rc::new(socket);
    let number = links.enter_unproven(&socket);
    let shaken = within(HANDSHAKE_TIMEOUT, shake(&links, &socket)).await;
    if let Err(error) = &shaken {
        links.note_refusal(socket.peer_address(), error);
        if let ShakeError::Refused(error) = error {
            // It counts among the others while it is told, or nothing would bound such ones.
            refuse(&socket, &ApiError::from(error)).await;
        }
    }
    links.leave_unproven(number);
    let Ok(peer) = shaken else { return };
    if links.served_count() >= PEERS_SERVED_MAX {
        let message = format!("the core serves {PEERS_SERVED_MAX} connections of nodes already");
        return refuse(&socket, &ApiError::transient(ErrorCode::Overloaded, message)).await;
    }
    links.counters.accepted.add(1);
    links.end_rests(peer.node);
    watch::start(&links);
    tracing::debug!(node = %peer.node, address = %peer.address, lane = peer.lane.name(), "peer");
    Served::run(&links, socket, peer, handler, number).await;
}

async fn shake(links: &Links, socket: &Socket) -> Result<PeerIdentity, ShakeError> {
    let acceptor = Acceptor::new(links.party(), nonce());
    let hello = Message::read(socket).await?;
    let (challenging, challenge) = acceptor.hello(hello.received())?;
    socket.write_all(&challenge).await?;
    let proof = Message::read(socket).await?;
    let (end, lane, accepted) = challenging.proven(proof.received())?;
    socket.write_all(&accepted).await?;
    let address = socket.peer_address();
    Ok(PeerIdentity { node: end.node, boot: end.boot, core: end.core, lane, address })
}

/// Says why a connection is closed, and lets the peer read it.
async fn refuse(socket: &Socket, error: &ApiError) {
    let telling = async {
        socket.write_all(&encode_error(0, error)).await?;
        socket.shutdown(Shutdown::Write)?;
        let mut rest = [0; 256];
        while socket.read(&mut rest).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // It is refused whether it hears of it or not.
    let _ = timeout(LINGER_TIMEOUT, telling).await;
}
