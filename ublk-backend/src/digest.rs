//! Digests of blocks, HMACs for peer authentication, and unpredictable bytes.

use drbd_core::wire::header::DIGEST_MAX;
use hmac::{Hmac, Mac};
use rand::TryRngCore;

/// Names of the digests known here.
pub(crate) const ALGORITHMS: &[&str] = &["md5", "sha1", "sha256", "sha512"];

/// HMAC of `message` by the digest of that name (`hmac(NAME)` means the same); `None` if it is not known here.
pub(crate) fn hmac(algorithm: &str, key: &[u8], message: &[u8]) -> Option<Box<[u8]>> {
    let name = algorithm.strip_prefix("hmac(").and_then(|n| n.strip_suffix(')')).unwrap_or(algorithm);
    macro_rules! digest {
        ($kind:ty) => {{
            let mut mac = Hmac::<$kind>::new_from_slice(key).ok()?;
            mac.update(message);
            Some(mac.finalize().into_bytes().as_slice().into())
        }};
    }
    match name {
        "md5" => digest!(md5::Md5),
        "sha1" => digest!(sha1::Sha1),
        "sha256" => digest!(sha2::Sha256),
        "sha512" => digest!(sha2::Sha512),
        _ => None,
    }
}

/// A digest known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Digest {
    /// As iSCSI has it.
    Crc32c,
    /// RFC 1321.
    Md5,
    /// FIPS 180.
    Sha1,
    /// FIPS 180, 256 bits.
    Sha256,
    /// FIPS 180, 512 bits.
    Sha512,
}

impl Digest {
    /// The digest that Linux calls so.
    pub(crate) fn named(name: &str) -> Option<Digest> {
        match name {
            "crc32c" => Some(Digest::Crc32c),
            "md5" => Some(Digest::Md5),
            "sha1" => Some(Digest::Sha1),
            "sha256" => Some(Digest::Sha256),
            "sha512" => Some(Digest::Sha512),
            _ => None,
        }
    }

    /// Its size in bytes.
    pub(crate) fn size(self) -> usize {
        match self {
            Digest::Crc32c => 4,
            Digest::Md5 => 16,
            Digest::Sha1 => 20,
            Digest::Sha256 => 32,
            Digest::Sha512 => 64,
        }
    }

    /// Digests `bytes` into the beginning of `place`, in the order of bytes Linux has; returns what it wrote.
    pub(crate) fn write(self, bytes: &[u8], place: &mut [u8; DIGEST_MAX]) -> usize {
        use sha2::Digest as _;
        let size = self.size();
        let out = &mut place[..size];
        match self {
            Digest::Crc32c => out.copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes()),
            Digest::Md5 => out.copy_from_slice(&md5::Md5::digest(bytes)),
            Digest::Sha1 => out.copy_from_slice(&sha1::Sha1::digest(bytes)),
            Digest::Sha256 => out.copy_from_slice(&sha2::Sha256::digest(bytes)),
            Digest::Sha512 => out.copy_from_slice(&sha2::Sha512::digest(bytes)),
        }
        size
    }
}

/// Digest of `bytes` by the algorithm of that name; `None` if it is not known here.
pub(crate) fn plain(algorithm: &str, bytes: &[u8]) -> Option<Box<[u8]>> {
    if algorithm == drbd_core::engine::ONLY_ZEROES {
        // Without a way out of the inner loop it is done by vectors.
        let zeroes = |piece: &[u8]| piece.iter().fold(0, |all, byte| all | byte) == 0;
        return Some([u8::from(bytes.chunks(4096).all(zeroes))].into());
    }
    let mut place = [0; DIGEST_MAX];
    let size = Digest::named(algorithm)?.write(bytes, &mut place);
    Some(place[..size].into())
}

/// Size of a digest in bytes; `None` if it is not known here.
pub(crate) fn digest_bytes(algorithm: &str) -> Option<usize> {
    Digest::named(algorithm).map(Digest::size)
}

/// Bytes no one can predict.
pub(crate) fn challenge() -> Box<[u8; 64]> {
    let mut bytes = Box::new([0; 64]);
    rand::rngs::OsRng.try_fill_bytes(&mut *bytes).expect("the kernel has random bytes");
    bytes
}

/// A seed for the engine's own numbers (new generation identifiers).
pub(crate) fn seed() -> u64 {
    rand::rngs::OsRng.try_next_u64().expect("the kernel has random bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn known_answers() {
        // RFC 2202 and RFC 4231, test case 2.
        let message = b"what do ya want for nothing?";
        let of = |name| hex(&hmac(name, b"Jefe", message).unwrap());
        assert_eq!(of("md5"), "750c783e6ab0b503eaa86e310a5db738");
        assert_eq!(of("sha1"), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(of("sha256"), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert_eq!(of("hmac(sha1)"), of("sha1"));
        assert!(hmac("whirlpool", b"k", b"m").is_none());
    }

    #[test]
    fn known_digests() {
        let of = |name| hex(&plain(name, b"123456789").unwrap());
        assert_eq!(of("crc32c"), "839206e3", "in the order of the wire");
        assert_eq!(of("md5"), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(of("sha1"), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
        assert_eq!(hex(&plain("crc32c", &[0; 4096]).unwrap()), "8941f998");
        assert_eq!(hex(&plain("crc32c", &vec![0; 126_976]).unwrap()), "0fca4700");
        for name in ["crc32c", "md5", "sha1", "sha256", "sha512"] {
            assert_eq!(plain(name, b"").map(|d| d.len()), digest_bytes(name), "{name}");
        }
        assert!(plain("whirlpool", b"").is_none());
    }

    #[test]
    fn challenges_differ() {
        assert_ne!(challenge(), challenge());
    }
}
