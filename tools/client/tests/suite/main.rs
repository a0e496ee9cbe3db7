//! The client against a server in this process that speaks the real protocol.

mod fake;
mod hostile;
mod retries;
mod routing;
