//! Bugs that can be put in on purpose, to prove that the simulator finds them. Without the feature `planted-bugs`, which
//! only tests ask for, they do not exist: [`Resource::plant`](super::Resource::plant) refuses and every question for one is answered by a constant
//! `false`.

use super::resource::Resource;

/// One of them; what each does is told in `tests/src/sim/planted.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Bug {
    WriteBeforeTransaction,
    ExtentReleasedEarly,
    PartialBlockCleared,
    BarrierAckedEarly,
    FlushWithoutPeer,
    BarrierWithoutFlush,
    NoNewGeneration,
    ResyncOverNewer,
    LostWritesNotMarked,
    EvictionBeforeBitmap,
    PeerBitmapIgnored,
    BothMayBePrimary,
    BothChangesGranted,
    OutdatedNotKept,
    HistoryForgotten,
    CrashForgotten,
    ChecksumsAlwaysEqual,
    InvalidateMarksNothing,
    RefusedWriteAcked,
    DifferenceNotMarked,
    VerifyEndsEarly,
    AheadMarksNothing,
    HoldNotTold,
    SilenceNotNoticed,
    ReadFromAnyPeer,
    SupersededIsDone,
    ConcurrentWriteTaken,
    TurnedAwayStaysInEpoch,
    TurnNotKept,
    PolicyNotAsked,
    MovedWithoutInterim,
    SizeBeforeBits,
    NewPartNotMarked,
    FrozenCompletionsOut,
    ThawedEpochsOpen,
    GenerationsNotPaid,
    AtGoodPeerAlways,
    ProbeWithoutTurn,
    MetadataErrorIgnored,
    FailedReadAnswered,
    FencedWhateverItSays,
    ThawWithoutMarks,
    OneVolumesDataResumesAll,
    DeallocatedUnread,
    DeallocatedKept,
    ResumedOverPeersData,
    ResumedInOldGeneration,
    RefusedUpperIsDone,
    OpenEpochForgotten,
    SequenceForgotten,
    UnreadForgotten,
}

impl Resource {
    /// Puts a bug in. False if there are none in this build.
    pub fn plant(&mut self, bug: Bug) -> bool {
        #[cfg(feature = "planted-bugs")]
        {
            self.planted = Some(bug);
        }
        let _ = bug;
        cfg!(feature = "planted-bugs")
    }

    /// Whether that bug is in.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn planted(&self, bug: Bug) -> bool {
        self.planted == Some(bug)
    }

    /// Whether that bug is in: never in this build.
    #[cfg(not(feature = "planted-bugs"))]
    #[allow(clippy::unused_self)]
    pub(super) const fn planted(&self, _: Bug) -> bool {
        false
    }
}
