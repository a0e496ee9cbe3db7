//! Deterministic simulator of Heddle's storage on a faulty disk.
