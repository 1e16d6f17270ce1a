//! The lines of the self-test that are about Vulkan: for each device, what its driver can do beside
//! our semaphores, run and not asked.
//!
//! # Unsafe
//!
//! A program of Vulkan's: instance and device are made and destroyed here, and nothing outlives the
//! function that made it.

#![allow(unsafe_code)]

use super::self_test::{PATIENCE, Proven, check, settled, text};
use crate::doctor::report::Check;
use dataplane::fence::ash::{self, vk};
use dataplane::fence::{PayloadOf, Semaphore, VulkanDevice};
use dataplane::{Proactor, Wait};
use regions::{Slab, VulkanMemory, VulkanTarget};
use std::ffi::CStr;
use std::time::Instant;

/// Enabled where the device has them.
const WANTED: [&CStr; 2] = [c"VK_KHR_external_semaphore_fd", c"VK_EXT_external_memory_host"];

const REMEDY: &str = "install a loader (libvulkan1) and a driver (mesa-vulkan-drivers, or the \
                      maker's)";

/// What is made of a device.
struct Device {
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    device: ash::Device,
    queue: vk::Queue,
}

/// A line for each thing that each device can do, or one that says why there is no device.
pub fn checks() -> Vec<Check> {
    // SAFETY: the library of this name is the system's loader.
    let entry = match unsafe { ash::Entry::load() } {
        Ok(entry) => entry,
        Err(error) => return none(text(error)),
    };
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let info = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: what the calls here and below read outlives them.
    let instance = match unsafe { entry.create_instance(&info, None) } {
        Ok(instance) => instance,
        Err(error) => return none(text(error)),
    };
    // SAFETY: as above.
    let devices = unsafe { instance.enumerate_physical_devices() }.unwrap_or_default();
    let checks: Vec<Check> =
        devices.into_iter().flat_map(|device| of_device(&instance, device)).collect();
    // SAFETY: nothing of it is left.
    unsafe { instance.destroy_instance(None) };
    match checks.is_empty() {
        true => none("no driver has a device".to_owned()),
        false => checks,
    }
}

fn none(reason: String) -> Vec<Check> {
    vec![Check::missing("vulkan", reason, "asked the loader for devices").remedy(REMEDY)]
}

fn of_device(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Vec<Check> {
    // SAFETY: the instance is alive.
    let properties = unsafe { instance.get_physical_device_properties(physical) };
    let name = properties.device_name_as_c_str().unwrap_or(c"a device").to_string_lossy();
    let line = |what: &str| format!("vulkan/{what}/{name}");
    if properties.api_version < vk::API_VERSION_1_2 {
        let reason = "it has not Vulkan 1.2, and so perhaps no timelines";
        return vec![Check::missing(&line("timeline"), reason, "asked the driver")];
    }
    let device = match open(instance, physical) {
        Ok(device) => device,
        Err(reason) => return vec![Check::missing(&line("timeline"), reason, "made a device")],
    };
    // SAFETY: instance and device are destroyed after it.
    let vulkan = unsafe { VulkanDevice::new(instance, &device.device) };
    // SAFETY: as above.
    let target = unsafe { VulkanTarget::new(instance, physical, &device.device) };
    let mut checks = vec![check(&line("timeline"), "bridged a timeline both ways", || {
        timeline(&device, &vulkan)
    })];
    checks.push(match exports_sync_fds(&device, &vulkan) {
        true => check(&line("sync-fd"), "exported a semaphore", || sync_fd(&device, &vulkan)),
        false => {
            let reason = "the driver exports no semaphores as SYNC_FD";
            Check::missing(&line("sync-fd"), reason, "asked the driver")
        }
    });
    checks.push(match target.imports_regions() {
        true => check(&line("slab"), "imported a slab as device memory", || slab(&target)),
        false => {
            let reason = "the driver imports no host memory";
            Check::missing(&line("slab"), reason, "asked the driver")
        }
    });
    drop(vulkan);
    // SAFETY: its handles are gone, and its work has ended.
    unsafe {
        let _ = device.device.device_wait_idle();
        device.device.destroy_device(None);
    }
    checks
}

fn open(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
) -> std::result::Result<Device, String> {
    // SAFETY: what the calls read outlives them; the family has a queue.
    unsafe {
        let offered = instance.enumerate_device_extension_properties(physical).map_err(text)?;
        let has = |name: &&&CStr| {
            offered.iter().any(|one| one.extension_name_as_c_str().is_ok_and(|one| one == **name))
        };
        let extensions: Vec<_> = WANTED.iter().filter(has).map(|name| name.as_ptr()).collect();
        let families = instance.get_physical_device_queue_family_properties(physical);
        let useful = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
        let family = families.iter().position(|family| family.queue_flags.intersects(useful));
        let family = family.ok_or("the device has no queue")? as u32;
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0])];
        let mut timelines =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut timelines);
        let device = instance.create_device(physical, &info, None).map_err(text)?;
        let queue = device.get_device_queue(family, 0);
        Ok(Device { instance: instance.clone(), physical, device, queue })
    }
}

impl Device {
    /// Empty work that waits for one value and signals another.
    fn submit(
        &self,
        (semaphore, after, then): (vk::Semaphore, u64, u64),
    ) -> std::result::Result<(), String> {
        let (semaphores, waits, signals) = ([semaphore], [after], [then]);
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waits)
            .signal_semaphore_values(&signals);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&semaphores)
            .wait_dst_stage_mask(&stages)
            .signal_semaphores(&semaphores)
            .push_next(&mut values);
        // SAFETY: one thread uses the queue; what is read outlives the call.
        unsafe { self.device.queue_submit(self.queue, &[info], vk::Fence::null()) }.map_err(text)
    }

    /// Runs `test` with a semaphore, and destroys that when the work with it has ended.
    fn with_semaphore(
        &self,
        info: &vk::SemaphoreCreateInfo<'_>,
        test: impl FnOnce(vk::Semaphore) -> Proven,
    ) -> Proven {
        // SAFETY: what the calls read outlives them; nothing uses the semaphore any more when it is
        // destroyed.
        unsafe {
            let semaphore = self.device.create_semaphore(info, None).map_err(text)?;
            let proven = test(semaphore);
            let _ = self.device.device_wait_idle();
            self.device.destroy_semaphore(semaphore, None);
            proven
        }
    }
}

/// Value 1 is ours, 2 the device's.
fn timeline(device: &Device, vulkan: &VulkanDevice) -> Proven {
    let mut kind =
        vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
    let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
    device.with_semaphore(&info, |timeline| {
        // SAFETY: it is destroyed after the bridge is dropped.
        let bridge = unsafe { vulkan.timeline(timeline) }.map_err(text)?;
        device.submit((timeline, 1, 2))?;
        bridge.semaphore().signal(1).map_err(text)?;
        bridge.semaphore().wait_blocking(2, Some(PATIENCE)).map_err(text)?;
        Ok("work waited for a semaphore of ours, which then had the work's value".to_owned())
    })
}

fn exports_sync_fds(device: &Device, vulkan: &VulkanDevice) -> bool {
    let kind = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
    let info = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(kind);
    let mut told = vk::ExternalSemaphoreProperties::default();
    // SAFETY: what the call reads and writes outlives it.
    unsafe {
        device.instance.get_physical_device_external_semaphore_properties(
            device.physical,
            &info,
            &mut told,
        );
    }
    let exportable = vk::ExternalSemaphoreFeatureFlags::EXPORTABLE;
    vulkan.has_semaphore_descriptors() && told.external_semaphore_features.contains(exportable)
}

fn sync_fd(device: &Device, vulkan: &VulkanDevice) -> Proven {
    let kind = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
    let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(kind);
    let info = vk::SemaphoreCreateInfo::default().push_next(&mut export);
    let io = Proactor::new().map_err(text)?;
    device.with_semaphore(&info, |semaphore| {
        let semaphores = [semaphore];
        let work = vk::SubmitInfo::default().signal_semaphores(&semaphores);
        // SAFETY: one thread uses the queue; its signal is pending when it is exported, and the
        // export has ended when it is destroyed.
        let fence = unsafe {
            let null = vk::Fence::null();
            device.device.queue_submit(device.queue, &[work], null).map_err(text)?;
            let export = vulkan.export(PayloadOf::Semaphore(semaphore)).map_err(text)?;
            io.block_on(export).map_err(text)?.map_err(text)?
        };
        let what = match fence.descriptor() {
            Some(_) => "a descriptor",
            None => "-1, which has signalled",
        };
        let done = Semaphore::new(0);
        io.import_fence(fence, &done, 1).map_err(text)?;
        io.poll(Wait::Until(Instant::now())).map_err(text)?;
        match settled(&io, &done)? {
            None => Ok(format!("the semaphore of work became {what}, and signalled one of ours")),
            Some(errno) => Err(format!("it failed with errno {errno}")),
        }
    })
}

fn slab(target: &VulkanTarget<'_>) -> Proven {
    let slab = Slab::new(4, 1 << 16).map_err(text)?;
    // SAFETY: nothing is bound to it, so the device writes nothing.
    let memory = unsafe { VulkanMemory::import_region(target, slab.region(), u32::MAX) };
    let memory = memory.map_err(text)?;
    Ok(format!("a slab of {} bytes is device memory, where it is", memory.len_bytes()))
}
