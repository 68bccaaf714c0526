//! What happened in a run of a city, told to people: as columns for a terminal and as a page for a browser.
//!
//! ```text
//!   sim/ (virtual time) ──┐                       ┌─▶ columns: a lane a node, a line an event
//!                         ├─▶ Record ─▶ story ────┤
//!   chaos/ (real time) ───┘      │                └─▶ page: the same lines below the chart
//!                                └──▶ spans ─▶ chart: time across, nodes down
//! ```
//!
//! # Guarantees
//! - Pure: the same [`Record`] gives the same bytes. Nothing here knows a clock or a file.
//! - A page is one file that loads nothing: its content security policy allows its own style and script, by
//!   their hashes, and nothing else. Every text that comes from a run is escaped.
//! - A long run makes a longer page, not a larger one without end: requests of the same pixel are one tick, an
//!   index is a point a pixel, and what exceeds [`page::MARKS_MAX`] or [`story::ROWS_MAX`] is counted.
//!
//! # Reading it
//! Both begin with a legend. In the columns `█` leads, `│` follows, `x` is killed; in the page each fault has
//! a pattern besides its colour, each mark a title, and the arrow keys go from mark to mark.

mod axis;
mod chart;
pub mod columns;
pub mod page;
pub mod record;
pub mod spans;
pub mod story;

pub use record::{Fault, Operation, Outcome, Record, Role, Verdict, What};
