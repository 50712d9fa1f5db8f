//! [`Secret`]: a text that nothing shows.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A password or the like. Its `Debug` says nothing, it has no `Display`, and no error, log line, metric or file of this library
/// holds it: [`Secret::expose`] is the only way to the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Secret(text.into())
    }

    /// The text, for whoever must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What a file holds, but for one line end behind it. Errors name the file, never what is in it.
    pub(crate) fn from_file(path: &Path) -> Result<Secret, String> {
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => format!("{} is not text (UTF-8)", path.display()),
            _ => format!("{} cannot be read: {error}", path.display()),
        })?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        match text.is_empty() {
            true => Err(format!("{} is empty", path.display())),
            false => Ok(Secret::new(text)),
        }
    }

    /// What a variable of the environment holds.
    pub(crate) fn from_env(name: &str) -> Result<Secret, String> {
        match std::env::var(name) {
            Ok(text) if !text.is_empty() => Ok(Secret::new(text)),
            Ok(_) => Err(format!("the environment variable {name} is empty")),
            Err(std::env::VarError::NotPresent) => Err(format!("there is no environment variable {name}")),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(format!("the environment variable {name} is not text (UTF-8)"))
            }
        }
    }
}

/// The most that is repeated of somebody else's words, in characters.
const LONGEST_WORDS: usize = 300;

/// The words of a broker or an endpoint as an error may repeat them: without these secrets, without control characters, and not
/// without end.
pub(crate) fn scrubbed(words: &str, secrets: &[&str]) -> String {
    let mut secrets: Vec<_> = secrets.iter().filter(|secret| !secret.is_empty()).collect();
    // One may be a part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    // Before anything is cut off: half a secret would not be found.
    let words = secrets.into_iter().fold(words.to_owned(), |words, secret| words.replace(secret, "..."));
    words.chars().filter(|c| !c.is_control()).take(LONGEST_WORDS).collect()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Secret::new(text)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_behind_the_secret_in_its_file_is_not_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for (held, read) in [("a b\n", "a b"), ("a\r\n", "a"), ("a", "a"), ("a\n\n", "a\n"), (" a ", " a ")] {
            std::fs::write(&path, held).unwrap();
            assert_eq!(Secret::from_file(&path).unwrap().expose(), read, "{held:?}");
        }
    }

    #[test]
    fn words_of_others_hold_no_secret_not_even_half_of_one_where_they_are_cut() {
        let padded = format!("{}hunter2 and more", "x".repeat(LONGEST_WORDS - 3));
        assert_eq!(scrubbed(&padded, &["hunter2"]), format!("{}...", "x".repeat(LONGEST_WORDS - 3)));
        assert_eq!(scrubbed("not a%20b, a\n", &["", "a", "a%20b"]), "not ..., ...");
    }

    #[test]
    fn what_cannot_be_read_is_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(Secret::from_file(&path).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "\n").unwrap();
        assert!(Secret::from_file(&path).unwrap_err().ends_with("is empty"));
        std::fs::write(&path, b"hunter2\xff").unwrap();
        let said = Secret::from_file(&path).unwrap_err();
        assert!(said.contains("not text") && !said.contains("hunter2"), "{said}");
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(not shown)");
    }
}
