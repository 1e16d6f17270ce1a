//! Vulkan, as the loader of the user land finds it: which driver, and what it shares with others.
//!
//! Unsafe because Vulkan is a C library that is found at run time, and trusts its callers.
#![allow(unsafe_code)]

use ash::{Entry, Instance, vk};
use std::ffi::CStr;
use std::fmt::Display;

/// What the tests use, with whether it must be there whatever the kernel has.
const EXTENSIONS: &[(&CStr, bool)] = &[
    (ash::khr::external_semaphore_fd::NAME, true),
    (ash::khr::external_fence_fd::NAME, true),
    (ash::ext::external_memory_host::NAME, true),
    (ash::ext::external_memory_dma_buf::NAME, false),
];

fn tried<T, E: Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// A driver on the processor that gives semaphores as sync_files.
pub(crate) fn vulkan() -> Result<String, String> {
    // SAFETY: what is loaded is Vulkan's own loader, which may be loaded at any time.
    let entry = tried("libvulkan.so.1", unsafe { Entry::load() })?;
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let create = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: what it points to lives until the call is over.
    let instance = tried("vkCreateInstance", unsafe { entry.create_instance(&create, None) })?;
    let said = lavapipe(&instance);
    // SAFETY: nothing that was made of it is left.
    unsafe { instance.destroy_instance(None) };
    said
}

fn lavapipe(instance: &Instance) -> Result<String, String> {
    // SAFETY: the instance is there, and so are its devices from here on.
    let devices = unsafe { instance.enumerate_physical_devices() };
    let mut seen = Vec::new();
    for device in tried("vkEnumeratePhysicalDevices", devices)? {
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        // SAFETY: a device of this instance, and structures that live until the call is over.
        unsafe { instance.get_physical_device_properties2(device, &mut properties) };
        let name = text(&properties.properties.device_name);
        match driver.driver_id {
            vk::DriverId::MESA_LLVMPIPE => {
                let shared = shared(instance, device)?;
                return Ok(format!("{name}, {}; {shared}", text(&driver.driver_info)));
            }
            _ => seen.push(name),
        }
    }
    Err(format!("no lavapipe; there are: {}", seen.join(", ")))
}

fn text(characters: &[std::ffi::c_char]) -> String {
    let bytes = characters.iter().map(|&one| one as u8).take_while(|&byte| byte != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
}

/// Which extensions there are; an error where one is missing that must be there.
fn shared(instance: &Instance, device: vk::PhysicalDevice) -> Result<String, String> {
    // SAFETY: a device of this instance.
    let there = unsafe { instance.enumerate_device_extension_properties(device) };
    let there = tried("vkEnumerateDeviceExtensionProperties", there)?;
    let there: Vec<String> = there.iter().map(|one| text(&one.extension_name)).collect();
    let mut words = Vec::new();
    for &(name, must) in EXTENSIONS {
        let name = name.to_string_lossy();
        match there.iter().any(|one| *one == *name) {
            true => words.push(format!("with {name}")),
            false if must => return Err(format!("lavapipe without {name}: it is too old")),
            false => words.push(format!("without {name}")),
        }
    }
    let asked = vk::PhysicalDeviceExternalSemaphoreInfo::default()
        .handle_type(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD);
    let mut told = vk::ExternalSemaphoreProperties::default();
    // SAFETY: a device of this instance, and structures that live until the call is over.
    unsafe {
        instance.get_physical_device_external_semaphore_properties(device, &asked, &mut told);
    }
    let features = told.external_semaphore_features;
    match features.contains(vk::ExternalSemaphoreFeatureFlags::EXPORTABLE) {
        true => Ok(words.join(", ")),
        false => Err("no semaphore of lavapipe's can be a sync_file: it is too old".to_owned()),
    }
}
