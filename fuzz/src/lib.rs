//! Feeds mutated bytes to every decoder of Heddle: no input may panic, hang, or cost memory out of
//! proportion to its length.
//!
//! A target is an ordinary function over bytes, so this needs neither a nightly compiler nor
//! instrumentation, and the same functions fit a coverage-guided fuzzer when one is at hand.
//! Instead of coverage, targets start from valid encodings and repair checksums after mutation.

#![forbid(unsafe_code)]

pub mod mutate;
pub mod random;
pub mod session;
pub mod targets;
