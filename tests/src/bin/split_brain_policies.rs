//! Two nodes on loopback are written apart and meet again, once with every value of every after-split-brain policy: who
//! gives way, which handlers ran, and that both disks hold the same afterwards. All by drbdadm and NBD clients.

use drbd_core::control::ResourceStatus;
use drbd_core::states::ConnectionState;
use drbd_tests::system::nbd_client::{Client, Operation};
use drbd_tests::system::nodes::{self, Node, RESOURCE};
use drbd_tests::system::resync_account::{compare_disks, is_connected, is_in_sync};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 8 << 20;
const BLOCK: u32 = 4096;
/// Where each node writes.
const FIRST_BLOCK: [u64; 2] = [100, 300];
const PATIENCE: Duration = Duration::from_secs(30);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is to come of a meeting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// The changes of alpha stay, those of beta go.
    Alpha,
    Beta,
    /// Nobody's changes go: one node at least goes StandAlone.
    Parted,
    /// They try again and again.
    Retrying,
}

#[derive(Clone, Copy)]
struct Case {
    /// Of the net section, beside `BASE`.
    net: &'static str,
    /// Blocks alpha, Primary when they parted, and beta, Primary after that, write.
    blocks: [u64; 2],
    /// Who is Primary when they meet.
    primary: [bool; 2],
    expected: Expected,
    /// Handlers that run, `node:name`.
    handlers: &'static [&'static str],
}

const BASE: &str = "protocol C; connect-int 1; allow-two-primaries yes;";
const BOTH_SAW: &[&str] = &["alpha:initial-split-brain", "beta:initial-split-brain"];
const UNRESOLVED: &[&str] = &["alpha:initial-split-brain", "alpha:split-brain"];

const fn case(net: &'static str, expected: Expected) -> Case {
    Case {
        net,
        blocks: [3, 5],
        primary: [false; 2],
        expected,
        handlers: match expected {
            Parted => UNRESOLVED,
            Alpha | Beta | Retrying => BOTH_SAW,
        },
    }
}

const fn alpha_primary(case: Case) -> Case {
    Case { primary: [true, false], ..case }
}

const fn both_primary(case: Case) -> Case {
    Case { primary: [true, true], ..case }
}

use Expected::{Alpha, Beta, Parted, Retrying};

/// Alpha writes less than beta, and was Primary first.
const CASES: &[Case] = &[
    case("after-sb-0pri disconnect;", Parted),
    case("after-sb-0pri discard-younger-primary;", Alpha),
    case("after-sb-0pri discard-older-primary;", Beta),
    Case { blocks: [0, 5], ..case("after-sb-0pri discard-zero-changes;", Beta) },
    case("after-sb-0pri discard-zero-changes;", Parted),
    case("after-sb-0pri discard-least-changes;", Beta),
    case("after-sb-0pri discard-node-alpha;", Beta),
    case("after-sb-0pri discard-node-beta;", Alpha),
    alpha_primary(case("after-sb-0pri discard-least-changes; after-sb-1pri disconnect;", Parted)),
    alpha_primary(case("after-sb-0pri discard-least-changes; after-sb-1pri consensus;", Parted)),
    alpha_primary(case("after-sb-0pri discard-node-beta; after-sb-1pri consensus;", Alpha)),
    alpha_primary(case("after-sb-0pri discard-least-changes; after-sb-1pri discard-secondary;", Alpha)),
    Case {
        handlers: &["alpha:initial-split-brain", "alpha:pri-lost-after-sb", "alpha:split-brain"],
        ..alpha_primary(case(
            "after-sb-0pri discard-least-changes; after-sb-1pri call-pri-lost-after-sb;",
            Parted,
        ))
    },
    alpha_primary(case(
        "after-sb-0pri discard-least-changes; after-sb-1pri violently-as0p; rr-conflict violently;",
        Beta,
    )),
    alpha_primary(Case {
        handlers: &["alpha:initial-split-brain"],
        ..case(
            "after-sb-0pri discard-least-changes; after-sb-1pri violently-as0p; rr-conflict disconnect;",
            Parted,
        )
    }),
    alpha_primary(Case {
        handlers: &["alpha:initial-split-brain", "alpha:pri-lost"],
        ..case(
            "after-sb-0pri discard-least-changes; after-sb-1pri violently-as0p; rr-conflict call-pri-lost;",
            Parted,
        )
    }),
    alpha_primary(case(
        "after-sb-0pri discard-least-changes; after-sb-1pri violently-as0p; rr-conflict retry-connect;",
        Retrying,
    )),
    alpha_primary(Case {
        handlers: &["alpha:initial-split-brain"],
        ..case(
            "after-sb-0pri discard-least-changes; after-sb-1pri violently-as0p; rr-conflict auto-discard;",
            Parted,
        )
    }),
    both_primary(case("after-sb-0pri discard-least-changes; after-sb-2pri disconnect;", Parted)),
    Case {
        handlers: &["alpha:initial-split-brain", "alpha:pri-lost-after-sb", "alpha:split-brain"],
        ..both_primary(case(
            "after-sb-0pri discard-least-changes; after-sb-2pri call-pri-lost-after-sb;",
            Parted,
        ))
    },
    both_primary(case(
        "after-sb-0pri discard-least-changes; after-sb-2pri violently-as0p; rr-conflict violently;",
        Beta,
    )),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("split_brain_policies: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let programs = std::env::current_exe()?.parent().ok_or("no directory")?.to_owned();
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("udrbd-split-XXXXXX"))?;
    let nodes = nodes::make(&dir, &programs, DISK_BYTES)?;
    let result = Cluster::begin(&dir, nodes).and_then(|mut cluster| {
        let result = cluster.all();
        cluster.clean_up();
        result
    });
    let _ = fs::remove_dir_all(&dir);
    result
}

struct Cluster {
    nodes: [Node; 2],
    conf: String,
    /// One line for each handler that ran.
    ran: PathBuf,
    size_bytes: u64,
    /// What the blocks of each node hold after the last meeting.
    contents: [u8; 2],
    next_content: u8,
}

impl Cluster {
    fn begin(dir: &Path, nodes: [Node; 2]) -> Outcome<Cluster> {
        let ran = dir.join("handlers");
        let names = ["initial-split-brain", "split-brain", "pri-lost", "pri-lost-after-sb"];
        let handlers = names
            .map(|name| format!("        {name} \"echo $__DRBD_NODE__:{name} >> {}\";\n", ran.display()));
        let conf = fs::read_to_string(&nodes[0].conf)?;
        let conf = conf.replacen(
            "    net {",
            &format!("    handlers {{\n{}    }}\n    net {{", handlers.concat()),
            1,
        );
        let mut cluster = Cluster { nodes, conf, ran, size_bytes: 0, contents: [0; 2], next_content: 1 };
        cluster.configure("")?;
        for node in &cluster.nodes {
            node.drbdadm(&["create-md", RESOURCE])?;
            node.drbdadm(&["up", RESOURCE])?;
        }
        let alpha = &cluster.nodes[0];
        alpha.wait_for(PATIENCE, is_connected)?;
        alpha.drbdadm(&["primary", "--force", RESOURCE])?;
        alpha.wait_for(PATIENCE, is_in_sync)?;
        cluster.size_bytes = alpha.open()?.size_bytes();
        cluster.step_down()?;
        Ok(cluster)
    }

    fn configure(&self, net: &str) -> Outcome<()> {
        fs::write(&self.nodes[0].conf, self.conf.replacen("protocol C;", &format!("{BASE} {net}"), 1))?;
        Ok(())
    }

    fn all(&mut self) -> Outcome<()> {
        for case in CASES {
            let begin = Instant::now();
            let text = format!("{} {}", describe(case), case.net);
            self.case(case).map_err(|e| format!("{text}: {e}"))?;
            println!("  {text}: {:?}, {} ms", case.expected, begin.elapsed().as_millis());
        }
        self.tentative()?;
        self.refusals()?;
        println!("  {} meetings, the data of both sides compared after each", CASES.len() + 1);
        Ok(())
    }

    fn case(&mut self, case: &Case) -> Outcome<()> {
        self.configure(case.net)?;
        for node in &self.nodes {
            node.drbdadm(&["adjust", RESOURCE])?;
        }
        self.both(|s| is_connected(s) && is_in_sync(s))?;
        let written = self.part(case)?;
        let _ = fs::remove_file(&self.ran);
        self.connect(&[])?;
        match case.expected {
            Alpha | Beta => self.both(|s| is_connected(s) && is_in_sync(s))?,
            Parted => self.either(is_stand_alone)?,
            Retrying => self.await_handlers(&["alpha:initial-split-brain", "alpha:initial-split-brain"])?,
        }
        self.await_handlers(case.handlers)?;
        let winner = match case.expected {
            Alpha => Some(0),
            Beta => Some(1),
            Parted | Retrying => None,
        };
        match winner {
            Some(n) => self.contents[n] = written[n],
            None => self.end_by_hand(written)?,
        }
        self.compare()?;
        self.step_down()
    }

    /// Both are written apart; what each wrote.
    fn part(&mut self, case: &Case) -> Outcome<[u8; 2]> {
        let written = [self.next_content, self.next_content + 1];
        self.next_content += 2;
        let [alpha, beta] = &self.nodes;
        alpha.drbdadm(&["primary", RESOURCE])?;
        beta.drbdadm(&["disconnect", RESOURCE])?;
        alpha.wait_for(PATIENCE, |s| !is_connected(s))?;
        alpha.drbdadm(&["disconnect", RESOURCE])?;
        write(&mut alpha.open()?, FIRST_BLOCK[0], case.blocks[0], written[0])?;
        beta.drbdadm(&["primary", RESOURCE])?;
        write(&mut beta.open()?, FIRST_BLOCK[1], case.blocks[1], written[1])?;
        for (node, primary) in self.nodes.iter().zip(case.primary) {
            if !primary {
                secondary(node)?;
            }
        }
        let kept = [0, 1].map(|n| if case.blocks[n] == 0 { self.contents[n] } else { written[n] });
        Ok(kept)
    }

    /// An administrator decides against alpha.
    fn end_by_hand(&mut self, written: [u8; 2]) -> Outcome<()> {
        self.step_down()?;
        self.configure("")?;
        for node in &self.nodes {
            if !is_stand_alone(&node.status()?) {
                node.drbdadm(&["disconnect", RESOURCE])?;
            }
            node.drbdadm(&["adjust", RESOURCE]).or_else(|_| node.drbdadm(&["status", RESOURCE]))?;
            if !is_stand_alone(&node.status()?) {
                node.drbdadm(&["disconnect", RESOURCE])?;
            }
        }
        self.connect(&["--discard-my-data"])?;
        self.both(|s| is_connected(s) && is_in_sync(s))?;
        self.contents[1] = written[1];
        Ok(())
    }

    /// Beta waits; alpha connects like this.
    fn connect(&self, flags: &[&str]) -> Outcome<()> {
        let [alpha, beta] = &self.nodes;
        if is_stand_alone(&beta.status()?) {
            beta.drbdadm(&["connect", RESOURCE])?;
        }
        alpha.drbdadm(&[&["connect"], flags, &[RESOURCE]].concat())?;
        Ok(())
    }

    /// `--tentative` says what would happen, and nothing does.
    fn tentative(&mut self) -> Outcome<()> {
        self.configure("")?;
        for node in &self.nodes {
            node.drbdadm(&["adjust", RESOURCE])?;
        }
        self.both(|s| is_connected(s) && is_in_sync(s))?;
        let written = self.part(&case("", Parted))?;
        self.connect(&["--tentative", "--discard-my-data"])?;
        self.nodes[0].wait_for(PATIENCE, is_stand_alone)?;
        let log = fs::read_to_string(self.nodes[0].run_dir.join(format!("{RESOURCE}.log")))?;
        if !log.contains("dry-run connect: Would become SyncTarget, doing a bit-map based resync.") {
            return Err(format!("--tentative did not say what would happen:\n{log}").into());
        }
        self.end_by_hand(written)?;
        self.compare()?;
        println!("  connect --tentative, then --discard-my-data: Beta");
        self.step_down()
    }

    fn refusals(&self) -> Outcome<()> {
        let alpha = &self.nodes[0];
        alpha.drbdadm(&["disconnect", RESOURCE])?;
        alpha.drbdadm(&["primary", RESOURCE])?;
        match alpha.drbdadm(&["connect", "--discard-my-data", RESOURCE]) {
            Err(e) if e.output.contains("--discard-my-data not allowed when primary") => {}
            other => return Err(format!("a Primary may discard its data: {other:?}").into()),
        }
        println!("  a Primary discards nothing: refused");
        Ok(())
    }

    fn both(&self, so: impl Fn(&ResourceStatus) -> bool + Copy) -> Outcome<()> {
        for node in &self.nodes {
            node.wait_for(PATIENCE, so)?;
        }
        Ok(())
    }

    fn either(&self, so: fn(&ResourceStatus) -> bool) -> Outcome<()> {
        let begin = Instant::now();
        loop {
            for node in &self.nodes {
                if so(&node.status()?) {
                    return Ok(());
                }
            }
            if begin.elapsed() > PATIENCE {
                return Err("no node went StandAlone".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until these handlers ran, as often as they are named.
    fn await_handlers(&self, expected: &[&str]) -> Outcome<()> {
        let begin = Instant::now();
        loop {
            let ran = fs::read_to_string(&self.ran).unwrap_or_default();
            let times = |of: &mut dyn Iterator<Item = &str>, name| of.filter(|line| *line == name).count();
            let done = expected
                .iter()
                .all(|name| times(&mut ran.lines(), *name) >= times(&mut expected.iter().copied(), *name));
            if done {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("handlers {expected:?} were expected, these ran:\n{ran}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn compare(&self) -> Outcome<()> {
        compare_disks(&self.nodes, self.size_bytes)?;
        let disk = fs::read(&self.nodes[0].disk)?;
        for n in 0..2 {
            let found = disk[(FIRST_BLOCK[n] * u64::from(BLOCK)) as usize];
            if found != self.contents[n] {
                return Err(format!(
                    "the blocks of {} hold {found} instead of {}",
                    self.nodes[n].name, self.contents[n]
                )
                .into());
            }
        }
        Ok(())
    }

    fn step_down(&self) -> Outcome<()> {
        self.nodes.iter().try_for_each(secondary)
    }

    fn clean_up(&self) {
        for node in &self.nodes {
            let _ = node.kill();
        }
    }
}

fn is_stand_alone(status: &ResourceStatus) -> bool {
    status.connections.iter().all(|c| c.connection.connection == ConnectionState::StandAlone)
}

/// The daemon notices a little later that its client is gone.
fn secondary(node: &Node) -> Outcome<()> {
    let begin = Instant::now();
    loop {
        match node.drbdadm(&["secondary", RESOURCE]) {
            Ok(_) => return Ok(()),
            Err(e) if begin.elapsed() > Duration::from_secs(5) => return Err(e.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn write(client: &mut Client, first: u64, blocks: u64, content: u8) -> Outcome<()> {
    for block in first..first + blocks {
        let data = vec![content; BLOCK as usize];
        client.call(Operation::Write, block * u64::from(BLOCK), BLOCK, &data)?;
    }
    Ok(())
}

fn describe(case: &Case) -> String {
    let primaries = match case.primary {
        [false, false] => "0 Primaries",
        [true, false] => "alpha Primary",
        [false, true] => "beta Primary",
        [true, true] => "2 Primaries",
    };
    format!("{primaries}, {} and {} blocks written,", case.blocks[0], case.blocks[1])
}
