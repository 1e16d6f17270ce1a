//! Failures of a command: one line for people, one exit code for programs.
//!
//! The line names what was attempted, the limit or the answer met, and the next step. It never
//! contains a line break, and nothing a peer sent stands in it unescaped.

use std::fmt;

/// What the process ends with. Listed in `--help`, so a number here never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The system refused: a file, an address, memory, a full disk.
    System = 1,
    /// The command line asks for what cannot be.
    Usage = 2,
    /// Length or hash do not agree.
    Mismatch = 3,
    /// The peer died, stalled, or does not speak the protocol.
    Peer = 4,
    /// The token was missing or wrong on one end.
    Token = 5,
    /// `--require` was not met.
    Requirement = 6,
    /// Ended by SIGINT or SIGTERM.
    Interrupted = 130,
}

/// The table `--help` ends with.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done; length and hash agreed on both ends
    1  the system refused something (file, address, memory, disk)
    2  the command line asks for what cannot be
    3  length or hash did not agree
    4  the peer died, stalled past --timeout, or does not speak the protocol
    5  the shared token is missing or differs
    6  --require was not met
  130  ended by SIGINT or SIGTERM";

/// Why a command ended, and with which code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    text: String,
}

/// `Result` with a [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure; line breaks in the text become spaces.
    pub fn new(exit: Exit, text: impl Into<String>) -> Failure {
        let text: String = text.into();
        Failure { exit, text: text.replace(['\n', '\r'], " ") }
    }

    /// The system refused something.
    pub fn system(doing: impl fmt::Display, error: impl fmt::Display) -> Failure {
        Failure::new(Exit::System, format!("{doing}: {error}"))
    }

    /// The peer is to blame.
    pub fn peer(text: impl Into<String>) -> Failure {
        Failure::new(Exit::Peer, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Adds what was attempted to a system's answer.
pub trait Doing<T> {
    /// Turns an error into a failure that begins with `doing`.
    fn doing(self, doing: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::system(doing, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::system("read a\nb", "no such\r\nfile");
        assert_eq!(failure.to_string().lines().count(), 1);
        assert_eq!(failure.exit, Exit::System);
    }
}
