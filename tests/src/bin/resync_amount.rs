//! How much a resync copies: after an orderly disconnect just what changed, after a Primary's crash at most that plus
//! what its activity log held. Two nodes on loopback, a device of 1 GiB.

use drbd_tests::system::ledger::Ledger;
use drbd_tests::system::nbd_client::Fault;
use drbd_tests::system::nodes::{self, Node, RESOURCE};
use drbd_tests::system::resync_account::{compare_disks, is_connected, is_in_sync, Account};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = (1 << 30) + (1 << 20);
const CHANGED_BYTES: u64 = 8 << 20;
const COPIED_KIB_MAX: u64 = 10 << 10;
const CRASH_SPAN_BLOCKS: u64 = (96 << 20) / 4096;
const WRITES_IN_FLIGHT: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("resync_amount: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let programs = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("udrbd-resync-XXXXXX"))?;
    let nodes = nodes::make(&dir, &programs, DISK_BYTES)?;
    let result = measure(&nodes);
    clean_up(&dir, &nodes);
    result
}

fn measure(nodes: &[Node; 2]) -> Outcome<()> {
    let [alpha, beta] = nodes;
    for node in nodes {
        node.drbdadm(&["create-md", RESOURCE])?;
        node.drbdadm(&["up", RESOURCE])?;
    }
    alpha.wait_for(PATIENCE, is_connected)?;
    alpha.drbdadm(&["primary", "--force", RESOURCE])?;
    alpha.wait_for(PATIENCE, is_in_sync)?;
    let mut ledger = Ledger::new(alpha.open()?.size_bytes(), 2);
    after_crash(alpha, beta, &mut ledger)?;
    compare_disks(nodes, beta.open()?.size_bytes())?;
    after_disconnect(beta, &mut ledger)?;
    let mut client = beta.open()?;
    ledger.check(&mut client, true)?;
    compare_disks(nodes, client.size_bytes())?;
    Ok(())
}

fn after_disconnect(primary: &Node, ledger: &mut Ledger) -> Outcome<()> {
    primary.drbdadm(&["disconnect", RESOURCE])?;
    let before = ledger.snapshot();
    let enough = ledger.acknowledged_bytes + CHANGED_BYTES;
    ledger.write(&mut primary.open()?, WRITES_IN_FLIGHT, u64::MAX, |l| l.acknowledged_bytes >= enough)?;
    primary.drbdadm(&["connect", RESOURCE])?;
    let status = primary.wait_for(PATIENCE, |status| is_connected(status) && is_in_sync(status))?;
    let account = Account::of(&status, "").ok_or("the status tells of no resync")?;
    println!(
        "  after an orderly disconnect: {} KiB changed, {} KiB copied, of {} KiB",
        ledger.changed_kib_since(&before),
        account.copied_kib,
        account.device_kib
    );
    if account.copied_kib < ledger.changed_kib_since(&before) {
        return Err("less was copied than changed".into());
    }
    Ok(account.demand_at_most(COPIED_KIB_MAX)?)
}

fn after_crash(alpha: &Node, beta: &Node, ledger: &mut Ledger) -> Outcome<()> {
    let mut client = alpha.open()?;
    let begin = Instant::now();
    let mut killed = false;
    let end = ledger.write(&mut client, WRITES_IN_FLIGHT, CRASH_SPAN_BLOCKS, |_| {
        if !killed && begin.elapsed() > Duration::from_secs(2) {
            killed = alpha.kill().is_ok();
        }
        false
    });
    match end {
        Err(Fault::Io(_)) => {}
        Err(fault) => return Err(fault.into()),
        Ok(()) => return Err("the writer outlived the daemon".into()),
    }
    beta.wait_for(PATIENCE, |status| !is_connected(status))?;
    beta.drbdadm(&["primary", RESOURCE])?;
    let before = ledger.snapshot();
    let enough = ledger.acknowledged_bytes + CHANGED_BYTES;
    ledger.write(&mut beta.open()?, WRITES_IN_FLIGHT, u64::MAX, |l| l.acknowledged_bytes >= enough)?;
    let changed_kib = ledger.changed_kib_since(&before);
    let said = alpha.drbdadm(&["up", RESOURCE])?;
    let status = alpha.wait_for(PATIENCE, |status| is_connected(status) && is_in_sync(status))?;
    let account = Account::of(&status, &said).ok_or("the status tells of no resync")?;
    println!(
        "  after the Primary's crash: {changed_kib} KiB changed meanwhile, {} KiB in {} extents of its activity log, {} \
         KiB copied, of {} KiB",
        account.replayed_kib,
        account.replayed_extents(),
        account.copied_kib,
        account.device_kib
    );
    Ok(account.demand_at_most(changed_kib + account.replayed_kib)?)
}

fn clean_up(dir: &Path, nodes: &[Node; 2]) {
    for node in nodes {
        let _ = node.kill();
    }
    let _ = fs::remove_dir_all(dir);
}
