//! The settings of Raft, and why they are what they are.

use openraft::{Config, ConfigError, SnapshotPolicy};

/// Time between two signs of life of a leader (200 ms), and the time in which one is answered. A
/// follower that hears nothing for [`ELECTION_TIMEOUT_MIN_MS`] has then missed three of them.
pub const HEARTBEAT_INTERVAL_MS: u64 = 200;
/// Least time without a sign of life after which a follower wants to lead (700 ms).
///
/// On a machine of two cores the meta core shares a CPU with a data core, and has a quarter of it
/// while that one is busy; syncs of the log wait behind those of the data. So signs of life come
/// late without any fault. A follower that grows impatient asks first whether the others hear the
/// leader (Pre-Vote), so that only a leader that is late for most of them loses its place.
pub const ELECTION_TIMEOUT_MIN_MS: u64 = 700;
/// Most time without a sign of life after which a follower wants to lead (1.4 s): so wide a
/// spread that two followers seldom try at once. It is also the lease of a leader: for so
/// long its followers elect nobody else. Together they leave a new leader within three seconds of
/// the death of the old one.
pub const ELECTION_TIMEOUT_MAX_MS: u64 = 1_400;
/// Entries applied since the last snapshot after which the next one is written.
pub const SNAPSHOT_EVERY_ENTRIES: u64 = 1_000;
/// Entries kept although a snapshot holds them: a follower that was away for as many changes
/// catches up by log, not by snapshot.
pub const ENTRIES_KEPT: u64 = 5_000;
/// Entries of one message to a follower; their bytes are bounded by the log's reader.
const ENTRIES_PER_MESSAGE: u64 = 64;
/// Time for a whole snapshot: 64 MiB at 2 MiB/s.
const SNAPSHOT_TIMEOUT_MS: u64 = 32_000;
/// Changes that may wait for the core before those who bring them wait, too.
const WAITING_CHANGES_MAX: u64 = 1_024;

const _: () = assert!(ELECTION_TIMEOUT_MIN_MS >= 3 * HEARTBEAT_INTERVAL_MS);
const _: () = assert!(ELECTION_TIMEOUT_MAX_MS >= 2 * ELECTION_TIMEOUT_MIN_MS);
const _: () = assert!(ENTRIES_KEPT > SNAPSHOT_EVERY_ENTRIES);

/// The settings of a node's Raft.
///
/// Pre-Vote is on: a node that was paused or cut off asks whether it could win before it disturbs a
/// leader. A leader that restarts does not lead on by itself, because its state may be older than
/// what it had applied. A log that went back is never accepted: its disk was exchanged, and such a
/// node comes back under a new identity.
///
/// Errors: openraft refuses the settings (a bug).
pub fn raft_config(cluster: &str) -> Result<Config, ConfigError> {
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: HEARTBEAT_INTERVAL_MS,
        election_timeout_min: ELECTION_TIMEOUT_MIN_MS,
        election_timeout_max: ELECTION_TIMEOUT_MAX_MS,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY_ENTRIES),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        replication_lag_threshold: ENTRIES_KEPT,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        api_channel_size: Some(WAITING_CHANGES_MAX),
        ..Config::default()
    };
    config.validate()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_accepts_the_settings_and_pre_vote_is_on() {
        let config = raft_config("test").unwrap();
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.enable_leader_restore, Some(false));
    }
}
