//! The API over a city of one process: the real state, a cluster without a network.

mod access;
mod ask;
mod bad_input;
mod city;
mod compute;
mod events;
mod guide;
mod idempotency;
mod native;
mod native_watch;
mod openapi;
mod pages;
mod problems;
mod roles;
mod status;
mod tenancy;
mod wire;
