//! Times and sizes as people write them: `20s`, `10MiB`; a plain number is milliseconds or bytes, as in Kafka's own
//! settings. Refuses what has two readings (`10M`), with what to write instead.

use std::time::Duration;

/// Splits `12.5MiB` into its number and its unit.
fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse::<f64>().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit.trim()))
}

/// A time: `250ms`, `20s`, `5min`, `1h`; a plain number is milliseconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "" | "ms" => number / 1e3,
        "us" => number / 1e6,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time; write 250ms, 20s, 5min or 1h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is too long a time"))
}

/// A size: `64KiB`, `10MiB`, `1MB`; a plain number is bytes.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text)?;
    let scale = match unit {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => {
            return Err(format!("{unit:?} is no unit of size; write bytes, KiB, MiB, GiB, kB, MB or GB"));
        }
    };
    let bytes = number * scale;
    // Up to here every whole number is exact.
    if bytes > 9e15 || bytes > usize::MAX as f64 {
        return Err(format!("{text:?} is too large a size"));
    }
    Ok(bytes as usize)
}

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
    fn a_plain_number_is_milliseconds_or_bytes_as_in_kafkas_settings() {
        assert_eq!(duration("5"), Ok(Duration::from_millis(5)));
        assert_eq!(size("1000000"), Ok(1_000_000));
    }

    #[test]
    fn units_are_read() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(size("10MiB"), Ok(10 << 20));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("0.5KiB"), Ok(512));
    }

    #[test]
    fn what_is_no_time_or_size_is_answered_with_what_would_be_one() {
        for bad in ["", "s", "-5", "5 parsecs", "1.2.3s", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "MiB", "-1", "10M", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size("10M").is_err_and(|message| message.contains("MiB")));
    }

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
