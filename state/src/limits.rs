//! Every bound of the state, with its unit and reason.
//!
//! What a person sends and exceeds a bound is rejected: they can mend it. What a node reports is
//! clipped: a fact must not be lost because it is long.

/// Answers kept for retries. Clients give up after 60 s; this is 60 s at 1,600 commands a second, in
/// some 15 MiB. At higher rates the ids that clients make still keep a late retry from doubling
/// anything: creating what exists with the same contents is no change.
pub const REQUESTS_MAX: usize = 100_000;

/// Events in the watch ring. A watcher that reconnects within a minute resumes without a gap at 270
/// events a second; at some 250 bytes each the ring stays below 4 MiB.
pub const EVENTS_MAX: usize = 16_384;

/// Nodes of a city: "several thousand" is what the design must carry.
pub const NODES_MAX: usize = 10_000;

/// Join tokens that have not expired. A rollout scripts one a server, a batch at a time.
pub const JOIN_TOKENS_MAX: usize = 1_000;

/// The longest a join token is good for, in milliseconds: a week.
pub const JOIN_TOKEN_LIFETIME_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// Departments of a city.
pub const DEPARTMENTS_MAX: usize = 10_000;

/// Projects of a city.
pub const PROJECTS_MAX: usize = 100_000;

/// Users of a city.
pub const USERS_MAX: usize = 100_000;

/// Projects that one user has a role in; keeps a user well within one snapshot frame.
pub const GRANTS_MAX: usize = 1_000;

/// Flavors of a city; people choose from a list.
pub const FLAVORS_MAX: usize = 1_000;

/// Flavors that `InitCity` brings.
pub const INIT_FLAVORS_MAX: usize = 32;

/// Images of a city, beside each project's quota.
pub const IMAGES_MAX: usize = 100_000;

/// Keypairs of a city, beside each project's quota.
pub const KEYPAIRS_MAX: usize = 1_000_000;

/// VMs of a city, beside each project's quota: twice what the placement budget is measured with.
pub const VMS_MAX: usize = 4_000_000;

/// Observers in one piece of evidence; 3 to 5 are asked.
pub const OBSERVERS_MAX: usize = 64;

/// Bytes of the authority's certificate and of its sealed key, each.
pub const CA_BYTES_MAX: usize = 64 << 10;

/// Bytes of a password hash in PHC format; Argon2id's has about 100.
pub const PASSWORD_HASH_BYTES_MAX: usize = 512;

/// Bytes of one `authorized_keys` line: OpenSSH's own limit.
pub const SSH_KEY_BYTES_MAX: usize = 8 << 10;

/// Bytes of a key's fingerprint; `SHA256:` and 43 characters today.
pub const FINGERPRINT_BYTES_MAX: usize = 128;

/// Bytes of a release, `MAJOR.MINOR.PATCH` and a suffix.
pub const SOFTWARE_BYTES_MAX: usize = 64;

/// Bytes of a message that a node reports (clipped), or of its reason to run no VMs.
pub const MESSAGE_BYTES_MAX: usize = 512;

/// Orphans listed for a node (the first ones): enough for a person to see what happened.
pub const ORPHANS_MAX: usize = 256;

/// Bytes of an orphan's name (clipped).
pub const ORPHAN_NAME_BYTES_MAX: usize = 128;

/// The largest server that is believed: four times the largest sold.
pub const CAPACITY_MAX: scp_model::Resources =
    scp_model::Resources { vcpus: 8192, memory_mib: 256 << 20, disk_mib: 16 << 30 };

/// Payload bytes of one snapshot frame: a chunk passes any lane without holding it up.
pub const SNAPSHOT_FRAME_BYTES_MAX: usize = 1 << 20;
