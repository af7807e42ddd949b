//! X.509 certificates of the server, in the directory every NBD tool knows: `server-cert.pem` (with the certificates
//! between it and its authority behind it) and `server-key.pem`. With `ca-cert.pem` a client has to show a certificate of
//! that authority that `ca-crl.pem`, if there, does not revoke: what nbdkit does with `--tls-verify-peer`, and qemu by
//! default. Without it any client is let in, as by nbdkit without that.

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Certificates(pub(crate) PathBuf);

impl Certificates {
    /// Reads them: TLS 1.2 and 1.3. The error is a sentence.
    pub(crate) fn load(&self) -> Result<Arc<ServerConfig>, String> {
        let (chain_file, key_file) = (self.0.join("server-cert.pem"), self.0.join("server-key.pem"));
        let chain: Vec<CertificateDer<'_>> = all_in(&chain_file)?;
        let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|e| not_read(&key_file, &e))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS cannot be set up: {e}."))?;
        let builder = match self.authorities()? {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .with_crls(self.revoked()?)
                    .allow_unknown_revocation_status()
                    .build();
                let file = self.0.join("ca-cert.pem");
                builder.with_client_cert_verifier(
                    verifier.map_err(|e| format!("{} cannot be used: {e}.", file.display()))?,
                )
            }
        };
        let config = builder.with_single_cert(chain, key).map_err(|e| {
            format!(
                "{} and {} cannot be used together (keys of RSA have 2048, 3072 or 4096 bits): {e}.",
                chain_file.display(),
                key_file.display()
            )
        })?;
        Ok(Arc::new(config))
    }

    /// Whose certificates clients have to show; `None`: nobody's.
    fn authorities(&self) -> Result<Option<RootCertStore>, String> {
        let file = self.0.join("ca-cert.pem");
        if !is_there(&file)? {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        for certificate in all_in(&file)? {
            roots.add(certificate).map_err(|e| format!("{} cannot be used: {e}.", file.display()))?;
        }
        Ok(Some(roots))
    }

    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
        let file = self.0.join("ca-crl.pem");
        if is_there(&file)? {
            all_in(&file)
        } else {
            Ok(Vec::new())
        }
    }
}

/// Only a file that is certainly not there is taken for none: what it says must not be passed over.
fn is_there(file: &Path) -> Result<bool, String> {
    match std::fs::metadata(file) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(format!("{} cannot be read: {e}.", file.display())),
    }
}

/// All of a kind that a file has, at least one.
fn all_in<T: PemObject>(file: &Path) -> Result<Vec<T>, String> {
    let all = T::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<T>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(format!("{} has nothing of what it is there for.", file.display())),
        Ok(all) => Ok(all),
        Err(e) => Err(not_read(file, &e)),
    }
}

fn not_read(file: &Path, error: &pem::Error) -> String {
    format!("{} cannot be read: {error}.", file.display())
}
