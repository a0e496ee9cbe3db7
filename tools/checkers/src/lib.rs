//! Checkers of histories: what clients saw of a cluster against what it promises.
//!
//! They know nothing of the server: an operation has a time of its call and of its return by one
//! clock, a key, and what came of it. Writes and reads carry versions (the stamps of the database),
//! so the order of the writes of a key is known and no search is needed: [`register`] is
//! `O(n log n)`. [`linear`] is the search, for histories without versions and to check the checker.

#![forbid(unsafe_code)]

pub mod convergence;
pub mod history;
pub mod linear;
pub mod register;
pub mod resurrection;
pub mod set;

pub use history::{Action, Operation, Outcome, Seen, Version};
