//! Bugs put into the engine on purpose, chosen before looking at which of them the simulator finds. Each is one
//! `if self.planted(Bug::…)` in the engine, compiled in only with the feature `planted-bugs` of `drbd-core`, which
//! nothing but the tests of this crate asks for. Every one must be found within 2,000 seeds, but for the one
//! that is [`HARMLESS`].

use super::{administered, changes, growth, hand_over, recovery, thin, two_primaries, upkeep};
use drbd_core::engine::planted::Bug as CoreBug;
use drbd_core::engine::Resource;

pub use drbd_core::engine::planted::Bug;

/// A bug, where it is and what it does.
pub type Row = (Bug, &'static str, &'static str);

/// Those of the first kind of runs.
pub const BUGS: [Row; 12] = [
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

/// Those of [two Primaries and the policies](two_primaries), found by seeds of that kind.
pub const BUGS_OF_TWO: [Row; 5] = [
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

/// Those of [disk trouble, freeze and thaw](super::trouble), found by seeds of the kind that is
/// [administered], which has all that.
pub const BUGS_OF_TROUBLE: [Row; 5] = [
    (CoreBug::FrozenCompletionsOut, "freeze", "completions go upward while requests are frozen"),
    (
        CoreBug::GenerationsNotPaid,
        "thaw",
        "requests that go on without the peer do not begin the generation that is owed",
    ),
    (CoreBug::MetadataErrorIgnored, "metadata", "metadata that could not be written counts as written"),
    (
        CoreBug::FailedReadAnswered,
        "disk errors",
        "a read that the disk failed is answered, with whatever is in the buffer",
    ),
    (CoreBug::ThawWithoutMarks, "thaw", "what the peer cannot be sent again is not marked out of sync"),
];

/// Those of [changes], found by seeds of that kind. Chosen with the others, and found by none of the first hundreds of seeds
/// of the older kinds: what has to come together for them is rare, and is what the themes of this kind bring together.
pub const BUGS_OF_CHANGES: [Row; 8] = [
    (CoreBug::ProbeWithoutTurn, "full disk", "the write that looks for space does not wait for its turn"),
    (CoreBug::FencedWhateverItSays, "fencing", "whatever fence-peer answers, the peer counts as Outdated"),
    (
        CoreBug::OneVolumesDataResumesAll,
        "freeze",
        "requests go on as soon as one of the volumes has good data again",
    ),
    (
        CoreBug::BothChangesGranted,
        "state",
        "the node that decides grants its peer's change while it waits for the peer's answer to its own",
    ),
    (CoreBug::OutdatedNotKept, "state", "that a disk is Outdated is shown and not kept in its metadata"),
    (CoreBug::RefusedWriteAcked, "resync", "a write that the peer's disk failed is acknowledged as written"),
    (
        CoreBug::AtGoodPeerAlways,
        "thaw",
        "a copy on a peer's disk counts although a resync may have overwritten it there",
    ),
    (
        CoreBug::ThawedEpochsOpen,
        "thaw",
        "what is sent again is not divided into the epochs of before, nor is the last one closed",
    ),
];

/// Chosen with the others, and harmless, because another rule makes it so: a node answers the reads of its peer only while
/// its own disk is UpToDate (`a_read_is_answered_by_good_data_only` of the engine's tests).
pub const HARMLESS: [Row; 1] = [(
    CoreBug::ReadFromAnyPeer,
    "reads",
    "a read that this node cannot serve is asked of any peer, whatever its disk",
)];

/// Those of [growth], found by seeds of that kind; each also by the enumeration of every write in the engine's tests.
pub const BUGS_OF_GROWTH: [Row; 3] = [
    (
        CoreBug::MovedWithoutInterim,
        "resize",
        "metadata that moves over itself does not say first that nothing of it counts",
    ),
    (
        CoreBug::SizeBeforeBits,
        "resize",
        "the super block tells the new size before the bits of the new part are kept",
    ),
    (CoreBug::NewPartNotMarked, "resize", "the new part of a device is not marked"),
];

/// Those of [upkeep], found by seeds of that kind.
pub const BUGS_OF_UPKEEP: [Row; 9] = [
    (CoreBug::HistoryForgotten, "generation", "the history of generations is not kept"),
    (CoreBug::CrashForgotten, "generation", "a Primary that crashed does not know it afterwards"),
    (CoreBug::ChecksumsAlwaysEqual, "resync", "the source of a resync by checksums finds every block equal"),
    (CoreBug::InvalidateMarksNothing, "resync", "invalidate begins a resync without marking anything"),
    (CoreBug::DifferenceNotMarked, "verify", "a block that differs is counted and not marked"),
    (CoreBug::VerifyEndsEarly, "verify", "the last block is not verified"),
    (CoreBug::AheadMarksNothing, "congestion", "what is written while Ahead is not marked"),
    (CoreBug::HoldNotTold, "resync", "pause-sync and resume-sync are not told to the peer"),
    (CoreBug::SilenceNotNoticed, "link", "a ping that is not answered is waited for for ever"),
];

/// Those of [discard-aware resync](thin), found by seeds of that kind.
pub const BUGS_OF_THIN: [Row; 2] = [
    (CoreBug::DeallocatedUnread, "resync", "the source says that there are only zeroes without looking"),
    (
        CoreBug::DeallocatedKept,
        "resync",
        "the target that hears of zeroes calls the piece in sync and keeps what it has",
    ),
];

/// Those of [recovery], found by seeds of that kind.
pub const BUGS_OF_RECOVERY: [Row; 3] = [
    (
        CoreBug::ResumedOverPeersData,
        "resumption",
        "a daemon that begins where one died as Primary asks for the role as anybody may",
    ),
    (
        CoreBug::ResumedInOldGeneration,
        "resumption",
        "a node that is Primary again without its peer keeps its current generation",
    ),
    (CoreBug::RefusedUpperIsDone, "resumption", "a Secondary calls requests done that it does not carry out"),
];

/// Those of [handing a session over](hand_over), found by seeds of that kind.
pub const BUGS_OF_HAND_OVER: [Row; 3] = [
    (
        CoreBug::OpenEpochForgotten,
        "hand-over",
        "the next daemon does not know what came of the peer since its last barrier",
    ),
    (CoreBug::SequenceForgotten, "hand-over", "packets of the next daemon are numbered from the beginning"),
    (
        CoreBug::UnreadForgotten,
        "hand-over",
        "what had arrived and was not yet read is lost with the old daemon",
    ),
];

/// A bug that is found.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Which.
    pub bug: Bug,
    /// Area of the engine.
    pub place: &'static str,
    /// What it does.
    pub what: &'static str,
    /// First seed of the kind that finds it.
    pub first_seed: u64,
}

/// All that are found.
pub fn all() -> Vec<Planted> {
    let kinds: [(&[Row], u64); 9] = [
        (&BUGS, 0),
        (&BUGS_OF_TWO, two_primaries::FIRST_SEED),
        (&BUGS_OF_TROUBLE, administered::FIRST_SEED),
        (&BUGS_OF_UPKEEP, upkeep::FIRST_SEED),
        (&BUGS_OF_CHANGES, changes::FIRST_SEED),
        (&BUGS_OF_GROWTH, growth::FIRST_SEED),
        (&BUGS_OF_THIN, thin::FIRST_SEED),
        (&BUGS_OF_RECOVERY, recovery::FIRST_SEED),
        (&BUGS_OF_HAND_OVER, hand_over::FIRST_SEED),
    ];
    let bugs = kinds.into_iter().flat_map(|(bugs, first)| bugs.iter().map(move |bug| (*bug, first)));
    bugs.map(|((bug, place, what), first_seed)| Planted { bug, place, what, first_seed }).collect()
}

/// Puts a bug into an engine.
///
/// # Panics
/// If the engine was built without `planted-bugs`.
pub(crate) fn plant(resource: &mut Resource, bug: Bug) {
    assert!(resource.plant(bug), "drbd-core was built without the feature planted-bugs");
}
