//! What an administrator asks, as the engine understands it: minors become volumes, options that are added to others become
//! all of them, and what nobody here could do is refused.

use super::{connection, volume, volume_of, Administration};
use drbd_core::config::OptionSet;
use drbd_core::control::Request;
use drbd_core::engine::AdminRequest;
use drbd_core::refusal::{Reason, Refusal};
use std::net::SocketAddr;

impl Administration {
    /// The engine's form of a request that needs nothing opened.
    pub(super) fn for_engine(&self, request: &Request) -> Result<AdminRequest, Refusal> {
        let facts = self.facts.borrow();
        Ok(match request {
            Request::DelMinor { minor } => AdminRequest::DelMinor { volume: volume_of(&facts, *minor)? },
            Request::NewPeer { peer, options } => {
                self.digests_known(options)?;
                AdminRequest::NewPeer { peer: *peer, options: options.into() }
            }
            Request::DelPeer { peer, force } => AdminRequest::DelPeer { peer: *peer, force: *force },
            Request::NewPath { peer, local, remote } => {
                AdminRequest::NewPath { peer: *peer, local: address(local)?, remote: address(remote)? }
            }
            Request::DelPath { peer, local, remote } => {
                AdminRequest::DelPath { peer: *peer, local: address(local)?, remote: address(remote)? }
            }
            Request::Detach { minor, force, diskless } => AdminRequest::Detach {
                volume: volume_of(&facts, *minor)?,
                force: *force,
                diskless: *diskless,
            },
            Request::Connect { peer, tentative, discard_my_data } => AdminRequest::Connect {
                peer: *peer,
                tentative: *tentative,
                discard_my_data: *discard_my_data,
            },
            Request::Disconnect { peer, force } => AdminRequest::Disconnect { peer: *peer, force: *force },
            Request::Primary { force } => AdminRequest::Primary { force: *force },
            Request::Secondary { force } => AdminRequest::Secondary { force: *force },
            Request::ResourceOptions { options, set_defaults } => {
                AdminRequest::ResourceOptions((&merged(&facts.options, options, *set_defaults)).into())
            }
            Request::NetOptions { peer, options, set_defaults } => {
                let known = connection(&facts, *peer)?;
                let options = merged(&known.options, options, *set_defaults);
                self.digests_known(&options)?;
                AdminRequest::NetOptions { peer: *peer, options: (&options).into() }
            }
            Request::DiskOptions { minor, options, set_defaults } => {
                let volume = volume(&facts, *minor)?;
                let known = volume.disk.as_ref().ok_or(Reason::NoDisk)?;
                let options = merged(&known.options, options, *set_defaults);
                AdminRequest::DiskOptions { volume: volume.volume, options: (&options).into() }
            }
            Request::PeerDeviceOptions { peer, volume, options, set_defaults } => {
                let known = connection(&facts, *peer)?.volumes.iter().find(|(v, _)| v == volume);
                let none = OptionSet::default();
                let options = merged(known.map_or(&none, |(_, o)| o), options, *set_defaults);
                AdminRequest::PeerDeviceOptions { peer: *peer, volume: *volume, options: (&options).into() }
            }
            Request::Invalidate { minor, sync_from, reset_bitmap } => {
                if let Some(peer) = sync_from {
                    connection(&facts, *peer)?;
                }
                let volume = volume_of(&facts, *minor)?;
                AdminRequest::Invalidate { volume, reset_bitmap: *reset_bitmap }
            }
            Request::InvalidateRemote { peer, volume, reset_bitmap } => {
                AdminRequest::InvalidateRemote { peer: *peer, volume: *volume, reset_bitmap: *reset_bitmap }
            }
            Request::PauseSync { peer, volume } => AdminRequest::PauseSync { peer: *peer, volume: *volume },
            Request::ResumeSync { peer, volume } => AdminRequest::ResumeSync { peer: *peer, volume: *volume },
            Request::Outdate { minor } => AdminRequest::Outdate { volume: volume_of(&facts, *minor)? },
            Request::NewCurrentUuid { minor, clear_bitmap } => AdminRequest::NewCurrentUuid {
                volume: volume_of(&facts, *minor)?,
                clear_bitmap: *clear_bitmap,
            },
            Request::Verify { peer, volume, start, stop } => {
                AdminRequest::Verify { peer: *peer, volume: *volume, start: *start, stop: *stop }
            }
            Request::Resize { minor, size, assume_peer_has_space, assume_clean } => AdminRequest::Resize {
                volume: volume_of(&facts, *minor)?,
                size: *size,
                assume_peer_has_space: *assume_peer_has_space,
                assume_clean: *assume_clean,
            },
            Request::SuspendIo { minor } => AdminRequest::SuspendIo { volume: volume_of(&facts, *minor)? },
            Request::ResumeIo { minor } => AdminRequest::ResumeIo { volume: volume_of(&facts, *minor)? },
            Request::NewMinor { .. }
            | Request::Attach { .. }
            | Request::Down
            | Request::DelResource
            | Request::Upgrade { .. }
            | Request::Status
            | Request::Show
            | Request::GetGi { .. }
            | Request::Subscribe => return Err(Reason::InvalidRequest.into()),
        })
    }

    fn digests_known(&self, options: &OptionSet) -> Result<(), Refusal> {
        let known = |name: &str| {
            let value = options.value(name).to_string();
            let plain = value.strip_prefix("hmac(").and_then(|v| v.strip_suffix(')')).unwrap_or(&value);
            plain.is_empty() || crate::digest::digest_bytes(plain).is_some()
        };
        let unknown = |name: &str, reason: Reason| {
            let info = format!(
                "{name} '{}' is not known here; known are {}",
                options.value(name),
                crate::digest::ALGORITHMS.join(", ")
            );
            Refusal::because(reason, info)
        };
        for (name, reason) in [
            ("cram-hmac-alg", Reason::AuthAlgorithm),
            ("data-integrity-alg", Reason::IntegrityAlgorithm),
            ("csums-alg", Reason::CsumsAlgorithm),
            ("verify-alg", Reason::VerifyAlgorithm),
        ] {
            if !known(name) {
                return Err(unknown(name, reason));
            }
        }
        Ok(())
    }
}

fn merged(known: &OptionSet, with: &OptionSet, set_defaults: bool) -> OptionSet {
    let mut merged = known.clone();
    merged.merge(with, set_defaults);
    merged
}

/// `ipv4:A.B.C.D:PORT` or `ipv6:[A]:PORT`.
fn address(text: &str) -> Result<SocketAddr, Refusal> {
    let wrong = |what: &str| Refusal::because(Reason::InvalidRequest, format!("address '{text}': {what}"));
    let Some((family, rest)) = text.split_once(':') else {
        return Err(wrong("say ipv4:A.B.C.D:PORT or ipv6:[A]:PORT"));
    };
    let address: SocketAddr = rest.parse().map_err(|_| wrong("it is not an address with a port"))?;
    match (family, address) {
        ("ipv4", SocketAddr::V4(_)) | ("ipv6", SocketAddr::V6(_)) => Ok(address),
        ("sdp" | "ssocks", _) => Err(wrong("this transport is not supported, only TCP over ipv4 and ipv6")),
        _ => Err(wrong("the family and the address do not match")),
    }
}
