//! TLS to a broker (rustls, with ring): whom to trust, who this client is, and what to say when it does not work.
//!
//! The machine's own root certificates come from rustls-native-certs and are judged by rustls: where the operating system judged
//! them itself, the reason of a refusal would be another on each system, and mostly "other". `SSL_CERT_FILE` and `SSL_CERT_DIR` are
//! honoured. The files that a configuration names are read at each new connection: certificates that are renewed under a running
//! process are used from then on. While they do not fit (somebody is about to replace them) what was read before is used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, RootCertStore};

use crate::config::SslConfig;

/// A setting and what is wrong with it.
type Mistake = (&'static str, String);

/// How every connection is encrypted.
pub(crate) struct Tls {
    ssl: SslConfig,
    made: Mutex<Option<Made>>,
}

/// The last configuration that could be made.
struct Made {
    /// Of files with these bytes: sessions are resumed only within one.
    files: Files,
    config: Arc<ClientConfig>,
    /// The files hold something else now that cannot be used, and that was told.
    outlived: bool,
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Files {
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

/// Every mistake in the settings, the files included.
pub(crate) fn check(ssl: &SslConfig, tell: &mut dyn FnMut(&'static str, String)) {
    if let Some(name) = ssl.server_name.as_deref().filter(|name| ServerName::try_from(*name).is_err()) {
        tell("server_name", format!("{name:?} is neither a host's name nor an IP address"));
    }
    let mut mistakes = Vec::new();
    let files = read(ssl, &mut mistakes);
    if mistakes.is_empty() {
        let _ = make(ssl, &files, &mut mistakes);
    }
    mistakes.into_iter().for_each(|(key, message)| tell(key, message));
}

fn read(ssl: &SslConfig, mistakes: &mut Vec<Mistake>) -> Files {
    if ssl.certificate_file.is_some() && ssl.key_file.is_none() {
        mistakes
            .push(("certificate_file", "a certificate needs its private key, too: give key_file".to_owned()));
    }
    if ssl.key_file.is_some() && ssl.certificate_file.is_none() {
        mistakes
            .push(("key_file", "a private key needs its certificate, too: give certificate_file".to_owned()));
    }
    let mut bytes = |key: &'static str, path: &Option<PathBuf>| {
        let path = path.as_ref()?;
        let read = std::fs::read(path);
        read.map_err(|error| mistakes.push((key, format!("{} cannot be read: {error}", path.display())))).ok()
    };
    Files {
        ca: bytes("ca_file", &ssl.ca_file),
        certificate: bytes("certificate_file", &ssl.certificate_file),
        key: bytes("key_file", &ssl.key_file),
    }
}

fn make(ssl: &SslConfig, files: &Files, mistakes: &mut Vec<Mistake>) -> Option<Arc<ClientConfig>> {
    let at = |path: &Option<PathBuf>| path.as_deref().unwrap_or(Path::new("")).display().to_string();
    let roots = match &files.ca {
        Some(pem) => match certificates(pem).and_then(roots_of) {
            Ok(roots) => Some(Arc::new(roots)),
            Err(problem) => {
                mistakes.push(("ca_file", format!("{} {problem}", at(&ssl.ca_file))));
                None
            }
        },
        None => match platform_roots() {
            Ok(roots) => Some(roots.clone()),
            Err(problem) => {
                mistakes.push(("ca_file", format!("not given, and {problem}")));
                None
            }
        },
    };
    let identity = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate).map_err(|problem| {
                mistakes.push(("certificate_file", format!("{} {problem}", at(&ssl.certificate_file))))
            });
            let key = private_key(key)
                .map_err(|problem| mistakes.push(("key_file", format!("{} {problem}", at(&ssl.key_file)))));
            Some((chain.ok()?, key.ok()?))
        }
        _ => None,
    };
    let roots = roots?;
    let provider = Arc::new(default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| mistakes.push(("ca_file", error.to_string())))
        .ok()?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| mistakes.push(("enabled", error.to_string())))
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(verifier as Arc<dyn ServerCertVerifier>);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| mistakes.push(("key_file", unfit(&error, &at(&ssl.certificate_file)))))
            .ok()?,
    };
    Some(Arc::new(config))
}

fn unfit(error: &rustls::Error, certificate: &str) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("this key does not belong to the certificate in {certificate}")
        }
        error => format!("this key cannot be used with the certificate in {certificate}: {error}"),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err("holds no certificate in PEM form (\"-----BEGIN CERTIFICATE-----\")".to_owned())
        }
        Ok(found) => Ok(found),
        Err(error) => Err(format!("is not in PEM form: {error}")),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    // Its errors do not repeat what they read.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| match pem.windows(9).any(|bytes| bytes == b"ENCRYPTED") {
        true => "holds an encrypted key; decrypt it (openssl pkey -in KEY -out NEW) and protect the file"
            .to_owned(),
        false => "holds no private key in PEM form (\"-----BEGIN PRIVATE KEY-----\")".to_owned(),
    })
}

fn roots_of(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate that cannot be read: {error}"))?;
    }
    Ok(roots)
}

/// The machine's own, read once.
fn platform_roots() -> Result<&'static Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // One that cannot be read costs only those that it signed.
        roots.add_parsable_certificates(found.certs);
        match roots.is_empty() {
            false => Ok(Arc::new(roots)),
            true => {
                let why: Vec<_> = found.errors.iter().map(|error| format!(" ({error})")).collect();
                Err(format!(
                    "this machine has no root certificates (Debian: apt-get install ca-certificates){}",
                    why.concat()
                ))
            }
        }
    };
    ROOTS.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// The machine's own authorities, and those of the configuration: for who is no broker (a token endpoint).
pub(super) fn trusted_with(ssl: &SslConfig) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut trusted = rustls_native_certs::load_native_certs().certs;
    if let Some(path) = &ssl.ca_file {
        let pem =
            std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        trusted.extend(certificates(&pem).map_err(|problem| format!("{} {problem}", path.display()))?);
    }
    Ok(trusted)
}

impl Tls {
    pub(crate) fn new(ssl: SslConfig) -> Tls {
        Tls { ssl, made: Mutex::new(None) }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut mistakes = Vec::new();
        let files = read(&self.ssl, &mut mistakes);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(made), []) = (&mut *made, mistakes.as_slice())
            && made.files == files
        {
            made.outlived = false;
            return Ok(made.config.clone());
        }
        if let Some(config) = (mistakes.is_empty()).then(|| make(&self.ssl, &files, &mut mistakes)).flatten()
        {
            *made = Some(Made { files, config: config.clone(), outlived: false });
            return Ok(config);
        }
        let said: Vec<_> = mistakes.iter().map(|(key, message)| format!("ssl.{key}: {message}")).collect();
        let error = TlsError::refused(said.join("; "));
        let Some(made) = &mut *made else { return Err(error) };
        if !std::mem::replace(&mut made.outlived, true) {
            tracing::warn!(%error, "the files of TLS cannot be used, what was read before is");
        }
        Ok(made.config.clone())
    }

    /// The client's side of a connection to this host, and the words for what may go wrong with it.
    pub(super) fn begin(&self, host: &str) -> Result<(ClientConnection, Words), TlsError> {
        let name = self.ssl.server_name.as_deref().unwrap_or(host);
        let server = ServerName::try_from(name.to_owned()).map_err(|_| {
            TlsError::refused(format!(
                "{name:?} cannot stand in a certificate; give the name that does (ssl.server_name)"
            ))
        })?;
        let words = Words {
            name: name.to_owned(),
            ca_file: self.ssl.ca_file.clone(),
            identified: self.ssl.certificate_file.is_some(),
        };
        let session = ClientConnection::new(self.config()?, server).map_err(|error| words.of(&error))?;
        Ok((session, words))
    }
}

/// Why TLS to a broker does not work, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsError {
    message: String,
    /// The connection ended, and nobody refused anything: a broker that starts does so, or whatever stands before it.
    broke: bool,
}

impl TlsError {
    fn refused(message: String) -> Self {
        TlsError { message, broke: false }
    }

    pub(super) fn broke(message: String) -> Self {
        TlsError { message, broke: true }
    }

    pub(super) fn is_refusal(&self) -> bool {
        !self.broke
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TlsError {}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// What is told of a connection that fails.
#[derive(Debug)]
pub(super) struct Words {
    name: String,
    ca_file: Option<PathBuf>,
    /// Whether this client has a certificate.
    identified: bool,
}

impl Words {
    pub(super) fn of(&self, error: &rustls::Error) -> TlsError {
        TlsError::refused(match error {
            rustls::Error::InvalidCertificate(error) => self.certificate(error),
            rustls::Error::AlertReceived(alert) => self.alert(*alert),
            rustls::Error::InvalidMessage(_) => {
                "what answers there does not speak TLS; leave TLS out (ssl), or give the address of an SSL or SASL_SSL listener"
                    .to_owned()
            }
            rustls::Error::PeerIncompatible(why) => format!(
                "the broker has no version or cipher of TLS in common with this client, which speaks 1.2 and 1.3 ({why:?}); see its \
                 ssl.enabled.protocols and ssl.cipher.suites"
            ),
            error => format!("TLS failed: {error}"),
        })
    }

    fn certificate(&self, error: &CertificateError) -> String {
        let days = |seconds: u64| match seconds / 86_400 {
            0 => "less than a day".to_owned(),
            1 => "a day".to_owned(),
            n => format!("{n} days"),
        };
        match error {
            CertificateError::Expired => "the broker's certificate has expired; renew it on the broker".to_owned(),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "the broker's certificate expired {} ago; renew it on the broker (or is this machine's clock wrong?)",
                days(time.as_secs().saturating_sub(not_after.as_secs()))
            ),
            CertificateError::NotValidYet => {
                "the broker's certificate is not valid yet; is this machine's clock right?".to_owned()
            }
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "the broker's certificate is not valid yet, but in {}; is this machine's clock right?",
                days(not_before.as_secs().saturating_sub(time.as_secs()))
            ),
            CertificateError::UnknownIssuer => match &self.ca_file {
                Some(path) => format!(
                    "the broker's certificate is signed by nobody in {} (ssl.ca_file): give the file of the authority that signed \
                     it",
                    path.display()
                ),
                None => "the broker's certificate is signed by nobody whom this machine trusts: give the certificate of the \
                         authority that signed it (ssl.ca_file)"
                    .to_owned(),
            },
            CertificateError::NotValidForName => format!(
                "the broker's certificate is not for {:?}: use a name that it is for, or set ssl.server_name",
                self.name
            ),
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "the broker's certificate is not for {:?}, but for {}: use such a name in endpoints (and in the broker's \
                 advertised.listeners), or set ssl.server_name",
                self.name,
                if presented.is_empty() { "no name at all".to_owned() } else { names(presented) }
            ),
            CertificateError::Revoked => "the broker's certificate was revoked; renew it on the broker".to_owned(),
            error => format!("the broker's certificate is not accepted: {error}"),
        }
    }

    fn alert(&self, alert: AlertDescription) -> String {
        use AlertDescription as Alert;
        let wants_one = !self.identified;
        match alert {
            Alert::CertificateRequired | Alert::BadCertificate | Alert::HandshakeFailure if wants_one => {
                "the broker ended TLS; mostly because it wants a certificate of its clients (ssl.client.auth): give \
                 ssl.certificate_file and ssl.key_file"
                    .to_owned()
            }
            Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnknownCA
            | Alert::AccessDenied => format!(
                "the broker does not accept this client's certificate ({alert:?}): give one that an authority in the broker's \
                 truststore has signed and that has not expired (ssl.certificate_file)"
            ),
            Alert::ProtocolVersion => {
                "the broker speaks neither TLS 1.2 nor 1.3; see its ssl.enabled.protocols".to_owned()
            }
            Alert::UnrecognisedName => format!("the broker does not know itself by the name {:?} (ssl.server_name)", self.name),
            alert => format!("the broker ended TLS with the alert {alert:?}"),
        }
    }

    /// The connection ended before TLS was agreed upon.
    pub(super) fn ended(&self) -> TlsError {
        let wants_one = match self.identified {
            true => "",
            false => ", or does it want a certificate of its clients (ssl.certificate_file)",
        };
        TlsError::broke(format!(
            "it closed the connection when asked for TLS; is this its SSL or SASL_SSL listener{wants_one}? For a listener without TLS \
             leave TLS out (ssl)"
        ))
    }
}

/// `DnsName("a")` as people write it.
fn names(presented: &[String]) -> String {
    let plain = presented.iter().map(|name| match name.split_once('(') {
        Some((_, rest)) => rest.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.clone(),
    });
    plain.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
