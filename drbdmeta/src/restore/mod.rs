//! restore-md and verify-dump: metadata from the text that dump-md prints.
//!
//! The dump is read to its end and every question asked before the first byte is written. Then the order is that of
//! create-md: the super block is erased first and written last, so a kill in the middle leaves nothing valid.

mod dump;
mod tokens;

use crate::apply_log::initialise_log;
use crate::arguments::Arguments;
use crate::create::place_of;
use crate::device::Buffer;
use crate::failure::{exit, Failure};
use crate::foreign_data;
use crate::found::{Found, Opened};
use crate::terminal::{say, Progress};
use drbd_core::metadata::{Geometry, Layout, Place, SuperBlock};
use dump::{Dump, Run};
use std::fs::File;
use std::io::BufReader;

/// Bitmaps are written in pieces of about this size.
const PIECE_BYTES: usize = 4 << 20;
/// 64-bit words of one slot that fill whole blocks, whatever the number of slots.
const UNIT_WORDS: usize = 512;

/// `verify-dump`: only reads.
pub(crate) fn verify(arguments: &Arguments) -> Result<(), Failure> {
    let dump = read(arguments)?;
    let agreed = dump.super_block.effective_size;
    if agreed > 0 {
        // drbdmeta compares with a device that it never looks at.
        say(format_args!("# la-size-sect was too big ({agreed}), truncated (0)!"))?;
    }
    say(format_args!("input file parsed ok"))?;
    Ok(())
}

/// `restore-md`.
pub(crate) fn restore(opened: &mut Opened) -> Result<(), Failure> {
    let Dump { mut super_block, slots } = read(opened.arguments)?;
    let terminal = opened.terminal;
    if let Found::Metadata(_) = opened.found {
        if !terminal.confirmed(None, "Valid meta-data in place, overwrite?") {
            return Err(Failure::silent(exit::NOT_DONE));
        }
    }
    terminal.note(format_args!("reinitializing"));
    override_stripes(&mut super_block, opened);
    let layout = adapt(&mut super_block, opened)?;
    let usable = layout.usable_sectors(opened.arguments.index, &Geometry::of(&super_block));
    foreign_data::check(opened, &layout, usable)?;
    let place = place_of(&super_block, &layout);
    opened.erase_super_block()?;
    initialise_log(opened, &place)?;
    write_bitmaps(opened, &slots, &place, &layout)?;
    opened.write_super_block(&super_block)?;
    say(format_args!("Successfully restored meta data"))?;
    Ok(())
}

fn read(arguments: &Arguments) -> Result<Dump, Failure> {
    let Some(path) = arguments.rest.first() else {
        return Err(Failure::value("Required Argument missing"));
    };
    let file = File::open(path).map_err(|_| Failure::usage(format!("open of '{path}' failed.")))?;
    dump::read(BufReader::new(file), arguments.format)
}

fn override_stripes(super_block: &mut SuperBlock, opened: &Opened) {
    let options = &opened.arguments.create;
    let wanted = (options.al_stripes, options.al_stripe_size_4k);
    if options.al_stripes_given && wanted != (super_block.al_stripes, super_block.al_stripe_size_4k) {
        opened.terminal.note(format_args!("override activity log striping from commandline"));
        (super_block.al_stripes, super_block.al_stripe_size_4k) = wanted;
    }
}

/// Places everything as this device needs it, which need not be the one the dump is of.
fn adapt(super_block: &mut SuperBlock, opened: &Opened) -> Result<Layout, Failure> {
    let geometry = Geometry::of(super_block);
    let refuse = |error| Failure::value(format!("{}: {error}", opened.arguments.device.display()));
    geometry.check(super_block.format).map_err(refuse)?;
    let layout = opened.layout(&geometry)?;
    (super_block.md_size_sect, super_block.al_offset, super_block.bm_offset) =
        (layout.md_size_sect, layout.al_offset, layout.bm_offset);
    opened.clip_size(super_block)?;
    Ok(layout)
}

fn write_bitmaps(opened: &Opened, slots: &[Vec<Run>], place: &Place, layout: &Layout) -> Result<(), Failure> {
    let area_bytes = layout.bitmap_area_bytes() / 4096 * 4096;
    if opened.device.zero_quickly(place.bitmap_offset_bytes, area_bytes).is_err() {
        opened.device.fill(place.bitmap_offset_bytes, area_bytes, 0)?;
    }
    let count = slots.len();
    let words_on_disk = place.bitmap_bytes / 4;
    let too_large = slots.iter().enumerate().any(|(slot, runs)| {
        let room = words_on_disk.saturating_sub(slot as u64).div_ceil(count as u64).div_ceil(2);
        runs.iter().fold(0_u64, |sum, run| sum.saturating_add(run.count)) > room
    });
    if too_large {
        opened.terminal.note(format_args!("Bitmap info too large, truncated!"));
    }
    let piece_bytes = (PIECE_BYTES / (UNIT_WORDS * 8 * count)).max(1) * UNIT_WORDS * 8 * count;
    let mut cursors: Vec<Cursor<'_>> = slots.iter().map(|runs| Cursor { runs, used: 0 }).collect();
    let mut progress = Progress::new(place.bitmap_bytes);
    let mut done = 0;
    while done < place.bitmap_bytes {
        let len = (place.bitmap_bytes - done).min(piece_bytes as u64) as usize;
        let mut buffer = Buffer::new(len);
        fill_piece(&mut cursors, buffer.as_mut());
        if buffer.as_slice().iter().any(|byte| *byte != 0) {
            opened.device.write(place.bitmap_offset_bytes + done, &buffer)?;
        }
        done += len as u64;
        progress.show(done);
    }
    opened.device.flush()
}

/// The next words of every slot, interleaved in 32-bit words.
fn fill_piece(cursors: &mut [Cursor<'_>], bytes: &mut [u8]) {
    let (slots, halves) = (cursors.len(), bytes.len() / 4);
    for (slot, cursor) in cursors.iter_mut().enumerate() {
        let mut at = slot;
        while at < halves {
            let Some(word) = cursor.next() else { break };
            for half in [word as u32, (word >> 32) as u32] {
                if let Some(place) = bytes.get_mut(at * 4..at * 4 + 4) {
                    place.copy_from_slice(&half.to_le_bytes());
                }
                at += slots;
            }
        }
    }
}

/// Where in a slot's runs we are.
struct Cursor<'a> {
    runs: &'a [Run],
    /// Of the first run.
    used: u64,
}

impl Cursor<'_> {
    fn next(&mut self) -> Option<u64> {
        while let Some((first, rest)) = self.runs.split_first() {
            if self.used < first.count {
                self.used += 1;
                return Some(first.word);
            }
            (self.runs, self.used) = (rest, 0);
        }
        None
    }
}
