//! Commands that print one thing: role, peer-role, cstate, dstate, udev.

use crate::arguments::CommandLine;
use crate::client::{Client, NoClient};
use crate::fault::Fault;
use crate::rundir::{run_dir_path, RunDir};
use drbd_core::control::{DeviceObject, ResourceStatus};

/// Whose status is asked for, and what is said if it does not exist.
fn status_of(resource: &str, missing: &str) -> Result<ResourceStatus, Fault> {
    let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
    match Client::connect(run_dir.as_ref(), resource) {
        Ok(mut client) => client.status(),
        Err(NoClient::Trouble(fault)) => Err(fault),
        Err(NoClient::NotConfigured(info)) => Err(Fault::missing(with_info(missing, &info))),
    }
}

/// A sentence on its own line below DRBD's.
pub fn with_info(text: &str, info: &str) -> String {
    if info.is_empty() {
        text.to_owned()
    } else {
        format!("{text}\n{info}")
    }
}

/// `role RESOURCE`.
pub fn role(line: &CommandLine) -> Result<String, Fault> {
    let name = line.object();
    Ok(format!("{}\n", status_of(name, &format!("{name}: Unknown resource"))?.resource.role))
}

/// `peer-role RESOURCE PEER`.
pub fn peer_role(line: &CommandLine) -> Result<String, Fault> {
    connection(line, |c| c.role.to_string())
}

/// `cstate RESOURCE PEER`.
pub fn cstate(line: &CommandLine) -> Result<String, Fault> {
    connection(line, |c| c.connection.to_string())
}

fn connection(
    line: &CommandLine,
    word: impl Fn(&drbd_core::control::ConnectionObject) -> String,
) -> Result<String, Fault> {
    let name = line.object();
    let missing = format!("{name}: No such connection");
    let status = status_of(name, &format!("{name}: Unknown resource"))?;
    let found = status.connections.iter().find(|c| c.connection.peer_node_id == line.peer());
    found.map(|c| format!("{}\n", word(&c.connection))).ok_or_else(|| Fault::missing(missing))
}

/// The status of the resource that has a minor, and the device.
fn device(line: &CommandLine) -> Result<(ResourceStatus, DeviceObject), Fault> {
    let missing = format!("{}: No such device", line.object());
    let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
    let resource = run_dir.as_ref().and_then(|dir| dir.resource_of_minor(line.minor().0));
    let resource = resource.ok_or_else(|| Fault::missing(missing.as_str()))?;
    let status = status_of(&resource, &missing)?;
    let device = status.devices.iter().find(|d| d.minor == line.minor()).cloned();
    device.map(|device| (status, device)).ok_or_else(|| Fault::missing(missing))
}

/// `dstate MINOR`.
pub fn dstate(line: &CommandLine) -> Result<String, Fault> {
    let (status, device) = device(line)?;
    Ok(disk_states(&status, &device))
}

/// The disk states of a volume, own first, then the peers' in their order.
pub fn disk_states(status: &ResourceStatus, device: &DeviceObject) -> String {
    let mut words = vec![device.disk.to_string()];
    for connection in &status.connections {
        let of_volume = connection.peer_devices.iter().filter(|p| p.volume == device.volume);
        words.extend(of_volume.map(|p| p.peer_disk.to_string()));
    }
    format!("{}\n", words.join("/"))
}

/// `udev MINOR`.
pub fn udev(line: &CommandLine) -> Result<String, Fault> {
    let (status, device) = device(line)?;
    Ok(udev_lines(&status.resource.name, &device))
}

/// What a udev rule imports.
pub fn udev_lines(resource: &str, device: &DeviceObject) -> String {
    let mut lines =
        format!("DEVICE=drbd{}\nSYMLINK_BY_RES=drbd/by-res/{resource}/{}\n", device.minor, device.volume);
    if let Some(path) = device.backing_dev.strip_prefix("/dev/") {
        lines.push_str(&format!("SYMLINK_BY_DISK=drbd/by-disk/{path}\n"));
    }
    lines
}
