//! What is said: an opening and requests, well made at first, and then damaged.

use crate::sim::Prng;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_GO: u32 = 7;
const OPTION_EXTENDED_HEADERS: u32 = 11;
const OPTIONS: [u32; 12] = [2, 3, 5, 6, 8, 8, 9, 10, 10, 11, 99, u32::MAX];
const CONTEXTS: [&str; 6] =
    ["base:allocation", "udrbd:out-of-sync", "base:", "", "qemu:dirty-bitmap:x", "udrbd:"];
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;
const READS: [u16; 8] = [0, 0, 3, 7, 7, 5, 8, 0x7fff];
const ALL: [u16; 14] = [0, 0, 1, 1, 1, 3, 4, 4, 6, 6, 7, 5, 8, 0x7fff];
const LARGEST: u64 = 32 << 20;
/// Data sent with a write.
const DATA_BYTES_MAX: u64 = 96 << 10;

/// What a client means to use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// The export.
    pub(super) name: &'a [u8],
    /// It may be written.
    pub(super) writes: bool,
    /// Any bit may be wrong: no other volume can be reached here.
    pub(super) flips: bool,
    /// Greeted already.
    pub(super) within_tls: bool,
    pub(super) size_bytes: u64,
}

/// An opening and requests, in pieces.
pub(super) fn conversation(wish: &Wish<'_>, dice: &mut Prng) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    if !wish.within_tls {
        let flags = if dice.chance(950) { 3 } else { dice.next() as u32 };
        pieces.push(flags.to_be_bytes().to_vec());
    }
    let mut extended = false;
    for _ in 0..dice.below(7) {
        let number = dice.pick(&OPTIONS);
        let data = option_data(number, wish.name, dice);
        extended |= number == OPTION_EXTENDED_HEADERS && data.is_empty();
        pieces.push(option(number, &data, dice));
    }
    if dice.chance(150) {
        pieces.push(option(OPTION_EXPORT_NAME, wish.name, dice));
    } else {
        pieces.push(option(OPTION_GO, &go(wish.name), dice));
    }
    for _ in 0..dice.skewed(0, 12, 200) {
        pieces.push(request(wish, extended, dice));
    }
    if dice.chance(300) {
        pieces.push(head(extended, 0, COMMAND_DISCONNECT, dice.next(), 0, 0));
    }
    damage(&mut pieces, wish, dice);
    pieces
}

/// Just the opening, and nothing wrong with it.
pub(super) fn opening(wish: &Wish<'_>) -> Vec<u8> {
    let mut bytes = if wish.within_tls { Vec::new() } else { 3u32.to_be_bytes().to_vec() };
    bytes.extend_from_slice(&plain_option(8, &[]));
    let contexts = meta_contexts(wish.name, &CONTEXTS[..2]);
    bytes.extend_from_slice(&plain_option(10, &contexts));
    bytes.extend_from_slice(&plain_option(OPTION_GO, &go(wish.name)));
    bytes
}

/// A request that makes sense.
pub(super) fn fair_request(size_bytes: u64, dice: &mut Prng) -> Vec<u8> {
    let command = dice.pick(&[0, 0, 3, 7, 7, 9]);
    let bytes = if command == 3 { 0 } else { dice.pick(&[512, 4096, 1 << 20, 4 << 20]) };
    let offset = if command == 3 { 0 } else { dice.below(size_bytes - bytes) / 512 * 512 };
    head(false, 0, command, dice.next(), offset, bytes)
}

/// One that is answered at once, with little.
pub(super) fn refused_request(dice: &mut Prng) -> Vec<u8> {
    head(false, 0, 9, dice.next(), 0, 0)
}

pub(super) fn plain_option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// With a length that is not always its own.
fn option(number: u32, data: &[u8], dice: &mut Prng) -> Vec<u8> {
    let mut bytes = plain_option(number, data);
    if dice.chance(60) {
        let right = data.len() as u32;
        let wrong = dice.pick(&[0, 1, right + 1, right.saturating_sub(1), 8192, 8193, 1 << 31, u32::MAX]);
        bytes[12..16].copy_from_slice(&wrong.to_be_bytes());
    }
    bytes
}

fn go(name: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name, &[0; 2]].concat()
}

fn meta_contexts(name: &[u8], contexts: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name);
    data.extend_from_slice(&(contexts.len() as u32).to_be_bytes());
    for context in contexts {
        data.extend_from_slice(&(context.len() as u32).to_be_bytes());
        data.extend_from_slice(context.as_bytes());
    }
    data
}

fn option_data(number: u32, name: &[u8], dice: &mut Prng) -> Vec<u8> {
    let mut data = match number {
        6 => go(name),
        9 | 10 => {
            let many = dice.skewed(0, 3, 400) as usize;
            let contexts: Vec<&str> = (0..many).map(|_| dice.pick(&CONTEXTS)).collect();
            meta_contexts(name, &contexts)
        }
        99 => vec![0x5a; dice.below(8192) as usize],
        _ => Vec::new(),
    };
    if dice.chance(80) {
        // A length within, or its end.
        let at = dice.below(data.len() as u64 + 1) as usize;
        match dice.below(3) {
            0 => data.truncate(at),
            1 => data.push(dice.next() as u8),
            _ if at < data.len() => data[at] = dice.next() as u8 | 0x80,
            _ => {}
        }
    }
    data
}

fn request(wish: &Wish<'_>, extended: bool, dice: &mut Prng) -> Vec<u8> {
    let command = if wish.writes { dice.pick(&ALL) } else { dice.pick(&READS) };
    let size = wish.size_bytes;
    let offset = match dice.below(10) {
        0 => dice.next(),
        1 => size,
        2 => size - 512,
        3 => dice.below(size),
        4 => u64::MAX - 511,
        _ => dice.below(size / 4096) * 4096,
    };
    let bytes = match dice.below(16) {
        0 => 0,
        1 => dice.below(5000),
        2 => LARGEST,
        3 => LARGEST + 512,
        4 => u64::from(u32::MAX),
        5 => dice.next(),
        6 => 1 << 20,
        _ => 512 * dice.between(1, 128),
    };
    let flags = match dice.below(8) {
        0 => dice.next() as u16,
        1 => 1 << dice.below(6),
        _ if extended && command == COMMAND_WRITE => 1 << 5,
        _ => 0,
    };
    let mut piece = head(extended, flags, command, dice.next(), offset, bytes);
    if command == COMMAND_WRITE && bytes <= DATA_BYTES_MAX {
        piece.resize(piece.len() + bytes as usize, dice.next() as u8);
    }
    if dice.chance(15) {
        let at = dice.below(4) as usize;
        piece[at] = piece[at].wrapping_add(1);
    }
    piece
}

fn head(extended: bool, flags: u16, command: u16, cookie: u64, offset: u64, bytes: u64) -> Vec<u8> {
    let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
    let mut head = magic.to_be_bytes().to_vec();
    head.extend_from_slice(&flags.to_be_bytes());
    head.extend_from_slice(&command.to_be_bytes());
    head.extend_from_slice(&cookie.to_be_bytes());
    head.extend_from_slice(&offset.to_be_bytes());
    if extended {
        head.extend_from_slice(&bytes.to_be_bytes());
    } else {
        head.extend_from_slice(&(bytes as u32).to_be_bytes());
    }
    head
}

/// Pieces out of order, missing, doubled, cut; bits that are wrong.
fn damage(pieces: &mut Vec<Vec<u8>>, wish: &Wish<'_>, dice: &mut Prng) {
    let any = |pieces: &[Vec<u8>], dice: &mut Prng| dice.below(pieces.len() as u64) as usize;
    match dice.below(8) {
        0 => {
            let (a, b) = (any(pieces, dice), any(pieces, dice));
            pieces.swap(a, b);
        }
        1 => {
            let missing = any(pieces, dice);
            pieces.remove(missing);
        }
        2 => {
            let doubled = any(pieces, dice);
            pieces.insert(doubled, pieces[doubled].clone());
        }
        3 => {
            let last = any(pieces, dice);
            pieces.truncate(last + 1);
            let bytes = dice.below(pieces[last].len() as u64 + 1) as usize;
            pieces[last].truncate(bytes);
        }
        4 if wish.flips => {
            for _ in 0..dice.between(1, 4) {
                let piece = any(pieces, dice);
                if !pieces[piece].is_empty() {
                    // Heads are what is interesting.
                    let at = dice.below(pieces[piece].len().min(64) as u64) as usize;
                    pieces[piece][at] ^= 1 << dice.below(8);
                }
            }
        }
        _ => {}
    }
}
