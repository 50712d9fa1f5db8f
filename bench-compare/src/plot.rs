//! The frontier: what a client's events cost beside how long they take, at each rate, as a picture of what `run --json` wrote.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use plotters::prelude::*;
use serde_json::Value;

/// Draw latency against CPU, at each rate, out of the JSON of a run
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What `run --json` wrote; of several, the later wins
    #[arg(required = true)]
    figures: Vec<PathBuf>,

    /// Where to draw it, as SVG
    #[arg(long)]
    svg: PathBuf,

    /// Of which target
    #[arg(long, default_value = "kafka")]
    target: String,
}

/// A client with one linger: its points, by rate.
type Series = BTreeMap<u64, Point>;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    /// CPU seconds for a million events, without pacing.
    cpu: f64,
    /// The median of the rounds' medians, in milliseconds.
    p50: f64,
}

/// Draws it.
///
/// # Errors
/// The figures cannot be read, hold nothing with a rate, or the picture cannot be written.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut all = BTreeMap::new();
    for path in &args.figures {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
        let figures = serde_json::from_str(&text).with_context(|| format!("{name} is not JSON"))?;
        collect(&figures, &args.target, &mut all)
            .with_context(|| format!("{name} is not what `run --json` writes"))?;
    }
    ensure!(!all.is_empty(), "there is no scenario with a rate against {} in there", args.target);
    draw(args, &all).map_err(|error| anyhow!("{}: {error}", args.svg.display()))
}

/// By client and linger.
type All = BTreeMap<(String, String), Series>;

fn collect(figures: &Value, target: &str, all: &mut All) -> anyhow::Result<()> {
    let measured = figures["measured"].as_array().context("no list `measured`")?;
    for scenario in measured.iter().filter(|scenario| scenario["target"] == target) {
        let word = |name: &str| {
            let words = scenario["job"].as_array()?.iter();
            let found =
                words.filter_map(|word| word.as_str()?.strip_prefix(name)?.strip_prefix('=')).next()?;
            found.parse::<u64>().ok()
        };
        let (rate, linger) = (word("rate").context("no rate")?, word("linger_us").context("no linger_us")?);
        // Trickling into 2 000 partitions is about memory.
        if rate == 0 || word("partitions") != Some(16) {
            continue;
        }
        for client in scenario["clients"].as_array().context("no list `clients`")? {
            let runs = client["runs"].as_array().context("no list `runs`")?;
            let p50 = runs.iter().filter_map(|run| run["line"]["latency"]["p50_us"].as_f64());
            let (Some(p50), Some(cpu)) =
                (crate::stats::Spread::of(p50), client["cpu_s_per_million_without_pacing"].as_f64())
            else {
                continue;
            };
            // What keeps the pace alone costs, less itself, nothing: it is no client.
            let name = client["client"].as_str().context("a client without a name")?;
            if name.starts_with("pacing-") {
                continue;
            }
            if cpu <= 0.0 {
                eprintln!(
                    "{name} at {rate}/s costs no more than its pacing, as far as the clock can tell: left out"
                );
            } else {
                let point = Point { cpu, p50: p50.median / 1e3 };
                let linger = format!("{} ms", linger as f64 / 1e3);
                all.entry((name.to_owned(), linger)).or_default().insert(rate, point);
            }
        }
    }
    Ok(())
}

/// Dark enough for thin lines and small letters.
const COLOURS: [(u8, u8, u8); 6] =
    [(220, 50, 47), (0, 128, 0), (38, 100, 210), (148, 0, 211), (190, 110, 20), (90, 90, 90)];

fn draw(args: &Args, all: &All) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let points = || all.values().flat_map(BTreeMap::values);
    let around = |of: fn(&Point) -> f64| {
        let (least, most) = points().map(of).fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        least / 1.5..most * 1.5
    };
    let root = SVGBackend::new(&args.svg, (1100, 700)).into_drawing_area();
    root.fill(&WHITE)?;
    let cpu = around(|point| point.cpu);
    // Room for the legend at the right.
    let cpu = cpu.start..cpu.end * (cpu.end / cpu.start).powf(0.35);
    let mut chart = ChartBuilder::on(&root)
        .margin(20)
        .x_label_area_size(45)
        .y_label_area_size(60)
        .caption("Latency against CPU, by rate (left and below is better)", ("sans-serif", 20))
        .build_cartesian_2d(cpu.log_scale(), around(|point| point.p50).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("CPU seconds of the client for 10^6 events, pacing subtracted")
        .y_desc("median from acceptance to acknowledgement, ms")
        .light_line_style(WHITE)
        .draw()?;
    let mut clients: Vec<&str> = all.keys().map(|(client, _)| client.as_str()).collect();
    clients.dedup();
    for ((client, linger), series) in all {
        // A colour for each client; what has no linger is drawn thin.
        let at = clients.iter().position(|other| other == client).unwrap_or(0);
        let (red, green, blue) = COLOURS[at % COLOURS.len()];
        let colour = RGBColor(red, green, blue);
        let style = colour.stroke_width(if linger == "0 ms" { 1 } else { 3 });
        let line: Vec<(f64, f64)> = series.values().map(|point| (point.cpu, point.p50)).collect();
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style).point_size(3))?
            .label(format!("{client}, linger {linger}"))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
        let name = |(rate, point): (&u64, &Point)| {
            let text = format!("{} k/s", rate / 1_000);
            Text::new(text, (point.cpu, point.p50), ("sans-serif", 11).into_font().color(&colour))
        };
        chart.draw_series(series.iter().map(name))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figures(rate: u64, partitions: u64) -> Value {
        let client = |name: &str, cpu: f64| {
            let runs = [3000, 1000, 2000].map(|p50| json!({"line": {"latency": {"p50_us": p50}}}));
            json!({"client": name, "cpu_s_per_million_without_pacing": cpu, "runs": runs})
        };
        let job = [format!("rate={rate}"), "linger_us=5000".to_owned(), format!("partitions={partitions}")];
        let clients = [client("ours-send", 1.5), client("pacing-rust", 0.1)];
        json!({"measured": [{"target": "kafka", "job": job, "clients": clients}]})
    }

    #[test]
    fn a_point_is_a_client_at_a_rate_and_its_median() {
        let mut all = All::new();
        collect(&figures(1_000, 16), "kafka", &mut all).unwrap();
        collect(&figures(10_000, 16), "kafka", &mut all).unwrap();
        collect(&figures(2_000, 2_000), "kafka", &mut all).unwrap();
        collect(&figures(5_000, 16), "sink", &mut all).unwrap();
        collect(&figures(0, 16), "kafka", &mut all).unwrap();
        let point = Point { cpu: 1.5, p50: 2.0 };
        let series = BTreeMap::from([(1_000, point), (10_000, point)]);
        assert_eq!(all, All::from([(("ours-send".to_owned(), "5 ms".to_owned()), series)]));
    }

    #[test]
    fn what_is_no_run_is_refused_and_nothing_to_draw_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (json, svg) = (dir.path().join("figures.json"), dir.path().join("frontier.svg"));
        let args = Args { figures: vec![json.clone()], svg: svg.clone(), target: "kafka".to_owned() };
        let said = |text: &str| {
            std::fs::write(&json, text).unwrap();
            format!("{:#}", run(&args).unwrap_err())
        };
        assert!(said("[").contains("is not JSON"));
        assert!(said("{}").contains("is not what `run --json` writes"));
        assert!(said(&figures(0, 16).to_string()).contains("no scenario with a rate"));
        std::fs::write(&json, figures(1_000, 16).to_string()).unwrap();
        run(&args).unwrap();
        let drawn = std::fs::read_to_string(&svg).unwrap();
        assert!(drawn.contains("ours-send, linger 5 ms") && drawn.contains("1 k/s"));
    }
}
