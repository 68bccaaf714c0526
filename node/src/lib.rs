//! `scpd`: joins all parts. The only crate that depends on all of them.
//!
//! ```text
//!  main ── config ── daemon ──▶ member ──▶ core (all parts of a server that belongs to a city)
//!                    local       found · admit · leave · whose · issuer · renewal     how it became one, and how it ends
//!                    serve       machine · proposer · together · door            writes and reads
//!                    server      leader · membership                  what the leader does
//!                                hands · chunks                       what the agent does
//!                                follow · facts · profile · freshness · scrub   what keeps in step
//!                                network · service · wire             what nodes say to each other
//! ```
//! No decisions are taken here: the state, the scheduler and the agent take them.

pub mod admit;
pub mod chunks;
pub mod config;
pub mod core;
pub mod daemon;
pub mod door;
pub mod facts;
pub mod follow;
pub mod found;
pub mod freshness;
pub mod hands;
pub mod issuer;
pub mod leader;
pub mod leave;
pub mod local;
pub mod machine;
pub mod member;
pub mod membership;
pub mod network;
pub mod profile;
pub mod proposer;
pub mod removal;
pub mod renewal;
pub mod scrub;
pub mod serve;
pub mod server;
pub mod service;
pub mod together;
pub mod whose;
pub mod wire;
