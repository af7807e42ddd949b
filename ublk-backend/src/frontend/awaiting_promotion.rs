//! Writes to the block device of a Secondary that is to promote itself when it is written to (`auto-promote`): they wait
//! until it is known whether it is Primary, and are asked again or fail.

use super::Waiting;
use drbd_core::engine::{UpperOp, UpperRequest, UpperResult};
use drbd_core::ids::PayloadId;

/// They.
#[derive(Debug, Default)]
pub(crate) struct AwaitingPromotion {
    /// The option is on.
    pub(crate) wanted: bool,
    parked: Vec<(Waiting, PayloadId)>,
}

impl AwaitingPromotion {
    /// Whether what was answered is to wait.
    pub(crate) fn takes(&self, waiting: &Waiting, result: UpperResult) -> bool {
        let writes = !matches!(waiting.upper.op, UpperOp::Read | UpperOp::Flush);
        self.wanted && writes && result == UpperResult::NotPrimary
    }

    /// Has it wait. True: it is the first one, so that nobody has asked for the promotion yet.
    pub(crate) fn park(&mut self, waiting: Waiting, payload: PayloadId) -> bool {
        self.parked.push((waiting, payload));
        self.parked.len() == 1
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// What waited, with its buffer.
    pub(crate) fn settle(&mut self) -> Vec<(Waiting, PayloadId)> {
        let mut parked = std::mem::take(&mut self.parked);
        for (waiting, payload) in &mut parked {
            waiting.upper = UpperRequest { payload: *payload, ..waiting.upper };
        }
        parked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::Asker;
    use drbd_core::ids::{Sector, UpperTag, VolumeNumber};

    #[test]
    fn only_writes_that_a_secondary_refused_wait_and_one_of_them_asks() {
        let waiting = |op| Waiting {
            asker: Asker::Ublk(0),
            request: 1,
            offset_bytes: 0,
            upper: UpperRequest {
                tag: UpperTag(0),
                volume: VolumeNumber(0),
                op,
                sector: Sector(8),
                bytes: 4096,
                payload: PayloadId::NONE,
                fua: false,
            },
        };
        let mut awaiting = AwaitingPromotion::default();
        assert!(!awaiting.takes(&waiting(UpperOp::Write), UpperResult::NotPrimary), "the option is off");
        awaiting.wanted = true;
        assert!(awaiting.takes(&waiting(UpperOp::Write), UpperResult::NotPrimary));
        assert!(awaiting.takes(&waiting(UpperOp::Discard), UpperResult::NotPrimary));
        assert!(!awaiting.takes(&waiting(UpperOp::Read), UpperResult::NotPrimary));
        assert!(!awaiting.takes(&waiting(UpperOp::Write), UpperResult::IoError));
        assert!(awaiting.park(waiting(UpperOp::Write), PayloadId(3)));
        assert!(!awaiting.park(waiting(UpperOp::Write), PayloadId(4)));
        let settled = awaiting.settle();
        assert_eq!(
            settled.iter().map(|(w, _)| w.upper.payload).collect::<Vec<_>>(),
            [PayloadId(3), PayloadId(4)]
        );
        assert!(awaiting.park(waiting(UpperOp::Write), PayloadId(5)));
    }
}
