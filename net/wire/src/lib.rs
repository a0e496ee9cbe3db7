//! Frames and messages of Heddle's native protocol.
