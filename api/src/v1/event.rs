//! Events: what happened.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Consistency, Time};

/// Name of the SSE frame that carries an [`Event`].
pub const SSE_EVENT: &str = "event";
/// Name of the SSE frame that says from where on the watch sees everything: [`Ready`].
pub const SSE_READY: &str = "ready";
/// Name of the SSE frame that says that events were missed: [`Resync`].
pub const SSE_RESYNC: &str = "resync";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts up by one from the city's first event; the `id` of the SSE frame.
    pub sequence: u64,
    /// Raft index of the command that caused it.
    pub index: u64,
    pub time: Time,
    /// `vm_created`, `node_down`, …
    pub kind: String,
    pub subject: Subject,
    pub actor: Actor,
    /// Id of the project whose tenants may see it.
    pub project: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// What else is known, by name; depends on the kind.
    #[schema(value_type = Object)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// What it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// `vm`, `node`, …
    pub kind: String,
    /// Empty for the city.
    pub id: String,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    /// `user`, `node`, `leader`, or `local`: root on a server.
    pub kind: String,
    pub id: String,
}

/// Which events. Oldest first; pages go by `after`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only those with a higher sequence number. A watch without it begins with what happens next; a
    /// watch's `Last-Event-ID` header goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only those about this kind of thing: `vm`, `node`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_kind: Option<String>,
    /// Only those about the thing with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_id: Option<String>,
    /// Only those of this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Lists only: at most this many, 1 to 1000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Lists only: the newest ones instead of the ones right after `after`.
    #[serde(default)]
    pub newest: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub consistency: Option<Consistency>,
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    pub items: Vec<Event>,
    /// `after` for the next page, or for a watch that goes on from here.
    pub after: u64,
    /// More are there already.
    pub more: bool,
    /// Sequence number of the oldest event that is still kept.
    pub oldest: u64,
}

/// The watch sees everything with a higher sequence number than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    pub sequence: u64,
}

/// Events between `asked` and `oldest` are kept no longer: list again what is watched; the watch goes on
/// after `sequence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resync {
    pub asked: u64,
    pub oldest: u64,
    pub sequence: u64,
}
