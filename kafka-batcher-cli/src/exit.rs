//! The exit codes, the same for every subcommand.

/// Everything was delivered.
pub(crate) const OK: u8 = 0;
/// Something was refused, skipped, lost, or is in doubt; or a check failed.
pub(crate) const NOT_ALL: u8 = 1;
/// The command line or a setting is wrong: nothing was done. Also clap's code.
pub(crate) const USAGE: u8 = 2;

/// Everything is safe, and some of it is still in the spool.
pub(crate) const SPOOLED: u8 = 3;

/// An error whose cause is the command line, so that it ends with [`USAGE`].
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The code that an error ends the process with.
pub(crate) fn of(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() { USAGE } else { NOT_ALL }
}
