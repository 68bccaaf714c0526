//! Access tokens: who is asking.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CityRole, Grant, Time};

/// How long an access token is good for when nothing else is asked: a working day.
pub const TOKEN_LIFETIME_S_DEFAULT: u64 = 12 * 3600;
/// The longest a token may be good for, for machine users such as a metrics scraper.
pub const TOKEN_LIFETIME_S_MAX: u64 = 90 * 24 * 3600;

/// A login.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The user's name.
    pub user: String,
    pub password: String,
    /// Seconds that the token is to be good for, at most 90 days; 12 hours when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_s: Option<u64>,
}

impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRequest").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A signed access token: `Authorization: Bearer TOKEN`, at any node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    pub token: String,
    pub expires_at: Time,
    /// The user's id.
    pub user: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("user", &self.user)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Whom the server takes the asker for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// Absent for root on a server, over the local socket.
    pub user: Option<String>,
    pub name: String,
    pub city_roles: Vec<CityRole>,
    pub grants: Vec<Grant>,
    /// When the token ends; absent over the local socket.
    pub expires_at: Option<Time>,
}
