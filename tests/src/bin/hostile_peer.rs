//! `hostile_peer SECONDS [SEED]`: two real daemons whose packets pass through a relay that lies to both, under load and
//! under an administrator. Neither daemon may fall over or grow, no acknowledgement may be for what was not sent, each
//! connection that ends is told of with a reason, no write that was acknowledged to the application is lost on the node
//! that serves it, and when the lies are over the two find together again.

use drbd_core::states::{ConnectionState, DiskState, ReplicationState};
use drbd_tests::hostile::{Relay, Round, RoundReport};
use drbd_tests::system::ledger::Ledger;
use drbd_tests::system::nodes::{self, Node, RESOURCE};
use std::error::Error;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const DISK_BYTES: u64 = 12 << 20;
/// Resident memory a daemon may ever have had.
const MEMORY_KIB_MAX: u64 = 192 << 10;
const ROUNDS_PER_PAIR: u64 = 12;
const ROUND: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);

/// Net options of the pairs, in turn.
const SETTINGS: [&str; 6] = [
    "protocol C;",
    "protocol B; cram-hmac-alg sha256; shared-secret \"known to both\";",
    "protocol C; data-integrity-alg crc32c; csums-alg crc32c;",
    "protocol A; cram-hmac-alg sha1; shared-secret \"known to both\"; on-congestion pull-ahead; congestion-fill 64k;",
    "protocol C; allow-two-primaries yes; cram-hmac-alg sha256; shared-secret \"known to both\";",
    "protocol C; after-sb-0pri discard-least-changes; after-sb-1pri discard-secondary; always-asbp yes; use-rle no;",
];
const USUAL: &str = "verify-alg crc32c; ping-int 1; ping-timeout 10; timeout 20; connect-int 1; ko-count 2;";

#[derive(Default)]
struct Totals {
    pairs: u64,
    rounds: u64,
    packets: u64,
    lies: u64,
    sockets: u64,
    writes: u64,
    memory_kib: u64,
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let (Some(Ok(seconds)), seed) = (numbers.next(), numbers.next().and_then(Result::ok).unwrap_or(1)) else {
        eprintln!("usage: hostile_peer SECONDS [SEED [FIRST_PAIR]]");
        return ExitCode::from(2);
    };
    let mut pair = numbers.next().and_then(Result::ok).unwrap_or(0);
    let mut totals = Totals::default();
    let begin = Instant::now();
    while begin.elapsed().as_secs() < seconds {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(pair);
        if let Err(e) = pair_of_nodes(seed, pair as usize, &mut totals) {
            eprintln!("hostile_peer: pair {pair}, {}: {e}", SETTINGS[pair as usize % SETTINGS.len()]);
            return ExitCode::FAILURE;
        }
        pair += 1;
    }
    let Totals { pairs, rounds, packets, lies, sockets, writes, memory_kib } = totals;
    println!(
        "  {pairs} pairs of nodes, {rounds} rounds, {packets} packets, {lies} of them lies, {sockets} sockets ended; {writes} \
         writes acknowledged and there; at most {} MiB of memory",
        memory_kib >> 10
    );
    ExitCode::SUCCESS
}

fn pair_of_nodes(seed: u64, number: usize, totals: &mut Totals) -> Outcome<()> {
    let programs = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("udrbd-hostile-XXXXXX"))?;
    let mut nodes = nodes::make(&dir, &programs, DISK_BYTES)?;
    let result = Pair::begin(&dir, &mut nodes, SETTINGS[number % SETTINGS.len()]).and_then(|relay| {
        let pair = Pair { nodes: &nodes, relay };
        pair.run(seed, totals)
    });
    for node in &nodes {
        node.kill()?;
    }
    if result.is_ok() || std::env::var_os("KEEP").is_none() {
        fs::remove_dir_all(&dir)?;
    }
    result
}

struct Pair<'a> {
    nodes: &'a [Node; 2],
    relay: Relay,
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Pair<'_> {
    /// Each node's configuration names the relay as the other one's address.
    fn begin(dir: &Path, nodes: &mut [Node; 2], settings: &str) -> Outcome<Relay> {
        let text = fs::read_to_string(&nodes[0].conf)?.replace("protocol C;", &format!("{settings} {USUAL}"));
        let ports: Vec<u16> = text
            .lines()
            .filter_map(|line| {
                line.trim().strip_prefix("address 127.0.0.1:")?.strip_suffix(';')?.parse().ok()
            })
            .collect();
        let free = [TcpListener::bind(address(0))?, TcpListener::bind(address(0))?];
        let relays = [free[0].local_addr()?.port(), free[1].local_addr()?.port()];
        drop(free);
        for (n, node) in nodes.iter_mut().enumerate() {
            let other = 1 - n;
            let (real, relayed) = (format!(":{};", ports[other]), format!(":{};", relays[other]));
            node.conf = dir.join(format!("{}.conf", node.name));
            fs::write(&node.conf, text.replace(&real, &relayed))?;
        }
        Ok(Relay::begin([0, 1].map(|n| address(relays[n])), [0, 1].map(|n| address(ports[n])))?)
    }

    fn run(&self, seed: u64, totals: &mut Totals) -> Outcome<()> {
        let [alpha, beta] = self.nodes;
        for node in self.nodes {
            node.drbdadm(&["create-md", "--force", RESOURCE])?;
            node.drbdadm(&["up", RESOURCE])?;
        }
        self.wait_until_connected()?;
        alpha.drbdadm(&["primary", "--force", RESOURCE])?;
        self.wait_until_in_sync()?;
        let daemons = self.daemons()?;
        let mut client = alpha.open()?;
        let span = client.size_bytes() / 4096;
        let stop = Arc::new(AtomicBool::new(false));
        let application = {
            let stop = Arc::clone(&stop);
            let size = client.size_bytes();
            thread::spawn(move || {
                let mut ledger = Ledger::new(size, seed);
                let result = ledger.write(&mut client, 8, span, |_| {
                    thread::sleep(Duration::from_millis(1));
                    stop.load(Ordering::Relaxed)
                });
                result.map(|()| (ledger, client)).map_err(|e| e.to_string())
            })
        };
        for n in 0..ROUNDS_PER_PAIR {
            let round_seed = seed.wrapping_mul(97).wrapping_add(n);
            self.lie(round_seed, totals).map_err(|e| format!("round {n} (seed {round_seed}): {e}"))?;
            if self.daemons()? != daemons {
                return Err(format!("round {n}: a daemon fell over: {}", self.logs("panicked")).into());
            }
            for pid in &daemons {
                let memory = memory_kib(*pid)?;
                totals.memory_kib = totals.memory_kib.max(memory);
                if memory > MEMORY_KIB_MAX {
                    return Err(format!("round {n}: a daemon has {memory} KiB of memory").into());
                }
            }
        }
        // Nobody lies any more. The other node begins anew, for lies about generations last.
        self.relay.round(Round { seed, honest_packets: 0, lies_per_mille: 0 });
        self.begin_anew(beta)?;
        self.wait_until_in_sync().map_err(|e| format!("after the lies: {e}"))?;
        stop.store(true, Ordering::Relaxed);
        let (ledger, mut client) = application.join().map_err(|_| "the application fell over")??;
        ledger.check(&mut client, false).map_err(|e| format!("the application's data: {e}"))?;
        let mut at_beta = {
            drop(client);
            self.demote(alpha)?;
            beta.drbdadm(&["primary", RESOURCE])?;
            beta.open()?
        };
        ledger.check(&mut at_beta, false).map_err(|e| format!("the other node's data: {e}"))?;
        totals.pairs += 1;
        totals.writes += ledger.acknowledged_writes;
        Ok(())
    }

    /// A round: a connection, lies, and what an administrator does meanwhile.
    fn lie(&self, seed: u64, totals: &mut Totals) -> Outcome<()> {
        let honest_packets = match seed % 4 {
            0 => 0,
            1 => seed / 4 % 24,
            2 => seed / 4 % 100,
            _ => 30 + seed / 4 % 300,
        };
        let lies_per_mille = [50, 200, 500, 1000][(seed / 16 % 4) as usize];
        self.relay.round(Round { seed, honest_packets, lies_per_mille });
        for node in self.nodes {
            // Whoever was left StandAlone.
            let _ = node.drbdadm(&["connect", RESOURCE]);
        }
        let (begin, logged_before) = (Instant::now(), self.log_bytes());
        let node = &self.nodes[(seed / 7 % 2) as usize];
        let commands: [&[&str]; 6] = [
            &["verify", RESOURCE],
            &["invalidate-remote", RESOURCE],
            &["disconnect", RESOURCE],
            &["pause-sync", RESOURCE],
            &["resume-sync", RESOURCE],
            &["net-options", "--protocol=C", RESOURCE],
        ];
        self.wait_for_end(begin, ROUND / 2);
        // Refused or not is no matter here; that it is answered is.
        let _ = node.drbdadm(commands[(seed / 3 % 6) as usize]);
        self.wait_for_end(begin, ROUND);
        let report = self.relay.report();
        self.check_reasons(&report, logged_before)?;
        let report = self.relay.round(Round { seed, honest_packets: 0, lies_per_mille: 0 });
        if let Some(wrong) = report.wrong.first() {
            return Err(wrong.clone().into());
        }
        totals.rounds += 1;
        totals.packets += report.packets;
        totals.lies += report.lies;
        totals.sockets += report.ended;
        Ok(())
    }

    /// Until a lie has ended a connection, or time is up.
    fn wait_for_end(&self, begin: Instant, most: Duration) {
        while begin.elapsed() < most {
            let report = self.relay.report();
            thread::sleep(Duration::from_millis(40));
            if report.lies > 0 && report.ended > 0 {
                return;
            }
        }
    }

    /// Of a connection that ended somebody said why: each node before it leaves Connected, unless it was asked to, and at
    /// least one of them where the lie came before that.
    fn check_reasons(&self, report: &RoundReport, logged_before: [u64; 2]) -> Outcome<()> {
        let (mut told, mut asked, mut connected) = (false, false, false);
        for (node, before) in self.nodes.iter().zip(logged_before) {
            let mut reason = false;
            for line in self.log_since(node, before)?.lines() {
                // Warnings and what the peer was told to have wrong; state changes say that, not why.
                reason |= line.contains(" warning ") || line.contains(" error ");
                let Some(left) = line.split_once("conn( Connected -> ").map(|(_, to)| to) else { continue };
                let at_will = ["Disconnecting", "TearDown"].iter().any(|state| left.starts_with(state));
                if !at_will && !reason {
                    return Err(format!("{} left its connection without a reason: {line}", node.name).into());
                }
                (told, asked, reason) = (told | reason, asked | at_will, false);
            }
            told |= reason;
            let status = node.status()?;
            let connection = &status.connections.first().ok_or("the connection is gone")?.connection;
            connected |= connection.connection == ConnectionState::Connected;
            told |= !connection.last_error.is_empty();
        }
        let ended = report.lies > 0 && report.ended > 0 && report.sessions > 0;
        if ended && !told && !asked && !connected {
            return Err("a connection ended without a reason".into());
        }
        Ok(())
    }

    fn begin_anew(&self, node: &Node) -> Outcome<()> {
        let _ = node.drbdadm(&["secondary", "--force", RESOURCE]);
        node.drbdadm(&["down", RESOURCE])?;
        node.drbdadm(&["create-md", "--force", RESOURCE])?;
        node.drbdadm(&["up", RESOURCE])?;
        let _ = self.nodes[0].drbdadm(&["resume-sync", RESOURCE]);
        let _ = self.nodes[0].drbdadm(&["disconnect", RESOURCE]);
        // The settings of the configuration again, which the peer may have changed.
        self.nodes[0].drbdadm(&["adjust", RESOURCE])?;
        if let Err(e) = self.nodes[0].drbdadm(&["connect", RESOURCE]) {
            // That the adjustment has connected it already is all there may be to say.
            let status = self.nodes[0].status()?;
            if status
                .connections
                .first()
                .is_none_or(|c| c.connection.connection == ConnectionState::StandAlone)
            {
                return Err(format!("it does not connect again: {e}").into());
            }
        }
        Ok(())
    }

    fn demote(&self, node: &Node) -> Outcome<()> {
        let begin = Instant::now();
        loop {
            match node.drbdadm(&["secondary", RESOURCE]) {
                Ok(_) => return Ok(()),
                // It notices a little later that its client is gone.
                Err(_) if begin.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(50)),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn wait_until_connected(&self) -> Outcome<()> {
        for node in self.nodes {
            node.wait_for(PATIENCE, |s| {
                s.connections[0].connection.connection == ConnectionState::Connected
            })?;
        }
        Ok(())
    }

    fn wait_until_in_sync(&self) -> Outcome<()> {
        for node in self.nodes {
            node.wait_for(PATIENCE, |s| {
                let peer = &s.connections[0].peer_devices[0];
                s.devices[0].disk == DiskState::UpToDate
                    && peer.peer_disk == DiskState::UpToDate
                    && peer.replication == ReplicationState::Established
            })?;
        }
        Ok(())
    }

    fn daemons(&self) -> Outcome<Vec<i32>> {
        let mut all = Vec::new();
        for node in self.nodes {
            all.extend(node.processes()?.into_iter().map(nix::unistd::Pid::as_raw));
        }
        Ok(all)
    }

    /// What a node logged after the first so many bytes.
    fn log_since(&self, node: &Node, bytes: u64) -> Outcome<String> {
        let log = fs::read(log_of(node))?;
        Ok(String::from_utf8_lossy(log.get(bytes as usize..).unwrap_or_default()).into_owned())
    }

    fn log_bytes(&self) -> [u64; 2] {
        [0, 1].map(|n| fs::metadata(log_of(&self.nodes[n])).map_or(0, |log| log.len()))
    }

    fn logs(&self, what: &str) -> String {
        let lines =
            self.nodes.iter().map(log_of).filter_map(|path| fs::read_to_string(path).ok()).flat_map(|text| {
                text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect::<Vec<_>>()
            });
        lines.collect::<Vec<_>>().join("; ")
    }
}

fn log_of(node: &Node) -> PathBuf {
    node.run_dir.join(format!("{RESOURCE}.log"))
}

/// Most resident memory a process ever had.
fn memory_kib(pid: i32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
