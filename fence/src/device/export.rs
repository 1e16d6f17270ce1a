//! A point of a semaphore as a descriptor that others can wait for.
//!
//! A driver waits only for fences of the kernel, and user space cannot make one that is pending: a
//! sync_file is made here where the semaphore has reached the value already and a device is at hand
//! (a syncobj made signalled has such a fence). Otherwise it is an eventfd, which says so by its
//! type: nobody hands it to a driver by mistake, and whoever waits in user space can use it. One
//! driver makes fences that pend for ten seconds at most; [`Semaphore::export_expiring`] is for
//! those who can live with that, and is never taken in place of an eventfd.
//!
//! The eventfd is written when the value is reached *and* when the semaphore fails: a waiter
//! that would hang is worse off than one that looks at the semaphore again. What writes it has a
//! descriptor of its own, so the one handed out may be closed at any time.

use super::error::{FenceError, FenceErrorKind};
use super::sync_file::SyncFile;
use super::syncobj::{DrmDevice, Syncobj};
use crate::{Callback, Semaphore};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What an export gave.
#[derive(Debug)]
#[non_exhaustive]
pub enum Exported {
    /// A real sync_file: a driver can wait for it.
    SyncFile(SyncFile),
    /// An eventfd, readable when the value is reached or the semaphore has failed; the semaphore
    /// tells which.
    Event(OwnedFd),
}

impl Exported {
    /// The descriptor, whichever it is.
    pub fn into_fd(self) -> OwnedFd {
        match self {
            Exported::SyncFile(fence) => fence.into_fd(),
            Exported::Event(fd) => fd,
        }
    }
}

impl AsFd for Exported {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Exported::SyncFile(fence) => fence.as_fd(),
            Exported::Event(fd) => fd.as_fd(),
        }
    }
}

impl Semaphore {
    /// A descriptor that becomes readable when the semaphore reaches `value`, or fails. See the
    /// head of this module for which kind it is; `device` is asked for a sync_file where one can be
    /// had.
    ///
    /// # Errors
    ///
    /// Refused when descriptors have run out.
    pub fn export(&self, value: u64, device: Option<&DrmDevice>) -> Result<Exported, FenceError> {
        if let Some(device) = device
            && self.value().is_ok_and(|reached| reached >= value)
        {
            let signalled = device.syncobj(true)?;
            return signalled.export_sync_file(0).map(Exported::SyncFile);
        }
        const NAME: &str = "fence export";
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let own = EventFd::from_value_and_flags(0, flags)
            .map_err(|errno| FenceError::refused(NAME, errno))?;
        let handed_out = own.as_fd().try_clone_to_owned().map_err(|error| {
            let message = "descriptors have run out; close some, or raise RLIMIT_NOFILE";
            FenceError::new(NAME, FenceErrorKind::Refused, message)
                .with_errno(error.raw_os_error().unwrap_or_default())
        })?;
        // The callback stays when its handle goes.
        self.on_reach(value, move |_| {
            // Full is readable, and there is nothing else that a write of one could meet.
            let _ = own.write(1);
        });
        Ok(Exported::Event(handed_out))
    }

    /// Signals `point` of a timeline syncobj when this semaphore reaches `value`. A failed
    /// semaphore leaves the point without a fence: user space cannot make one that has failed, and
    /// whoever waits must not take it for done. Dropping the handle leaves the bridge in place.
    ///
    /// # Panics
    ///
    /// As [`on_reach`](Semaphore::on_reach).
    pub fn bridge_to(&self, value: u64, syncobj: &Arc<Syncobj>, point: u64) -> Callback {
        let syncobj = syncobj.clone();
        self.on_reach(value, move |reached| {
            if reached.is_ok() {
                // A device that is gone has nobody left who waits for its points.
                let _ = syncobj.signal_point(point);
            }
        })
    }
}
