//! One file a noun: what can be typed about it, and what that does.

pub mod completions;
pub mod console;
pub mod context;
pub mod department;
pub mod events;
pub mod explain;
pub mod flavor;
pub mod image;
pub mod init;
pub mod join;
pub mod keypair;
pub mod leave;
pub mod login;
pub mod node;
pub mod overcommit;
pub mod project;
pub mod status;
pub mod token;
pub mod user;
pub mod vm;
