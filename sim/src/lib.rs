//! Whole cities, one seed, virtual time.
//!
//! The production code of node, agreement, observers, gossip, state, scheduler and agent runs here over the
//! ports of the design: links that delay, lose and are cut one way; disks that lose what was not synced,
//! fill up and stall; clocks that jump and drift; hypervisors that fail; processes that are killed or
//! stand still. The same seed gives the same trace, byte for byte.
//!
//! ```text
//!   seed ─▶ options ─▶ city: hosts, links, clients ─▶ safety phase: faults ─▶ healed: liveness phase
//!                                    │ every tick                                     │
//!                                    ▼                                                ▼
//!                          checks: one history, no term goes back,      everything asked for is so,
//!                          invariants, no VM twice with one epoch       nothing acknowledged is lost,
//!                                                                       registers are linearizable
//! ```
//!
//! - [`entropy`]: all randomness of the process comes from the seed.
//! - [`host`]: a server with a runtime and a time of its own; [`net`]: the links; [`world`]: hypervisors.
//! - [`quic`]: the second tier: the production mesh on those links, datagram by datagram.
//! - [`curve`]: no city but its gossip and its failure detection, for up to 10,000 members.
//! - [`trace`]: the digest; [`recorder`]: what a person wants to see of a run, for [`scp_chronicle`].
//! - [`workload`], [`client`]: what is asked; [`fault`]: what goes wrong; [`checks`], [`laws`], [`linear`]: the judges.

pub mod checks;
pub mod city;
pub mod client;
pub mod clock;
pub mod curve;
pub mod entropy;
pub mod fault;
pub mod host;
pub mod laws;
pub mod linear;
pub mod net;
pub mod options;
pub mod quic;
pub mod recorder;
pub mod trace;
pub mod workload;
pub mod world;
