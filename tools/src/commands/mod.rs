//! One file a command, or a few that belong together: read arguments, do one thing, report.

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod churn;
pub(crate) mod cluster;
pub(crate) mod collection;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod import;
pub(crate) mod read;
pub(crate) mod restore;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod tenant;
