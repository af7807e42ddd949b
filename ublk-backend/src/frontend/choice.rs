//! Which front ends a resource's volumes have: always the socket, and a block device where the host can and wants to.
//!
//! `UDRBD_FRONTEND` says what is wanted: `auto`, `ublk`, `nbd` or `socket`, and `RESOURCE=…` for one of them, several of these
//! apart by commas (`auto,r1=socket`). The configuration files are the real tools' too and say nothing of it.

use super::of_resource::value;
use super::{kernel_nbd, ublk};
use crate::process::CAP_SYS_ADMIN;
use crate::ring::without_io_uring;
use std::os::unix::fs::FileTypeExt;

/// A driver of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kernel {
    /// ublk.
    Ublk,
    /// The NBD client.
    Nbd,
}

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Auto,
    Only(Kernel),
    Socket,
}

/// What a resource has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FrontEnd {
    /// A block device, beside the socket.
    BlockDevice(Kernel),
    /// Only the socket; a sentence if more was asked for and cannot be had.
    Socket(Option<String>),
}

/// Decides. The error is a sentence about the variable.
pub(crate) fn front_end(resource: &str) -> Result<FrontEnd, String> {
    let text = std::env::var("UDRBD_FRONTEND").unwrap_or_default();
    Ok(match wanted(&text, resource)? {
        Wanted::Socket => FrontEnd::Socket(None),
        Wanted::Only(kernel) => match obstacle(kernel) {
            None => FrontEnd::BlockDevice(kernel),
            why => FrontEnd::Socket(why),
        },
        // A daemon with a run directory of its own is not the one whose devices are in /dev: there may be several of the
        // same minor. And nothing is loaded into the kernel unasked.
        Wanted::Auto => {
            let own = std::env::var_os("UDRBD_RUN_DIR").is_some_and(|v| !v.is_empty());
            let had = |kernel: &Kernel| !own && is_loaded(*kernel) && obstacle(*kernel).is_none();
            let kernel = [Kernel::Ublk, Kernel::Nbd].into_iter().find(had);
            kernel.map_or(FrontEnd::Socket(None), FrontEnd::BlockDevice)
        }
    })
}

fn wanted(text: &str, resource: &str) -> Result<Wanted, String> {
    match value(text, resource) {
        None | Some("auto") => Ok(Wanted::Auto),
        Some("ublk") => Ok(Wanted::Only(Kernel::Ublk)),
        Some("nbd") => Ok(Wanted::Only(Kernel::Nbd)),
        Some("socket") => Ok(Wanted::Socket),
        Some(word) => Err(format!(
            "UDRBD_FRONTEND is '{text}': '{word}' is none of auto, ublk, nbd and socket (as in auto,r1=socket)."
        )),
    }
}

fn is_loaded(kernel: Kernel) -> bool {
    match kernel {
        Kernel::Ublk => std::fs::metadata("/dev/ublk-control").is_ok(),
        Kernel::Nbd => std::fs::metadata("/dev/nbd0").is_ok_and(|node| node.file_type().is_block_device()),
    }
}

/// Why no device can be had.
fn obstacle(kernel: Kernel) -> Option<String> {
    if !has_capability(CAP_SYS_ADMIN) {
        return Some("a block device takes CAP_SYS_ADMIN".to_owned());
    }
    match kernel {
        Kernel::Ublk if without_io_uring() => {
            Some("UDRBD_NO_IO_URING is set, and ublk needs io_uring".to_owned())
        }
        Kernel::Ublk => ublk::obstacle(),
        Kernel::Nbd => kernel_nbd::obstacle(),
    }
}

fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_of_one_resource_counts_more_than_of_all() {
        for (text, of_r0, of_r1) in [
            ("", Wanted::Auto, Wanted::Auto),
            ("socket", Wanted::Socket, Wanted::Socket),
            ("r1=nbd", Wanted::Auto, Wanted::Only(Kernel::Nbd)),
            ("r1=socket, nbd", Wanted::Only(Kernel::Nbd), Wanted::Socket),
            ("ublk", Wanted::Only(Kernel::Ublk), Wanted::Only(Kernel::Ublk)),
        ] {
            assert_eq!((wanted(text, "r0"), wanted(text, "r1")), (Ok(of_r0), Ok(of_r1)), "{text}");
        }
        assert!(wanted("nbd,r1=iscsi", "r1").unwrap_err().contains("'iscsi' is none of"));
    }
}
