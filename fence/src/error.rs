//! What can go wrong, as values.
//!
//! A [`Failure`] is why a semaphore will never advance again. The other types say what an
//! operation met: a failure, a value out of order, a timeout. None of them owns anything of the
//! semaphore; all are `Clone`, `Send` and `Sync`, and cloning one allocates nothing.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Why a semaphore failed: a message, and the errno behind it where there is one.
///
/// The errno is kept as it came (see `errno(3)`), known to this system or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    errno: Option<i32>,
    message: Arc<str>,
}

impl Failure {
    /// A failure that no system call reported.
    pub fn new(message: impl Into<Arc<str>>) -> Failure {
        Failure { errno: None, message: message.into() }
    }

    /// A failure that came with an errno, as a positive number.
    pub fn with_errno(errno: i32, message: impl Into<Arc<str>>) -> Failure {
        Failure { errno: Some(errno), message: message.into() }
    }

    /// The errno behind the failure.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// What happened, in words.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure { errno: error.raw_os_error(), message: error.to_string().into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => write!(f, "{} (errno {errno})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl Error for Failure {}

/// The answer of a query on a failed semaphore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The last value reached before the failure.
    pub value: u64,
    /// Why it failed.
    pub failure: Failure,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "semaphore value: it failed at {}: {}; a failed semaphore stays failed, use a new one",
            self.value, self.failure
        )
    }
}

impl Error for Failed {}

/// Why a signal was refused. Nothing changed and nobody was woken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalError {
    /// The value is not above the current one; a timeline only goes forward.
    NotAbove {
        /// The value that was signalled.
        value: u64,
        /// The value the semaphore has.
        current: u64,
    },
    /// The semaphore has failed.
    Failed {
        /// The value that was signalled.
        value: u64,
        /// Why the semaphore failed.
        failure: Failure,
    },
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignalError::NotAbove { value, current } => write!(
                f,
                "semaphore signal: {value} is not above the current value {current}; \
                 signal a greater value"
            ),
            SignalError::Failed { value, failure } => write!(
                f,
                "semaphore signal: {value} came after the failure: {failure}; \
                 a failed semaphore stays failed, use a new one"
            ),
        }
    }
}

impl Error for SignalError {}

/// How a wait for one semaphore ended without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// The semaphore failed.
    Failed {
        /// The value waited for.
        wanted: u64,
        /// Why the semaphore failed.
        failure: Failure,
    },
    /// The time given to a blocking wait was over. The semaphore is untouched.
    TimedOut {
        /// The value waited for.
        wanted: u64,
        /// The value the semaphore had when time was up.
        value: u64,
    },
}

impl WaitError {
    /// The semaphore's failure; `None` for a timeout.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            WaitError::Failed { failure, .. } => Some(failure),
            WaitError::TimedOut { .. } => None,
        }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::Failed { wanted, failure } => write!(
                f,
                "semaphore wait: the semaphore failed, {wanted} is not to be had: {failure}; \
                 a failed semaphore stays failed, use a new one"
            ),
            WaitError::TimedOut { wanted, value } => write!(
                f,
                "semaphore wait: time was up at value {value}, before {wanted}; \
                 wait longer or look for who should signal it"
            ),
        }
    }
}

impl Error for WaitError {}

/// How a wait for several semaphores ended without what it waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitManyError {
    /// One of the semaphores failed.
    Failed {
        /// Its position in the list that was waited for.
        index: usize,
        /// Why it failed.
        failure: Failure,
    },
    /// Any one of an empty list was waited for, which cannot happen.
    Empty,
}

impl WaitManyError {
    /// The failure of the semaphore that ended the wait.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            WaitManyError::Failed { failure, .. } => Some(failure),
            WaitManyError::Empty => None,
        }
    }
}

impl fmt::Display for WaitManyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitManyError::Failed { index, failure } => write!(
                f,
                "semaphore wait: number {index} of those waited for failed: {failure}; \
                 a failed semaphore stays failed, use a new one"
            ),
            WaitManyError::Empty => {
                f.write_str("semaphore wait: any one of none; name at least one semaphore")
            }
        }
    }
}

impl Error for WaitManyError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn messages_name_both_values_and_the_cause() {
        let text = SignalError::NotAbove { value: 3, current: 7 }.to_string();
        assert!(text.contains('3') && text.contains('7'), "{text}");
        let failure = Failure::with_errno(62, "the fence never fired");
        let text = WaitError::Failed { wanted: 9, failure: failure.clone() }.to_string();
        assert!(text.contains('9') && text.contains("the fence never fired (errno 62)"), "{text}");
        assert_eq!(WaitError::TimedOut { wanted: 1, value: 0 }.failure(), None);
        let error = WaitManyError::Failed { index: 4, failure: failure.clone() };
        assert_eq!(error.failure(), Some(&failure));
        assert!(error.to_string().contains("number 4"));
    }

    #[test]
    fn an_io_error_keeps_its_errno() {
        let failure = Failure::from(std::io::Error::from_raw_os_error(5));
        assert_eq!(failure.errno(), Some(5));
        assert_eq!(Failure::from(std::io::Error::other("own words")).message(), "own words");
    }
}
