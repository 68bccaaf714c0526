//! Flavors: named sizes.

use serde::{Deserialize, Serialize};

use crate::{FlavorId, Name, Resources, Timestamp};

/// The largest flavor. Beyond QEMU's 288 vCPUs on q35 and 4 TiB no guest of this platform is tested.
pub const RESOURCES_MAX: Resources = Resources { vcpus: 288, memory_mib: 4 << 20, disk_mib: 64 << 20 };
/// The smallest flavor.
pub const RESOURCES_MIN: Resources = Resources { vcpus: 1, memory_mib: 32, disk_mib: 1 };

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flavor {
    pub id: FlavorId,
    pub name: Name,
    pub resources: Resources,
    pub created_at: Timestamp,
}
