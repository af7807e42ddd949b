//! create-md: new metadata, or metadata of the other format made of what is there.
//!
//! Every question is asked before the first byte is written. Then: the old super block is erased, log and bitmap are
//! written, and the new super block last, each stable before the next. So a kill in the middle leaves nothing valid,
//! never half of it. (Where a conversion changes the super block alone, that one write is all.)

use crate::apply_log::initialise_log;
use crate::arguments::{Arguments, BitmapInit};
use crate::device::Buffer;
use crate::failure::{exit, Failure};
use crate::foreign_data;
use crate::found::{Found, Opened};
use crate::generation::uuid;
use crate::numbers::{number, Unit};
use crate::terminal::{say, short_size, Terminal};
use drbd_core::metadata::{
    device_flag, older_format, peer_flag, BitmapArea, Format, Geometry, Layout, PeerRecord, Place,
    SuperBlock, BLOCK_BYTES, UUID_JUST_CREATED,
};

/// Where v07 had its internal metadata, in bytes from the end.
const V07_AREA_BYTES: u64 = 128 << 20;

/// `create-md`.
pub(crate) fn create(arguments: &Arguments, terminal: &Terminal) -> Result<(), Failure> {
    let max_peers = max_peers(arguments, terminal)?;
    let opened = Opened::open(arguments, terminal)?;
    check_for_v07(&opened)?;
    let converted = decide(&opened)?;
    let geometry = match &converted {
        Some(old) => Geometry { max_peers: 1, ..Geometry::of(old) },
        None => fresh_geometry(arguments, max_peers),
    };
    let refuse = |error| Failure::value(format!("{}: {error}", arguments.device.display()));
    geometry.check(arguments.format).map_err(refuse)?;
    let layout = opened.layout(&geometry)?;
    let usable = layout.usable_sectors(arguments.index, &geometry);
    let mut super_block = match &converted {
        Some(old) => convert(old, arguments.format, &layout),
        None => SuperBlock::fresh(arguments.format, &layout, &geometry),
    };
    apply_options(&mut super_block, arguments, converted.is_some())?;
    if super_block.effective_size > usable {
        let wanted = super_block.effective_size;
        let message = format!("effective-size {wanted}s is more than the {usable}s left for data");
        return Err(Failure::value(message));
    }
    if converted.is_some() && max_peers != 1 {
        say(format_args!("Warning: setting max_peers to 1 instead of {max_peers}\n"))?;
    }
    foreign_data::check(&opened, &layout, usable)?;
    match &converted {
        Some(old) => move_bitmap(&opened, old, &super_block, &layout)?,
        None => initialise(&opened, &super_block, &layout)?,
    }
    say(format_args!("Writing meta data..."))?;
    opened.write_super_block(&super_block)?;
    say(format_args!("New drbd meta data block successfully created."))?;
    Ok(())
}

fn max_peers(arguments: &Arguments, terminal: &Terminal) -> Result<u32, Failure> {
    let (wanted, too_many) = match arguments.format {
        Format::V08 => (None, 0),
        Format::V09 => (arguments.rest.first(), 1),
    };
    if arguments.rest.len() > too_many {
        terminal.note(format_args!("Ignoring additional arguments"));
    }
    let max_peers = match (arguments.format, wanted) {
        (Format::V08, _) => 1,
        (Format::V09, Some(word)) => number(word, Unit::Bytes)?,
        (Format::V09, None) => {
            let usage = "USAGE: drbdmeta MINOR v09 ... create-md MAX_PEERS\n\n  MAX_PEERS argument missing";
            return Err(Failure::usage(usage));
        }
    };
    match u32::try_from(max_peers) {
        Ok(max_peers @ 1..=31) => Ok(max_peers),
        _ => Err(Failure::usage("MAX_PEERS argument not in allowed range 1 .. 31.")),
    }
}

fn fresh_geometry(arguments: &Arguments, max_peers: u32) -> Geometry {
    let options = &arguments.create;
    Geometry {
        max_peers,
        bm_bytes_per_bit: if options.bitmap_block_size == 0 { 4096 } else { options.bitmap_block_size },
        al_stripes: options.al_stripes,
        al_stripe_size_4k: options.al_stripe_size_4k,
    }
}

/// v07 had internal metadata in another place too; two super blocks on a device would contradict each other.
fn check_for_v07(opened: &Opened) -> Result<(), Failure> {
    let end = opened.device.size_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let Some(offset) = end.checked_sub(V07_AREA_BYTES).filter(|_| opened.arguments.index.is_internal())
    else {
        return Ok(());
    };
    let bytes = opened.device.read(offset, BLOCK_BYTES)?;
    match bytes.as_slice().first_chunk().and_then(older_format) {
        Some(name) => Err(opened.too_old(name, offset)),
        None => Ok(()),
    }
}

/// Asks what to do about metadata that is there. Some: it is to be converted.
fn decide(opened: &Opened) -> Result<Option<SuperBlock>, Failure> {
    let Found::Metadata(old) = &opened.found else { return Ok(None) };
    let (wanted, found) = (name_of(opened.arguments.format), name_of(old.format));
    let context = opened.arguments.index.is_internal().then(|| {
        format!(
            "You want me to create a {wanted} style flexible-size internal meta data block.\n\
             There appears to be a {found} flexible-size internal meta data block\n\
             already in place on {} at byte offset {}",
            opened.arguments.device.display(),
            opened.super_block_offset_bytes
        )
    });
    if wanted == found {
        confirm_overwrite(opened, old, context.as_deref())?;
        return Ok(None);
    }
    let question = format!("Valid {found} meta-data found, convert to {wanted}?");
    if opened.terminal.confirmed(context.as_deref(), &question) {
        return Ok(Some(SuperBlock::clone(old)));
    }
    let question = format!(
        "So you want me to replace the {found} meta-data\nwith newly initialized {wanted} meta-data?"
    );
    confirm_or_cancel(opened, None, &question)?;
    Ok(None)
}

fn confirm_overwrite(opened: &Opened, old: &SuperBlock, context: Option<&str>) -> Result<(), Failure> {
    let Some(context) = context else {
        return confirm_or_cancel(
            opened,
            None,
            "Valid meta data seems to be in place.\nDo you really want to overwrite?",
        );
    };
    let options = &opened.arguments.create;
    let other_stripes =
        (old.al_stripes, old.al_stripe_size_4k) != (options.al_stripes, options.al_stripe_size_4k);
    let mut context = Some(context);
    if other_stripes {
        let question = "Do you want to change the activity log stripe settings *only*?";
        if opened.terminal.confirmed(context.take(), question) {
            return Err(Failure::new(
                exit::STRIPES_ONLY,
                "Sorry, not yet fully implemented\nTry dump-md > dump.txt; restore-md -s x -z y dump.txt",
            ));
        }
    }
    confirm_or_cancel(opened, context, "Do you really want to overwrite the existing meta-data?")
}

fn confirm_or_cancel(opened: &Opened, context: Option<&str>, question: &str) -> Result<(), Failure> {
    if opened.terminal.confirmed(context, question) {
        return Ok(());
    }
    say(format_args!("Operation cancelled."))?;
    Err(Failure::silent(exit::NOT_DONE))
}

fn name_of(format: Format) -> &'static str {
    match format {
        Format::V08 => "v08",
        Format::V09 => "v09",
    }
}

/// The same generations in the other format, with one bitmap.
fn convert(old: &SuperBlock, format: Format, layout: &Layout) -> SuperBlock {
    let mut new = SuperBlock { format, max_peers: 1, members: 0, node_id: -1, ..old.clone() };
    (new.md_size_sect, new.al_offset, new.bm_offset) =
        (layout.md_size_sect, layout.al_offset, layout.bm_offset);
    new.unclean_magic = false;
    if old.is_unclean() {
        new.flags &= !device_flag::AL_CLEAN;
    }
    let flags = peer_flag::CONNECTED | peer_flag::FULL_SYNC | peer_flag::OUTDATED;
    let peer =
        PeerRecord { bitmap_index: -1, bitmap_dagtag: 0, flags: old.peers[0].flags & flags, ..old.peers[0] };
    new.peers.fill(PeerRecord::NONE);
    new.peers[0] = match format {
        Format::V08 => PeerRecord { bitmap_index: 0, ..peer },
        // Which of its future peers the generation belongs to is not known.
        Format::V09 => PeerRecord { bitmap_uuid: 0, ..peer },
    };
    if format == Format::V08 {
        new.history[2..].fill(0);
        new.flags &= 0x1FF;
        new.unclean_magic = old.is_unclean();
    }
    new
}

fn apply_options(
    super_block: &mut SuperBlock,
    arguments: &Arguments,
    converted: bool,
) -> Result<(), Failure> {
    let options = &arguments.create;
    if !converted || options.peer_max_bio_size != 0 {
        super_block.la_peer_max_bio_size = options.peer_max_bio_size;
    }
    if !converted || options.effective_size_sectors != 0 {
        super_block.effective_size = options.effective_size_sectors;
    }
    for (n, peer) in super_block.peers.iter_mut().enumerate() {
        if options.diskful_peers & 1 << n != 0 {
            peer.flags |= peer_flag::DEVICE_SEEN;
        }
        if options.peers_outdated {
            peer.flags |= peer_flag::OUTDATED;
        }
    }
    match options.initial_current_uuid.as_deref() {
        None => {}
        Some("generate") => super_block.current_uuid = random_uuid(),
        Some(word) => super_block.current_uuid = initial_uuid(word)?,
    }
    let just_created = super_block.current_uuid == UUID_JUST_CREATED;
    if just_created && (options.consistent || options.up_to_date || options.rotate_uuids) {
        super_block.current_uuid = random_uuid();
    }
    if options.consistent || options.up_to_date {
        super_block.flags |= device_flag::CONSISTENT;
    }
    if options.up_to_date {
        super_block.flags |= device_flag::WAS_UP_TO_DATE;
    }
    if options.rotate_uuids {
        let current = super_block.current_uuid;
        super_block.peers.iter_mut().for_each(|peer| peer.bitmap_uuid = current);
        super_block.history[0] = current;
        super_block.current_uuid = random_uuid();
    }
    Ok(())
}

/// Bit 0 is DRBD's own.
fn random_uuid() -> u64 {
    loop {
        let uuid = rand::random::<u64>() & !1;
        if uuid != 0 && uuid != UUID_JUST_CREATED {
            return uuid;
        }
    }
}

fn initial_uuid(word: &str) -> Result<u64, Failure> {
    let value = uuid(word).map_err(|_| {
        Failure::value(format!("--initial-current-uuid: expected 'generate' or a hex value, got '{word}'"))
    })?;
    match value & !1 {
        0 => Err(Failure::value("--initial-current-uuid: value must not be zero")),
        value => Ok(value),
    }
}

fn initialise(opened: &Opened, super_block: &SuperBlock, layout: &Layout) -> Result<(), Failure> {
    opened.erase_super_block()?;
    say(format_args!("initializing activity log"))?;
    initialise_log(opened, &place_of(super_block, layout))?;
    initialise_bitmap(opened, layout)?;
    opened.device.flush()
}

fn initialise_bitmap(opened: &Opened, layout: &Layout) -> Result<(), Failure> {
    let (offset, len) = (layout.bitmap_offset_bytes(), layout.bitmap_area_bytes() / 4096 * 4096);
    let size = short_size(len >> 10);
    let note = |what: &str| opened.terminal.note(format_args!("{what}"));
    let mode = opened.arguments.create.initialize_bitmap;
    match mode {
        BitmapInit::Skip => {
            note("SKIPPED initializing bitmap area");
            return Ok(());
        }
        BitmapInit::SetAll => {
            note(&format!("initializing bitmap ({size}) to all set using pwrite"));
            return opened.device.fill(offset, len, 0xFF);
        }
        BitmapInit::Automatic | BitmapInit::ZeroOut => {
            note(&format!("initializing bitmap ({size}) to all zero"));
            if opened.device.zero_quickly(offset, len).is_ok() {
                return Ok(());
            }
            if mode == BitmapInit::ZeroOut {
                return Err(Failure::value("fast zero-out failed, fallback disabled"));
            }
        }
        BitmapInit::Write => {}
    }
    note(&format!("initializing bitmap ({size}) to all zero using pwrite"));
    opened.device.fill(offset, len, 0)
}

/// Where the parts of metadata about to be written go.
pub(crate) fn place_of(super_block: &SuperBlock, layout: &Layout) -> Place {
    let geometry = Geometry::of(super_block);
    let capacity = drbd_core::ids::Sector(super_block.effective_size);
    Place {
        super_block_offset_bytes: layout.super_block_offset_bytes,
        log_offset_bytes: layout.log_offset_bytes(),
        log_bytes: geometry.log_blocks() * BLOCK_BYTES as u64,
        bitmap_offset_bytes: layout.bitmap_offset_bytes(),
        bitmap_bytes: geometry.bitmap_bytes(capacity),
        capacity,
    }
}

/// With one slot the bitmap stays what it is. Of several the union is kept: more is copied than need be, never less.
fn move_bitmap(opened: &Opened, old: &SuperBlock, new: &SuperBlock, layout: &Layout) -> Result<(), Failure> {
    if old.max_peers == 1 && old.bm_offset == new.bm_offset {
        return Ok(());
    }
    let from = opened.place(old)?;
    let bytes = opened.device.read(from.bitmap_offset_bytes, from.bitmap_bytes as usize)?;
    let bits = Geometry::of(old).bits(from.capacity);
    let slots = BitmapArea { slots: old.max_peers, bits }.decode(bytes.as_slice());
    let mut union = vec![0_u64; bits.div_ceil(64) as usize];
    for words in &slots {
        union.iter_mut().zip(words).for_each(|(all, word)| *all |= word);
    }
    let to = place_of(new, layout);
    let area = BitmapArea { slots: 1, bits };
    let mut buffer = Buffer::new(area.blocks() as usize * BLOCK_BYTES);
    for (n, bytes) in buffer.as_mut().chunks_exact_mut(BLOCK_BYTES).enumerate() {
        if let Some(block) = bytes.first_chunk_mut() {
            area.encode_block(&[&union], n as u64, block);
        }
    }
    opened.erase_super_block()?;
    opened.device.fill(to.bitmap_offset_bytes, layout.bitmap_area_bytes() / 4096 * 4096, 0)?;
    opened.device.write(to.bitmap_offset_bytes, &buffer)?;
    opened.device.flush()
}
