//! What the benchmark suite shares with the command-line tool: reading files of vectors.
#![forbid(unsafe_code)]

pub mod vectors;
