//! Times and sizes as people write them (read by the library, as in a configuration file), and numbers as they read them.

use std::time::Duration;

pub(crate) use kafka_batcher::config::units::{duration, size};

/// 1234567 as `1 234 567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// `1 batch`, `1 234 batches`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A size for people: `1.8 MB`.
pub(crate) fn bytes(number: u64) -> String {
    let number = number as f64;
    match number {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n:.0} B"),
    }
}

/// A time for people: `250 ms`, `1.25 s`.
pub(crate) fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    match s {
        _ if s >= 100.0 => format!("{s:.0} s"),
        _ if s >= 1.0 && time.subsec_nanos() == 0 => format!("{s:.0} s"),
        _ if s >= 1.0 => format!("{s:.2} s"),
        _ if s >= 0.001 || s == 0.0 => format!("{:.1} ms", s * 1e3),
        _ => format!("{:.0} us", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(123), "123");
        assert_eq!(bytes(1_800_000), "1.8 MB");
        assert_eq!(seconds(Duration::from_micros(250)), "250 us");
        assert_eq!(seconds(Duration::from_secs(30)), "30 s");
        assert_eq!(counted(1, "batch", "batches"), "1 batch");
        assert_eq!(counted(1000, "batch", "batches"), "1 000 batches");
        assert_eq!(seconds(Duration::from_millis(1250)), "1.25 s");
    }
}
