//! From a command and the resources it means to the calls of drbdsetup and drbdmeta: pure, and the heart of drbdadm.
//!
//! A [`Plan`] is ordered by [`Stage`] over all resources, so that for `up all` every resource exists before the first
//! connection is made. [`crate::run`] executes it; with `-d` it is only printed.

pub mod calls;
mod print;
mod proxy;

use crate::commands::{Action, Command};
use crate::wanted::{Wanted, WantedConnection, WantedVolume};

/// A resource, or a part of it, that a command shall work on.
#[derive(Clone, Debug)]
pub struct Selected<'a> {
    /// The resource.
    pub resource: &'a Wanted,
    /// Only this volume.
    pub volume: Option<u32>,
    /// Only the connection to this node.
    pub peer: Option<u32>,
}

impl<'a> Selected<'a> {
    /// The volumes meant.
    pub fn volumes(&self) -> impl Iterator<Item = &'a WantedVolume> + use<'a> {
        let only = self.volume;
        self.resource.volumes.iter().filter(move |v| only.is_none_or(|n| n == v.number))
    }

    /// The connections meant.
    pub fn connections(&self) -> impl Iterator<Item = &'a WantedConnection> + use<'a> {
        let only = self.peer;
        self.resource.connections.iter().filter(move |c| only.is_none_or(|id| id == c.peer_id))
    }
}

/// A program drbdadm calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// Talks to the running resource.
    Drbdsetup,
    /// Works on metadata.
    Drbdmeta,
    /// Controls drbd-proxy.
    ProxyControl,
}

/// How long a call may take; `cmd-timeout-*` of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Most calls.
    Short,
    /// Role changes, attach, down.
    Medium,
    /// Metadata and handlers.
    Long,
    /// Waits on purpose.
    Forever,
}

/// One call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What is called.
    pub program: Program,
    /// With what.
    pub arguments: Vec<String>,
    /// `DRBD_RESOURCE` of the child.
    pub resource: String,
    /// How long.
    pub patience: Patience,
    /// Its complaints are expected: not shown.
    pub hushed: bool,
    /// Its exit code is the answer: not commented on.
    pub silent_failure: bool,
}

/// Calls that belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// One after the other; the first failure ends it.
    All(Vec<Call>),
    /// The second only if the first fails, and not with one of these exit codes.
    Else {
        /// The resource runs.
        first: Call,
        /// Answers that need no second call.
        unless: &'static [i32],
        /// It does not: work on the disk.
        second: Vec<Call>,
    },
    /// check-resize: a resource that is up grows and remembers its disk; of one that is not the metadata move to the new
    /// end of a disk that has grown.
    CheckResize {
        /// resize, of which nothing is heard.
        resize: Call,
        /// drbdsetup check-resize, likewise; it does not matter how it ends.
        remember: Call,
        /// drbdmeta check-resize, or why there is none.
        move_metadata: Result<Call, String>,
    },
    /// create-md, and a device uuid if there is none.
    Create {
        /// create-md.
        create: Call,
        /// read-dev-uuid.
        read: Call,
        /// write-dev-uuid, its last argument still missing.
        write: Call,
    },
    /// Text on standard output.
    Print(String),
}

/// Order of `up` and `adjust` over all resources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Resources exist.
    Prerequisites,
    /// Minors exist.
    Minors,
    /// Resource options.
    ResourceOptions,
    /// Disks that are in the way.
    DiskDown,
    /// Connections that are in the way.
    NetDown,
    /// Connections exist.
    NetUp,
    /// Paths exist.
    Paths,
    /// Net options.
    NetOptions,
    /// Peer-device options.
    PeerDevices,
    /// Disks.
    Disk,
    /// Connect.
    Connect,
}

impl Stage {
    /// How `adjust-with-progress` calls it.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Prerequisites | Stage::Minors => "create res",
            Stage::ResourceOptions => "adjust res",
            Stage::DiskDown => "prepare disk",
            Stage::NetDown => "prepare net",
            Stage::NetUp | Stage::Paths | Stage::NetOptions => "adjust net",
            Stage::PeerDevices => "adjust peers",
            Stage::Disk => "adjust disk",
            Stage::Connect => "attempt to connect",
        }
    }
}

/// A step in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When.
    pub stage: Stage,
    /// Whose.
    pub resource: String,
    /// What.
    pub step: Step,
}

/// What is to be done, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan(pub Vec<Planned>);

/// What the command line says about a plan.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Options passed on to the call.
    pub setup: Vec<String>,
    /// `create-md --max-peers`.
    pub max_peers: Option<String>,
    /// Leave disks alone.
    pub skip_disk: bool,
    /// Leave connections alone.
    pub skip_net: bool,
    /// The environment asks for 8.4: v08 metadata is created.
    pub create_v08: bool,
    /// `-S`.
    pub stacked: bool,
    /// udev-always-use-vnr.
    pub always_use_vnr: bool,
}

/// The plan of a command that works on resources (not `adjust`, which must look first).
pub fn plan(command: &Command, selected: &[Selected<'_>], wishes: &Wishes) -> Plan {
    let mut plan = Plan::default();
    for selection in selected {
        plan.0.extend(of_one(command, selection, wishes));
    }
    plan.sorted()
}

impl Plan {
    /// Stage by stage, resources and their steps in order within each.
    #[must_use]
    pub fn sorted(mut self) -> Plan {
        self.0.sort_by_key(|p| p.stage);
        self
    }
}

fn of_one(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Planned> {
    let resource = selection.resource;
    if command.action == Action::Up {
        return calls::up(selection);
    }
    let steps = match command.action {
        Action::ResourceCall => vec![calls::resource_call(command, resource, wishes)],
        Action::VolumeCall => calls::volume_calls(command, selection, wishes),
        Action::MetadataCall => calls::metadata_calls(command, selection, wishes),
        Action::ConnectionCall => calls::connection_calls(command, selection, wishes),
        Action::PeerDeviceCall => calls::peer_device_calls(command, selection, wishes),
        Action::Attach => calls::attach(selection, wishes),
        Action::CreateMetadata => calls::create_metadata(selection, wishes),
        Action::Resize => calls::resize(command, selection, wishes),
        Action::Invalidate => calls::invalidate(selection, wishes),
        Action::Outdate => calls::outdate(selection, wishes),
        Action::Generations => calls::generations(command, selection, wishes),
        Action::SetGenerations => calls::set_generations(selection, wishes),
        Action::DiskState => calls::disk_state(selection, wishes),
        Action::ForgetPeer => calls::forget_peer(selection, wishes),
        Action::NewResource => vec![calls::new_resource(resource, &wishes.setup)],
        Action::NewMinor => calls::new_minors(selection, &wishes.setup),
        Action::NewPeer => calls::new_peers(selection, &wishes.setup),
        Action::Paths => calls::paths(command.name, selection),
        Action::NetOptions => calls::net_options(selection, &wishes.setup),
        Action::DiskOptions => calls::disk_options(selection, &wishes.setup),
        Action::ResourceOptions => vec![calls::resource_options(resource, &wishes.setup)],
        Action::PeerDeviceOptions => calls::peer_device_options(selection, &wishes.setup),
        Action::Wait => calls::wait(command, selection, wishes),
        Action::Print => print::lines(command, selection, wishes),
        Action::Up | Action::Adjust | Action::Dump | Action::Handler | Action::Nothing => Vec::new(),
        Action::ModuleParameters | Action::Help | Action::HiddenCommands => Vec::new(),
    };
    let place = |step| Planned { stage: Stage::Prerequisites, resource: resource.name.clone(), step };
    steps.into_iter().map(place).collect()
}

/// The steps of drbd-proxy for a resource.
pub fn proxy_steps(selection: &Selected<'_>) -> Vec<Planned> {
    proxy::steps(selection)
}

#[cfg(test)]
mod tests;
