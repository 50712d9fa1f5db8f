//! An address as people write it: `host:port`, `host`, `[::1]:9092`.

use std::fmt;

/// The port of a Kafka broker where none is given.
const DEFAULT_PORT: u16 = 9092;

/// A host and a port, not resolved: names are looked up at every connect, since they move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Reads `host:port`, or `host` alone for port 9092. IPv6 addresses need brackets: `[::1]:9092`. Spaces around it
    /// do not matter.
    ///
    /// # Errors
    /// [`EndpointError`] with what is wrong and what would be right.
    pub fn parse(given: &str) -> Result<Self, EndpointError> {
        let fail = |problem: String| Err(EndpointError { given: given.to_owned(), problem });
        let text = given.trim();
        if text.is_empty() {
            return fail("it is empty".to_owned());
        }
        if let Some((scheme, _)) = text.split_once("://") {
            let secured = ["SSL", "SASL_SSL", "SASL_PLAINTEXT"];
            if secured.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
                return fail(format!(
                    "it begins with {scheme:?}; leave out \"{scheme}://\": TLS is turned on by ssl = true or the table [ssl], \
                     SASL by the table [sasl]"
                ));
            }
            return fail(format!("it begins with {scheme:?}; leave out \"{scheme}://\""));
        }
        if text.contains(',') {
            return fail("it holds a comma; give each address by itself".to_owned());
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, rest)) if host.parse::<std::net::Ipv6Addr>().is_ok() => match rest
                    .strip_prefix(':')
                {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return fail(format!("{rest:?} follows the bracket, where \":port\" should be")),
                },
                Some((host, _)) => return fail(format!("{host:?} in brackets is not an IPv6 address")),
                None => return fail("the closing bracket is missing".to_owned()),
            },
            None => match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => {
                    return fail("an IPv6 address needs brackets around it".to_owned());
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return fail("the host is missing".to_owned());
        }
        if let Some(odd) =
            host.chars().find(|c| c.is_whitespace() || c.is_control() || "/\\@?#\"'".contains(*c))
        {
            return fail(format!("{odd:?} cannot be part of a host"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse::<u16>() {
                Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
                _ => return fail(format!("{port:?} is not a port (1 to 65535)")),
            },
        };
        Ok(Endpoint { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not an address: {problem}; write host:port, host (port 9092) or [::1]:9092")]
pub struct EndpointError {
    /// As it was given.
    pub given: String,
    /// What is wrong with it.
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, host, port) in [
            ("127.0.0.1:9092", "127.0.0.1", 9092),
            ("kafka", "kafka", 9092),
            ("  broker-1.example.org:19092 ", "broker-1.example.org", 19092),
            ("[::1]:9093", "::1", 9093),
            ("[2001:db8::1]", "2001:db8::1", 9092),
            ("kafka_1:1", "kafka_1", 1),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text:?}");
            assert_eq!(Endpoint::parse(&endpoint.to_string()).unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "it is empty"),
            ("  ", "it is empty"),
            (":9092", "the host is missing"),
            ("kafka:", "\"\" is not a port"),
            ("kafka:0", "\"0\" is not a port"),
            ("kafka:65536", "\"65536\" is not a port"),
            ("kafka:+9092", "\"+9092\" is not a port"),
            ("kafka:nine", "\"nine\" is not a port"),
            ("::1", "an IPv6 address needs brackets"),
            ("::1:9092", "an IPv6 address needs brackets"),
            ("[::1", "the closing bracket is missing"),
            ("[kafka]:9092", "\"kafka\" in brackets is not an IPv6 address"),
            ("[::1]9092", "\"9092\" follows the bracket"),
            ("PLAINTEXT://kafka:9092", "leave out \"PLAINTEXT://\""),
            ("SSL://kafka:9093", "leave out \"SSL://\": TLS is turned on by ssl = true"),
            ("SASL_SSL://kafka:9093", "SASL by the table [sasl]"),
            ("sasl_plaintext://kafka:9093", "leave out \"sasl_plaintext://\""),
            ("a:1,b:2", "give each address by itself"),
            ("my host:9092", "' ' cannot be part of a host"),
            ("user@host:9092", "'@' cannot be part of a host"),
        ] {
            let said = Endpoint::parse(text).unwrap_err().to_string();
            assert!(said.contains(reason), "{text:?}: {said}");
            assert!(said.starts_with(&format!("{text:?} is not an address")), "{said}");
        }
    }
}
