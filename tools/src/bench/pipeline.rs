//! A closed loop with several queries on their way on one connection, as a client has that serves
//! many users: what arrives together is answered and sent together.

use std::time::Instant;

use hdrhistogram::Histogram;

use super::raw::{RawConnection, RawError};
use super::{LATENCY_NS_MAX, Run, histogram, unreachable_server};
use crate::failure::Failure;

/// Keeps `load.in_flight` queries on their way until the time is over, then takes their replies.
pub(super) async fn pipelined_loop(
    run: &Run<'_>,
    connection: &mut RawConnection,
    start: Instant,
) -> Result<Histogram<u64>, Failure> {
    let mut latencies = histogram();
    let end = start + run.load.time;
    let mut open = run.load.in_flight;
    let mut begun = vec![Instant::now(); open];
    let mut unsent = Vec::new();
    for place in 0..open {
        put(run, place, &mut unsent);
    }
    while open > 0 {
        // Replies that are here already come first: their successors leave together.
        if !unsent.is_empty() && !connection.has_reply() {
            connection.send(&unsent).await.map_err(|error| unreachable_server(&error))?;
            unsent.clear();
        }
        let outcome = connection.receive().await.map(|_| ());
        let now = Instant::now();
        if let Err(error) = &outcome {
            run.fail(error)?;
        }
        let place = usize::try_from(connection.answered()).unwrap_or(usize::MAX);
        let Some(begun) = begun.get_mut(place) else {
            return Err(unreachable_server(&RawError::Unasked(connection.answered())));
        };
        if outcome.is_ok() {
            let ns = u64::try_from((now - *begun).as_nanos()).unwrap_or(LATENCY_NS_MAX);
            latencies.saturating_record(ns);
        }
        if now < end {
            *begun = now;
            put(run, place, &mut unsent);
        } else {
            open -= 1;
        }
    }
    Ok(latencies)
}

/// Appends the next query, with its place as the request's number.
fn put(run: &Run<'_>, place: usize, unsent: &mut Vec<u8>) {
    let frame = &run.frames[(run.take() % run.frames.len() as u64) as usize];
    unsent.extend_from_slice(&frame.header_for(place as u64, run.load.deadline_us()));
    unsent.extend_from_slice(frame.body());
}
