//! Points in a host's time.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft::async_runtime::Instant;

use crate::raft::Host;

/// A point in the time of the host `H`.
///
/// Signed nanoseconds, so that a point before the host's start is no special case: openraft looks
/// back by whole timeouts. Arithmetic saturates, 292 years away.
pub struct LocalInstant<H> {
    nanoseconds: i64,
    host: PhantomData<fn() -> H>,
}

impl<H> LocalInstant<H> {
    fn at(nanoseconds: i64) -> Self {
        Self { nanoseconds, host: PhantomData }
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl<H> Clone for LocalInstant<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for LocalInstant<H> {}

impl<H> fmt::Debug for LocalInstant<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalInstant({} ns)", self.nanoseconds)
    }
}

impl<H> PartialEq for LocalInstant<H> {
    fn eq(&self, other: &Self) -> bool {
        self.nanoseconds == other.nanoseconds
    }
}

impl<H> Eq for LocalInstant<H> {}

impl<H> PartialOrd for LocalInstant<H> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<H> Ord for LocalInstant<H> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanoseconds.cmp(&other.nanoseconds)
    }
}

impl<H> Add<Duration> for LocalInstant<H> {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self::at(self.nanoseconds.saturating_add(nanoseconds(duration)))
    }
}

impl<H> AddAssign<Duration> for LocalInstant<H> {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl<H> Sub<Duration> for LocalInstant<H> {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self::at(self.nanoseconds.saturating_sub(nanoseconds(duration)))
    }
}

impl<H> SubAssign<Duration> for LocalInstant<H> {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl<H> Sub for LocalInstant<H> {
    type Output = Duration;

    /// Zero when `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        let difference = self.nanoseconds.saturating_sub(earlier.nanoseconds);
        Duration::from_nanos(u64::try_from(difference).unwrap_or(0))
    }
}

impl<H: Host> Instant for LocalInstant<H> {
    fn now() -> Self {
        Self::at(nanoseconds(H::now()))
    }
}
