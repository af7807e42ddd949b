//! The hot path: what happens to requests of the front end and to what a peer asks of us.

mod answers;
pub(super) mod conflicts;
pub(super) mod epoch;
pub(super) mod log_entry;
pub(super) mod marks;
mod peer_reads;
pub(super) mod peer_request;
pub(super) mod reads;
pub(super) mod received;
pub(super) mod request;
mod resync_writes;
pub(super) mod transfer;
pub(super) mod two_primaries;
