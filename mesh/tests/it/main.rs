//! The mesh on real QUIC over loopback: several nodes in one process, ports taken as they are free.

// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod city;
mod gossip;
mod identity;
mod join;
mod links;
mod observe;
mod standing;
