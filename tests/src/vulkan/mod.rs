//! A program of Vulkan's, as a user would have it: instance, device, queue, memory to fill.
//!
//! One for the process, made when the first case wants it and never destroyed, so every promise
//! about what outlives what is kept. It takes the first device there is. `REQUIRE_DEVICES` says
//! what must be there: `vulkan-timeline` a driver with timelines that imports host memory, `vulkan`
//! one with SYNC_FDs as well, and beside `udmabuf` one that exports dma-bufs. Without such a demand
//! a case is skipped, and says why.
//!
//! # Unsafe
//!
//! Calls of Vulkan: handles made here are used as the specification says, and only on the thread
//! that holds [`Gpu::queue`] where it demands that.

#![allow(unsafe_code)]

mod faults;
mod work;

pub use faults::{Answer, Faults};
pub use work::{Filled, Work};

use crate::Skip;
use dataplane::fence::VulkanDevice;
use dataplane::fence::ash::{self, vk};
use dataplane::regions::VulkanTarget;
use std::ffi::CStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Extensions that are used where the device has them.
const WANTED: &[&CStr] = &[
    c"VK_KHR_external_fence_fd",
    c"VK_KHR_external_semaphore_fd",
    c"VK_KHR_external_memory_fd",
    c"VK_EXT_external_memory_dma_buf",
    c"VK_EXT_external_memory_host",
    c"VK_KHR_timeline_semaphore",
];

/// The device of the process.
pub struct Gpu {
    _entry: ash::Entry,
    /// What the device comes from.
    pub instance: ash::Instance,
    /// The first there is.
    pub physical: vk::PhysicalDevice,
    /// With everything enabled that cases use, where it has that.
    pub device: ash::Device,
    /// Of its queue.
    pub family: u32,
    queue: Mutex<vk::Queue>,
    /// As the driver names itself.
    pub name: String,
}

/// The device, or why there is none.
///
/// # Panics
///
/// Where there is none although one is required.
pub fn gpu() -> Result<&'static Gpu, Skip> {
    match the_one() {
        Ok(gpu) => Ok(gpu),
        Err(reason) => Err(lacking(&[TIMELINE], reason)),
    }
}

/// Makes the device, if there is one: what its driver opens then stays open and is no case's.
pub fn prepare() {
    // Without one the cases say so.
    let _ = the_one();
}

fn the_one() -> &'static Result<Gpu, String> {
    static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();
    GPU.get_or_init(Gpu::new)
}

/// The skip of what is missing; a failure where `REQUIRE_DEVICES` has every one of these names.
///
/// # Panics
///
/// Where it is required.
pub fn lacking(names: &[&str], reason: &str) -> Skip {
    let required = std::env::var("REQUIRE_DEVICES").unwrap_or_default();
    let is_required =
        |name: &&str| required.split(',').any(|one| one == *name || (one, *name) == FULL);
    assert!(!names.iter().all(is_required), "{} is required, and {reason}", names.join(" and "));
    Skip(reason.to_owned())
}

/// A driver with everything has timelines too.
const FULL: (&str, &str) = ("vulkan", TIMELINE);

/// A driver with timelines that imports host memory.
pub const TIMELINE: &str = "vulkan-timeline";

impl Gpu {
    fn new() -> Result<Gpu, String> {
        // SAFETY: the library is the system's loader of Vulkan.
        let entry = unsafe { ash::Entry::load() };
        let entry = entry.map_err(|error| format!("no Vulkan: {error}"))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the structures outlive the call, here and below.
        let instance = unsafe { entry.create_instance(&info, None) };
        let instance = instance.map_err(|error| format!("no Vulkan driver: {error}"))?;
        // SAFETY: as above.
        let physical = unsafe { instance.enumerate_physical_devices() };
        let physical = physical.map_err(|error| format!("no Vulkan devices: {error}"))?;
        let physical = *physical.first().ok_or("Vulkan has no device here")?;
        // SAFETY: as above.
        let properties = unsafe { instance.get_physical_device_properties(physical) };
        let name = properties.device_name_as_c_str().unwrap_or(c"?").to_string_lossy().into_owned();
        if properties.api_version < vk::API_VERSION_1_2 {
            return Err(format!("{name} has not Vulkan 1.2, and so no timelines"));
        }
        // SAFETY: as above.
        let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
        let useful = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
        let family = families.iter().position(|family| family.queue_flags.intersects(useful));
        let family = family.ok_or("the device has no queue")? as u32;
        // SAFETY: as above.
        let offered = unsafe { instance.enumerate_device_extension_properties(physical) };
        let offered = offered.map_err(|error| format!("{name}: {error}"))?;
        let has = |name: &CStr| {
            offered.iter().any(|one| one.extension_name_as_c_str().is_ok_and(|one| one == name))
        };
        let extensions: Vec<_> =
            WANTED.iter().filter(|name| has(name)).map(|name| name.as_ptr()).collect();
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0])];
        let mut timelines =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut timelines);
        // SAFETY: as above.
        let device = unsafe { instance.create_device(physical, &info, None) };
        let device = device.map_err(|error| format!("{name}: {error}"))?;
        // SAFETY: the family has a queue, see above.
        let queue = Mutex::new(unsafe { device.get_device_queue(family, 0) });
        Ok(Gpu { _entry: entry, instance, physical, device, family, queue, name })
    }

    /// The queue, which one thread at a time may use.
    pub fn queue(&self) -> MutexGuard<'_, vk::Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The toolkit's view of it.
    pub fn vulkan(&self) -> VulkanDevice {
        // SAFETY: nothing is ever destroyed, and the feature is enabled.
        unsafe { VulkanDevice::new(&self.instance, &self.device) }
    }

    /// The same, with a limit of its waiter threads.
    pub fn with_waiters(&self, limit: usize) -> VulkanDevice {
        // SAFETY: as above.
        unsafe { VulkanDevice::with_waiters(&self.instance, &self.device, limit) }
    }

    /// Where memory comes from and goes to.
    pub fn target(&self) -> VulkanTarget<'_> {
        // SAFETY: as above.
        unsafe { VulkanTarget::new(&self.instance, self.physical, &self.device) }
    }

    /// A timeline at this value.
    pub fn timeline(&self, value: u64) -> Owned<'_, vk::Semaphore> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(value);
        self.semaphore(vk::SemaphoreCreateInfo::default().push_next(&mut kind))
    }

    /// A binary semaphore, to be exported as this.
    pub fn binary(
        &self,
        handles: vk::ExternalSemaphoreHandleTypeFlags,
    ) -> Owned<'_, vk::Semaphore> {
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(handles);
        let info = vk::SemaphoreCreateInfo::default();
        self.semaphore(match handles.is_empty() {
            true => info,
            false => info.push_next(&mut export),
        })
    }

    fn semaphore(&self, info: vk::SemaphoreCreateInfo<'_>) -> Owned<'_, vk::Semaphore> {
        // SAFETY: the structures outlive the call.
        let raw = unsafe { self.device.create_semaphore(&info, None) }.expect("a semaphore");
        Owned { gpu: self, raw }
    }

    /// A fence, to be exported as this.
    pub fn fence(&self, handles: vk::ExternalFenceHandleTypeFlags) -> Owned<'_, vk::Fence> {
        let mut export = vk::ExportFenceCreateInfo::default().handle_types(handles);
        let info = vk::FenceCreateInfo::default();
        let info = match handles.is_empty() {
            true => info,
            false => info.push_next(&mut export),
        };
        // SAFETY: the structures outlive the call.
        let raw = unsafe { self.device.create_fence(&info, None) }.expect("a fence");
        Owned { gpu: self, raw }
    }

    /// Which kinds of descriptors a binary semaphore can be exported as *and* imported from.
    pub fn semaphore_handles(&self) -> vk::ExternalSemaphoreHandleTypeFlags {
        type Flags = vk::ExternalSemaphoreHandleTypeFlags;
        let works = |flags: &Flags| {
            let info = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(*flags);
            let mut told = vk::ExternalSemaphoreProperties::default();
            // SAFETY: the structures outlive the call.
            unsafe {
                self.instance.get_physical_device_external_semaphore_properties(
                    self.physical,
                    &info,
                    &mut told,
                );
            }
            told.external_semaphore_features.contains(
                vk::ExternalSemaphoreFeatureFlags::EXPORTABLE
                    | vk::ExternalSemaphoreFeatureFlags::IMPORTABLE,
            )
        };
        let has = self.vulkan().has_semaphore_descriptors();
        let all =
            [Flags::SYNC_FD, Flags::OPAQUE_FD].into_iter().filter(|flags| has && works(flags));
        all.fold(Flags::empty(), |one, other| one | other)
    }

    /// The same of a fence.
    pub fn fence_handles(&self) -> vk::ExternalFenceHandleTypeFlags {
        type Flags = vk::ExternalFenceHandleTypeFlags;
        let works = |flags: &Flags| {
            let info = vk::PhysicalDeviceExternalFenceInfo::default().handle_type(*flags);
            let mut told = vk::ExternalFenceProperties::default();
            // SAFETY: the structures outlive the call.
            unsafe {
                self.instance.get_physical_device_external_fence_properties(
                    self.physical,
                    &info,
                    &mut told,
                );
            }
            told.external_fence_features.contains(
                vk::ExternalFenceFeatureFlags::EXPORTABLE
                    | vk::ExternalFenceFeatureFlags::IMPORTABLE,
            )
        };
        let has = self.vulkan().has_fence_descriptors();
        let all =
            [Flags::SYNC_FD, Flags::OPAQUE_FD].into_iter().filter(|flags| has && works(flags));
        all.fold(Flags::empty(), |one, other| one | other)
    }
}

/// Something of the device's, destroyed at the end.
pub struct Owned<'a, T: Destroy> {
    gpu: &'a Gpu,
    /// Its handle.
    pub raw: T,
}

/// What can be destroyed.
pub trait Destroy: Copy {
    /// # Safety
    ///
    /// It is the device's, and nothing uses it.
    unsafe fn destroy(self, device: &ash::Device);
}

impl Destroy for vk::Semaphore {
    unsafe fn destroy(self, device: &ash::Device) {
        // SAFETY: as promised.
        unsafe { device.destroy_semaphore(self, None) };
    }
}

impl Destroy for vk::Fence {
    unsafe fn destroy(self, device: &ash::Device) {
        // SAFETY: as promised.
        unsafe { device.destroy_fence(self, None) };
    }
}

impl<T: Destroy> Drop for Owned<'_, T> {
    fn drop(&mut self) {
        // Work of a failed case may wait for ever; what it uses is leaked.
        if std::thread::panicking() {
            return;
        }
        let queue = self.gpu.queue();
        // SAFETY: the queue is held; a case has dropped what waited for it before.
        unsafe {
            let _ = self.gpu.device.queue_wait_idle(*queue);
            self.raw.destroy(&self.gpu.device);
        }
    }
}
