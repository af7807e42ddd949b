//! The main job, end to end, before your eyes and as an ordinary user: two nodes, a replicated device, its Primary dies
//! in the middle of a write, the other takes over, nothing acknowledged is lost, and the old one gets back only what
//! changed.

use drbd_core::control::ResourceStatus;
use drbd_tests::system::ledger::Ledger;
use drbd_tests::system::nbd_client::{Fault, Operation};
use drbd_tests::system::nodes::{self, Node, RESOURCE};
use drbd_tests::system::resync_account::{compare_disks, is_connected, is_in_sync, Account};
use nix::sys::signal::{SigSet, Signal};
use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 512 << 20;
/// Where the Primary that will die writes: 16 extents of the activity log.
const SPAN_BLOCKS: u64 = (64 << 20) / 4096;
const WRITES_IN_FLIGHT: usize = 32;
const WRITE_FOR: Duration = Duration::from_secs(3);
const CHANGED_WHILE_DOWN_BYTES: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(50);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let keep = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--keep") => true,
        Some(_) => {
            eprintln!(
                "usage: demo [--keep]\n  --keep  leave the two nodes running and say how to play with them"
            );
            return ExitCode::from(20);
        }
    };
    match prepare().and_then(|(dir, nodes)| watch(&dir, &nodes, keep)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The directory and the two nodes in it; an interrupt from here on ends the daemons and removes the directory.
fn prepare() -> Outcome<(PathBuf, [Node; 2])> {
    let programs = std::env::current_exe()?.parent().ok_or("the demo has no directory")?.to_owned();
    for program in ["drbdadm", "drbdsetup", "drbdmeta", "udrbd"] {
        if !programs.join(program).exists() {
            return Err(format!(
                "{} is not there; build it: cargo build --release",
                programs.join(program).display()
            )
            .into());
        }
    }
    let mut interrupts = SigSet::empty();
    interrupts.add(Signal::SIGINT);
    interrupts.add(Signal::SIGTERM);
    interrupts.thread_block()?;
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("udrbd-demo-XXXXXX"))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    let nodes = nodes::make(&dir, &programs, DISK_BYTES)?;
    let (dir_then, nodes_then) = (dir.clone(), nodes.clone());
    thread::spawn(move || {
        let _ = interrupts.wait();
        clean_up(&dir_then, &nodes_then);
        std::process::exit(130);
    });
    Ok((dir, nodes))
}

fn watch(dir: &Path, nodes: &[Node; 2], keep: bool) -> Outcome<()> {
    let begin = Instant::now();
    let result = play(dir, nodes);
    if let Err(e) = &result {
        println!("\nIt did not go as it should: {e}");
        for node in nodes {
            let log = node.run_dir.join(format!("{RESOURCE}.log"));
            println!("--- the end of {}'s log\n{}", node.name, tail(&log));
        }
    }
    if keep {
        explain_keep(dir, nodes);
        return result;
    }
    for node in nodes {
        if result.is_ok() {
            say(node, "drbdadm", &["down", RESOURCE])?;
        }
    }
    clean_up(dir, nodes);
    if result.is_ok() {
        println!("\nDone in {:.1} s; {} is gone again.", begin.elapsed().as_secs_f64(), dir.display());
    }
    result
}

fn play(dir: &Path, nodes: &[Node; 2]) -> Outcome<()> {
    let [alpha, beta] = nodes;
    chapter(&format!("Two nodes, {} and {}, in {}", alpha.name, beta.name, dir.display()));
    println!("{}", indented(&fs::read_to_string(&alpha.conf)?));
    for node in nodes {
        say(node, "drbdadm", &["create-md", RESOURCE])?;
        say(node, "drbdadm", &["up", RESOURCE])?;
    }
    alpha.wait_for(PATIENCE, is_connected)?;

    chapter("The first copy");
    say(alpha, "drbdadm", &["primary", "--force", RESOURCE])?;
    show_resync(alpha)?;
    println!("{}", indented(&alpha.drbdadm(&["status", RESOURCE])?));

    chapter("Writes, and the Primary's daemon is killed in the middle of them");
    let mut ledger = Ledger::new(alpha.open()?.size_bytes(), 1);
    write_until_killed(alpha, &mut ledger)?;

    chapter("The other one takes over");
    let survivor_status = beta.wait_for(PATIENCE, |status| !is_connected(status))?;
    println!("  beta sees its peer {}", survivor_status.connections[0].connection.connection);
    say(beta, "drbdadm", &["primary", RESOURCE])?;
    let mut client = beta.open()?;
    let checked = ledger.check(&mut client, true)?;
    println!("  all {checked} blocks of the device read back: every acknowledged write is there");
    let before = ledger.snapshot();
    let enough = ledger.acknowledged_bytes + CHANGED_WHILE_DOWN_BYTES;
    ledger.write(&mut client, WRITES_IN_FLIGHT, u64::MAX, |ledger| ledger.acknowledged_bytes >= enough)?;
    client.call(Operation::Flush, 0, 0, &[])?;
    let changed_kib = ledger.changed_kib_since(&before);
    println!("  {changed_kib} KiB more written while alpha is down");

    chapter("The old Primary comes back");
    let said = say(alpha, "drbdadm", &["up", RESOURCE])?;
    let status = alpha.wait_for(PATIENCE, |status| is_connected(status) && is_in_sync(status))?;
    explain_resync(&status, &said, ledger.changed_kib_since(&before))?;
    ledger.check(&mut client, true)?;
    println!("  both disks compared: {} bytes, all equal", compare_disks(nodes, client.size_bytes())?);
    Ok(())
}

fn write_until_killed(primary: &Node, ledger: &mut Ledger) -> Outcome<()> {
    let mut client = primary.open()?;
    let begin = Instant::now();
    let killed = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            thread::sleep(WRITE_FOR);
            primary.kill()
        });
        let end = ledger.write(&mut client, WRITES_IN_FLIGHT, SPAN_BLOCKS, |_| false);
        let killed = killer.join().map_err(|_| "the killer died")??;
        match end {
            Err(Fault::Io(_)) if killed > 0 => Ok::<usize, Box<dyn Error>>(killed),
            Err(fault) => Err(fault.into()),
            Ok(()) => Err("the writer stopped by itself".into()),
        }
    })?;
    println!("  SIGKILL for {killed} processes of {}, {} writes in flight", primary.name, client.in_flight());
    println!(
        "  acknowledged until then: {} writes, {} MiB, {:.0} MiB/s",
        ledger.acknowledged_writes,
        ledger.acknowledged_bytes >> 20,
        ledger.acknowledged_bytes as f64 / 1048576.0 / begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The running resync as `drbdsetup status --json` tells it, until it is done.
fn show_resync(node: &Node) -> Outcome<()> {
    let begin = Instant::now();
    let terminal = io::stdout().is_terminal();
    while begin.elapsed() < PATIENCE {
        let text = node.drbdsetup(&["status", RESOURCE, "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let peer = &status[0]["connections"][0]["peer_devices"][0];
        if peer["peer-disk-state"] == "UpToDate" && peer["out-of-sync"] == 0 {
            let seconds = begin.elapsed().as_secs_f64();
            let rate = (DISK_BYTES >> 20) as f64 / seconds;
            println!(
                "{}  in sync after {seconds:.1} s, {rate:.0} MiB/s",
                if terminal { "\r\x1b[K" } else { "" }
            );
            return Ok(());
        }
        let line = format!(
            "  {}: {} %, {} KiB to go, {} MiB/s, {} s left",
            peer["replication-state"].as_str().unwrap_or("?"),
            peer["percent-in-sync"],
            peer["out-of-sync"],
            peer["db/dt [MiB/s]"].as_f64().unwrap_or(0.0),
            peer["estimated-seconds-to-finish"].as_u64().unwrap_or(0)
        );
        if terminal {
            print!("\r\x1b[K{line}");
            io::stdout().flush()?;
        } else {
            println!("{line}");
        }
        thread::sleep(Duration::from_millis(if terminal { 200 } else { 500 }));
    }
    Err(format!("the first copy was not done within {} s", PATIENCE.as_secs()).into())
}

/// What the resync copied and why; `said` is what `drbdadm up` put out.
fn explain_resync(status: &ResourceStatus, said: &str, changed_kib: u64) -> Outcome<()> {
    let account = Account::of(status, said).ok_or("the status tells of no resync")?;
    println!(
        "  the resync copied {} KiB in {:.1} s: at most the {changed_kib} KiB written meanwhile and the {} KiB\n  in {} \
         extents that the activity log of alpha held when it died; the device has {} KiB",
        account.copied_kib,
        account.seconds,
        account.replayed_kib,
        account.replayed_extents(),
        account.device_kib
    );
    account.demand_at_most(changed_kib + account.replayed_kib)?;
    Ok(())
}

/// Run a tool on a node and show both the command and what it said.
fn say(node: &Node, program: &str, arguments: &[&str]) -> Outcome<String> {
    println!("  {}$ {program} {}", node.name, arguments.join(" "));
    let output = match program {
        "drbdadm" => node.drbdadm(arguments)?,
        _ => node.drbdsetup(arguments)?,
    };
    if !output.trim().is_empty() {
        println!("{}", indented(output.trim_end()));
    }
    Ok(output)
}

fn chapter(title: &str) {
    println!("\n{title}");
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|e| format!("{}: {e}", log.display()));
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn clean_up(dir: &Path, nodes: &[Node; 2]) {
    for node in nodes {
        let _ = node.kill();
    }
    let _ = fs::remove_dir_all(dir);
}

fn explain_keep(dir: &Path, nodes: &[Node; 2]) {
    println!("\nBoth nodes go on. In a shell of one of them, all tools work as on a host of its own:");
    for node in nodes {
        let words: Vec<_> =
            node.environment().iter().map(|(key, value)| format!("{key}='{value}'")).collect();
        println!("\n  {}:  export {}", node.name, words.join(" "));
        println!("         alias drbdadm='drbdadm -c {}'", node.conf.display());
    }
    println!(
        "\n  drbdadm status r0; drbdsetup events2; drbdadm secondary r0 there, then drbdadm primary r0 here\n  \
         an NBD client:  nbdinfo 'nbd+unix:///?socket={}'\n  \
         the end:        drbdadm down r0 on both, rm -r {}",
        nodes[1].nbd_socket().display(),
        dir.display()
    );
}
