//! Which version of a library this binary was built with.

/// What `Cargo.lock` says of this package; "?" if nothing.
pub(crate) fn locked(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let of = |entry: &'static str| {
        let mut lines = entry.lines();
        let named = lines.find_map(|line| line.strip_prefix("name = "))?.trim_matches('"') == package;
        lines
            .find_map(|line| line.strip_prefix("version = "))
            .map(|text| text.trim_matches('"'))
            .filter(|_| named)
    };
    lock.split("[[package]]").find_map(of).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_knows_every_client() {
        for package in ["kafka-batcher", "rdkafka", "rskafka"] {
            assert_ne!(locked(package), "?");
        }
        assert_eq!(locked("no-such-package"), "?");
    }
}
