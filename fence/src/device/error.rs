//! What can go wrong with a fence of the kernel.

use nix::errno::Errno;
use std::error::Error;
use std::fmt;

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FenceErrorKind {
    /// The descriptor is not of the kind that was asked for, or cannot be waited for.
    WrongKind,
    /// The fence signalled with an error, which is the errno.
    Failed,
    /// Time was up first.
    TimedOut,
    /// Something has run out: descriptors, memory, threads.
    Exhausted,
    /// The kernel or the device does not have it.
    Unsupported,
    /// The kernel refused the call.
    Refused,
    /// This process is a forked child, and the thing its parent's.
    Forked,
}

/// What went wrong: the operation, the kind, the errno as it came, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceError {
    operation: &'static str,
    kind: FenceErrorKind,
    errno: Option<i32>,
    message: String,
}

impl FenceError {
    pub(crate) fn new(
        operation: &'static str,
        kind: FenceErrorKind,
        message: impl Into<String>,
    ) -> FenceError {
        FenceError { operation, kind, errno: None, message: message.into() }
    }

    pub(crate) fn with_errno(mut self, errno: i32) -> FenceError {
        self.errno = Some(errno);
        self
    }

    /// A system call's answer.
    pub(crate) fn refused(operation: &'static str, errno: Errno) -> FenceError {
        let kind = match errno {
            Errno::ETIME | Errno::ETIMEDOUT => FenceErrorKind::TimedOut,
            Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS => FenceErrorKind::Unsupported,
            _ => FenceErrorKind::Refused,
        };
        FenceError::new(operation, kind, errno.desc()).with_errno(errno as i32)
    }

    /// What was tried.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> FenceErrorKind {
        self.kind
    }

    /// What happened and what to do, in words.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The errno, as a positive number: of the fence for `Failed`, of the call otherwise.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }
}

impl fmt::Display for FenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.message)?;
        match self.errno {
            Some(errno) => write!(f, " (errno {errno})"),
            None => Ok(()),
        }
    }
}

impl Error for FenceError {}

/// What was not taken, with the reason: it is still the caller's.
#[derive(Debug)]
pub struct Refused<T> {
    /// Why.
    pub error: FenceError,
    /// What was handed in.
    pub fd: T,
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T: fmt::Debug> Error for Refused<T> {}
