//! Which nodes a collection may live on, by the labels that nodes carry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ErrorCode};
use crate::limits::{LABELS_MAX, NAME_LENGTH_BYTES_MAX};

/// What a node says of itself, for placement: free key and value pairs.
pub type Labels = BTreeMap<String, String>;

/// What a collection asks of the nodes that hold it. Both lists bind: a collection that cannot have
/// what it asks for is refused, not placed elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementRules {
    /// Labels that a node must carry, all of them, with these values.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub require: Labels,
    /// Labels that a node must not carry, none of them, with these values.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub avoid: Labels,
}

impl PlacementRules {
    /// Does a collection that asks for nothing have these rules?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.require.is_empty() && self.avoid.is_empty()
    }

    /// May a node with these labels hold the collection?
    #[must_use]
    pub fn admit(&self, labels: &Labels) -> bool {
        let carries = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.require.iter().all(carries) && !self.avoid.iter().any(carries)
    }

    /// Checks number, length and alphabet of the labels.
    ///
    /// Errors: `TooLarge` or `InvalidArgument`.
    pub fn validate(&self) -> Result<(), ApiError> {
        check_labels("required labels", &self.require)?;
        check_labels("avoided labels", &self.avoid)
    }
}

/// Checks number, length and alphabet of labels; `what` names them in an error.
///
/// Errors: `TooLarge` or `InvalidArgument`, naming the label.
pub fn check_labels(what: &str, labels: &Labels) -> Result<(), ApiError> {
    if labels.len() > LABELS_MAX {
        let found = format!("{} {what}", labels.len());
        return Err(ApiError::new(ErrorCode::TooLarge, found, format!("at most {LABELS_MAX}")));
    }
    let is_good = |text: &str| {
        let is_short = (1..=NAME_LENGTH_BYTES_MAX).contains(&text.len());
        is_short && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match labels.iter().find(|(key, value)| !is_good(key) || !is_good(value)) {
        None => Ok(()),
        Some((key, value)) => {
            let found = format!("{what} hold {:?}", format!("{key}={value}"));
            let expected = format!("1 to {NAME_LENGTH_BYTES_MAX} visible ASCII characters");
            Err(ApiError::new(ErrorCode::InvalidArgument, found, expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_node_is_admitted_when_it_carries_all_that_is_required_and_nothing_that_is_avoided() {
        let rules = PlacementRules {
            require: labels(&[("disk", "nvme"), ("zone", "a")]),
            avoid: labels(&[("tier", "test"), ("os", "old")]),
        };
        assert!(rules.admit(&labels(&[("disk", "nvme"), ("zone", "a"), ("tier", "live")])));
        assert!(!rules.admit(&labels(&[("disk", "nvme")])), "one of two is missing");
        assert!(!rules.admit(&labels(&[("disk", "nvme"), ("zone", "b")])), "another value");
        assert!(!rules.admit(&labels(&[("disk", "nvme"), ("zone", "a"), ("os", "old")])));
        assert!(PlacementRules::default().admit(&labels(&[])));
    }
}
