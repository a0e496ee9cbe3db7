//! The glommio runtime of Heddle: pinned cores, task queues, messages between cores, direct IO,
//! clocks, signals, sockets, and the self-test of all of them.
//!
//! Floor 1: the only package besides `heddle-net` that knows glommio. Everything above talks to the
//! machine through what is exported here or through the seams of `heddle-types`.

#![forbid(unsafe_code)]

pub mod clock;
pub mod cores;
pub mod device;
pub mod fatal;
mod gate;
pub mod mesh;
pub mod node;
pub mod queues;
pub mod shutdown;

pub use clock::RealClock;
pub use cores::{CorePlan, CoreRole, MetaPlacement};
pub use device::{GlommioDevice, GlommioDeviceFile};
pub use fatal::fatal;
pub use mesh::{CoreLink, MeshError, Routed};
pub use node::{CoreContext, NodeConfig, NodeError, run_node, run_single};
pub use queues::{
    Queue, run_blocking, sleep, spawn, spawn_joinable, timeout, yield_if_needed, yield_now,
};
pub use shutdown::Shutdown;
