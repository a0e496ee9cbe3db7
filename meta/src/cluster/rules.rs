//! Which nodes a collection may live on.

use heddle_types::ApiError;
use serde::{Deserialize, Serialize};

use super::node::{Labels, check_labels};

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
