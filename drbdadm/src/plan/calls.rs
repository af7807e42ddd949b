//! One function per kind of call. Options go on the command line exactly as written in the configuration.

use super::{Call, Patience, Planned, Program, Selected, Stage, Step, Wishes};
use crate::commands::Command;
use crate::syntax::{Address, Settings};
use crate::wanted::{BackingDisk, Wanted, WantedConnection, WantedVolume};

/// Exit codes of `invalidate` that are answers: the resource runs and refuses.
const INVALIDATE_ANSWERS: &[i32] = &[11, 17];
/// Exit codes of `outdate` that are answers. 5 is one only if there is no disk to outdate: the resource may be diskless.
const OUTDATE_ANSWERS: &[i32] = &[17];

/// Commands of drbdsetup that may have to wait: for a process to start, for disks, for peers.
const MAY_WAIT: &[&str] =
    &["new-resource", "attach", "detach", "disconnect", "primary", "secondary", "down", "del-peer", "resize"];

/// A call of drbdsetup.
pub(super) fn setup_call(resource: &Wanted, arguments: Vec<String>) -> Call {
    let waits = arguments.first().is_some_and(|verb| MAY_WAIT.contains(&verb.as_str()));
    Call {
        program: Program::Drbdsetup,
        arguments,
        resource: resource.name.clone(),
        patience: if waits { Patience::Medium } else { Patience::Short },
        hushed: false,
        silent_failure: false,
    }
}

/// A call of drbdsetup with just these words.
pub fn volume_call(resource: &Wanted, arguments: &[&str]) -> Call {
    setup_call(resource, words(arguments))
}

/// disk-options that leaves nothing as it was.
pub fn disk_options_call(resource: &Wanted, volume: &WantedVolume) -> Call {
    let mut call = volume_call(resource, &["disk-options", &volume.minor.to_string(), "--set-defaults"]);
    call.arguments.extend(options(&volume.backing_settings));
    call
}

/// resource-options that leaves nothing as it was.
pub fn resource_options_call(resource: &Wanted) -> Call {
    let mut call = volume_call(resource, &["resource-options", &resource.name, "--set-defaults"]);
    call.arguments.extend(options(&resource.options));
    call
}

/// A call of drbdmeta for a volume's metadata.
pub fn meta_call(resource: &Wanted, volume: &WantedVolume, disk: &BackingDisk, command: &[&str]) -> Call {
    let mut arguments = vec![
        volume.minor.to_string(),
        "v09".to_owned(),
        disk.meta_path().to_owned(),
        disk.index_for_drbdmeta(),
    ];
    arguments.extend(command.iter().map(|c| (*c).to_owned()));
    Call {
        program: Program::Drbdmeta,
        arguments,
        resource: resource.name.clone(),
        patience: Patience::Long,
        hushed: false,
        silent_failure: false,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// `--name=value` of everything that is set.
pub fn options(settings: &Settings) -> impl Iterator<Item = String> + '_ {
    settings.0.iter().map(|s| match &s.value {
        Some(value) => format!("--{}={value}", s.name),
        None => format!("--{}", s.name),
    })
}

fn one(call: Call) -> Step {
    Step::All(vec![call])
}

pub(super) fn resource_call(command: &Command, resource: &Wanted, wishes: &Wishes) -> Step {
    let mut arguments = words(&[command.name, &resource.name]);
    arguments.extend(wishes.setup.iter().cloned());
    one(setup_call(resource, arguments))
}

pub(super) fn volume_calls(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let call = |volume: &WantedVolume| {
        let mut arguments = words(&[command.name, &volume.minor.to_string()]);
        arguments.extend(wishes.setup.iter().cloned());
        one(setup_call(selection.resource, arguments))
    };
    selection.volumes().map(call).collect()
}

pub(super) fn metadata_calls(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let call = |(volume, disk): (&WantedVolume, &BackingDisk)| {
        let mut call = meta_call(selection.resource, volume, disk, &[command.name]);
        if command.name == "dump-superblock" {
            call.arguments.push("--output-format=json".to_owned());
        }
        call.arguments.extend(wishes.setup.iter().cloned());
        one(call)
    };
    with_disk(selection).map(call).collect()
}

fn with_disk<'a>(
    selection: &Selected<'a>,
) -> impl Iterator<Item = (&'a WantedVolume, &'a BackingDisk)> + use<'a> {
    selection.volumes().filter_map(|v| v.disk.as_ref().map(|d| (v, d)))
}

pub(super) fn connection_calls(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let call = |connection: &WantedConnection| {
        let mut call = connection_call(command.name, selection.resource, connection.peer_id);
        call.arguments.extend(wishes.setup.iter().cloned());
        one(call)
    };
    selection.connections().map(call).collect()
}

/// `drbdsetup NAME RESOURCE PEER`.
pub fn connection_call(name: &str, resource: &Wanted, peer_id: u32) -> Call {
    setup_call(resource, words(&[name, &resource.name, &peer_id.to_string()]))
}

/// Volumes first, then peers, as DRBD iterates.
fn peer_devices<'a>(
    selection: &Selected<'a>,
) -> impl Iterator<Item = (&'a WantedVolume, &'a WantedConnection)> + use<'a> {
    let selection = selection.clone();
    selection.volumes().flat_map(move |v| selection.connections().map(move |c| (v, c)))
}

/// `drbdsetup NAME RESOURCE PEER VOLUME`.
pub fn peer_device_call(name: &str, resource: &Wanted, peer_id: u32, volume: u32) -> Call {
    setup_call(resource, words(&[name, &resource.name, &peer_id.to_string(), &volume.to_string()]))
}

pub(super) fn peer_device_calls(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let call = |(volume, connection): (&WantedVolume, &WantedConnection)| {
        let mut call = peer_device_call(command.name, selection.resource, connection.peer_id, volume.number);
        call.arguments.extend(wishes.setup.iter().cloned());
        one(call)
    };
    peer_devices(selection).map(call).collect()
}

/// Everything of a resource, from nothing to connected.
pub(super) fn up(selection: &Selected<'_>) -> Vec<Planned> {
    let mut plan = Vec::new();
    let mut at = |stage: Stage, steps: Vec<Step>| {
        let place = |step| Planned { stage, resource: selection.resource.name.clone(), step };
        plan.extend(steps.into_iter().map(place));
    };
    at(Stage::Prerequisites, vec![new_resource(selection.resource, &[])]);
    at(Stage::Minors, new_minors(selection, &[]));
    at(Stage::NetUp, new_peers(selection, &[]));
    at(Stage::Paths, paths("new-path", selection));
    at(Stage::PeerDevices, set_peer_device_options(selection));
    at(Stage::Disk, attach(selection, &Wishes::default()));
    let connect = |c: &WantedConnection| one(connection_call("connect", selection.resource, c.peer_id));
    at(Stage::Connect, selection.connections().map(connect).collect());
    plan
}

/// repair-md, apply-al, attach.
pub fn attach_step(resource: &Wanted, volume: &WantedVolume, disk: &BackingDisk, extra: &[String]) -> Step {
    let mut arguments =
        words(&["attach", &volume.minor.to_string(), &disk.path, disk.meta_path(), &disk.index()]);
    arguments.extend(options(&volume.backing_settings));
    arguments.extend(extra.iter().cloned());
    let attach = setup_call(resource, arguments);
    Step::All(vec![
        meta_call(resource, volume, disk, &["repair-md"]),
        meta_call(resource, volume, disk, &["apply-al"]),
        attach,
    ])
}

pub(super) fn attach(selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |(volume, disk): (&WantedVolume, &BackingDisk)| {
        attach_step(selection.resource, volume, disk, &wishes.setup)
    };
    with_disk(selection).map(step).collect()
}

/// Bitmap slots for all diskful peers, at least one.
pub(super) fn create_metadata(selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let resource = selection.resource;
    let diskful = resource.connections.iter().filter(|c| c.peer_has_disk).count().max(1);
    let peers = wishes.max_peers.clone().unwrap_or_else(|| diskful.to_string());
    let step = |(volume, disk): (&WantedVolume, &BackingDisk)| {
        let mut create = meta_call(resource, volume, disk, &["create-md", &peers]);
        let mut read = meta_call(resource, volume, disk, &["read-dev-uuid"]);
        let mut write = meta_call(resource, volume, disk, &["write-dev-uuid"]);
        if wishes.create_v08 {
            create.arguments.pop();
            for call in [&mut create, &mut read, &mut write] {
                call.arguments[1] = "v08".to_owned();
            }
        }
        create.arguments.extend(wishes.setup.iter().cloned());
        create.patience = Patience::Forever;
        Step::Create { create, read, write }
    };
    with_disk(selection).map(step).collect()
}

pub(super) fn resize(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |volume: &WantedVolume| {
        let mut arguments = words(&["resize", &volume.minor.to_string()]);
        if let Some(size) = volume.backing_settings.value("size") {
            arguments.push(format!("--size={size}"));
        }
        arguments.extend(wishes.setup.iter().cloned());
        let resize = setup_call(selection.resource, arguments);
        let check = words(&["check-resize", &volume.minor.to_string()]);
        let remember = setup_call(selection.resource, check);
        if command.name != "check-resize" {
            return Step::All(vec![resize, remember]);
        }
        let on_disk = on_disk(selection, volume, &["check-resize"]).pop();
        Step::CheckResize {
            resize: Call { hushed: true, ..resize },
            remember: Call { hushed: true, ..remember },
            move_metadata: on_disk.ok_or_else(|| {
                format!(
                    "No backing device configured for drbd{}, cannot fall back to drbdmeta.",
                    volume.minor
                )
            }),
        }
    };
    selection.volumes().map(step).collect()
}

/// A drbdmeta call to fall back on; none for a diskless volume.
fn on_disk(selection: &Selected<'_>, volume: &WantedVolume, command: &[&str]) -> Vec<Call> {
    let disk = volume.disk.as_ref();
    disk.map(|d| meta_call(selection.resource, volume, d, command)).into_iter().collect()
}

pub(super) fn invalidate(selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |volume: &WantedVolume| {
        let mut arguments = words(&["invalidate", &volume.minor.to_string()]);
        if let Some(peer) = selection.peer {
            arguments.push(format!("--sync-from-peer-node-id={peer}"));
        }
        arguments.extend(wishes.setup.iter().cloned());
        let first = setup_call(selection.resource, arguments);
        let second = on_disk(selection, volume, &["invalidate"]);
        Step::Else { first, unless: INVALIDATE_ANSWERS, second }
    };
    selection.volumes().map(step).collect()
}

pub(super) fn outdate(selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |volume: &WantedVolume| {
        let resource = selection.resource;
        let mut arguments = words(&["outdate", &resource.name, &volume.minor.to_string()]);
        arguments.extend(wishes.setup.iter().cloned());
        let first = Call { hushed: true, ..setup_call(resource, arguments) };
        let second = on_disk(selection, volume, &["outdate"]);
        Step::Else { first, unless: OUTDATE_ANSWERS, second }
    };
    selection.volumes().map(step).collect()
}

pub(super) fn generations(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |(volume, connection): (&WantedVolume, &WantedConnection)| {
        let call = peer_device_call(command.name, selection.resource, connection.peer_id, volume.number);
        let mut first = Call { hushed: true, ..call };
        first.arguments.extend(wishes.setup.iter().cloned());
        let node = format!("--node-id={}", connection.peer_id);
        let second = on_disk(selection, volume, &[&node, command.name]);
        Step::Else { first, unless: &[], second }
    };
    peer_devices(selection).map(step).collect()
}

pub(super) fn set_generations(selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |(volume, connection): (&WantedVolume, &WantedConnection)| {
        let node = format!("--node-id={}", connection.peer_id);
        let mut calls = on_disk(selection, volume, &[&node, "set-gi"]);
        for call in &mut calls {
            call.arguments.extend(wishes.setup.iter().cloned());
            call.patience = Patience::Forever;
        }
        Step::All(calls)
    };
    peer_devices(selection).map(step).collect()
}

pub(super) fn disk_state(selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |volume: &WantedVolume| {
        let mut arguments = words(&["dstate", &volume.minor.to_string()]);
        arguments.extend(wishes.setup.iter().cloned());
        let first = Call { hushed: true, ..setup_call(selection.resource, arguments) };
        Step::Else { first, unless: &[], second: on_disk(selection, volume, &["dstate"]) }
    };
    selection.volumes().map(step).collect()
}

pub(super) fn forget_peer(selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let step = |connection: &WantedConnection| {
        let mut first = connection_call("forget-peer", selection.resource, connection.peer_id);
        first.arguments.extend(wishes.setup.iter().cloned());
        let node = format!("--node-id={}", connection.peer_id);
        let volumes = selection.volumes().flat_map(|v| on_disk(selection, v, &[&node, "forget-peer"]));
        Step::Else { first: Call { hushed: true, ..first }, unless: &[], second: volumes.collect() }
    };
    selection.connections().map(step).collect()
}

/// new-resource with the resource options.
pub fn new_resource(resource: &Wanted, extra: &[String]) -> Step {
    let mut arguments = words(&["new-resource", &resource.name, &resource.node_id.to_string()]);
    arguments.extend(options(&resource.options));
    arguments.extend(extra.iter().cloned());
    one(setup_call(resource, arguments))
}

/// new-minor with the device options.
pub fn new_minor(resource: &Wanted, volume: &WantedVolume, extra: &[String]) -> Step {
    let (minor, number) = (volume.minor.to_string(), volume.number.to_string());
    let mut arguments = words(&["new-minor", &resource.name, &minor, &number]);
    arguments.extend(options(&volume.device_settings));
    if volume.disk.is_none() {
        arguments.push("--diskless".to_owned());
    }
    arguments.extend(extra.iter().cloned());
    one(setup_call(resource, arguments))
}

pub(super) fn new_minors(selection: &Selected<'_>, extra: &[String]) -> Vec<Step> {
    selection.volumes().map(|v| new_minor(selection.resource, v, extra)).collect()
}

/// new-peer with the net options.
pub fn new_peer(resource: &Wanted, connection: &WantedConnection, extra: &[String]) -> Step {
    let mut call = connection_call("new-peer", resource, connection.peer_id);
    call.arguments.extend(options(&connection.net));
    call.arguments.extend(extra.iter().cloned());
    one(call)
}

pub(super) fn new_peers(selection: &Selected<'_>, extra: &[String]) -> Vec<Step> {
    selection.connections().map(|c| new_peer(selection.resource, c, extra)).collect()
}

/// `new-path` or `del-path`.
pub fn path_call(name: &str, resource: &Wanted, peer_id: u32, local: &Address, remote: &Address) -> Call {
    let mut call = connection_call(name, resource, peer_id);
    call.arguments.extend([local.for_drbdsetup(), remote.for_drbdsetup()]);
    call
}

pub(super) fn paths(name: &str, selection: &Selected<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for connection in selection.connections() {
        for path in &connection.paths {
            let call = path_call(name, selection.resource, connection.peer_id, &path.local, &path.remote);
            steps.push(one(call));
        }
    }
    steps
}

/// The transport of a connection cannot be changed later.
pub fn changeable(net: &Settings) -> Settings {
    Settings(net.0.iter().filter(|s| s.name != "transport").cloned().collect())
}

pub(super) fn net_options(selection: &Selected<'_>, extra: &[String]) -> Vec<Step> {
    let call = |connection: &WantedConnection| {
        let mut call = connection_call("net-options", selection.resource, connection.peer_id);
        call.arguments.extend(options(&changeable(&connection.net)));
        call.arguments.extend(extra.iter().cloned());
        one(call)
    };
    selection.connections().map(call).collect()
}

pub(super) fn disk_options(selection: &Selected<'_>, extra: &[String]) -> Vec<Step> {
    let call = |volume: &WantedVolume| {
        let mut arguments = words(&["disk-options", &volume.minor.to_string()]);
        arguments.extend(options(&volume.backing_settings));
        arguments.extend(extra.iter().cloned());
        one(setup_call(selection.resource, arguments))
    };
    selection.volumes().map(call).collect()
}

/// Only what the command line adds: so drbdadm 9.34, unlike its other `…-options`.
pub(super) fn resource_options(resource: &Wanted, extra: &[String]) -> Step {
    let mut arguments = words(&["resource-options", &resource.name]);
    arguments.extend(extra.iter().cloned());
    one(setup_call(resource, arguments))
}

pub(super) fn peer_device_options(selection: &Selected<'_>, extra: &[String]) -> Vec<Step> {
    let call = |(volume, connection): (&WantedVolume, &WantedConnection)| {
        let mut call =
            peer_device_call("peer-device-options", selection.resource, connection.peer_id, volume.number);
        let settings = connection.peer_devices.iter().find(|(number, _)| *number == volume.number);
        call.arguments.extend(settings.into_iter().flat_map(|(_, s)| options(s)));
        call.arguments.extend(extra.iter().cloned());
        one(call)
    };
    peer_devices(selection).map(call).collect()
}

/// Only where something is set; connection by connection.
fn set_peer_device_options(selection: &Selected<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for connection in selection.connections() {
        for (number, settings) in connection.peer_devices.iter().filter(|(_, s)| !s.is_empty()) {
            let resource = selection.resource;
            let mut call = peer_device_call("peer-device-options", resource, connection.peer_id, *number);
            call.arguments.extend(options(settings));
            steps.push(one(call));
        }
    }
    steps
}

/// Waits with the resource's timeouts; a peer or a volume narrows it.
pub(super) fn wait(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let resource = selection.resource;
    let verb = if command.name == "wait-sync" { "wait-sync" } else { "wait-connect" };
    let mut targets: Vec<Vec<String>> = Vec::new();
    match (selection.peer, selection.volume) {
        (None, None) => targets.push(words(&[&format!("{verb}-resource"), &resource.name])),
        (Some(peer), None) => {
            targets.push(words(&[&format!("{verb}-connection"), &resource.name, &peer.to_string()]));
        }
        (_, Some(volume)) => targets.extend(selection.connections().map(|c| {
            let (peer, volume) = (c.peer_id.to_string(), volume.to_string());
            words(&[&format!("{verb}-volume"), &resource.name, &peer, &volume])
        })),
    }
    let call = |mut arguments: Vec<String>| {
        let timeouts = resource.startup.0.iter().filter(|s| s.value.is_some()).cloned().collect();
        arguments.extend(options(&Settings(timeouts)));
        arguments.extend(wishes.setup.iter().cloned());
        let call = setup_call(resource, arguments);
        one(Call { patience: Patience::Forever, silent_failure: true, ..call })
    };
    targets.into_iter().map(call).collect()
}
