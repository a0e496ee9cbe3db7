//! The catalog of Heddle: collections, shards, routing and placement.
