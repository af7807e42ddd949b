//! One resource: all volumes, all peers, and every decision about them.

pub mod command;
pub mod event;

pub use command::*;
pub use event::*;
