//! Memory of a user's Vulkan device, and a region as such memory.
//!
//! One memory, two views, each way:
//!
//! * [`VulkanMemory::import_region`] makes device memory of a region, so the device writes straight
//!   into a slab that is registered for I/O (VK_EXT_external_memory_host). Every driver that has
//!   the extension can; no copy is made and no descriptor is needed.
//! * [`VulkanTarget::export`] makes a descriptor of device memory: a dma-buf, which
//!   [`Region::dma_buf`] maps, or an opaque one, which the same driver imports again
//!   ([`VulkanMemory::import_opaque`]) and maps ([`VulkanMemory::map`]). An opaque descriptor is
//!   never mapped by itself: where in it the memory lies is the driver's secret.
//!
//! When the device has written what is to be read or sent, its fence or timeline says so: see the
//! crate `fence`.
//!
//! Sources: the chapter "Memory Allocation" of the Vulkan specification;
//! VK_EXT_external_memory_host, VK_KHR_external_memory_fd, VK_EXT_external_memory_dma_buf.
//!
//! Unsafe is here because handles of Vulkan are numbers whose life is the caller's promise, and the
//! calls are foreign functions.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;

use ash::khr::external_memory_fd;
use ash::vk;

use crate::access::Access;
use crate::error::{RegionError, RegionErrorKind};
use crate::page::PageSize;
use crate::region::Region;
use crate::source::Source;

/// A user's device, where memory comes from and goes to. Borrowed: nothing is kept but what
/// [`VulkanMemory`] needs to free itself.
#[derive(Clone, Copy)]
pub struct VulkanTarget<'a> {
    instance: &'a ash::Instance,
    physical: vk::PhysicalDevice,
    device: &'a ash::Device,
}

/// What a descriptor of device memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VulkanHandle {
    /// A dma-buf (VK_EXT_external_memory_dma_buf).
    DmaBuf,
    /// What only the same driver understands (VK_KHR_external_memory_fd).
    Opaque,
}

impl VulkanHandle {
    /// As Vulkan names it.
    pub fn raw(self) -> vk::ExternalMemoryHandleTypeFlags {
        match self {
            VulkanHandle::DmaBuf => vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT,
            VulkanHandle::Opaque => vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD,
        }
    }
}

impl<'a> VulkanTarget<'a> {
    /// A device with those it came from.
    ///
    /// # Safety
    /// `device` was made from `physical`, and that from `instance`; none of them is destroyed
    /// before the last use of this or of a copy, nor before every [`VulkanMemory`] that is made
    /// with one, and every region mapped from such, is gone.
    pub unsafe fn new(
        instance: &'a ash::Instance,
        physical: vk::PhysicalDevice,
        device: &'a ash::Device,
    ) -> Self {
        Self { instance, physical, device }
    }

    fn has(&self, call: &CStr) -> bool {
        // SAFETY: the device is the instance's, by `new`; the name ends with a zero.
        unsafe { self.instance.get_device_proc_addr(self.device.handle(), call.as_ptr()) }.is_some()
    }

    /// Whether regions can be imported (VK_EXT_external_memory_host is enabled).
    pub fn imports_regions(&self) -> bool {
        self.has(c"vkGetMemoryHostPointerPropertiesEXT")
    }

    /// Whether memory can be exported and imported by descriptor (VK_KHR_external_memory_fd is
    /// enabled); of which kind, vkGetPhysicalDeviceExternalBufferProperties says.
    pub fn has_descriptors(&self) -> bool {
        self.has(c"vkGetMemoryFdKHR")
    }

    /// Exports device memory as a descriptor, which keeps the memory when `memory` is freed.
    ///
    /// # Safety
    /// `memory` is the device's and was allocated for the export of this kind.
    ///
    /// # Errors
    /// `Unavailable` without the extension; what the driver refused.
    pub unsafe fn export(
        &self,
        memory: vk::DeviceMemory,
        handle: VulkanHandle,
    ) -> Result<OwnedFd, RegionError> {
        const OPERATION: &str = "export device memory";
        if !self.has_descriptors() {
            return Err(missing(OPERATION, "VK_KHR_external_memory_fd"));
        }
        let calls = external_memory_fd::Device::new(self.instance, self.device);
        let info = vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(handle.raw());
        // SAFETY: as promised.
        let number = unsafe { calls.get_memory_fd(&info) };
        let number = number.map_err(|error| refused(OPERATION, "vkGetMemoryFdKHR", error))?;
        // SAFETY: F_SETFD changes a flag of the number alone, and fails where it is not open.
        if number < 0 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            let message = format!("the driver gave {number}, which is no open descriptor");
            return Err(RegionError::new(OPERATION, RegionErrorKind::System, message));
        }
        // SAFETY: open, and given to us.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// The first of the allowed memory types in which the CPU and the device see the same at once.
    fn memory_type(&self, operation: &'static str, allowed: u32) -> Result<u32, RegionError> {
        // SAFETY: by `new`.
        let types = unsafe { self.instance.get_physical_device_memory_properties(self.physical) };
        let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let fits = |index: &u32| {
            let flags = types.memory_types[*index as usize].property_flags;
            allowed & (1 << index) != 0 && flags.contains(wanted)
        };
        (0..types.memory_type_count).find(fits).ok_or_else(|| {
            let message = format!(
                "of the memory types that are allowed ({allowed:#b}) none is host visible and \
                 coherent; copy the memory"
            );
            RegionError::new(operation, RegionErrorKind::Unavailable, message)
        })
    }
}

/// Device memory made here; freed when this is dropped, but not in a forked child: it is the
/// parent's.
///
/// `Send` and `Sync`. Bind buffers and images to [`raw`](Self::raw), and destroy them before.
pub struct VulkanMemory {
    device: ash::Device,
    memory: vk::DeviceMemory,
    len: usize,
    memory_type: u32,
    /// Whose memory it is, if it was imported.
    region: Option<Region>,
    owner_pid: u32,
}

impl VulkanMemory {
    /// A region as device memory, which keeps the region. `allowed` are the memory types that what
    /// will be bound to it may have (`VkMemoryRequirements::memoryTypeBits`). Bytes of the region
    /// have the same offset in the device memory. The region is shared from now on.
    ///
    /// # Safety
    /// The device writes no byte of it while a lease or a slice that was borrowed from a span
    /// before is used to read or write that byte, and reads none that is written so: the fences of
    /// its work say when it has ended.
    ///
    /// # Errors
    /// `Unavailable` without the extension, or when the driver takes no memory of this kind;
    /// `NotVisible` for a region without an address; `InvalidArgument` where begin or end are not
    /// aligned as the driver demands (minImportedHostPointerAlignment, usually a page); what the
    /// driver refused.
    pub unsafe fn import_region(
        target: &VulkanTarget<'_>,
        region: &Region,
        allowed: u32,
    ) -> Result<Self, RegionError> {
        const OPERATION: &str = "import a region as device memory";
        const HANDLE: vk::ExternalMemoryHandleTypeFlags =
            vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        if !target.imports_regions() {
            return Err(missing(OPERATION, "VK_EXT_external_memory_host"));
        }
        let Some(start) = region.as_ptr() else {
            let message = "the CPU cannot address this memory; import its descriptor instead";
            return Err(RegionError::new(OPERATION, RegionErrorKind::NotVisible, message));
        };
        let len = whole_pages(region);
        check_alignment(OPERATION, target, start, len)?;
        let calls = ash::ext::external_memory_host::Device::new(target.instance, target.device);
        let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
        let pointer = start.as_ptr().cast();
        // SAFETY: the region's memory is mapped; the structure outlives the call.
        let asked = unsafe {
            (calls.fp().get_memory_host_pointer_properties_ext)(
                target.device.handle(),
                HANDLE,
                pointer,
                &mut properties,
            )
        };
        asked
            .result()
            .map_err(|error| refused(OPERATION, "vkGetMemoryHostPointerPropertiesEXT", error))?;
        let memory_type = target.memory_type(OPERATION, properties.memory_type_bits & allowed)?;
        let mut import =
            vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HANDLE).host_pointer(pointer);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(len as u64)
            .memory_type_index(memory_type)
            .push_next(&mut import);
        region.mark_shared();
        // SAFETY: the memory is mapped, aligned and so long, and kept by what is made here.
        let memory = unsafe { target.device.allocate_memory(&info, None) };
        let memory = memory.map_err(|error| refused(OPERATION, "vkAllocateMemory", error))?;
        let device = target.device.clone();
        Ok(Self::new(device, memory, len, memory_type, Some(region.clone())))
    }

    /// Device memory of an opaque descriptor that [`VulkanTarget::export`] gave. `memory_type` and
    /// `len` are those it was allocated with.
    ///
    /// # Safety
    /// The descriptor is of memory with this type and length, exported by the same driver for the
    /// same physical device.
    ///
    /// # Errors
    /// `Unavailable` without the extension; what the driver refused. The descriptor is closed then.
    pub unsafe fn import_opaque(
        target: &VulkanTarget<'_>,
        fd: OwnedFd,
        len: usize,
        memory_type: u32,
    ) -> Result<Self, RegionError> {
        const OPERATION: &str = "import device memory";
        if !target.has_descriptors() {
            return Err(missing(OPERATION, "VK_KHR_external_memory_fd"));
        }
        let number = fd.into_raw_fd();
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(VulkanHandle::Opaque.raw()).fd(number);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(len as u64)
            .memory_type_index(memory_type)
            .push_next(&mut import);
        // SAFETY: as promised; the driver owns the descriptor if it takes it.
        let memory = unsafe { target.device.allocate_memory(&info, None) };
        let memory = memory.map_err(|error| {
            // SAFETY: a driver that refuses it leaves it to us.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
            refused(OPERATION, "vkAllocateMemory", error)
        })?;
        Ok(Self::new(target.device.clone(), memory, len, memory_type, None))
    }

    fn new(
        device: ash::Device,
        memory: vk::DeviceMemory,
        len: usize,
        memory_type: u32,
        region: Option<Region>,
    ) -> Self {
        Self { device, memory, len, memory_type, region, owner_pid: std::process::id() }
    }

    /// The memory, to bind to.
    pub fn raw(&self) -> vk::DeviceMemory {
        self.memory
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// The index of its memory type.
    pub fn memory_type(&self) -> u32 {
        self.memory_type
    }

    /// The region it was made of, if it was.
    pub fn region(&self) -> Option<&Region> {
        self.region.as_ref()
    }

    /// Maps it (vkMapMemory) as a region that owns it: unmapped and freed when the last handle,
    /// lease and span of the region are gone, on the thread that dropped it.
    ///
    /// # Safety
    /// The memory type is host visible and coherent, and nobody else maps the memory, which is none
    /// of a region's ([`import_region`](Self::import_region)): that has an address. The device
    /// writes it only while no copy, lease or span of the region is used: its fences say when.
    ///
    /// # Errors
    /// What the driver refused; the memory is freed then.
    pub unsafe fn map(self) -> Result<Region, RegionError> {
        const OPERATION: &str = "map device memory";
        let (len, flags) = (self.len, vk::MemoryMapFlags::empty());
        // SAFETY: as promised; the whole of it.
        let start = unsafe { self.device.map_memory(self.memory, 0, vk::WHOLE_SIZE, flags) };
        let start = start.map_err(|error| refused(OPERATION, "vkMapMemory", error))?;
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            let message = "the driver mapped it nowhere; report it to its makers";
            return Err(RegionError::new(OPERATION, RegionErrorKind::System, message));
        };
        let release = move || {
            // SAFETY: mapped above, and nobody uses the region any more.
            unsafe { self.device.unmap_memory(self.memory) };
            drop(self);
        };
        // SAFETY: mapped until `release` runs, and used otherwise only as the caller promises.
        unsafe { Region::foreign(start, len, Access::LOCAL, release) }
    }
}

impl Drop for VulkanMemory {
    fn drop(&mut self) {
        if self.owner_pid != std::process::id() {
            return;
        }
        // SAFETY: the device outlives this, by `VulkanTarget::new`, and what was bound is gone.
        unsafe { self.device.free_memory(self.memory, None) };
    }
}

impl fmt::Debug for VulkanMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanMemory")
            .field("raw", &self.memory)
            .field("len_bytes", &self.len)
            .field("memory_type", &self.memory_type)
            .field("region", &self.region)
            .finish()
    }
}

/// What is mapped for a region of ours, which is whole pages; of others, what they say.
fn whole_pages(region: &Region) -> usize {
    match region.source() {
        Source::Anonymous | Source::HugePages | Source::Memfd => {
            region.len_bytes().next_multiple_of(PageSize::base().bytes())
        }
        _ => region.len_bytes(),
    }
}

fn check_alignment(
    operation: &'static str,
    target: &VulkanTarget<'_>,
    start: NonNull<u8>,
    len: usize,
) -> Result<(), RegionError> {
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
    // SAFETY: by `VulkanTarget::new`; the structures outlive the call.
    unsafe {
        target.instance.get_physical_device_properties2(target.physical, &mut properties);
    }
    let unit = usize::try_from(host.min_imported_host_pointer_alignment).unwrap_or(usize::MAX);
    let unit = unit.max(1);
    if (start.as_ptr() as usize).is_multiple_of(unit) && len.is_multiple_of(unit) {
        return Ok(());
    }
    let message = format!(
        "{len} bytes at {start:p}: the driver takes memory that begins and ends at multiples of \
         {unit} bytes; choose slots whose bytes add up to that"
    );
    Err(RegionError::invalid(operation, message))
}

fn missing(operation: &'static str, extension: &str) -> RegionError {
    let message = format!("the device was made without {extension}; enable it where it has it");
    RegionError::new(operation, RegionErrorKind::Unavailable, message)
}

fn refused(operation: &'static str, call: &str, result: vk::Result) -> RegionError {
    let (kind, next) = match result {
        vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
            (RegionErrorKind::OutOfMemory, "ask for less, or free some")
        }
        vk::Result::ERROR_TOO_MANY_OBJECTS => {
            (RegionErrorKind::OutOfMemory, "free some allocations, or close some descriptors")
        }
        vk::Result::ERROR_INVALID_EXTERNAL_HANDLE => {
            (RegionErrorKind::Unavailable, "the driver takes no such memory; copy it")
        }
        _ => (RegionErrorKind::System, "run with the validation layers to see why"),
    };
    RegionError::new(operation, kind, format!("{call} answered {result:?}; {next}"))
}
