//! Handlers: `drbdadm NAME RESOURCE`, with what DRBD puts in their environment. They run beside everything else; how
//! one ended goes back to the engine, which waits for none.

use crate::administration::Administration;
use crate::mailbox::ToData;
use crate::process::tool;
use drbd_core::control::{Configuration, HelperObject, Kind};
use drbd_core::engine::{HandlerCall, Level};
use drbd_core::ids::HandlerId;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;

/// What a handler finds of our own environment besides DRBD's variables.
const PASSED_ON: &[&str] =
    &["UDRBD_RUN_DIR", "UDRBD_HELPER", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "__DRBD_NODE__", "DRBD_CONF"];

/// What has handlers that are bash scripts do without the module (`udrbd integrate`).
const SCRIPTS: &str = "/etc/udrbd/handlers.bash";

/// Status reported for a handler that could not be run.
const NOT_RUN: i32 = -1;

/// Runs a handler; the subscribers are told of its begin and end.
pub(crate) fn run(administration: &Rc<Administration>, handler: HandlerId, call: Box<HandlerCall>) {
    let administration = Rc::clone(administration);
    tokio::task::spawn_local(async move {
        let announce = |kind, status| {
            let helper = Box::new(helper_object(&administration.facts.borrow(), &call, status));
            administration.data.send(ToData::Helper { kind, helper });
        };
        announce(Kind::Call, None);
        let status = execute(&administration, &call).await;
        announce(Kind::Response, Some(status));
        administration.data.send(ToData::HandlerExited { handler, status });
    });
}

async fn execute(administration: &Administration, call: &HandlerCall) -> i32 {
    let Some(program) = program() else { return 0 };
    let mut command = tokio::process::Command::new(&program);
    let environment = environment(&administration.facts.borrow(), call);
    command.arg(call.name).arg(&administration.resource).env_clear().envs(environment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let ended = match command.spawn() {
        Ok(mut child) => {
            child.id().into_iter().for_each(crate::process::end_in_shortage);
            child.wait().await
        }
        Err(e) => Err(e),
    };
    match ended {
        // As a shell says it when a signal ended the handler.
        Ok(status) => status.code().unwrap_or(128),
        Err(e) => {
            let text = format!("The handler {} was not run: {}: {e}.", call.name, program.display());
            administration.logger.say(Level::Error, "handler", &administration.resource, text);
            NOT_RUN
        }
    }
}

/// `$UDRBD_HELPER`, else drbdadm beside this program, else in PATH. None: handlers are switched off.
fn program() -> Option<PathBuf> {
    match std::env::var_os("UDRBD_HELPER").filter(|v| !v.is_empty()) {
        Some(word) if word == "disabled" => None,
        Some(path) => Some(PathBuf::from(path)),
        None => Some(tool("drbdadm")),
    }
}

fn environment(facts: &Configuration, call: &HandlerCall) -> Vec<(String, String)> {
    let mut set: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: String| set.push((name.to_owned(), value));
    put("HOME", "/".to_owned());
    put("TERM", "linux".to_owned());
    // Handlers call drbdsetup: ours, though there may be the one of drbd-utils as well.
    let own = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_str()?.to_owned()));
    put(
        "PATH",
        own.into_iter().chain(["/sbin:/usr/sbin:/bin:/usr/bin".to_owned()]).collect::<Vec<_>>().join(":"),
    );
    if Path::new(SCRIPTS).exists() {
        put("BASH_ENV", SCRIPTS.to_owned());
    }
    for name in PASSED_ON {
        if let Ok(value) = std::env::var(name) {
            put(name, value);
        }
    }
    let backing = |v: &drbd_core::control::VolumeConfiguration| {
        v.disk.as_ref().map_or_else(|| "none".to_owned(), |d| d.disk.clone())
    };
    if let Some(volume) = call.volume.and_then(|n| facts.volumes.iter().find(|v| v.volume == n)) {
        put("DRBD_MINOR", volume.minor.to_string());
        put("DRBD_VOLUME", volume.volume.to_string());
        put("DRBD_BACKING_DEV", backing(volume));
    }
    if let Some(known) = call.peer.and_then(|n| facts.connections.iter().find(|c| c.peer == n)) {
        put("DRBD_PEER_NODE_ID", known.peer.to_string());
        put("DRBD_CSTATE", known.connection.to_string());
        if let Some((local, remote)) = known.paths.first() {
            for (side, address) in [("MY", local), ("PEER", remote)] {
                let (family, address) = address.split_once(':').unwrap_or(("ipv4", address));
                put(&format!("DRBD_{side}_AF"), family.to_owned());
                put(&format!("DRBD_{side}_ADDRESS"), without_port(address).to_owned());
            }
        }
    }
    if call.volume.is_none() {
        for volume in &facts.volumes {
            put(&format!("DRBD_MINOR_{}", volume.volume), volume.minor.to_string());
            put(&format!("DRBD_BACKING_DEV_{}", volume.volume), backing(volume));
        }
    }
    if call.name.contains("fence") {
        put("UP_TO_DATE_NODES", format!("0x{:08X}", call.up_to_date_nodes));
    }
    set
}

/// `10.0.0.1:7789` or `[fe80::1]:7789` without port and brackets.
fn without_port(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn helper_object(facts: &Configuration, call: &HandlerCall, status: Option<i32>) -> HelperObject {
    let peer_name = |c: &drbd_core::control::ConnectionConfiguration| c.options.value("_name").to_string();
    let peer = call.peer.and_then(|n| facts.connections.iter().find(|c| c.peer == n));
    let device = call.volume.and_then(|n| facts.volumes.iter().find(|v| v.volume == n));
    HelperObject {
        helper: call.name.to_owned(),
        peer: peer.map(|c| (c.peer, peer_name(c))),
        device: device.map(|v| (v.volume, v.minor)),
        status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_brackets_go() {
        assert_eq!(without_port("10.0.0.1:7789"), "10.0.0.1");
        assert_eq!(without_port("[fe80::1]:7789"), "fe80::1");
    }
}
