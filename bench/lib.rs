//! What several benchmarks need.

pub mod ears;
