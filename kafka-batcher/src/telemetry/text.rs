//! The two text formats in which metrics are served.

use prometheus::proto::MetricFamily;
use prometheus::{TEXT_FORMAT, TextEncoder};

/// A format of Prometheus metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextFormat {
    /// The text format 0.0.4, which everything reads.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0, for who asks for it.
    OpenMetrics,
}

impl TextFormat {
    /// What an `Accept` header asks for: OpenMetrics if it is named there with any weight but 0 (Prometheus names it first), else
    /// the text format.
    pub fn from_accept(accept: &str) -> Self {
        let named = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let refused = |part: &str| {
                part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0)
            };
            parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"))
                && !parts.any(refused)
        };
        if accept.split(',').any(named) { TextFormat::OpenMetrics } else { TextFormat::Prometheus }
    }

    /// The value of the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            TextFormat::Prometheus => TEXT_FORMAT,
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Families as text. What cannot be encoded (a family of the program's own without a metric) is left out.
    pub fn encode(self, families: &[MetricFamily]) -> String {
        let mut text = String::new();
        for family in families {
            let length = text.len();
            if let Err(error) = TextEncoder::new().encode_utf8(std::slice::from_ref(family), &mut text) {
                text.truncate(length);
                tracing::debug!(%error, "a metric cannot be shown");
            }
        }
        match self {
            TextFormat::Prometheus => text,
            TextFormat::OpenMetrics => open_metrics(&text),
        }
    }
}

/// The text format made into the other. They differ in little: OpenMetrics names a counter without its `_total`, writes bounds
/// as floats, escapes quotes in words, and ends with a mark.
fn open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut help = None;
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("# HELP ") {
            // The type behind it decides about the name.
            help = words.split_once(' ').map(|(_, words)| words.replace('"', "\\\""));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            // A counter of the program's own that is not called so cannot be one here.
            let (name, kind) = match (kind, name.strip_suffix("_total")) {
                ("counter", Some(name)) => (name, kind),
                ("counter", None) => (name, "unknown"),
                _ => (name, kind),
            };
            out += &format!("# TYPE {name} {kind}\n");
            if let Some(words) = help.take() {
                out += &format!("# HELP {name} {words}\n");
            }
        } else {
            out += &float_bound(line);
            out.push('\n');
        }
    }
    out += "# EOF\n";
    out
}

/// `le="1"` as `le="1.0"`. No other label of a bucket is called so, and ours comes last.
fn float_bound(line: &str) -> String {
    const BOUND: &str = "le=\"";
    let bound = line.rfind(BOUND).map(|at| at + BOUND.len()).filter(|_| line.contains("_bucket{"));
    let end = bound.and_then(|from| Some(from + line.get(from..)?.find('"')?));
    match bound.zip(end) {
        Some((from, to)) if line.get(from..to).is_some_and(|digits| digits.parse::<i64>().is_ok()) => {
            let (before, behind) = line.split_at(to);
            format!("{before}.0{behind}")
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

    use super::*;

    #[test]
    fn whoever_asks_for_open_metrics_gets_it_and_everybody_else_the_text_format() {
        let prometheus_2_42 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                               text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(TextFormat::from_accept(prometheus_2_42), TextFormat::OpenMetrics);
        for other in ["", "*/*", "text/plain;version=0.0.4", "text/html, application/openmetrics-text; q=0"] {
            assert_eq!(TextFormat::from_accept(other), TextFormat::Prometheus, "{other:?}");
        }
    }

    #[test]
    fn open_metrics_names_counters_without_total_writes_bounds_as_floats_and_ends() {
        let registry = Registry::new();
        let counter = IntCounter::new("sent_total", "Sent \"all\".").unwrap();
        let odd = IntCounter::new("odd", "Not called a total.").unwrap();
        let waits = HistogramOpts::new("waits", "Waits.").buckets(vec![0.5, 1.0]).const_label("le_z", "7");
        let waits = Histogram::with_opts(waits).unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        registry.register(Box::new(odd)).unwrap();
        registry.register(Box::new(waits.clone())).unwrap();
        counter.inc();
        waits.observe(0.75);
        let text = TextFormat::OpenMetrics.encode(&registry.gather());
        let expected = "# TYPE odd unknown\n# HELP odd Not called a total.\nodd 0\n\
                        # TYPE sent counter\n# HELP sent Sent \\\"all\\\".\nsent_total 1\n\
                        # TYPE waits histogram\n# HELP waits Waits.\nwaits_bucket{le_z=\"7\",le=\"0.5\"} 0\n\
                        waits_bucket{le_z=\"7\",le=\"1.0\"} 1\nwaits_bucket{le_z=\"7\",le=\"+Inf\"} 1\n\
                        waits_sum{le_z=\"7\"} 0.75\nwaits_count{le_z=\"7\"} 1\n# EOF\n";
        assert_eq!(text, expected);
    }
}
