//! Bounds of the server that no other part of Heddle needs; the rest are `heddle_types::limits`.

use std::time::Duration;

use heddle_types::limits::{
    BODY_GROWTH_BYTES, CLIENT_BODY_BYTES_MAX, CONNECTION_BYTES_IN_FLIGHT_MAX,
    CONNECTION_REPLY_BYTES_MAX, CONNECTION_REQUESTS_IN_FLIGHT_MAX, NODE_BODY_BYTES_MAX,
    WAL_RECORD_BYTES_MAX,
};

/// Bytes that one read takes off a socket into the core's common buffer (64 KiB).
pub(crate) const READ_CHUNK_BYTES: usize = 64 << 10;
/// Missing body bytes from which on a socket is read straight into the body.
pub(crate) const DIRECT_READ_BYTES_MIN: usize = READ_CHUNK_BYTES;
/// Frames handed to one vectored write.
pub(crate) const WRITE_SLICES_MAX: usize = 64;
/// Request bytes that one core holds for all of its connections; above it requests are refused as
/// `Overloaded` and their bodies skipped (256 MiB).
pub(crate) const CORE_REQUEST_BYTES_MAX: usize = 256 << 20;
/// Requests that one core works on, for all of its connections; above it requests are refused as
/// `Overloaded`. A request costs about 4 KiB besides its body and its reply: 32 MiB.
pub(crate) const CORE_REQUESTS_MAX: usize = 8_192;
/// Reply bytes that one core gathers or has not sent yet, for all of its connections; above it
/// requests are refused as `Overloaded` (256 MiB).
pub(crate) const CORE_REPLY_BYTES_MAX: usize = 256 << 20;
/// Frames taken out of what was read before other tasks may run: one costs about 3 us.
pub(crate) const FRAMES_PER_TURN_MAX: usize = 32;
/// Buffers that a core keeps for the next requests and replies, of at most the bytes below: 4 MiB.
pub(crate) const POOLED_BUFFERS_MAX: usize = 256;
/// Largest buffer that is kept (16 KiB): a request with one vector of 3,072 dimensions fits.
pub(crate) const POOLED_BUFFER_BYTES_MAX: usize = 16 << 10;
/// Workers that a core keeps asleep.
pub(crate) const IDLE_WORKERS_MAX: usize = 32;
/// Reply bytes that one connection holds back so that more go out in one write (64 KiB).
pub(crate) const HELD_REPLY_BYTES_MAX: usize = 64 << 10;
/// Longest time that a reply is held back, nanoseconds: half a step of work.
pub(crate) const REPLIES_HELD_NS_MAX: u64 = heddle_types::limits::STEP_US_MAX * 1_000 / 2;
/// Input thrown away after an error before the connection is cut (1 MiB): closing with unread input
/// would reset the connection and lose the error frame.
pub(crate) const LINGER_BYTES_MAX: usize = 1 << 20;

/// How long another node is waited for when the client did not say how long it waits itself.
pub(crate) const PEER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a request of another node waits for a version of the catalog that has not come yet.
pub(crate) const EPOCH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client's request waits for a version of the catalog that the client has from another
/// node.
pub(crate) const CLIENT_EPOCH_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of objects at which a reply to another node ends before its limit (8 MiB).
pub(crate) const PEER_REPLY_BYTES: usize = 8 << 20;
/// Hits of one reply to another node, at most (1,000,000 times 24 bytes).
pub(crate) const PEER_HITS_MAX: usize = 1_000_000;
/// How long a replica is waited for when the client waits longer: then it is taken for lost.
pub(crate) const REPLICA_PATIENCE: Duration = Duration::from_secs(10);
/// Objects that are read from several replicas at once: of the largest rows 256 MiB a replica.
pub(crate) const READ_CHUNK_OBJECTS: usize = 64;
/// Seconds for which a ticket is good.
pub(crate) const TICKET_GOOD_S: u32 = 60;
/// Versions of one page of a comparison (57 bytes each).
pub(crate) const REPAIR_PAGE_ENTRIES: usize = 4_096;
/// Objects that are read at once for another replica: of the largest rows 64 MiB.
pub(crate) const REPAIR_READ_OBJECTS: usize = 8;
/// Copies between replicas that one comparison has under way: of the largest rows 16 MiB each.
pub(crate) const REPAIR_COPIES_AT_ONCE: usize = 2;
/// A replica that fails after so long hangs, and is asked no more in that round of comparisons.
pub(crate) const REPAIR_HANGS_AFTER: Duration = Duration::from_secs(5);
/// Bytes that the comparisons of a core move a second at most, so that clients have the rest.
pub(crate) const REPAIR_BYTES_PER_S: u64 = 64 << 20;
/// The floor of a shard stays so far behind the comparison that sets it: longer than a request
/// lives and than clocks may differ.
pub(crate) const REPAIR_FLOOR_LAG: Duration = Duration::from_secs(600);
/// A floor is raised by as much at least: it costs a write to disk on every replica.
pub(crate) const REPAIR_FLOOR_STEP: Duration = Duration::from_secs(60);
/// Shortest time between two notices of a new topology on a connection.
pub(crate) const NOTICE_INTERVAL: Duration = Duration::from_millis(100);

/// A connection that has sent nothing is closed after this.
pub(crate) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without requests is closed after this.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A frame or reply of which no byte moves for this long closes its connection.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Slowest body: beyond the stall timeout it must arrive at this rate on average (64 KiB a second).
pub(crate) const BODY_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// Longest time that a frame may take to arrive: the largest at 140 KB a second.
pub(crate) const FRAME_TIMEOUT: Duration = Duration::from_secs(120);
/// Time a peer has to read an error and close.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often connections are looked at for the timeouts above.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Pause of the accept loop after the system refused a connection (no descriptors, no memory).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// HTTP connections of a node.
pub(crate) const HTTP_CONNECTIONS_MAX: usize = 64;
/// Bytes of an HTTP request's head that are buffered at most.
pub(crate) const HTTP_BUFFER_BYTES: usize = 16 << 10;
/// Time that the head of an HTTP request may take to arrive, from its first byte.
pub(crate) const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often HTTP connections are looked at for their timeouts.
pub(crate) const HTTP_WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// An HTTP connection on which nothing moves for this long is closed.
pub(crate) const HTTP_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that one core makes to other nodes: 128 nodes, 21 cores of each, three lanes.
pub(crate) const LINKS_MAX: usize = 8_192;
/// Calls in flight on one link; more wait. The other end reads no more than so many requests.
pub(crate) const LINK_CALLS_IN_FLIGHT_MAX: usize = 1_024;
/// Bytes of the bodies of those calls (128 MiB); one call always goes.
pub(crate) const LINK_BYTES_IN_FLIGHT_MAX: usize = 128 << 20;
/// Calls that wait for room on one link; above it they are refused as `Overloaded`.
pub(crate) const LINK_CALLS_WAITING_MAX: usize = CORE_REQUESTS_MAX;
/// Request bytes of other nodes that one core works on; above it their connections are read no
/// further (512 MiB, and the bodies that arrive at that moment).
pub(crate) const PEER_CORE_BYTES_MAX: usize = 512 << 20;
/// Replies that wait on one connection for a node that reads slowly, before it is read no further
/// (64 MiB).
pub(crate) const PEER_REPLY_BYTES_MAX: usize = 64 << 20;
/// Connections of other nodes that one core serves.
pub(crate) const PEERS_SERVED_MAX: usize = 8_192;
/// Connections of one core whose other end has not proven itself yet; one more ends the oldest.
pub(crate) const PEERS_UNPROVEN_MAX: usize = 128;
/// Time for one address of a target to accept a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that the handshake of two nodes may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a dial may take with all addresses of its target.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a dial that failed; calls fail at once meanwhile. Doubles up to the longest one.
pub(crate) const DIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause after a dial of the control lane that failed: much less than an election takes.
pub(crate) const DIAL_PAUSE_CONTROL_MAX: Duration = Duration::from_millis(250);
/// Longest pause after a dial of another lane that failed.
pub(crate) const DIAL_PAUSE_MAX: Duration = Duration::from_secs(2);
/// A frame or reply between nodes of which no byte moves for this long ends the connection.
pub(crate) const PEER_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A served connection without requests is closed after this. The dialing end closes it sooner, so
/// that no call meets a connection which is just being closed.
pub(crate) const LINK_IDLE_SERVED_TIMEOUT: Duration = Duration::from_secs(600);
/// Least time between two log lines about handshakes that were refused.
pub(crate) const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(IDLE_TIMEOUT.as_secs() < LINK_IDLE_SERVED_TIMEOUT.as_secs());
const _: () = assert!(NODE_BODY_BYTES_MAX <= LINK_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(LINK_BYTES_IN_FLIGHT_MAX < PEER_CORE_BYTES_MAX);
const _: () = assert!(24 * PEER_HITS_MAX < NODE_BODY_BYTES_MAX);
const _: () = assert!(2 * PEER_REPLY_BYTES < NODE_BODY_BYTES_MAX);
const _: () = assert!(PEER_REPLY_BYTES + WAL_RECORD_BYTES_MAX < NODE_BODY_BYTES_MAX);
const _: () = assert!(DIRECT_READ_BYTES_MIN <= BODY_GROWTH_BYTES);
const _: () = assert!(CLIENT_BODY_BYTES_MAX * 2 <= CONNECTION_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(CONNECTION_BYTES_IN_FLIGHT_MAX < CORE_REQUEST_BYTES_MAX);
const _: () = assert!(CONNECTION_REQUESTS_IN_FLIGHT_MAX < CORE_REQUESTS_MAX);
const _: () = assert!(CONNECTION_REPLY_BYTES_MAX + NODE_BODY_BYTES_MAX < CORE_REPLY_BYTES_MAX);
