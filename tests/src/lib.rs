//! Cross-crate proof of udrbd: simulator, goldens, system tests.

pub mod capture;
pub mod drbdmeta;
pub mod hostile;
pub mod nbd_fuzz;
pub mod programs;
pub mod replay;
pub mod scratch;
pub mod sim;
pub mod system;
pub mod transcript;
pub mod two_engines;
