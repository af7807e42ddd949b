//! Executes a plan: prints each call (`-d`, `-v`), runs it, waits, and says how it ended.

use crate::plan::{Call, Patience, Plan, Planned, Program, Stage, Step};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Exit code when a program cannot be run at all.
const E_EXEC_ERROR: i32 = 20;
/// drbdsetup outdate: the disk is Inconsistent or worse. It stays that if drbdmeta finds nothing to outdate either.
const E_LOWER_THAN_OUTDATED: i32 = 5;

/// How calls are made.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    /// Print only.
    pub dry_run: bool,
    /// Print and run.
    pub verbose: bool,
    /// `-s`, or the environment.
    pub drbdsetup: Option<String>,
    /// `-m`.
    pub drbdmeta: Option<String>,
    /// `-p`.
    pub proxy_control: Option<String>,
    /// Limits in seconds for short, medium and long calls; 0 = none.
    pub timeouts_s: [u64; 3],
}

/// How a plan ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Exit code of the last call that failed.
    pub code: i32,
}

/// What need not be tried any more: all of a resource that could not be made, all of a connection that could not.
/// A disk that cannot be attached keeps nothing else from being done.
#[derive(Debug)]
struct Hopeless {
    staged: bool,
    resources: BTreeSet<String>,
    connections: BTreeSet<(String, String)>,
}

impl Hopeless {
    fn of(plan: &Plan) -> Hopeless {
        let staged = plan.0.iter().any(|p| p.stage != Stage::Prerequisites);
        Hopeless { staged, resources: BTreeSet::new(), connections: BTreeSet::new() }
    }

    fn is(&self, planned: &Planned) -> bool {
        self.resources.contains(&planned.resource)
            || connection(planned).is_some_and(|c| self.connections.contains(&c))
    }

    fn after(&mut self, failed: &Planned) {
        match failed.stage {
            Stage::Prerequisites | Stage::Minors | Stage::DiskDown if self.staged => {
                self.resources.insert(failed.resource.clone());
            }
            Stage::NetUp | Stage::Paths => self.connections.extend(connection(failed)),
            Stage::Prerequisites | Stage::Minors | Stage::DiskDown | Stage::ResourceOptions => {}
            Stage::NetDown | Stage::NetOptions | Stage::PeerDevices | Stage::Disk | Stage::Connect => {}
        }
    }
}

/// Resource and peer of a step that makes or changes a connection.
fn connection(planned: &Planned) -> Option<(String, String)> {
    let of_connection = matches!(
        planned.stage,
        Stage::NetUp | Stage::Paths | Stage::NetOptions | Stage::PeerDevices | Stage::Connect
    );
    match &planned.step {
        Step::All(calls) if of_connection => {
            let peer = calls.first()?.arguments.get(2)?;
            Some((planned.resource.clone(), peer.clone()))
        }
        _ => None,
    }
}

impl Runner {
    /// Runs everything, except what cannot work after a failure before it.
    pub fn run(&self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        let mut hopeless = Hopeless::of(plan);
        for planned in &plan.0 {
            if hopeless.is(planned) {
                continue;
            }
            let code = self.step(&planned.step);
            if code != 0 {
                outcome.code = code;
                hopeless.after(planned);
            }
        }
        outcome
    }

    /// The same, naming the kinds of work and their resources while they go on.
    pub fn run_with_progress(&self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        let mut hopeless = Hopeless::of(plan);
        let mut label = "";
        print_quietly("[");
        for planned in &plan.0 {
            if hopeless.is(planned) {
                continue;
            }
            let now = planned.stage.label();
            if now != label {
                print_quietly(&format!("\n{now:>16}:"));
                label = now;
            }
            let name = &planned.resource;
            match self.step(&planned.step) {
                0 => print_quietly(&format!(" {name}")),
                code => {
                    print_quietly(&format!(" {name}:failed({code})"));
                    outcome.code = code;
                    hopeless.after(planned);
                }
            }
        }
        print_quietly("\n]\n");
        outcome
    }

    fn step(&self, step: &Step) -> i32 {
        match step {
            Step::Print(line) => {
                println_quietly(line);
                0
            }
            Step::All(calls) => calls.iter().map(|c| self.call(c)).find(|code| *code != 0).unwrap_or(0),
            Step::Else { first, unless, second } => {
                let code = self.call(&Call { silent_failure: !second.is_empty(), ..first.clone() });
                if self.dry_run {
                    second.iter().for_each(|c| self.announce(c));
                    return 0;
                }
                if code == 0 || unless.contains(&code) || second.is_empty() {
                    return code;
                }
                match second.iter().map(|c| self.call(c)).find(|code| *code != 0) {
                    Some(_) if code == E_LOWER_THAN_OUTDATED => code,
                    Some(other) => other,
                    None => 0,
                }
            }
            Step::CheckResize { resize, remember, move_metadata } => match (self.call(resize), move_metadata)
            {
                (0, _) => {
                    self.call(remember);
                    0
                }
                (_, Ok(call)) => self.call(call),
                (code, Err(sentence)) => {
                    eprintln!("{sentence}");
                    code
                }
            },
            Step::Create { create, read, write } => self.create(create, read, write),
        }
    }

    /// create-md; then metadata without a device uuid get one.
    fn create(&self, create: &Call, read: &Call, write: &Call) -> i32 {
        let code = self.call(create);
        if code != 0 || self.dry_run {
            return code;
        }
        if self.verbose {
            self.announce(read);
        }
        let Ok(text) = self.output(read) else { return 0 };
        if u64::from_str_radix(text.trim().trim_start_matches("0x"), 16) != Ok(0) {
            return 0;
        }
        let mut write = write.clone();
        write.arguments.push(format!("{:016X}", random()));
        self.call(&write)
    }

    /// Prints and runs one call as the flags say.
    pub fn call(&self, call: &Call) -> i32 {
        if self.dry_run || self.verbose {
            self.announce(call);
        }
        if self.dry_run {
            return 0;
        }
        let mut command = self.command(call);
        if call.hushed {
            command.stderr(Stdio::null());
        }
        let code = match command.spawn() {
            Ok(child) => self.wait(call, child),
            Err(error) => {
                let program = self.program(call.program);
                eprintln!(
                    "Can not exec {}: {error}: install it beside drbdadm or in PATH",
                    program.display()
                );
                E_EXEC_ERROR
            }
        };
        if code >= 10 && !call.hushed && !call.silent_failure {
            eprintln!("Command '{}' terminated with exit code {code}", self.line(call));
        }
        code
    }

    /// What a call prints on standard output.
    pub fn output(&self, call: &Call) -> std::io::Result<String> {
        let mut command = self.command(call);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut text = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(64 << 20).read_to_end(&mut text)?;
        }
        child.wait()?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn command(&self, call: &Call) -> Command {
        let mut command = Command::new(self.program(call.program));
        command.args(&call.arguments);
        if !call.resource.is_empty() {
            command.env("DRBD_RESOURCE", &call.resource);
        }
        command
    }

    /// A thread waits for the child, so that we can stop waiting; the child is left to finish.
    fn wait(&self, call: &Call, mut child: Child) -> i32 {
        let limit_s = match call.patience {
            Patience::Short => self.timeouts_s[0],
            Patience::Medium => self.timeouts_s[1],
            Patience::Long => self.timeouts_s[2],
            Patience::Forever => 0,
        };
        if limit_s == 0 {
            return code_of(child.wait());
        }
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(code_of(child.wait())));
        match told.recv_timeout(Duration::from_secs(limit_s)) {
            Ok(code) => code,
            Err(_) => {
                eprintln!("Command '{}' did not terminate within {limit_s} seconds", self.line(call));
                std::process::exit(E_EXEC_ERROR);
            }
        }
    }

    fn announce(&self, call: &Call) {
        println_quietly(&self.line(call));
    }

    /// The call as one could type it.
    pub fn line(&self, call: &Call) -> String {
        let given = match call.program {
            Program::Drbdsetup => self.drbdsetup.as_deref().unwrap_or("drbdsetup"),
            Program::Drbdmeta => self.drbdmeta.as_deref().unwrap_or("drbdmeta"),
            Program::ProxyControl => self.proxy_control.as_deref().unwrap_or("drbd-proxy-ctl"),
        };
        let words = std::iter::once(given.to_owned()).chain(call.arguments.iter().map(|a| shell_escaped(a)));
        words.collect::<Vec<String>>().join(" ")
    }

    /// The program itself: as given, else beside drbdadm if that was called by a path, else in PATH.
    fn program(&self, program: Program) -> PathBuf {
        let (given, name) = match program {
            Program::Drbdsetup => (&self.drbdsetup, "drbdsetup"),
            Program::Drbdmeta => (&self.drbdmeta, "drbdmeta"),
            Program::ProxyControl => (&self.proxy_control, "drbd-proxy-ctl"),
        };
        if let Some(given) = given {
            return PathBuf::from(given);
        }
        let own = std::env::args().next().unwrap_or_default();
        let beside = Path::new(&own).with_file_name(name);
        if own.contains('/') && beside.exists() {
            beside
        } else {
            PathBuf::from(name)
        }
    }
}

fn code_of(status: std::io::Result<std::process::ExitStatus>) -> i32 {
    status.ok().and_then(|s| s.code()).unwrap_or(E_EXEC_ERROR)
}

/// Prints a line; a reader that has gone away is no reason to complain.
pub fn println_quietly(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints text at once; a reader that has gone away is no reason to complain.
pub fn print_quietly(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A word as a shell takes it literally.
pub fn shell_escaped(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for c in word.chars() {
        let plain = c.is_ascii_alphanumeric() || "-_./:=@%+".contains(c);
        if !plain {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    let taken = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    match taken {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(error) => {
            eprintln!("Can not read /dev/urandom: {error}");
            std::process::exit(E_EXEC_ERROR);
        }
    }
}
