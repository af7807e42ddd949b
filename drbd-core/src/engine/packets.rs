//! Where packets go: one arm per packet, nothing decided here.

use super::command::Command;
use super::connection::Stage;
use super::resource::Resource;
use super::senseless::{check_change, senseless, Senseless};
use super::session::Fault;
use super::write_path::peer_request::PeerOp;
use super::write_path::transfer::Ack;
use crate::ids::{PayloadId, SocketId, VolumeNumber};
use crate::states::{Conn84, ConnectionState, ReplicationState};
use crate::wire::state_word::{conn_of, field};
use crate::wire::{data_flag, feature, BlockAck, Frame, Packet, Trim, BLOCK_ID_RESYNC};

impl Resource {
    /// A packet arrived.
    pub(super) fn packet(
        &mut self,
        socket: SocketId,
        frame: Frame,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) {
        if self.pairing_packet(socket, &frame, out) {
            Resource::release(payload, out);
            return;
        }
        self.session_packet(socket, frame, payload, out);
    }

    pub(super) fn session_packet(
        &mut self,
        socket: SocketId,
        frame: Frame,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) {
        let now = self.now;
        let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) else {
            Resource::release(payload, out);
            return;
        };
        session.last_heard = now;
        let stage = session.stage;
        let result = if socket == session.control {
            self.control_packet(frame, out).and_then(|()| self.go_on_with_stream(out))
        } else if socket != session.data {
            Resource::release(payload, out);
            Ok(())
        } else if stage == Stage::Up {
            self.data_in_order(frame, payload, out)
        } else {
            Resource::release(payload, out);
            self.handshake_packet(stage, frame, out)
        };
        if let Err(fault) = result {
            self.fault(fault, out);
        }
    }

    fn handshake_packet(&mut self, stage: Stage, frame: Frame, out: &mut Vec<Command>) -> Result<(), Fault> {
        match (stage, frame.packet) {
            (Stage::Features, Packet::Features(features)) => self.features_received(&features, out),
            (Stage::Challenge, Packet::AuthChallenge(bytes)) => self.challenge_received(&bytes, out),
            (Stage::Challenge | Stage::Response, Packet::AuthResponse(bytes)) => {
                self.response_received(bytes, out);
                Ok(())
            }
            (Stage::Settings, Packet::Protocol(settings)) => self.settings_received(&settings, out),
            (Stage::Challenge, _) => Err(Fault::Fatal(
                "The peer does not authenticate itself: it has no cram-hmac-alg configured".to_owned(),
            )),
            (Stage::Settings, Packet::AuthChallenge(_)) => Err(Fault::Fatal(
                "The peer asks for authentication: configure cram-hmac-alg and shared-secret here as well"
                    .to_owned(),
            )),
            (stage, packet) => {
                let (name, awaited) = (packet.name(), stage.awaits());
                Err(untimely(name, &format!("{awaited} is awaited")))
            }
        }
    }

    pub(super) fn data_packet(
        &mut self,
        frame: Frame,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let Frame { volume, packet } = frame;
        let name = packet.name();
        match packet {
            Packet::Barrier(barrier) => self.peer_barrier(barrier, out).map_err(|s| s.in_packet(name)),
            Packet::UnplugRemote => {
                self.peer_urges(out);
                Ok(())
            }
            Packet::Ignored => Ok(()),
            Packet::ProtocolUpdate(settings) => {
                self.changed_settings_received(&settings, out).map_err(|s| s.in_packet(name))
            }
            Packet::ConnStateChangeRequest { mask, val } => {
                check_change(mask, val).map_err(|s| s.in_packet(name))?;
                self.peer_asks_change(None, mask, val, out);
                Ok(())
            }
            Packet::InitialData
            | Packet::InitialMeta
            | Packet::Features(_)
            | Packet::AuthChallenge(_)
            | Packet::AuthResponse(_)
            | Packet::Protocol(_) => Err(untimely(name, "the handshake is over")),
            packet => match self.device_index(volume) {
                Some(d) => self.volume_packet(d, packet, payload, out),
                None => {
                    Resource::release(payload, out);
                    self.unknown_volume(volume, &packet, out)
                }
            },
        }
    }

    fn unknown_volume(
        &mut self,
        volume: VolumeNumber,
        packet: &Packet,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        match packet {
            Packet::SyncParam(_) | Packet::Sizes(_) | Packet::Uuids(_) => Ok(()),
            Packet::State(_) => {
                let text = format!(
                    "The peer has a volume {volume} that is not configured here; it is not replicated"
                );
                self.log("unknown-volume", super::command::Level::Warning, self.peer_subject(), text, out);
                Ok(())
            }
            // It asks to let go of what this node has let go of itself.
            &Packet::StateChangeRequest { mask, val } if asks_to_leave(mask, val) => {
                let nothing_to_do = Packet::StateChangeReply(2);
                self.send_control(volume, nothing_to_do, out);
                Ok(())
            }
            other => Err(wrong_volume(volume, other)),
        }
    }

    fn volume_packet(
        &mut self,
        d: usize,
        packet: Packet,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let name = packet.name();
        if let Err(senseless) = self.check_place(d, &packet) {
            Resource::release(payload, out);
            return Err(senseless.in_packet(name));
        }
        match packet {
            Packet::SyncParam(_) | Packet::Sizes(_) | Packet::Uuids(_) | Packet::State(_)
                if self.has_left(d) =>
            {
                Ok(())
            }
            Packet::SyncParam(param) => self.sync_param_received(d, &param, out),
            Packet::Sizes(sizes) => self.sizes_received(d, *sizes, out),
            Packet::Uuids(uuids) => self.uuids_received(d, *uuids, out),
            Packet::State(word) => self.state_received(d, word, out),
            Packet::SyncUuid(name) => self.sync_uuid(d, name, out),
            Packet::StateChangeRequest { mask, val } => {
                check_change(mask, val).map_err(|s| s.in_packet(name))?;
                self.peer_asks_change(Some(d), mask, val, out);
                Ok(())
            }
            Packet::Bitmap(bytes) => self.plain_bitmap(d, &bytes, out),
            Packet::CompressedBitmap(code) => self.coded_bitmap(d, &code, out),
            Packet::OutOfSync(extent) => {
                self.peer_marks(d, &extent);
                Ok(())
            }
            packet => self.io_packet(d, packet, payload, out).map_err(|s| s.in_packet(name)),
        }
    }

    fn io_packet(
        &mut self,
        d: usize,
        packet: Packet,
        payload: PayloadId,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        if self.snapshot(Some(d)).replication == ReplicationState::Off {
            Resource::release(payload, out);
            return senseless("time", 0, "before the peer told its state");
        }
        match packet {
            Packet::Data(data) => {
                let write = Trim {
                    sector: data.sector,
                    block_id: data.block_id,
                    seq: data.seq,
                    flags: data.flags,
                    bytes: data.bytes,
                };
                self.peer_writes(d, PeerOp::Write, &write, payload, out)
            }
            Packet::Trim(trim) => {
                let zeroes = self
                    .connection
                    .as_ref()
                    .and_then(|c| c.session())
                    .is_some_and(|s| s.has(feature::ZEROES));
                // Without P_ZEROES the sender may mean zeroes by it.
                let op = if zeroes { PeerOp::Trim } else { PeerOp::Zeroes { unmap: true } };
                self.peer_writes(d, op, &trim, payload, out)
            }
            Packet::Zeroes(trim) => {
                let op = PeerOp::Zeroes { unmap: trim.flags & data_flag::DISCARD != 0 };
                self.peer_writes(d, op, &trim, payload, out)
            }
            Packet::DataReply(data) => self.read_answered(d, &data, payload, out),
            Packet::RsDataReply(data) => self.resync_data(d, &data, payload, out),
            Packet::DataRequest(block) => {
                self.peer_reads(d, PeerOp::Read, &block, out);
                Ok(())
            }
            Packet::RsDataRequest(block) => {
                self.peer_reads(d, PeerOp::ResyncRead, &block, out);
                Ok(())
            }
            Packet::RsThinRequest(block) => {
                self.peer_reads(d, PeerOp::ThinRead, &block, out);
                Ok(())
            }
            Packet::RsDeallocated(extent) => self.resync_deallocated(d, &extent, out),
            Packet::CsumRsRequest(request) => {
                self.checksum_asked(d, *request, out);
                Ok(())
            }
            Packet::OvRequest(block) => self.verify_asked(d, &block, out),
            Packet::OvReply(reply) => self.verify_answered(d, *reply, out),
            _ => {
                Resource::release(payload, out);
                senseless("command", 0, "which this version of udrbd does not know")
            }
        }
    }

    fn control_packet(&mut self, frame: Frame, out: &mut Vec<Command>) -> Result<(), Fault> {
        let Frame { volume, packet } = frame;
        match packet {
            Packet::Ping => {
                self.answer_ping(out);
                Ok(())
            }
            Packet::PingAck => {
                self.ping_answered(out);
                Ok(())
            }
            Packet::BarrierAck { barrier, set_size } => {
                self.barrier_acknowledged(barrier, set_size, out).map_err(|s| s.in_packet(packet.name()))
            }
            Packet::StateChangeReply(code) | Packet::ConnStateChangeReply(code) => {
                self.peer_answered_change(code, out).map_err(|s| s.in_packet(packet.name()))
            }
            packet => match self.device_index(volume) {
                Some(d) => self.ack_packet(d, &packet, out).map_err(|s| s.in_packet(packet.name())),
                None => Err(wrong_volume(volume, &packet)),
            },
        }
    }

    fn ack_packet(&mut self, d: usize, packet: &Packet, out: &mut Vec<Command>) -> Result<(), Senseless> {
        let resync = |ack: &BlockAck| ack.block_id == BLOCK_ID_RESYNC;
        self.note_sequence(d, packet);
        match packet {
            Packet::RsWriteAck(ack) if resync(ack) => self.resync_acknowledged(d, ack, true, out),
            Packet::NegAck(ack) if resync(ack) => self.resync_acknowledged(d, ack, false, out),
            Packet::RecvAck(ack) => self.write_acknowledged(d, ack, Ack::Received, out),
            Packet::WriteAck(ack) => self.write_acknowledged(d, ack, Ack::Written, out),
            Packet::RsWriteAck(ack) => self.write_acknowledged(d, ack, Ack::WrittenInSync, out),
            Packet::NegAck(ack) => self.write_acknowledged(d, ack, Ack::Failed, out),
            Packet::Superseded(ack) => self.write_acknowledged(d, ack, Ack::Superseded, out),
            Packet::RetryWrite(ack) => self.write_acknowledged(d, ack, Ack::Retry, out),
            Packet::NegDreply(ack) => self.read_refused(d, ack, out),
            Packet::NegRsDreply(ack) if self.verifies(d) => self.verify_refused(d, ack, out),
            Packet::NegRsDreply(ack) | Packet::RsCancel(ack) => self.resync_answer_refused(d, ack, out),
            Packet::OvResult(ack) => self.verdict_received(d, ack, out),
            Packet::RsIsInSync(ack) => self.checksum_equal(d, ack, out),
            _ => senseless("command", 0, "which this version of udrbd does not know"),
        }
    }

    /// The peer closes in an orderly way.
    pub(super) fn tear_down(&mut self, out: &mut Vec<Command>) {
        self.end_session(ConnectionState::TearDown, "The peer disconnected", out);
    }
}

fn untimely(name: &str, now: &str) -> Fault {
    Fault::Protocol(format!("The peer sent a {name} that makes no sense: its time is wrong, {now}."))
}

fn wrong_volume(volume: VolumeNumber, packet: &Packet) -> Fault {
    let why = "which is not configured here";
    Senseless { field: "volume", got: volume.0.into(), why }.in_packet(packet.name())
}

/// The question of a node that is about to delete a volume.
fn asks_to_leave(mask: u32, val: u32) -> bool {
    mask == field::CONN && conn_of(val) == Some(Conn84::WF_REPORT_PARAMS)
}
