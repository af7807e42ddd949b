//! The words between `drbdsetup` and the daemon of one resource, version 1: newline-delimited JSON on the unix socket
//! `<resource>.sock` of the run directory.
//!
//! The daemon speaks first after the client's hello: `{"hello":{"speak":[1]}}` is answered by
//! `{"hello":{"version":1,"daemon":"udrbd …","resource":"r0"}}`. Then `{"id":7,"request":{"primary":{"force":false}}}` is answered by
//! `{"id":7,"done":{…}}` or `{"id":7,"refused":{"code":"NoUpToDateDisk","number":-2,"text":"…","info":"…"}}`.
//! After `subscribe` the daemon also sends `{"notification":{…}}` lines: first everything that exists, then `"exists -"`
//! (kind `exists`, object `end`), then every change. Within version 1 fields may only be added and be optional.

mod dump;
pub mod objects;
mod service_start;

pub use objects::*;
pub use service_start::ServiceStart;

use crate::config::OptionSet;
use crate::ids::{Minor, NodeId, VolumeNumber};
use crate::refusal::{Reason, Refusal};
use serde::{Deserialize, Serialize};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// First line of a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientHello {
    /// Versions the client speaks.
    pub speak: Vec<u32>,
}

/// First line of the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DaemonHello {
    /// The version that counts from here on.
    pub version: u32,
    /// Name and version of the daemon.
    pub daemon: String,
    /// Name of the resource.
    pub resource: String,
}

/// Every line from client to daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
pub enum ClientLine {
    /// The first one.
    Hello {
        /// What is spoken.
        hello: ClientHello,
    },
    /// All others.
    Request {
        /// Chosen by the client, echoed by the answer.
        id: u64,
        /// What is asked.
        request: Request,
    },
}

/// Every line from daemon to client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
pub enum DaemonLine {
    /// The first one.
    Hello {
        /// What is spoken.
        hello: DaemonHello,
    },
    /// The request was carried out.
    Done {
        /// Of the request.
        id: u64,
        /// What came of it.
        done: Box<Done>,
    },
    /// The request was refused; nothing changed.
    Refused {
        /// Of the request.
        id: u64,
        /// Why.
        refused: RefusedReply,
    },
    /// To subscribers.
    Notification {
        /// What happened.
        notification: Box<Notification>,
    },
}

/// What can be asked of a daemon. Names and arguments are those of `drbdsetup`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
#[allow(missing_docs)] // arguments are those of the drbdsetup command of the same name
pub enum Request {
    /// Legal always.
    NewMinor { minor: Minor, volume: VolumeNumber, options: OptionSet },
    /// Legal while the device is Diskless and not Primary.
    DelMinor { minor: Minor },
    /// Legal always; the connection starts StandAlone.
    NewPeer { peer: NodeId, options: OptionSet },
    /// Disconnects first; `force` without asking the peer.
    DelPeer { peer: NodeId, force: bool },
    /// `ipv4:A.B.C.D:PORT` or `ipv6:[A]:PORT`.
    NewPath { peer: NodeId, local: String, remote: String },
    /// Legal while StandAlone.
    DelPath { peer: NodeId, local: String, remote: String },
    /// `meta_index`: `internal`, `flexible` or a number.
    Attach { minor: Minor, disk: String, meta_disk: String, meta_index: String, options: OptionSet },
    /// Refused while Primary without a good peer, unless forced.
    Detach { minor: Minor, force: bool, diskless: bool },
    /// Legal while StandAlone and with a path.
    Connect { peer: NodeId, tentative: bool, discard_my_data: bool },
    /// Asks the peer first, unless forced.
    Disconnect { peer: NodeId, force: bool },
    /// Be this program from here on: a pause for who uses the device, and no end of the connection. Without an answer the
    /// connection to the daemon ends, and the next one is answered by that program; refused, everything is as before.
    Upgrade { program: String },
    /// Become Primary.
    Primary { force: bool },
    /// Become Secondary; refused while a front end has the device open, unless forced.
    Secondary { force: bool },
    /// Change `options { }`.
    ResourceOptions { options: OptionSet, set_defaults: bool },
    /// Change `net { }`.
    NetOptions { peer: NodeId, options: OptionSet, set_defaults: bool },
    /// Change `disk { }`.
    DiskOptions { minor: Minor, options: OptionSet, set_defaults: bool },
    /// Change the resync settings towards a peer.
    PeerDeviceOptions { peer: NodeId, volume: VolumeNumber, options: OptionSet, set_defaults: bool },
    /// Replace this node's data by the peer's; without one, call them Inconsistent. `reset_bitmap`: all of them.
    Invalidate { minor: Minor, sync_from: Option<NodeId>, reset_bitmap: bool },
    /// Replace the peer's data by this node's.
    InvalidateRemote { peer: NodeId, volume: VolumeNumber, reset_bitmap: bool },
    /// Hold a resync of this volume, one that may begin later included.
    PauseSync { peer: NodeId, volume: VolumeNumber },
    /// Let it go on, as far as this node's administrator is concerned.
    ResumeSync { peer: NodeId, volume: VolumeNumber },
    /// Call the data Outdated; nothing while connected.
    Outdate { minor: Minor },
    /// Legal while StandAlone; with `clear_bitmap` also between two nodes whose metadata was just made.
    NewCurrentUuid { minor: Minor, clear_bitmap: bool },
    /// Compare both disks, from one sector to before another.
    Verify { peer: NodeId, volume: VolumeNumber, start: Option<u64>, stop: Option<u64> },
    /// `size` in sectors, 0: as large as both disks allow. Legal at rest, with a disk, and unless both are Secondary. Done
    /// when the device has its new size, or the peer said that it cannot have it; the copy of the new part follows.
    Resize { minor: Minor, size: u64, assume_peer_has_space: bool, assume_clean: bool },
    /// Hold new requests of all volumes of the minor's resource; legal always.
    SuspendIo { minor: Minor },
    /// Let requests go on, whatever held them; legal always. Without good data within reach they fail.
    ResumeIo { minor: Minor },
    /// Demote, disconnect, detach, delete everything and end the daemon.
    Down,
    /// End the daemon; legal without minors.
    DelResource,
    /// Answered with [`Done::status`].
    Status,
    /// Answered with [`Done::configuration`].
    Show,
    /// Answered with [`Done::generation`].
    GetGi { peer: NodeId, volume: VolumeNumber },
    /// Notifications on this connection from now on.
    Subscribe,
}

/// What came of a request.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// False if everything was already as asked (SS_NOTHING_TO_DO).
    pub changed: bool,
    /// Sentences for the user (warnings).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub info: Vec<String>,
    /// Answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ResourceStatus>,
    /// Answer to `show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// Answer to `get-gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationStatus>,
}

/// A refusal on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedReply {
    /// [`Reason::name`].
    pub code: String,
    /// DRBD's number.
    pub number: i32,
    /// DRBD's text.
    pub text: String,
    /// More about it; may be empty.
    #[serde(default)]
    pub info: String,
}

impl From<&Refusal> for RefusedReply {
    fn from(refusal: &Refusal) -> RefusedReply {
        RefusedReply {
            code: refusal.reason.name().to_owned(),
            number: refusal.reason.number(),
            text: refusal.reason.text().to_owned(),
            info: refusal.info.clone(),
        }
    }
}

impl RefusedReply {
    /// The exit code of `drbdsetup`.
    pub fn exit_code(&self) -> u8 {
        Reason::from_number(self.number).map_or(20, Reason::exit_code)
    }
}
