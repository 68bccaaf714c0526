//! HTTP: native v1 + OpenAPI and the typed client. Translates, never decides.

pub mod client;
pub mod cluster;
pub mod health;
pub mod local;
pub mod native;
pub mod server;
pub mod v1;
