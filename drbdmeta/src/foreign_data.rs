//! Is there something on the device that somebody may still want? A look at its first 68 KiB, as DRBD does it.

use crate::failure::{exit, Failure};
use crate::found::{Opened, LOOKED_AT_BYTES};
use crate::terminal::say;
use drbd_core::metadata::Layout;
use std::process::{Command, Stdio};

/// How much of the device the data seems to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    /// No idea.
    Unknown,
    /// So many bytes.
    Bytes(u128),
    /// Certainly all of it.
    Whole,
    /// It could not be found out.
    Undetermined,
}

const TRUNCATED: &str = "Device size would be truncated, which
would corrupt data and result in
'access beyond end of device' errors.";
const ZERO_FIRST: &str = "If you want me to do this, you need to zero out the first part
of the device (destroy the content).
You should be very sure that you mean it.
Operation refused.
";
const SHRINK_FIRST: &str = "You need to either
   * use external meta data (recommended)
   * shrink that filesystem first
   * zero out the device (destroy the filesystem)
Operation refused.
";

/// Asks before, or refuses to, put metadata where data seems to be.
pub(crate) fn check(opened: &Opened, layout: &Layout, usable_sectors: u64) -> Result<(), Failure> {
    let start = opened.device.read(0, LOOKED_AT_BYTES)?;
    if start.as_slice().iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let (name, extent) = recognise(start.as_slice(), opened);
    say(format_args!("md_offset {}", layout.super_block_offset_bytes))?;
    say(format_args!("al_offset {}", layout.log_offset_bytes()))?;
    say(format_args!("bm_offset {}", layout.bitmap_offset_bytes()))?;
    say(format_args!("\nFound {name}"))?;
    if extent == Extent::Unknown {
        say(format_args!("\n ==> This might destroy existing data! <=="))?;
    } else if opened.arguments.index.is_internal() {
        if !fits(opened, extent, usable_sectors)? {
            return Ok(());
        }
    } else {
        say(format_args!("\nThis would corrupt existing data."))?;
        return refuse(opened, ZERO_FIRST);
    }
    if opened.terminal.confirmed(None, "Do you want to proceed?") {
        return Ok(());
    }
    say(format_args!("Operation canceled."))?;
    Err(Failure::silent(exit::NOT_DONE))
}

/// Whether to go on asking: false if the user ignores sanity checks.
fn fits(opened: &Opened, extent: Extent, usable_sectors: u64) -> Result<bool, Failure> {
    let usable_kib = usable_sectors / 2;
    let used_kib = match extent {
        Extent::Bytes(bytes) => Some(bytes.div_ceil(1024)),
        Extent::Unknown | Extent::Whole | Extent::Undetermined => None,
    };
    if let Some(used_kib) = used_kib {
        say(format_args!("{used_kib:12} kB data area apparently used"))?;
    }
    say(format_args!("{usable_kib:12} kB left usable by current configuration"))?;
    if extent == Extent::Undetermined {
        say(format_args!("Could not determine the size of the actually used data area.\n"))?;
    }
    match used_kib {
        None => {
            say(format_args!("{TRUNCATED}"))?;
            refuse(opened, ZERO_FIRST)?;
            Ok(false)
        }
        Some(used_kib) if used_kib > u128::from(usable_kib) => {
            say(format_args!("\n{TRUNCATED}\n{SHRINK_FIRST}"))?;
            Err(Failure::silent(exit::WOULD_DESTROY))
        }
        Some(_) => {
            say(format_args!(
                "\nEven though it looks like this would place the new meta data into\n\
                 unused space, you still need to confirm, as this is only a guess."
            ))?;
            Ok(true)
        }
    }
}

fn refuse(opened: &Opened, advice: &str) -> Result<(), Failure> {
    if opened.arguments.ignore_sanity_checks {
        say(format_args!("\nIgnoring sanity check on user request.\n"))?;
        return Ok(());
    }
    say(format_args!("{advice}"))?;
    Err(Failure::silent(exit::WOULD_DESTROY))
}

fn recognise(data: &[u8], opened: &Opened) -> (&'static str, Extent) {
    if is_swap(data) {
        return ("swap space signature", Extent::Whole);
    }
    if data[0x218..].starts_with(b"LVM2") {
        return ("LVM2 physical volume signature", physical_volume(opened));
    }
    ext(data)
        .or_else(|| xfs(data))
        .or_else(|| jfs(data))
        .or_else(|| reiser(data))
        .unwrap_or(("some data", Extent::Unknown))
}

fn is_swap(data: &[u8]) -> bool {
    [4096, 8192].iter().any(|end| matches!(&data[end - 10..*end], b"SWAP-SPACE" | b"SWAPSPACE2"))
}

fn ext(data: &[u8]) -> Option<(&'static str, Extent)> {
    if u16::from_le_bytes([data[0x438], data[0x439]]) != 0xEF53 {
        return None;
    }
    let name = if data[0x45c] & 4 != 0 { "ext3 filesystem" } else { "ext2 filesystem" };
    let is_64_bit = le32(data, 0x460) & 0x80 != 0;
    let high = if is_64_bit { le32(data, 0x550) } else { 0 };
    let blocks = u128::from(high) << 32 | u128::from(le32(data, 0x404));
    let block_bytes = 1024_u128 << le32(data, 0x418).min(6);
    Some((name, Extent::Bytes(blocks * block_bytes)))
}

fn xfs(data: &[u8]) -> Option<(&'static str, Extent)> {
    let be =
        |at: usize, len: usize| data[at..at + len].iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    data.starts_with(b"XFSB").then(|| ("xfs filesystem", Extent::Bytes(be(4, 4) * be(8, 8))))
}

fn jfs(data: &[u8]) -> Option<(&'static str, Extent)> {
    let blocks = u128::from(le32(data, 0x800c)) << 32 | u128::from(le32(data, 0x8008));
    let bytes = blocks * u128::from(le32(data, 0x8018));
    data[0x8000..].starts_with(b"JFS1").then_some(("JFS filesystem", Extent::Bytes(bytes)))
}

fn reiser(data: &[u8]) -> Option<(&'static str, Extent)> {
    let magic = &data[0x10034..];
    let block_bytes = u128::from(u16::from_le_bytes([data[0x1002c], data[0x1002d]]));
    let bytes = u128::from(le32(data, 0x10000)) * block_bytes;
    let is_reiser = magic.starts_with(b"ReIsErFs") || magic.starts_with(b"ReIsEr2Fs");
    is_reiser.then_some(("reiser filesystem", Extent::Bytes(bytes)))
}

/// Asks LVM for the size of a physical volume.
fn physical_volume(opened: &Opened) -> Extent {
    let output = Command::new("pvs")
        .args(["--readonly", "--noheadings", "--nosuffix", "--units", "s", "-o", "pv_size"])
        .arg(&opened.arguments.device)
        .stdin(Stdio::null())
        .output();
    let said = output.map(|output| (output.stdout, output.stderr)).unwrap_or_default();
    let sectors: Option<u128> = String::from_utf8_lossy(&said.0).trim().parse().ok();
    if sectors.is_none() {
        for line in String::from_utf8_lossy(&said.1).lines() {
            opened.terminal.note(format_args!("pvs stderr: {line}"));
        }
        opened.terminal.note(format_args!(""));
    }
    sectors.map_or(Extent::Undetermined, |sectors| Extent::Bytes(sectors * 512))
}

fn le32(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}
