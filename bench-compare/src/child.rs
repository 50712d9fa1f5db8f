//! Processes that this program starts: none outlives it, none runs for ever.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// A server that ends with its owner: its standard input is closed, and it is waited for.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts this program with these arguments; its first line is its address.
    ///
    /// # Errors
    /// It does not start, or ends before it has one.
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<Server> {
        let exe = std::env::current_exe().context("this program does not find itself")?;
        let mut command = Command::new(exe);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().with_context(|| format!("{args:?} could not be started"))?;
        let mut server = Server { child, address: String::new() };
        let stdout = server.child.stdout.take().context("a child without stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        line.trim().clone_into(&mut server.address);
        ensure!(!server.address.is_empty(), "{args:?} ended before it had an address");
        Ok(server)
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// For the server's side: returns when standard input ends, and so with whoever holds it.
pub(crate) fn until_stdin_ends() {
    let mut buffer = [0; 64];
    while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
}

/// How often it is looked whether a process has ended. Seldom: looking takes CPU from what is measured.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a process to its end; its standard output. What it says on standard error is shown.
///
/// # Errors
/// It ends with an error, or not within this time: then it is killed.
pub(crate) fn output(mut command: Command, patience: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("{program} could not be started"))?;
    let mut stdout = child.stdout.take().context("a child without stdout")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("killed, since it had not ended after {patience:?}");
        }
        std::thread::sleep(LOOK);
    };
    let text = reader.join().ok().context("what it wrote could not be read")??;
    ensure!(status.success(), "it ended with {status}; its words above say why");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> anyhow::Result<String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        output(command, patience)
    }

    #[test]
    fn what_a_process_writes_is_its_output_unless_it_fails_or_does_not_end() {
        let minute = Duration::from_secs(60);
        assert_eq!(shell("echo a line", minute).unwrap(), "a line\n");
        assert!(shell("exit 3", minute).unwrap_err().to_string().contains("exit status: 3"));
        assert!(
            shell("exec tail -f /dev/null", Duration::ZERO).unwrap_err().to_string().starts_with("killed")
        );
    }
}
