//! What a valid definition asks for and this server cannot do.

use heddle_types::{ApiError, CollectionConfig, ErrorCode, PropertyConfig};

/// What a node knows about its cluster when a collection is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// Nodes that can hold a replica.
    pub nodes: u32,
}

/// Refuses definitions that are valid but cannot be served here.
///
/// Errors: `Unsupported` naming the option and what would work.
pub fn check_supported(config: &CollectionConfig, facts: &NodeFacts) -> Result<(), ApiError> {
    let refuse = |message: String, expected: String| {
        Err(ApiError::new(ErrorCode::Unsupported, message, expected))
    };
    let (m_min, m_max) = (heddle_index::limits::M_MIN, heddle_index::limits::M_MAX);
    let ef_min = heddle_index::limits::EF_CONSTRUCTION_MIN;
    for vector in &config.vectors {
        let name = super::vector_name(vector);
        if !(m_min..=m_max).contains(&vector.index.m) {
            let message = format!("{name} has index.m {}", vector.index.m);
            return refuse(message, format!("{m_min} to {m_max}"));
        }
        if vector.index.ef_construction < ef_min {
            let found = vector.index.ef_construction;
            let message = format!("{name} has index.ef_construction {found}");
            return refuse(message, format!("at least {ef_min}"));
        }
    }
    if let Some(name) = first_searchable(&config.properties) {
        let message = format!("property {name} is searchable");
        return refuse(message, "searchable false: there is no text search yet".to_owned());
    }
    if config.replication.factor > facts.nodes {
        return refuse(
            format!("replication factor {}", config.replication.factor),
            format!("at most {}, the number of nodes", facts.nodes),
        );
    }
    Ok(())
}

fn first_searchable(properties: &[PropertyConfig]) -> Option<&str> {
    properties.iter().find_map(|property| {
        let own = property.searchable.then_some(property.name.as_str());
        own.or_else(|| first_searchable(&property.properties))
    })
}
