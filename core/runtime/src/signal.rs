//! Signals as events of one core.
//!
//! A handler does two things that are safe anywhere: it writes a byte into a socket, which wakes
//! the core that waits, and it remembers that the end was asked for. The second wish to end is
//! carried out in the handler itself, so it works even when every core hangs.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use glommio::io::PollableFd;
use heddle_types::FatalReason;
use rustix::process::Signal;

use crate::ready::Readiness;

/// What the operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignalEvent {
    /// Finish and end (SIGTERM, SIGINT). The next one ends the process at once.
    Terminate,
    /// Read the configuration again (SIGHUP).
    Reload,
}

/// The handlers are in place; to be moved to the core that waits.
///
/// Make it before the node is run, so that no signal finds the default behaviour.
#[derive(Debug)]
pub struct SignalSource {
    terminate: UnixStream,
    reload: UnixStream,
}

impl SignalSource {
    /// Puts the handlers in place, for the whole process. Call it once.
    ///
    /// Errors: the operating system's, from making the sockets.
    pub fn install() -> io::Result<Self> {
        let (terminate, terminate_wake) = UnixStream::pair()?;
        let (reload, reload_wake) = UnixStream::pair()?;
        terminate.set_nonblocking(true)?;
        reload.set_nonblocking(true)?;
        let asked_before = Arc::new(AtomicBool::new(false));
        for signal in [Signal::TERM, Signal::INT] {
            let signal = signal.as_raw();
            // The order matters: the first signal must find the flag down and then raise it.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                FatalReason::DrainTimeout.exit_code(),
                Arc::clone(&asked_before),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&asked_before))?;
            signal_hook::low_level::pipe::register(signal, terminate_wake.try_clone()?)?;
        }
        signal_hook::low_level::pipe::register(Signal::HUP.as_raw(), reload_wake)?;
        Ok(Self { terminate, reload })
    }

    /// Binds the events to this core.
    pub fn listen(self) -> io::Result<Signals> {
        Ok(Signals { terminate: Waiting::new(self.terminate)?, reload: Waiting::new(self.reload)? })
    }
}

struct Waiting {
    readiness: Readiness,
    descriptor: PollableFd<UnixStream>,
}

impl Waiting {
    fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { readiness: Readiness::new(), descriptor: PollableFd::new(stream)? })
    }

    // Several signals of a kind that arrive before one is taken count as one.
    async fn next(&self) -> io::Result<()> {
        let mut bytes = [0; 64];
        loop {
            let mut stream = self.descriptor.get_ref();
            match stream.read(&mut bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.wait(&self.descriptor).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The signals of the process on the core that waits for them.
pub struct Signals {
    terminate: Waiting,
    reload: Waiting,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}

impl Signals {
    /// The next wish of the operator.
    pub async fn next(&self) -> io::Result<SignalEvent> {
        let terminate = std::pin::pin!(self.terminate.next());
        let reload = std::pin::pin!(self.reload.next());
        match futures::future::select(terminate, reload).await {
            futures::future::Either::Left((result, _)) => result.map(|()| SignalEvent::Terminate),
            futures::future::Either::Right((result, _)) => result.map(|()| SignalEvent::Reload),
        }
    }
}
