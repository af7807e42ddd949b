//! Two nodes on loopback, both Primary: a client on each writes the same few blocks at once, with many writes in
//! flight. Afterwards both disks hold the same, the session held, and one warning was logged. Then the refusals, and a
//! Primary that is killed in the middle.

use drbd_core::control::ResourceStatus;
use drbd_core::states::{ConnectionState, Role};
use drbd_tests::system::nbd_client::{Client, Operation};
use drbd_tests::system::nodes::{self, Node, RESOURCE};
use drbd_tests::system::resync_account::{compare_disks, is_connected, is_in_sync};
use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 8 << 20;
const BLOCK: u64 = 4096;
/// All writes lie in this many blocks.
const BLOCKS: u64 = 24;
const WRITES: u64 = 4000;
const IN_FLIGHT: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("two_primaries: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let programs = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("udrbd-two-XXXXXX"))?;
    let nodes = nodes::make(&dir, &programs, DISK_BYTES)?;
    let result = prove(&nodes);
    for node in &nodes {
        let _ = node.kill();
    }
    let _ = fs::remove_dir_all(&dir);
    result
}

fn prove(nodes: &[Node; 2]) -> Outcome<()> {
    let plain = fs::read_to_string(&nodes[0].conf)?;
    let dual = "protocol C; connect-int 1; allow-two-primaries yes; after-sb-1pri discard-secondary; after-sb-0pri discard-younger-primary;";
    fs::write(&nodes[0].conf, plain.replacen("protocol C;", "protocol C; connect-int 1;", 1))?;
    begin(nodes)?;
    refused(nodes[1].drbdadm(&["primary", RESOURCE]), 11, "Multiple primaries not allowed by config")?;
    fs::write(&nodes[0].conf, plain.replacen("protocol C;", dual, 1))?;
    // One node is told; the other hears it from its peer.
    nodes[0].drbdadm(&["adjust", RESOURCE])?;
    nodes[1].drbdadm(&["primary", RESOURCE])?;
    nodes[1].drbdadm(&["adjust", RESOURCE])?;
    write_both(nodes)?;
    options_stay(nodes)?;
    killed_in_the_middle(nodes)
}

fn begin(nodes: &[Node; 2]) -> Outcome<()> {
    for node in nodes {
        node.drbdadm(&["create-md", RESOURCE])?;
        node.drbdadm(&["up", RESOURCE])?;
    }
    nodes[0].wait_for(PATIENCE, is_connected)?;
    nodes[0].drbdadm(&["primary", "--force", RESOURCE])?;
    nodes[0].wait_for(PATIENCE, is_in_sync)?;
    Ok(())
}

fn write_both(nodes: &[Node; 2]) -> Outcome<()> {
    let begin = Instant::now();
    let [alpha, beta] = nodes;
    let other = beta.clone();
    let writer = std::thread::spawn(move || write(&other, 2, WRITES).map_err(|e| e.to_string()));
    write(alpha, 1, WRITES)?;
    writer.join().map_err(|_| "the other writer panicked")??;
    let status = alpha.wait_for(PATIENCE, is_in_sync)?;
    if !is_connected(&status) || status.resource.role != Role::Primary {
        return Err(format!("alpha is no connected Primary any more: {status:?}").into());
    }
    let size_bytes = alpha.open()?.size_bytes();
    compare_disks(nodes, size_bytes)?;
    let lines = |node: &Node| -> Outcome<usize> {
        let log = fs::read_to_string(node.run_dir.join(format!("{RESOURCE}.log")))?;
        if log.contains("BrokenPipe") || log.contains("ProtocolError") || log.contains("NetworkFailure") {
            return Err(format!("the session of {} did not hold:\n{log}", node.name).into());
        }
        Ok(log.lines().filter(|line| line.contains("Concurrent writes detected")).count())
    };
    println!(
        "  2 x {WRITES} writes to the same {BLOCKS} blocks in {} ms: both disks are the same; warned {} and {} times",
        begin.elapsed().as_millis(),
        lines(alpha)?,
        lines(beta)?
    );
    if lines(alpha)? > 2 || lines(beta)? > 2 {
        return Err("warned too often".into());
    }
    Ok(())
}

/// Writes of one to three blocks at places and with contents that follow from the seed; ends with a flush.
fn write(node: &Node, seed: u64, writes: u64) -> Outcome<()> {
    let mut client = node.open()?;
    for n in 0..writes {
        let random = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed << 40) >> 20;
        let (first, blocks) = (random % BLOCKS, 1 + random / BLOCKS % 3);
        let data = vec![(n * 2 + seed) as u8; (blocks * BLOCK) as usize];
        while client.in_flight() >= IN_FLIGHT {
            client.receive()?.result.map_err(|errno| format!("errno {errno}"))?;
        }
        client.send(Operation::Write, first * BLOCK, data.len() as u32, &data)?;
    }
    while client.in_flight() > 0 {
        client.receive()?.result.map_err(|errno| format!("errno {errno}"))?;
    }
    client.call(Operation::Flush, 0, 0, &[])?;
    Ok(())
}

fn refused(result: Result<String, nodes::ToolFailed>, code: i32, text: &str) -> Outcome<()> {
    match result {
        Err(e) if e.code == Some(code) && e.output.contains(text) => Ok(()),
        Err(e) => Err(format!("refused otherwise than with {code}, {text}: {e}").into()),
        Ok(said) => Err(format!("not refused with {code}, {text}: {said}").into()),
    }
}

fn options_stay(nodes: &[Node; 2]) -> Outcome<()> {
    let [alpha, beta] = nodes;
    let option = |value: &str| alpha.drbdsetup(&["net-options", RESOURCE, "1", value]);
    refused(option("--allow-two-primaries=no"), 10, "Can not clear allow_two_primaries")?;
    refused(option("--protocol=A"), 10, "Protocol C required")?;
    step_down(beta)?;
    option("--allow-two-primaries=no")?;
    refused(beta.drbdadm(&["primary", RESOURCE]), 11, "Multiple primaries not allowed by config")?;
    option("--allow-two-primaries=yes")?;
    beta.drbdadm(&["primary", RESOURCE])?;
    println!(
        "  refused: to forbid it while both are Primary, protocol A, a second Primary where it is forbidden"
    );
    Ok(())
}

fn step_down(node: &Node) -> Outcome<()> {
    let begin = Instant::now();
    while let Err(e) = node.drbdadm(&["secondary", RESOURCE]) {
        if begin.elapsed() > PATIENCE {
            return Err(e.into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Beta dies with writes of both in flight; it comes back and follows alpha.
fn killed_in_the_middle(nodes: &[Node; 2]) -> Outcome<()> {
    let [alpha, beta] = nodes;
    let other = beta.clone();
    let writer = std::thread::spawn(move || write(&other, 3, u64::MAX).map_err(|e| e.to_string()));
    let mut clients = [alpha.open()?];
    for n in 0..200_u64 {
        clients[0].call(Operation::Write, n % BLOCKS * BLOCK, BLOCK as u32, &[7; BLOCK as usize])?;
    }
    beta.kill()?;
    drop(writer.join());
    clients[0].call(Operation::Write, 0, BLOCK as u32, &[8; BLOCK as usize])?;
    let client: &Client = &clients[0];
    let size_bytes = client.size_bytes();
    beta.drbdadm(&["up", RESOURCE])?;
    let good = |s: &ResourceStatus| is_connected(s) && is_in_sync(s);
    alpha.wait_for(PATIENCE, good)?;
    beta.wait_for(PATIENCE, good)?;
    compare_disks(nodes, size_bytes)?;
    if beta.status()?.connections[0].connection.connection != ConnectionState::Connected {
        return Err("beta is not connected".into());
    }
    println!("  beta killed with writes of both in flight: it follows alpha, both disks are the same");
    Ok(())
}
