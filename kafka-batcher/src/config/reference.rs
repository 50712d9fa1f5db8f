//! The table for people: CONFIGURATION.md, and a commented file to begin with.

use std::fmt::Write;

use super::table::{
    ALIASES, CollectorSettings, MetricsConfig, SaslConfig, SettingRow, Settings, SpoolConfig, SslConfig,
};

/// The text of CONFIGURATION.md.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    let sections = [
        (
            "Application-wide",
            "At the top of the file; in code `KafkaBatcher::builder(..).settings(|s| ..)`.",
            Settings::rows(),
        ),
        (
            "Collector",
            "In a table `[[collectors]]` beside its `topic_name`, or at the top of the file for all collectors; in code \
             `batcher.collector(..).settings(|s| ..)` or `Builder::collector_defaults`.",
            CollectorSettings::rows(),
        ),
        (
            "Spool",
            "In the table `[spool]`; in code `Builder::spool(dir)` and its neighbours.",
            SpoolConfig::rows(),
        ),
        (
            "TLS",
            "In the table `[ssl]`, or just `ssl = true` at the top of the file; in code `Builder::ssl`.",
            SslConfig::rows(),
        ),
        ("SASL", "In the table `[sasl]`; in code `Builder::sasl`.", SaslConfig::rows()),
        (
            "Metrics",
            "In the table `[metrics]`; in code `Builder::metrics`. Whether there are any is a collector's `telemetry`; where they are served is \
             the program's affair, or the option `--metrics-addr` of `kafka-batcher produce`.",
            MetricsConfig::rows(),
        ),
    ];
    for (title, how, rows) in sections {
        let _ = write!(
            out,
            "\n## {title}\n\n{how}\n\n| setting | default | unit | what it does |\n|---|---|---|---|\n"
        );
        for row in rows {
            let default = match row.name {
                "endpoints" => "required".to_owned(),
                _ => row.default.map_or("unset".to_owned(), |default| format!("`{default}`")),
            };
            let _ = writeln!(out, "| `{}` | {default} | {} | {} |", row.name, row.unit, row.text);
        }
    }
    out += "\n## Other names\n\n| name | is |\n|---|---|\n";
    for (alias, name) in ALIASES {
        let _ = writeln!(out, "| `{alias}` | `{name}` |");
    }
    out
}

const HEAD: &str = "# Configuration

Generated from the table in `kafka-batcher/src/config/table.rs`; a test compares.

A file is TOML: settings of the whole batcher and defaults of all collectors at the top, then the tables `[spool]`, `[ssl]`,
`[sasl]`, `[metrics]` and `[[collectors]]`, one for each topic, with its `topic_name` and whatever differs. Times are milliseconds or a text such as
`\"250ms\"`, `\"20s\"`, `\"5min\"`, `\"1h\"`, `\"7d\"`; sizes are bytes or `\"64KiB\"`, `\"10MiB\"`, `\"1GB\"`; what is unset by default
can be unset again with `\"off\"`.

Later ones win: built-in < top of the file < collector < environment < command line. What counts is whether a value was given, not
what it is. The environment is `KAFKA_BATCHER__KEY`, `KAFKA_BATCHER__SPOOL__KEY` (and `SSL`, `SASL`, `METRICS`) and
`KAFKA_BATCHER__COLLECTORS__0__KEY` (two underscores); a key at the top goes for every collector there, too.

`kafka-batcher config check FILE` tells every mistake at once, with its place; `config show FILE` the values in effect and where
each comes from; `config init > FILE` makes one to begin with. In code: `Config::from_file`, `KafkaBatcher::from_config`.
";

/// A file to begin with: every setting with its words, its default commented out.
pub fn commented_file() -> String {
    let mut out = String::from(
        "# kafka-batcher. A line that begins with # is a comment; the values behind # are the built-in ones.\n\
         # Check it with: kafka-batcher config check FILE\n\n",
    );
    for row in Settings::rows() {
        match row.name {
            "endpoints" => {
                comment(&mut out, &row.text);
                out += "endpoints = [\"127.0.0.1:9092\"]\n\n";
            }
            _ => setting(&mut out, &row),
        }
    }
    out += "# ---- for every collector that says nothing else\n\n";
    CollectorSettings::rows().iter().for_each(|row| setting(&mut out, row));
    out += "# ---- where events are kept while Kafka does not take them\n\n[spool]\n\n";
    SpoolConfig::rows().iter().for_each(|row| setting(&mut out, row));
    out += "# ---- a secured cluster: take the # and the space away from the table's name and from what is set in it\n\n# [ssl]\n\n";
    SslConfig::rows().iter().for_each(|row| optional(&mut out, row));
    out += "# [sasl]\n\n";
    SaslConfig::rows().iter().for_each(|row| optional(&mut out, row));
    out += "# ---- how metrics are called and grouped\n\n[metrics]\n\n";
    MetricsConfig::rows().iter().for_each(|row| setting(&mut out, row));
    out += "# ---- one table for each topic; whatever stands above may be said again here for that topic alone\n\n\
            [[collectors]]\ntopic_name = \"events\"\n";
    out
}

fn setting(out: &mut String, row: &SettingRow) {
    comment(out, &row.text);
    let _ = match (&row.default, row.name) {
        (Some(default), name) => writeln!(out, "#{name} = {default}\n"),
        (None, name) => writeln!(out, "#{name} =\n"),
    };
}

/// Of a table that is not there unless somebody wants it.
fn optional(out: &mut String, row: &SettingRow) {
    comment(out, &row.text);
    let default = row.default.as_ref().map(|default| format!(" {default}"));
    let _ = writeln!(out, "# {} ={}\n", row.name, default.unwrap_or_default());
}

/// Lines of at most 100 characters.
fn comment(out: &mut String, text: &str) {
    let mut length = 0;
    for word in text.split_whitespace() {
        if length + word.chars().count() + 1 > 100 {
            out.push('\n');
            length = 0;
        }
        if length == 0 {
            out.push('#');
        }
        out.push(' ');
        out.push_str(word);
        length += word.chars().count() + 1;
    }
    out.push('\n');
}
