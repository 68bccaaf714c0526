//! SSH public keys for VMs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Reference, Time};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Keypair {
    pub id: String,
    pub name: String,
    pub project: Reference,
    pub public_key: String,
    /// `SHA256:…`, as OpenSSH prints it.
    pub fingerprint: String,
    pub created_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeypairCreate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    /// Id, name or department/name; the user's only project when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// One line of a `.pub` file.
    pub public_key: String,
}
