//! Makes the C library's allocator give large buffers back to the system.
//!
//! glibc serves a large allocation from a mapping of its own, which goes back when it is freed. But
//! with each such buffer that is freed it raises the size from which on it does so, up to 32 MiB:
//! after a few requests their bodies come from the heaps of the threads, and these give back only
//! what lies at their end. A node that has taken 120,000 vectors of 384 dimensions in requests of
//! 400 KB then holds 256 MB, of which 120 are in use; with a fixed size 127.
//!
//! The size is fixed by variables that the C library reads before the program begins, so the
//! program starts itself once more with them. Its process stays the same.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Allocations of so many bytes and more get a mapping of their own (256 KiB): bodies of requests
/// grow by as much at a time, and what a search needs in its course is smaller.
const MAPPED_BYTES_MIN: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "262144");
/// So many free bytes at its end are cut off a heap (1 MiB). Without the line above it follows that
/// size; with it the default of 128 KiB would cost a system call for every few requests.
const CUT_BYTES_MIN: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "1048576");
/// Says that the program was started again.
const STARTED_AGAIN: &str = "_HEAP_SETTLED";
/// The newer way to say both, and more.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Starts the program again with what its allocator needs, unless the environment has it, or says
/// something else about it. To be called first in `main`: what was begun before is lost.
///
/// Errors: it cannot be started again; the allocator is as it was. Cost: some 2 ms.
pub fn settle_heap() -> io::Result<()> {
    let missing = missing_variables(|name| std::env::var_os(name));
    // A program with rights of its own loses such variables each time: once is enough.
    if missing.is_empty() || std::env::var_os(STARTED_AGAIN).is_some() {
        return Ok(());
    }
    start_again(&missing).map(|never| match never {})
}

fn start_again(variables: &[(&str, &str)]) -> io::Result<Infallible> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    // By its path, because that names the process; the link also leads to a file that was replaced.
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(path.unwrap_or_else(|| "/proc/self/exe".into()));
    command.arg0(name).args(arguments).envs(variables.iter().copied()).env(STARTED_AGAIN, "1");
    Err(command.exec())
}

/// What is to be set. Nothing when the operator has set any of it.
fn missing_variables(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, &'static str)> {
    let wanted = [MAPPED_BYTES_MIN, CUT_BYTES_MIN];
    let tunables = variable(TUNABLES).unwrap_or_default();
    let is_told = tunables.to_string_lossy().contains("glibc.malloc.")
        || wanted.iter().any(|(name, _)| variable(name).is_some());
    if is_told || !cfg!(target_env = "gnu") { Vec::new() } else { wanted.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_is_told_once_and_what_an_operator_says_counts() {
        let with = |set: &[(&str, &str)]| {
            let found = |name: &str| set.iter().find(|(other, _)| *other == name);
            missing_variables(|name| found(name).map(|(_, value)| OsString::from(value)))
        };
        let ours = with(&[]);
        assert_eq!(ours, [MAPPED_BYTES_MIN, CUT_BYTES_MIN]);
        assert!(with(&ours).is_empty());
        assert!(with(&[("MALLOC_TRIM_THRESHOLD_", "0")]).is_empty());
        assert!(with(&[(TUNABLES, "glibc.malloc.arena_max=2")]).is_empty());
        assert_eq!(with(&[(TUNABLES, "glibc.rtld.nns=4")]), ours);
    }
}
