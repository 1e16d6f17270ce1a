//! Vulkan: its fences and semaphores beside ours, on a device that the user made.
//!
//! There is no instance and no device of our own: a [`VulkanDevice`] is made from the user's, and
//! calls what the driver has for it. The loader is the user's too (`ash::Entry::load`), so a
//! program without Vulkan links with nothing and starts everywhere.
//!
//! # What bridges what
//!
//! | of Vulkan | here | by |
//! |---|---|---|
//! | timeline semaphore | a [`Semaphore`] at the same value | [`VulkanDevice::timeline`] |
//! | fence | a future, and a semaphore that reaches 1 | [`VulkanDevice::wait_for_fence`] |
//! | fence or binary semaphore, SYNC_FD | [`Fence`](crate::Fence) | [`VulkanDevice::export`] |
//! | a sync_file | payload of a fence or of a binary semaphore | [`VulkanDevice::import`] |
//! | the same, OPAQUE_FD | a descriptor for the same driver | [`VulkanDevice::export_opaque`] |
//!
//! Work of the device that is to wait for a semaphore of ours waits for the timeline: signalling
//! the one signals the other. That needs no descriptor and works on every driver.
//!
//! # Threads
//!
//! Vulkan has no way to be told without a blocked thread, or a descriptor that not every driver
//! has. So a `VulkanDevice` has waiter threads: one for each timeline while its bridge is there,
//! one for each fence that is waited for or payload that is being exported. They begin with the
//! first use, are reused, bounded ([`VulkanDevice::with_waiters`]), named `vulkan-waiter`, and none
//! of them ever waits for any of several things at once: drivers were seen to spin in that. A wait
//! looks now and then whether it is still wanted, after 1 ms at first and every 50 ms in the end,
//! so dropping a bridge or a wait may take so long.
//!
//! What happens is told where it is found out: callbacks and wakers of a bridged semaphore run on a
//! waiter thread. Wait for it through a proactor to be told on that one's thread.
//!
//! # A device that is lost
//!
//! The first call that answers VK_ERROR_DEVICE_LOST, or the user by [`VulkanDevice::lose`], fails
//! everything that waits, with ENODEV.
//!
//! Sources: the chapters "Synchronization and Cache Control" of the Vulkan specification,
//! VK_KHR_timeline_semaphore, VK_KHR_external_fence_fd, VK_KHR_external_semaphore_fd.
//!
//! # Forked children
//!
//! A driver is not made for fork(2). In a child every call is an error (Forked), a bridged
//! semaphore that is signalled fails, and drops touch neither the driver nor the parent's threads.
//!
//! # Unsafe
//!
//! Handles of Vulkan are numbers that say nothing of how long they live: that is the caller's
//! promise, made where a handle comes in. The calls are foreign functions.

#![allow(unsafe_code)]

mod calls;
mod descriptors;
mod error;
mod fence;
mod timeline;
mod waiters;

pub use descriptors::{PayloadOf, VulkanExport};
pub use fence::VulkanFenceWait;
pub use timeline::VulkanTimeline;

use crate::device::FenceError;
use crate::{Failure, Semaphore};
use calls::Calls;
use nix::errno::Errno;
use std::fmt;
use std::sync::Arc;
use waiters::Waiters;

/// Waiter threads a device may have when nothing else is said.
const WAITERS: usize = 64;

/// What the driver of a user's device can do for waiting; see the head of this module.
///
/// `Send` and `Sync`; a clone is another handle on the same. Every method may be called from any
/// thread. Dropping the last handle, which timelines, waits and exports have too, waits until the
/// waiter threads have ended, and so for callbacks that run on them: hold nothing then that one of
/// them wants.
#[derive(Clone)]
pub struct VulkanDevice {
    held: Arc<Held>,
}

/// What the handles share. Jobs of waiter threads have the calls alone, so this ends with the last
/// handle.
struct Held {
    calls: Arc<Calls>,
    waiters: Waiters,
}

impl VulkanDevice {
    /// For a device with at most 64 waiter threads. Calls nothing but vkGetDeviceProcAddr.
    ///
    /// # Safety
    ///
    /// `device` was made from `instance`. Both stay alive until the last handle, and everything
    /// that was made with one, is dropped. If the device has Vulkan 1.2 or
    /// VK_KHR_timeline_semaphore and timelines are used, it was made with that feature enabled.
    pub unsafe fn new(instance: &ash::Instance, device: &ash::Device) -> VulkanDevice {
        // SAFETY: the same promise.
        unsafe { VulkanDevice::with_waiters(instance, device, WAITERS) }
    }

    /// As [`new`](Self::new), with at most so many threads. Without any, what needs one is
    /// Unsupported.
    ///
    /// # Safety
    ///
    /// As [`new`](Self::new).
    pub unsafe fn with_waiters(
        instance: &ash::Instance,
        device: &ash::Device,
        limit: usize,
    ) -> VulkanDevice {
        // SAFETY: the same promise.
        let calls = unsafe { Calls::load(instance, device) };
        VulkanDevice {
            held: Arc::new(Held { calls: Arc::new(calls), waiters: Waiters::new(limit) }),
        }
    }

    /// The user's device.
    pub fn device(&self) -> &ash::Device {
        &self.held.calls.device
    }

    /// Whether the device has timeline semaphores.
    pub fn has_timelines(&self) -> bool {
        self.held.calls.timeline.is_some()
    }

    /// Whether fences can be exported and imported; of which kind, the driver says
    /// (vkGetPhysicalDeviceExternalFenceProperties).
    pub fn has_fence_descriptors(&self) -> bool {
        self.held.calls.fence_fd.is_some()
    }

    /// The same for binary semaphores.
    pub fn has_semaphore_descriptors(&self) -> bool {
        self.held.calls.semaphore_fd.is_some()
    }

    /// How many waiter threads there are, busy or not.
    pub fn waiter_threads(&self) -> usize {
        self.held.waiters.threads()
    }

    /// The device is lost, as a call of the user's own said: fails everything that waits.
    pub fn lose(&self) {
        self.held.calls.lose("a call of the user's answered VK_ERROR_DEVICE_LOST");
    }

    /// Why everything fails, if the device is lost.
    pub fn lost(&self) -> Option<Failure> {
        self.held.calls.lost.value().err().map(|failed| failed.failure)
    }

    /// An error where the device is lost already, and in a forked child.
    fn check(&self, operation: &'static str) -> Result<(), FenceError> {
        if self.held.calls.is_forked() {
            return Err(error::forked(operation));
        }
        match self.lost() {
            None => Ok(()),
            Some(failure) => Err(error::lost(operation, failure.message())),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.calls.is_forked() {
            self.waiters.end();
        }
    }
}

impl fmt::Debug for VulkanDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanDevice")
            .field("device", &self.held.calls.device.handle())
            .field("has_timelines", &self.has_timelines())
            .field("has_fence_descriptors", &self.has_fence_descriptors())
            .field("has_semaphore_descriptors", &self.has_semaphore_descriptors())
            .field("waiter_threads", &self.waiter_threads())
            .field("lost", &self.lost())
            .finish()
    }
}

/// Why whoever waited for something that is not followed any more is told a failure.
fn given_up(what: &str) -> Failure {
    Failure::with_errno(Errno::ECANCELED as i32, format!("{what} is no longer waited for"))
}

/// A semaphore that fails with the device, and has the value.
fn mirror(calls: &Calls, value: u64) -> (Semaphore, crate::Link) {
    let mirror = Semaphore::new(value);
    let link = calls.lost.link(&mirror);
    (mirror, link)
}
