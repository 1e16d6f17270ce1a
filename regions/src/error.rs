//! The one error type of this crate.
//!
//! An error names the operation, the limit it met and the next step. The errno of a refused system
//! call is kept raw, so an unknown code loses nothing.

use std::borrow::Cow;
use std::fmt;

/// What went wrong, coarse enough to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegionErrorKind {
    /// An argument can never be right: a zero size, a name with a NUL, a misaligned address.
    InvalidArgument,
    /// A range does not lie inside the memory it is cut from.
    OutOfRange,
    /// All slots of a slab are out; a returned slot cures it.
    Exhausted,
    /// The memory is not there, or a limit (available memory, control group, rlimit) forbids it.
    OutOfMemory,
    /// This machine or kernel cannot do it.
    Unavailable,
    /// The memory has no address the CPU can use.
    NotVisible,
    /// The region's [`Access`](crate::Access) flags forbid it.
    Permission,
    /// Others can write the memory while it is looked at, so there is no `&[u8]` over it.
    Shared,
    /// The system refused for another reason; `errno` says which.
    System,
}

/// What failed, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionError {
    /// The operation that failed, as a user would name it.
    pub operation: &'static str,
    /// What went wrong.
    pub kind: RegionErrorKind,
    /// The code of the refused system call, if one was refused.
    pub errno: Option<i32>,
    /// The limit and the next step, in words.
    pub message: Cow<'static, str>,
}

impl RegionError {
    pub(crate) fn new(
        operation: &'static str,
        kind: RegionErrorKind,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { operation, kind, errno: None, message: message.into() }
    }

    pub(crate) fn invalid(operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(operation, RegionErrorKind::InvalidArgument, message)
    }

    /// A refused system call: `doing` says which and `next` what to do about it.
    pub(crate) fn system(operation: &'static str, errno: i32, doing: &str, next: &str) -> Self {
        let kind = match errno {
            libc::ENOMEM | libc::ENOSPC | libc::EFAULT | libc::EMFILE | libc::ENFILE => {
                RegionErrorKind::OutOfMemory
            }
            libc::ENOSYS | libc::EOPNOTSUPP => RegionErrorKind::Unavailable,
            libc::EPERM | libc::EACCES => RegionErrorKind::Permission,
            _ => RegionErrorKind::System,
        };
        let cause = std::io::Error::from_raw_os_error(errno);
        let message = Cow::Owned(format!("{doing} failed: {cause}; {next}"));
        Self { operation, kind, errno: Some(errno), message }
    }
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.message)
    }
}

impl std::error::Error for RegionError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn display_names_the_operation_first() {
        let error = RegionError::invalid("slab", "zero slots; ask for at least one");
        assert_eq!(error.to_string(), "slab: zero slots; ask for at least one");
    }

    #[test]
    fn an_unknown_code_is_kept() {
        let error = RegionError::system("slab", 4095, "mmap", "report it");
        assert_eq!(error.errno, Some(4095));
        assert_eq!(error.kind, RegionErrorKind::System);
        assert!(error.to_string().ends_with("report it"));
    }
}
