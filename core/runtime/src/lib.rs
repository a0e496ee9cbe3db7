//! The glommio runtime of Heddle: pinned cores, task queues, messages between cores, direct IO,
//! clocks, signals, sockets, and the self-test of all of them.
//!
//! Floor 1: the only package besides `heddle-net` that knows glommio. Everything above talks to the
//! machine through what is exported here or through the seams of `heddle-types`.

#![forbid(unsafe_code)]

pub mod clock;
pub mod cores;
pub mod datagram;
pub mod device;
pub mod fatal;
mod gate;
pub mod guard;
pub mod heartbeat;
pub mod lock;
pub mod mesh;
pub mod net;
pub mod node;
mod poller;
pub mod probe;
pub mod queues;
mod ready;
pub mod selftest;
pub mod shutdown;
pub mod signal;
pub mod stats;

pub use clock::RealClock;
pub use cores::{CorePlan, CoreRole, MetaPlacement};
pub use datagram::DatagramSocket;
pub use device::{GlommioDevice, GlommioDeviceFile};
pub use fatal::fatal;
pub use guard::PortGuard;
pub use lock::DataLock;
pub use mesh::{CoreLink, MeshError, Routed};
pub use net::{Accepted, Listener, Socket, SocketStream};
pub use node::{CoreContext, NodeConfig, NodeError, run_node, run_single};
pub use queues::{
    Queue, let_others_run, run_blocking, run_lookup, sleep, spawn, spawn_joinable, timeout,
    yield_if_needed, yield_now,
};
pub use selftest::boot_self_test;
pub use shutdown::Shutdown;
pub use signal::{SignalEvent, SignalSource, Signals};
