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

/// Makes every panic end the process with [`FatalReason::CoreLost`] after its message.
///
/// A panic would otherwise take one thread with it and leave a node that looks alive. The server
/// calls this first; tests and tools do not.
pub fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let thread = std::thread::current();
        fatal(
            FatalReason::CoreLost,
            format_args!("thread {} panicked", thread.name().unwrap_or("without a name")),
        )
    }));
}
