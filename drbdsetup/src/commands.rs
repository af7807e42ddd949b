//! THE command table: name, summary, arguments and options of every command, once. Parsing, `help`, `xml-help` and
//! dispatch all come from here; options of a configuration section come from the option table of `drbd-core`.

use drbd_core::config::options::Kind;
use drbd_core::config::{OptionSpec, Section};

/// What a positional argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Argument {
    /// A resource name.
    Resource,
    /// A resource name or `all`; may be left out where the command allows it.
    ResourceOrAll {
        /// Missing means `all`.
        optional: bool,
    },
    /// `N` or `/dev/drbdN`.
    Minor,
    /// Node id of a peer.
    PeerNodeId,
    /// Node id of this node.
    NodeId,
    /// Volume number.
    Volume,
    /// Anything; the name is shown in help.
    Text(&'static str),
}

impl Argument {
    /// Its name in help texts.
    pub const fn name(self) -> &'static str {
        match self {
            Argument::Resource | Argument::ResourceOrAll { .. } => "resource",
            Argument::Minor => "minor",
            Argument::PeerNodeId => "peer_node_id",
            Argument::NodeId => "node_id",
            Argument::Volume => "volume",
            Argument::Text(name) => name,
        }
    }
}

/// How an option takes its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// None.
    Nothing,
    /// A typed value; of a boolean it may be left out.
    Value(Kind),
    /// A text that must be given.
    Text,
    /// A text that may be given as `--option=TEXT`.
    OptionalText,
}

/// One option of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandOption {
    /// Long spelling.
    pub name: &'static str,
    /// Short spelling.
    pub short: Option<char>,
    /// Its value.
    pub takes: Takes,
}

/// The options a command takes from the option table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionOptions {
    /// None.
    None,
    /// All of a section: the command creates the object.
    Create(Section),
    /// Those that may change while the object exists, and `--set-defaults`.
    Change(Section),
}

/// Options that are fixed when the object is made.
const FIXED: &[&str] = &["transport", "load-balance-paths", "size"];

/// What a command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are the commands
pub enum Verb {
    Primary,
    Secondary,
    Attach,
    DiskOptions,
    Detach,
    Connect,
    NewPeer,
    DelPeer,
    NewPath,
    DelPath,
    NetOptions,
    Disconnect,
    Resize,
    ResourceOptions,
    PeerDeviceOptions,
    NewCurrentUuid,
    Invalidate,
    InvalidateRemote,
    PauseSync,
    ResumeSync,
    SuspendIo,
    ResumeIo,
    Outdate,
    Verify,
    Down,
    Role,
    PeerRole,
    Cstate,
    Dstate,
    ShowGi,
    GetGi,
    Show,
    Status,
    CheckResize,
    Events2,
    WaitSync,
    WaitConnect,
    NewResource,
    NewMinor,
    DelMinor,
    DelResource,
    ForgetPeer,
    RenameResource,
    Udev,
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// What it does.
    pub verb: Verb,
    /// Positional arguments.
    pub arguments: &'static [Argument],
    /// Options of the command itself.
    pub own: &'static [CommandOption],
    /// Options of a configuration section.
    pub section: SectionOptions,
}

impl Command {
    /// The command of that name.
    pub fn find(name: &str) -> Option<&'static Command> {
        COMMANDS.iter().find(|c| c.name == name)
    }

    /// Every option it takes, in the order of the help text.
    pub fn options(&self) -> Vec<CommandOption> {
        let mut all = Vec::new();
        let (section, change) = match self.section {
            SectionOptions::None => return self.own.to_vec(),
            SectionOptions::Create(section) => (section, false),
            SectionOptions::Change(section) => (section, true),
        };
        if change {
            all.push(flag("set-defaults", None));
        }
        all.extend(OptionSpec::of(section).filter(|o| !(change && FIXED.contains(&o.name))).map(of_spec));
        if section == Section::Disk {
            // DRBD 9 lists the peer device's `bitmap` among the options of a disk, too.
            all.extend(OptionSpec::find("bitmap").map(of_spec));
        }
        all.extend(self.own);
        all
    }

    /// The least number of arguments.
    pub fn arguments_min(&self) -> usize {
        self.arguments.iter().filter(|a| !matches!(a, Argument::ResourceOrAll { optional: true })).count()
    }
}

const fn of_spec(spec: &'static OptionSpec) -> CommandOption {
    CommandOption { name: spec.name, short: None, takes: Takes::Value(spec.kind) }
}

const fn flag(name: &'static str, short: Option<char>) -> CommandOption {
    CommandOption { name, short, takes: Takes::Nothing }
}

const fn boolean(name: &'static str, default: bool) -> CommandOption {
    CommandOption { name, short: None, takes: Takes::Value(Kind::Boolean { default }) }
}

const fn text(name: &'static str, short: char) -> CommandOption {
    CommandOption { name, short: Some(short), takes: Takes::Text }
}

const fn optional_text(name: &'static str, short: char) -> CommandOption {
    CommandOption { name, short: Some(short), takes: Takes::OptionalText }
}

const fn number(
    name: &'static str,
    (min, max, default): (i64, i64, i64),
    prefix: char,
    unit: &'static str,
) -> CommandOption {
    CommandOption { name, short: None, takes: Takes::Value(Kind::Number { min, max, default, prefix, unit }) }
}

const fn command(
    verb: Verb,
    name: &'static str,
    arguments: &'static [Argument],
    own: &'static [CommandOption],
    summary: &'static str,
) -> Command {
    Command { name, summary, verb, arguments, own, section: SectionOptions::None }
}

const fn with_section(command: Command, section: SectionOptions) -> Command {
    Command { section, ..command }
}

/// Largest device in sectors, as DRBD's help says it.
const SIZE_MAX: i64 = 2_199_023_255_552;

const FORCE: &[CommandOption] = &[boolean("force", false)];

const WAIT: &[CommandOption] = &[
    text("wfc-timeout", 't'),
    text("degr-wfc-timeout", 'd'),
    text("outdated-wfc-timeout", 'o'),
    optional_text("wait-after-sb", 'w'),
];

const LOCAL: Argument = Argument::Text("local-addr");
const REMOTE: Argument = Argument::Text("remote-addr");
const ONE_OR_ALL: Argument = Argument::ResourceOrAll { optional: true };

/// Every command, in the order of the help text.
pub const COMMANDS: &[Command] = &[
    command(
        Verb::Primary,
        "primary",
        &[Argument::Resource],
        FORCE,
        "Change the role of a node in a resource to primary.",
    ),
    command(
        Verb::Secondary,
        "secondary",
        &[Argument::Resource],
        FORCE,
        "Change the role of a node in a resource to secondary.",
    ),
    with_section(
        command(
            Verb::Attach,
            "attach",
            &[
                Argument::Minor,
                Argument::Text("lower_dev"),
                Argument::Text("meta_data_dev"),
                Argument::Text("meta_data_index"),
            ],
            &[],
            "Attach a lower-level device to an existing replicated device.",
        ),
        SectionOptions::Create(Section::Disk),
    ),
    with_section(
        command(
            Verb::DiskOptions,
            "disk-options",
            &[Argument::Minor],
            &[],
            "Change the disk options of an attached lower-level device.",
        ),
        SectionOptions::Change(Section::Disk),
    ),
    command(
        Verb::Detach,
        "detach",
        &[Argument::Minor],
        &[boolean("force", false), boolean("diskless", false)],
        "Detach the lower-level device of a replicated device.",
    ),
    command(
        Verb::Connect,
        "connect",
        &[Argument::Resource, Argument::PeerNodeId],
        &[boolean("tentative", false), boolean("discard-my-data", false)],
        "Attempt to (re)establish a replication link to a peer host.",
    ),
    with_section(
        command(
            Verb::NewPeer,
            "new-peer",
            &[Argument::Resource, Argument::PeerNodeId],
            &[],
            "Make a peer host known to a resource.",
        ),
        SectionOptions::Create(Section::Net),
    ),
    command(
        Verb::DelPeer,
        "del-peer",
        &[Argument::Resource, Argument::PeerNodeId],
        FORCE,
        "Remove a connection to a peer host.",
    ),
    command(
        Verb::NewPath,
        "new-path",
        &[Argument::Resource, Argument::PeerNodeId, LOCAL, REMOTE],
        &[],
        "Add a path (endpoint address pair) where a peer host should be reachable.",
    ),
    command(
        Verb::DelPath,
        "del-path",
        &[Argument::Resource, Argument::PeerNodeId, LOCAL, REMOTE],
        &[],
        "Remove a path (endpoint address pair) from a connection to a peer host.",
    ),
    with_section(
        command(
            Verb::NetOptions,
            "net-options",
            &[Argument::Resource, Argument::PeerNodeId],
            &[],
            "Change the network options of a connection.",
        ),
        SectionOptions::Change(Section::Net),
    ),
    command(
        Verb::Disconnect,
        "disconnect",
        &[Argument::Resource, Argument::PeerNodeId],
        FORCE,
        "Unconnect from a peer host.",
    ),
    command(
        Verb::Resize,
        "resize",
        &[Argument::Minor],
        &[
            number("size", (0, SIZE_MAX, 0), 's', "bytes"),
            boolean("assume-peer-has-space", false),
            boolean("assume-clean", false),
            number("al-stripes", (1, 1024, 1), '1', ""),
            number("al-stripe-size-kB", (4, 16_777_216, 32), 'k', ""),
        ],
        "Reexamine the lower-level device sizes to resize a replicated device.",
    ),
    with_section(
        command(
            Verb::ResourceOptions,
            "resource-options",
            &[Argument::Resource],
            &[],
            "Change the resource options of an existing resource.",
        ),
        SectionOptions::Change(Section::Resource),
    ),
    with_section(
        command(
            Verb::PeerDeviceOptions,
            "peer-device-options",
            &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
            &[],
            "Change peer-device options.",
        ),
        SectionOptions::Change(Section::PeerDevice),
    ),
    command(
        Verb::NewCurrentUuid,
        "new-current-uuid",
        &[Argument::Minor],
        &[boolean("clear-bitmap", false), boolean("force-resync", false)],
        "Generate a new current UUID.",
    ),
    command(
        Verb::Invalidate,
        "invalidate",
        &[Argument::Minor],
        &[number("sync-from-peer-node-id", (-1, 32, -1), '1', ""), boolean("reset-bitmap", true)],
        "Replace the local data of a volume with that of a peer.",
    ),
    command(
        Verb::InvalidateRemote,
        "invalidate-remote",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        &[boolean("reset-bitmap", true)],
        "Replace a peer's data of a volume with the local data.",
    ),
    command(
        Verb::PauseSync,
        "pause-sync",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        &[],
        "Stop resynchronizing between a local and a peer device.",
    ),
    command(
        Verb::ResumeSync,
        "resume-sync",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        &[],
        "Allow resynchronization to resume on a replicated device.",
    ),
    command(
        Verb::SuspendIo,
        "suspend-io",
        &[Argument::Minor],
        &[boolean("bdev-freeze", true)],
        "Suspend I/O on a replicated device.",
    ),
    command(Verb::ResumeIo, "resume-io", &[Argument::Minor], &[], "Resume I/O on a replicated device."),
    command(
        Verb::Outdate,
        "outdate",
        &[Argument::Minor],
        &[],
        "Mark the data on a lower-level device as outdated.",
    ),
    command(
        Verb::Verify,
        "verify",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        &[number("start", (0, SIZE_MAX, 0), 's', "bytes"), number("stop", (0, SIZE_MAX, 0), 's', "bytes")],
        "Verify the data on a lower-level device against a peer device.",
    ),
    command(Verb::Down, "down", &[Argument::ResourceOrAll { optional: false }], &[], "Take a resource down."),
    command(Verb::Role, "role", &[Argument::Resource], &[], "Show the current role of a resource."),
    command(
        Verb::PeerRole,
        "peer-role",
        &[Argument::Resource, Argument::PeerNodeId],
        &[],
        "Show the current role of a peer.",
    ),
    command(
        Verb::Cstate,
        "cstate",
        &[Argument::Resource, Argument::PeerNodeId],
        &[],
        "Show the current state of a connection.",
    ),
    command(
        Verb::Dstate,
        "dstate",
        &[Argument::Minor],
        &[],
        "Show the current disk state of a lower-level device.",
    ),
    command(
        Verb::ShowGi,
        "show-gi",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        &[],
        "Show the data generation identifiers for a device on a particular connection, with explanations.",
    ),
    command(
        Verb::GetGi,
        "get-gi",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        &[],
        "Show the data generation identifiers for a device on a particular connection.",
    ),
    command(
        Verb::Show,
        "show",
        &[ONE_OR_ALL],
        &[flag("show-defaults", Some('D')), flag("json", Some('j'))],
        "Show the current configuration of a resource, or of all resources.",
    ),
    command(
        Verb::Status,
        "status",
        &[ONE_OR_ALL],
        &[
            flag("verbose", Some('v')),
            flag("statistics", Some('s')),
            optional_text("color", 'c'),
            flag("json", Some('j')),
        ],
        "Show the state of a resource, or of all resources.",
    ),
    command(
        Verb::CheckResize,
        "check-resize",
        &[Argument::Minor],
        &[],
        "Remember the current size of a lower-level device.",
    ),
    command(
        Verb::Events2,
        "events2",
        &[ONE_OR_ALL],
        &[
            flag("timestamps", Some('t')),
            flag("statistics", Some('s')),
            flag("now", Some('n')),
            flag("poll", Some('p')),
            flag("full", Some('f')),
            optional_text("color", 'c'),
            optional_text("diff", 'i'),
            text("rcvbuf", 'r'),
        ],
        "Show the current state and all state changes of a resource, or of all resources.",
    ),
    command(
        Verb::WaitSync,
        "wait-sync-volume",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        WAIT,
        "Wait until resync finished on a volume.",
    ),
    command(
        Verb::WaitSync,
        "wait-sync-connection",
        &[Argument::Resource, Argument::PeerNodeId],
        WAIT,
        "Wait until resync finished on all volumes of a connection.",
    ),
    command(
        Verb::WaitSync,
        "wait-sync-resource",
        &[Argument::Resource],
        WAIT,
        "Wait until resync finished on all volumes.",
    ),
    command(
        Verb::WaitConnect,
        "wait-connect-volume",
        &[Argument::Resource, Argument::PeerNodeId, Argument::Volume],
        WAIT,
        "Wait until a device on a peer is visible.",
    ),
    command(
        Verb::WaitConnect,
        "wait-connect-connection",
        &[Argument::Resource, Argument::PeerNodeId],
        WAIT,
        "Wait until all peer volumes of connection are visible.",
    ),
    command(
        Verb::WaitConnect,
        "wait-connect-resource",
        &[Argument::Resource],
        WAIT,
        "Wait until all connections are establised.",
    ),
    with_section(
        command(
            Verb::NewResource,
            "new-resource",
            &[Argument::Resource, Argument::NodeId],
            &[],
            "Create a new resource.",
        ),
        SectionOptions::Create(Section::Resource),
    ),
    with_section(
        command(
            Verb::NewMinor,
            "new-minor",
            &[Argument::Resource, Argument::Minor, Argument::Volume],
            &[],
            "Create a new replicated device within a resource.",
        ),
        SectionOptions::Create(Section::Device),
    ),
    command(Verb::DelMinor, "del-minor", &[Argument::Minor], &[], "Remove a replicated device."),
    command(Verb::DelResource, "del-resource", &[Argument::Resource], &[], "Remove a resource."),
    command(
        Verb::ForgetPeer,
        "forget-peer",
        &[Argument::Resource, Argument::PeerNodeId],
        &[],
        "Completely remove any reference to an unconnected peer from meta-data.",
    ),
    command(
        Verb::RenameResource,
        "rename-resource",
        &[Argument::Resource, Argument::Text("new_name")],
        &[],
        "Rename a resource.",
    ),
    command(Verb::Udev, "udev", &[Argument::Minor], &[], "Generate output for udev rules."),
];
