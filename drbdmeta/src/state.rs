//! Commands that look at or change a few fields: dstate, outdate, invalidate, read-dev-uuid, write-dev-uuid, wipe-md,
//! forget-peer, repair-md.

use crate::check_resize::move_if_known;
use crate::failure::{exit, Failure};
use crate::found::{Found, Opened};
use crate::generation::uuid;
use crate::terminal::say;
use drbd_core::metadata::{device_flag, peer_flag, Format, PeerRecord, SuperBlock};

/// `dstate`: what the disk would be attached as.
pub(crate) fn dstate(opened: &mut Opened) -> Result<(), Failure> {
    let super_block = opened.existing(true)?;
    let has = |flag| super_block.flags & flag != 0;
    let peer_outdated =
        super_block.format == Format::V08 && super_block.peers[0].flags & peer_flag::OUTDATED != 0;
    let word = match (has(device_flag::CONSISTENT), has(device_flag::WAS_UP_TO_DATE)) {
        (false, _) => "Inconsistent",
        (true, false) => "Outdated",
        (true, true) if peer_outdated => "UpToDate",
        (true, true) => "Consistent",
    };
    say(format_args!("{word}"))?;
    Ok(())
}

/// `outdate`: a peer has newer data.
pub(crate) fn outdate(opened: &mut Opened) -> Result<(), Failure> {
    let mut super_block = opened.existing(false)?;
    if super_block.flags & device_flag::CONSISTENT == 0 {
        return Err(Failure::new(exit::INCONSISTENT, "Device is inconsistent."));
    }
    super_block.flags &= !device_flag::WAS_UP_TO_DATE;
    opened.write_super_block(&super_block)
}

/// `invalidate`: the data here is worth nothing, everything is to be copied from a peer.
pub(crate) fn invalidate(opened: &mut Opened) -> Result<(), Failure> {
    let mut super_block = opened.existing(false)?;
    super_block.flags &= !(device_flag::CONSISTENT | device_flag::WAS_UP_TO_DATE);
    let peers = match super_block.format {
        Format::V08 => &mut super_block.peers[..1],
        Format::V09 => &mut super_block.peers[..],
    };
    peers.iter_mut().for_each(|peer| peer.flags |= peer_flag::FULL_SYNC);
    opened.write_super_block(&super_block)
}

/// `read-dev-uuid`.
pub(crate) fn read_dev_uuid(opened: &mut Opened) -> Result<(), Failure> {
    let super_block = opened.existing(false)?;
    say(format_args!("{:016X}", super_block.device_uuid))?;
    Ok(())
}

/// `write-dev-uuid`.
pub(crate) fn write_dev_uuid(opened: &mut Opened) -> Result<(), Failure> {
    let Some(word) = opened.arguments.rest.first() else {
        return Err(Failure::value("Required Argument missing"));
    };
    let device_uuid = uuid(word)?;
    let mut super_block = opened.existing(false)?;
    super_block.device_uuid = device_uuid;
    opened.write_super_block(&super_block)
}

/// `wipe-md`: the metadata is given up. What is damaged beyond use is not metadata.
pub(crate) fn wipe(opened: &mut Opened) -> Result<(), Failure> {
    if !matches!(opened.found, Found::Metadata(_)) {
        opened.terminal.note(format_args!("There appears to be no drbd meta data to wipe out?"));
        return Ok(());
    }
    opened.existing(true)?;
    if !opened.terminal.confirmed(None, "Do you really want to wipe out the DRBD meta data?") {
        say(format_args!("Operation cancelled."))?;
        return Err(Failure::silent(exit::NOT_DONE));
    }
    say(format_args!("Wiping meta data..."))?;
    opened.erase_super_block()?;
    opened.forget();
    say(format_args!("DRBD meta data block successfully wiped out."))?;
    Ok(())
}

/// A peer that was never used carries the UUID of the day the metadata was made.
fn is_day0(super_block: &SuperBlock, node_id: usize) -> bool {
    let peer = &super_block.peers[node_id];
    i32::try_from(node_id) != Ok(super_block.node_id) && peer.bitmap_index == -1 && peer.flags == 0
}

/// The last of them: modules before 9.1.15 may have damaged the first.
fn day0(super_block: &SuperBlock) -> Option<PeerRecord> {
    (0..32).rev().find(|n| is_day0(super_block, *n)).map(|n| super_block.peers[n])
}

/// `forget-peer`.
pub(crate) fn forget_peer(opened: &mut Opened) -> Result<(), Failure> {
    let mut super_block = opened.existing(false)?;
    let day0 = day0(&super_block);
    let peer = &mut super_block.peers[opened.arguments.node_id];
    let slot = peer.bitmap_index;
    let todo = match day0 {
        Some(day0) => {
            *peer = PeerRecord { flags: 0, ..day0 };
            format!("Copying bitmap slot {} to {slot} not implemented.", day0.bitmap_index)
        }
        None => {
            *peer = PeerRecord::NONE;
            format!("Setting all bits in slot {slot} not implemented.")
        }
    };
    opened.terminal.note(format_args!("{todo}\nDo it with dump-md, edit, restore-md"));
    opened.write_super_block(&super_block)
}

/// `repair-md`: all day-0 entries carry the same UUID again.
pub(crate) fn repair(opened: &mut Opened) -> Result<(), Failure> {
    move_if_known(opened)?;
    let mut super_block = opened.existing(true)?;
    let Some(expected) = day0(&super_block).map(|peer| peer.bitmap_uuid) else { return Ok(()) };
    let mut damaged = false;
    for node_id in 0..32 {
        let found = super_block.peers[node_id].bitmap_uuid;
        if is_day0(&super_block, node_id) && found != expected {
            opened.terminal.note(format_args!(
                "Peer slot {node_id} has \"day0\" UUID 0x{found:016X}, expected 0x{expected:016X}"
            ));
            super_block.peers[node_id].bitmap_uuid = expected;
            damaged = true;
        }
    }
    match (damaged, opened.arguments.dry_run) {
        (false, _) => Ok(()),
        (true, true) => Err(Failure::silent(exit::NOT_DONE)),
        (true, false) => {
            opened.terminal.note(format_args!("Repairing metadata"));
            opened.write_super_block(&super_block)
        }
    }
}
