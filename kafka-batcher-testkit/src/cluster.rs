//! A real Kafka of one or three brokers, started by `dev/kafka`, and what can be done to its processes.
//!
//! Promises: the processes end with the value, and also when this process is killed (`dev/kafka run` stops them at the
//! end of its input, a pipe that only we hold); its data is deleted then. Refuses to touch the processes of a Kafka that
//! it did not start.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::admin::Admin;
use crate::availability::{running_brokers, script};
use crate::{Error, real_kafka_or_reason};

/// What kind of Kafka to start. Without effect where `KAFKA_BATCHER_TEST_BROKERS` names a running one.
#[derive(Debug, Clone)]
pub struct Options {
    brokers: u8,
    props: Vec<(String, String)>,
    session_timeout: Duration,
    secured: bool,
}

impl Options {
    /// One broker: replication 1. Ready after some 3 s.
    pub fn one_broker() -> Self {
        Options { brokers: 1, props: Vec::new(), session_timeout: Duration::from_secs(2), secured: false }
    }

    /// One broker with ACLs, and a listener for each way to log in, right and wrong (`dev/kafka start --security`). Needs openssl.
    pub fn secured() -> Self {
        Options { secured: true, ..Options::one_broker() }
    }

    /// Three brokers: replication 3, `min.insync.replicas` 2, no unclean leader election. Ready after some 8 s.
    pub fn three_brokers() -> Self {
        Options { brokers: 3, ..Options::one_broker() }
    }

    /// A line for every broker's `server.properties`; wins over what `dev/kafka` writes there.
    pub fn prop(mut self, name: &str, value: &str) -> Self {
        self.props.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `broker.session.timeout.ms`: how long after a broker's death its leaders move (default 2 s; Kafka's own is 9 s).
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }
}

/// How to end a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: a controlled shutdown; leaders move first.
    Term,
    /// SIGKILL: the process is gone at once; leaders move when its session is over.
    Kill,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Term => "TERM",
            Signal::Kill => "KILL",
        }
    }
}

/// A real Apache Kafka for as long as the value lives. `Send` and `Sync`; see the crate's page on blocking.
#[derive(Debug)]
pub struct RealKafka {
    bootstrap: String,
    pub(crate) admin: Admin,
    /// The cluster's folder, where it is ours; also for the files that the admin client and we exchange.
    pub(crate) exchange: TempDir,
    processes: Processes,
}

#[derive(Debug)]
enum Processes {
    Ours {
        brokers: u8,
        dir: PathBuf,
        /// `dev/kafka run`: stops the cluster when its input ends.
        runner: Child,
        frozen: Mutex<BTreeSet<u8>>,
    },
    /// Named by `KAFKA_BATCHER_TEST_BROKERS`.
    Foreign,
}

impl RealKafka {
    /// Starts a Kafka, or takes the running one that `KAFKA_BATCHER_TEST_BROKERS` names, and waits until it serves.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Java or the jars are missing; otherwise what `dev/kafka` said, with the end of the
    /// broker's log.
    pub fn start(options: &Options) -> Result<RealKafka, Error> {
        real_kafka_or_reason()?;
        let exchange = tempfile::Builder::new()
            .prefix("kafka-batcher-test-")
            .tempdir()
            .map_err(Error::io("cannot create a temporary folder"))?;
        let (bootstrap, processes) = match running_brokers() {
            Some(bootstrap) => (bootstrap, Processes::Foreign),
            None => run(options, exchange.path())?,
        };
        let kafka = RealKafka { admin: Admin::new(bootstrap.clone()), bootstrap, exchange, processes };
        if let Processes::Foreign = kafka.processes {
            // So that a wrong address is one clear error and not one a test.
            let named = |e| Error::NotServing { address: kafka.bootstrap.clone(), source: Box::new(e) };
            kafka.nodes().map_err(named)?;
        }
        Ok(kafka)
    }

    /// `host:port,...` of all brokers.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The bootstrap addresses as a list.
    pub fn addresses(&self) -> Vec<String> {
        self.bootstrap.split(',').map(str::to_owned).collect()
    }

    /// `host:port` of node `n` of a Kafka of ours (1 is the first).
    ///
    /// # Errors
    /// [`Error::NotOurs`], or no such node.
    pub fn address(&self, node: u8) -> Result<String, Error> {
        self.node_dir(node)?;
        let index = usize::from(node) - 1;
        self.addresses().into_iter().nth(index).ok_or_else(|| no_node(node))
    }

    /// `host:port` of a listener of a Kafka that was started as [`Options::secured`]: `SASL_SSL`, `EXPIRED` and so on.
    ///
    /// # Errors
    /// [`Error::NotOurs`], or there is no such listener.
    pub fn listener(&self, name: &str) -> Result<String, Error> {
        let path = self.security_file("listeners")?;
        let text = std::fs::read_to_string(path).map_err(Error::io("cannot read the secured listeners"))?;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let unknown = || Error::NotUnderstood { what: "the listener's name", text: name.to_owned() };
        found.map(str::to_owned).ok_or_else(unknown)
    }

    /// A file of a Kafka that was started as [`Options::secured`]: `ca.pem`, `other-ca.pem`, `client.crt`, `client.key`.
    ///
    /// # Errors
    /// [`Error::NotOurs`].
    pub fn security_file(&self, name: &str) -> Result<PathBuf, Error> {
        match &self.processes {
            Processes::Foreign => Err(Error::NotOurs("asked for a secured listener")),
            Processes::Ours { dir, .. } => Ok(dir.join("security").join(name)),
        }
    }

    /// Whether this value started the processes: only then may they be killed, restarted, frozen, and their disks read.
    pub fn is_ours(&self) -> bool {
        matches!(self.processes, Processes::Ours { .. })
    }

    /// How many brokers this value started.
    pub(crate) fn brokers(&self) -> Option<usize> {
        match self.processes {
            Processes::Ours { brokers, .. } => Some(brokers.into()),
            Processes::Foreign => None,
        }
    }

    /// Whether `KAFKA_BATCHER_BROKER_VERSION` asks `dev/kafka` for brokers that are older than this version.
    pub fn is_older_than(&self, version: (u32, u32)) -> bool {
        let asked = std::env::var("KAFKA_BATCHER_BROKER_VERSION").unwrap_or_default();
        let mut parts = asked.split('.').map_while(|part| part.parse().ok());
        parts.next().zip(parts.next()).is_some_and(|asked| asked < version)
    }

    /// Ends node `n` (1 is the first) and waits until its process is gone. Leaders may still be moving then.
    ///
    /// # Errors
    /// The node is not running, does not end within 60 s, or [`Error::NotOurs`].
    pub fn kill(&self, node: u8, signal: Signal) -> Result<(), Error> {
        // A stopped process acts on TERM only when it goes on.
        if signal == Signal::Term {
            self.thaw(node)?;
        }
        self.unfreeze_note(node);
        self.signal(node, signal.name())
    }

    /// Starts node `n` again (a running one is ended by TERM first) and waits until it serves; its replicas may still be
    /// catching up then, see [`RealKafka::wait_isr`].
    ///
    /// # Errors
    /// The broker's last words when it does not serve within 60 s, or [`Error::NotOurs`].
    pub fn restart(&self, node: u8) -> Result<(), Error> {
        self.thaw(node)?;
        self.on_cluster("restart", &[&node.to_string()]).map(drop)
    }

    /// SIGSTOP: the broker keeps its connections and answers nothing, as in a long pause.
    ///
    /// # Errors
    /// The node is not running, or [`Error::NotOurs`].
    pub fn freeze(&self, node: u8) -> Result<(), Error> {
        self.signal(node, "STOP")?;
        self.frozen()?.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
        Ok(())
    }

    /// SIGCONT: ends [`RealKafka::freeze`]. Harmless when the node is not frozen.
    ///
    /// # Errors
    /// [`Error::NotOurs`], or the node is gone.
    pub fn thaw(&self, node: u8) -> Result<(), Error> {
        if self.unfreeze_note(node) {
            self.signal(node, "CONT")?;
        }
        self.frozen().map(drop)
    }

    /// Thaws what is frozen, starts what is down, and waits until all brokers serve: what a test that breaks things leaves
    /// to the next one. Without effect on a Kafka that is not ours.
    ///
    /// # Errors
    /// The last words of a broker that does not come back.
    pub fn heal(&self) -> Result<(), Error> {
        let Processes::Ours { frozen, .. } = &self.processes else { return Ok(()) };
        let nodes: Vec<u8> = frozen.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        for node in nodes {
            self.thaw(node)?;
        }
        self.on_cluster("start", &[]).map(drop)
    }

    /// Runs a Java class of Kafka's jars, e.g. `kafka.tools.DumpLogSegments`, with `input` on its standard input; returns
    /// its standard output. A second of CPU for the JVM.
    ///
    /// # Errors
    /// [`Error::Program`] with its words when it ends with an error.
    pub fn tool(&self, class: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut command = script("tool");
        command.arg(class).args(args);
        run_program(command, input)
    }

    pub(crate) fn node_dir(&self, node: u8) -> Result<PathBuf, Error> {
        match &self.processes {
            Processes::Foreign => Err(Error::NotOurs("asked for a node")),
            Processes::Ours { brokers, .. } if node == 0 || node > *brokers => Err(no_node(node)),
            Processes::Ours { dir, .. } => Ok(dir.join(format!("node-{node}"))),
        }
    }

    fn frozen(&self) -> Result<&Mutex<BTreeSet<u8>>, Error> {
        match &self.processes {
            Processes::Ours { frozen, .. } => Ok(frozen),
            Processes::Foreign => Err(Error::NotOurs("asked to freeze, end or restart a node")),
        }
    }

    fn unfreeze_note(&self, node: u8) -> bool {
        self.frozen().is_ok_and(|f| f.lock().unwrap_or_else(PoisonError::into_inner).remove(&node))
    }

    fn signal(&self, node: u8, signal: &str) -> Result<(), Error> {
        self.on_cluster("kill", &[&node.to_string(), signal]).map(drop)
    }

    fn on_cluster(&self, command: &str, args: &[&str]) -> Result<Vec<u8>, Error> {
        let Processes::Ours { dir, .. } = &self.processes else {
            return Err(Error::NotOurs("asked to signal or start a node"));
        };
        let mut c = script(command);
        c.arg("--dir").arg(dir).args(args);
        run_program(c, &[])
    }
}

impl Drop for RealKafka {
    fn drop(&mut self) {
        self.admin.close();
        if let Processes::Ours { runner, .. } = &mut self.processes {
            drop(runner.stdin.take());
            // A frozen process ends by KILL, which is what the runner uses. Errors: nobody is left to be told.
            let _ = runner.wait();
        }
    }
}

fn no_node(node: u8) -> Error {
    Error::NotUnderstood { what: "the node's number (1 is the first)", text: node.to_string() }
}

fn run(options: &Options, dir: &Path) -> Result<(String, Processes), Error> {
    // A file and not a pipe: nobody would read it while the cluster runs.
    let mut words = tempfile::tempfile().map_err(Error::io("cannot create a temporary file"))?;
    let stderr = words.try_clone().map_err(Error::io("cannot use a temporary file"))?;
    let mut command = script("run");
    command.arg("--dir").arg(dir).args(["--brokers", &options.brokers.to_string()]);
    command.args(["--session-timeout-ms", &options.session_timeout.as_millis().to_string()]);
    if options.secured {
        command.arg("--security");
    }
    for (name, value) in &options.props {
        command.args(["--prop", &format!("{name}={value}")]);
    }
    // A group of its own: Ctrl-C in the terminal is for us; the runner acts on our end.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
    let mut runner = command.spawn().map_err(Error::io("cannot run dev/kafka"))?;
    let mut bootstrap = String::new();
    if let Some(stdout) = runner.stdout.take() {
        BufReader::new(stdout).read_line(&mut bootstrap).map_err(Error::io("cannot read from dev/kafka"))?;
    }
    if bootstrap.trim().is_empty() {
        drop(runner.stdin.take());
        let status = runner.wait().map_err(Error::io("cannot wait for dev/kafka"))?;
        let mut output = String::new();
        words.rewind().map_err(Error::io("cannot read what dev/kafka said"))?;
        words.read_to_string(&mut output).map_err(Error::io("cannot read what dev/kafka said"))?;
        return Err(Error::Program {
            command: "dev/kafka run".to_owned(),
            status: status.to_string(),
            output,
        });
    }
    let processes =
        Processes::Ours { brokers: options.brokers, dir: dir.to_owned(), runner, frozen: Mutex::default() };
    Ok((bootstrap.trim().to_owned(), processes))
}

/// Runs a program to its end with `input`; its standard output, or all its words when it fails.
pub(crate) fn run_program(mut command: Command, input: &[u8]) -> Result<Vec<u8>, Error> {
    let name = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Error::io(format!("cannot run {name}")))?;
    let stdin = child.stdin.take();
    let output: Output = std::thread::scope(|s| {
        // Its own thread, or a program that writes before it has read all would wait for us and we for it.
        s.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        child.wait_with_output()
    })
    .map_err(Error::io(format!("cannot wait for {name}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut words = String::from_utf8_lossy(&output.stderr).into_owned();
    words.push_str(&String::from_utf8_lossy(&output.stdout));
    Err(Error::Program { command: name, status: output.status.to_string(), output: words })
}
