//! check-resize: internal metadata is found again after its device has grown while nobody used it, and moved to the new
//! end. apply-al, which goes before every attach, does so too.
//!
//! Whenever it is cut off, running it again ends in the same place: where the new place lies behind the old, its super
//! block comes last; where they overlap, a super block at the new end says first that everything is out of sync.

use crate::device::Buffer;
use crate::failure::{exit, Failure};
use crate::found::{Found, Opened};
use crate::terminal::say;
use drbd_core::metadata::{Index, Place, Relayout, SuperBlock, BLOCK_BYTES};

/// Bitmap and log are copied in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;

/// `check-resize`.
pub(crate) fn check(opened: &mut Opened) -> Result<(), Failure> {
    match &opened.found {
        Found::Metadata(super_block) => {
            opened.remember(super_block.device_uuid);
            return Ok(());
        }
        Found::Nothing | Found::Damaged(_) => {}
    }
    if !opened.arguments.index.is_internal() {
        return Err(Failure::new(exit::NOT_DONE, "Operation only supported for >= v8 internal meta data"));
    }
    if move_if_known(opened)? {
        return Ok(());
    }
    Err(Failure::new(exit::NOT_DONE, "no suitable meta data found :("))
}

/// Moves internal metadata that is not at the end of its device but where the end was when it was last written. False if
/// there is none.
pub(crate) fn move_if_known(opened: &mut Opened) -> Result<bool, Failure> {
    let nothing_there = !matches!(opened.found, Found::Metadata(_));
    if !nothing_there || !opened.arguments.index.is_internal() || !opened.arguments.modifies {
        return Ok(false);
    }
    let now_bytes = opened.device.size_bytes;
    let known = opened.last_known().and_then(|file| file.load(&opened.arguments.device));
    let Some(before_bytes) = known.filter(|&bytes| bytes < now_bytes) else { return Ok(false) };
    let Ok(at) = Index::Internal.super_block_offset_bytes(before_bytes) else { return Ok(false) };
    let Some(super_block) = decode(&opened.device.read(at, BLOCK_BYTES)?) else { return Ok(false) };
    let Ok(old) = Place::of(&super_block, Index::Internal, before_bytes, before_bytes) else {
        return Ok(false);
    };
    let name = opened.arguments.device.display();
    let new = Relayout::of(&super_block, Index::Internal, now_bytes, now_bytes)
        .map_err(|error| Failure::value(format!("{name}: {error}")))?;
    if !new.moves_from(&old) {
        return Ok(false);
    }
    opened.terminal.note(format_args!("Moving the internal meta data to its proper location"));
    let moved = carry_over(opened, super_block, &old, &new)?;
    opened.remember(moved.device_uuid);
    opened.found = Found::Metadata(Box::new(moved));
    say(format_args!("Internal drbd meta data successfully moved."))?;
    Ok(true)
}

fn decode(bytes: &Buffer) -> Option<SuperBlock> {
    SuperBlock::decode(bytes.as_slice().first_chunk()?).ok().flatten()
}

fn carry_over(
    opened: &Opened,
    super_block: SuperBlock,
    old: &Place,
    new: &Relayout,
) -> Result<SuperBlock, Failure> {
    let apart = new.is_apart_from(old);
    let mut moved = SuperBlock { md_size_sect: new.md_size_sect, bm_offset: new.bm_offset, ..super_block };
    if !apart {
        write_first_super_block(opened, &new.place, &moved.with_nothing_counting())?;
    }
    // Read before the bitmap is written over it.
    let log = opened.device.read(old.log_offset_bytes, old.log_bytes as usize)?;
    copy_bitmap(opened, old, &new.place)?;
    opened.device.write(new.place.log_offset_bytes, &log)?;
    opened.device.flush()?;
    moved.effective_size = moved.effective_size.min(new.place.capacity.0);
    if apart {
        write_first_super_block(opened, &new.place, &moved)?;
        // Should the device become as small again as it was, nobody is to take this for the present one.
        opened.device.write(old.super_block_offset_bytes, &Buffer::new(BLOCK_BYTES))?;
        opened.device.flush()?;
    } else {
        write_super_block(opened, &new.place, |block| moved.encode(block))?;
    }
    Ok(moved)
}

/// What the bitmap has more than before describes what nobody agreed on yet: zero.
fn copy_bitmap(opened: &Opened, old: &Place, new: &Place) -> Result<(), Failure> {
    let more = new.bitmap_bytes - old.bitmap_bytes;
    // From the end, because the new place may overlap the old from behind.
    let mut end = old.bitmap_bytes;
    let mut pieces = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PIECE_BYTES);
        pieces.push((start, (end - start) as usize));
        end = start;
    }
    for (start, len) in pieces {
        let piece = opened.device.read(old.bitmap_offset_bytes + start, len)?;
        opened.device.write(new.bitmap_offset_bytes + start, &piece)?;
    }
    if more > 0 {
        opened.device.fill(new.bitmap_offset_bytes + old.bitmap_bytes, more, 0)?;
    }
    opened.device.flush()
}

/// Unsealed first: a torn write must not leave the rest of what lay there before.
fn write_first_super_block(opened: &Opened, place: &Place, super_block: &SuperBlock) -> Result<(), Failure> {
    write_super_block(opened, place, |block| super_block.encode_unsealed(block))?;
    write_super_block(opened, place, |block| super_block.encode(block))
}

fn write_super_block(
    opened: &Opened,
    place: &Place,
    encode: impl Fn(&mut [u8; BLOCK_BYTES]),
) -> Result<(), Failure> {
    let mut buffer = Buffer::new(BLOCK_BYTES);
    if let Some(block) = buffer.as_mut().first_chunk_mut() {
        encode(block);
    }
    opened.device.write(place.super_block_offset_bytes, &buffer)?;
    opened.device.flush()
}
