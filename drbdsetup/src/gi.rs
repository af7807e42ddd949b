//! `get-gi` and `show-gi`: the generation identifiers of a volume towards a peer.

use crate::arguments::CommandLine;
use crate::client::{Client, NoClient};
use crate::commands::Verb;
use crate::fault::Fault;
use crate::query::with_info;
use crate::rundir::{run_dir_path, RunDir};
use drbd_core::control::{GenerationStatus, Request};
use drbd_core::states::DiskState;

/// Exit code where there is no disk.
const EXIT_NO_DISK: u8 = 1;

/// Either command.
pub fn run(line: &CommandLine) -> Result<String, Fault> {
    let name = line.object();
    let run_dir = RunDir::open_if_present(&run_dir_path()?)?;
    let mut client = match Client::connect(run_dir.as_ref(), name) {
        Ok(client) => client,
        Err(NoClient::Trouble(fault)) => return Err(fault),
        Err(NoClient::NotConfigured(info)) => {
            return Err(Fault::missing(with_info(&format!("{name}: Unknown resource"), &info)));
        }
    };
    let (peer, volume) = (line.peer(), line.volume());
    let status = client.status()?;
    let has_peer = status
        .connections
        .iter()
        .any(|c| c.connection.peer_node_id == peer && c.peer_devices.iter().any(|p| p.volume == volume));
    let device = status.devices.iter().find(|d| d.volume == volume).filter(|_| has_peer);
    let device = device.ok_or_else(|| Fault::missing(format!("{name}: No such peer device")))?;
    if device.disk == DiskState::Diskless {
        return Err(Fault { text: "Device has no disk".to_owned(), exit: EXIT_NO_DISK });
    }
    let done = client.ask(name, Request::GetGi { peer, volume })?;
    let generation = done
        .generation
        .ok_or_else(|| Fault::trouble(format!("{name}: the daemon answered get-gi without identifiers")))?;
    Ok(if line.command.verb == Verb::ShowGi { explained(&generation) } else { plain(&generation) })
}

/// The identifiers and flags in one line.
pub fn plain(generation: &GenerationStatus) -> String {
    let GenerationStatus { current, bitmap, history, flags, peer_flags } = generation;
    let mut text = format!("{current:016X}:{bitmap:016X}:{:016X}:{:016X}", history[0], history[1]);
    for flag in flags.iter().chain(peer_flags) {
        text.push_str(if *flag { ":1" } else { ":0" });
    }
    text.push('\n');
    text
}

/// What each flag says, first to last.
const FLAGS: [&str; 12] = [
    "-<  Data consistency flag  >-",
    "-<  Data was/is currently up-to-date  >-",
    "-<  Node was/is currently primary  >-",
    "-<  This node was a crashed primary, and has not seen its peer since  >-",
    "-<  The activity-log was applied, the disk can be attached  >-",
    "-<  The activity-log was disabled, peer is completely out of sync  >-",
    "-<  This node was primary when it lost quorum  >-",
    "-<  Node was/is currently connected  >-",
    "-<  The peer's disk was out-dated or inconsistent  >-",
    "-<   A fence policy other the dont-care was used  >-",
    "-<  Node was in the progress of marking all blocks as out of sync  >-",
    "-<  At least once we saw this node with a backing device attached >-",
];

/// Column of the first flag.
const FIRST_FLAG: usize = 68;

/// The same with an arrow from every value to what it means.
pub fn explained(generation: &GenerationStatus) -> String {
    let mut text = String::from(
        "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
",
    );
    text.push_str(&plain(generation));
    let bars = |from: usize, bar: &str| vec![bar; FLAGS.len() - from].join(" ");
    text.push_str(&format!("{:FIRST_FLAG$}{}\n", "", bars(0, "^")));
    for (at, meaning) in FLAGS.iter().enumerate() {
        let width = FIRST_FLAG + 2 * at - 1;
        let rest = if at + 1 < FLAGS.len() { format!(" {}", bars(at + 1, "|")) } else { String::new() };
        text.push_str(&format!("{meaning:>width$}-+{rest}\n"));
    }
    text.push('\n');
    text
}
