//! `nbd_fuzz [--minutes N] [--seed N] [--attackers N] [--replay ATTACK]`: a real pair of daemons, two clients that write
//! and verify through one of them all the time (one by its socket, one by TCP and TLS), and beside them clients as an
//! NBD server should not have (see `nbd_fuzz.rs`). The daemon must not fall over; each honest request is answered in
//! bounded time and nothing written is lost, on either node; memory and descriptors do not grow; and in the end nobody
//! keeps the node from becoming Secondary.
//!
//! Each attack is made from one number: those under way are told when something is wrong, and `--replay` does one again.

use drbd_core::states::{DiskState, ReplicationState};
use drbd_tests::nbd_fuzz::{attack, Target};
use drbd_tests::system::ledger::Ledger;
use drbd_tests::system::nbd_client::{greet, Client, Operation};
use drbd_tests::system::nodes::{self, Node, RESOURCE};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const VOLUME_BYTES: u64 = 16 << 20;
/// Volumes: of the client at the socket, of the attackers, of the client with TLS.
const VOLUMES: [&str; 3] = ["0", "1", "2"];
/// An honest request takes no longer, on a machine that has other things to do.
const ANSWER_TIME: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(40);
/// What the daemon may ever have: its pools as large as they may become.
const MEMORY_KIB_MAX: u64 = 640 << 10;
/// What it may grow by once it has seen everything.
const GROWTH_KIB_MAX: u64 = 48 << 10;
/// Descriptors beside those of connections it serves, hands over and carries.
const DESCRIPTORS_MAX: usize = 900;

struct Wishes {
    seconds: u64,
    seed: u64,
    attackers: u64,
    replay: Option<u64>,
}

fn wishes() -> Result<Wishes, String> {
    let mut wishes = Wishes { seconds: 50, seed: 1, attackers: 6, replay: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let number = arguments.next().and_then(|text| text.parse::<u64>().ok());
        let number = number.ok_or_else(|| format!("{name} takes a number"))?;
        match name.as_str() {
            "--minutes" => wishes.seconds = number * 60,
            "--seed" => wishes.seed = number,
            "--attackers" => wishes.attackers = number,
            "--replay" => wishes.replay = Some(number),
            _ => return Err(format!("{name} is none of --minutes, --seed, --attackers and --replay")),
        }
    }
    Ok(wishes)
}

fn main() -> ExitCode {
    let wishes = match wishes() {
        Ok(wishes) => wishes,
        Err(sentence) => {
            eprintln!("nbd_fuzz: {sentence}");
            return ExitCode::from(2);
        }
    };
    match run(&wishes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("nbd_fuzz: seed {}: {e}", wishes.seed);
            ExitCode::FAILURE
        }
    }
}

fn run(wishes: &Wishes) -> Outcome<()> {
    let programs = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("udrbd-nbd-fuzz-XXXXXX"))?;
    let mut nodes = nodes::make(&dir, &programs, 0)?;
    let result = begin(&dir, &mut nodes).and_then(|target| {
        let pair = Pair { nodes: &nodes, target };
        pair.run(wishes)
    });
    if result.is_err() {
        for node in &nodes {
            let log = fs::read_to_string(log_of(node)).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(8).collect();
            eprintln!("{}:\n{}", node.name, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
    for node in &nodes {
        node.kill()?;
    }
    if result.is_ok() || std::env::var_os("KEEP").is_none() {
        fs::remove_dir_all(&dir)?;
    }
    result
}

/// Configuration, certificates and the port.
fn begin(dir: &Path, nodes: &mut [Node; 2]) -> Outcome<Target> {
    let free =
        [TcpListener::bind(address(0))?, TcpListener::bind(address(0))?, TcpListener::bind(address(0))?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&free) {
        *port = listener.local_addr()?.port();
    }
    drop(free);
    let mut text = format!(
        "global {{ usage-count no; }} resource {RESOURCE} {{ net {{ protocol C; }} disk {{ resync-rate 100M; c-max-rate 1G; }}\n"
    );
    for (index, node) in nodes.iter().enumerate() {
        text.push_str(&format!("on {} {{ node-id {index}; address 127.0.0.1:{};\n", node.name, ports[index]));
        for volume in VOLUMES {
            let disk = node.disk.with_extension(volume);
            File::create(&disk)?.set_len(VOLUME_BYTES)?;
            text.push_str(&format!(
                "volume {volume} {{ device minor {volume}; disk {}; meta-disk internal; }}\n",
                disk.display()
            ));
        }
        text.push_str("}\n");
    }
    text.push('}');
    fs::write(&nodes[0].conf, text)?;
    let tls = certificates(dir)?;
    let port = address(ports[2]);
    nodes[0].settings = BTreeMap::from([
        ("UDRBD_NBD_LISTEN", port.to_string()),
        ("UDRBD_NBD_TLS", "on".to_owned()),
        ("UDRBD_NBD_TLS_CERTIFICATES", dir.join("certificates").display().to_string()),
    ]);
    let socket = |volume: &str| nodes[0].run_dir.join(format!("{RESOURCE}.{volume}.nbd"));
    Ok(Target { honest: socket("0"), theirs: socket("1"), port, tls })
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// An authority, a certificate for the server and one for clients; what a client needs of them.
fn certificates(dir: &Path) -> Outcome<Arc<ClientConfig>> {
    let dir = dir.join("certificates");
    fs::create_dir_all(&dir)?;
    let script = r#"
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=authority -keyout ca-key.pem -out ca-cert.pem
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$who -keyout $who-key.pem -out request
            echo subjectAltName=IP:127.0.0.1 > extensions
            openssl x509 -req -in request -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 9 -extfile extensions -out $who-cert.pem
        done"#;
    let made = Command::new("sh").args(["-c", script]).current_dir(&dir).output()?;
    if !made.status.success() {
        return Err(format!("openssl: {}", String::from_utf8_lossy(&made.stderr)).into());
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca-cert.pem"))?)?;
    let own = vec![CertificateDer::from_pem_file(dir.join("client-cert.pem"))?];
    let key = PrivateKeyDer::from_pem_file(dir.join("client-key.pem"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(own, key)?))
}

struct Pair<'a> {
    nodes: &'a [Node; 2],
    target: Target,
}

/// What the daemon has.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    memory_kib: u64,
    descriptors: usize,
}

/// An honest client's side of the story.
struct Honest {
    name: &'static str,
    ledger: Ledger,
    longest: Duration,
}

impl Pair<'_> {
    fn run(&self, wishes: &Wishes) -> Outcome<()> {
        let [alpha, beta] = self.nodes;
        for node in [beta, alpha] {
            node.drbdadm(&["create-md", "--force", RESOURCE])?;
            node.drbdadm(&["up", RESOURCE])?;
        }
        alpha.wait_for(PATIENCE, |s| {
            !s.connections.is_empty() && s.connections[0].peer_devices.len() == VOLUMES.len()
        })?;
        alpha.drbdadm(&["primary", "--force", RESOURCE])?;
        self.wait_until_in_sync()?;
        let pid: u32 = fs::read_to_string(alpha.run_dir.join(format!("{RESOURCE}.pid")))?.trim().parse()?;
        if let Some(seed) = wishes.replay {
            println!("  attack {seed}: {}", attack(&self.target, seed));
            return self.check_daemon(pid);
        }
        let before = uses(pid)?;
        let stop = Arc::new(AtomicBool::new(false));
        let honest = [
            application("socket", self.open_socket()?, wishes.seed, &stop),
            application("TLS", self.open_tls("2")?, wishes.seed + 1, &stop),
        ];
        let watched = self.attack_for(wishes, pid, &honest);
        stop.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        for application in honest {
            told.push(application.join().map_err(|_| "an honest client fell over")??);
        }
        let (attacks, most) = watched?;
        let after = self.wait_until_gone(pid, before)?;
        for honest in &told {
            if honest.longest > ANSWER_TIME {
                return Err(format!(
                    "the client with {} waited {:?} for an answer",
                    honest.name, honest.longest
                )
                .into());
            }
        }
        self.check_other_node(&told)?;
        println!(
            "  {attacks} attacks; {} and {} honest writes by socket and TLS, the longest wait {:?}; memory {} MiB before, at most {}, {} \
             after; descriptors {}, {}, {}",
            told[0].ledger.acknowledged_writes,
            told[1].ledger.acknowledged_writes,
            told[0].longest.max(told[1].longest),
            before.memory_kib >> 10,
            most.memory_kib >> 10,
            after.memory_kib >> 10,
            before.descriptors,
            most.descriptors,
            after.descriptors
        );
        Ok(())
    }

    fn open_socket(&self) -> Outcome<Client> {
        Ok(Client::connect(&self.target.honest, PATIENCE)?)
    }

    fn open_tls(&self, export: &str) -> Outcome<Client> {
        let mut stream = TcpStream::connect(self.target.port)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        greet(&mut stream)?;
        stream.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0")?;
        stream.read_exact(&mut [0; 20])?;
        let name = ServerName::from(self.target.port.ip());
        let connection = ClientConnection::new(Arc::clone(&self.target.tls), name)?;
        Ok(Client::open(Box::new(StreamOwned::new(connection, stream)), export)?)
    }

    /// How many attacks there were, and the most the daemon had.
    fn attack_for(
        &self,
        wishes: &Wishes,
        pid: u32,
        honest: &[thread::JoinHandle<Result<Honest, String>>; 2],
    ) -> Outcome<(u64, Uses)> {
        let next = AtomicU64::new(0);
        let under_way = Mutex::new(BTreeMap::new());
        let end = Instant::now() + Duration::from_secs(wishes.seconds);
        let failed = AtomicBool::new(false);
        let over = || Instant::now() >= end || failed.load(Ordering::Relaxed);
        thread::scope(|scope| {
            for attacker in 0..wishes.attackers {
                let (next, under_way, over) = (&next, &under_way, &over);
                scope.spawn(move || {
                    while !over() {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let seed = wishes.seed.wrapping_mul(1_000_003).wrapping_add(number);
                        lock(under_way).insert(attacker, seed);
                        attack(&self.target, seed);
                    }
                });
            }
            let result = self.watch(pid, honest, &over);
            failed.store(true, Ordering::Relaxed);
            match result {
                Ok(most) => Ok((next.load(Ordering::Relaxed), most)),
                Err(e) => Err(format!("{e}; attacks under way: {:?}", lock(&under_way).values()).into()),
            }
        })
    }

    fn watch(
        &self,
        pid: u32,
        honest: &[thread::JoinHandle<Result<Honest, String>>; 2],
        over: &dyn Fn() -> bool,
    ) -> Outcome<Uses> {
        let mut most = Uses::default();
        let (begin, mut settled) = (Instant::now(), None);
        while !over() {
            thread::sleep(Duration::from_millis(250));
            self.check_daemon(pid)?;
            let now = uses(pid)?;
            most.memory_kib = most.memory_kib.max(now.memory_kib);
            most.descriptors = most.descriptors.max(now.descriptors);
            if now.memory_kib > MEMORY_KIB_MAX || now.descriptors > DESCRIPTORS_MAX {
                return Err(format!("the daemon has {now:?}").into());
            }
            // A minute has all kinds of attacks many times: what memory they take it has by then.
            if begin.elapsed() > Duration::from_secs(240) {
                let settled: &mut u64 = settled.get_or_insert(most.memory_kib);
                if now.memory_kib > *settled + GROWTH_KIB_MAX {
                    return Err(
                        format!("the daemon grows: {} KiB, and {settled} before", now.memory_kib).into()
                    );
                }
            }
            if honest.iter().any(thread::JoinHandle::is_finished) {
                return Err("an honest client was disturbed".into());
            }
        }
        Ok(most)
    }

    fn check_daemon(&self, pid: u32) -> Outcome<()> {
        let log = fs::read_to_string(log_of(&self.nodes[0]))?;
        if let Some(line) = log.lines().find(|line| line.contains("bug of udrbd") || line.contains("died")) {
            return Err(line.to_owned().into());
        }
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return Err("the daemon is gone".into());
        }
        Ok(())
    }

    /// All connections are closed in the end, also those that were left in the middle of a handshake.
    fn wait_until_gone(&self, pid: u32, before: Uses) -> Outcome<Uses> {
        let begin = Instant::now();
        loop {
            let now = uses(pid)?;
            if now.descriptors <= before.descriptors {
                return Ok(now);
            }
            if begin.elapsed() > PATIENCE {
                return Err(
                    format!("{} descriptors before, {} after", before.descriptors, now.descriptors).into()
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The other node has all that was written, by whomever.
    fn check_other_node(&self, told: &[Honest]) -> Outcome<()> {
        let [alpha, beta] = self.nodes;
        let here = contents(&mut Client::connect(&self.target.theirs, PATIENCE)?)?;
        let begin = Instant::now();
        while let Err(e) = alpha.drbdadm(&["secondary", RESOURCE]) {
            // It notices a little later that its last client is gone.
            if begin.elapsed() > PATIENCE {
                return Err(format!("somebody still has it open: {e}").into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        beta.drbdadm(&["primary", RESOURCE])?;
        let at =
            |volume: &str| Client::connect(&beta.run_dir.join(format!("{RESOURCE}.{volume}.nbd")), PATIENCE);
        if contents(&mut at("1")?)? != here {
            return Err("the two nodes have different data of the volume that was attacked".into());
        }
        for (honest, volume) in told.iter().zip(["0", "2"]) {
            honest.ledger.check(&mut at(volume)?, true).map_err(|e| format!("on the other node: {e}"))?;
        }
        Ok(())
    }

    fn wait_until_in_sync(&self) -> Outcome<()> {
        for node in self.nodes {
            node.wait_for(PATIENCE, |s| {
                s.devices.iter().all(|d| d.disk == DiskState::UpToDate)
                    && s.connections[0].peer_devices.iter().all(|p| {
                        p.peer_disk == DiskState::UpToDate && p.replication == ReplicationState::Established
                    })
            })?;
        }
        Ok(())
    }
}

/// Writes and verifies until it is told to stop.
fn application(
    name: &'static str,
    mut client: Client,
    seed: u64,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<Result<Honest, String>> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut honest =
            Honest { name, ledger: Ledger::new(client.size_bytes(), seed), longest: Duration::ZERO };
        loop {
            let wanted = honest.ledger.acknowledged_writes + 300;
            let (mut last, mut longest) = (Instant::now(), honest.longest);
            let written = honest.ledger.write(&mut client, 8, u64::MAX, |ledger| {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                ledger.acknowledged_writes >= wanted
            });
            honest.longest = longest;
            let asked = Instant::now();
            let checked = written.map_err(|e| format!("writing with {name}: {e}")).and_then(|()| {
                client.call(Operation::Flush, 0, 0, &[]).map_err(|e| format!("flushing with {name}: {e}"))?;
                let flushed = asked.elapsed();
                honest.ledger.check(&mut client, false).map_err(|e| format!("verifying with {name}: {e}"))?;
                Ok(flushed)
            });
            match checked {
                Ok(flushed) => honest.longest = honest.longest.max(flushed),
                Err(sentence) => {
                    eprintln!("nbd_fuzz: {sentence}");
                    return Err(sentence);
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(honest);
            }
            thread::sleep(Duration::from_millis(50));
        }
    })
}

fn contents(client: &mut Client) -> Outcome<Vec<u8>> {
    let mut all = Vec::new();
    while (all.len() as u64) < client.size_bytes() {
        let bytes = (client.size_bytes() - all.len() as u64).min(1 << 20) as u32;
        all.append(&mut client.call(Operation::Read, all.len() as u64, bytes, &[])?);
    }
    Ok(all)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn log_of(node: &Node) -> PathBuf {
    node.run_dir.join(format!("{RESOURCE}.log"))
}

fn uses(pid: u32) -> Outcome<Uses> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let memory_kib = line.trim().trim_end_matches(" kB").parse()?;
    Ok(Uses { memory_kib, descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() })
}
