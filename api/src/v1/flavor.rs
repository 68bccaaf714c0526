//! Flavors: named sizes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Resources, Time};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flavor {
    pub id: String,
    pub name: String,
    pub resources: Resources,
    pub created_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlavorCreate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    pub resources: Resources,
}
