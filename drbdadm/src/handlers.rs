//! `drbdadm HANDLER RESOURCE`: runs the configured command with what it needs to know in its environment.

use crate::plan::Selected;
use crate::wanted::WantedVolume;
use std::process::Command;

/// A handler to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handler {
    /// For `/bin/sh -c`.
    pub command: String,
    /// Additions to the environment.
    pub environment: Vec<(String, String)>,
}

/// The handler a resource has configured under a name.
pub fn handler(name: &str, selection: &Selected<'_>, config_file: &str) -> Option<Handler> {
    let handlers = &selection.resource.handlers;
    let configured = handlers.value(name);
    let old = (name == "fence-peer").then(|| handlers.value("outdate-peer")).flatten();
    let command = configured.or(old)?.to_owned();
    Some(Handler { command, environment: environment(selection, config_file) })
}

fn environment(selection: &Selected<'_>, config_file: &str) -> Vec<(String, String)> {
    let resource = selection.resource;
    let list = |text: &dyn Fn(&WantedVolume) -> String| {
        selection.volumes().map(text).collect::<Vec<String>>().join(" ")
    };
    let disk = |v: &WantedVolume| v.disk.as_ref().map_or("none".to_owned(), |d| d.path.clone());
    let mut environment = vec![
        ("DRBD_CONF".to_owned(), config_file.to_owned()),
        ("DRBD_RESOURCE".to_owned(), resource.name.clone()),
        ("DRBD_MINOR".to_owned(), list(&|v| v.minor.to_string())),
        ("DRBD_VOLUME".to_owned(), list(&|v| v.number.to_string())),
        ("DRBD_LL_DISK".to_owned(), list(&disk)),
        ("DRBD_MY_NODE_ID".to_owned(), resource.node_id.to_string()),
    ];
    environment.extend(resource.nodes.iter().map(|(id, name)| (format!("DRBD_NODE_ID_{id}"), name.clone())));
    environment
}

impl Handler {
    /// Runs it; its exit code.
    pub fn run(&self) -> i32 {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&self.command).envs(self.environment.iter().cloned());
        match command.status() {
            Ok(status) => status.code().unwrap_or(20),
            Err(error) => {
                eprintln!("Can not exec /bin/sh: {error}");
                20
            }
        }
    }
}
