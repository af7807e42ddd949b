//! One resource: all volumes, all peers, and every decision about them.

pub mod after_split_brain;
pub mod command;
pub mod device_size;
pub mod event;
pub mod generation;
pub mod state_change;
pub mod sync_decision;

#[cfg(test)]
mod decision_vectors;

pub use command::*;
pub use event::*;
