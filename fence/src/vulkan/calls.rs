//! The calls of the driver that are made here, found as its device has them: as part of Vulkan or
//! as an extension. What is missing is known before it is called.
//!
//! # Unsafe
//!
//! Functions of a driver's, called with handles that the caller vouches for.

#![allow(unsafe_code)]

use super::error;
use crate::device::FenceError;
use crate::{Failure, Semaphore};
use ash::khr::{external_fence_fd, external_semaphore_fd, timeline_semaphore};
use ash::vk;
use nix::errno::Errno;
use std::ffi::{CStr, CString, c_void};
use std::time::Duration;

pub(super) struct Calls {
    pub(super) device: ash::Device,
    pub(super) timeline: Option<timeline_semaphore::DeviceFn>,
    pub(super) fence_fd: Option<external_fence_fd::DeviceFn>,
    pub(super) semaphore_fd: Option<external_semaphore_fd::DeviceFn>,
    /// The process that made it.
    owner: u32,
    /// Fails with the device; everything that waits is linked to it. Its value stays 0.
    pub(super) lost: Semaphore,
}

impl Calls {
    /// # Safety
    ///
    /// As [`VulkanDevice::new`](super::VulkanDevice::new).
    pub(super) unsafe fn load(instance: &ash::Instance, device: &ash::Device) -> Calls {
        let find = |name: &CStr| -> *const c_void {
            // SAFETY: the device is the instance's, and the name ends with a zero.
            let found = unsafe { instance.get_device_proc_addr(device.handle(), name.as_ptr()) };
            found.map_or(std::ptr::null(), |call| call as *const c_void)
        };
        // Part of Vulkan since 1.2, and named without the suffix then.
        let core_or_extension = |name: &CStr| -> *const c_void {
            let core =
                name.to_bytes().strip_suffix(b"KHR").and_then(|name| CString::new(name).ok());
            match core.map(|core| find(&core)) {
                Some(found) if !found.is_null() => found,
                _ => find(name),
            }
        };
        let has = |found: *const c_void| !found.is_null();
        Calls {
            device: device.clone(),
            timeline: has(core_or_extension(c"vkWaitSemaphoresKHR"))
                .then(|| timeline_semaphore::DeviceFn::load(core_or_extension)),
            fence_fd: has(find(c"vkGetFenceFdKHR"))
                .then(|| external_fence_fd::DeviceFn::load(find)),
            semaphore_fd: has(find(c"vkGetSemaphoreFdKHR"))
                .then(|| external_semaphore_fd::DeviceFn::load(find)),
            owner: std::process::id(),
            lost: Semaphore::new(0),
        }
    }

    /// Whether this is a forked child, where nothing is called, locked or waited for: the threads
    /// are the parent's, and any lock may be held by one that is not here.
    pub(super) fn is_forked(&self) -> bool {
        self.owner != std::process::id()
    }

    /// Fails everything that waits. Runs user code: no lock may be held.
    pub(super) fn lose(&self, why: &str) {
        self.lost.fail(Failure::with_errno(Errno::ENODEV as i32, error::lost_message(why)));
    }

    /// Passes a result on. Where the driver says in it that the device is lost, everything that
    /// waits fails: by user code, so no lock may be held, and the caller is outside the driver.
    pub(super) fn heed<T>(&self, result: Result<T, FenceError>) -> Result<T, FenceError> {
        result.inspect_err(|error| {
            if error::is_lost(error) {
                let message = error.message().to_owned();
                self.lost.fail(Failure::with_errno(Errno::ENODEV as i32, message));
            }
        })
    }

    /// What a call's answer means: false is "not yet". Its error is to be [heeded](Self::heed).
    pub(super) fn answer(
        &self,
        operation: &'static str,
        call: &'static str,
        result: vk::Result,
    ) -> Result<bool, FenceError> {
        match result {
            vk::Result::SUCCESS => Ok(true),
            vk::Result::TIMEOUT | vk::Result::NOT_READY => Ok(false),
            vk::Result::ERROR_DEVICE_LOST => {
                Err(error::lost(operation, error::lost_message(&format!("{call} said so"))))
            }
            other => Err(error::refused(operation, call, other)),
        }
    }

    /// Whether the fence has signalled.
    ///
    /// # Safety
    ///
    /// The fence is the device's and alive.
    pub(super) unsafe fn fence_status(
        &self,
        operation: &'static str,
        fence: vk::Fence,
    ) -> Result<bool, FenceError> {
        // SAFETY: as promised.
        let result = match unsafe { self.device.get_fence_status(fence) } {
            Ok(true) => vk::Result::SUCCESS,
            Ok(false) => vk::Result::NOT_READY,
            Err(error) => error,
        };
        self.answer(operation, "vkGetFenceStatus", result)
    }

    /// Waits so long for the fence; false: not yet.
    ///
    /// # Safety
    ///
    /// As [`fence_status`](Self::fence_status).
    pub(super) unsafe fn fence_wait(
        &self,
        operation: &'static str,
        fence: vk::Fence,
        timeout: Duration,
    ) -> Result<bool, FenceError> {
        let timeout = timeout.as_nanos() as u64;
        // SAFETY: as promised.
        let waited = unsafe { self.device.wait_for_fences(&[fence], true, timeout) };
        let result = waited.err().unwrap_or(vk::Result::SUCCESS);
        self.answer(operation, "vkWaitForFences", result)
    }
}

/// The calls of timelines, on a device that has them.
pub(super) struct TimelineCalls<'a> {
    calls: &'a Calls,
    table: &'a timeline_semaphore::DeviceFn,
    operation: &'static str,
}

impl Calls {
    pub(super) fn timelines(
        &self,
        operation: &'static str,
    ) -> Result<TimelineCalls<'_>, FenceError> {
        match &self.timeline {
            Some(table) => Ok(TimelineCalls { calls: self, table, operation }),
            None => Err(error::missing(operation, "timeline semaphores", "timelineSemaphore")),
        }
    }
}

impl TimelineCalls<'_> {
    /// # Safety
    ///
    /// The semaphore is a timeline of the device's, and alive; so for the others.
    pub(super) unsafe fn value(&self, semaphore: vk::Semaphore) -> Result<u64, FenceError> {
        let (device, mut value) = (self.calls.device.handle(), 0);
        // SAFETY: as promised; the value is written before the call returns.
        let result =
            unsafe { (self.table.get_semaphore_counter_value_khr)(device, semaphore, &mut value) };
        self.calls.answer(self.operation, "vkGetSemaphoreCounterValue", result)?;
        Ok(value)
    }

    /// Waits so long until it has the value; false: not yet.
    ///
    /// # Safety
    ///
    /// As [`value`](Self::value).
    pub(super) unsafe fn wait(
        &self,
        semaphore: vk::Semaphore,
        value: u64,
        timeout: Duration,
    ) -> Result<bool, FenceError> {
        let timeout = timeout.as_nanos() as u64;
        let (semaphores, values) = ([semaphore], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        let device = self.calls.device.handle();
        // SAFETY: as promised; what the call reads outlives it.
        let result = unsafe { (self.table.wait_semaphores_khr)(device, &info, timeout) };
        self.calls.answer(self.operation, "vkWaitSemaphores", result)
    }

    /// # Safety
    ///
    /// As [`value`](Self::value), and the value is above the current one and below those of
    /// pending signals.
    pub(super) unsafe fn signal(
        &self,
        semaphore: vk::Semaphore,
        value: u64,
    ) -> Result<(), FenceError> {
        let info = vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(value);
        let device = self.calls.device.handle();
        // SAFETY: as promised; what the call reads outlives it.
        let result = unsafe { (self.table.signal_semaphore_khr)(device, &info) };
        self.calls.answer(self.operation, "vkSignalSemaphore", result).map(drop)
    }
}
