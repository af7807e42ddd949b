//! The pure core of udrbd.
//!
//! Everything here is a value or a function of values: no file, socket, clock, thread or random source is touched
//! (`tests/tests/tidy.rs` and `clippy.toml` keep it so). Time and bytes come in as values, work to be done goes out
//! as values, so the whole of replication runs unchanged under the daemon and under the simulator.
//!
//! Reading order: [`ids`], [`states`], [`refusal`], [`limits`]; then [`wire`] and [`metadata`] (bytes and their
//! meaning), [`config`] (what an administrator can say), [`control`] (the words between tools and daemon), and
//! [`engine`], which decides.

#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod engine;
pub mod ids;
pub mod limits;
pub mod metadata;
pub mod refusal;
pub mod states;
pub mod wire;
