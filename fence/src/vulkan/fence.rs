//! A fence of Vulkan's, waited for.
//!
//! A waiter thread waits in the driver for this one fence; a fence that has signalled already takes
//! none. The future is a wait for a semaphore that goes from 0 to 1, so any executor, a proactor's
//! operations and a gated send can wait for it, and nobody spins.
//!
//! # Unsafe
//!
//! A fence that the caller vouches for.

#![allow(unsafe_code)]

use super::waiters::{Look, Wanted};
use super::{VulkanDevice, error, given_up, mirror};
use crate::device::FenceError;
use crate::{Link, Semaphore, Wait, WaitError};
use ash::vk;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

const NAME: &str = "vulkan fence";

/// A wait for a fence of Vulkan's, as a future.
///
/// `Send` and `Unpin`. Dropping it ends the wait: until nobody is inside the driver with the fence,
/// which takes 50 ms at most, and nothing when the fence has signalled. See also
/// [`stop`](Self::stop).
#[must_use = "dropping it ends the wait"]
pub struct VulkanFenceWait {
    done: Semaphore,
    wait: Wait,
    /// None: it had signalled at once.
    wanted: Option<Arc<Wanted>>,
    link: Option<Link>,
    device: VulkanDevice,
}

impl VulkanDevice {
    /// Waits for a fence. Takes a waiter thread until it has signalled or this is dropped.
    ///
    /// # Errors
    ///
    /// Unsupported where the device was given no waiter threads, Exhausted where all are taken,
    /// Failed where the device is lost.
    ///
    /// # Safety
    ///
    /// `fence` is this device's, and was handed to a queue already if it is to signal. It is
    /// neither destroyed, reset nor handed to a queue before the wait has succeeded or is dropped:
    /// Vulkan wants it to itself for that, and a wait that has failed may be inside the driver yet.
    pub unsafe fn wait_for_fence(&self, fence: vk::Fence) -> Result<VulkanFenceWait, FenceError> {
        self.check(NAME)?;
        let calls = self.held.calls.clone();
        // SAFETY: as promised.
        let has_signalled = calls.heed(unsafe { calls.fence_status(NAME, fence) })?;
        let (done, link) = mirror(&calls, u64::from(has_signalled));
        let wait = done.wait(1);
        let mut begun = VulkanFenceWait {
            done: done.clone(),
            wait,
            wanted: None,
            link: Some(link),
            device: self.clone(),
        };
        if has_signalled {
            return Ok(begun);
        }
        let wanted = self.held.waiters.run(NAME, move |wanted| {
            let mut look = Look::new();
            let waited = loop {
                if done.value() != Ok(0) {
                    break None;
                }
                // SAFETY: the fence is kept until the wait has succeeded, or is dropped, which
                // waits until nobody is in here.
                match wanted.inside(|| unsafe { calls.fence_wait(NAME, fence, look.next()) }) {
                    Some(Ok(false)) => {}
                    waited => break waited,
                }
            };
            // The fence may be gone as soon as this is told.
            move || match waited.map(|waited| calls.heed(waited)) {
                Some(Ok(_)) => drop(done.signal(1)),
                Some(Err(problem)) => drop(done.fail(error::failure(&problem))),
                None => {}
            }
        })?;
        begun.wanted = Some(wanted);
        Ok(begun)
    }
}

impl VulkanFenceWait {
    /// At 1 when the fence has signalled; failed with the device, and with ECANCELED when the wait
    /// is dropped before.
    pub fn semaphore(&self) -> &Semaphore {
        &self.done
    }

    /// Ends the wait without blocking; when the wait that this gives is over, dropping this does
    /// not block.
    pub fn stop(&self) -> Wait {
        match &self.wanted {
            Some(wanted) if !self.device.held.calls.is_forked() => wanted.withdraw(),
            _ => Semaphore::new(1).wait(1),
        }
    }
}

impl Future for VulkanFenceWait {
    type Output = Result<(), WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(context).map_ok(drop)
    }
}

impl Drop for VulkanFenceWait {
    fn drop(&mut self) {
        if self.device.held.calls.is_forked() {
            return;
        }
        if let Some(wanted) = &self.wanted {
            wanted.withdraw_blocking();
        }
        if let Some(link) = self.link.take() {
            link.unlink();
        }
        if self.done.value() == Ok(0) {
            self.done.fail(given_up("the fence"));
        }
    }
}

impl fmt::Debug for VulkanFenceWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanFenceWait").field("semaphore", &self.done).finish()
    }
}
