//! Work for the device: memory that it fills, after and before what a case says.
//!
//! # Unsafe
//!
//! As at the head of the folder.

#![allow(unsafe_code)]

use super::Gpu;
use dataplane::fence::ash::vk;

/// A buffer on memory, which the device fills.
pub struct Filled<'a> {
    gpu: &'a Gpu,
    buffer: vk::Buffer,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
    /// Memory that was allocated for it alone.
    own: Option<vk::DeviceMemory>,
    len: u64,
    /// Of its memory, where that is its own.
    pub memory_type: u32,
}

/// What a submission waits for and signals.
#[derive(Default)]
pub struct Work {
    waits: Vec<(vk::Semaphore, u64)>,
    signals: Vec<(vk::Semaphore, u64)>,
    fence: vk::Fence,
}

impl Work {
    /// Begins when the semaphore has the value, which means nothing to a binary one.
    pub fn after(mut self, semaphore: vk::Semaphore, value: u64) -> Work {
        self.waits.push((semaphore, value));
        self
    }

    /// Signals it at its end.
    pub fn signals(mut self, semaphore: vk::Semaphore, value: u64) -> Work {
        self.signals.push((semaphore, value));
        self
    }

    /// Signals this fence at its end.
    pub fn tells(mut self, fence: vk::Fence) -> Work {
        self.fence = fence;
        self
    }

    /// Hands it to the device, with commands or without.
    pub fn submit(self, gpu: &Gpu, filled: Option<&Filled<'_>>) {
        let (waits, waited): (Vec<_>, Vec<_>) = self.waits.into_iter().unzip();
        let (signals, signalled): (Vec<_>, Vec<_>) = self.signals.into_iter().unzip();
        let stages = vec![vk::PipelineStageFlags::ALL_COMMANDS; waits.len()];
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waited)
            .signal_semaphore_values(&signalled);
        let commands: Vec<_> = filled.iter().map(|filled| filled.commands).collect();
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages)
            .signal_semaphores(&signals)
            .command_buffers(&commands)
            .push_next(&mut values);
        let queue = gpu.queue();
        // SAFETY: the queue is held; the structures outlive the call, the objects the work.
        unsafe { gpu.device.queue_submit(*queue, &[info], self.fence) }.expect("room on the queue");
    }
}

impl<'a> Filled<'a> {
    /// A buffer on memory of its own, which can be exported as this.
    pub fn exportable(
        gpu: &'a Gpu,
        len: u64,
        handle: vk::ExternalMemoryHandleTypeFlags,
    ) -> Filled<'a> {
        let (buffer, needs) = buffer(gpu, len, handle);
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(handle);
        let memory_type = needs.memory_type_bits.trailing_zeros();
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(memory_type);
        if !handle.is_empty() {
            info = info.push_next(&mut export);
        }
        // SAFETY: the structures outlive the call.
        let memory = unsafe { gpu.device.allocate_memory(&info, None) }.expect("device memory");
        let mut filled = Filled::on(gpu, (buffer, len), memory, 0, 1);
        filled.own = Some(memory);
        filled.memory_type = memory_type;
        filled
    }

    /// A buffer on memory of somebody's, who keeps it for longer; `repeats` makes it take longer.
    pub fn imported(
        gpu: &'a Gpu,
        (memory, offset, len): (vk::DeviceMemory, u64, u64),
        repeats: u32,
    ) -> Filled<'a> {
        let (buffer, _) = buffer(gpu, len, HOST);
        Filled::on(gpu, (buffer, len), memory, offset, repeats)
    }

    fn on(
        gpu: &'a Gpu,
        (buffer, len): (vk::Buffer, u64),
        memory: vk::DeviceMemory,
        offset: u64,
        repeats: u32,
    ) -> Filled<'a> {
        let device = &gpu.device;
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(gpu.family);
        // SAFETY: the structures outlive the calls; everything here is the device's.
        let (pool, commands) = unsafe {
            device.bind_buffer_memory(buffer, memory, offset).expect("memory that fits");
            let pool = device.create_command_pool(&info, None).expect("a pool");
            let info =
                vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
            let commands = device.allocate_command_buffers(&info).expect("commands")[0];
            let begin = vk::CommandBufferBeginInfo::default()
                .flags(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE);
            device.begin_command_buffer(commands, &begin).expect("a beginning");
            for word in (0..repeats).rev() {
                device.cmd_fill_buffer(commands, buffer, 0, len, WORD + word);
            }
            let barrier = vk::MemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
                .dst_access_mask(vk::AccessFlags::HOST_READ);
            device.cmd_pipeline_barrier(
                commands,
                vk::PipelineStageFlags::TRANSFER,
                vk::PipelineStageFlags::HOST,
                vk::DependencyFlags::empty(),
                &[barrier],
                &[],
                &[],
            );
            device.end_command_buffer(commands).expect("an end");
            (pool, commands)
        };
        Filled { gpu, buffer, pool, commands, own: None, len, memory_type: 0 }
    }

    /// Its memory, where that is its own.
    pub fn memory(&self) -> vk::DeviceMemory {
        self.own.expect("memory of its own")
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len as usize
    }

    /// What the device has written when it is done.
    pub fn expected(&self) -> Vec<u8> {
        WORD.to_ne_bytes().repeat(self.len as usize / 4)
    }
}

/// What memory is filled with.
const WORD: u32 = 0xd1ce_0b5e;

const HOST: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

fn buffer(
    gpu: &Gpu,
    len: u64,
    handle: vk::ExternalMemoryHandleTypeFlags,
) -> (vk::Buffer, vk::MemoryRequirements) {
    let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(handle);
    let usage = vk::BufferUsageFlags::TRANSFER_DST;
    let mut info = vk::BufferCreateInfo::default().size(len).usage(usage);
    if !handle.is_empty() {
        info = info.push_next(&mut external);
    }
    // SAFETY: the structures outlive the call.
    unsafe {
        let buffer = gpu.device.create_buffer(&info, None).expect("a buffer");
        (buffer, gpu.device.get_buffer_memory_requirements(buffer))
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        // As for what is `Owned`.
        if std::thread::panicking() {
            return;
        }
        let queue = self.gpu.queue();
        let device = &self.gpu.device;
        // SAFETY: the queue is held, and idle when its objects are destroyed.
        unsafe {
            let _ = device.queue_wait_idle(*queue);
            device.destroy_command_pool(self.pool, None);
            device.destroy_buffer(self.buffer, None);
            if let Some(memory) = self.own {
                device.free_memory(memory, None);
            }
        }
    }
}

impl Gpu {
    /// Whether a buffer can be exported as this.
    pub fn exports_memory(&self, handle: vk::ExternalMemoryHandleTypeFlags) -> bool {
        let info = vk::PhysicalDeviceExternalBufferInfo::default()
            .handle_type(handle)
            .usage(vk::BufferUsageFlags::TRANSFER_DST);
        let mut told = vk::ExternalBufferProperties::default();
        // SAFETY: the structures outlive the call.
        unsafe {
            self.instance.get_physical_device_external_buffer_properties(
                self.physical,
                &info,
                &mut told,
            );
        }
        let features = told.external_memory_properties.external_memory_features;
        self.target().has_descriptors()
            && features.contains(vk::ExternalMemoryFeatureFlags::EXPORTABLE)
    }
}
