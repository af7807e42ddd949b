//! Every command of drbdadm: its name, what it does, and where help lists it.

use drbd_core::config::options::Section;

/// What a command does; [`crate::plan`] turns it into calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// `drbdsetup COMMAND RESOURCE`.
    ResourceCall,
    /// `drbdsetup COMMAND MINOR`.
    VolumeCall,
    /// `drbdmeta MINOR v09 … COMMAND`.
    MetadataCall,
    /// `drbdsetup COMMAND RESOURCE PEER`.
    ConnectionCall,
    /// `drbdsetup COMMAND RESOURCE PEER VOLUME`.
    PeerDeviceCall,
    /// Everything a resource needs to run.
    Up,
    /// What is missing for that, and no more.
    Adjust,
    /// Apply the activity log and attach.
    Attach,
    /// New metadata.
    CreateMetadata,
    /// `resize` and `check-resize`.
    Resize,
    /// invalidate, on the disk if not running.
    Invalidate,
    /// outdate, on the disk if not running.
    Outdate,
    /// `show-gi` and `get-gi`, from the disk if not running.
    Generations,
    /// `set-gi`: on the disk only.
    SetGenerations,
    /// dstate, from the disk if not running.
    DiskState,
    /// forget-peer, on the disk if not running.
    ForgetPeer,
    /// new-resource.
    NewResource,
    /// new-minor.
    NewMinor,
    /// new-peer.
    NewPeer,
    /// `new-path` and `del-path`.
    Paths,
    /// net-options.
    NetOptions,
    /// disk-options.
    DiskOptions,
    /// resource-options.
    ResourceOptions,
    /// peer-device-options.
    PeerDeviceOptions,
    /// `wait-connect`, `wait-sync`, `wait-con-int`.
    Wait,
    /// Something to print about each volume or resource.
    Print,
    /// The configuration itself.
    Dump,
    /// A configured handler.
    Handler,
    /// Only the configuration is checked.
    Nothing,
    /// Module parameters.
    ModuleParameters,
    /// Usage.
    Help,
    /// The commands that help does not list.
    HiddenCommands,
}

/// Where a command is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// In `help`.
    Public,
    /// For scripts.
    Shell,
    /// Called by DRBD.
    Handler,
    /// For experts.
    Expert,
    /// Nowhere: another spelling.
    Alias,
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// Name.
    pub name: &'static str,
    /// What it does.
    pub action: Action,
    /// Where it is listed.
    pub listing: Listing,
    /// Options it takes besides the general ones; those that end in `=` take a value.
    pub options: &'static [&'static str],
    /// Command of drbdsetup whose configuration options it takes as well.
    pub section_options: Option<Section>,
}

const fn command(
    name: &'static str,
    action: Action,
    listing: Listing,
    options: &'static [&'static str],
) -> Command {
    Command { name, action, listing, options, section_options: None }
}

const fn with_section(name: &'static str, action: Action, listing: Listing, section: Section) -> Command {
    Command { name, action, listing, options: &["set-defaults"], section_options: Some(section) }
}

use Action::*;
use Listing::{Alias, Expert, Handler as Handlers, Public, Shell};

const FORCE: &[&str] = &["force"];
const CREATE: &[&str] = &[
    "max-peers=",
    "effective-size=",
    "diskful-peers=",
    "peer-max-bio-size=",
    "al-stripes=",
    "al-stripe-size-kB=",
    "bitmap-block-size=",
    "force",
];
const STATUS: &[&str] = &["verbose", "statistics", "color=", "json"];

/// All of them.
pub const COMMANDS: &[Command] = &[
    with_section("attach", Attach, Public, Section::Disk),
    with_section("disk-options", DiskOptions, Public, Section::Disk),
    command("detach", VolumeCall, Public, FORCE),
    command("connect", ConnectionCall, Public, &["tentative", "discard-my-data"]),
    with_section("net-options", NetOptions, Public, Section::Net),
    command("disconnect", ConnectionCall, Public, FORCE),
    command("up", Up, Public, &[]),
    with_section("resource-options", ResourceOptions, Public, Section::Resource),
    with_section("peer-device-options", PeerDeviceOptions, Public, Section::PeerDevice),
    command("down", ResourceCall, Public, &[]),
    command("primary", ResourceCall, Public, FORCE),
    command("secondary", ResourceCall, Public, FORCE),
    command("invalidate", Invalidate, Public, &["reset-bitmap="]),
    command("invalidate-remote", PeerDeviceCall, Public, &["reset-bitmap="]),
    command("outdate", Outdate, Public, &[]),
    command("resize", Resize, Public, RESIZE),
    command("verify", PeerDeviceCall, Public, &["start=", "stop="]),
    command("pause-sync", PeerDeviceCall, Public, &[]),
    command("resume-sync", PeerDeviceCall, Public, &[]),
    command("adjust", Adjust, Public, &["skip-disk", "skip-net"]),
    command("adjust-with-progress", Adjust, Public, &["skip-disk", "skip-net"]),
    command("wait-connect", Wait, Public, &[]),
    command("wait-sync", Wait, Public, &[]),
    command("wait-con-int", Wait, Public, &[]),
    command("role", ResourceCall, Public, &[]),
    command("cstate", ConnectionCall, Public, &[]),
    command("dstate", DiskState, Public, &[]),
    command("status", ResourceCall, Public, STATUS),
    command("peer-role", ConnectionCall, Alias, &[]),
    command("dump", Dump, Public, &[]),
    command("dump-xml", Dump, Public, &[]),
    command("create-md", CreateMetadata, Public, CREATE),
    command("md-create", CreateMetadata, Alias, CREATE),
    command("show-gi", Generations, Public, &[]),
    command("get-gi", Generations, Public, &[]),
    command("dump-md", MetadataCall, Public, FORCE),
    command("dump-superblock", MetadataCall, Public, &[]),
    command("wipe-md", MetadataCall, Public, FORCE),
    command("apply-al", MetadataCall, Public, &[]),
    command("repair-md", MetadataCall, Public, &[]),
    command("forget-peer", ForgetPeer, Public, &[]),
    with_section("new-peer", NewPeer, Public, Section::Net),
    command("del-peer", ConnectionCall, Public, FORCE),
    command("new-path", Paths, Public, &[]),
    command("del-path", Paths, Public, &[]),
    command("hidden-commands", HiddenCommands, Public, &[]),
    command("help", Help, Alias, &[]),
    with_section("new-resource", NewResource, Shell, Section::Resource),
    command("sh-nop", Nothing, Shell, &[]),
    command("sh-resources", Print, Shell, &[]),
    command("sh-resource", Print, Shell, &[]),
    command("sh-list-config-file", Print, Shell, &[]),
    command("sh-list-adjustable", Print, Shell, &[]),
    command("sh-mod-parms", ModuleParameters, Shell, &[]),
    command("sh-dev", Print, Shell, &[]),
    command("sh-udev", Print, Shell, &[]),
    command("sh-minor", Print, Shell, &[]),
    command("sh-ll-dev", Print, Shell, &[]),
    command("sh-md-dev", Print, Shell, &[]),
    command("sh-md-idx", Print, Shell, &[]),
    command("sh-ip", Print, Shell, &[]),
    command("sh-lr-of", Print, Shell, &[]),
    command("pri-on-incon-degr", Handler, Handlers, &[]),
    command("pri-lost-after-sb", Handler, Handlers, &[]),
    command("pri-lost", Handler, Handlers, &[]),
    command("initial-split-brain", Handler, Handlers, &[]),
    command("split-brain", Handler, Handlers, &[]),
    command("fence-peer", Handler, Handlers, &[]),
    command("unfence-peer", Handler, Handlers, &[]),
    command("local-io-error", Handler, Handlers, &[]),
    command("before-resync-target", Handler, Handlers, &[]),
    command("after-resync-target", Handler, Handlers, &[]),
    command("before-resync-source", Handler, Handlers, &[]),
    command("out-of-sync", Handler, Handlers, &[]),
    command("quorum-lost", Handler, Handlers, &[]),
    command("disconnected", Handler, Handlers, &[]),
    command("suspend-io", VolumeCall, Expert, &["bdev-freeze="]),
    command("resume-io", VolumeCall, Expert, &[]),
    command("set-gi", SetGenerations, Expert, &[]),
    command("new-current-uuid", VolumeCall, Expert, &["clear-bitmap", "force-resync"]),
    command("check-resize", Resize, Expert, &[]),
    with_section("new-minor", NewMinor, Expert, Section::Device),
    command("del-minor", VolumeCall, Expert, &[]),
];

const RESIZE: &[&str] =
    &["size=", "assume-peer-has-space", "assume-clean", "al-stripes=", "al-stripe-size-kB="];

impl Command {
    /// The command of that name.
    pub fn find(name: &str) -> Option<&'static Command> {
        COMMANDS.iter().find(|c| c.name == name)
    }

    /// Whether it works without a resource argument.
    pub fn resource_is_optional(&self) -> bool {
        matches!(self.name, "sh-resources" | "status" | "dump" | "dump-xml" | "wait-con-int")
            || matches!(self.action, Nothing | ModuleParameters | Help | HiddenCommands)
    }

    /// Whether it cannot be restricted to one volume.
    pub fn takes_whole_resources(&self) -> bool {
        match self.action {
            ResourceCall | Up | Adjust | NewResource | ResourceOptions => true,
            ConnectionCall | NewPeer | Paths | NetOptions | ForgetPeer => true,
            VolumeCall | MetadataCall | PeerDeviceCall | Attach | CreateMetadata | Resize | Invalidate => {
                false
            }
            Outdate | Generations | SetGenerations | DiskState | NewMinor | DiskOptions => false,
            PeerDeviceOptions | Wait | Print | Dump | Handler | Nothing | ModuleParameters => false,
            Help | HiddenCommands => false,
        }
    }

    /// Whether it makes the kernel, or us, use an address of this host.
    pub fn uses_addresses(&self) -> bool {
        matches!(self.action, Up | Adjust) || matches!(self.name, "new-path" | "connect")
    }

    /// Whether drbdsetup has a command of the same name, which is what `help COMMAND` explains.
    pub fn is_of_drbdsetup(&self) -> bool {
        match self.action {
            ResourceCall | VolumeCall | ConnectionCall | PeerDeviceCall | Attach | Resize | Invalidate => {
                true
            }
            Outdate | Generations | DiskState | ForgetPeer | NewResource | NewMinor | NewPeer | Paths => true,
            NetOptions | DiskOptions | ResourceOptions | PeerDeviceOptions => true,
            MetadataCall | Up | Adjust | CreateMetadata | SetGenerations | Wait | Print | Dump => false,
            Handler | Nothing | ModuleParameters | Help | HiddenCommands => false,
        }
    }
}
