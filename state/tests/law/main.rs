//! The law, told in stories (`golden`), for every sequence of commands (`properties`), and as bytes
//! (`formats`), and asked (`queries`). One binary: the stories' words are shared, and linking once is quicker.

mod formats;
mod golden;
mod limits;
mod properties;
mod queries;
mod support;
