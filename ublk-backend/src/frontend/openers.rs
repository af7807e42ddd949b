//! Who uses a block device of ours: what the kernel holds it for, and the processes that have it open. The data plane's
//! own connection is none of them, and neither is this process.

use super::block_driver::DeviceName;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Somebody who uses the device, as part of a sentence; `None` if nobody is found. Nothing is opened for it.
pub(super) fn user_of(device: &DeviceName) -> Option<String> {
    let devices = numbers(device);
    holder(device)
        .or_else(|| mount_point(&devices).map(|at| format!("it is mounted at {at}")))
        .or_else(|| swap(device))
        .or_else(|| process(&devices))
}

/// `major:minor` of the device and its partitions.
fn numbers(device: &DeviceName) -> Vec<String> {
    let block = Path::new("/sys/block").join(device.as_str());
    let partitions = fs::read_dir(&block).into_iter().flatten().flatten();
    let partitions = partitions.filter(|e| e.file_name().to_string_lossy().starts_with(device.as_str()));
    let places = std::iter::once(block.join("dev")).chain(partitions.map(|e| e.path().join("dev")));
    places.filter_map(|place| fs::read_to_string(place).ok()).map(|n| n.trim().to_owned()).collect()
}

/// What is made of it: md, dm, LVM.
fn holder(device: &DeviceName) -> Option<String> {
    let mut holders = fs::read_dir(device.system("holders")).ok()?.flatten();
    Some(format!("{} is made of it", holders.next()?.file_name().to_string_lossy()))
}

/// Where it is mounted, for us or for the first process (whoever started us may be in a namespace of its own).
fn mount_point(devices: &[String]) -> Option<String> {
    ["/proc/1/mountinfo", "/proc/self/mountinfo"].iter().find_map(|place| {
        let table = fs::read_to_string(place).ok()?;
        mounted_at(&table, devices).map(str::to_owned)
    })
}

fn mounted_at<'a>(table: &'a str, devices: &[String]) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        let device = words.next()?;
        devices.iter().any(|d| d == device).then(|| words.nth(1)).flatten()
    })
}

fn swap(device: &DeviceName) -> Option<String> {
    let table = fs::read_to_string("/proc/swaps").ok()?;
    let node = device.node();
    let used = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    used.into_iter()
        .any(|path| fs::canonicalize(path).is_ok_and(|p| p == node))
        .then(|| "the host swaps to it".to_owned())
}

fn process(devices: &[String]) -> Option<String> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let processes = processes.filter(|e| {
        let name = e.file_name();
        let name = name.to_string_lossy();
        name.bytes().all(|b| b.is_ascii_digit()) && name != own
    });
    processes.into_iter().find_map(|process| {
        let open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        open.into_iter().find(|fd| is_one_of(&fd.path(), devices))?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(format!("process {} ({}) has it open", process.file_name().to_string_lossy(), name.trim()))
    })
}

fn is_one_of(fd: &Path, devices: &[String]) -> bool {
    // Only of what lies in /dev: asking about a file may wait for a server elsewhere.
    if !fs::read_link(fd).is_ok_and(|target| target.starts_with("/dev")) {
        return false;
    }
    let Ok(facts) = fs::metadata(fd) else { return false };
    let number = format!("{}:{}", libc::major(facts.rdev()), libc::minor(facts.rdev()));
    facts.file_type().is_block_device() && devices.contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_the_devices_number() {
        let table = "22 1 0:21 / /proc rw - proc proc rw\n\
                     40 1 43:32 / /srv rw,relatime shared:1 - ext4 /dev/nbd1 rw\n";
        assert_eq!(mounted_at(table, &["43:32".to_owned(), "43:33".to_owned()]), Some("/srv"));
        assert_eq!(mounted_at(table, &["43:3".to_owned()]), None);
    }

    #[test]
    fn this_process_does_not_count_and_a_pipe_is_no_device() {
        assert_eq!(process(&["43:999".to_owned()]), None);
    }
}
