//! dump-md: everything as text.

use crate::device::Device;
use crate::failure::{exit, Failure};
use crate::found::Opened;
use drbd_core::metadata::{Format, Place, SuperBlock};
use std::io::{stdout, BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bitmaps are read in pieces of about this size; runs of equal words may break at their borders.
const PIECE_BYTES: usize = 32 << 20;
/// 32-bit words to a line.
const LINE_WORDS: usize = 8;

/// `dump-md`.
pub(crate) fn dump(opened: &mut Opened) -> Result<(), Failure> {
    let super_block = opened.existing(true)?;
    let terminal = opened.terminal;
    if super_block.is_unclean() {
        if !(terminal.force && terminal.quiet) {
            terminal.note(format_args!("Found meta data is \"unclean\", please apply-al first"));
        }
        if !terminal.force {
            return Err(Failure::silent(exit::NOT_DONE));
        }
    }
    let place = opened.place(&super_block)?;
    let mut out = BufWriter::new(stdout().lock());
    header(&mut out)?;
    head(&mut out, &super_block, &place)?;
    match super_block.format {
        Format::V08 => v08(&mut out, &super_block)?,
        Format::V09 => v09(&mut out, &super_block)?,
    }
    tail(&mut out, &super_block, &place)?;
    bitmaps(&mut out, &opened.device, &super_block, &place)?;
    out.flush()?;
    Ok(())
}

fn header(out: &mut impl Write) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let host = nix::unistd::gethostname().unwrap_or_default();
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = words.first().map_or("drbdmeta", |path| path.rsplit('/').next().unwrap_or(path));
    writeln!(out, "# DRBD meta data dump\n# {} +0000 [{now}]", date(now))?;
    writeln!(
        out,
        "# {}> {program} {}\n#\n",
        host.to_string_lossy(),
        words.get(1..).unwrap_or_default().join(" ")
    )
}

/// Civil date and time of a second since 1970, in UTC.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted in years that begin in March, in eras of 400 years of 146,097 days.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day_of_month:02} {hour:02}:{minute:02}:{:02}", second % 60)
}

fn head(out: &mut impl Write, super_block: &SuperBlock, place: &Place) -> std::io::Result<()> {
    let version = match super_block.format {
        Format::V08 => "v08",
        Format::V09 => "v09",
    };
    writeln!(out, "version \"{version}\";\n")?;
    if super_block.is_unclean() {
        // Not a word of the language: restoring such a dump shall fail.
        writeln!(out, "This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.")?;
        writeln!(out, "# You should \"apply-al\" first, if you plan to restore this.\n")?;
    }
    if super_block.format == Format::V09 {
        writeln!(out, "max-peers {};", super_block.max_peers)?;
    }
    writeln!(out, "# md_size_sect {}", super_block.md_size_sect)?;
    writeln!(out, "# md_offset {}", place.super_block_offset_bytes)?;
    writeln!(out, "# al_offset {}", place.log_offset_bytes)?;
    writeln!(out, "# bm_offset {}\n", place.bitmap_offset_bytes)
}

fn v08(out: &mut impl Write, super_block: &SuperBlock) -> std::io::Result<()> {
    let uuids = [
        super_block.current_uuid,
        super_block.peers[0].bitmap_uuid,
        super_block.history[0],
        super_block.history[1],
    ];
    let [current, bitmap, younger, older] = uuids.map(|uuid| format!("0x{uuid:016X};"));
    writeln!(out, "uuid {{\n    {current} {bitmap} {younger} {older}")?;
    writeln!(out, "    flags 0x{:08X};\n}}", super_block.flags_on_disk())
}

fn v09(out: &mut impl Write, super_block: &SuperBlock) -> std::io::Result<()> {
    writeln!(out, "node-id {};", super_block.node_id)?;
    writeln!(out, "current-uuid 0x{:016X};", super_block.current_uuid)?;
    writeln!(out, "flags 0x{:08X};", super_block.flags)?;
    writeln!(out, "members 0x{:016X};", super_block.members)?;
    for (n, peer) in super_block.peers.iter().enumerate() {
        writeln!(out, "peer[{n}] {{\n    bitmap-index {};", peer.bitmap_index)?;
        writeln!(out, "    bitmap-uuid 0x{:016X};", peer.bitmap_uuid)?;
        writeln!(out, "    bitmap-dagtag 0x{:016X};", peer.bitmap_dagtag)?;
        writeln!(out, "    flags 0x{:08X};{}\n}}", peer.flags, flag_words(peer.flags))?;
    }
    write!(out, "history-uuids {{")?;
    for (n, uuid) in super_block.history.iter().enumerate() {
        let separator = if n % 4 == 0 { "\n        " } else { " " };
        write!(out, "{separator}0x{uuid:016X};")?;
    }
    writeln!(out, "\n}}")
}

fn flag_words(flags: u32) -> String {
    let mut text = String::new();
    for bit in (0..32).filter(|bit| flags & 1 << bit != 0) {
        text.push_str(if text.is_empty() { " # " } else { " | " });
        match bit {
            0 => text.push_str("connected"),
            1 => text.push_str("<=outdated"),
            2 => text.push_str("fencing"),
            3 => text.push_str("full-sync"),
            4 => text.push_str("seen"),
            16 => text.push_str("exists"),
            _ => text.push_str(&format!("0x{:x}=?", 1_u32 << bit)),
        }
    }
    text
}

fn tail(out: &mut impl Write, super_block: &SuperBlock, place: &Place) -> std::io::Result<()> {
    writeln!(out, "# al-extents {};", super_block.al_nr_extents)?;
    writeln!(out, "la-size-sect {};", super_block.effective_size)?;
    writeln!(out, "bm-byte-per-bit {};", super_block.bm_bytes_per_bit)?;
    writeln!(out, "device-uuid 0x{:016X};", super_block.device_uuid)?;
    writeln!(out, "la-peer-max-bio-size {};", super_block.la_peer_max_bio_size)?;
    writeln!(out, "al-stripes {};", super_block.al_stripes)?;
    writeln!(out, "al-stripe-size-4k {};", super_block.al_stripe_size_4k)?;
    writeln!(out, "# bm-bytes {};", place.bitmap_bytes)
}

fn bitmaps(
    out: &mut impl Write,
    device: &Device,
    super_block: &SuperBlock,
    place: &Place,
) -> Result<(), Failure> {
    let slots = super_block.max_peers as usize;
    let mut bits_set = 0;
    for slot in 0..slots {
        match super_block.format {
            Format::V08 => write!(out, "bm {{")?,
            Format::V09 => write!(out, "bitmap[{slot}] {{")?,
        }
        let mut text = SlotText { out, slot, slots, index: 0, run: None, low: 0, bits_set: 0 };
        let piece_bytes = PIECE_BYTES / (4096 * slots) * 4096 * slots;
        let mut done = 0;
        while done < place.bitmap_bytes {
            let part = (place.bitmap_bytes - done).min(piece_bytes as u64);
            let bytes = device.read(place.bitmap_offset_bytes + done, part as usize)?;
            text.piece(&words_of(bytes.as_slice(), slot, slots))?;
            done += part;
        }
        text.end()?;
        bits_set = text.bits_set;
    }
    writeln!(out, "# bits-set {bits_set};")?;
    Ok(())
}

/// The 32-bit words of one slot in a piece of the area that begins with slot 0.
fn words_of(area: &[u8], slot: usize, slots: usize) -> Vec<u32> {
    let words =
        area.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    words.skip(slot).step_by(slots).collect()
}

/// The body of one bitmap: lines of eight 32-bit words shown as four 64-bit numbers, and runs of at least two equal
/// lines as a count.
struct SlotText<'a, W> {
    out: &'a mut W,
    slot: usize,
    slots: usize,
    /// Of the next word.
    index: usize,
    /// Word and length of a run not yet printed.
    run: Option<(u32, usize)>,
    /// First half of a 64-bit number.
    low: u32,
    bits_set: u64,
}

impl<W: Write> SlotText<'_, W> {
    fn piece(&mut self, words: &[u32]) -> std::io::Result<()> {
        let mut at = 0;
        while at < words.len() {
            if self.index % LINE_WORDS == 0 {
                let word = self.run.map_or(words[at], |(word, _)| word);
                let equal = words[at..].iter().take_while(|other| **other == word).count();
                let whole_lines = equal / LINE_WORDS * LINE_WORDS;
                if whole_lines > LINE_WORDS {
                    self.extend_run(word, whole_lines)?;
                    at += whole_lines;
                    continue;
                }
                if self.run.is_some() {
                    // What follows may be the next run.
                    self.end_run()?;
                    continue;
                }
                self.begin_line()?;
            }
            let line_end = (at + LINE_WORDS - self.index % LINE_WORDS).min(words.len());
            for word in &words[at..line_end] {
                self.number(*word)?;
            }
            at = line_end;
        }
        Ok(())
    }

    fn extend_run(&mut self, word: u32, count: usize) -> std::io::Result<()> {
        if self.run.is_none() {
            self.begin_line()?;
        }
        let so_far = self.run.map_or(0, |(_, so_far)| so_far);
        self.run = Some((word, so_far + count));
        self.index += count;
        self.bits_set += u64::from(word.count_ones()) * count as u64;
        Ok(())
    }

    fn end_run(&mut self) -> std::io::Result<()> {
        match self.run.take() {
            Some((word, count)) => write!(self.out, " {} times 0x{word:08X}{word:08X};", count / 2),
            None => Ok(()),
        }
    }

    fn begin_line(&mut self) -> std::io::Result<()> {
        let on_disk = self.index * self.slots + self.slot;
        if on_disk % 64 == self.slot {
            write!(self.out, "\n   # at {}kB", 128 * (on_disk - self.slot))?;
        }
        write!(self.out, "\n   ")
    }

    fn number(&mut self, word: u32) -> std::io::Result<()> {
        if self.index % 2 == 0 {
            self.low = word;
        } else {
            write!(self.out, " 0x{word:08X}{:08X};", self.low)?;
        }
        self.index += 1;
        self.bits_set += u64::from(word.count_ones());
        Ok(())
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.end_run()?;
        writeln!(self.out, "\n}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(1_795_225_660), "2026-11-21 01:47:40");
    }

    #[test]
    fn flags_have_words() {
        assert_eq!(flag_words(0), "");
        assert_eq!(flag_words(0x1_0012), " # <=outdated | seen | exists");
        assert_eq!(flag_words(0x21), " # connected | 0x20=?");
    }

    fn text(slots: usize, pieces: &[&[u32]]) -> (String, u64) {
        let mut out = Vec::new();
        let mut text = SlotText { out: &mut out, slot: 0, slots, index: 0, run: None, low: 0, bits_set: 0 };
        for piece in pieces {
            text.piece(piece).unwrap();
        }
        text.end().unwrap();
        let bits_set = text.bits_set;
        (String::from_utf8(out).unwrap(), bits_set)
    }

    #[test]
    fn runs_go_on_over_pieces() {
        let piece = [7; 1024];
        let (text, bits_set) = text(1, &[&piece, &piece]);
        assert_eq!(text, "\n   # at 0kB\n    1024 times 0x0000000700000007;\n}\n");
        assert_eq!(bits_set, 3 * 2048);
    }

    #[test]
    fn short_runs_are_lines() {
        let mut words = vec![0; 8];
        words.extend([1; 16]);
        words.push(2);
        let zeroes = "\n   # at 0kB\n    0x0000000000000000; 0x0000000000000000; 0x0000000000000000; 0x0000000000000000;";
        let (text, bits_set) = text(1, &[&words]);
        assert_eq!(text, format!("{zeroes}\n    8 times 0x0000000100000001;\n   \n}}\n"));
        assert_eq!(bits_set, 17);
    }
}
