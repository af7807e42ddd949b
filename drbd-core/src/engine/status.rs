//! The resource as status, show and events2 see it.

use super::peer_device::PeerDevice;
use super::resource::Resource;
use crate::control::{
    ConnectionObject, ConnectionStatus, DeviceObject, PathObject, PeerDeviceObject, ResourceObject,
    ResourceStatus, ResyncObject,
};
use crate::states::{DiskState, Role};
use core::net::SocketAddr;

impl Resource {
    /// Everything there is to see.
    pub fn status(&self) -> ResourceStatus {
        ResourceStatus {
            resource: self.resource_object(),
            devices: (0..self.devices.len()).map(|d| self.device_object(d)).collect(),
            connections: self
                .connection
                .iter()
                .map(|connection| ConnectionStatus {
                    connection: self.connection_object(connection),
                    paths: path_objects(connection),
                    peer_devices: (0..self.devices.len())
                        .map(|d| self.peer_device_object(connection, d))
                        .collect(),
                })
                .collect(),
        }
    }

    fn resource_object(&self) -> ResourceObject {
        ResourceObject {
            name: self.name.clone(),
            node_id: self.node_id,
            role: self.role,
            suspended: self.suspended,
            force_io_failures: self.force_io_failures,
            write_ordering: self.write_ordering().name().to_owned(),
            may_promote: self.may_promote(),
            promotion_score: self.promotion_score(),
            last_decision: self.last_decision.clone(),
        }
    }

    fn may_promote(&self) -> bool {
        let peer_primary = self.connection.as_ref().is_some_and(|c| c.peer_role == Role::Primary);
        let reachable = |d: usize| {
            self.devices[d].disk == DiskState::UpToDate || self.peer_disk(d) == DiskState::UpToDate
        };
        self.role != Role::Primary
            && !peer_primary
            && !self.devices.is_empty()
            && (0..self.devices.len()).all(reachable)
    }

    fn promotion_score(&self) -> u32 {
        if self.devices.is_empty() {
            return 0;
        }
        let all_have_disks = self.devices.iter().all(|d| d.disk.has_data());
        let up_to_date = self.devices.iter().filter(|d| d.disk == DiskState::UpToDate).count().min(99) as u32;
        let replicas = |d: usize| {
            u32::from(self.devices[d].disk == DiskState::UpToDate)
                + u32::from(self.peer_disk(d) == DiskState::UpToDate)
        };
        let fewest = (0..self.devices.len()).map(replicas).min().unwrap_or(0).min(99);
        if fewest == 0 {
            return 0;
        }
        u32::from(all_have_disks) * 10_000 + 100 * up_to_date + fewest
    }

    fn device_object(&self, d: usize) -> DeviceObject {
        let device = &self.devices[d];
        let backing = device.backing.as_deref();
        let held = !device.held.is_empty() || self.suspended.any();
        DeviceObject {
            volume: device.volume,
            minor: device.minor,
            backing_dev: backing.map_or_else(|| "none".to_owned(), |b| b.name.clone()),
            disk: device.disk,
            client: device.options.diskless,
            open: device.open_count > 0,
            waiting_size: None,
            quorum: true,
            size: (device.size.0 > 0).then_some(device.size.0 / 2),
            read: device.counters.read_sectors / 2,
            written: device.counters.written_sectors / 2,
            al_writes: device.counters.log_writes,
            bm_writes: device.counters.bitmap_writes,
            upper_pending: device.counters.upper_pending,
            lower_pending: device.counters.lower_pending,
            al_suspended: backing.is_some_and(|b| b.log_suspended),
            blocked: if held { "upper" } else { "no" }.to_owned(),
            al_replayed_extents: backing.map_or(0, |b| b.replayed_extents),
            al_replayed_kib: backing.map_or(0, |b| b.replayed_bits * 4),
        }
    }

    fn connection_object(&self, connection: &super::connection::Connection) -> ConnectionObject {
        let in_flight = connection.session().map_or(0, |s| s.ap_in_flight);
        let resync_bytes = |p: &PeerDevice| p.resync.as_ref().map_or(0, |r| r.in_flight_bytes);
        ConnectionObject {
            peer_node_id: connection.peer,
            conn_name: connection.name(),
            connection: connection.state,
            role: connection.peer_role,
            tls: false,
            congested: false,
            ap_in_flight: in_flight,
            rs_in_flight: connection.peer_devices.iter().map(resync_bytes).sum::<u64>() / 512,
            last_error: connection.last_error.clone(),
        }
    }

    fn peer_device_object(&self, connection: &super::connection::Connection, d: usize) -> PeerDeviceObject {
        let peer_device = &connection.peer_devices[d];
        let bits = self.out_of_sync_bits(d);
        PeerDeviceObject {
            peer_node_id: connection.peer,
            conn_name: connection.name(),
            volume: self.devices[d].volume,
            replication: peer_device.replication,
            peer_disk: peer_device.peer_disk,
            peer_client: false,
            resync_suspended: peer_device.resync_suspended,
            received: peer_device.counters.received_sectors / 2,
            sent: peer_device.counters.sent_sectors / 2,
            out_of_sync: bits * 4,
            pending: peer_device.counters.pending,
            unacked: peer_device.counters.unacked,
            resync: self.running_copy(peer_device, d, bits),
            last_resync: peer_device.last_resync.clone(),
        }
    }

    /// Figures of the resync or verify that runs.
    fn running_copy(&self, peer_device: &PeerDevice, d: usize, bits: u64) -> Option<ResyncObject> {
        if let Some(verify) = peer_device.verify.as_deref() {
            return Some(verify.object(self.now, self.devices[d].size));
        }
        let resync = peer_device.resync.as_deref()?;
        Some(ResyncObject {
            total: resync.total_bits * 4,
            left: bits * 4,
            failed: resync.failed_bits * 4,
            same_csum: resync.same_bits * 4,
            elapsed_ms: resync.elapsed_ms(self.now),
            paused_ms: resync.paused_ms(self.now),
            rate: resync.rate_kib_per_s(bits, self.now),
            want: 0,
            marks: None,
            verify: None,
        })
    }
}

fn path_objects(connection: &super::connection::Connection) -> Vec<PathObject> {
    connection
        .paths
        .iter()
        .map(|path| PathObject {
            peer_node_id: connection.peer,
            conn_name: connection.name(),
            local: address_text(path.local),
            peer: address_text(path.remote),
            established: connection.session().is_some(),
        })
        .collect()
}

/// `ipv4:A:P` or `ipv6:[A]:P`.
pub(super) fn address_text(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(a) => format!("ipv4:{a}"),
        SocketAddr::V6(a) => format!("ipv6:{a}"),
    }
}
