//! Pending sync_files for points of semaphores, made by vgem.
//!
//! A fence that pends has to come from a driver. vgem is one without hardware, made for tests
//! (`modprobe vgem`; `drm/vgem_drm.h`), whose fences user space signals: with it, a driver can be
//! made to wait for a semaphore. Such a fence promises less than the semaphore, which is why it has
//! a type and a call of its own and is never taken where something else was asked for:
//!
//! - **It expires.** The kernel lets no program hold up drivers for ever: ten seconds after it was
//!   made the fence signals by itself, *with success*, and whoever waits for it goes on although
//!   the value was not reached.
//! - **It cannot fail.** When the semaphore fails, or is gone, the fence is signalled at once. That
//!   is a success that is none; but so is the one that the ten seconds bring, and until then
//!   everything that stands behind the waiter in its driver would stand still.
//! - **It ends with the device's file**, again with success. Each fence that is pending keeps the
//!   file open, so that is when the process ends.
//!
//! [`ExpiringFence::end`] says which it was. A program that must not have a driver work on what is
//! not there has to make sure of that by other means; for user space, the eventfd of
//! [`Semaphore::export`] has none of these limits.
//!
//! Each fence is taken out of a buffer of its own, since a buffer's earlier fences would be waited
//! for as well; the buffer is gone before the call returns, and no page of it is ever used. The
//! kernel keeps the number of a fence until the file is closed, which is a few bytes for each.

use super::error::{FenceError, FenceErrorKind, Refused};
use super::export::Exported;
use super::node;
use super::sync_file::{FenceStatus, SyncFile};
use super::uapi;
use crate::Semaphore;
use nix::errno::Errno;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const NAME: &str = "vgem fence";
const DRIVER: &str = "vgem";

/// A device of vgem, the kernel's driver for tests without hardware (`modprobe vgem`), which makes
/// fences for [`Semaphore::export_expiring`]. `Send + Sync`; a clone is the same open file.
#[derive(Clone)]
pub struct VgemDevice {
    fd: Arc<OwnedFd>,
}

impl VgemDevice {
    /// Opens its card node, as `/dev/dri/card0`.
    ///
    /// # Errors
    ///
    /// Refused when it cannot be opened, WrongKind when it is another driver's.
    pub fn open(path: impl AsRef<Path>) -> Result<VgemDevice, FenceError> {
        let fd = node::open(path.as_ref())?;
        VgemDevice::from_fd(fd).map_err(|refused| refused.error)
    }

    /// Takes over an open card node.
    ///
    /// # Errors
    ///
    /// WrongKind when it is another driver's, or no DRM device; the descriptor comes back.
    pub fn from_fd(fd: OwnedFd) -> Result<VgemDevice, Refused<OwnedFd>> {
        if uapi::is_driver(fd.as_fd(), DRIVER.as_bytes()) == Ok(true) {
            return Ok(VgemDevice { fd: Arc::new(fd) });
        }
        let message = "the descriptor is no device of vgem; `modprobe vgem` makes one in /dev/dri";
        Err(Refused {
            error: FenceError::new("vgem device", FenceErrorKind::WrongKind, message),
            fd,
        })
    }

    /// The one of this machine. None: there is none, or none that this process may open.
    pub fn find() -> Option<VgemDevice> {
        // Opening the card of a display for a look is to be its master for a moment.
        let is_possible = |path: &&PathBuf| {
            let Some(name) = path.file_name() else { return false };
            let device = Path::new("/sys/class/drm").join(name).join("device");
            std::fs::read_link(device).map_or(true, |link| link.ends_with(DRIVER))
        };
        let nodes = node::all("card");
        nodes.iter().filter(is_possible).find_map(|path| VgemDevice::open(path).ok())
    }

    /// A fence, and its number.
    fn fence(&self) -> Result<(SyncFile, u32), FenceError> {
        let device = self.fd.as_fd();
        let buffer = uapi::dumb_create(device).map_err(|errno| match errno {
            Errno::EACCES => {
                let message = "this is the render node, which makes no buffers; open the card node";
                FenceError::new(NAME, FenceErrorKind::Refused, message).with_errno(errno as i32)
            }
            errno => FenceError::refused("vgem buffer", errno),
        })?;
        let made = uapi::prime_export(device, buffer).and_then(|dma_buf| {
            let number = uapi::vgem_attach(device, buffer)?;
            let file = uapi::dma_buf_export(dma_buf.as_fd()).inspect_err(|_| {
                // Nobody waits for it.
                let _ = uapi::vgem_signal(device, number);
            });
            Ok((SyncFile::made(file?), number))
        });
        // The fence is in the sync_file; only an unknown handle is an error, and this one is ours.
        let _ = uapi::dumb_destroy(device, buffer);
        made.map_err(|errno| FenceError::refused(NAME, errno))
    }
}

impl fmt::Debug for VgemDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VgemDevice").finish_non_exhaustive()
    }
}

/// What became of a fence that was made for a semaphore's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceEnd {
    /// The value was reached, and the fence signalled by that.
    Reached,
    /// The semaphore failed, or nobody is left who could signal it: the fence was signalled all the
    /// same, so whoever waited for it works on what is not there.
    Failed,
    /// Ten seconds passed first: likewise.
    Expired,
}

/// Who signals a fence, and how it ended.
struct Promise {
    device: VgemDevice,
    number: u32,
    /// The process that made it.
    owner: u32,
    /// Held while it is signalled, so that whoever sees it signalled knows by whom.
    end: Mutex<Option<FenceEnd>>,
}

impl Promise {
    fn end(&self) -> MutexGuard<'_, Option<FenceEnd>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the semaphore's callback owns: a fence is signalled when it runs, and when it never will.
struct Owed {
    promise: Arc<Promise>,
    end: FenceEnd,
}

impl Drop for Owed {
    fn drop(&mut self) {
        // A forked child has copies of the semaphore and of this; the fence is its parent's.
        if self.promise.owner != std::process::id() {
            return;
        }
        let mut end = self.promise.end();
        // An error says that it had signalled by itself.
        if uapi::vgem_signal(self.promise.device.fd.as_fd(), self.promise.number).is_ok() {
            *end = Some(self.end);
        }
    }
}

/// A real sync_file that signals, always with success, when the first of these happens: the
/// semaphore's value is reached, the semaphore fails or is gone, ten seconds have passed, the
/// process ends. [`end`](Self::end) says which. Dropping it closes the descriptor and changes
/// nothing about the fence. `Send + Sync`.
pub struct ExpiringFence {
    file: SyncFile,
    promise: Arc<Promise>,
}

impl ExpiringFence {
    /// The sync_file, to hand to a driver.
    pub fn sync_file(&self) -> &SyncFile {
        &self.file
    }

    /// What became of it; None while it pends. One that expired stays so, also when the value is
    /// reached after all.
    ///
    /// # Errors
    ///
    /// Refused, with what the kernel said.
    pub fn end(&self) -> Result<Option<FenceEnd>, FenceError> {
        let end = self.promise.end();
        if end.is_some() {
            return Ok(*end);
        }
        let status = self.file.status()?;
        Ok((status != FenceStatus::Pending).then_some(FenceEnd::Expired))
    }
}

impl AsFd for ExpiringFence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<ExpiringFence> for Exported {
    fn from(fence: ExpiringFence) -> Exported {
        Exported::SyncFile(fence.file)
    }
}

impl fmt::Debug for ExpiringFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpiringFence").field("end", &self.end()).finish_non_exhaustive()
    }
}

impl Semaphore {
    /// A real sync_file that signals when the semaphore reaches `value`, for drivers to wait for.
    /// A driver for tests makes it, and it signals *with success* also when the semaphore fails,
    /// and after ten seconds in any case: see [`ExpiringFence`]. For anybody in user space,
    /// [`export`](Self::export) is better.
    ///
    /// The thread that signals the semaphore signals the fence, by one system call.
    ///
    /// # Errors
    ///
    /// Failed, with the semaphore's errno, when it has failed already; Unsupported before Linux
    /// 6.0; Refused on the device's render node, and when descriptors have run out.
    pub fn export_expiring(
        &self,
        value: u64,
        device: &VgemDevice,
    ) -> Result<ExpiringFence, FenceError> {
        if let Err(failed) = self.value() {
            let error = FenceError::new(NAME, FenceErrorKind::Failed, failed.to_string());
            return Err(match failed.failure.errno() {
                Some(errno) => error.with_errno(errno),
                None => error,
            });
        }
        let (file, number) = device.fence()?;
        let device = device.clone();
        let (owner, end) = (std::process::id(), Mutex::new(None));
        let promise = Arc::new(Promise { device, number, owner, end });
        let mut owed = Owed { promise: promise.clone(), end: FenceEnd::Failed };
        // The callback stays when its handle goes.
        self.on_reach(value, move |reached| {
            if reached.is_ok() {
                owed.end = FenceEnd::Reached;
            }
            drop(owed);
        });
        Ok(ExpiringFence { file, promise })
    }
}
