//! What a scrape of Prometheus' text format says, read by code that shares nothing with what wrote it.

use std::collections::BTreeMap;

/// The samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// By name and labels, the labels sorted.
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
    /// Each name's type.
    types: BTreeMap<String, String>,
}

impl Scrape {
    /// Reads the text format 0.0.4.
    ///
    /// # Panics
    /// At a line that is none of it, and at a sample that comes twice.
    pub fn parse(text: &str) -> Scrape {
        let mut scrape = Scrape::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            } else if !line.starts_with('#') && !line.is_empty() {
                let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                let (name, labels) = match sample.split_once('{') {
                    Some((name, labels)) => (name, read_labels(labels.trim_end_matches('}'))),
                    None => (sample, BTreeMap::new()),
                };
                let before = scrape.samples.insert((name.to_owned(), labels), value);
                assert!(before.is_none(), "twice: {line}");
            }
        }
        scrape
    }

    /// The sum of all samples of this name that have these labels among theirs; `None`: there is no such sample.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
        };
        let found = self.samples.iter().filter(|((sample, labels), _)| sample == name && fits(labels));
        found.map(|(_, value)| *value).reduce(|a, b| a + b)
    }

    /// As [`Scrape::get`].
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("there is no {name} {labels:?}"))
    }

    /// The names with a type.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// The names of samples.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.samples.keys().map(|(name, _)| name.as_str())
    }

    /// How many samples have this name.
    pub fn series(&self, name: &str) -> usize {
        self.samples.keys().filter(|(sample, _)| sample == name).count()
    }

    /// How many samples have labels like these.
    pub fn count(&self, like: impl Fn(&BTreeMap<String, String>) -> bool) -> usize {
        self.samples.keys().filter(|(_, labels)| like(labels)).count()
    }

    /// Holds the equation of accounting against what is said of a topic: what came in is somewhere.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn balances(&self, prefix: &str, topic: &str) {
        let of = |name: &str| self.value(&format!("{prefix}_{name}"), &[("topic", topic)]);
        let came = of("events_accepted_total") + of("events_recovered_total");
        let are = of("events_delivered_total") + of("events_lost_total") + of("events");
        assert_eq!(came, are, "{topic}: {self:?}");
    }

    /// Looks whether what counts upwards does so between two scrapes of one process.
    ///
    /// # Panics
    /// If a counter, or a count of a histogram, fell or is gone.
    pub fn follows(&self, earlier: &Scrape) {
        for ((name, labels), before) in &earlier.samples {
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            let kind = |name: &str| self.types.get(name).map(String::as_str);
            let counts = kind(name) == Some("counter") || family.and_then(kind) == Some("histogram");
            let now = self.samples.get(&(name.clone(), labels.clone()));
            assert!(
                !counts || now.is_some_and(|now| now >= before),
                "{name} {labels:?}: {before}, then {now:?}"
            );
        }
    }
}

fn read_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, quoted)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c)) => value.push(c),
                    None => panic!("a label that does not end: {text}"),
                },
                Some((_, c)) => value.push(c),
                None => panic!("a label that does not end: {text}"),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "a label twice: {text}");
        rest = quoted.get(end + 1..).unwrap_or_default().trim_start_matches(',');
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_some_of_their_labels_and_summed() {
        let text =
            "# HELP a Words.\n# TYPE a counter\na{x=\"1\",y=\"\\\"q\\\\\"} 2\na{x=\"1\",y=\"r\"} 3.5\nb 7\n";
        let scrape = Scrape::parse(text);
        assert_eq!(scrape.get("a", &[("x", "1")]), Some(5.5));
        assert_eq!(scrape.get("a", &[("y", "\"q\\")]), Some(2.0));
        assert_eq!((scrape.get("b", &[]), scrape.get("c", &[])), (Some(7.0), None));
        assert_eq!(scrape.families().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    #[should_panic(expected = "then Some(1.0)")]
    fn a_counter_that_falls_is_noticed() {
        let earlier = Scrape::parse("# TYPE a counter\na 2\n");
        Scrape::parse("# TYPE a counter\na 1\n").follows(&earlier);
    }
}
