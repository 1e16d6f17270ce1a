//! Errors are values: what was attempted, which kind of failure, the kernel's errno kept raw,
//! and a sentence that names the limit and the next step.
//!
//! An operation that fails hands its parts back: [`Failed`] carries the operation, so a buffer is
//! never lost with an error. `?` turns a `Failed<O>` into an [`Error`] and drops the operation.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// The kind of failure. Small and open: new kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is malformed; nothing was submitted.
    InvalidArgument,
    /// What was named does not exist, or is not pending (any more).
    NotFound,
    /// A bounded table or queue is full; try again after a poll.
    Exhausted,
    /// This machine, backend or option set cannot do it; the message says what is missing.
    Unavailable,
    /// Cancelled at the user's request.
    Cancelled,
    /// The operation's own deadline passed.
    TimedOut,
    /// The kernel ended the operation although nobody asked for it.
    Interrupted,
    /// Completions or bytes were lost; what waited cannot be answered.
    DataLoss,
    /// The system refused for lack of rights.
    Permission,
    /// The peer refused the connection.
    Refused,
    /// The connection is gone (reset, broken pipe, keep-alive timeout).
    Disconnected,
    /// The descriptor was closed on this side.
    Closed,
    /// Not possible right now from here (polling inside a callback, a second poll owner).
    Busy,
    /// The proactor has shut down or is gone.
    ShutDown,
    /// This process is a forked child of the one that made the proactor.
    Forked,
    /// The caller's own code panicked on a thread of ours, or in a task somebody waits for.
    Panicked,
    /// Any other error of the system; see the errno.
    Io,
}

impl ErrorKind {
    /// The kind an errno belongs to. Unknown numbers are [`ErrorKind::Io`].
    pub fn from_errno(errno: i32) -> ErrorKind {
        match errno {
            libc::EINVAL | libc::EDOM | libc::ENAMETOOLONG | libc::EDESTADDRREQ => {
                ErrorKind::InvalidArgument
            }
            libc::ENOENT | libc::ENODEV | libc::ENXIO => ErrorKind::NotFound,
            libc::ENOMEM | libc::ENOBUFS | libc::EMFILE | libc::ENFILE | libc::ENOSPC => {
                ErrorKind::Exhausted
            }
            libc::EOPNOTSUPP | libc::ENOSYS | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT => {
                ErrorKind::Unavailable
            }
            libc::ECANCELED => ErrorKind::Cancelled,
            libc::ETIME => ErrorKind::TimedOut,
            libc::EINTR => ErrorKind::Interrupted,
            libc::EACCES | libc::EPERM => ErrorKind::Permission,
            libc::ECONNREFUSED => ErrorKind::Refused,
            libc::ECONNRESET
            | libc::EPIPE
            | libc::ECONNABORTED
            | libc::ENOTCONN
            | libc::ETIMEDOUT => ErrorKind::Disconnected,
            libc::EBADF => ErrorKind::Closed,
            libc::EBUSY | libc::EALREADY => ErrorKind::Busy,
            _ => ErrorKind::Io,
        }
    }
}

/// What went wrong: operation, kind, errno, and a sentence. One word wide: results stay small, and
/// only an error allocates.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Parts>);

#[derive(Clone, PartialEq, Eq)]
struct Parts {
    operation: &'static str,
    kind: ErrorKind,
    errno: Option<i32>,
    message: Cow<'static, str>,
}

/// `Result` with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    #[cold]
    pub(crate) fn new(
        operation: &'static str,
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error(Box::new(Parts { operation, kind, errno: None, message: message.into() }))
    }

    /// From an errno the kernel returned for `operation`.
    #[cold]
    pub(crate) fn from_errno(operation: &'static str, errno: i32) -> Error {
        let kind = ErrorKind::from_errno(errno);
        Error(Box::new(Parts { operation, kind, errno: Some(errno), message: Cow::Borrowed("") }))
    }

    pub(crate) fn from_io(operation: &'static str, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(errno) => Error::from_errno(operation, errno),
            None => {
                let kind = match error.kind() {
                    io::ErrorKind::InvalidInput => ErrorKind::InvalidArgument,
                    _ => ErrorKind::Io,
                };
                Error::new(operation, kind, error.to_string())
            }
        }
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    pub(crate) fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Error {
        self.0.message = message.into();
        self
    }

    pub(crate) fn named(mut self, operation: &'static str) -> Error {
        self.0.operation = operation;
        self
    }

    /// The operation that failed, in one or two words.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kernel's errno, raw, when one was involved.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// The sentence that names the limit and the next step; empty when the errno says it all.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.0.operation)?;
        match (self.0.message.is_empty(), self.0.errno) {
            (false, None) => f.write_str(&self.0.message),
            (false, Some(errno)) => {
                write!(f, "{} ({})", self.0.message, io::Error::from_raw_os_error(errno))
            }
            (true, Some(errno)) => write!(f, "{}", io::Error::from_raw_os_error(errno)),
            (true, None) => write!(f, "{:?}", self.0.kind),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {self})", self.0.kind)
    }
}

impl std::error::Error for Error {}

impl From<regions::RegionError> for Error {
    fn from(error: regions::RegionError) -> Error {
        use regions::RegionErrorKind as K;
        let kind = match error.kind {
            K::Exhausted => ErrorKind::Exhausted,
            K::OutOfMemory => ErrorKind::Exhausted,
            K::Unavailable => ErrorKind::Unavailable,
            K::Permission => ErrorKind::Permission,
            K::System => ErrorKind::Io,
            _ => ErrorKind::InvalidArgument,
        };
        let (operation, errno, message) = (error.operation, error.errno, error.message);
        Error(Box::new(Parts { operation, kind, errno, message }))
    }
}

/// An error of a semaphore, whose text begins with its operation, as every error's does.
fn of_semaphore(
    operation: &'static str,
    kind: ErrorKind,
    failure: Option<&fence::Failure>,
    text: &dyn fmt::Display,
) -> Error {
    let text = text.to_string();
    let words = text.strip_prefix(operation).and_then(|rest| rest.strip_prefix(": "));
    let message = Cow::Owned(words.unwrap_or(&text).to_owned());
    // The text tells a failure's errno in full.
    let errno = failure.and_then(fence::Failure::errno);
    Error(Box::new(Parts { operation, kind, errno, message }))
}

impl From<fence::SignalError> for Error {
    fn from(error: fence::SignalError) -> Error {
        let (kind, failure) = match &error {
            fence::SignalError::Failed { failure, .. } => (ErrorKind::Io, Some(failure)),
            _ => (ErrorKind::InvalidArgument, None),
        };
        of_semaphore("semaphore signal", kind, failure, &error)
    }
}

impl From<fence::WaitError> for Error {
    fn from(error: fence::WaitError) -> Error {
        let kind = match error {
            fence::WaitError::TimedOut { .. } => ErrorKind::TimedOut,
            _ => ErrorKind::Io,
        };
        of_semaphore("semaphore wait", kind, error.failure(), &error)
    }
}

impl From<fence::WaitManyError> for Error {
    fn from(error: fence::WaitManyError) -> Error {
        let kind = match error {
            fence::WaitManyError::Empty => ErrorKind::InvalidArgument,
            _ => ErrorKind::Io,
        };
        of_semaphore("semaphore wait", kind, error.failure(), &error)
    }
}

impl From<fence::FenceError> for Error {
    fn from(error: fence::FenceError) -> Error {
        use fence::FenceErrorKind as K;
        let kind = match error.kind() {
            K::WrongKind => ErrorKind::InvalidArgument,
            K::TimedOut => ErrorKind::TimedOut,
            K::Unsupported => ErrorKind::Unavailable,
            _ => ErrorKind::Io,
        };
        let (operation, errno) = (error.operation(), error.errno());
        let message = Cow::Owned(error.message().to_owned());
        Error(Box::new(Parts { operation, kind, errno, message }))
    }
}

impl From<fence::Failed> for Error {
    fn from(error: fence::Failed) -> Error {
        of_semaphore("semaphore value", ErrorKind::Io, Some(&error.failure), &error)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Permission => io::ErrorKind::PermissionDenied,
            ErrorKind::Refused => io::ErrorKind::ConnectionRefused,
            ErrorKind::Disconnected => io::ErrorKind::ConnectionReset,
            ErrorKind::Unavailable => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// A failed or refused operation, handed back with the reason.
pub struct Failed<O> {
    /// Why it failed.
    pub error: Error,
    operation: Option<O>,
}

impl<O> Failed<O> {
    pub(crate) fn new(error: Error, operation: O) -> Failed<O> {
        Failed { error, operation: Some(operation) }
    }

    /// The operation could not be taken back from the kernel: its memory was leaked.
    pub(crate) fn lost(error: Error) -> Failed<O> {
        Failed { error, operation: None }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// Gives up the operation and takes the reason.
    pub fn into_error(self) -> Error {
        self.error
    }

    /// The operation with everything it was given: buffers, addresses, progress. None in one case
    /// only: a shutdown whose deadline passed while the kernel still had it, so that its memory
    /// was leaked rather than freed under the kernel.
    pub fn operation(&self) -> Option<&O> {
        self.operation.as_ref()
    }

    /// Gives up the reason and takes the operation back; None as for
    /// [`operation`](Self::operation).
    pub fn into_operation(self) -> Option<O> {
        self.operation
    }
}

impl<O: crate::op::HoldsBuffer> Failed<O> {
    /// Gives up the reason and takes the buffer back; None as for [`operation`](Self::operation).
    pub fn into_buffer(self) -> Option<O::Buffer> {
        self.operation.map(O::into_buffer)
    }
}

impl<O> fmt::Debug for Failed<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<O> fmt::Display for Failed<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<O> std::error::Error for Failed<O> {}

impl<O> From<Failed<O>> for Error {
    fn from(failed: Failed<O>) -> Error {
        failed.error
    }
}

impl<O> From<Failed<O>> for io::Error {
    fn from(failed: Failed<O>) -> io::Error {
        failed.error.into()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use fence::{Failure, Semaphore};

    #[test]
    fn what_a_semaphore_says_is_an_error_of_ours() {
        let semaphore = Semaphore::new(3);
        let early = Error::from(semaphore.signal(2).expect_err("it is at 3"));
        assert_eq!(
            (early.operation(), early.kind()),
            ("semaphore signal", ErrorKind::InvalidArgument)
        );
        assert!(early.message().starts_with("2 is not above"), "{early}");
        let late = semaphore.wait_blocking(4, Some(std::time::Duration::ZERO));
        assert_eq!(Error::from(late.expect_err("at 3")).kind(), ErrorKind::TimedOut);

        semaphore.fail(Failure::with_errno(libc::ENODEV, "the device is lost"));
        let errors = [
            Error::from(semaphore.signal(4).expect_err("failed")),
            Error::from(semaphore.wait_blocking(4, None).expect_err("failed")),
            Error::from(semaphore.value().expect_err("failed")),
        ];
        for error in errors {
            assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(libc::ENODEV)));
            assert!(error.message().contains("the device is lost"), "{error}");
            let operation = format!("{}: ", error.operation());
            assert_eq!(error.to_string().matches(&operation).count(), 1, "{error}");
        }
    }

    #[test]
    fn what_memory_refuses_keeps_its_kind() {
        let region = regions::Region::anonymous(4096).expect("a page");
        let outside = Error::from(region.span(0..8192).expect_err("outside"));
        assert_eq!(outside.kind(), ErrorKind::InvalidArgument);
        let slab = regions::Slab::new(1, 4096).expect("a page");
        let leased = Error::from(slab.region().copy_in(0, b"x").expect_err("a slab's"));
        assert_eq!(leased.kind(), ErrorKind::Permission);
    }
}
