use super::*;
use crate::mailbox::{mailbox, ControlPlane};
use drbd_core::ids::VolumeNumber;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// An authority, with the certificates it has given out.
struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Authority { certificate: params.self_signed(&key).unwrap(), key }
    }

    /// Certificate and key, as files have them.
    fn certify(&self, serial: u64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["alpha".to_owned()]).unwrap();
        params.serial_number = Some(serial.into());
        let certificate = params.signed_by(&key, &self.certificate, &self.key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// The certificate of that number does not count any more.
    fn revoke(&self, serial: u64) -> String {
        let revoked = rcgen::RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.certificate, &self.key).unwrap().pem().unwrap()
    }
}

/// A worker, what it says to the data plane, and its directory of certificates.
struct Lab {
    worker: TlsWorker,
    control: ControlPlane,
    directory: PathBuf,
    authority: Authority,
}

impl Drop for Lab {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

fn write_server(directory: &Path, authority: &Authority) {
    let (certificate, key) = authority.certify(1);
    std::fs::write(directory.join("server-cert.pem"), certificate).unwrap();
    std::fs::write(directory.join("server-key.pem"), key).unwrap();
}

impl Lab {
    fn new(name: &str) -> Lab {
        let directory = std::env::temp_dir().join(format!("udrbd-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let authority = Authority::new();
        write_server(&directory, &authority);
        let (data, control, _) = mailbox().unwrap();
        let logger = Logger::open(&directory.join("log")).unwrap();
        let worker = TlsWorker::start(Certificates(directory.clone()), "r0", data, logger).unwrap();
        Lab { worker, control, directory, authority }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).unwrap();
    }

    fn verify_clients(&self) {
        self.write("ca-cert.pem", &self.authority.certificate.pem());
    }

    /// A connection as it is handed over: the client's end.
    fn hand_over(&self) -> Socket {
        let (client, server) = Socket::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let door = Door::Socket(VolumeNumber(0));
        self.worker.secure(Handover { door, socket: server.into(), no_zeroes: true });
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(String, String)>,
    ) -> StreamOwned<ClientConnection, Socket> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        let name = ServerName::try_from("alpha").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), self.hand_over())
    }

    /// The data plane's end of a connection that has TLS now.
    fn secured(&self) -> Option<Socket> {
        let begin = Instant::now();
        let mut mail = Vec::new();
        while begin.elapsed() < Duration::from_secs(10) {
            self.control.receive(&mut mail);
            if let Some(ToData::ServeSecured(handover)) = mail.pop() {
                assert!(handover.no_zeroes && handover.door == Door::Socket(VolumeNumber(0)));
                let socket = Socket::from(handover.socket);
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                return Some(socket);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    fn is_let_in(&self, own: Option<(String, String)>) -> bool {
        let mut client = self.client(rustls::ALL_VERSIONS, own);
        // With 1.3 a client learns with the first bytes it reads that its certificate was refused.
        if client.write_all(b"?").is_err() {
            return false;
        }
        let mut byte = [0];
        std::thread::scope(|scope| {
            let read = scope.spawn(move || client.read_exact(&mut byte));
            while !read.is_finished() {
                let mut mail = Vec::new();
                self.control.receive(&mut mail);
                if let Some(ToData::ServeSecured(handover)) = mail.pop() {
                    let mut server = Socket::from(handover.socket);
                    server.write_all(b"!").unwrap();
                    read.join().unwrap().unwrap();
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        })
    }

    fn log(&self) -> String {
        std::thread::sleep(Duration::from_millis(200));
        std::fs::read_to_string(self.directory.join("log")).unwrap()
    }
}

#[test]
fn both_directions_are_carried_to_their_ends() {
    let lab = Lab::new("carried");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = lab.client(&[version], None);
        let request: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        client.write_all(&request[..10]).unwrap();
        client.flush().unwrap();
        let mut server = lab.secured().expect("TLS was begun");
        let expected = request.clone();
        let answering = std::thread::spawn(move || {
            let mut all = Vec::new();
            // The client has said all, and still wants the answer.
            server.read_to_end(&mut all).unwrap();
            assert!(all == expected);
            all.reverse();
            server.write_all(&all).unwrap();
        });
        client.write_all(&request[10..]).unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        client.sock.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        answer.reverse();
        assert!(answer == request);
        answering.join().unwrap();
    }
}

#[test]
fn when_the_server_ends_the_client_is_told() {
    let lab = Lab::new("ends");
    let mut client = lab.client(rustls::ALL_VERSIONS, None);
    client.write_all(b"x").unwrap();
    drop(lab.secured());
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_client_that_vanishes_is_gone_for_the_server_too() {
    let lab = Lab::new("vanishes");
    let mut client = lab.client(rustls::ALL_VERSIONS, None);
    client.write_all(b"x").unwrap();
    let mut server = lab.secured().unwrap();
    drop(client);
    let mut said = Vec::new();
    let _ = server.read_to_end(&mut said);
    assert!(server.write_all(&[0; 1 << 20]).is_err());
}

#[test]
fn rubbish_is_no_handshake() {
    let lab = Lab::new("rubbish");
    let mut client = lab.hand_over();
    client.write_all(b"IHAVEOPT and no idea of TLS").unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(lab.log().contains("NBD: a client of the socket is not let in: TLS could not be begun: "));
    assert!(lab.is_let_in(None));
}

#[test]
fn who_says_nothing_keeps_nobody_out() {
    let lab = Lab::new("silent");
    let mut silent: Vec<Socket> = Vec::new();
    for n in 0..HANDSHAKES_MAX + 3 {
        silent.push(lab.hand_over());
        if n % 8 == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0, "the oldest was broken off");
    assert!(lab.is_let_in(None));
}

#[test]
fn with_an_authority_clients_are_verified() {
    let lab = Lab::new("verified");
    assert!(lab.is_let_in(None));
    lab.verify_clients();
    assert!(!lab.is_let_in(None));
    assert!(!lab.is_let_in(Some(Authority::new().certify(5))));
    assert!(lab.is_let_in(Some(lab.authority.certify(5))));
    lab.write("ca-crl.pem", &lab.authority.revoke(5));
    assert!(!lab.is_let_in(Some(lab.authority.certify(5))));
    assert!(lab.is_let_in(Some(lab.authority.certify(6))));
}

#[test]
fn renewed_certificates_are_used_and_senseless_ones_are_not() {
    let lab = Lab::new("renewed");
    write_server(&lab.directory, &lab.authority);
    assert!(lab.is_let_in(None));
    lab.write("server-key.pem", &lab.authority.certify(9).1);
    assert!(lab.is_let_in(None));
    assert!(lab.log().contains("The last certificates are used on: "), "{}", lab.log());
}

#[test]
fn what_is_wrong_with_certificates_is_a_sentence_with_the_file() {
    let lab = Lab::new("wrong");
    let sentence = || Certificates(lab.directory.clone()).load().unwrap_err();
    lab.write("ca-cert.pem", "no certificate");
    assert!(sentence().contains("ca-cert.pem has nothing of what it is there for."));
    lab.write("server-key.pem", &Authority::new().certify(2).1);
    std::fs::remove_file(lab.directory.join("ca-cert.pem")).unwrap();
    assert!(sentence()
        .contains("server-key.pem cannot be used together (keys of RSA have 2048, 3072 or 4096 bits): "));
    lab.write("server-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n");
    assert!(sentence().contains("server-key.pem cannot be read: "), "{}", sentence());
    std::fs::remove_file(lab.directory.join("server-cert.pem")).unwrap();
    assert!(sentence().contains("server-cert.pem cannot be read: "));
}
