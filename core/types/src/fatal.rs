//! Causes that end the process, each with its own exit code.
//!
//! These are faults with no answer inside the process: going on would risk acknowledged data or
//! leave a node that looks alive and is not. `docs/operations.md` lists each with its remedy.

use std::fmt;

/// Why the process ends at once. The number is the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum FatalReason {
    /// Configuration is invalid: an unknown key, a bad value, conflicting options.
    Config = 64,
    /// The data directory is missing, not writable, or not a Heddle directory.
    DataDirectory = 65,
    /// Another process holds the data directory.
    DataDirectoryInUse = 66,
    /// A listen address is taken or cannot be bound.
    Listen = 67,
    /// The boot self-test failed: io_uring refused, memlock too small, timers or wake-ups hang.
    SelfTest = 68,
    /// The data directory was written by a version this one cannot read.
    FormatVersion = 69,
    /// A log or data file is corrupt in the middle, where no crash can explain it.
    Corruption = 70,
    /// A write or sync of the write-ahead log failed; nothing after it can be promised.
    WalWrite = 71,
    /// The catalog could not be written.
    CatalogWrite = 72,
    /// A core stopped or panicked.
    CoreLost = 73,
    /// Draining did not end within its time limit.
    DrainTimeout = 74,
    /// Another process runs under this node's identity, as a copy of its data directory does.
    IdentityInUse = 75,
}

impl FatalReason {
    /// Every reason, for documentation and tests.
    pub const ALL: [Self; 12] = [
        Self::Config,
        Self::DataDirectory,
        Self::DataDirectoryInUse,
        Self::Listen,
        Self::SelfTest,
        Self::FormatVersion,
        Self::Corruption,
        Self::WalWrite,
        Self::CatalogWrite,
        Self::CoreLost,
        Self::DrainTimeout,
        Self::IdentityInUse,
    ];

    /// The process exit code.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for FatalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Config => "invalid configuration",
            Self::DataDirectory => "unusable data directory",
            Self::DataDirectoryInUse => "data directory is in use by another process",
            Self::Listen => "cannot listen",
            Self::SelfTest => "self-test failed",
            Self::FormatVersion => "data directory has another format version",
            Self::Corruption => "corrupt data",
            Self::WalWrite => "write-ahead log cannot be written",
            Self::CatalogWrite => "catalog cannot be written",
            Self::CoreLost => "a core stopped",
            Self::DrainTimeout => "draining timed out",
            Self::IdentityInUse => "another process runs under this node's identity",
        };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_exit_code() {
        let mut codes: Vec<i32> = FatalReason::ALL.iter().map(|r| r.exit_code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), FatalReason::ALL.len());
        assert!(codes.iter().all(|code| (64..=79).contains(code)));
    }
}
