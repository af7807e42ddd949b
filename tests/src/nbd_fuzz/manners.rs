//! How it is said.

use super::conversation::{conversation, fair_request, opening, plain_option, refused_request, Wish};
use super::line::Line;
use super::Target;
use crate::sim::Prng;
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

/// What both volumes have, or less.
const SIZE_BYTES: u64 = 8 << 20;
const MOMENT: Duration = Duration::from_millis(3);
const NAMES: [&[u8]; 5] = [b"1", b"1", b"1", b"r0/1", b"1"];
const NO_NAMES: [&[u8]; 4] = [b"7", b"r0/", b"r1/1", b"\xff\x00\xfe"];

/// A connection and what may be wished of it.
fn line(target: &Target, dice: &mut Prng) -> Option<(Line, Wish<'static>)> {
    let wish = Wish { name: b"", writes: false, flips: false, within_tls: false, size_bytes: SIZE_BYTES };
    let name = if dice.chance(900) { dice.pick(&NAMES) } else { dice.pick(&NO_NAMES) };
    let (line, wish) = match dice.below(10) {
        0 => (Line::socket(&target.honest), wish),
        1..5 => (Line::socket(&target.theirs), Wish { writes: true, flips: true, ..wish }),
        5 => (Line::port(target), wish),
        6..8 => (Line::port(target), Wish { name, writes: true, ..wish }),
        8 => (Line::tls(target), Wish { within_tls: true, ..wish }),
        _ => (Line::tls(target), Wish { name, writes: true, within_tls: true, ..wish }),
    };
    // Who is broken off in a crowd is no one's concern.
    line.ok().map(|line| (line, wish))
}

/// Bytes that mean nothing.
pub(super) fn rubbish(target: &Target, dice: &mut Prng) -> &'static str {
    let Some((mut line, _)) = line(target, dice) else { return "rubbish" };
    let mut bytes = vec![0; dice.skewed(1, 300, 1 << 20) as usize];
    bytes.fill_with(|| dice.next() as u8);
    if dice.chance(700) {
        // So that it is looked at.
        let begin: &[u8] = dice.pick(&[
            &b"\0\0\0\x03"[..],
            &b"\0\0\0\x03IHAVEOPT"[..],
            &b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x20"[..],
        ]);
        bytes.splice(..0, begin.iter().copied());
    }
    let _ = line.send(&bytes);
    if dice.chance(500) {
        line.listen(Duration::from_millis(100));
    }
    "rubbish"
}

/// A conversation that is nearly right.
pub(super) fn talk(target: &Target, dice: &mut Prng) -> &'static str {
    let Some((mut line, wish)) = line(target, dice) else { return "talk" };
    let pieces = conversation(&wish, dice);
    let what = match dice.below(4) {
        0 => {
            let _ = line.send(&pieces.concat());
            "talk in one piece"
        }
        1 => {
            let all = pieces.concat();
            let step = dice.between(1, 9) as usize;
            for bytes in all[..all.len().min(600)].chunks(step) {
                if line.send(bytes).is_err() {
                    break;
                }
                sleep(MOMENT);
            }
            "slow talk"
        }
        _ => {
            for piece in &pieces {
                if line.send(piece).is_err() {
                    break;
                }
                if dice.chance(200) {
                    sleep(MOMENT);
                }
            }
            "talk"
        }
    };
    match dice.below(3) {
        0 => {
            line.half_close();
            line.listen(Duration::from_millis(500));
        }
        1 => line.listen(Duration::from_millis(dice.between(1, 200))),
        _ => {}
    }
    what
}

/// Asks and asks, and reads no answer.
pub(super) fn never_read(target: &Target, dice: &mut Prng) -> &'static str {
    // Some of them enough to take all memory there is for answers, were it given to them.
    let (many, rounds) = if dice.chance(150) { (40, 150) } else { (dice.between(1, 8), dice.between(1, 20)) };
    let mut lines: Vec<(Line, Wish<'_>)> = (0..many).filter_map(|_| line(target, dice)).collect();
    let (what, asked) = match dice.below(3) {
        0 => {
            for (line, wish) in &mut lines {
                let greeted = if wish.within_tls { Vec::new() } else { 3u32.to_be_bytes().to_vec() };
                let _ = line.send(&greeted);
            }
            ("options, never read", plain_option(dice.pick(&[3, 99]), &[]).repeat(4000))
        }
        kind => {
            for (line, wish) in &mut lines {
                let _ = line.send(&opening(wish));
            }
            let one = |dice: &mut Prng| {
                if kind == 1 {
                    fair_request(SIZE_BYTES, dice)
                } else {
                    refused_request(dice)
                }
            };
            ("requests, never read", (0..4000).flat_map(|_| one(dice)).collect())
        }
    };
    // Each as long as the server listens to it.
    for _ in 0..rounds {
        lines.retain_mut(|(line, _)| line.send_now(&asked));
        if lines.is_empty() {
            break;
        }
    }
    sleep(Duration::from_millis(dice.between(1, 1000)));
    what
}

/// Many at once, who say little.
pub(super) fn crowd(target: &Target, dice: &mut Prng) -> &'static str {
    let many = dice.between(20, 150);
    let mut lines: Vec<(Line, Wish<'_>)> = (0..many).filter_map(|_| line(target, dice)).collect();
    for (line, wish) in &mut lines {
        let opening = opening(wish);
        let said = dice.below(opening.len() as u64 + 1) as usize;
        let _ = line.send(&opening[..said]);
    }
    sleep(Duration::from_millis(dice.between(1, 1500)));
    "crowd"
}

/// Knows how TLS is asked for, and little of what comes then.
pub(super) fn rough_tls(target: &Target, dice: &mut Prng) -> &'static str {
    if dice.chance(200) {
        // Before it was told to begin.
        let Ok(mut line) = Line::port(target) else { return "rough TLS" };
        let mut bytes = [&3u32.to_be_bytes()[..], &plain_option(5, &[])].concat();
        bytes.extend_from_slice(&opening(&Wish {
            name: b"1",
            writes: true,
            flips: false,
            within_tls: true,
            size_bytes: SIZE_BYTES,
        }));
        let _ = line.send(&bytes);
        line.listen(Duration::from_millis(200));
        return "TLS asked for in one piece with more";
    }
    let Ok(mut stream) = Line::told_to_begin(target) else { return "rough TLS" };
    let mut bytes = vec![0; dice.skewed(0, 400, 70_000) as usize];
    bytes.fill_with(|| dice.next() as u8);
    if dice.chance(700) {
        // A record of a handshake, or of something else, of any length.
        let kind = dice.pick(&[20, 21, 22, 22, 22, 23, 24]);
        let [high, low] = (dice.next() as u16).to_be_bytes();
        bytes.splice(..0, [kind, 3, 1, high, low, 1, 0, high, low]);
    }
    let _ = stream.write_all(&bytes);
    sleep(Duration::from_millis(dice.between(0, 300)));
    "rough TLS"
}

/// Connections that are gone before they were.
pub(super) fn leave_at_once(target: &Target, dice: &mut Prng) -> &'static str {
    for _ in 0..dice.between(1, 40) {
        let Some((mut line, wish)) = line(target, dice) else { continue };
        let opening = opening(&wish);
        let _ = line.send(&opening[..dice.below(opening.len() as u64) as usize]);
    }
    "leave at once"
}
