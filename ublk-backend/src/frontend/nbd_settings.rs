//! What the environment of `drbdadm up` says of the NBD server: a TCP port, TLS, and who may open the unix sockets. The
//! configuration files are the real tools' too and say nothing of it.
//!
//! Each variable is a value for all resources, or `RESOURCE=value`, several of these apart by commas.

use super::of_resource::value;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const LISTEN: &str = "UDRBD_NBD_LISTEN";
const TLS: &str = "UDRBD_NBD_TLS";
const CERTIFICATES: &str = "UDRBD_NBD_TLS_CERTIFICATES";
const SOCKET: &str = "UDRBD_NBD_SOCKET";

/// Whether TLS may or has to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tls {
    /// Refused.
    #[default]
    Off,
    /// As the client likes.
    On,
    /// Nothing is told or done without.
    Require,
}

/// Who may open the unix sockets of the volumes, beside root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SocketAccess {
    mode: u32,
    /// `None`: the daemon's own.
    group: Option<u32>,
}

impl Default for SocketAccess {
    fn default() -> SocketAccess {
        SocketAccess { mode: 0o600, group: None }
    }
}

impl SocketAccess {
    /// Lets in whom it says, and nobody for a moment before.
    pub(crate) fn apply(self, socket: &Path) -> std::io::Result<()> {
        if self == SocketAccess::default() {
            return Ok(());
        }
        std::os::unix::fs::chown(socket, None, self.group)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(self.mode))?;
        // Who may use the socket has to get there. Nothing else in the directory is theirs to open.
        let Some(directory) = socket.parent().filter(|_| self.mode & 0o077 != 0) else { return Ok(()) };
        let before = std::fs::metadata(directory)?.permissions().mode();
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(before | 0o011))
    }
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct NbdSettings {
    /// Where the port listens, if there is to be one.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) tls: Tls,
    /// Where the certificates are; there with TLS.
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) socket: SocketAccess,
}

impl NbdSettings {
    /// Those of a resource. The error is a sentence about a variable.
    pub(crate) fn of(resource: &str) -> Result<NbdSettings, String> {
        NbdSettings::read(resource, &|name| std::env::var(name).unwrap_or_default())
    }

    fn read(resource: &str, variable: &dyn Fn(&str) -> String) -> Result<NbdSettings, String> {
        let text = |name| value(&variable(name), resource).map(str::to_owned);
        let listen = text(LISTEN).map(|text| address(&text)).transpose()?;
        let tls = text(TLS).map(|text| tls(&text)).transpose()?;
        let certificates = text(CERTIFICATES).map(PathBuf::from);
        let socket = text(SOCKET).map(|text| socket_access(&text)).transpose()?.unwrap_or_default();
        if let (None, Some(open)) = (tls, listen.filter(|address| !address.ip().is_loopback())) {
            return Err(format!(
                "{LISTEN} is '{open}', where others than this host may read and write the volumes: say \
                 {TLS}=require (with {CERTIFICATES}=DIR), or {TLS}=off if they may."
            ));
        }
        let tls = tls.unwrap_or_default();
        if tls != Tls::Off && certificates.is_none() {
            return Err(format!(
                "{TLS} needs {CERTIFICATES}=DIR, a directory with server-cert.pem, server-key.pem and, to let in only \
                 clients with certificates, ca-cert.pem."
            ));
        }
        Ok(NbdSettings { listen, tls, certificates, socket })
    }

    /// Whether others than this host may come in without TLS.
    pub(crate) fn is_open_to_all(&self) -> bool {
        self.tls != Tls::Require && self.listen.is_some_and(|address| !address.ip().is_loopback())
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map(|mut all| all.next());
    found.ok().flatten().ok_or_else(|| {
        format!("{LISTEN} is '{text}': it has to be HOST:PORT, as in 127.0.0.1:10809, [::]:10809 or r0=10.0.0.1:10809.")
    })
}

fn tls(text: &str) -> Result<Tls, String> {
    match text {
        "off" => Ok(Tls::Off),
        "on" => Ok(Tls::On),
        "require" => Ok(Tls::Require),
        _ => Err(format!("{TLS} is '{text}', which is none of off, on and require.")),
    }
}

fn socket_access(text: &str) -> Result<SocketAccess, String> {
    let (mode, group) = text.split_once(':').map_or((text, None), |(mode, group)| (mode, Some(group)));
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| mode & !0o666 == 0).ok_or_else(|| {
        format!(
            "{SOCKET} is '{text}': it has to be a mode, as in 0660, or a mode and a group, as in 0660:disk."
        )
    })?;
    let group = group.map(|name| {
        let known = nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        let number = known.or_else(|| name.parse().ok());
        number.ok_or_else(|| format!("{SOCKET} is '{text}', and this host has no group '{name}'."))
    });
    Ok(SocketAccess { mode, group: group.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(resource: &str, variables: &[(&str, &str)]) -> Result<NbdSettings, String> {
        NbdSettings::read(resource, &|name| {
            variables.iter().find(|(n, _)| *n == name).map_or(String::new(), |(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_said_is_nothing_open() {
        assert_eq!(read("r0", &[]), Ok(NbdSettings::default()));
        assert_eq!(read("r0", &[(LISTEN, "r1=127.0.0.1:1"), (TLS, "")]), Ok(NbdSettings::default()));
    }

    #[test]
    fn what_is_said_of_one_resource_counts_more_than_of_all() {
        let variables = [
            (LISTEN, "[::1]:1, r1=127.0.0.1:2"),
            (TLS, "r1=require,on"),
            (CERTIFICATES, "/c,r1=/d"),
            (SOCKET, "0660:0,r1=0666"),
        ];
        let (r0, r1) = (read("r0", &variables).unwrap(), read("r1", &variables).unwrap());
        assert_eq!((r0.listen, r0.tls), (Some("[::1]:1".parse().unwrap()), Tls::On));
        assert_eq!((r1.listen, r1.tls), (Some("127.0.0.1:2".parse().unwrap()), Tls::Require));
        assert_eq!((r0.certificates, r1.certificates), (Some("/c".into()), Some("/d".into())));
        assert_eq!(r0.socket, SocketAccess { mode: 0o660, group: Some(0) });
        assert_eq!(r1.socket, SocketAccess { mode: 0o666, group: None });
    }

    #[test]
    fn what_makes_no_sense_is_a_sentence_about_the_variable() {
        for (variables, says) in [
            (&[(LISTEN, "10809")][..], "UDRBD_NBD_LISTEN is '10809': it has to be HOST:PORT"),
            (&[(LISTEN, "127.0.0.1:65536")], "has to be HOST:PORT"),
            (&[(TLS, "yes")], "UDRBD_NBD_TLS is 'yes', which is none of off, on and require."),
            (&[(TLS, "on")], "UDRBD_NBD_TLS needs UDRBD_NBD_TLS_CERTIFICATES=DIR"),
            (&[(SOCKET, "rw")], "UDRBD_NBD_SOCKET is 'rw': it has to be a mode"),
            (&[(SOCKET, "0777")], "has to be a mode"),
            (&[(SOCKET, "0660:no-such-group")], "no group 'no-such-group'"),
            (&[(LISTEN, "0.0.0.0:1")], "or UDRBD_NBD_TLS=off if they may"),
        ] {
            let sentence = read("r0", variables).unwrap_err();
            assert!(sentence.contains(says), "{sentence}");
        }
    }

    #[test]
    fn a_port_open_to_all_is_asked_for() {
        let open = read("r0", &[(LISTEN, "0.0.0.0:1"), (TLS, "off")]).unwrap();
        assert!(open.is_open_to_all());
        let closed = read("r0", &[(LISTEN, "0.0.0.0:1"), (TLS, "require"), (CERTIFICATES, "/c")]).unwrap();
        assert!(!closed.is_open_to_all());
        assert!(!read("r0", &[(LISTEN, "127.0.0.1:1")]).unwrap().is_open_to_all());
    }

    #[test]
    fn a_socket_is_the_groups_when_it_is_said() {
        let directory = std::env::temp_dir().join(format!("udrbd-access-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
        let path = directory.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        SocketAccess::default().apply(&path).unwrap();
        assert_eq!((mode(&path), mode(&directory)), (0o600, 0o700));
        let group = nix::unistd::getegid().as_raw();
        SocketAccess { mode: 0o660, group: Some(group) }.apply(&path).unwrap();
        assert_eq!((mode(&path), mode(&directory)), (0o660, 0o711));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
