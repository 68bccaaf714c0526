//! Who is there and how to reach them: identity, authority, join, QUIC transport, gossip, observers.
//!
//! ```text
//!   identity ── key, certificate, authority's certificate on disk     authority ── issues, seals its key
//!        │                                                                │
//!        ▼                 one QUIC endpoint a node, TLS 1.3 both ways    │ join, renew
//!   Mesh (transport) ◀────────────────────────────────────────────────────┘
//!     lanes: raft · forward · bulk · renew   request and answer, or a duplex byte stream
//!            gossip · probe                  one-way messages, best effort
//!            join                            what a stranger may say, and nothing else
//!     client: one stream of a user's program, who proves itself inside it
//!        │
//!        ├── gossip   chitchat in cells of at most 200: facts and a slow view of who lives
//!        └── observe  heartbeats between each node and its few observers: silence, fast
//! ```
//!
//! # Guarantees
//! - A peer *is* its ed25519 key: [`NodeId`](scp_model::NodeId) is derived from it and checked in every
//!   handshake. Names and addresses prove nothing.
//! - Whoever is not of the city reaches the join lane, or one stream that asks who they are, and nothing else; whoever was removed reaches nothing; a member
//!   whose certificate ran out reaches the renew lane only, and is renewed there.
//! - Every queue, frame and number of requests under way is bounded by a constant with its reason.
//! - A dead peer delays nobody's calls to the living.
//!
//! # Caveats
//! - A request whose answer is lost may have been carried out: requests are idempotent, or carry an id.
//! - Gossip and heartbeats may be lost, and are repeated.

pub mod authority;
#[cfg(test)]
mod bad_frames;
mod call;
pub mod certificate;
pub mod client;
pub mod clock;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
pub mod gossip;
pub mod identity;
pub mod join;
pub mod lane;
pub mod members;
pub mod memory;
pub mod mesh;
pub mod observe;
mod peer;
mod pulse;
pub mod renew;
mod restart;
mod serve;
pub mod suite;
#[cfg(test)]
mod testing;
mod tls;
pub mod token;
pub mod transport;
mod wire;

pub use authority::{Authority, AuthorityError, CityKey};
pub use clock::{Clock, SystemClock};
pub use gossip::{Gossip, MemberView};
pub use identity::{Identity, IdentityDirectory, IdentityError, NodeKey};
pub use join::{JoinError, JoinRefusal, JoinReply, JoinRequest, Stranger};
pub use lane::Lane;
pub use members::Members;
pub use mesh::{Mesh, MeshConfig, Ports};
pub use observe::Observer;
pub use token::{JoinToken, TokenError};
pub use transport::{Duplex, MeshError, Refusal, RefusalKind, Service, StreamHandler, Transport};
