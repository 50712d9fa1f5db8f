//! The clients in Go and Java: built when they are needed and their tools are there; otherwise it is said why they are not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::roster::{Language, Program};

/// What can be started. A reason in place of what cannot; none where nobody wants it.
pub(crate) struct Foreign {
    go: Result<PathBuf, Option<String>>,
    java: Result<String, Option<String>>,
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the results go: beside those of cargo.
fn out() -> PathBuf {
    here().join("target").join("foreign")
}

impl Foreign {
    /// Builds what is wanted of them. What cannot be built is missing: the others are measured all the same.
    pub(crate) fn build(go: bool, java: bool) -> Foreign {
        let said = |error: anyhow::Error| Some(format!("{error:#}"));
        Foreign {
            go: if go { build_go().map_err(said) } else { Err(None) },
            java: if java { build_java().map_err(said) } else { Err(None) },
        }
    }

    /// What starts this program, to be completed with the words of its job; none: it is missing.
    ///
    /// # Errors
    /// This program does not find itself.
    pub(crate) fn command(&self, name: &str, program: Program) -> anyhow::Result<Option<Command>> {
        let what = |sends| if sends { "send" } else { "nothing" };
        Ok(match program {
            Program::Rust(_) => {
                let exe = std::env::current_exe().context("this program does not find itself")?;
                let mut command = Command::new(exe);
                command.args(["client", name]);
                Some(command)
            }
            Program::Go { sends } => self.go.as_ref().ok().map(|binary| {
                let mut command = Command::new(binary);
                command.arg(what(sends));
                command
            }),
            Program::Java { sends } => self.java.as_ref().ok().map(|class_path| {
                let mut command = Command::new("java");
                let log = here().join("..").join("dev").join("log4j2.xml");
                command.arg(format!("-Dlog4j2.configurationFile={}", log.display()));
                // Half a gigabyte is enough for all that is sent.
                command.args([
                    "-Xms512m",
                    "-Xmx512m",
                    "-XX:-UsePerfData",
                    "-cp",
                    class_path,
                    "Main",
                    what(sends),
                ]);
                command
            }),
        })
    }

    /// Who is not there, and why.
    pub(crate) fn missing(&self) -> Vec<(Language, &str)> {
        let go = self.go.as_ref().err().and_then(|why| Some((Language::Go, why.as_deref()?)));
        let java = self.java.as_ref().err().and_then(|why| Some((Language::Java, why.as_deref()?)));
        go.into_iter().chain(java).collect()
    }
}

fn there(tool: &str, argument: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("{what} could not be started"))?;
    ensure!(status.success(), "{what} failed ({status}); its words are above");
    Ok(())
}

fn build_go() -> anyhow::Result<PathBuf> {
    ensure!(there("go", "version"), "go is not installed");
    let binary = out().join("franz-go");
    let mut command = Command::new("go");
    command.current_dir(here().join("franz-go")).args(["build", "-o"]).arg(&binary).arg(".");
    run(&mut command, "go build")?;
    Ok(binary)
}

fn build_java() -> anyhow::Result<String> {
    ensure!(there("java", "-version") && there("javac", "-version"), "java and javac are not installed");
    let jars = jars().context("Kafka's jars are not here (dev/kafka fetch brings them)")?;
    let (classes, jars) = (out().join("java"), format!("{}/*", jars.display()));
    std::fs::create_dir_all(&classes).with_context(|| classes.display().to_string())?;
    let source = here().join("java");
    let mut command = Command::new("javac");
    command
        .args(["-cp", &jars, "-d"])
        .arg(&classes)
        .args([source.join("Main.java"), source.join("Load.java")]);
    run(&mut command, "javac")?;
    Ok(format!("{}:{jars}", classes.display()))
}

/// The folder with Kafka's jars: the environment's, as for `dev/kafka`, or the newest that it has fetched.
fn jars() -> Option<PathBuf> {
    let has_client = |dir: &PathBuf| {
        let names = dir
            .read_dir()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.into_iter().any(|name| name.starts_with("kafka-clients-"))
    };
    if let Some(home) = std::env::var_os("KAFKA_BATCHER_KAFKA_HOME") {
        return Some(Path::new(&home).join("libs")).filter(has_client);
    }
    let fetched = here().join("..").join("dev").join(".kafka").read_dir().ok()?;
    let mut found: Vec<(Vec<u32>, PathBuf)> = fetched
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version = entry.file_name().into_string().ok()?;
            let version: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
            Some((version?, entry.path().join("libs")))
        })
        .filter(|(_, dir)| has_client(dir))
        .collect();
    found.sort();
    found.pop().map(|(_, dir)| dir)
}
