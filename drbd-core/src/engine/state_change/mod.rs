//! How any state may change: propose, [`settle`](settle()), [`judge`](mod@judge), then commit (by the engine).
//!
//! `settle` turns what is wanted into what follows from it, `judge` says whether that may be. Both are lists of small
//! named rules on a [`Snapshot`]; neither knows sockets, disks or timers. The rules are those of DRBD 8.4 (5.5 to 5.7
//! of the wire reference), so that both ends of a connection draw the same conclusions.

pub mod attach;
pub mod judge;
pub mod settle;
pub mod snapshot;

pub use attach::{found_at_attach, FoundAtAttach};
pub use judge::{full_sync_refusal, judge_cluster_wide, judge_local, needs_peer, verify_refusal, Verdict};
pub use settle::{settle, Settled};
pub use snapshot::{Context, FencingPolicy, Snapshot};

#[cfg(test)]
mod tests;
