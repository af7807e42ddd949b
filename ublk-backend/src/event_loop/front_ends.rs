//! What front ends ask, and what they are answered: requests go to the engine while there is room for them and nothing holds
//! them back, and their ends go to whoever asked.

use super::{DataLoop, Holding};
use crate::disk_io::Disks;
use crate::frontend::block_status::{all_data, allocation_of, out_of_sync_in};
use crate::frontend::{nbd, Asker, Gate, StatusContext, StatusRun, Waiting};
use crate::mailbox::ToControl;
use drbd_core::engine::{Event, RequestLimits, Resource, UpperResult};
use drbd_core::ids::{PayloadId, Sector, UpperTag, VolumeNumber};
use tokio::sync::oneshot::Sender;

impl DataLoop {
    /// Hands over requests until the session has no complete one left.
    pub(super) fn drain_session(&mut self, slot: u32) {
        loop {
            let gate = EngineGate { engine: &self.engine, disks: &self.disks };
            match self.nbd.next(slot, &gate, &mut self.ring, &mut self.pools, &mut self.uppers) {
                nbd::Next::Upper(request) => self.deliver(Event::Upper(request)),
                nbd::Next::Opened(volume) => self.deliver(Event::Opened { volume }),
                nbd::Next::Closed(volume) => self.deliver(Event::Closed { volume }),
                nbd::Next::KernelLeft(volume) => self.control.send(ToControl::KernelLeft(volume)),
                nbd::Next::Wait => return,
            }
        }
    }

    /// Holds requests of front ends back, or not any more. Clients of sockets are sent away: what they have open would keep
    /// this node from stepping down.
    pub(super) fn hold(&mut self, tell: Option<Sender<()>>) {
        self.nbd.hold(tell.is_some(), &mut self.ring, &mut self.pools);
        self.holding = tell.map(Holding::Draining);
    }

    pub(super) fn look_at_holding(&mut self) {
        let at_rest = self.uppers.is_empty() && self.promotion.is_empty() && self.nbd.has_no_clients();
        if let Some(Holding::Draining(tell)) =
            self.holding.take_if(|h| at_rest && matches!(h, Holding::Draining(_)))
        {
            self.holding = Some(Holding::Drained);
            let _ = tell.send(());
        }
    }

    /// Hands over requests of ublk devices as long as there is room and memory for them.
    pub(super) fn drain_ublk(&mut self) {
        while self.holding.is_none() {
            let gate = EngineGate { engine: &self.engine, disks: &self.disks };
            match self.ublk.next(&gate, &mut self.ring, &mut self.pools, &mut self.uppers) {
                Some(request) => self.deliver(Event::Upper(request)),
                None => return,
            }
        }
    }

    /// A front end's request ended.
    pub(super) fn complete(&mut self, tag: UpperTag, done: (UpperResult, PayloadId)) {
        let Some(waiting) = self.uppers.remove(tag) else { return };
        let (result, payload) = done;
        if self.promotion.takes(&waiting, result) && self.is_of_kernel(waiting.asker) {
            if self.promotion.park(waiting, payload) {
                self.control.send(ToControl::Promote);
            }
            return;
        }
        self.finish(waiting, done);
    }

    /// Whether a front end's user is a block device of this host's kernel.
    fn is_of_kernel(&self, asker: Asker) -> bool {
        match asker {
            Asker::Ublk(_) => true,
            Asker::Nbd(slot) => self.nbd.is_kernel(slot),
        }
    }

    /// What waited for this node's promotion is asked again, or fails.
    pub(super) fn settle_promotion(&mut self, promoted: bool) {
        for (waiting, payload) in self.promotion.settle() {
            if promoted {
                self.uppers.insert_again(waiting);
            } else {
                self.finish(waiting, (UpperResult::NotPrimary, payload));
            }
        }
        self.events.extend(self.uppers.take_again().map(Event::Upper));
        while let Some(event) = self.events.pop_front() {
            self.deliver(event);
        }
    }

    fn finish(&mut self, waiting: Waiting, done: (UpperResult, PayloadId)) {
        let gate = EngineGate { engine: &self.engine, disks: &self.disks };
        let (ring, pools, uppers) = (&mut self.ring, &mut self.pools, &mut self.uppers);
        match waiting.asker {
            Asker::Nbd(slot) => {
                let ending = self.nbd.complete(slot, &waiting, done, &gate, pools, uppers);
                match ending.then(|| self.nbd.next(slot, &gate, ring, pools, uppers)) {
                    Some(nbd::Next::Closed(volume)) => self.events.push_back(Event::Closed { volume }),
                    Some(nbd::Next::KernelLeft(volume)) => self.control.send(ToControl::KernelLeft(volume)),
                    Some(nbd::Next::Upper(_) | nbd::Next::Opened(_) | nbd::Next::Wait) | None => {}
                }
            }
            Asker::Ublk(_) => {
                if let Some(volume) = self.ublk.complete(&waiting, done, &gate, ring, pools, uppers) {
                    self.control.send(ToControl::KernelLeft(volume));
                }
            }
        }
        self.events.extend(self.uppers.take_again().map(Event::Upper));
    }
}

struct EngineGate<'a> {
    engine: &'a Resource,
    disks: &'a Disks,
}

impl Gate for EngineGate<'_> {
    fn may_open(&self, volume: VolumeNumber) -> Result<Sector, String> {
        self.engine.may_open(volume)
    }

    fn limits(&self, volume: VolumeNumber) -> RequestLimits {
        self.engine.request_limits(volume)
    }

    fn block_status(
        &self,
        volume: VolumeNumber,
        context: StatusContext,
        stretch: std::ops::Range<u64>,
        most: usize,
    ) -> Vec<StatusRun> {
        let known = match context {
            StatusContext::Allocation if self.engine.is_disk_up_to_date(volume) => {
                self.disks.data_file(volume).map(|file| allocation_of(file, stretch.clone(), most))
            }
            StatusContext::Allocation => None,
            StatusContext::OutOfSync => {
                let words = self.engine.out_of_sync_words(volume);
                words.map(|words| out_of_sync_in(words, stretch.clone(), most))
            }
        };
        known.filter(|runs| !runs.is_empty()).unwrap_or_else(|| all_data(&stretch))
    }
}
