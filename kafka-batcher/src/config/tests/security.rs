//! The tables `[ssl]` and `[sasl]`: their shapes, their mistakes, and that a secret is nowhere to be seen.

use super::*;
use crate::SaslMechanism;

const PLANTED: &str = "hunter2-planted";

fn begin(text: &str) -> Config {
    file(&format!("endpoints = [\"a:1\"]\n{text}"))
}

#[test]
fn ssl_and_sasl_are_a_table_or_true_or_absent() {
    let ssl = |text: &str| begin(text).resolve().expect("no mistakes").ssl;
    assert!(!ssl("").is_on() && !ssl("ssl = false").is_on());
    assert!(ssl("ssl = true").is_on() && ssl("[ssl]").is_on() && ssl("[ssl]\nserver_name = \"a\"").is_on());
    assert!(!ssl("[ssl]\nenabled = false\nserver_name = \"a\"").is_on());
    let mut option = begin("");
    option.set_option("ssl", true, "--ssl");
    assert!(option.says("ssl") && option.resolve().expect("no mistakes").ssl.is_on());
    let environment = |variables: &[(&str, &str)]| with(begin(""), variables).resolve();
    assert!(environment(&[("KAFKA_BATCHER__SSL", "true")]).expect("no mistakes").ssl.is_on());
    assert!(environment(&[("KAFKA_BATCHER__SSL__SERVER_NAME", "a")]).expect("no mistakes").ssl.is_on());
    let sasl = [
        ("KAFKA_BATCHER__SASL__MECHANISM", "SCRAM-SHA-512"),
        ("KAFKA_BATCHER__SASL__LOGIN", "me"),
        ("KAFKA_BATCHER__SASL__PASSWORD", PLANTED),
    ];
    let sasl = environment(&sasl).expect("no mistakes").sasl;
    assert_eq!(sasl.mechanism, Some(SaslMechanism::ScramSha512));
    assert_eq!(sasl.password.expect("a password").expose(), PLANTED);
}

#[test]
fn every_mistake_of_a_secured_cluster_is_told_at_once_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("not.pem"), "hello").expect("written");
    let text = format!(
        "[ssl]\nca_file = \"{}\"\ncertificate_file = \"{}\"\nserver_name = \"no good\"\nca_fil = 1\n\
         [sasl]\nmechanism = \"scram_sha_1\"\nlogin = \"\"\npassword = \"a\"\npassword_file = \"{}\"\n",
        path("not.pem"),
        path("missing.pem"),
        path("missing.txt")
    );
    let said = mistakes(&begin(&text));
    let expected = [
        ("k.toml:3:1: ssl.ca_file: ", "cannot be read"),
        ("k.toml:4:1: ssl.certificate_file: ", "give key_file"),
        ("k.toml:4:1: ssl.certificate_file: ", "cannot be read"),
        ("k.toml:5:1: ssl.server_name: ", "\"no good\" is neither a host's name nor an IP address"),
        ("k.toml:6:1: ssl.ca_fil: ", "did you mean ca_file?"),
        ("k.toml:8:1: sasl.mechanism: ", "none of plain, scram_sha_256, scram_sha_512"),
    ];
    let named =
        |(place, words): &(&str, &str)| said.iter().any(|m| m.starts_with(place) && m.contains(words));
    let missing: Vec<_> = expected.iter().skip(1).filter(|e| !named(e)).collect();
    assert!(missing.is_empty(), "{missing:?} of {said:#?}");
    let alone = |text: &str| mistakes(&begin(text));
    let ca = alone(&format!("[ssl]\nca_file = \"{}\"", path("not.pem")));
    assert!(matches!(ca.as_slice(), [one] if one.contains("holds no certificate in PEM form")), "{ca:?}");
}

#[test]
fn a_certificate_and_a_key_that_do_not_fit_are_told_before_anything_starts() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let fixture = |name: &str| format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let marker = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(path("encrypted.key"), marker).expect("written");
    let identity = |certificate: &str, key: &str| {
        begin(&format!(
            "[ssl]\nca_file = \"{}\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"",
            fixture("ca.pem")
        ))
    };
    let (certificate, key) = (fixture("broker.crt"), fixture("broker.key"));
    assert!(identity(&certificate, &key).resolve().is_ok());
    for (certificate, key, place, words) in [
        (
            &certificate,
            &fixture("other.key"),
            "k.toml:5:1: ssl.key_file: ",
            "does not belong to the certificate in",
        ),
        (&certificate, &path("encrypted.key"), "k.toml:5:1: ssl.key_file: ", "encrypted key; decrypt it"),
        (&certificate, &certificate, "k.toml:5:1: ssl.key_file: ", "holds no private key"),
        (&key, &key, "k.toml:4:1: ssl.certificate_file: ", "holds no certificate"),
    ] {
        let said = mistakes(&identity(certificate, key));
        assert!(
            matches!(said.as_slice(), [one] if one.starts_with(place) && one.contains(words)),
            "{said:?}"
        );
    }
}

#[test]
fn sasl_without_a_mechanism_is_a_mistake_where_its_table_begins() {
    let said = mistakes(&begin("[sasl]\nlogin = \"me\""));
    assert!(said.len() == 1 && said[0].starts_with("k.toml:2:2: sasl.mechanism: missing"), "{said:?}");
    let said = mistakes(&begin("sasl = true"));
    assert!(said.len() == 1 && said[0].starts_with("k.toml:2:1: sasl.mechanism: missing"), "{said:?}");
    let error = SaslConfig { enabled: Some(true), ..SaslConfig::default() }.check(&SslConfig::default());
    assert!(matches!(error, Err(SaslConfigError(mistakes)) if mistakes[0].key == "mechanism"));
}

#[test]
fn plain_without_tls_is_refused_unless_somebody_consents() {
    let sasl = "[sasl]\nmechanism = \"plain\"\nlogin = \"me\"\npassword = \"x\"\n";
    let said = mistakes(&begin(sasl));
    assert!(said.len() == 1 && said[0].contains("allow_without_tls"), "{said:?}");
    assert!(begin(&format!("ssl = true\n{sasl}")).resolve().is_ok());
    assert!(begin(&format!("{sasl}allow_without_tls = true")).resolve().is_ok());
}

#[test]
fn a_password_comes_from_one_of_three_places() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret").to_string_lossy().into_owned();
    let sasl = |more: &str| begin(&format!("[sasl]\nmechanism = \"scram_sha_256\"\nlogin = \"me\"\n{more}"));
    let password_file = format!("password_file = \"{path}\"\n");
    for (more, words) in [
        ("", "sasl.password: missing"),
        (password_file.as_str(), "cannot be read"),
        (
            "password_env = \"KAFKA_BATCHER_TEST_NOT_THERE\"",
            "there is no environment variable KAFKA_BATCHER_TEST_NOT_THERE",
        ),
        ("password = \"\"", "it is empty"),
        (&format!("{password_file}password = \"x\""), "given in several ways"),
    ] {
        let said = mistakes(&sasl(more));
        assert!(said.iter().any(|mistake| mistake.contains(words)), "{more}: {said:?}");
    }
    std::fs::write(&path, PLANTED).expect("written");
    assert!(sasl(&password_file).resolve().is_ok());
    // Always there.
    assert!(sasl("password_env = \"PATH\"").resolve().is_ok());
}

#[test]
fn a_planted_secret_is_in_nothing_that_is_shown() {
    let good = format!("[sasl]\nmechanism = \"scram_sha_256\"\nlogin = \"me\"\npassword = \"{PLANTED}\"\n");
    let config = begin(&good);
    let resolved = config.resolve().expect("no mistakes");
    let shown = resolved.show(None).expect("shown");
    assert!(shown.contains("# password: set, not shown") && shown.contains("k.toml:5:1"), "{shown}");
    let mut all = vec![shown, format!("{config:?}"), format!("{resolved:?}")];
    all.push(format!("{:?}", crate::Builder::from(resolved)));
    // In every wrong place that a password may get into.
    for wrong in [
        format!("password = \"{PLANTED}\""),
        format!("[sasl]\npassword = \"{PLANTED}"),
        format!("[sasl]\npassword = {PLANTED}"),
        format!("[sasl]\nmechanism = \"{PLANTED}\""),
        format!("[sasl]\npassword = [\"{PLANTED}\"]"),
        format!("[sasl]\nmechanism = \"plain\"\nlogin = \"me\"\npassword = \"{PLANTED}\""),
        format!("[ssl]\npassword = \"{PLANTED}\"\n{good}bad = 1"),
        format!("sasl = \"{PLANTED}\""),
    ] {
        all.push(begin(&wrong).resolve().expect_err("a mistake").to_string());
    }
    for name in ["KAFKA_BATCHER__SASL", "KAFKA_BATCHER__SSL", "KAFKA_BATCHER__SASL__ALLOW_WITHOUT_TLS"] {
        let said = with(begin(""), &[(name, PLANTED)]).resolve().expect_err("a mistake").to_string();
        assert!(said.contains("this is neither true nor false"), "{said}");
        all.push(said);
    }
    let address = format!("[sasl]\ntoken_endpoint_url = \"https://me:{PLANTED}@a/token\"");
    let said = begin(&address).resolve().expect_err("a mistake").to_string();
    assert!(said.contains("before the host"), "{said}");
    all.push(said);
    let oauth = format!(
        "[sasl]\nmechanism = \"oauthbearer\"\ntoken_endpoint_url = \"http://a\"\nclient_secret = \"{PLANTED}\"\n\
         token_provider = \"mine\"\nextensions = [\"auth=a\"]"
    );
    let said = begin(&oauth).resolve().expect_err("mistakes").to_string();
    for words in [
        "no https:// address",
        "client_id: missing",
        "in several ways",
        "each is name=value",
        "allow_without_tls",
    ] {
        assert!(said.contains(words), "{words:?} is missing: {said}");
    }
    all.push(said);
    for text in all {
        assert!(!text.contains(PLANTED), "{text}");
    }
}
