//! get-gi, show-gi, set-gi: data generations and flags as one line of fields.

use crate::failure::{exit, Failure};
use crate::found::Opened;
use crate::terminal::{say, short_size};
use drbd_core::metadata::{device_flag, peer_flag, Format, SuperBlock};

/// One field of the line.
enum Field {
    Current,
    Bitmap,
    History(usize),
    Device(u32),
    Peer(u32),
}

const V08: [Field; 11] = [
    Field::Current,
    Field::Bitmap,
    Field::History(0),
    Field::History(1),
    Field::Device(device_flag::CONSISTENT),
    Field::Device(device_flag::WAS_UP_TO_DATE),
    Field::Device(device_flag::PRIMARY_IND),
    Field::Peer(peer_flag::CONNECTED),
    Field::Peer(peer_flag::FULL_SYNC),
    Field::Peer(peer_flag::OUTDATED),
    Field::Device(device_flag::CRASHED_PRIMARY),
];

const V09: [Field; 16] = [
    Field::Current,
    Field::Bitmap,
    Field::History(0),
    Field::History(1),
    Field::Device(device_flag::CONSISTENT),
    Field::Device(device_flag::WAS_UP_TO_DATE),
    Field::Device(device_flag::PRIMARY_IND),
    Field::Device(device_flag::CRASHED_PRIMARY),
    Field::Device(device_flag::AL_CLEAN),
    Field::Device(device_flag::AL_DISABLED),
    Field::Device(device_flag::PRIMARY_LOST_QUORUM),
    Field::Peer(peer_flag::CONNECTED),
    Field::Peer(peer_flag::OUTDATED),
    Field::Peer(peer_flag::FENCING),
    Field::Peer(peer_flag::FULL_SYNC),
    Field::Peer(peer_flag::DEVICE_SEEN),
];

/// Drawn above the line of both formats.
const UUID_LEGEND: &str = "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V";

const V08_LEGEND: &str = "                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
                                  -<  Node was/is currently connected  >--+ | | |
         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |
                        -<  The peer's disk was out-dated or inconsistent  >--+ |
      -<  This node was a crashed primary, and has not seen its peer since   >--+
";

const V09_LEGEND: &str =
    "                                                                    ^ ^ ^ ^ ^ ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | | | | | | |
                                  -<  Node was/is currently primary  >--+ | | | | | | | | |
 -<  This node was a crashed primary, and has not seen its peer since  >--+ | | | | | | | |
             -<  The activity-log was applied, the disk can be attached  >--+ | | | | | | |
        -<  The activity-log was disabled, peer is completely out of sync  >--+ | | | | | |
                              -<  This node was primary when it lost quorum  >--+ | | | | |
                                          -<  Node was/is currently connected  >--+ | | | |
                              -<  The peer's disk was out-dated or inconsistent  >--+ | | |
                                 -<   A fence policy other the dont-care was used  >--+ | |
                  -<  Node was in the progress of marking all blocks as out of sync  >--+ |
                     -<  At least once we saw this node with a backing device attached >--+
";

/// `get-gi`.
pub(crate) fn get(opened: &mut Opened) -> Result<(), Failure> {
    let super_block = opened.existing(false)?;
    say(format_args!("{}", line(&super_block, opened.arguments.node_id)))?;
    Ok(())
}

/// `show-gi`.
pub(crate) fn show(opened: &mut Opened) -> Result<(), Failure> {
    let super_block = opened.existing(false)?;
    say(format_args!("{UUID_LEGEND}\n{}", line(&super_block, opened.arguments.node_id)))?;
    match super_block.format {
        Format::V08 => say(format_args!("{V08_LEGEND}\n{}", in_words(&super_block)))?,
        Format::V09 => say(format_args!("{V09_LEGEND}"))?,
    }
    match super_block.effective_size {
        0 => say(format_args!("zero size device -- never seen peer yet?"))?,
        sectors => {
            say(format_args!("last agreed size: {} ({sectors} sectors)", short_size(sectors / 2)))?;
            say(format_args!("last agreed max bio size: {} Byte", super_block.la_peer_max_bio_size))?;
        }
    }
    Ok(())
}

/// `set-gi`.
pub(crate) fn set(opened: &mut Opened) -> Result<(), Failure> {
    let Some(list) = opened.arguments.rest.first() else {
        return Err(Failure::value("Required Argument missing"));
    };
    let node_id = opened.arguments.node_id;
    let old = opened.existing(false)?;
    let mut new = old.clone();
    parse(list, &mut new, node_id)?;
    say(format_args!("previously {}", line(&old, node_id)))?;
    say(format_args!("set GI to  {}", line(&new, node_id)))?;
    if !opened.terminal.confirmed(None, "Write new GI to disk?") {
        say(format_args!("Operation canceled."))?;
        return Ok(());
    }
    opened.write_super_block(&new)
}

fn fields(format: Format) -> &'static [Field] {
    match format {
        Format::V08 => &V08,
        Format::V09 => &V09,
    }
}

/// v08 has one peer, whatever its node id.
fn peer_of(super_block: &SuperBlock, node_id: usize) -> usize {
    match super_block.format {
        Format::V08 => 0,
        Format::V09 => node_id,
    }
}

fn line(super_block: &SuperBlock, node_id: usize) -> String {
    let peer = &super_block.peers[peer_of(super_block, node_id)];
    let texts: Vec<String> = fields(super_block.format)
        .iter()
        .map(|field| match field {
            Field::Current => format!("{:016X}", super_block.current_uuid),
            Field::Bitmap => format!("{:016X}", peer.bitmap_uuid),
            Field::History(n) => format!("{:016X}", super_block.history[*n]),
            Field::Device(flag) => u8::from(super_block.flags & flag != 0).to_string(),
            Field::Peer(flag) => u8::from(peer.flags & flag != 0).to_string(),
        })
        .collect();
    texts.join(":")
}

/// An empty field keeps its value, and so do missing ones.
fn parse(list: &str, super_block: &mut SuperBlock, node_id: usize) -> Result<(), Failure> {
    let fields = fields(super_block.format);
    let peer = peer_of(super_block, node_id);
    if list.split(':').count() > fields.len() {
        return Err(Failure::value(format!("'{list}' has more than {} fields.", fields.len())));
    }
    for (word, field) in list.split(':').zip(fields).filter(|(word, _)| !word.is_empty()) {
        match field {
            Field::Current => super_block.current_uuid = uuid(word)?,
            Field::Bitmap => super_block.peers[peer].bitmap_uuid = uuid(word)?,
            Field::History(n) => super_block.history[*n] = uuid(word)?,
            Field::Device(flag) => set_flag(&mut super_block.flags, *flag, bit(word)?),
            Field::Peer(flag) => set_flag(&mut super_block.peers[peer].flags, *flag, bit(word)?),
        }
    }
    Ok(())
}

/// A hexadecimal number, with or without `0x`.
pub(crate) fn uuid(word: &str) -> Result<u64, Failure> {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    number
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| Failure::new(exit::BAD_VALUE, format!("'{word}' is not a number.")))
}

fn bit(word: &str) -> Result<bool, Failure> {
    let number: u32 = word.parse().map_err(|_| Failure::value(format!("'{word}' is not a number.")))?;
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Failure::value(format!("'{number}' is not 0 or 1."))),
    }
}

fn set_flag(flags: &mut u32, flag: u32, on: bool) {
    if on {
        *flags |= flag;
    } else {
        *flags &= !flag;
    }
}

fn in_words(super_block: &SuperBlock) -> String {
    let has = |flag| super_block.flags & flag != 0;
    let peer = |flag| super_block.peers[0].flags & flag != 0;
    let crashed = if has(device_flag::CRASHED_PRIMARY) { " crashed" } else { "" };
    let role = if has(device_flag::PRIMARY_IND) { "Primary" } else { "Secondary" };
    let connection = if peer(peer_flag::CONNECTED) { "Connected" } else { "StandAlone" };
    let disk = match (has(device_flag::CONSISTENT), has(device_flag::WAS_UP_TO_DATE)) {
        (false, _) => "Inconsistent",
        (true, false) => "Outdated",
        (true, true) => "UpToDate",
    };
    let full_sync = if peer(peer_flag::FULL_SYNC) { ", need full sync" } else { "" };
    let outdated = if peer(peer_flag::OUTDATED) { ", peer Outdated" } else { "" };
    let clean = if has(device_flag::AL_CLEAN) { "clean" } else { "need apply-al" };
    format!("flags:{crashed} {role}, {connection}, {disk}{full_sync}{outdated}\nmeta-data: {clean}")
}
