//! Memory of a Vulkan device that is sent, and a slab that the device writes: every byte is checked
//! where it arrives.
//!
//! # Unsafe
//!
//! The device writes only what no lease or span is looked at for, until its fence or timeline says
//! that it has ended.

#![allow(unsafe_code)]

use super::net::read;
use crate::vulkan::{Filled, Gpu, TIMELINE, Work, gpu, lacking};
use crate::{Case, Cx, Skip};
use dataplane::Socket;
use dataplane::fence::ash::vk;
use dataplane::fence::{Fence, PayloadOf};
use dataplane::regions::{
    Access, Region, RegionErrorKind, Source, Span, VulkanHandle, VulkanMemory,
};
use std::future::IntoFuture;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "vulkan/a_slab_is_filled_and_sent", needs: &[], run: slab_filled },
    Case { name: "vulkan/sync_fd_gates_the_send_of_a_slab", needs: &[], run: gated_slab },
    Case { name: "vulkan/a_dma_buf_is_read_and_sent", needs: &[], run: dma_buf },
    Case { name: "vulkan/opaque_memory_is_read", needs: &[], run: opaque },
    Case { name: "vulkan/memory_that_is_not_aligned", needs: &[], run: misaligned },
    Case { name: "vulkan/an_imported_region_outlives_its_handle", needs: &[], run: outlives },
    Case { name: "vulkan/what_is_no_dma_buf", needs: &[], run: no_dma_buf },
];

/// Bytes of a slot: more than a page, less than a socket holds.
const SLOT: usize = 1 << 16;

fn importing() -> Result<&'static Gpu, Skip> {
    let gpu = gpu()?;
    match gpu.target().imports_regions() {
        true => Ok(gpu),
        false => {
            let reason = format!("{} imports no host memory", gpu.name);
            Err(lacking(&[TIMELINE], &reason))
        }
    }
}

fn import(gpu: &Gpu, region: &Region) -> VulkanMemory {
    // SAFETY: see the head of this file.
    unsafe { VulkanMemory::import_region(&gpu.target(), region, u32::MAX) }.expect("it is imported")
}

/// Receives as many bytes as are expected, and compares every one.
async fn arrives(cx: &Cx<'_>, far: &Socket, expected: &[u8]) {
    let slab = cx.slab(1, SLOT);
    assert!(read(far, &slab, expected.len()).await == expected, "other bytes arrived");
}

/// A slot of a registered slab is filled by the device; the send waits for its timeline.
fn slab_filled(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = importing()?;
    let timeline = gpu.timeline(0);
    // SAFETY: the timeline is destroyed after the bridge.
    let bridge = unsafe { gpu.vulkan().timeline(timeline.raw) }.expect("a bridge");
    let slab = cx.slab(4, SLOT);
    let _registered = cx.io.register_slab(&slab);
    let memory = import(gpu, slab.region());
    let (near, far) = cx.tcp_pair();
    for turn in 1..=3u64 {
        let lease = slab.lease().expect("a slot");
        let offset = lease.slot() as usize * SLOT;
        let frame = Filled::imported(gpu, (memory.raw(), offset as u64, SLOT as u64), 4);
        let expected = frame.expected();
        let sending = cx.io.sequence().wait(bridge.semaphore(), turn);
        let running = sending.send_all(&near, lease.freeze()).submit().expect("room");
        Work::default().signals(timeline.raw, turn).submit(gpu, Some(&frame));
        let both = async {
            let (sent, ()) =
                futures_util::join!(running.into_future(), arrives(cx, &far, &expected));
            sent
        };
        assert_eq!(cx.block_on(both).expect("it is sent").steps(), 2);
    }
    drop(bridge);
    Ok(())
}

/// The work's semaphore is exported as a SYNC_FD, which gates the send of what the work wrote.
fn gated_slab(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = importing()?;
    let handles = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
    if !gpu.semaphore_handles().contains(handles) {
        return Err(lacking(&["vulkan"], &format!("{} exports no SYNC_FD", gpu.name)));
    }
    let slab = cx.slab(1, SLOT);
    let memory = import(gpu, slab.region());
    let frame = Filled::imported(gpu, (memory.raw(), 0, SLOT as u64), 8);
    let span = slab.lease().expect("a slot").freeze();
    fill_gate_send(cx, gpu, &frame, span);
    drop(frame);
    Ok(())
}

/// Work, its SYNC_FD, a gate by that, a send behind the gate.
fn fill_gate_send(cx: &Cx<'_>, gpu: &Gpu, frame: &Filled<'_>, span: Span) {
    let semaphore = gpu.binary(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD);
    let (near, far) = cx.tcp_pair();
    Work::default().signals(semaphore.raw, 0).submit(gpu, Some(frame));
    // SAFETY: its signal is pending, and it is destroyed after the export.
    let export = unsafe { gpu.vulkan().export(PayloadOf::Semaphore(semaphore.raw)) };
    let fence = cx.block_on(export.expect("a thread")).expect("it is exported");
    assert!(matches!(fence, Fence::SyncFile(_) | Fence::Signalled), "{fence:?}");
    let gate = cx.io.fence_waiter(fence);
    let sending = cx.io.sequence().then(gate.wait()).send_all(&near, span);
    let running = sending.submit().expect("room");
    let expected = frame.expected();
    let both = async {
        let (sent, ()) = futures_util::join!(running.into_future(), arrives(cx, &far, &expected));
        sent
    };
    assert_eq!(cx.block_on(both).expect("it is sent").linked(), 0, "the gate was checked");
}

/// Memory of the device's own, as a dma-buf: read by the CPU, and sent behind its SYNC_FD.
fn dma_buf(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let handle = VulkanHandle::DmaBuf;
    let sync_fds = gpu.semaphore_handles().contains(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD);
    if !gpu.exports_memory(handle.raw()) || !sync_fds {
        let reason = format!("{} exports no dma-bufs (lavapipe does with /dev/udmabuf)", gpu.name);
        return Err(lacking(&["vulkan", "udmabuf"], &reason));
    }
    let frame = Filled::exportable(gpu, SLOT as u64, handle.raw());
    // SAFETY: it was allocated for that.
    let fd = unsafe { gpu.target().export(frame.memory(), handle) }.expect("it is exported");
    let region = Region::dma_buf(fd, frame.len_bytes()).expect("it is mapped");
    assert_eq!(region.source(), Source::DmaBuf);
    let access = region.cpu_access(Access::READ).expect("it is the CPU's");
    fill_gate_send(cx, gpu, &frame, region.span(..).expect("all of it"));
    drop(access);
    let mut seen = vec![0; frame.len_bytes()];
    region.copy_out(0, &mut seen).expect("it is read");
    assert!(seen == frame.expected(), "the CPU sees other bytes");
    region.copy_in(0, &[1, 2, 3]).expect("it is written");
    Ok(())
}

/// An opaque descriptor is mapped by the driver that gave it, and by nobody else.
fn opaque(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let handle = VulkanHandle::Opaque;
    if !gpu.exports_memory(handle.raw()) {
        let reason = format!("{} exports no opaque memory", gpu.name);
        return Err(lacking(&["vulkan"], &reason));
    }
    let (frame, fence) = (
        Filled::exportable(gpu, SLOT as u64, handle.raw()),
        gpu.fence(vk::ExternalFenceHandleTypeFlags::empty()),
    );
    let target = gpu.target();
    // SAFETY: it was allocated for that, with this length and type; the second is its only mapping.
    let region = unsafe {
        let fd = target.export(frame.memory(), handle).expect("it is exported");
        let memory = VulkanMemory::import_opaque(&target, fd, frame.len_bytes(), frame.memory_type);
        memory.expect("it is imported").map().expect("it is mapped")
    };
    Work::default().tells(fence.raw).submit(gpu, Some(&frame));
    // SAFETY: the fence is destroyed after the wait.
    cx.block_on(unsafe { gpu.vulkan().wait_for_fence(fence.raw) }.expect("a thread"))
        .expect("it is filled");
    let (near, far) = cx.tcp_pair();
    let expected = frame.expected();
    let both = async {
        let (sent, ()) = futures_util::join!(
            near.send_all(region.span(..).expect("all of it")).into_future(),
            arrives(cx, &far, &expected)
        );
        sent
    };
    cx.block_on(both).expect("it is sent");
    Ok(())
}

/// The limit is named, and the memory is as it was.
fn misaligned(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = importing()?;
    let mut memory = vec![0u8; 1 << 14];
    let at = NonNull::new(memory.as_mut_ptr().wrapping_add(1)).expect("an address");
    let len = memory.len() - 1;
    // SAFETY: it moves into the callback.
    let region = unsafe { Region::foreign(at, len, Access::LOCAL, move || drop(memory)) };
    let region = region.expect("a region");
    // SAFETY: see the head of this file.
    let refused = unsafe { VulkanMemory::import_region(&gpu.target(), &region, u32::MAX) };
    let error = refused.expect_err("it begins in the middle of a page");
    assert_eq!(error.kind, RegionErrorKind::InvalidArgument);
    assert!(error.message.contains("multiples of"), "{error}");
    // SAFETY: as above.
    let refused = unsafe {
        let region = Region::anonymous(1 << 14).expect("a region");
        VulkanMemory::import_region(&gpu.target(), &region, 0)
    };
    assert_eq!(refused.expect_err("no type is allowed").kind, RegionErrorKind::Unavailable);
    Ok(())
}

/// The memory keeps the region, and the device writes it when its last handle here is gone.
fn outlives(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = importing()?;
    let (timeline, region) = (gpu.timeline(0), Region::memfd(SLOT).expect("a region"));
    let memory = import(gpu, &region);
    drop(region);
    let frame = Filled::imported(gpu, (memory.raw(), 0, SLOT as u64), 1);
    // SAFETY: the timeline is destroyed after the bridge.
    let bridge = unsafe { gpu.vulkan().timeline(timeline.raw) }.expect("a bridge");
    Work::default().signals(timeline.raw, 1).submit(gpu, Some(&frame));
    cx.block_on(bridge.semaphore().wait(1)).expect("it is filled");
    let region = memory.region().expect("it was made of one");
    assert!(!region.is_private(), "a device can write it");
    let mut seen = vec![0; SLOT];
    region.copy_out(0, &mut seen).expect("it is read");
    assert!(seen == frame.expected(), "other bytes");
    drop((bridge, frame));
    drop(memory);
    Ok(())
}

fn no_dma_buf(_: &Cx<'_>) -> Result<(), Skip> {
    let file = std::fs::File::open("/proc/self/stat").expect("a file");
    let event = dataplane::Event::new().expect("a descriptor");
    let event = std::os::fd::AsFd::as_fd(&event).try_clone_to_owned().expect("a descriptor");
    for fd in [OwnedFd::from(file), event] {
        let error = Region::dma_buf(fd, 4096).expect_err("it is none");
        assert_eq!(error.kind, RegionErrorKind::InvalidArgument);
        assert!(error.message.contains("no dma-buf"), "{error}");
    }
    Ok(())
}
