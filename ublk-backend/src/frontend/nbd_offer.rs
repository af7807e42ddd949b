//! What a connection is offered before it has opened anything: the volumes, by name, and TLS.
//!
//! A volume's own socket has one export, whose name is empty. A port has all volumes of the resource, listed by number.
//! Asked for, both also know `RESOURCE/VOLUME`, and the empty name for the lowest volume there is.

use super::nbd_settings::Tls;
use drbd_core::ids::VolumeNumber;

/// Where a connection came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// A volume's unix socket.
    Socket(VolumeNumber),
    /// The resource's TCP port.
    Port,
}

impl Door {
    /// Whether TLS may or has to be used. Who may open a socket is told by its owner and mode, so it never has to.
    pub(super) fn tls(self, wanted: Tls) -> Tls {
        match (self, wanted) {
            (Door::Socket(_), Tls::Require) => Tls::On,
            _ => wanted,
        }
    }
}

/// Longest part of a name that is said back.
const NAME_SAID_MAX: usize = 80;

/// The offer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    pub(super) resource: &'a str,
    /// What is served here, lowest first.
    pub(super) volumes: &'a [VolumeNumber],
    pub(super) door: Door,
    pub(super) tls: Tls,
}

impl Offer<'_> {
    /// The volume of that name.
    pub(super) fn find(&self, name: &[u8]) -> Option<VolumeNumber> {
        if name.is_empty() {
            return self.volumes.first().copied();
        }
        let number = name.strip_prefix(self.resource.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let number = number.unwrap_or(name);
        self.volumes.iter().copied().find(|volume| volume.to_string().as_bytes() == number)
    }

    /// The names told to who asks.
    pub(super) fn names(&self) -> Vec<String> {
        match self.door {
            Door::Socket(_) => vec![String::new()],
            Door::Port => self.volumes.iter().map(VolumeNumber::to_string).collect(),
        }
    }

    /// Why there is no volume of that name.
    pub(super) fn unknown(&self, name: &[u8]) -> String {
        let said = String::from_utf8_lossy(&name[..name.len().min(NAME_SAID_MAX)]);
        let there: Vec<String> =
            self.volumes.iter().map(|volume| format!("{}/{volume}", self.resource)).collect();
        match there.as_slice() {
            [] => format!("There is no export {said:?} here: resource {} has no volume.", self.resource),
            there => {
                format!("There is no export {said:?} here, but {} (or only the number).", there.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_names() {
        let volumes = [VolumeNumber(1), VolumeNumber(12)];
        let offer = Offer { resource: "r0", volumes: &volumes, door: Door::Port, tls: Tls::Off };
        for (name, volume) in [
            ("", Some(1)),
            ("1", Some(1)),
            ("12", Some(12)),
            ("r0/12", Some(12)),
            ("2", None),
            ("r0", None),
            ("r0/", None),
            ("r1/1", None),
            ("01", None),
            ("/1", None),
        ] {
            assert_eq!(offer.find(name.as_bytes()), volume.map(VolumeNumber), "{name}");
        }
        assert_eq!(offer.names(), ["1", "12"]);
        assert_eq!(
            offer.unknown(b"x\n"),
            "There is no export \"x\\n\" here, but r0/1, r0/12 (or only the number)."
        );
        let nothing = Offer { volumes: &[], ..offer };
        assert_eq!(nothing.find(b""), None);
        assert!(nothing.unknown(&[0xff; 9000]).ends_with("resource r0 has no volume."));
    }
}
