//! The long-lived Java process behind [`RealKafka`](crate::RealKafka): `dev/kafka admin`, one JSON object a line each way.
//!
//! Started at the first question; ends at the end of its input. Every command is bounded in time on the Java side, the
//! bound here only catches a JVM that has died standing.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::availability::script;

const HANGS: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Admin {
    bootstrap: String,
    /// One question at a time: answers come in the order of the questions.
    process: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
}

impl Admin {
    pub(crate) fn new(bootstrap: String) -> Self {
        Admin { bootstrap, process: Mutex::new(None) }
    }

    /// Sends `{"do": ..}` and reads the answer as a `T`.
    pub(crate) fn ask<T: DeserializeOwned>(&self, question: &Value) -> Result<T, Error> {
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = match slot.take() {
            Some(p) => p,
            None => Process::start(&self.bootstrap)?,
        };
        // Only a process that answered is kept: one that hangs may answer the wrong question later.
        let line = process.ask(question)?;
        *slot = Some(process);
        let not_understood =
            || Error::NotUnderstood { what: "the admin client's answer", text: line.clone() };
        let answer: Value = serde_json::from_str(&line).map_err(|_| not_understood())?;
        if let (Some(kind), Some(message)) = (answer["kind"].as_str(), answer["error"].as_str()) {
            return Err(Error::Kafka {
                command: question.to_string(),
                kind: kind.to_owned(),
                message: message.to_owned(),
            });
        }
        serde_json::from_value(answer).map_err(|_| not_understood())
    }

    /// As [`Admin::ask`], for commands whose answer says nothing more than that it was done.
    pub(crate) fn tell(&self, question: &Value) -> Result<(), Error> {
        self.ask::<Value>(question).map(drop)
    }

    pub(crate) fn close(&mut self) {
        *self.process.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Process {
    fn start(bootstrap: &str) -> Result<Self, Error> {
        let mut command = script("admin");
        command.arg(bootstrap).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io("cannot run dev/kafka admin"))?;
        let (Some(questions), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::AdminGone("has no standard streams".to_owned()));
        };
        let (answered, answers) = channel();
        // Ends with the process: its output ends then, or nobody listens.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if answered.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Process { child, questions, answers })
    }

    fn ask(&mut self, question: &Value) -> Result<String, Error> {
        writeln!(self.questions, "{question}")
            .map_err(|e| Error::AdminGone(format!("takes no question: {e}")))?;
        self.answers.recv_timeout(HANGS).map_err(|e| {
            Error::AdminGone(match e {
                RecvTimeoutError::Timeout => format!("does not answer within {HANGS:?}: {question}"),
                RecvTimeoutError::Disconnected => format!("has ended at: {question}"),
            })
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It owns nothing that needs an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
