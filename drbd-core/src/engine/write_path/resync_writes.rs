//! What the source of a resync answers, written to the disk of its target.

use super::peer_request::{InBitmap, PeerOp, PeerRequest};
use super::transfer::Ack;
use crate::engine::command::Command;
use crate::engine::resource::Resource;
use crate::engine::senseless::Senseless;
use crate::ids::{PayloadId, Sector};
use crate::wire::{Data, BLOCK_ID_RESYNC};

impl Resource {
    /// P_RS_DATA_REPLY.
    pub(in crate::engine) fn resync_data(
        &mut self,
        d: usize,
        data: &Data,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        peer_device.counters.received_sectors += u64::from(data.bytes) / 512;
        let asked = peer_device.answers_resync(data.sector, data.bytes);
        self.write_resynced(d, asked, (data.sector, data.bytes), payload, out)
    }

    /// Writes what the source answered to a question of the resync, if it was `asked`; zeroes if there is no payload.
    pub(in crate::engine) fn write_resynced(
        &mut self,
        d: usize,
        asked: Result<bool, Senseless>,
        (sector, bytes): (Sector, u32),
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        let session = self.session_number().expect("packets come in a session");
        if !matches!(asked, Ok(true)) {
            Resource::release(payload, out);
        }
        let request = PeerRequest {
            device: d,
            session,
            op: PeerOp::ResyncWrite,
            sector,
            bytes,
            block_id: BLOCK_ID_RESYNC,
            flags: 0,
            payload,
            epoch: 0,
            conflict: None,
            logged: false,
            alone: false,
            in_bitmap: InBitmap::No,
            attempt: 0,
        };
        if !asked? {
            // The source of a resync that broke off counts what it sent: it is told that this is not written. What this node
            // asks for now does not fail by that.
            self.ack_write(&request, Ack::Failed, out);
            return Ok(());
        }
        if self.devices[d].usable().is_none() || self.room_for_peer() == 0 {
            Resource::release(payload, out);
            self.resync_write_done(&request, false, out);
            return Ok(());
        }
        self.enter_peer_request(request, true, out);
        Ok(())
    }

    pub(super) fn resync_write_done(&mut self, request: &PeerRequest, written: bool, out: &mut Vec<Command>) {
        let d = request.device;
        if written {
            self.clear_mirrored(d, request.sector, request.bytes, out);
        }
        let now = self.now;
        let peer_device = &mut self.connection.as_mut().expect("a session").peer_devices[d];
        if let Some(resync) = &mut peer_device.resync {
            resync.written(request.sector, request.bytes, written, now);
        }
        self.ack_write(request, if written { Ack::WrittenInSync } else { Ack::Failed }, out);
        if self.devices[d].has_held() {
            self.start_held(d, out);
        }
    }
}
