//! A disk and a network that fail on demand. For tests and simulations only.

mod disk;
mod network;
mod pages;

pub use disk::{Loss, MemDisk};
pub use network::Switch;
