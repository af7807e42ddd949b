//! Clients that an NBD server should not have: they send rubbish, conversations that are nearly right, cut short, out of
//! order and slowly, they do not read, come in crowds and know TLS only roughly. Each is made from one number.
//!
//! What they may open and write is [`Target::theirs`]; of [`Target::honest`], which others use, they only read.

use crate::sim::Prng;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

mod conversation;
mod line;
mod manners;

/// The server.
#[derive(Clone, Debug)]
pub struct Target {
    /// The socket of the volume honest clients use; its name at the port is `0`, or none.
    pub honest: PathBuf,
    /// The socket of the volume that is theirs; its name at the port is `1`.
    pub theirs: PathBuf,
    /// The port, where TLS may be used.
    pub port: SocketAddr,
    /// How to use it.
    pub tls: Arc<ClientConfig>,
}

/// One of them does what its number says. What it was is told, for whoever looks for the cause of something.
pub fn attack(target: &Target, seed: u64) -> &'static str {
    let mut dice = Prng::new(seed, 1);
    match dice.below(100) {
        0..12 => manners::rubbish(target, &mut dice),
        12..72 => manners::talk(target, &mut dice),
        72..80 => manners::never_read(target, &mut dice),
        80..84 => manners::crowd(target, &mut dice),
        84..94 => manners::rough_tls(target, &mut dice),
        _ => manners::leave_at_once(target, &mut dice),
    }
}
