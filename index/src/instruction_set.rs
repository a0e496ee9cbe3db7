//! Which vector instructions the kernels may use: the best ones of the machine, or fewer.

use std::fmt;
use std::sync::OnceLock;

use crate::{codes, distance};

/// Vector instructions for which there are kernels, those of one architecture in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InstructionSet {
    /// Plain code, which runs everywhere.
    Portable,
    /// NEON of aarch64.
    Neon,
    /// NEON with the integer dot products of ARMv8.2.
    Dotprod,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 and, for codes, the integer dot products of AVX-VNNI.
    AvxVnni,
    /// AVX-512, for codes with VNNI and VPOPCNTDQ.
    Avx512,
}

use InstructionSet::{Avx2, Avx512, AvxVnni, Dotprod, Neon, Portable};

/// Every set, best first.
const ALL: [InstructionSet; 6] = [Avx512, AvxVnni, Avx2, Dotprod, Neon, Portable];

impl InstructionSet {
    /// Its name in settings and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Portable => "portable",
            Neon => "neon",
            Dotprod => "dotprod",
            Avx2 => "avx2",
            AvxVnni => "avxvnni",
            Avx512 => "avx512",
        }
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name that stands for whatever is best on the machine.
pub const KERNELS_AUTO: &str = "auto";

/// Why the kernels could not be limited. Nothing changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelsError {
    /// There are no kernels of that name. Not worth a retry.
    #[error("no kernels are called {found:?}, expected auto or one of {}", names(ALL).join(", "))]
    Unknown {
        /// The name given.
        found: Box<str>,
    },
    /// This machine cannot run these kernels. Not worth a retry on this machine.
    #[error(
        "this machine cannot run {found} kernels, expected auto or one of {}",
        kernel_names().join(", ")
    )]
    Unavailable {
        /// The name given.
        found: &'static str,
    },
    /// Kernels of the process are in use already and cannot be exchanged.
    #[error("kernels were limited to {chosen} before, {found} comes too late")]
    Decided {
        /// The name given.
        found: &'static str,
        /// What the process uses.
        chosen: &'static str,
    },
}

fn names(sets: impl IntoIterator<Item = InstructionSet>) -> Vec<&'static str> {
    sets.into_iter().map(InstructionSet::name).collect()
}

/// The most that kernels of this process may use; decided once.
static LIMIT: OnceLock<InstructionSet> = OnceLock::new();

/// What kernels may use; the first call decides.
pub(crate) fn limit() -> InstructionSet {
    *LIMIT.get_or_init(|| ALL[0])
}

/// Whether this machine has kernels of a set, for floats or for codes.
fn is_available(set: InstructionSet) -> bool {
    distance::available().iter().any(|table| table[0].set == set) || codes::has_kernels_of(set)
}

/// Names of the kernels that this machine can run, best first. The last is `portable`.
#[must_use]
pub fn kernel_names() -> Vec<&'static str> {
    names(ALL.into_iter().filter(|&set| is_available(set)))
}

/// What a name allows.
fn parse(name: &str) -> Result<InstructionSet, KernelsError> {
    if name == KERNELS_AUTO {
        return Ok(ALL[0]);
    }
    let named = ALL.into_iter().find(|set| set.name() == name);
    let set = named.ok_or_else(|| KernelsError::Unknown { found: name.into() })?;
    if is_available(set) { Ok(set) } else { Err(KernelsError::Unavailable { found: set.name() }) }
}

/// Whether [`limit_kernels`] would take this name on this machine, were it the first call.
///
/// # Errors
/// As for [`limit_kernels`].
pub fn check_kernels(name: &str) -> Result<(), KernelsError> {
    parse(name).map(|_| ())
}

/// Lets the kernels of this process use no more than the named instructions; [`KERNELS_AUTO`] lets
/// them use the best of the machine. To be called before the first index is made.
///
/// # Errors
/// The name is unknown, the machine has no such instructions, or another limit was set or an index
/// made before.
pub fn limit_kernels(name: &str) -> Result<(), KernelsError> {
    let set = parse(name)?;
    let chosen = *LIMIT.get_or_init(|| set);
    if chosen == set {
        return Ok(());
    }
    Err(KernelsError::Decided { found: set.name(), chosen: chosen.name() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_taken_and_others_refused_by_name() {
        assert_eq!(kernel_names().last(), Some(&"portable"));
        for name in kernel_names().into_iter().chain([KERNELS_AUTO]) {
            assert_eq!(check_kernels(name), Ok(()), "{name}");
        }
        let text = check_kernels("sse9").unwrap_err().to_string();
        assert!(text.contains("\"sse9\"") && text.contains("avx512, avxvnni, avx2"), "{text}");
        let foreign = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
        let text = check_kernels(foreign).unwrap_err().to_string();
        assert!(text.contains(foreign) && text.contains("portable"), "{text}");
    }
}
