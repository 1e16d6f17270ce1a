//! sync_files: a fence of a driver's, as a descriptor.
//!
//! A sync_file is made by a driver (of a GPU, a display, a camera) and signals once, with success
//! or with an error (<https://docs.kernel.org/driver-api/sync_file.html>). Three things about it are
//! traps:
//!
//! - `poll(2)` says *readable* for success and for an error alike. Only its status tells them
//!   apart, so [`SyncFile::wait`] and everything built on it asks for the status when it becomes
//!   readable.
//! - A whole made of several fences may say that it signalled where one of them failed. The status
//!   is always that of the parts.
//! - Merging with a fence that has failed already loses the error: the kernel leaves out what is
//!   signalled. [`SyncFile::merge`] therefore refuses such an input.
//!
//! User space cannot make a sync_file that is pending without a driver that helps.

use super::error::{FenceError, FenceErrorKind, Refused};
use super::uapi;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How a fence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceStatus {
    /// It has not signalled.
    Pending,
    /// It has, with success.
    Signalled,
    /// It has, with this errno (positive).
    Failed(i32),
}

impl FenceStatus {
    fn of(status: i32) -> FenceStatus {
        match status {
            0 => FenceStatus::Pending,
            1.. => FenceStatus::Signalled,
            errno => FenceStatus::Failed(errno.saturating_neg()),
        }
    }
}

/// What the kernel says about a sync_file, for people: names differ between kernels and may change
/// when a fence signals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncFileInfo {
    /// Its name.
    pub name: String,
    /// How it stands as a whole.
    pub status: FenceStatus,
    /// What it is made of.
    pub fences: Vec<FenceInfo>,
}

/// One fence of a sync_file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceInfo {
    /// The timeline it belongs to.
    pub timeline: String,
    /// The driver that signals it.
    pub driver: String,
    /// How it stands.
    pub status: FenceStatus,
    /// When it signalled, in nanoseconds of CLOCK_MONOTONIC; zero while it is pending.
    pub timestamp_ns: u64,
}

/// A real sync_file, and nothing else. `Send + Sync`; closed when dropped, which changes nothing
/// about the fence.
#[derive(Debug)]
pub struct SyncFile {
    fd: OwnedFd,
}

impl SyncFile {
    /// Takes over a sync_file.
    ///
    /// # Errors
    ///
    /// WrongKind for any other descriptor, which comes back.
    pub fn from_fd(fd: OwnedFd) -> Result<SyncFile, Refused<OwnedFd>> {
        const NAME: &str = "sync_file";
        match uapi::sync_file_info(fd.as_fd()) {
            Ok(_) => Ok(SyncFile { fd }),
            Err(errno) => {
                let message = "the descriptor is no sync_file; export one with SYNC_FD handle type";
                let error = FenceError::new(NAME, FenceErrorKind::WrongKind, message);
                Err(Refused { error: error.with_errno(errno as i32), fd })
            }
        }
    }

    /// What the kernel just made.
    pub(crate) fn made(fd: OwnedFd) -> SyncFile {
        SyncFile { fd }
    }

    /// How it stands (SYNC_IOC_FILE_INFO). One system call, which does not wait.
    ///
    /// # Errors
    ///
    /// Refused, with what the kernel said.
    pub fn status(&self) -> Result<FenceStatus, FenceError> {
        uapi::sync_file_status(self.as_fd())
            .map(FenceStatus::of)
            .map_err(|errno| FenceError::refused("sync_file status", errno))
    }

    /// Everything the kernel says about it.
    ///
    /// # Errors
    ///
    /// Refused, with what the kernel said.
    pub fn info(&self) -> Result<SyncFileInfo, FenceError> {
        let refused = |errno| FenceError::refused("sync_file info", errno);
        let count = uapi::sync_file_info(self.as_fd()).map_err(refused)?.num_fences;
        let (info, fences) = uapi::sync_file_fences(self.as_fd(), count).map_err(refused)?;
        let fence = |fence: &uapi::SyncFenceInfo| FenceInfo {
            timeline: uapi::name_text(&fence.obj_name),
            driver: uapi::name_text(&fence.driver_name),
            status: FenceStatus::of(fence.status),
            timestamp_ns: fence.timestamp_ns,
        };
        Ok(SyncFileInfo {
            name: uapi::name_text(&info.name),
            status: FenceStatus::of(info.status),
            fences: fences.iter().map(fence).collect(),
        })
    }

    /// A sync_file that signals when both have (SYNC_IOC_MERGE). Both stay as they are. The name is
    /// for people; 31 bytes of it are kept.
    ///
    /// A failure of either *after* the merge is a failure of the result; a failure before it would
    /// be lost by the kernel, and is refused here. One that comes while the kernel merges is looked
    /// for once more.
    ///
    /// # Errors
    ///
    /// Failed when one of the two has failed, with its errno; Refused.
    pub fn merge(&self, other: &SyncFile, name: &str) -> Result<SyncFile, FenceError> {
        const NAME: &str = "sync_file merge";
        self.sound(NAME)?;
        other.sound(NAME)?;
        let merged = uapi::sync_merge(self.as_fd(), other.as_fd(), name)
            .map_err(|errno| FenceError::refused(NAME, errno))?;
        self.sound(NAME)?;
        other.sound(NAME)?;
        Ok(SyncFile::made(merged))
    }

    fn sound(&self, operation: &'static str) -> Result<(), FenceError> {
        match self.status()? {
            FenceStatus::Failed(errno) => {
                let message =
                    "an input has failed, and the kernel would lose that; handle it first";
                let error = FenceError::new(operation, FenceErrorKind::Failed, message);
                Err(error.with_errno(errno))
            }
            FenceStatus::Pending | FenceStatus::Signalled => Ok(()),
        }
    }

    /// Blocks this thread until it has signalled, at most until `deadline`; None waits for ever.
    /// Not for a thread that drives a loop.
    ///
    /// # Errors
    ///
    /// Failed, with the fence's errno; TimedOut; Refused.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<(), FenceError> {
        const NAME: &str = "sync_file wait";
        loop {
            match self.status()? {
                FenceStatus::Signalled => return Ok(()),
                FenceStatus::Failed(errno) => {
                    let error = FenceError::new(NAME, FenceErrorKind::Failed, "the fence failed");
                    return Err(error.with_errno(errno));
                }
                FenceStatus::Pending => {}
            }
            if !until_readable(self.as_fd(), deadline)
                .map_err(|errno| FenceError::refused(NAME, errno))?
                && self.status()? == FenceStatus::Pending
            {
                let message = "time was up before it signalled; wait longer, or ask its driver";
                return Err(FenceError::new(NAME, FenceErrorKind::TimedOut, message));
            }
        }
    }

    /// Tells the driver by when the result is wanted, so that it may hurry (SYNC_IOC_SET_DEADLINE,
    /// since Linux 6.5). A hint: nothing fails when the time has come.
    ///
    /// # Errors
    ///
    /// Unsupported on older kernels.
    pub fn set_deadline(&self, deadline: Instant) -> Result<(), FenceError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let refused = |errno| FenceError::refused("sync_file deadline", errno);
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).map_err(refused)?;
        let at_ns = u64::try_from((now + left).as_nanos()).unwrap_or(u64::MAX);
        uapi::sync_set_deadline(self.as_fd(), at_ns).map_err(refused)
    }

    /// Another descriptor of the same fence.
    ///
    /// # Errors
    ///
    /// Refused when descriptors have run out.
    pub fn try_clone(&self) -> Result<SyncFile, FenceError> {
        let fd = self.fd.try_clone().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            FenceError::refused("sync_file clone", errno)
        })?;
        Ok(SyncFile { fd })
    }

    /// The descriptor, for whoever waits on it: another driver, another process.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for SyncFile {
    /// Readable when it has signalled, also with an error.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until the descriptor is readable (`poll(2)`). False: time was up.
fn until_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                // Rounded up, or it would look again and again in the last millisecond.
                let left_ms = left.as_nanos().div_ceil(1_000_000);
                PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) if deadline.is_some_and(|at| Instant::now() >= at) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_what_the_kernel_says_it_is() {
        assert_eq!(FenceStatus::of(0), FenceStatus::Pending);
        assert_eq!(FenceStatus::of(1), FenceStatus::Signalled);
        assert_eq!(FenceStatus::of(-5), FenceStatus::Failed(5));
        assert_eq!(FenceStatus::of(i32::MIN), FenceStatus::Failed(i32::MAX));
    }
}
