//! Native server, HTTP endpoints and node composition of Heddle.
