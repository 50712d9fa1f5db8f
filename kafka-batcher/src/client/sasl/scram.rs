//! SCRAM (RFC 5802, RFC 7677), the client's side: neither the password nor anything it could be computed from by whoever listens is
//! sent, and the broker has to prove that it knows the password, too. No channel binding: Kafka has none.
//!
//! Refuses iteration counts below Kafka's own minimum of 4096 (a broker that asks for fewer makes the proof cheap to guess from)
//! and above eight times its maximum of 16 384 (`ScramMechanism`): a hostile broker must not burn this machine's time.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2, rand};

use crate::secret::{Secret, scrubbed};

/// How often the hash is applied, at least and at most.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=131_072;

/// Random bytes of a nonce.
const NONCE: usize = 24;

/// "n,,": no channel binding, nobody else's name.
const GS2_HEADER: &str = "n,,";

#[derive(Clone, Copy)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        }
    }
}

enum State {
    /// The first message is out, or will be.
    First,
    /// The proof is out; the broker's must be this one.
    Proof {
        server_key: hmac::Key,
        auth_message: String,
    },
    Over,
}

pub(super) struct Scram {
    hash: Hash,
    /// `n=login,r=nonce`
    first_bare: String,
    nonce: String,
    password: Secret,
    state: State,
}

impl Scram {
    pub(super) fn new(hash: Hash, login: &str, password: Secret) -> Self {
        let mut random = [0; NONCE];
        // The system's randomness does not fail on any platform that this runs on; a nonce of zeros would only weaken the proof.
        let nonce = match rand::SecureRandom::fill(&rand::SystemRandom::new(), &mut random) {
            Ok(()) => BASE64.encode(random),
            Err(_) => String::new(),
        };
        Scram::with_nonce(hash, login, password, nonce)
    }

    fn with_nonce(hash: Hash, login: &str, password: Secret, nonce: String) -> Self {
        let name = login.replace('=', "=3D").replace(',', "=2C");
        Scram { hash, first_bare: format!("n={name},r={nonce}"), nonce, password, state: State::First }
    }

    pub(super) fn first(&self) -> Vec<u8> {
        format!("{GS2_HEADER}{}", self.first_bare).into_bytes()
    }

    pub(super) fn password(&self) -> &Secret {
        &self.password
    }

    /// Takes the broker's message. `None`: the broker has proven that it knows the password.
    pub(super) fn answer(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let text = std::str::from_utf8(message).map_err(|_| broken("is no text"))?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::First => self.prove(text).map(Some),
            State::Proof { server_key, auth_message } => {
                verify(text, &server_key, &auth_message, &self.password).map(|()| None)
            }
            State::Over => Err(broken("comes behind the last one")),
        }
    }

    fn prove(&mut self, server_first: &str) -> Result<Vec<u8>, String> {
        if self.nonce.is_empty() {
            return Err("this machine gives no random numbers, and SCRAM needs some".to_owned());
        }
        let mut parts = server_first.split(',');
        let mut part = |name: &str| {
            let found = parts.next().and_then(|part| part.strip_prefix(name)?.strip_prefix('='));
            found.ok_or_else(|| broken(&format!("lacks {name:?} in its place")))
        };
        let nonce = part("r")?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(broken("does not go on with this client's nonce: it was meant for somebody else"));
        }
        let salt = BASE64.decode(part("s")?).map_err(|_| broken("has a salt that is not base64"))?;
        let iterations: u32 = part("i")?.parse().map_err(|_| broken("has no number of iterations"))?;
        if !ITERATIONS.contains(&iterations) {
            return Err(format!(
                "the broker asks for {iterations} iterations of SCRAM; between {} and {} are taken (its `iterations`, see \
                 kafka-configs.sh --alter --add-config 'SCRAM-SHA-...=[iterations=8192,password=...]')",
                ITERATIONS.start(),
                ITERATIONS.end()
            ));
        }
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);

        let mut salted = vec![0; self.hash.digest().output_len()];
        pbkdf2::derive(self.hash.pbkdf2(), iterations, &salt, self.password.expose().as_bytes(), &mut salted);
        let salted = hmac::Key::new(self.hash.hmac(), &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest(), client_key.as_ref());
        let without_proof = format!("c={},r={nonce}", BASE64.encode(GS2_HEADER));
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature =
            hmac::sign(&hmac::Key::new(self.hash.hmac(), stored_key.as_ref()), auth_message.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        let server_key = hmac::Key::new(self.hash.hmac(), server_key.as_ref());
        self.state = State::Proof { server_key, auth_message };
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())
    }
}

fn verify(
    server_final: &str,
    server_key: &hmac::Key,
    auth_message: &str,
    password: &Secret,
) -> Result<(), String> {
    let first = server_final.split(',').next().unwrap_or_default();
    if let Some(error) = first.strip_prefix("e=") {
        return Err(format!(
            "the broker refuses the proof of the password: {}; check sasl.login and the password",
            scrubbed(error, &[password.expose()])
        ));
    }
    let signature = first.strip_prefix("v=").and_then(|text| BASE64.decode(text).ok());
    let signature = signature.ok_or_else(|| broken("has no signature"))?;
    // In constant time.
    hmac::verify(server_key, auth_message.as_bytes(), &signature).map_err(|_| {
        "the broker does not know the password itself: it may be somebody else in its place, so nothing is sent to it".to_owned()
    })
}

fn broken(what: &str) -> String {
    format!("the broker's SCRAM message {what}; is it a Kafka broker?")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn client() -> Scram {
        Scram::with_nonce(Hash::Sha256, "user", "pencil".into(), "rOprNGfwEbeRWgbNEkqO".to_owned())
    }

    fn text(bytes: Option<Vec<u8>>) -> String {
        String::from_utf8(bytes.unwrap()).unwrap()
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let mut client = client();
        assert_eq!(client.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            text(client.answer(SERVER_FIRST.as_bytes()).unwrap()),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let server_final = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(client.answer(server_final), Ok(None));
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_found_out() {
        for forged in
            ["v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "v=6rriTRBi23WpRR/wtup+", "v=", "", "x=1"]
        {
            let mut client = client();
            client.answer(SERVER_FIRST.as_bytes()).unwrap();
            assert!(client.answer(forged.as_bytes()).is_err(), "{forged}");
        }
        let mut client = client();
        client.answer(SERVER_FIRST.as_bytes()).unwrap();
        let said = client.answer(b"e=invalid-proof of pencil").unwrap_err();
        assert!(said.contains("password: invalid-proof of ...; check"), "{said}");
    }

    #[test]
    fn what_a_hostile_broker_may_say_first_is_refused() {
        let r = "r=rOprNGfwEbeRWgbNEkqOxyz";
        for (hostile, why) in [
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0=,i=4096".to_owned(), "nonce"),
            ("r=somebodyelsesnonceandmore,s=W22ZaJ0=,i=4096".to_owned(), "nonce"),
            (format!("{r},s=W22ZaJ0=,i=4095"), "4095 iterations"),
            (format!("{r},s=W22ZaJ0=,i=131073"), "131073 iterations"),
            (format!("{r},s=W22ZaJ0=,i=4294967295"), "4294967295 iterations"),
            (format!("{r},s=W22ZaJ0=,i=99999999999"), "no number"),
            (format!("{r},s=W22ZaJ0=,i=-1"), "no number"),
            (format!("{r},s=!!,i=4096"), "base64"),
            (format!("{r},i=4096,s=W22ZaJ0="), "in its place"),
            (format!("m=ext,{r},s=W22ZaJ0=,i=4096"), "in its place"),
            (String::new(), "in its place"),
        ] {
            let said = client().answer(hostile.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{hostile}: {said}");
            assert!(!said.contains("pencil"), "{said}");
        }
        assert!(client().answer(b"\xff\xfe").is_err());
    }

    #[test]
    fn commas_and_equal_signs_in_a_login_do_not_become_attributes() {
        let client = Scram::with_nonce(Hash::Sha512, "a,b=c", "x".into(), "n".to_owned());
        assert_eq!(client.first(), b"n,,n=a=2Cb=3Dc,r=n");
    }

    #[test]
    fn nonces_differ() {
        let nonce = || Scram::new(Hash::Sha256, "a", "x".into()).nonce;
        assert_ne!(nonce(), nonce());
        assert_eq!(nonce().len(), 32);
    }
}
