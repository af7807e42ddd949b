//! The `sh-…` commands: facts about resources, one per line, for scripts.

use super::{Selected, Step, Wishes};
use crate::commands::Command;
use crate::wanted::WantedVolume;

pub(super) fn lines(command: &Command, selection: &Selected<'_>, wishes: &Wishes) -> Vec<Step> {
    let resource = selection.resource;
    let volumes =
        |text: &dyn Fn(&WantedVolume) -> String| -> Vec<String> { selection.volumes().map(text).collect() };
    let lines = match command.name {
        "sh-resources" | "sh-resource" | "sh-list-adjustable" => vec![resource.name.clone()],
        "sh-dev" => volumes(&|v| v.device.clone()),
        "sh-minor" => volumes(&|v| v.minor.to_string()),
        "sh-ll-dev" => volumes(&|v| v.disk.as_ref().map_or("none".to_owned(), |d| d.path.clone())),
        "sh-md-dev" => volumes(&|v| v.disk.as_ref().map_or("none".to_owned(), |d| d.meta_path().to_owned())),
        "sh-md-idx" => volumes(&|v| v.disk.as_ref().map_or("internal".to_owned(), |d| d.index())),
        "sh-ip" => addresses(selection),
        "sh-udev" => selection.volumes().flat_map(|v| udev(selection, v, wishes)).collect(),
        _ => Vec::new(),
    };
    lines.into_iter().map(Step::Print).collect()
}

/// Our address towards each peer, once per volume, as DRBD iterates.
fn addresses(selection: &Selected<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in selection.volumes() {
        let paths = selection.connections().filter_map(|c| c.paths.first());
        lines.extend(paths.map(|p| p.local.ip.clone()));
    }
    lines
}

fn udev(selection: &Selected<'_>, volume: &WantedVolume, wishes: &Wishes) -> Vec<String> {
    let name = &selection.resource.name;
    let by_resource = if volume.implicit && !wishes.always_use_vnr {
        format!("drbd/by-res/{name}")
    } else {
        format!("drbd/by-res/{name}/{}", volume.number)
    };
    let mut lines = vec![
        format!("DEVICE=drbd{}", volume.minor),
        format!("SYMLINK={by_resource}"),
        format!("SYMLINK_BY_RES={by_resource}"),
    ];
    if let Some(path) = volume.disk.as_ref().and_then(|d| d.path.strip_prefix("/dev/")) {
        lines.push(format!("SYMLINK_BY_DISK=drbd/by-disk/{path}"));
    }
    lines
}
