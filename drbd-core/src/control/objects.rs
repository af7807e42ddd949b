//! The objects of `status`, `show` and `events2`: resource, device, connection, peer device, path. Sizes and counters
//! in KiB unless the field says otherwise.

use crate::config::OptionSet;
use crate::ids::{Minor, NodeId, VolumeNumber};
use crate::states::{ConnectionState, DiskState, ReplicationState, ResyncSuspended, Role, Suspended};
use serde::{Deserialize, Serialize};

/// A resource with all it holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ResourceStatus {
    /// The resource itself.
    pub resource: ResourceObject,
    /// In order of creation.
    pub devices: Vec<DeviceObject>,
    /// In order of creation.
    pub connections: Vec<ConnectionStatus>,
}

/// A connection with all it holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionStatus {
    /// The connection itself.
    pub connection: ConnectionObject,
    /// In order of creation.
    pub paths: Vec<PathObject>,
    /// In order of the devices.
    pub peer_devices: Vec<PeerDeviceObject>,
}

/// A resource.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ResourceObject {
    /// Its name.
    pub name: String,
    /// Of this node.
    pub node_id: NodeId,
    /// Of this node.
    pub role: Role,
    /// Why upper requests are held.
    pub suspended: Suspended,
    /// After `secondary --force`: requests fail until the last opener is gone.
    pub force_io_failures: bool,
    /// `flush`, `drain` or `none`.
    pub write_ordering: String,
    /// No Primary, and every volume has a good copy within reach.
    pub may_promote: bool,
    /// See section 6 of the tools reference.
    pub promotion_score: u32,
    /// Explanation of the last decision about data generations, a sentence; empty before the first one.
    #[serde(default)]
    pub last_decision: String,
}

/// A volume on this node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceObject {
    /// Number in the resource.
    pub volume: VolumeNumber,
    /// Local number.
    pub minor: Minor,
    /// `none` if there is none.
    pub backing_dev: String,
    /// State of the backing disk.
    pub disk: DiskState,
    /// Diskless on purpose.
    pub client: bool,
    /// A front end has it open.
    pub open: bool,
    /// Always true without quorum options.
    pub quorum: bool,
    /// KiB; `None` until first known.
    pub size: Option<u64>,
    /// KiB that the block device will have once nobody uses it: this host's kernel cannot change it in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_size: Option<u64>,
    /// KiB read from the backing disk.
    pub read: u64,
    /// KiB written to the backing disk.
    pub written: u64,
    /// Activity-log transactions.
    pub al_writes: u64,
    /// Bitmap pages written.
    pub bm_writes: u64,
    /// Upper requests in flight.
    pub upper_pending: u64,
    /// Disk operations in flight.
    pub lower_pending: u64,
    /// The activity log is not in use because every block is out of sync.
    pub al_suspended: bool,
    /// `no`, `upper` or `lower`.
    pub blocked: String,
    /// Activity-log extents that were replayed at the last attach (a crashed Primary), with their bytes in `al_replayed_kib`.
    #[serde(default)]
    pub al_replayed_extents: u64,
    /// KiB marked out of sync by that replay.
    #[serde(default)]
    pub al_replayed_kib: u64,
}

/// The connection to one peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionObject {
    /// The peer.
    pub peer_node_id: NodeId,
    /// Name of the peer.
    pub conn_name: String,
    /// State.
    pub connection: ConnectionState,
    /// Role of the peer.
    pub role: Role,
    /// The session is encrypted.
    #[serde(default)]
    pub tls: bool,
    /// The send buffer is nearly full.
    pub congested: bool,
    /// Sectors of upper writes sent and not yet acknowledged.
    pub ap_in_flight: u64,
    /// Sectors of resync in flight.
    pub rs_in_flight: u64,
    /// Why the last session ended or could not begin, a sentence ("Split-Brain detected …"); empty if nothing went wrong.
    #[serde(default)]
    pub last_error: String,
}

/// A volume as seen through a connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerDeviceObject {
    /// The peer.
    pub peer_node_id: NodeId,
    /// Name of the peer.
    pub conn_name: String,
    /// Number in the resource.
    pub volume: VolumeNumber,
    /// State.
    pub replication: ReplicationState,
    /// State of the peer's disk.
    pub peer_disk: DiskState,
    /// The peer is diskless on purpose.
    pub peer_client: bool,
    /// Why a resync is held.
    pub resync_suspended: ResyncSuspended,
    /// KiB received.
    pub received: u64,
    /// KiB sent.
    pub sent: u64,
    /// KiB out of sync.
    pub out_of_sync: u64,
    /// Requests sent to the peer and not yet answered.
    pub pending: u64,
    /// Requests of the peer not yet answered.
    pub unacked: u64,
    /// While a resync runs.
    pub resync: Option<ResyncObject>,
    /// The last resync that finished here, for "what did it copy".
    #[serde(default)]
    pub last_resync: Option<FinishedResync>,
}

/// A running resync.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ResyncObject {
    /// KiB at the start.
    pub total: u64,
    /// KiB left.
    pub left: u64,
    /// KiB that could not be copied.
    pub failed: u64,
    /// KiB found equal by checksum.
    pub same_csum: u64,
    /// Milliseconds since the start, pauses not counted.
    pub elapsed_ms: u64,
    /// Milliseconds paused.
    pub paused_ms: u64,
    /// Recent KiB/s.
    pub rate: u64,
    /// KiB/s the controller wants; 0 on the source.
    pub want: u64,
    /// `(milliseconds, sectors)` moved since a mark some seconds and a mark some tens of seconds ago, where they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<[(u64, u64); 2]>,
    /// Present while this is an online verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyObject>,
}

/// What only an online verify has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifyObject {
    /// First sector.
    pub start_sector: u64,
    /// First sector that is not verified; `None` for the end of the device.
    pub stop_sector: Option<u64>,
    /// Sector reached.
    pub position: u64,
    /// Sectors that could not be compared.
    pub skipped: u64,
}

/// A finished resync.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FinishedResync {
    /// KiB copied.
    pub copied: u64,
    /// Milliseconds it took.
    pub elapsed_ms: u64,
    /// KiB that could not be copied.
    pub failed: u64,
    /// This node was the source.
    pub as_source: bool,
}

/// An address pair.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PathObject {
    /// The peer.
    pub peer_node_id: NodeId,
    /// Name of the peer.
    pub conn_name: String,
    /// `ipv4:A:P`.
    pub local: String,
    /// `ipv4:A:P`.
    pub peer: String,
    /// The session runs over it.
    pub established: bool,
}

/// A handler run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HelperObject {
    /// Name such as `fence-peer`.
    pub helper: String,
    /// Of a connection event.
    pub peer: Option<(NodeId, String)>,
    /// Of a device event.
    pub device: Option<(VolumeNumber, Minor)>,
    /// In a response.
    pub status: Option<i32>,
}

/// What a notification is about.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "object")]
pub enum Object {
    /// Resource.
    Resource(ResourceObject),
    /// Device.
    Device(DeviceObject),
    /// Connection.
    Connection(ConnectionObject),
    /// Peer device.
    PeerDevice(PeerDeviceObject),
    /// Path.
    Path(PathObject),
    /// Handler.
    Helper(HelperObject),
    /// End of the initial dump.
    End,
}

/// First word of an events2 line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Initial dump.
    Exists,
    /// Made.
    Create,
    /// Changed; the object carries all its present values.
    Change,
    /// Gone.
    Destroy,
    /// A handler begins.
    Call,
    /// A handler ended.
    Response,
    /// Renamed: the notification names the old name, its resource object the new one.
    Rename,
}

/// One event.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Notification {
    /// What happened.
    pub kind: Kind,
    /// Name of the resource.
    pub resource: String,
    /// To what.
    pub what: Object,
    /// Changes made together share this number.
    pub group: u64,
}

/// Generation identifiers of a volume towards a peer, fields as in `drbdsetup get-gi` (v09 form).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GenerationStatus {
    /// Current generation.
    pub current: u64,
    /// Generation the bitmap counts from.
    pub bitmap: u64,
    /// Younger and older history.
    pub history: [u64; 2],
    /// consistent, was-up-to-date, primary, crashed-primary, al-clean, al-disabled, primary-lost-quorum.
    pub flags: [bool; 7],
    /// connected, outdated, fencing, full-sync, device-seen.
    pub peer_flags: [bool; 5],
}

/// The running configuration, for `show`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Configuration {
    /// Name of the resource.
    pub resource: String,
    /// Of this node.
    pub node_id: NodeId,
    /// `options { }`.
    pub options: OptionSet,
    /// In order of creation.
    pub volumes: Vec<VolumeConfiguration>,
    /// In order of creation.
    pub connections: Vec<ConnectionConfiguration>,
}

/// A volume of [`Configuration`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VolumeConfiguration {
    /// Number in the resource.
    pub volume: VolumeNumber,
    /// Local number.
    pub minor: Minor,
    /// Device options.
    pub device_options: OptionSet,
    /// While attached.
    pub disk: Option<DiskConfiguration>,
}

/// An attached disk of [`VolumeConfiguration`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskConfiguration {
    /// Backing disk.
    pub disk: String,
    /// Metadata device; the same for internal metadata.
    pub meta_disk: String,
    /// `internal`, `flexible` or a number.
    pub meta_index: String,
    /// Disk options.
    pub options: OptionSet,
}

/// A connection of [`Configuration`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionConfiguration {
    /// The peer.
    pub peer: NodeId,
    /// `(local, remote)` as given to `new-path`.
    pub paths: Vec<(String, String)>,
    /// State.
    pub connection: ConnectionState,
    /// `net { }`.
    pub options: OptionSet,
    /// Peer-device options by volume.
    pub volumes: Vec<(VolumeNumber, OptionSet)>,
}
