//! Payloads of Vulkan's fences and binary semaphores as descriptors, and descriptors as payloads.
//!
//! A SYNC_FD is a sync_file, or -1 where the payload has signalled already. Exporting one may block
//! as long as the work takes (there are drivers that wait on the CPU), so a waiter thread makes the
//! call. An opaque descriptor means something to the same driver only; nothing can wait for it but
//! a fence or semaphore that it is imported into.
//!
//! Drivers were seen to give numbers that were not open, and without close-on-exec; to take an
//! eventfd for a sync_file; and to take a sync_file that had failed for one that signalled. So what
//! comes out is looked at, and what goes in is a sync_file that has not failed so far. One that
//! fails later may still look like success to a driver: the Vulkan specification has no failed
//! payload.
//!
//! # Unsafe
//!
//! Handles that the caller vouches for, and numbers that a driver gave.

#![allow(unsafe_code)]

use super::calls::Calls;
use super::waiters::Handed;
use super::{VulkanDevice, error, mirror};
use crate::device::{Fence, FenceError, FenceErrorKind, FenceStatus, Refused, uapi};
use crate::{Link, Semaphore, Wait};
use ash::vk;
use nix::errno::Errno;
use std::fmt;
use std::future::Future;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

const EXPORT: &str = "vulkan export";
const IMPORT: &str = "vulkan import";

/// What has a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadOf {
    /// A fence.
    Fence(vk::Fence),
    /// A binary semaphore; the specification has no SYNC_FD of a timeline's.
    Semaphore(vk::Semaphore),
}

/// An export under way: a future of the [`Fence`] that the payload has become.
///
/// `Send` and `Unpin`. Dropping it does not stop the call, of which the result is closed then.
#[must_use = "the descriptor is what this gives"]
pub struct VulkanExport {
    done: Semaphore,
    wait: Wait,
    handed: Arc<Handed<Result<Fence, FenceError>>>,
    link: Option<Link>,
    device: VulkanDevice,
}

impl VulkanDevice {
    /// Exports the payload as a SYNC_FD, on a waiter thread. By that a fence is reset and a
    /// semaphore unsignalled, as if it had been waited for.
    ///
    /// # Errors
    ///
    /// Unsupported where the device has no such descriptors or no waiter threads, Exhausted where
    /// all are taken, Failed where the device is lost. The future's: the driver's, and WrongKind
    /// for a descriptor that is none.
    ///
    /// # Safety
    ///
    /// The object is this device's, was created for the export of SYNC_FD, and has signalled or its
    /// signal is pending. It is neither destroyed nor used otherwise before the future is ready;
    /// if that is dropped before, or fails with ENODEV (the call may still be under way then), not
    /// until the last handle of the `VulkanDevice` is dropped.
    pub unsafe fn export(&self, of: PayloadOf) -> Result<VulkanExport, FenceError> {
        self.check(EXPORT)?;
        let calls = self.held.calls.clone();
        calls.has_descriptors(EXPORT, of)?;
        let (done, link) = mirror(&calls, 0);
        let handed = Handed::new();
        let (told, put) = (done.clone(), handed.clone());
        let wait = done.wait(1);
        let link = Some(link);
        let export = VulkanExport { done, wait, handed, link, device: self.clone() };
        self.held.waiters.run(EXPORT, move |wanted| {
            // SAFETY: as promised.
            let number = wanted.inside(|| unsafe { calls.export(of, Kind::SyncFd) });
            move || {
                // Nobody withdraws it.
                if let Some(number) = number {
                    put.put(calls.heed(number).and_then(taken));
                }
                // Failed already where the device was lost meanwhile.
                let _ = told.signal(1);
            }
        })?;
        Ok(export)
    }

    /// Makes a sync_file the payload of the object until that is waited for or reset (a temporary
    /// import). [`Fence::Signalled`] makes one that has signalled.
    ///
    /// # Errors
    ///
    /// WrongKind for a fence that is no sync_file, Failed for one that has failed, Unsupported, and
    /// the driver's. The fence comes back.
    ///
    /// # Safety
    ///
    /// The object is this device's, and nothing uses it or waits for it meanwhile.
    pub unsafe fn import(&self, fence: Fence, of: PayloadOf) -> Result<(), Refused<Fence>> {
        if let Err(error) = self.check(IMPORT).and_then(|()| importable(&fence)) {
            return Err(Refused { error, fd: fence });
        }
        let file = match fence {
            Fence::SyncFile(file) => file,
            signalled => {
                // SAFETY: as promised.
                let result = unsafe { self.held.calls.import(of, Kind::SyncFd, -1) };
                return self
                    .held
                    .calls
                    .heed(result)
                    .map_err(|error| Refused { error, fd: signalled });
            }
        };
        // SAFETY: as promised.
        unsafe { self.give(of, Kind::SyncFd, file.into_fd()) }.map_err(|refused| {
            let fence = Fence::from_fd(refused.fd);
            let fence = fence.unwrap_or_else(|changed| Fence::Event(changed.fd));
            Refused { error: refused.error, fd: fence }
        })
    }

    /// Exports the object itself as an opaque descriptor: what it is imported into shares its
    /// payload from then on.
    ///
    /// # Errors
    ///
    /// Unsupported where the device has no such descriptors, Failed where it is lost, and the
    /// driver's.
    ///
    /// # Safety
    ///
    /// The object is this device's and was created for the export of OPAQUE_FD.
    pub unsafe fn export_opaque(&self, of: PayloadOf) -> Result<OwnedFd, FenceError> {
        self.check(EXPORT)?;
        // SAFETY: as promised.
        let number = unsafe { self.held.calls.export(of, Kind::Opaque) };
        owned(self.held.calls.heed(number)?)
    }

    /// Makes the object share the payload of the one that an opaque descriptor was exported from.
    ///
    /// # Errors
    ///
    /// Unsupported, Failed where the device is lost, and the driver's. The descriptor comes back.
    ///
    /// # Safety
    ///
    /// The object is this device's, nothing uses it or waits for it meanwhile, and the descriptor
    /// was exported by the same driver from an object of the same type.
    pub unsafe fn import_opaque(&self, fd: OwnedFd, of: PayloadOf) -> Result<(), Refused<OwnedFd>> {
        match self.check(IMPORT) {
            // SAFETY: as promised.
            Ok(()) => unsafe { self.give(of, Kind::Opaque, fd) },
            Err(error) => Err(Refused { error, fd }),
        }
    }

    /// Hands a descriptor to the driver, which owns it if it takes it.
    ///
    /// # Safety
    ///
    /// As of the two imports.
    unsafe fn give(&self, of: PayloadOf, kind: Kind, fd: OwnedFd) -> Result<(), Refused<OwnedFd>> {
        let number = fd.into_raw_fd();
        // SAFETY: as promised; the number is open and given away.
        let result = unsafe { self.held.calls.import(of, kind, number) };
        self.held.calls.heed(result).map_err(|error| {
            // SAFETY: a driver that refuses a descriptor leaves it to the caller.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            Refused { error, fd }
        })
    }
}

/// A sync_file that has not failed, or nothing at all.
fn importable(fence: &Fence) -> Result<(), FenceError> {
    let status = match fence {
        Fence::Signalled => return Ok(()),
        Fence::SyncFile(file) => file.status()?,
        _ => {
            let message = "a driver waits for sync_files only; bridge a timeline for what is none";
            return Err(FenceError::new(IMPORT, FenceErrorKind::WrongKind, message));
        }
    };
    match status {
        FenceStatus::Failed(errno) => {
            let message = "the fence has failed, and a driver would take that for a signal";
            let error = FenceError::new(IMPORT, FenceErrorKind::Failed, message);
            Err(error.with_errno(errno))
        }
        _ => Ok(()),
    }
}

/// What a driver gave as a SYNC_FD.
fn taken(number: RawFd) -> Result<Fence, FenceError> {
    if number == -1 {
        return Ok(Fence::Signalled);
    }
    Fence::from_fd(owned(number)?).map_err(|refused| refused.error)
}

/// A number that a driver gave, as ours.
fn owned(number: RawFd) -> Result<OwnedFd, FenceError> {
    // SAFETY: the driver gave it away.
    unsafe { uapi::open_descriptor(number) }.map_err(|errno| {
        let message = format!("the driver gave {number}, which is no open descriptor");
        FenceError::new(EXPORT, FenceErrorKind::WrongKind, message).with_errno(errno as i32)
    })
}

impl Future for VulkanExport {
    type Output = Result<Fence, FenceError>;

    /// # Panics
    ///
    /// When it was ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(context).map(|waited| match waited {
            Ok(_) => self.handed.take().expect("polled after it was ready"),
            Err(waited) => {
                let error = FenceError::new(EXPORT, FenceErrorKind::Failed, waited.to_string());
                Err(error.with_errno(Errno::ENODEV as i32))
            }
        })
    }
}

impl Drop for VulkanExport {
    fn drop(&mut self) {
        if let Some(link) = self.link.take().filter(|_| !self.device.held.calls.is_forked()) {
            link.unlink();
        }
    }
}

impl fmt::Debug for VulkanExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanExport").field("done", &self.done).finish()
    }
}

/// Kinds of descriptors.
#[derive(Clone, Copy)]
enum Kind {
    SyncFd,
    Opaque,
}

impl Kind {
    fn of_fence(self) -> vk::ExternalFenceHandleTypeFlags {
        match self {
            Kind::SyncFd => vk::ExternalFenceHandleTypeFlags::SYNC_FD,
            Kind::Opaque => vk::ExternalFenceHandleTypeFlags::OPAQUE_FD,
        }
    }

    fn of_semaphore(self) -> vk::ExternalSemaphoreHandleTypeFlags {
        match self {
            Kind::SyncFd => vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD,
            Kind::Opaque => vk::ExternalSemaphoreHandleTypeFlags::OPAQUE_FD,
        }
    }

    /// A sync_file is a payload once; an opaque one is shared for good.
    fn is_temporary(self) -> bool {
        matches!(self, Kind::SyncFd)
    }
}

impl Calls {
    fn has_descriptors(&self, operation: &'static str, of: PayloadOf) -> Result<(), FenceError> {
        let (has, what) = match of {
            PayloadOf::Fence(_) => (self.fence_fd.is_some(), "fence"),
            PayloadOf::Semaphore(_) => (self.semaphore_fd.is_some(), "semaphore"),
        };
        if has {
            return Ok(());
        }
        let (descriptors, extension) =
            (format!("{what} descriptors"), format!("VK_KHR_external_{what}_fd"));
        Err(error::missing(operation, &descriptors, &extension))
    }

    /// The number that the driver gives.
    ///
    /// # Safety
    ///
    /// As of the two exports.
    unsafe fn export(&self, of: PayloadOf, kind: Kind) -> Result<RawFd, FenceError> {
        self.has_descriptors(EXPORT, of)?;
        let (device, mut number) = (self.device.handle(), -1);
        let (call, result) = match (of, &self.fence_fd, &self.semaphore_fd) {
            (PayloadOf::Fence(fence), Some(table), _) => {
                let info =
                    vk::FenceGetFdInfoKHR::default().fence(fence).handle_type(kind.of_fence());
                // SAFETY: as promised; what is read and written outlives the call.
                ("vkGetFenceFdKHR", unsafe { (table.get_fence_fd_khr)(device, &info, &mut number) })
            }
            (PayloadOf::Semaphore(semaphore), _, Some(table)) => {
                let info = vk::SemaphoreGetFdInfoKHR::default()
                    .semaphore(semaphore)
                    .handle_type(kind.of_semaphore());
                // SAFETY: as above.
                let result = unsafe { (table.get_semaphore_fd_khr)(device, &info, &mut number) };
                ("vkGetSemaphoreFdKHR", result)
            }
            _ => unreachable!("looked up above"),
        };
        self.answer(EXPORT, call, result)?;
        Ok(number)
    }

    /// Hands a number to the driver.
    ///
    /// # Safety
    ///
    /// As of the two imports; an open number is given away, and comes back on an error.
    unsafe fn import(&self, of: PayloadOf, kind: Kind, number: RawFd) -> Result<(), FenceError> {
        self.has_descriptors(IMPORT, of)?;
        let device = self.device.handle();
        let (call, result) = match (of, &self.fence_fd, &self.semaphore_fd) {
            (PayloadOf::Fence(fence), Some(table), _) => {
                let mut info = vk::ImportFenceFdInfoKHR::default()
                    .fence(fence)
                    .handle_type(kind.of_fence())
                    .fd(number);
                if kind.is_temporary() {
                    info = info.flags(vk::FenceImportFlags::TEMPORARY);
                }
                // SAFETY: as promised; what is read outlives the call.
                ("vkImportFenceFdKHR", unsafe { (table.import_fence_fd_khr)(device, &info) })
            }
            (PayloadOf::Semaphore(semaphore), _, Some(table)) => {
                let mut info = vk::ImportSemaphoreFdInfoKHR::default()
                    .semaphore(semaphore)
                    .handle_type(kind.of_semaphore())
                    .fd(number);
                if kind.is_temporary() {
                    info = info.flags(vk::SemaphoreImportFlags::TEMPORARY);
                }
                // SAFETY: as above.
                let result = unsafe { (table.import_semaphore_fd_khr)(device, &info) };
                ("vkImportSemaphoreFdKHR", result)
            }
            _ => unreachable!("looked up above"),
        };
        self.answer(IMPORT, call, result).map(drop)
    }
}
