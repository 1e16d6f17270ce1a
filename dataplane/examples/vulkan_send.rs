//! A GPU writes into a slab, and what it wrote is sent when it has written it: without a copy
//! between, and without a thread that waits for either.
//!
//! The slab is registered with the proactor *and* imported as memory of the device. The sends are
//! submitted before the device has begun, each behind a wait for a value of the timeline that the
//! device signals. Run it with `cargo run -p dataplane --example vulkan_send`; any driver with
//! timelines and VK_EXT_external_memory_host will do, one without hardware (lavapipe) too.
//!
//! # Unsafe
//!
//! A program of Vulkan's. What it makes is destroyed at the end of `with_device`, when the handles
//! of the toolkit are gone.

#![allow(unsafe_code)]

use dataplane::fence::ash::{self, vk};
use dataplane::fence::{VulkanDevice, VulkanTimeline};
use dataplane::regions::{Slab, VulkanMemory, VulkanTarget};
use dataplane::{Address, Proactor};
use std::error::Error;
use std::io::Read;
use std::net::TcpListener;
use std::thread;

const FRAMES: u64 = 4;
const FRAME_BYTES: usize = 256 << 10;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A device with one queue, and where it came from.
struct Gpu {
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    device: ash::Device,
    queue: vk::Queue,
    family: u32,
}

/// What frame number `frame` is filled with.
fn shade(frame: u64) -> u8 {
    frame as u8
}

/// The first device there is.
unsafe fn open(entry: &ash::Entry) -> Outcome<Gpu> {
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let info = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: here and below, what a call reads outlives it, and every handle is alive.
    unsafe {
        let instance = entry.create_instance(&info, None)?;
        let devices = instance.enumerate_physical_devices()?;
        let physical = *devices.first().ok_or("no Vulkan device")?;
        let families = instance.get_physical_device_queue_family_properties(physical);
        let useful = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
        let family = families.iter().position(|one| one.queue_flags.intersects(useful));
        let family = family.ok_or("no queue that can fill memory")? as u32;
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0])];
        let extensions = [ash::ext::external_memory_host::NAME.as_ptr()];
        let mut timelines =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut timelines);
        let device = instance.create_device(physical, &info, None)?;
        let queue = device.get_device_queue(family, 0);
        Ok(Gpu { instance, physical, device, queue, family })
    }
}

/// Hands the device its work: each frame filled, in its slot, and the timeline signalled after it.
unsafe fn draw(
    gpu: &Gpu,
    (canvas, slots): (vk::Buffer, &[u32]),
    timeline: vk::Semaphore,
) -> Outcome<()> {
    let device = &gpu.device;
    let info = vk::CommandPoolCreateInfo::default().queue_family_index(gpu.family);
    // SAFETY: as in `open`; the pool is destroyed when the work has ended.
    unsafe {
        let pool = device.create_command_pool(&info, None)?;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .command_buffer_count(FRAMES as u32);
        let frames = slots.iter().zip(device.allocate_command_buffers(&info)?);
        for (frame, (&slot, commands)) in (1..).zip(frames) {
            device.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default())?;
            let (at, len) = (u64::from(slot) * FRAME_BYTES as u64, FRAME_BYTES as u64);
            device.cmd_fill_buffer(commands, canvas, at, len, 0x0101_0101 * frame as u32);
            let to_host = vk::MemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
                .dst_access_mask(vk::AccessFlags::HOST_READ);
            let (after, before) = (vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::HOST);
            let none = vk::DependencyFlags::empty();
            device.cmd_pipeline_barrier(commands, after, before, none, &[to_host], &[], &[]);
            device.end_command_buffer(commands)?;
            let (commands, signals, values) = ([commands], [timeline], [frame]);
            let mut signalled =
                vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
            let work = vk::SubmitInfo::default()
                .command_buffers(&commands)
                .signal_semaphores(&signals)
                .push_next(&mut signalled);
            device.queue_submit(gpu.queue, &[work], vk::Fence::null())?;
        }
        device.queue_wait_idle(gpu.queue)?;
        device.destroy_command_pool(pool, None);
    }
    Ok(())
}

/// Submits the sends, then the work that they wait for.
async fn send(io: Proactor, peer: Address, gpu: &Gpu, drawn: &VulkanTimeline) -> Outcome<()> {
    let slab = Slab::new(FRAMES as usize, FRAME_BYTES)?;
    let _registered = io.register_slab(&slab)?;
    let socket = io.connect(peer).await?;
    let (mut sends, mut slots) = (Vec::new(), Vec::new());
    for frame in 1..=FRAMES {
        let lease = slab.lease()?;
        slots.push(lease.slot());
        let waiting = io.sequence().wait(drawn.semaphore(), frame);
        sends.push(waiting.send_all(&socket, lease.freeze()).submit()?);
    }
    // SAFETY: as in `open`. The device writes slots that are frozen and not looked at, and the
    // memory is freed when its work has ended and the buffer is gone.
    unsafe {
        let target = VulkanTarget::new(&gpu.instance, gpu.physical, &gpu.device);
        let memory = VulkanMemory::import_region(&target, slab.region(), u32::MAX)?;
        let mut host = vk::ExternalMemoryBufferCreateInfo::default()
            .handle_types(vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT);
        let info = vk::BufferCreateInfo::default()
            .size(FRAMES * FRAME_BYTES as u64)
            .usage(vk::BufferUsageFlags::TRANSFER_DST)
            .push_next(&mut host);
        let canvas = gpu.device.create_buffer(&info, None)?;
        gpu.device.bind_buffer_memory(canvas, memory.raw(), 0)?;
        draw(gpu, (canvas, &slots), drawn.raw())?;
        gpu.device.destroy_buffer(canvas, None);
    }
    for send in sends {
        send.await.map_err(|failed| failed.error)?;
    }
    socket.finish().await?;
    Ok(())
}

/// Everything that lives no longer than the device does.
fn with_device(gpu: &Gpu, io: &Proactor, peer: Address) -> Outcome<()> {
    let mut kind =
        vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
    let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
    // SAFETY: the bridge is dropped before the timeline is destroyed, and that before the device.
    unsafe {
        let vulkan = VulkanDevice::new(&gpu.instance, &gpu.device);
        let timeline = gpu.device.create_semaphore(&info, None)?;
        let drawn = vulkan.timeline(timeline)?;
        let sent = io.block_on(send(io.clone(), peer, gpu, &drawn));
        drop((drawn, vulkan));
        gpu.device.destroy_semaphore(timeline, None);
        sent?
    }
}

/// Runs it, where there is a device.
///
/// # Errors
///
/// What the machine or the driver refuses.
pub fn main() -> Outcome<()> {
    // SAFETY: the library of this name is the system's loader.
    let entry = match unsafe { ash::Entry::load() } {
        Ok(entry) => entry,
        Err(error) => {
            println!("not shown: there is no Vulkan here ({error})");
            return Ok(());
        }
    };
    // SAFETY: nothing else is made of it.
    let gpu = match unsafe { open(&entry) } {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("not shown: no device of Vulkan's can be used here ({error})");
            return Ok(());
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = Address::from(listener.local_addr()?);
    let receiver = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().and_then(|(mut stream, _)| stream.read_to_end(&mut bytes)).map(|_| bytes)
    });
    let io = Proactor::new()?;
    let sent = with_device(&gpu, &io, peer);
    // SAFETY: what was made of them is gone.
    unsafe {
        gpu.device.destroy_device(None);
        gpu.instance.destroy_instance(None);
    }
    sent?;
    let received = receiver.join().expect("no panic")?;
    assert_eq!(received.len(), FRAMES as usize * FRAME_BYTES);
    for (frame, bytes) in (1..).zip(received.chunks(FRAME_BYTES)) {
        assert!(bytes.iter().all(|byte| *byte == shade(frame)), "frame {frame} is not as drawn");
    }
    println!("{}: {FRAMES} frames, sent from where the device wrote them", io.backend());
    Ok(())
}
