//! Cross-crate proof of udrbd: simulator, goldens, system tests.

pub mod system;
