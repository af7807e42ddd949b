//! Twelve bugs put into the engine on purpose, chosen before looking at which of them the simulator finds. Each is one
//! `if self.planted(Bug::…)` in the engine, compiled in only with the feature `planted-bugs` of `drbd-core`, which
//! nothing but the tests of this crate asks for. Every one must be found within 2,000 seeds.

use drbd_core::engine::planted::Bug as CoreBug;
use drbd_core::engine::Resource;

pub use drbd_core::engine::planted::Bug;

/// Every bug with where it is and what it does.
pub const BUGS: [(Bug, &str, &str); 12] = [
    (
        CoreBug::WriteBeforeTransaction,
        "activity log",
        "a write into a cold extent begins at once; the transaction that names the extent is never written",
    ),
    (
        CoreBug::ExtentReleasedEarly,
        "activity log",
        "a write lets go of its extent when it completes instead of at the peer's barrier ack, so that the extent may leave \
         the log before the peer's copy is stable",
    ),
    (
        CoreBug::PartialBlockCleared,
        "bitmap",
        "clearing rounds outwards: a block only partly covered by a write counts as in sync",
    ),
    (
        CoreBug::BarrierAckedEarly,
        "epochs",
        "the receiver answers a barrier at once, before the writes of its epoch are on disk",
    ),
    (
        CoreBug::FlushWithoutPeer,
        "flush",
        "under C a flush completes with the local flush, without the peer's barrier ack",
    ),
    (
        CoreBug::BarrierWithoutFlush,
        "flush",
        "the receiver answers a barrier when the writes are done, without flushing its disk",
    ),
    (CoreBug::NoNewGeneration, "generation", "a Primary that loses its peer's data keeps its current generation"),
    (
        CoreBug::ResyncOverNewer,
        "resync",
        "the source does not keep reading a block for the resync and writing it apart: the answer may be older than the \
         write that was mirrored before it",
    ),
    (
        CoreBug::LostWritesNotMarked,
        "reconnect",
        "when the connection is lost, writes without a barrier ack are not marked out of sync",
    ),
    (
        CoreBug::EvictionBeforeBitmap,
        "metadata order",
        "an extent leaves the activity log without the bitmap blocks that cover it being written first",
    ),
    // Chosen as "the source does not merge", which does no harm: the target asks for what either of the two knows.
    (
        CoreBug::PeerBitmapIgnored,
        "handshake",
        "the bitmap of the peer is received and not merged into the own one",
    ),
    (CoreBug::BothMayBePrimary, "role change", "a Primary grants its peer's request to become Primary too"),
];

/// Those of [two Primaries and the policies](super::two_primaries), found by seeds of that kind.
pub const BUGS_OF_TWO: [(Bug, &str, &str); 5] = [
    (
        CoreBug::SupersededIsDone,
        "concurrent writes",
        "a write that the peer turned away as superseded is done at once, though nothing says that what it met is stable",
    ),
    (
        CoreBug::ConcurrentWriteTaken,
        "concurrent writes",
        "the node that decides takes the peer's write although its own is unanswered",
    ),
    // Chosen as "the node that decides does not wait for the acknowledgements sent before a write", which costs time only:
    // what is turned away for it is done again.
    (
        CoreBug::TurnedAwayStaysInEpoch,
        "concurrent writes",
        "a write that was turned away stays counted in its epoch, as in 8.4",
    ),
    (
        CoreBug::TurnNotKept,
        "concurrent writes",
        "an own write gives its turn up when the own disk has it, though the peer has not answered",
    ),
    (CoreBug::PolicyNotAsked, "split brain", "after-sb-0pri disconnect discards the lesser changes"),
];

/// Puts a bug into an engine.
///
/// # Panics
/// If the engine was built without `planted-bugs`.
pub(crate) fn plant(resource: &mut Resource, bug: Bug) {
    assert!(resource.plant(bug), "drbd-core was built without the feature planted-bugs");
}
