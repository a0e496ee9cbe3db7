//! Objects of one shard by id: one full copy and digests of others, the newest version wins, and
//! replicas that lack it get it before the client is answered.
//!
//! The repair is what makes quorum reads never go back: the answer is on as many replicas as the
//! level asks for, so every later quorum meets it. At level `One` there is one answer, and nothing
//! to compare or repair.

mod event;
mod item;
mod machine;

pub use event::{ReadEffect, ReadEvent, ReadRequest};
pub use item::{Copy, ReadOutcome};
pub use machine::ReadMachine;
