//! apply-al: what may have been written when the power went is marked out of sync, then the disk may be attached.
//!
//! Order on disk: bitmap, log, super block, each stable before the next. Whenever it is cut off, running it again
//! ends in the same place.

use crate::device::Buffer;
use crate::failure::{exit, Failure};
use crate::found::Opened;
use crate::terminal::short_size;
use drbd_core::ids::Sector;
use drbd_core::limits::EXTENT_SECTORS;
use drbd_core::metadata::{
    apply_log, device_flag, encode_initialised, is_log_before_84, load, replay, replay_before_84, BitmapArea,
    Geometry, Loaded, LogReplay, LogState, Place, SuperBlock, BLOCK_BYTES,
};

/// `apply-al`.
pub(crate) fn apply(opened: &mut Opened) -> Result<(), Failure> {
    let mut super_block = opened.existing(true)?;
    let place = opened.place(&super_block)?;
    let log = opened.device.read(place.log_offset_bytes, place.log_bytes as usize)?;
    let old_log = is_log_before_84(&super_block, log.as_slice());
    let found = read_log(&super_block, log.as_slice(), old_log);
    let needed = super_block.flags & device_flag::PRIMARY_IND != 0;
    let active = explain(opened, &found, needed)?;
    let untouched = found.state == LogState::Untouched && found.corrupt_blocks == 0 && !old_log;
    if !active.is_empty() {
        mark(opened, &mut super_block, &place, log.as_slice(), active)?;
    }
    if !untouched {
        initialise_log(opened, &place)?;
    }
    if !untouched || super_block.is_unclean() {
        super_block.flags |= device_flag::AL_CLEAN;
        super_block.unclean_magic = false;
        opened.write_super_block(&super_block)?;
    }
    Ok(())
}

/// Writes every block of the log as one that was never used.
pub(crate) fn initialise_log(opened: &Opened, place: &Place) -> Result<(), Failure> {
    let mut buffer = Buffer::new(place.log_bytes as usize);
    for bytes in buffer.as_mut().chunks_exact_mut(BLOCK_BYTES) {
        if let Some(block) = bytes.first_chunk_mut() {
            encode_initialised(block);
        }
    }
    opened.device.write(place.log_offset_bytes, &buffer)?;
    opened.device.flush()
}

fn read_log(super_block: &SuperBlock, log: &[u8], old_log: bool) -> LogReplay {
    if old_log {
        replay_before_84(log, super_block.al_nr_extents)
    } else {
        replay(log, super_block.al_stripes, super_block.al_stripe_size_4k)
    }
}

/// Says what is strange about the log and returns the extents to mark.
fn explain(opened: &Opened, found: &LogReplay, needed: bool) -> Result<Vec<u32>, Failure> {
    let terminal = opened.terminal;
    if found.corrupt_blocks > 0 && found.state != LogState::NotALog {
        terminal.note(format_args!("{} corrupt AL transactions found", found.corrupt_blocks));
    }
    let (problem, code) = match &found.state {
        LogState::Untouched => return Ok(Vec::new()),
        LogState::Active(extents) => return Ok(if needed { extents.clone() } else { Vec::new() }),
        LogState::NotALog => ("No usable activity log found. Do you need to create-md?", exit::NOT_DONE),
        LogState::Unusable => ("No valid AL update transaction found.", exit::LOG_UNUSABLE),
    };
    terminal.note(format_args!("{problem}"));
    if needed {
        let device = opened.arguments.device.display();
        let way_out =
            "it is not known what was being written: invalidate this disk and let a full resync repair it";
        return Err(Failure::new(code, format!("{device} was Primary and {way_out}.")));
    }
    terminal.note(format_args!("Error ignored, no need to apply the AL"));
    Ok(Vec::new())
}

fn mark(
    opened: &Opened,
    super_block: &mut SuperBlock,
    place: &Place,
    log: &[u8],
    active: Vec<u32>,
) -> Result<(), Failure> {
    let name = opened.arguments.device.display();
    // As DRBD does it, the last extent is marked as a whole, even where it reaches beyond the end of the device.
    let whole_extents = Sector(place.capacity.0.next_multiple_of(EXTENT_SECTORS));
    let place = &Place { capacity: whole_extents, ..*place };
    let agreed = std::mem::replace(&mut super_block.effective_size, whole_extents.0);
    let bitmap = opened.device.read(place.bitmap_offset_bytes, place.bitmap_bytes as usize)?;
    let loaded = load(super_block.clone(), place, log, bitmap.as_slice());
    let mut loaded = loaded.map_err(|error| Failure::value(format!("{name}: {error}")))?;
    loaded.hot_extents = active;
    loaded.log_unreadable = false;
    let applied = apply_log(&mut loaded).map_err(|error| Failure::value(format!("{name}: {error}")))?;
    write_bitmap(opened, place, &loaded)?;
    *super_block = SuperBlock { effective_size: agreed, ..loaded.super_block };
    let kib = applied.bits_set * u64::from(super_block.bm_bytes_per_bit) / 1024;
    opened.terminal.note(format_args!("Marked additional {} as out-of-sync based on AL.", short_size(kib)));
    Ok(())
}

fn write_bitmap(opened: &Opened, place: &Place, loaded: &Loaded) -> Result<(), Failure> {
    let geometry = Geometry::of(&loaded.super_block);
    let area = BitmapArea { slots: geometry.max_peers, bits: geometry.bits(place.capacity) };
    let mut buffer = Buffer::new(place.bitmap_bytes as usize);
    for (n, bytes) in buffer.as_mut().chunks_exact_mut(BLOCK_BYTES).enumerate() {
        if let Some(block) = bytes.first_chunk_mut() {
            area.encode_block(&loaded.bitmaps, n as u64, block);
        }
    }
    opened.device.write(place.bitmap_offset_bytes, &buffer)?;
    opened.device.flush()
}
