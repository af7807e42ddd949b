//! Cross-crate proof of udrbd: simulator, goldens, system tests.
