//! What is told when something cannot be: RFC 9457 problem details.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What happened, why, and the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `/errors/` and the code: identifies the kind of problem.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The kind of problem, in words that do not change.
    pub title: String,
    pub status: u16,
    /// This occurrence of it, with its numbers and names.
    pub detail: String,
    /// Machine-readable kind, `snake_case`.
    pub code: String,
    /// Why, where the detail leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do next, as a sentence or a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Finds this request in the logs.
    #[serde(default)]
    pub request_id: String,
    /// Everything in the request that is not valid, at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<InvalidField>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)?;
        self.invalid.iter().try_for_each(|field| write!(f, "; {}: {}", field.field, field.why))
    }
}

/// One field that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvalidField {
    /// Path in the body, or name of the parameter.
    pub field: String,
    pub why: String,
}
