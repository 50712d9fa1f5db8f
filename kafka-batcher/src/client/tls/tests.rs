//! Files that change under a running process.

use super::*;

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/tls", name].iter().collect()
}

#[test]
fn while_files_do_not_fit_what_was_read_before_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let put = |from: &str, to: &str| std::fs::copy(fixture(from), path(to)).unwrap();
    put("ca.pem", "ca");
    put("broker.crt", "crt");
    put("other.key", "key");
    let tls = Tls::new(SslConfig {
        ca_file: Some(path("ca")),
        certificate_file: Some(path("crt")),
        key_file: Some(path("key")),
        ..SslConfig::default()
    });
    let outlived = || tls.made.lock().unwrap().as_ref().unwrap().outlived;
    let said = tls.config().unwrap_err().to_string();
    assert!(said.contains("ssl.key_file: this key does not belong"), "there is nothing else: {said}");
    put("broker.key", "key");
    let good = tls.config().unwrap();
    assert!(!outlived());
    // The key is replaced before its certificate; then the certificate is not there.
    put("other.key", "key");
    assert!(Arc::ptr_eq(&tls.config().unwrap(), &good) && outlived());
    std::fs::remove_file(path("crt")).unwrap();
    assert!(Arc::ptr_eq(&tls.config().unwrap(), &good) && outlived());
    put("broker.crt", "crt");
    put("broker.key", "key");
    assert!(Arc::ptr_eq(&tls.config().unwrap(), &good) && !outlived(), "the next time is told again");
}
