//! Real `scpd` processes on real namespaces, real faults, and a verdict on what clients saw.
//!
//! ```text
//! SCENARIO.toml ─▶ servers (scp-servers), a city of real scpd      clients on the servers' network, HTTPS
//!                     │ steps: a fault, held, taken back              │ writes, reads, creations
//!                     ▼                                               ▼
//!                  all taken back, city healthy ───────────────▶ history + what each node holds
//!                                                                     │
//!                          registers linearizable, creations there once, nodes equal ─▶ verdict, measures
//! ```
//!
//! # The verdict
//! - Each register (a project's `quota.vms`) is linearizable over all nodes, by the checker of `sim/`.
//! - Every acknowledged creation is on every node once; one without an answer at most once.
//! - All nodes end healthy, at the same applied index, holding the same.
//! - After each fault that is waited for, and at the end, the city is healthy within 90 s and takes changes.
//! - Each VM ends running, once, where the city says.
//! - No request is refused without a reason that the scenario gives (a 4xx is one too many).
//!
//! How long something took is measured and told, not judged: the machine may be busy.
//!
//! # A scenario
//! ```toml
//! name = "leader-kill"            # as the file is called
//! about = "One sentence."
//!
//! [city]                          # all optional
//! nodes = 3                       # in the city from the beginning: n1, n2, …
//! spare = 0                       # further servers, for join
//! vms = 0                         # real virtual machines: v1, v2, …
//! disk_mib = 96                   # each data directory a tmpfs of this size
//!
//! [load]                          # all optional
//! registers = 2                   # at a time; each lives for 10 s
//! writers = 2                     # of each register
//! readers = 2
//! creators = 2
//! ballast = 0                     # clients that only make the log long, with keypairs of 8 KiB
//! pace_ms = 50                    # pause of each client between answer and request
//!
//! [[step]]                        # in order
//! fault = "kill"                  # see below
//! target = "leader"               # leader, follower, random, all, majority, vm_node, each, or a server's name
//! after_ms = 1000                 # pause before it
//! for_ms = 0                      # taken back after so long
//! repeat = 1                      # each repetition chooses its target anew
//! settle = true                   # the city has to be healthy before the next
//! repeat_short = 1                # the same in a short run; also for_ms_short
//! ```
//!
//! | fault | what is done | how it is taken back |
//! |---|---|---|
//! | `kill` | SIGKILL for `scpd` | started again |
//! | `terminate` | SIGTERM for `scpd` | started again |
//! | `pause` | SIGSTOP for `scpd` | SIGCONT |
//! | `freeze` | SIGSTOP for everything on the server, VMs too | SIGCONT |
//! | `power_cut` | SIGKILL for everything on the server, `/run` lost | switched on again |
//! | `unplug` | the cable, clients included | plugged in |
//! | `cut` | packets of the links to `peers` dropped, `way` = `both`, `in` or `out` | rules removed |
//! | `lose` | the same, by chance: `percent` of them | rules removed |
//! | `delay` | the same held for `delay_ms`, and by chance up to `jitter_ms` longer, so that they overtake each other | what is held goes on its way |
//! | `fill_disk` | a file takes all space (needs `disk_mib`) | file removed |
//! | `slow_disk` | `scpd` may write `writes_per_s` times a second | as before |
//! | `corrupt` | stopped, a byte of `file` flipped, started | if it refused to start: removed from the city, emptied, joined anew |
//! | `clock` | the wall clock is `shift_s` seconds ahead from then on (0: right again); of all, the clients' too | |
//! | `join`, `leave` | a server joins or leaves the city | |
//!
//! `each` meets all nodes one after the other, `majority` more than half at once, the leader among them.
//! `peers` is a target too; without it a link is one to any node that is not met itself.
//! A `power_cut` may have a `shift_s`, too: the clock when the server is on again. A restart storm
//! is a `kill` with `repeat`, a short `for_ms` and `settle = false`. Unknown fields are refused.
//!
//! # Assumptions
//! Root, namespaces, nftables, an `scpd` that was built. Whatever ends this program, its servers are
//! cleaned up (see `scp_servers`).
//!
//! # Caveats: what is not tried here
//! - Clocks that run too fast or too slow, disks that lose synced data, packets that come twice:
//!   one kernel serves all servers, with one page cache. A power cut therefore loses nothing that was
//!   written. `sim/` tries all of these.

pub mod city;
pub mod clocks;
mod delay;
mod disk;
pub mod fault;
pub mod history;
pub mod judge;
/// Linearizability of registers: the one checker, shared as a file (see Cargo.toml for why).
#[path = "../../sim/src/linear.rs"]
mod linear;
pub mod report;
mod run;
pub mod scenario;
mod seen;
mod vms;
mod watch;
pub mod workload;

pub use run::{Options, Played, play};
