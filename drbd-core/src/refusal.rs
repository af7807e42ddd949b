//! Why a request of an administrator is refused: DRBD's numbers, texts and exit codes (`SS_*` and `ERR_*`).
//!
//! Numbers below 0 are state changes that may not be (`SS_*`); from 102 on, requests that cannot be (`ERR_*`).

use std::fmt;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)+) => {
        /// One reason, one variant. The number and the first line of the text are DRBD's.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// DRBD's number.
            pub const fn number(self) -> i32 {
                match self { $(Reason::$name => $number,)+ }
            }

            /// DRBD's text.
            pub const fn text(self) -> &'static str {
                match self { $(Reason::$name => $text,)+ }
            }

            /// The name used in the control protocol.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }
        }
    };
}

refusals! {
    TwoPrimaries = -1, "Multiple primaries not allowed by config";
    NoUpToDateDisk = -2, "Need access to UpToDate data";
    NoLocalDisk = -4, "Can not resync without local disk";
    NoRemoteDisk = -5, "Can not resync without remote disk";
    ConnectedOutdates = -6, "Refusing to be Outdated while Connected";
    PrimaryNop = -7, "Refusing to be Primary while peer is not outdated";
    ResyncRunning = -8, "Can not start OV/resync since it is already active";
    AlreadyStandalone = -9, "Can not disconnect a StandAlone device";
    FailedByPeer = -10, "State change was refused by peer node";
    IsDiskless = -11, "Device is diskless, the requested operation requires a disk";
    DeviceInUse = -12, "Device is held open by someone";
    NoNetConfig = -13, "Have no net/connection configuration";
    NoVerifyAlg = -14, "Need a verify algorithm to start online verify";
    NeedConnection = -15, "State change requires a connection";
    LowerThanOutdated = -16, "Disk state is lower than outdated";
    NotSupported = -17, "Peer does not support protocol";
    InTransientState = -18, "In transient state, retry after next state change";
    ConcurrentStateChange = -19, "Concurrent state changes detected and aborted";
    OtherVolumePeerPrimary = -20, "Other vol primary on peer not allowed by config";
    /// 8.4: "Need a connection for a graceful disconnect/outdate peer".
    Interrupted = -21, "Interrupted state change";
    PrimaryReader = -22, "Peer may not become primary while device is opened read-only";
    Timeout = -23, "Timeout in operation";
    WeaklyConnected = -24, "Primary nodes must be strongly connected among each other";
    NoQuorum = -25, "No quorum";
    AttachNoBitmap = -26, "Intentional diskless peer may not attach a disk";
    HandshakeDisconnect = -27, "Disconnect chosen in handshake";
    HandshakeRetry = -28, "Retry chosen in handshake";
    LocalAddress = 102, "Local address(port) already in use.";
    PeerAddress = 103, "Remote address(port) already in use.";
    OpenDisk = 104, "Can not open backing device.";
    OpenMetaDisk = 105, "Can not open meta device.";
    DiskNotBlockDevice = 107, "Lower device is not a block device.";
    MetaDiskNotBlockDevice = 108, "Meta device is not a block device.";
    DiskTooSmall = 111, "Low.dev. smaller than requested DRBD-dev. size.";
    MetaDiskTooSmall = 112, "Meta device too small.";
    DiskClaimed = 114, "Lower device is already claimed. This usually means it is mounted.";
    MetaDiskClaimed = 115, "Meta device is already claimed. This usually means it is mounted.";
    MetaIndexInvalid = 116, "Lower device / meta device / index combination invalid.";
    MetaDiskIo = 118, "IO error(s) occurred during initial access to meta-data.\n";
    MetadataInvalid = 119, "No valid meta-data signature found.\n\n\t==> Use 'drbdadm create-md res' to initialize meta-data area. <==\n";
    AuthAlgorithm = 120, "The 'cram-hmac-alg' you specified is not known in the kernel. (Maybe you need to modprobe it, or modprobe hmac?)";
    AuthAlgorithmNoDigest = 121, "The 'cram-hmac-alg' you specified is not a digest.";
    NoMemory = 122, "kmalloc() failed. Out of memory?";
    DiscardImpossible = 123, "--discard-my-data not allowed when primary.";
    DiskConfigured = 124, "Device is attached to a disk (use detach first)";
    NetConfigured = 125, "Device has a net-config (use disconnect first)";
    MandatoryTag = 126, "UnknownMandatoryTag";
    MinorInvalid = 127, "Device minor not allocated";
    InterruptedBySignal = 129, "Interrupted by Signal";
    ResizeResync = 130, "Resize not allowed during resync.";
    NoPrimary = 131, "Need one Primary node to resize.";
    ResyncAfter = 132, "The resync-after minor number is invalid";
    ResyncAfterCycle = 133, "This would cause a resync-after dependency cycle";
    PauseIsSet = 134, "Sync-pause flag is already set";
    PauseIsClear = 135, "Sync-pause flag is already cleared";
    /// Also: a request this version of udrbd does not carry out yet.
    PacketNumber = 137, "Kernel does not know how to handle your request.\nMaybe API_VERSION mismatch?";
    NoDisk = 138, "Device does not have a disk-config";
    NotProtocolC = 139, "Protocol C required";
    NoMemoryBitmap = 140, "vmalloc() failed. Out of memory?";
    IntegrityAlgorithm = 141, "The 'data-integrity-alg' you specified is not known in the kernel. (Maybe you need to modprobe it, or modprobe hmac?)";
    IntegrityAlgorithmNoDigest = 142, "The 'data-integrity-alg' you specified is not a digest.";
    CsumsAlgorithm = 144, "CSUMSAlgNotAvail";
    VerifyAlgorithm = 146, "VERIFYAlgNotAvail";
    CsumsResyncRunning = 148, "Can not change csums-alg while resync is in progress";
    VerifyRunning = 149, "Can not change verify-alg while online verify runs";
    DataNotCurrent = 150, "Can only attach to the data we lost last (see kernel log).";
    NeedStandalone = 151, "Need to be StandAlone";
    Permission = 152, "Permission denied. CAP_SYS_ADMIN necessary";
    NeedProtocol93 = 153, "Protocol version 93 required to use --assume-clean";
    StonithAndProtocolA = 154, "Fencing policy resource-and-stonith only with prot B or C allowed";
    CongestionNotProtocolA = 155, "on-congestion policy pull-ahead only with prot A allowed";
    PausedByDependency = 156, "Sync-pause flag is already cleared.\nNote: Resync pause caused by a local resync-after dependency.";
    PausedByPeer = 157, "Sync-pause flag is already cleared.\nNote: Resync pause caused by the peer node.";
    ResourceNotKnown = 158, "Unknown resource";
    ResourceInUse = 159, "Resource still in use (delete all minors first)";
    MinorConfigured = 160, "Minor still configured (down it first)";
    MinorOrVolumeExists = 161, "Minor or volume exists already (delete it first)";
    InvalidRequest = 162, "Invalid configuration request";
    NeedProtocol100 = 163, "Prot version 100 required in order to change\nthese network options while connected";
    NeedAllowTwoPrimaries = 164, "Can not clear allow_two_primaries as long as\nthere a primaries on both sides";
    MetadataUnclean = 165, "Unclean meta-data found.\nYou need to 'drbdadm apply-al res'\n";
    ImplicitShrink = 170, "Implicit device shrinking not allowed. See kernel log.\n";
    InvalidPeerNodeId = 171, "Invalid peer-node-id\n";
    CreateTransport = 172, "Failed to create transport (drbd_transport_xxx module missing?)\n";
    LocalAndPeerAddress = 173, "Combination of local address(port) and remote address(port) already in use\n";
    AlreadyExists = 174, "Already exists\n";
    ProtocolTooLow = 175, "A higher DRBD protocol level is required for this operation\n";
    PathCollision = 176, "Path collides with existing path\n";
}

impl Reason {
    /// The reason with that number.
    pub fn from_number(number: i32) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|r| r.number() == number)
    }

    /// Exit code of `drbdsetup` (tools reference, section 3).
    pub const fn exit_code(self) -> u8 {
        match self {
            Reason::LowerThanOutdated => 5,
            Reason::NoLocalDisk => 16,
            Reason::NoUpToDateDisk => 17,
            _ if self.number() < 0 => 11,
            _ => 10,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A refused request: the reason and, where the bare text would leave the user guessing, a sentence that names the
/// thing, the place and the way out (printed after "additional info from kernel:").
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The reason with DRBD's number and text.
    pub reason: Reason,
    /// More about it; empty if the text says all.
    pub info: String,
}

impl Refusal {
    /// A refusal with an explanation.
    pub fn because(reason: Reason, info: impl Into<String>) -> Refusal {
        Refusal { reason, info: info.into() }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Refusal {
        Refusal { reason, info: String::new() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}) {}", self.reason.number(), self.reason)?;
        if !self.info.is_empty() {
            write!(f, ": {}", self.info)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
