//! The visible state of one volume towards one peer as one plain value, and what else the rules ask about.

pub use crate::config::FencingPolicy;
use crate::states::{Conn84, ConnectionState, DiskState, ReplicationState, ResyncSuspended, Role, Suspended};

/// State of one volume towards one peer. `role` and `suspended` are shared by the whole resource, `connection` and
/// `peer_role` by the connection.
///
/// DRBD 9's `Detaching` counts like `Failed` in every rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Own role.
    pub role: Role,
    /// Role of the peer.
    pub peer_role: Role,
    /// Connection to the peer.
    pub connection: ConnectionState,
    /// Replication of the volume; Off unless connected.
    pub replication: ReplicationState,
    /// Own disk.
    pub disk: DiskState,
    /// The peer's disk.
    pub peer_disk: DiskState,
    /// Why upper requests are held.
    pub suspended: Suspended,
    /// Why a resync is held.
    pub resync_suspended: ResyncSuspended,
}

impl Snapshot {
    /// A Secondary without disk and without connection.
    pub const INITIAL: Snapshot = Snapshot {
        role: Role::Secondary,
        peer_role: Role::Unknown,
        connection: ConnectionState::StandAlone,
        replication: ReplicationState::Off,
        disk: DiskState::Diskless,
        peer_disk: DiskState::DUnknown,
        suspended: Suspended { user: false, no_data: false, fencing: false, quorum: false },
        resync_suspended: ResyncSuspended { user: false, peer: false, dependency: false },
    };

    /// Connection and replication as the one number of the 8.4 state word.
    pub const fn conn84(&self) -> Conn84 {
        Conn84::of(self.connection, self.replication)
    }

    /// The handshake of this volume is done: 8.4's `conn >= Connected`.
    pub fn is_replicating(&self) -> bool {
        self.conn84() >= Conn84::CONNECTED
    }

    /// A resync, verify or congestion is under way or being arranged: 8.4's `conn > Connected`.
    pub fn is_beyond_established(&self) -> bool {
        self.conn84() > Conn84::CONNECTED
    }

    /// Sets connection and replication together; a number above 23 changes nothing.
    #[must_use]
    pub fn with_conn84(mut self, conn: Conn84) -> Snapshot {
        if let Some((connection, replication)) = conn.split() {
            self.connection = connection;
            self.replication = replication;
        }
        self
    }

    /// Neither disk is UpToDate.
    pub(super) const fn lacks_good_data(&self) -> bool {
        self.disk.rank() < DiskState::UpToDate.rank() && self.peer_disk.rank() < DiskState::UpToDate.rank()
    }
}

/// What the rules ask about besides the two snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// allow-two-primaries.
    pub two_primaries: bool,
    /// As configured. The rules themselves take it for dont-care while the old own disk has no metadata.
    pub fencing: FencingPolicy,
    /// on-no-data-accessible suspend-io.
    pub suspend_without_data: bool,
    /// The connection is configured (a StandAlone resource may have none).
    pub has_net_config: bool,
    /// verify-alg is set.
    pub verify_alg: bool,
    /// Protocol version of the session; the highest we offer while there is none.
    pub agreed_version: u32,
    /// The device is held open by someone.
    pub open: bool,
    /// The peer is Primary as seen by some other volume of the connection.
    pub peer_primary_elsewhere: bool,
    /// Our state was sent during the handshake and is being waited on.
    pub state_sent: bool,
    /// The data last shown to the users of the device is this disk's current generation, and the disk lacks nothing of it.
    pub exposed_equals_current: bool,
    /// Own and peer disk as computed at attach, while Negotiating.
    pub disk_at_attach: Option<(DiskState, DiskState)>,
}

impl Context {
    /// The fencing policy in force: it belongs to the disk, so without one (in the old state) there is none.
    pub(super) fn fencing_of(&self, old: &Snapshot) -> FencingPolicy {
        if old.disk.has_data() {
            self.fencing
        } else {
            FencingPolicy::DontCare
        }
    }
}
