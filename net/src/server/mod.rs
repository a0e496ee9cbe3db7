//! The native server of one core: its listeners and its connections.

pub(crate) mod buffers;
pub(crate) mod connection;
pub(crate) mod frames;
pub(crate) mod request;
mod watch;
mod workers;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use heddle_runtime::net::{Accepted, Listener, Socket};
use heddle_runtime::{Queue, sleep, spawn, yield_if_needed};
use heddle_types::limits::CONNECTIONS_MAX;
use heddle_types::{ApiError, Clock, Epoch, ErrorCode};
use heddle_wire::encode_error;
use heddle_wire::message::TopologyNotice;

use crate::core::Core;
use crate::limits::{
    ACCEPT_PAUSE, CORE_REPLY_BYTES_MAX, CORE_REQUEST_BYTES_MAX, CORE_REQUESTS_MAX, NOTICE_INTERVAL,
    READ_CHUNK_BYTES, WATCH_INTERVAL,
};
use buffers::Buffers;
use connection::Connection;
use workers::Workers;

/// The connections of one core.
pub(crate) struct Server {
    /// Where sockets are read to; what was read is used up within the same poll.
    pub(crate) read_buffer: RefCell<Box<[u8]>>,
    /// Memory of requests and replies.
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) workers: Workers,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    next_number: Cell<u64>,
    // Requests being worked on, by the position of their queue.
    requests: [Cell<usize>; Queue::ALL.len()],
    // Bytes of requests, those that still arrive included.
    request_bytes: Cell<usize>,
    // Bytes of replies, being gathered or not sent yet.
    reply_bytes: Cell<usize>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({} connections)", self.open_connections())
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self {
            read_buffer: RefCell::new(vec![0; READ_CHUNK_BYTES].into_boxed_slice()),
            buffers: Rc::default(),
            workers: Workers::default(),
            connections: RefCell::default(),
            next_number: Cell::new(0),
            requests: std::array::from_fn(|_| Cell::new(0)),
            request_bytes: Cell::new(0),
            reply_bytes: Cell::new(0),
        }
    }

    fn enter(&self, connection: &Rc<Connection>) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        self.connections.borrow_mut().insert(number, Rc::clone(connection));
        number
    }

    fn leave(&self, number: u64) {
        self.connections.borrow_mut().remove(&number);
    }

    /// May requests of this core take so many bytes more?
    fn has_room(&self, bytes: usize) -> bool {
        self.request_bytes.get() + bytes <= CORE_REQUEST_BYTES_MAX
    }

    /// May another request come in?
    pub(crate) fn admits(&self, bytes: usize) -> bool {
        self.requests() < CORE_REQUESTS_MAX && self.has_room(bytes)
    }

    fn hold(&self, bytes: usize) {
        self.request_bytes.set(self.request_bytes.get() + bytes);
    }

    fn release(&self, bytes: usize) {
        self.request_bytes.set(self.request_bytes.get() - bytes);
    }

    pub(crate) fn begin(&self, queue: Queue, bytes: usize) {
        let requests = self.requests_of(queue);
        requests.set(requests.get() + 1);
        self.hold(bytes);
    }

    pub(crate) fn end(&self, queue: Queue, bytes: usize) {
        let requests = self.requests_of(queue);
        requests.set(requests.get() - 1);
        self.release(bytes);
    }

    fn requests_of(&self, queue: Queue) -> &Cell<usize> {
        &self.requests[queue.position()]
    }

    /// Counts reply bytes; false and nothing when the core holds too many already.
    fn try_hold_reply(&self, bytes: usize) -> bool {
        let has_room = bytes == 0 || self.reply_bytes.get() + bytes <= CORE_REPLY_BYTES_MAX;
        if has_room {
            self.hold_reply(bytes);
        }
        has_room
    }

    fn hold_reply(&self, bytes: usize) {
        self.reply_bytes.set(self.reply_bytes.get() + bytes);
    }

    fn release_reply(&self, bytes: usize) {
        self.reply_bytes.set(self.reply_bytes.get() - bytes);
    }

    /// Requests that are being worked on.
    pub(crate) fn requests(&self) -> usize {
        self.requests.iter().map(Cell::get).sum()
    }

    /// Requests that are being worked on in one queue.
    pub(crate) fn requests_in(&self, queue: Queue) -> usize {
        self.requests_of(queue).get()
    }

    /// Bytes of replies that are being gathered or not sent yet.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.reply_bytes.get()
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.connections.borrow().len()
    }

    pub(crate) fn request_bytes(&self) -> usize {
        self.request_bytes.get()
    }

    /// Ends the intake of every connection; those with nothing in flight close at once.
    pub(crate) fn stop_reading(&self) {
        for connection in self.connections.borrow().values() {
            connection.stop_reading();
        }
    }

    /// Gives up every connection; whatever still works for one stops at its next look.
    pub(crate) fn cut_all(&self) {
        let open: Vec<_> = self.connections.borrow().values().cloned().collect();
        open.iter().for_each(|connection| connection.cut());
    }
}

/// Opens a listener and accepts its connections for as long as the node serves.
pub(crate) fn listen(core: &Rc<Core>, address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = Listener::bind(address)?;
    let local = listener.local_address();
    spawn(Queue::Search, accept(Rc::clone(core), listener));
    Ok(local)
}

async fn accept(core: Rc<Core>, listener: Listener) {
    while !core.is_draining() {
        // A flood of connections does not keep the core for itself.
        yield_if_needed().await;
        match listener.accept().await.and_then(Accepted::into_socket) {
            Ok(socket) => admit(&core, socket),
            Err(error) => {
                // Out of descriptors or memory: others may close meanwhile.
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(core: &Rc<Core>, socket: Socket) {
    if core.is_draining() {
        return;
    }
    let open = core.node.connections.fetch_add(1, Ordering::Relaxed);
    let core = Rc::clone(core);
    if open >= CONNECTIONS_MAX {
        core.metrics.connections_refused.add(1);
        spawn(Queue::Search, async move {
            let message = format!("the node has {CONNECTIONS_MAX} connections already");
            let error = ApiError::transient(ErrorCode::Overloaded, message);
            // The peer may be gone already; it is refused either way.
            let _ = socket.write_all(&encode_error(0, &error)).await;
            core.node.connections.fetch_sub(1, Ordering::Relaxed);
        });
        return;
    }
    core.metrics.connections_accepted.add(1);
    spawn(Queue::Search, async move {
        tracing::debug!(peer = %socket.peer_address(), "connected");
        connection::serve(Rc::clone(&core), socket).await;
        core.node.connections.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Cuts connections that have had their time, once a second, for as long as the core runs.
pub(crate) async fn watch_connections(core: Rc<Core>) {
    loop {
        sleep(WATCH_INTERVAL).await;
        let now = core.clock.monotonic_ns();
        let overdue: Vec<_> = core
            .server
            .connections
            .borrow()
            .values()
            .filter_map(|connection| {
                let (quiet, unsent) = (connection.is_quiet(), connection.has_unsent_replies());
                let why = connection.progress.overdue(now, quiet, unsent)?;
                Some((Rc::clone(connection), why))
            })
            .collect();
        for (connection, why) in overdue {
            tracing::debug!(why = why.name(), "connection cut");
            core.metrics.connections_timed_out.add(1);
            connection.cut();
        }
    }
}

/// Tells clients that asked for it when the catalog has changed, for as long as the core runs.
pub(crate) async fn notify_clients(core: Rc<Core>) {
    let mut told = core.registry.epoch();
    loop {
        told = core.registry.reached(Epoch(told.0 + 1)).await;
        let open: Vec<_> = core.server.connections.borrow().values().cloned().collect();
        let notice = TopologyNotice { epoch: told.0 };
        open.iter().for_each(|connection| connection.notify(&notice));
        // Many changes in a row are one for a client.
        sleep(NOTICE_INTERVAL).await;
    }
}
