//! What an event costs the thread that emits it, in instructions and allocations: counted by valgrind, so that the count of one
//! machine holds on another, whatever else that runs.
//!
//! Callgrind counts between the beginning and the end of `callers_side` (drive.rs) on the thread that is in it; what threads of the
//! client do beside it counts nowhere. Each client runs twice, with so many events and with twice as many, and the difference is what
//! the second half costs: connecting, warming up and first allocations are in neither figure. Allocations are calls of the C
//! library's malloc and its relatives, so that those of librdkafka count as those of Rust do.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::child;
use crate::job::Job;
use crate::line::Line;
use crate::roster::{Entry, Program, ROSTER};
use crate::scenario::SCENARIOS;
use crate::target::Target;

/// The function within which is counted, as in the symbols of drive.rs.
const COUNTED: &str = "*callers_side*";

/// What allocates, by its name in the C library; each may be known by either.
const ALLOCATORS: [&str; 6] = ["malloc", "calloc", "realloc", "memalign", "aligned_alloc", "posix_memalign"];

/// Count instructions and allocations per event on the thread that emits, by valgrind's callgrind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A client in Rust; may be repeated
    #[arg(long, value_name = "NAME", value_parser = Entry::find)]
    client: Vec<Entry>,

    /// Events of the first run; the second has twice as many
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1000..))]
    count: u64,

    /// The most instructions that an event may cost with any of these clients; exit code 1 if one takes more
    #[arg(long, value_name = "N")]
    at_most: Option<u64>,
}

/// Counts, and prints a table. False: a client takes more than it may.
///
/// # Errors
/// There is no valgrind, or a client does not run under it.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    let there = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    ensure!(
        there.is_ok_and(|status| status.success()),
        "valgrind is not installed (Debian: apt-get install valgrind)"
    );
    let clients = if args.client.is_empty() { ROSTER } else { args.client.as_slice() };
    let target = Target::sink(Duration::ZERO)?;
    let mut within = true;
    println!("| client | instructions per event | allocations per event |\n|---|---|---|");
    for client in clients {
        // What keeps the pace and sends nothing shows what the measuring itself costs: it is in all the others.
        if !matches!(client.program, Program::Rust(_)) || client.is_floor() {
            continue;
        }
        let first = counted(&target, client, args.count)?;
        let second = counted(&target, client, 2 * args.count)?;
        let per_event = |first: u64, second: u64| second.saturating_sub(first) as f64 / args.count as f64;
        let instructions = per_event(first.instructions, second.instructions);
        let allocations = per_event(first.allocations, second.allocations);
        println!("| {} | {instructions:.0} | {allocations:.3} |", client.name);
        if let Some(most) = args.at_most.filter(|most| instructions > *most as f64) {
            eprintln!(
                "bench-compare: {} takes {instructions:.0} instructions for an event, not {most}",
                client.name
            );
            within = false;
        }
    }
    Ok(within)
}

fn counted(target: &Target, client: &Entry, count: u64) -> anyhow::Result<Counted> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind.out");
    // Under valgrind a batch would be sealed by its time, not full: what it costs per batch would weigh as nowhere else.
    let linger = Duration::from_secs(1);
    let mut job =
        Job { count, linger, warm_up: 10_000, dir: dir.path().join("spool"), ..SCENARIOS[0].job(false) };
    job.topic = format!("instructions.{}.{count}.{}", client.name, std::process::id());
    job.brokers = target.bootstrap().to_owned();
    target.create(&job.topic, job.partitions)?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"]);
    command.arg(format!("--toggle-collect={COUNTED}")).arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(std::env::current_exe()?).args(["client", client.name]).args(job.words());
    // Some fifty times slower than the processor, and one thread at a time.
    let text = child::output(command, Duration::from_secs(600))?;
    Line::parse(&text, &job).with_context(|| client.name.to_owned())?;
    target.delete(&job.topic)?;
    let counted = Counted::read(&out)?;
    ensure!(
        counted.instructions > 0,
        "callgrind has not seen {COUNTED}: was this program built without symbols?"
    );
    Ok(counted)
}

/// What one run of callgrind says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    instructions: u64,
    allocations: u64,
}

impl Counted {
    fn read(path: &Path) -> anyhow::Result<Counted> {
        let text = std::fs::read_to_string(path).context("callgrind's output")?;
        Counted::parse(&text).context("callgrind's output has no totals")
    }

    /// Of the format, which valgrind's manual describes: `fn=` names the function that the lines after it are of, `cfn=` the one that
    /// the next `calls=` is of.
    fn parse(text: &str) -> Option<Counted> {
        let (mut inside, mut called) = (false, false);
        let (mut instructions, mut allocations) = (None, 0);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                inside = allocates(name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = allocates(name);
            } else if let Some(rest) = line.strip_prefix("calls=") {
                let count = rest.split(' ').next().and_then(|count| count.parse::<u64>().ok())?;
                // An allocator that calls another is one allocation.
                allocations += if called && !inside { count } else { 0 };
            } else if let Some(total) =
                line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: "))
            {
                instructions = total.split(' ').next().and_then(|total| total.parse().ok()).max(instructions);
            }
        }
        Some(Counted { instructions: instructions?, allocations })
    }
}

/// By a name of callgrind's: an optional `(number)`, the function, an optional `'` and how deep it recurs.
fn allocates(name: &str) -> bool {
    let name = name.rsplit(") ").next().unwrap_or(name);
    let name = name.split('\'').next().unwrap_or(name);
    let name = name.strip_prefix("__libc_").unwrap_or(name);
    ALLOCATORS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_and_allocations_are_read_from_callgrinds_output() {
        let text = "events: Ir\n\nfn=bench::callers_side\n10 5\ncfn=malloc\ncalls=3 0\n11 300\ncfn=memcpy\ncalls=9 0\n12 90\n\n\
                    fn=realloc\n20 7\ncfn=malloc\ncalls=2 0\n21 200\n\nfn=(8) grow\ncfn=(9) realloc'2\ncalls=2 0\n1 1\n\ntotals: 605\n";
        assert_eq!(Counted::parse(text), Some(Counted { instructions: 605, allocations: 5 }));
        assert_eq!(Counted::parse("events: Ir\n"), None);
    }
}
