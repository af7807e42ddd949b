//! `status` in its plain form: pure functions from the status of resources to text.

use crate::colour::Paint;
use crate::rates::Progress;
use crate::wrap::Wrapped;
use drbd_core::control::{
    ConnectionObject, ConnectionStatus, DeviceObject, PeerDeviceObject, ResourceObject, ResourceStatus,
};
use drbd_core::ids::VolumeNumber;
use drbd_core::states::{ConnectionState, DiskState, ReplicationState};

/// How much is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Detail {
    /// `--verbose`, how often.
    pub verbose: usize,
    /// `--statistics`.
    pub statistics: bool,
    /// For people: what is only there for programs is left out.
    pub terminal: bool,
    /// With colours.
    pub colour: bool,
}

/// The whole of `drbdsetup status`.
pub fn text(resources: &[ResourceStatus], detail: Detail) -> String {
    if resources.is_empty() {
        return "# No currently configured DRBD found.\n".to_owned();
    }
    let mut lines = Wrapped::default();
    for status in resources {
        resource(&mut lines, &status.resource, detail);
        let numbered = detail.verbose > 0 || !is_single_zero(status);
        for one in &status.devices {
            device(&mut lines, one, detail, numbered);
        }
        for one in &status.connections {
            connection(&mut lines, &one.connection, detail);
            peer_devices(&mut lines, one, detail, numbered);
        }
        lines.end_line();
    }
    lines.into_text()
}

fn is_single_zero(status: &ResourceStatus) -> bool {
    match status.devices.as_slice() {
        [only] => only.volume == VolumeNumber(0),
        _ => false,
    }
}

/// `yes` or `no`.
pub fn yes(is: bool) -> &'static str {
    if is {
        "yes"
    } else {
        "no"
    }
}

fn resource(lines: &mut Wrapped, resource: &ResourceObject, detail: Detail) {
    let paint = Paint(detail.colour);
    let verbose = detail.verbose > 0;
    lines.item(0, &resource.name);
    if verbose {
        lines.item(4, &format!("node-id:{}", resource.node_id));
    }
    lines.item(4, &format!("role:{}", paint.own_role(resource.role)));
    if verbose || resource.suspended.any() {
        lines.item(4, &format!("suspended:{}", resource.suspended));
    }
    if verbose || resource.force_io_failures {
        lines.item(4, &format!("force-io-failures:{}", yes(resource.force_io_failures)));
    }
    if verbose && detail.statistics {
        lines.end_line();
        lines.item(4, &format!("write-ordering:{}", resource.write_ordering));
    }
    lines.end_line();
}

fn device(lines: &mut Wrapped, device: &DeviceObject, detail: Detail, numbered: bool) {
    let paint = Paint(detail.colour);
    let verbose = detail.verbose > 0;
    if numbered {
        lines.item(2, &format!("volume:{}", device.volume));
    }
    if verbose {
        lines.item(6, &format!("minor:{}", device.minor));
    }
    lines.item(if numbered { 6 } else { 2 }, &format!("disk:{}", paint.disk(device.disk)));
    if device.disk == DiskState::Diskless && (verbose || !detail.terminal) {
        lines.item(6, &format!("client:{}", yes(device.client)));
    }
    if verbose {
        lines.item(6, &format!("backing_dev:{}", device.backing_dev));
    }
    if verbose || !device.quorum {
        lines.item(6, &format!("quorum:{}", paint.quorum(device.quorum)));
    }
    lines.item(6, &format!("open:{}", yes(device.open)));
    if detail.statistics {
        device_statistics(lines, device, verbose);
    }
    if verbose || device.blocked != "no" {
        lines.item(6, &format!("blocked:{}", device.blocked));
    }
    if let Some(size) = device.waiting_size {
        lines.item(6, &format!("waiting-size:{size}"));
    }
    lines.end_line_if_begun();
}

fn device_statistics(lines: &mut Wrapped, device: &DeviceObject, verbose: bool) {
    let Some(size) = device.size else { return };
    lines.end_line();
    if verbose {
        lines.item(6, &format!("size:{size}"));
    }
    lines.item(6, &format!("read:{}", device.read));
    lines.item(6, &format!("written:{}", device.written));
    if verbose {
        lines.item(6, &format!("al-writes:{}", device.al_writes));
        lines.item(6, &format!("bm-writes:{}", device.bm_writes));
        lines.item(6, &format!("upper-pending:{}", device.upper_pending));
        lines.item(6, &format!("lower-pending:{}", device.lower_pending));
        lines.item(6, &format!("al-suspended:{}", yes(device.al_suspended)));
    }
}

fn connection(lines: &mut Wrapped, connection: &ConnectionObject, detail: Detail) {
    let paint = Paint(detail.colour);
    let verbose = detail.verbose > 0;
    lines.item(2, &connection.conn_name);
    if verbose {
        lines.item(6, &format!("node-id:{}", connection.peer_node_id));
    }
    let connected = connection.connection == ConnectionState::Connected;
    if verbose || !connected {
        lines.item(6, &format!("connection:{}", paint.connection(connection.connection)));
    }
    if verbose || connected {
        lines.item(6, &format!("role:{}", paint.peer_role(connection.role)));
    }
    if verbose || connection.tls {
        lines.item(6, &format!("tls:{}", yes(connection.tls)));
    }
    if verbose || connection.congested {
        lines.item(6, &format!("congested:{}", yes(connection.congested)));
        lines.item(6, &format!("ap-in-flight:{}", connection.ap_in_flight));
        lines.item(6, &format!("rs-in-flight:{}", connection.rs_in_flight));
    }
    lines.end_line();
    // StandAlone beside an UpToDate disk looks healthy: say why it is (split brain, a wrong secret).
    let parted = connection.connection == ConnectionState::StandAlone || (verbose && !connected);
    if parted && !connection.last_error.is_empty() {
        lines.item(4, &format!("last-error:\"{}\"", connection.last_error));
        lines.end_line();
    }
}

fn peer_devices(lines: &mut Wrapped, status: &ConnectionStatus, detail: Detail, numbered: bool) {
    let connected = status.connection.connection == ConnectionState::Connected;
    if connected || detail.verbose > 0 || detail.statistics {
        for one in &status.peer_devices {
            peer_device(lines, one, detail, numbered);
        }
    }
}

fn peer_device(lines: &mut Wrapped, peer: &PeerDeviceObject, detail: Detail, numbered: bool) {
    let paint = Paint(detail.colour);
    let verbose = detail.verbose > 0;
    if numbered {
        lines.item(4, &format!("volume:{}", peer.volume));
    }
    let indent = if numbered { 8 } else { 4 };
    let quiet = matches!(peer.replication, ReplicationState::Off | ReplicationState::Established);
    if verbose || !quiet {
        lines.item(indent, &format!("replication:{}", paint.replication(peer.replication)));
    }
    let nothing_known = peer.replication == ReplicationState::Off && peer.peer_disk == DiskState::DUnknown;
    if verbose || detail.statistics || !nothing_known {
        lines.item(indent, &format!("peer-disk:{}", paint.disk(peer.peer_disk)));
    }
    if peer.peer_disk == DiskState::Diskless && (verbose || !detail.terminal) {
        lines.item(indent, &format!("peer-client:{}", yes(peer.peer_client)));
    }
    let progress = Progress::of(peer);
    if let Some(progress) = &progress {
        lines.item(indent, &format!("done:{:.2}", progress.done_percent));
    }
    if verbose || peer.resync_suspended.any() {
        lines.item(indent, &format!("resync-suspended:{}", peer.resync_suspended));
    }
    if detail.statistics {
        lines.end_line_if_begun();
        peer_statistics(lines, peer, progress.as_ref(), detail.verbose);
    }
    lines.end_line_if_begun();
}

fn peer_statistics(
    lines: &mut Wrapped,
    peer: &PeerDeviceObject,
    progress: Option<&Progress>,
    verbose: usize,
) {
    lines.item(8, &format!("received:{}", peer.received));
    lines.item(8, &format!("sent:{}", peer.sent));
    if verbose > 0 || peer.out_of_sync > 0 {
        lines.item(8, &format!("out-of-sync:{}", peer.out_of_sync));
    }
    if verbose == 0 {
        return;
    }
    lines.item(8, &format!("pending:{}", peer.pending));
    lines.item(8, &format!("unacked:{}", peer.unacked));
    let Some(progress) = progress else { return };
    if verbose > 1 {
        for (name, value) in progress.raw() {
            lines.item(8, &format!("{name}:{value}"));
        }
        lines.item(8, &format!("want:{:.2}", progress.want));
        lines.item(8, &format!("dbdt:{:.2}", progress.rate_overall));
        lines.item(8, &format!("dbdt0:{:.2}", progress.rates[0]));
    }
    lines.item(8, &format!("dbdt1:{:.2}", progress.rates[1]));
    if let Some(eta) = progress.eta_s {
        lines.item(8, &format!("eta:{eta}"));
    }
}
