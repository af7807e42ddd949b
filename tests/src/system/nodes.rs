//! Two nodes on this machine, for an ordinary user: one directory, each node with its own name, run directory and
//! backing file, both in one plain drbd.conf, and the two ends of the wire on 127.0.0.1.

use super::control_client;
use super::nbd_client::{Client, Fault};
use drbd_core::control::ResourceStatus;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The resource of both nodes.
pub const RESOURCE: &str = "r0";
const NAMES: [&str; 2] = ["alpha", "beta"];
const NBD_PATIENCE: Duration = Duration::from_secs(30);

/// One of the two.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its host name in the configuration.
    pub name: &'static str,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Its backing file.
    pub disk: PathBuf,
    /// The configuration of both.
    pub conf: PathBuf,
    programs: PathBuf,
    /// More of its environment.
    pub settings: BTreeMap<&'static str, String>,
}

/// A tool ended with another exit code than 0.
#[derive(Debug)]
pub struct ToolFailed {
    /// What was run, on which node.
    pub command: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All it said.
    pub output: String,
}

impl fmt::Display for ToolFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{}: exit code {code}\n{}", self.command, self.output),
            None => write!(f, "{}: ended by a signal\n{}", self.command, self.output),
        }
    }
}

impl std::error::Error for ToolFailed {}

/// Make the directories, backing files of `disk_bytes` each and the configuration of two nodes below `dir`; `programs`
/// is where the tools and the daemon are. Nothing is started.
pub fn make(dir: &Path, programs: &Path, disk_bytes: u64) -> io::Result<[Node; 2]> {
    let conf = dir.join("drbd.conf");
    let nodes = NAMES.map(|name| Node {
        name,
        run_dir: dir.join(name).join("run"),
        disk: dir.join(name).join("disk"),
        conf: conf.clone(),
        programs: programs.to_owned(),
        settings: BTreeMap::new(),
    });
    for node in &nodes {
        fs::create_dir_all(&node.run_dir)?;
        File::create(&node.disk)?.set_len(disk_bytes)?;
    }
    fs::write(&conf, configuration(&nodes, free_ports()?))?;
    Ok(nodes)
}

/// What drbdadm says each time `__DRBD_NODE__` is set.
fn pretence(name: &str) -> String {
    format!("\n   found __DRBD_NODE__ in environment,\n   PRETENDING that I am >>{name}<<\n\n")
}

fn configuration(nodes: &[Node; 2], ports: [u16; 2]) -> String {
    let host = |index: usize| {
        format!(
            "    on {} {{\n        node-id {index};\n        address 127.0.0.1:{};\n        volume 0 {{\n            \
             device minor 0;\n            disk {};\n            meta-disk internal;\n        }}\n    }}\n",
            nodes[index].name,
            ports[index],
            nodes[index].disk.display(),
        )
    };
    format!(
        "global {{\n    usage-count no;\n}}\n\nresource {RESOURCE} {{\n    net {{\n        protocol C;\n    }}\n    disk {{\n        \
         resync-rate 100M;\n        c-max-rate 400M;\n    }}\n{}{}}}\n",
        host(0),
        host(1)
    )
}

/// Two ports nobody listens on right now.
fn free_ports() -> io::Result<[u16; 2]> {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()])
}

impl Node {
    /// A tool as this node runs it.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).envs(self.environment()).envs(&self.settings).stdin(Stdio::null());
        command
    }

    /// What makes a process one of this node.
    pub fn environment(&self) -> BTreeMap<&'static str, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        BTreeMap::from([
            ("__DRBD_NODE__", self.name.to_owned()),
            ("UDRBD_RUN_DIR", self.run_dir.display().to_string()),
            ("PATH", format!("{}:{path}", self.programs.display())),
        ])
    }

    /// Run `drbdadm -c CONF ARGUMENTS`; all it said.
    pub fn drbdadm(&self, arguments: &[&str]) -> Result<String, ToolFailed> {
        let conf = self.conf.display().to_string();
        self.run("drbdadm", &[&["-c", &conf], arguments].concat())
    }

    /// Run `drbdsetup ARGUMENTS`; all it said.
    pub fn drbdsetup(&self, arguments: &[&str]) -> Result<String, ToolFailed> {
        self.run("drbdsetup", arguments)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, ToolFailed> {
        let failed = |code, output| ToolFailed {
            command: format!("{}: {program} {}", self.name, arguments.join(" ")),
            code,
            output,
        };
        let output = self.tool(program, arguments).output().map_err(|e| failed(None, e.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let text = text.replace(&pretence(self.name), "");
        if output.status.success() {
            Ok(text)
        } else {
            Err(failed(output.status.code(), text))
        }
    }

    /// Status of the resource, asked of the daemon itself.
    pub fn status(&self) -> io::Result<ResourceStatus> {
        control_client::status(&self.run_dir.join(format!("{RESOURCE}.sock")))
    }

    /// Poll the status until `reached` or `patience` is over; the last status seen.
    pub fn wait_for(
        &self,
        patience: Duration,
        mut reached: impl FnMut(&ResourceStatus) -> bool,
    ) -> io::Result<ResourceStatus> {
        let begin = Instant::now();
        loop {
            let status = self.status()?;
            if reached(&status) {
                return Ok(status);
            }
            if begin.elapsed() > patience {
                let waited = patience.as_secs();
                return Err(io::Error::other(format!(
                    "{}: not reached within {waited} s: {status:?}",
                    self.name
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where its NBD server listens.
    pub fn nbd_socket(&self) -> PathBuf {
        self.run_dir.join(format!("{RESOURCE}.0.nbd"))
    }

    /// A session with its NBD server.
    pub fn open(&self) -> Result<Client, Fault> {
        Client::connect(&self.nbd_socket(), NBD_PATIENCE)
    }

    /// Its daemons and their parents, oldest first.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let mine = format!("UDRBD_RUN_DIR={}", self.run_dir.display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Some(pid) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) else {
                continue;
            };
            let is_daemon = fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with("udrbd"));
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            if is_daemon && environment.split(|&byte| byte == 0).any(|entry| entry == mine.as_bytes()) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(Pid::from_raw).collect())
    }

    /// SIGKILL for all of them, the parent that would restart the daemon first. Returns how many there were.
    pub fn kill(&self) -> io::Result<usize> {
        let processes = self.processes()?;
        for &pid in &processes {
            let _ = kill(pid, Signal::SIGKILL);
        }
        Ok(processes.len())
    }
}
