//! Users and what they may do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;

/// Passwords have at least this many characters (NIST SP 800-63B-4 for a password that stands alone).
pub const PASSWORD_CHARS_MIN: usize = 15;
/// And at most this many bytes: hashing stays bounded.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// What a new password, wherever it is set, has to be.
pub fn password_is_acceptable(password: &str) -> Result<(), String> {
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(format!("has at least {PASSWORD_CHARS_MIN} characters; a sentence is good"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("has at most {PASSWORD_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// A role over the whole city.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CityRole {
    /// Everything.
    Admin,
    /// Machines: nodes, join tokens, flavors, images for all. Reads no tenant data.
    Operator,
    /// Reads events, users and the shape of the city; changes nothing.
    Auditor,
}

/// A role in one project; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectRole {
    /// Sees.
    Reader,
    /// Creates, changes and deletes resources.
    Member,
    /// Grants roles in the project.
    Manager,
}

/// A role in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The project's id; its name, too, where it is given.
    pub project: String,
    pub role: ProjectRole,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    pub id: String,
    pub name: String,
    pub city_roles: Vec<CityRole>,
    pub grants: Vec<Grant>,
    pub enabled: bool,
    pub created_at: Time,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserCreate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    /// At least 15 characters.
    pub password: String,
    #[serde(default)]
    pub city_roles: Vec<CityRole>,
    #[serde(default)]
    pub grants: Vec<Grant>,
}

/// Changes what is given and leaves the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city_roles: Option<Vec<CityRole>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Refuse every access token signed until now.
    #[serde(default)]
    pub revoke_tokens: bool,
}

/// A new password; every access token signed until now is refused from then on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordSet {
    pub password: String,
    /// Needed when users change their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_password: Option<String>,
}

/// A user's role in the project of the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantSet {
    pub role: ProjectRole,
}

impl std::fmt::Debug for UserCreate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserCreate").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PasswordSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordSet").finish_non_exhaustive()
    }
}
