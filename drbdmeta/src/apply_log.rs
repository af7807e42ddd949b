//! apply-al: what may have been written when the power went is marked out of sync, then the disk may be attached.
//!
//! Order on disk: bitmap, log, super block, each stable before the next. Whenever it is cut off, running it again
//! ends in the same place.

use crate::check_resize::move_if_known;
use crate::device::Buffer;
use crate::failure::{exit, Failure};
use crate::found::Opened;
use crate::terminal::short_size;
use drbd_core::ids::Sector;
use drbd_core::limits::EXTENT_SECTORS;
use drbd_core::metadata::{
    apply_log, device_flag, encode_initialised, is_log_before_84, replay, replay_before_84, BitmapArea,
    Geometry, Loaded, LogReplay, LogState, MetadataError, Place, SuperBlock, BLOCK_BYTES,
};

/// Bitmaps are worked on in pieces of about this size.
const PIECE_BYTES: usize = 4 << 20;

/// `apply-al`.
pub(crate) fn apply(opened: &mut Opened) -> Result<(), Failure> {
    move_if_known(opened)?;
    let mut super_block = opened.existing(true)?;
    let place = opened.place(&super_block)?;
    let log = opened.device.read(place.log_offset_bytes, place.log_bytes as usize)?;
    let old_log = is_log_before_84(&super_block, log.as_slice());
    let found = read_log(&super_block, log.as_slice(), old_log);
    let needed = super_block.flags & device_flag::PRIMARY_IND != 0;
    let active = explain(opened, &found, needed)?;
    let untouched = found.state == LogState::Untouched && found.corrupt_blocks == 0 && !old_log;
    if !active.is_empty() {
        mark(opened, &super_block, &place, &active)?;
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

/// Sets the bits of the extents, piece by piece of the bitmap, so that a large one needs no large memory. As DRBD does
/// it, the last extent is marked as a whole, even where it reaches beyond the end of the device.
fn mark(opened: &Opened, super_block: &SuperBlock, place: &Place, extents: &[u32]) -> Result<(), Failure> {
    let slots = super_block.max_peers as usize;
    // In pieces of whole blocks of every slot, each piece is a bitmap of its own.
    let piece_bytes = (PIECE_BYTES / (BLOCK_BYTES * slots)).max(1) * BLOCK_BYTES * slots;
    let sectors_per_bit = u64::from(super_block.bm_bytes_per_bit) / Sector::BYTES;
    let piece_sectors = (piece_bytes / slots * 8) as u64 * sectors_per_bit;
    let piece_extents = (piece_sectors / EXTENT_SECTORS) as u32;
    let within = extents.partition_point(|extent| u64::from(*extent) * EXTENT_SECTORS < place.capacity.0);
    let mut bits_set = 0;
    for of_piece in extents[..within].chunk_by(|left, right| left / piece_extents == right / piece_extents) {
        let piece = of_piece[0] / piece_extents;
        let start = u64::from(piece) * piece_bytes as u64;
        let len = (place.bitmap_bytes - start).min(piece_bytes as u64) as usize;
        let mut buffer = opened.device.read(place.bitmap_offset_bytes + start, len)?;
        let mut loaded = Loaded {
            super_block: SuperBlock { effective_size: piece_sectors, ..super_block.clone() },
            bitmaps: Vec::new(),
            hot_extents: of_piece.iter().map(|extent| extent % piece_extents).collect(),
            log_unreadable: false,
            log_initialise_from: 0,
            capacity: Sector(piece_sectors),
        };
        bits_set += mark_piece(&mut loaded, buffer.as_mut())
            .map_err(|error| Failure::value(format!("{}: {error}", opened.arguments.device.display())))?;
        opened.device.write(place.bitmap_offset_bytes + start, &buffer)?;
    }
    opened.device.flush()?;
    let kib = bits_set * u64::from(super_block.bm_bytes_per_bit) / 1024;
    opened.terminal.note(format_args!("Marked additional {} as out-of-sync based on AL.", short_size(kib)));
    Ok(())
}

fn mark_piece(loaded: &mut Loaded, bytes: &mut [u8]) -> Result<u64, MetadataError> {
    let geometry = Geometry::of(&loaded.super_block);
    let slot_bits = (bytes.len() / geometry.max_peers as usize * 8) as u64;
    let area = BitmapArea { slots: geometry.max_peers, bits: slot_bits.next_multiple_of(64) };
    loaded.bitmaps = area.decode(bytes);
    let applied = apply_log(loaded)?;
    for (n, bytes) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        if let Some(block) = bytes.first_chunk_mut() {
            area.encode_block(&loaded.bitmaps, n as u64, block);
        }
    }
    Ok(applied.bits_set)
}
