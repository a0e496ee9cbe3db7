//! The end of the process, at once, with a reason.

use std::fmt::Display;
use std::io::Write;

use heddle_types::FatalReason;

/// Ends the process: one line on standard error and one log event, then the reason's exit code.
///
/// No destructor runs and no other thread is waited for: what is durable is durable already, and
/// everything else is recovered from the log.
pub fn fatal(reason: FatalReason, detail: impl Display) -> ! {
    let code = reason.exit_code();
    tracing::error!(reason = %reason, code, detail = %detail, "fatal");
    // When standard error is gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "fatal: {reason} (exit code {code}): {detail}");
    signal_hook::low_level::exit(code)
}
