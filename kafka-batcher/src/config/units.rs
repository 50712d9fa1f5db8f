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
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "" | "ms" => number / 1e3,
        "us" => number / 1e6,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return Err(format!("{unit:?} is no unit of time; write 250ms, 20s, 5min, 1h or 7d")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is too long a time"))
}

/// A size: `64KiB`, `10MiB`, `1MB`; a plain number is bytes.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn size(text: &str) -> Result<usize, String> {
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

/// A time so that [`duration`] reads it back: `5ms`, `1min`.
pub(super) fn duration_text(time: Duration) -> String {
    let us = time.as_micros();
    match us {
        0 => "0".to_owned(),
        _ if us.is_multiple_of(86_400_000_000) => format!("{}d", us / 86_400_000_000),
        _ if us.is_multiple_of(3_600_000_000) => format!("{}h", us / 3_600_000_000),
        _ if us.is_multiple_of(60_000_000) => format!("{}min", us / 60_000_000),
        _ if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        _ if us.is_multiple_of(1000) => format!("{}ms", us / 1000),
        _ => format!("{us}us"),
    }
}

/// A size so that [`size`] reads it back: `64MiB`; a plain number where no unit is exact.
pub(super) fn size_text(bytes: u64) -> String {
    match bytes {
        n if n >= 1 << 30 && n.is_multiple_of(1 << 30) => format!("{}GiB", n >> 30),
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
        n => n.to_string(),
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
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
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
    fn what_is_written_is_read_back_as_it_was() {
        for ms in [0, 1, 5, 999, 1000, 60_000, 90_000, 3_600_000, 86_400_000] {
            let time = Duration::from_millis(ms);
            assert_eq!(duration(&duration_text(time)), Ok(time));
        }
        assert_eq!(duration(&duration_text(Duration::from_micros(250))), Ok(Duration::from_micros(250)));
        for bytes in [0, 1, 1000, 1024, 1_000_000, 1 << 20, 10 << 30, (1 << 30) + 1] {
            assert_eq!(size(&size_text(bytes)), Ok(bytes as usize));
        }
    }
}
