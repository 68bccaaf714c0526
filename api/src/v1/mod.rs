//! The native API, version 1: what goes over the wire. One file a resource.
//!
//! - Ids are texts: UUIDs, and 16 hex digits for nodes. Wherever a resource is referred to, its id or its
//!   name will do; a project's name may be qualified as `department/name`.
//! - Times are RFC 3339 in UTC with milliseconds. Units stand in the field's name.
//! - Requests with unknown fields are refused; answers may gain fields, so clients ignore what they do
//!   not know.
//! - Creations carry an optional `id`, made by the client: a repeated request is then the same request.

pub mod event;
pub mod flavor;
pub mod image;
pub mod keypair;
pub mod node;
pub mod overcommit;
pub mod problem;
pub mod status;
pub mod tenancy;
pub mod time;
pub mod token;
pub mod user;
pub mod vm;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub use self::{
    event::*, flavor::*, image::*, keypair::*, node::*, overcommit::*, problem::*, status::*, tenancy::*,
    time::Time, token::*, user::*, vm::*,
};

/// Page length when none is asked for.
pub const LIMIT_DEFAULT: u64 = 100;
/// The longest page: the answer stays around a megabyte.
pub const LIMIT_MAX: u64 = 1000;
/// The largest JSON body. The largest legitimate one is a VM with full user data in base64 (88 KiB).
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Names the request: a repeat with the same key is answered by the first's answer and done once.
/// A UUID; without it the server makes one, and a repeat is another request.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Correlates logs: taken from the request when well-formed, made otherwise, and always in the answer.
pub const REQUEST_ID: &str = "x-request-id";
/// Raft index of the state that the answer was read from.
pub const APPLIED_INDEX: &str = "x-scp-applied-index";
/// How old that state may be, in milliseconds; 0 for linearizable reads.
pub const AGE_MS: &str = "x-scp-age-ms";
/// `linearizable` (default) or `stale`; the query parameter `consistency` does the same.
pub const CONSISTENCY: &str = "x-scp-consistency";

/// One page of a list, ordered by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    pub items: Vec<T>,
    /// Give it as `page_token` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// What of a list to give.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Page length, 1 to 1000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// `next_page_token` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
    /// Only the one with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those of this project (id, name or department/name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Only those in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// `linearizable` (default) or `stale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub consistency: Option<Consistency>,
}

/// How to read one resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OneQuery {
    /// Project in which the name is looked up; needed only where several projects have that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// `linearizable` (default) or `stale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub consistency: Option<Consistency>,
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Reflects every write acknowledged before, by any node.
    #[default]
    Linearizable,
    /// What the asked node has, however old.
    Stale,
}

/// An amount of what a node offers and a VM takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub vcpus: u64,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

/// A resource by its id and its present name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reference {
    pub id: String,
    pub name: String,
}
