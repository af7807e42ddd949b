//! Which front ends a resource's volumes have: always the socket, and a block device where the host can and wants to.
//!
//! `UDRBD_FRONTEND` says what is wanted: `auto`, `nbd` or `socket`, and `RESOURCE=…` for one of them, several of these
//! apart by commas (`auto,r1=socket`). The configuration files are the real tools' too and say nothing of it.

use super::kernel_nbd::Driver;
use std::os::unix::fs::FileTypeExt;

/// Number of the capability that attaching a device takes.
const CAP_SYS_ADMIN: u32 = 21;

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Auto,
    Nbd,
    Socket,
}

/// What a resource has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FrontEnd {
    /// The kernel's NBD client, beside the socket.
    Nbd,
    /// Only the socket; a sentence if more was asked for and cannot be had.
    Socket(Option<String>),
}

/// Decides. The error is a sentence about the variable.
pub(crate) fn front_end(resource: &str) -> Result<FrontEnd, String> {
    let text = std::env::var("UDRBD_FRONTEND").unwrap_or_default();
    Ok(match wanted(&text, resource)? {
        Wanted::Socket => FrontEnd::Socket(None),
        Wanted::Nbd => match obstacle() {
            None => FrontEnd::Nbd,
            why => FrontEnd::Socket(why),
        },
        // A daemon with a run directory of its own is not the one whose devices are in /dev: there may be several of the
        // same minor. And nothing is loaded into the kernel unasked.
        Wanted::Auto => {
            let own = std::env::var_os("UDRBD_RUN_DIR").is_some_and(|v| !v.is_empty());
            if !own && driver_is_loaded() && obstacle().is_none() {
                FrontEnd::Nbd
            } else {
                FrontEnd::Socket(None)
            }
        }
    })
}

fn wanted(text: &str, resource: &str) -> Result<Wanted, String> {
    let mut all = Wanted::Auto;
    let mut one = None;
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, word) = entry.split_once('=').map_or((None, entry), |(name, word)| (Some(name), word));
        let value = match word {
            "auto" => Wanted::Auto,
            "nbd" => Wanted::Nbd,
            "socket" => Wanted::Socket,
            _ => {
                return Err(format!(
                    "UDRBD_FRONTEND is '{text}': '{word}' is none of auto, nbd and socket (as in auto,r1=socket)."
                ))
            }
        };
        match name {
            None => all = value,
            Some(name) if name == resource => one = Some(value),
            Some(_) => {}
        }
    }
    Ok(one.unwrap_or(all))
}

fn driver_is_loaded() -> bool {
    std::fs::metadata("/dev/nbd0").is_ok_and(|node| node.file_type().is_block_device())
}

/// Why no device can be attached.
fn obstacle() -> Option<String> {
    if !has_capability(CAP_SYS_ADMIN) {
        return Some("attaching /dev/nbdN takes CAP_SYS_ADMIN".to_owned());
    }
    match Driver::open() {
        Ok(_) => None,
        Err(nix::errno::Errno::ENOENT) => Some("the kernel has no driver nbd (modprobe nbd)".to_owned()),
        Err(e) => Some(format!("the kernel's driver nbd cannot be reached: {}", e.desc())),
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
            ("r1=nbd", Wanted::Auto, Wanted::Nbd),
            ("r1=socket, nbd", Wanted::Nbd, Wanted::Socket),
        ] {
            assert_eq!((wanted(text, "r0"), wanted(text, "r1")), (Ok(of_r0), Ok(of_r1)), "{text}");
        }
        assert!(wanted("nbd,r1=ublk", "r0").unwrap_err().contains("'ublk' is none of"));
    }
}
