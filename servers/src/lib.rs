//! Several servers on one machine, as real as it gets without hardware: for the demo, chaos and tests.
//!
//! ```text
//!   network namespace scp-RUN-net            10.77.0.0/24, MTU 1500
//!   ┌──────────────── bridge br0 ────────────────┐
//!   │ n1             n2             n3           │   veth pairs
//! ┌─┴──────────┐  ┌──┴─────────┐  ┌─┴──────────┐
//! │ eth0  .11  │  │ eth0  .12  │  │ eth0  .13  │    network namespaces scp-RUN-n1, …
//! │ scpd       │  │ scpd       │  │ scpd       │    mount and UTS namespaces:
//! │ libvirtd   │  │ libvirtd   │  │ libvirtd   │    tmpfs on /run, own /var/lib/{libvirt,scp},
//! │ virtlogd   │  │ virtlogd   │  │ virtlogd   │    own /etc/libvirt, own hostname
//! │ qemu …     │  │            │  │            │
//! └────────────┘  └────────────┘  └────────────┘
//! ```
//!
//! A server is a directory (its disks) and a network namespace (its cable and its address); both last
//! as long as the run. Switching it on makes the mount namespace, held by one process called the
//! *anchor*, and starts the daemons. [`Server::kill_everything`] is a power cut: every process whose
//! network namespace is the server's gets SIGKILL, the anchor too, so what was in `/run` is gone and
//! what was on the disks is there when it is switched on again.
//!
//! # Guarantees
//! - Nothing outside is touched: the machine's own `/run`, `/etc/libvirt`, bridges and daemons are not
//!   seen from inside, and only processes inside namespaces that carry this run's id are killed.
//! - Whatever ends the program that built the servers (a return, a panic, Ctrl-C, SIGKILL), they are
//!   cleaned up: a small process outside its process group waits for the end of a pipe that only the
//!   program holds open. What even that leaves behind, the next [`Servers::build`] removes.
//!
//! # Assumptions
//! - Root, iproute2, util-linux; with [`Options::libvirt`] also Debian's libvirt packages.
//!
//! # Caveats
//! - Processor, memory, clock and the page cache are shared by all servers: this is no power cut for
//!   data that was written but not synced.

mod clock;
mod command;
mod daemons;
mod processes;
mod run;
mod server;
mod servers;

pub use clock::{now, pause, wait_until};
pub use command::{output, run};
pub use processes::{VmProcess, vm_processes};
pub use run::{Run, runs_dir};
pub use server::Server;
pub use servers::{Options, Servers};
