//! Bounds of the client.

use std::time::Duration;

use heddle_types::limits::{CLIENT_BODY_BYTES_MAX, CONNECTION_REQUESTS_IN_FLIGHT_MAX};

/// How long a call waits for its reply when nothing else was asked for.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
/// How long one attempt to connect may take, whatever time the caller has left.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Share of the caller's time that one attempt to connect may take when that is longer: a third.
pub const CONNECT_SHARE: u32 = 3;
/// Most requests in flight on one connection: what the server takes.
pub const REQUESTS_IN_FLIGHT_MAX: usize = CONNECTION_REQUESTS_IN_FLIGHT_MAX;
/// Most request bytes in flight on one connection (32 MiB): what the server takes.
pub const BYTES_IN_FLIGHT_MAX: usize = heddle_types::limits::CONNECTION_BYTES_IN_FLIGHT_MAX;
/// Unit in which request bytes in flight are counted (1 KiB).
pub const BYTES_IN_FLIGHT_UNIT: usize = 1 << 10;
/// Bytes read from a socket at once; larger replies are read straight into their own buffer.
pub const READ_BUFFER_BYTES: usize = 64 << 10;
/// Most frames that one write hands to the kernel.
pub const WRITE_FRAMES_MAX: usize = 32;
/// Reads of one connection before its task looks at its other duties.
pub const READS_PER_TURN_MAX: usize = 16;
/// A reply that is this much later than its caller's deadline shows that the connection is dead.
pub const OVERDUE: Duration = Duration::from_secs(5);
/// A connection without requests is closed by the client after this, well before the server would
/// do it (300 s): a write never meets a connection that is just being closed.
pub const IDLE_CLOSE: Duration = Duration::from_secs(120);
/// How often a connection looks for overdue replies and idleness.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that one address is waited for when the topology is fetched.
pub const REFRESH_SHARE: Duration = Duration::from_secs(2);
/// Most times that a call is sent.
pub const ATTEMPTS_MAX: u32 = 10;
/// Pause before the second attempt; it doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Bytes at which a batch of objects is cut into another request (2 MiB).
pub const PUT_REQUEST_BYTES: usize = 2 << 20;
/// Objects at which a batch is cut into another request.
pub const PUT_REQUEST_OBJECTS_MAX: usize = 1_000;
/// Ids of one get or delete request, so that a reply of large objects fits into a frame.
pub const IDS_PER_REQUEST_MAX: usize = 1_000;
/// Fewest queries for which a batch is cut into pieces that several cores work on.
pub const QUERIES_PER_REQUEST_MIN: usize = 8;
/// Requests of one batch call that are in flight at once.
pub const BATCH_REQUESTS_MAX: usize = 16;

const _: () = assert!(PUT_REQUEST_BYTES < CLIENT_BODY_BYTES_MAX);
const _: () = assert!(PUT_REQUEST_OBJECTS_MAX <= heddle_types::limits::OBJECT_BATCH_MAX);
const _: () = assert!(IDS_PER_REQUEST_MAX <= heddle_types::limits::OBJECT_BATCH_MAX);
const _: () = assert!(CLIENT_BODY_BYTES_MAX <= BYTES_IN_FLIGHT_MAX);
