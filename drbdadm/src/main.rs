//! drbdadm: administers udrbd resources from drbd.conf. Everything is in the library, so that tests and fuzzers
//! reach it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ExitCode::from(drbdadm::main(&arguments))
}
