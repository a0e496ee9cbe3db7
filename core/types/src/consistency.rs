//! How many replicas must take part before a client is answered.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A level of consistency, counted over the *configured* replicas of a shard: one that is down
/// still counts, so two halves of a cluster can never both reach a quorum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Consistency {
    /// Any one replica.
    One = 1,
    /// More than half of the replicas.
    Quorum = 2,
    /// Every replica.
    All = 3,
}

impl Consistency {
    /// Every level, weakest first.
    pub const LEVELS: [Self; 3] = [Self::One, Self::Quorum, Self::All];

    /// Replicas that must take part when a shard has `factor` of them; 0 only for a factor of 0.
    ///
    /// ```
    /// use heddle_types::Consistency;
    /// let quorums = [1, 2, 3, 4, 5].map(|factor| Consistency::Quorum.needed(factor));
    /// assert_eq!(quorums, [1, 2, 2, 3, 3]);
    /// ```
    #[must_use]
    pub fn needed(self, factor: usize) -> usize {
        match self {
            Self::One => factor.min(1),
            Self::Quorum => (factor / 2 + 1).min(factor),
            Self::All => factor,
        }
    }

    /// The wire number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The level of a wire number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::LEVELS.into_iter().find(|level| level.number() == number)
    }

    /// The name as users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no level of consistency.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown consistency level {0:?} (expected one, quorum or all)")]
pub struct UnknownConsistency(pub String);

impl FromStr for Consistency {
    type Err = UnknownConsistency;

    /// Reads a name in whatever case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::LEVELS
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownConsistency(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_quorums_meet_and_none_is_larger_than_the_shard() {
        for factor in 1..=16 {
            let quorum = Consistency::Quorum.needed(factor);
            assert!(2 * quorum > factor && quorum <= factor, "{factor}");
            assert_eq!(Consistency::One.needed(factor), 1);
            assert_eq!(Consistency::All.needed(factor), factor);
        }
        assert!(Consistency::LEVELS.iter().all(|level| level.needed(0) == 0));
    }

    #[test]
    fn numbers_and_names_round_trip() {
        for level in Consistency::LEVELS {
            assert_eq!(Consistency::from_number(level.number()), Some(level));
            assert_eq!(level.to_string().to_uppercase().parse(), Ok(level));
        }
        assert_eq!(Consistency::from_number(0), None);
        let error = "two".parse::<Consistency>().unwrap_err().to_string();
        assert_eq!(error, "unknown consistency level \"two\" (expected one, quorum or all)");
    }
}
