//! drbdadm: drbd.conf in, calls of drbdsetup and drbdmeta out. It never opens a device or a daemon's socket.
//!
//! The way of a command: [`cli`] reads the command line, [`load`] the files ([`lexer`], [`parser`], [`syntax`]),
//! [`resolve`] fills in and checks what they mean, [`wanted`] narrows it to this host, [`select`] to the arguments,
//! [`plan`] turns it into calls and [`run`] makes them. `adjust` looks at what runs first. Everything between `load`
//! and `run` is a function of values.

#![forbid(unsafe_code)]

pub mod adjust;
pub mod app;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod diagnostics;
pub mod dump;
pub mod dump_xml;
pub mod glob;
pub mod handlers;
pub mod help;
pub mod host;
pub mod lexer;
pub mod load;
pub mod parser;
pub mod plan;
pub mod resolve;
pub mod run;
pub mod select;
pub mod syntax;
pub mod wanted;

pub use app::main;
