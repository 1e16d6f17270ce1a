//! A driver with faults: the device's own calls, with some answered by us.
//!
//! The toolkit finds extension calls by vkGetDeviceProcAddr, and calls of Vulkan 1.0 in the table
//! of the user's `ash::Device`: both are replaced here. What to answer is for the whole process, so
//! a case holds the [`Faults`] while it counts on them.
//!
//! # Unsafe
//!
//! Functions with the driver's signatures, which call the driver's, and never with other arguments.

#![allow(unsafe_code)]

use super::Gpu;
use dataplane::fence::VulkanDevice;
use dataplane::fence::ash::{self, vk};
use std::ffi::{CStr, c_char};
use std::os::fd::RawFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What the driver does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// What it did.
    #[default]
    Own,
    /// Every wait, status and signal says that the device is lost.
    Lost,
    /// Only signals say so.
    LostSignals,
    /// Signals take a while.
    SlowSignals,
    /// Exports give this number.
    Number(RawFd),
    /// Exports fail for want of descriptors.
    NoDescriptors,
    /// Imports say that the descriptor is not what it should be.
    NoSuchHandle,
    /// It has no extensions.
    Bare,
}

static ANSWER: Mutex<Answer> = Mutex::new(Answer::Own);
static REAL: OnceLock<(vk::PFN_vkGetDeviceProcAddr, ash::DeviceFnV1_0)> = OnceLock::new();

/// The driver with faults; its own again when this is dropped. Cases run one at a time.
pub struct Faults(());

impl Faults {
    /// A device of which the driver has faults, and none so far.
    pub fn new(gpu: &Gpu) -> (Faults, VulkanDevice) {
        Faults::from_the_start(gpu, Answer::Own)
    }

    /// The same, with this one before the toolkit sees it.
    pub fn from_the_start(gpu: &Gpu, first: Answer) -> (Faults, VulkanDevice) {
        let faults = Faults(());
        faults.answer(first);
        let mut of_instance = gpu.instance.fp_v1_0().clone();
        let mut of_device = gpu.device.fp_v1_0().clone();
        let _ = REAL.set((of_instance.get_device_proc_addr, of_device.clone()));
        of_instance.get_device_proc_addr = find;
        of_device.wait_for_fences = wait_for_fences;
        of_device.get_fence_status = get_fence_status;
        let instance = ash::Instance::from_parts_1_3(
            gpu.instance.handle(),
            of_instance,
            gpu.instance.fp_v1_1().clone(),
            gpu.instance.fp_v1_3().clone(),
        );
        let device = ash::Device::from_parts_1_3(
            gpu.device.handle(),
            of_device,
            gpu.device.fp_v1_1().clone(),
            gpu.device.fp_v1_2().clone(),
            gpu.device.fp_v1_3().clone(),
        );
        // SAFETY: the driver's own, but for what is replaced; nothing is ever destroyed.
        let vulkan = unsafe { VulkanDevice::new(&instance, &device) };
        (faults, vulkan)
    }

    /// What it does from now on.
    pub fn answer(&self, answer: Answer) {
        *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.answer(Answer::Own);
    }
}

fn answer() -> Answer {
    *ANSWER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost() -> Option<vk::Result> {
    lost_by(&[Answer::Lost])
}

/// A driver that is lost takes a moment to say so.
fn lost_by(answers: &[Answer]) -> Option<vk::Result> {
    answers.contains(&answer()).then(|| {
        std::thread::sleep(Duration::from_millis(1));
        vk::Result::ERROR_DEVICE_LOST
    })
}

fn real() -> &'static (vk::PFN_vkGetDeviceProcAddr, ash::DeviceFnV1_0) {
    REAL.get().expect("set when the first device with faults is made")
}

fn found(device: vk::Device, name: &CStr) -> vk::PFN_vkVoidFunction {
    // SAFETY: the driver's own call, with what it was called with.
    unsafe { (real().0)(device, name.as_ptr()) }
}

/// The driver's function of this name and type.
macro_rules! driver {
    ($device:expr, $name:expr, $pfn:ty) => {{
        let call = found($device, $name).expect("found before it is called");
        // SAFETY: the function of this name has this type, by the specification.
        unsafe { std::mem::transmute::<unsafe extern "system" fn(), $pfn>(call) }
    }};
}

unsafe extern "system" fn find(device: vk::Device, name: *const c_char) -> vk::PFN_vkVoidFunction {
    // SAFETY: a name ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    if answer() == Answer::Bare && name.to_bytes().ends_with(b"KHR") {
        return None;
    }
    // The last three also where the driver has none: what they answer then is what a case says.
    let ours: *const () = match name.to_bytes() {
        b"vkWaitSemaphores" => wait_semaphores as vk::PFN_vkWaitSemaphores as *const (),
        b"vkSignalSemaphore" => signal_semaphore as vk::PFN_vkSignalSemaphore as *const (),
        b"vkGetFenceFdKHR" => get_fence_fd as vk::PFN_vkGetFenceFdKHR as *const (),
        b"vkGetSemaphoreFdKHR" => get_semaphore_fd as vk::PFN_vkGetSemaphoreFdKHR as *const (),
        b"vkImportSemaphoreFdKHR" => {
            import_semaphore as vk::PFN_vkImportSemaphoreFdKHR as *const ()
        }
        _ => return found(device, name),
    };
    // SAFETY: a function, whose type the caller knows by its name.
    Some(unsafe { std::mem::transmute::<*const (), unsafe extern "system" fn()>(ours) })
}

unsafe extern "system" fn wait_semaphores(
    device: vk::Device,
    info: *const vk::SemaphoreWaitInfo<'_>,
    timeout: u64,
) -> vk::Result {
    lost().unwrap_or_else(|| {
        let call = driver!(device, c"vkWaitSemaphores", vk::PFN_vkWaitSemaphores);
        // SAFETY: as it was called.
        unsafe { call(device, info, timeout) }
    })
}

unsafe extern "system" fn signal_semaphore(
    device: vk::Device,
    info: *const vk::SemaphoreSignalInfo<'_>,
) -> vk::Result {
    if answer() == Answer::SlowSignals {
        std::thread::sleep(Duration::from_micros(20));
    }
    lost_by(&[Answer::Lost, Answer::LostSignals]).unwrap_or_else(|| {
        let call = driver!(device, c"vkSignalSemaphore", vk::PFN_vkSignalSemaphore);
        // SAFETY: as it was called.
        unsafe { call(device, info) }
    })
}

unsafe extern "system" fn wait_for_fences(
    device: vk::Device,
    count: u32,
    fences: *const vk::Fence,
    all: vk::Bool32,
    timeout: u64,
) -> vk::Result {
    // SAFETY: as it was called.
    lost().unwrap_or_else(|| unsafe {
        (real().1.wait_for_fences)(device, count, fences, all, timeout)
    })
}

unsafe extern "system" fn get_fence_status(device: vk::Device, fence: vk::Fence) -> vk::Result {
    // SAFETY: as it was called.
    lost().unwrap_or_else(|| unsafe { (real().1.get_fence_status)(device, fence) })
}

/// What an export gives instead of the driver's.
fn exported(number: *mut RawFd) -> Option<vk::Result> {
    match answer() {
        Answer::Number(given) => {
            // SAFETY: the caller's place for it.
            unsafe { *number = given };
            Some(vk::Result::SUCCESS)
        }
        Answer::NoDescriptors => Some(vk::Result::ERROR_TOO_MANY_OBJECTS),
        _ => lost(),
    }
}

unsafe extern "system" fn get_fence_fd(
    device: vk::Device,
    info: *const vk::FenceGetFdInfoKHR<'_>,
    number: *mut RawFd,
) -> vk::Result {
    exported(number).unwrap_or_else(|| {
        let call = driver!(device, c"vkGetFenceFdKHR", vk::PFN_vkGetFenceFdKHR);
        // SAFETY: as it was called.
        unsafe { call(device, info, number) }
    })
}

unsafe extern "system" fn get_semaphore_fd(
    device: vk::Device,
    info: *const vk::SemaphoreGetFdInfoKHR<'_>,
    number: *mut RawFd,
) -> vk::Result {
    exported(number).unwrap_or_else(|| {
        let call = driver!(device, c"vkGetSemaphoreFdKHR", vk::PFN_vkGetSemaphoreFdKHR);
        // SAFETY: as it was called.
        unsafe { call(device, info, number) }
    })
}

unsafe extern "system" fn import_semaphore(
    device: vk::Device,
    info: *const vk::ImportSemaphoreFdInfoKHR<'_>,
) -> vk::Result {
    if answer() == Answer::NoSuchHandle {
        return vk::Result::ERROR_INVALID_EXTERNAL_HANDLE;
    }
    let call = driver!(device, c"vkImportSemaphoreFdKHR", vk::PFN_vkImportSemaphoreFdKHR);
    // SAFETY: as it was called.
    unsafe { call(device, info) }
}
