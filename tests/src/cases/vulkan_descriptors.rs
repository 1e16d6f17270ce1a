//! Payloads of Vulkan's fences and semaphores as descriptors, and what drivers get wrong there.
//!
//! # Unsafe
//!
//! Each object is destroyed after what uses it, as it stands before it in every case.

#![allow(unsafe_code)]

use crate::stand_in::StandIn;
use crate::vulkan::{Answer, Faults, Gpu, Owned, Work, gpu, lacking};
use crate::{Case, Cx, Skip};
use dataplane::Event;
use dataplane::fence::ash::vk;
use dataplane::fence::{
    Fence, FenceError, FenceErrorKind, PayloadOf, Semaphore, VulkanDevice, VulkanExport,
};
use nix::fcntl::{FcntlArg, fcntl};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "vulkan/a_semaphore_is_exported", needs: &[], run: semaphore_exported },
    Case { name: "vulkan/a_fence_is_exported", needs: &[], run: fence_exported },
    Case { name: "vulkan/a_sync_file_is_imported", needs: &[], run: imported },
    Case { name: "vulkan/opaque_descriptors_share_a_payload", needs: &[], run: opaque },
    Case { name: "vulkan/opaque_descriptors_come_back", needs: &[], run: opaque_refused },
    Case { name: "vulkan/only_sync_files_are_imported", needs: &[], run: wrong_kinds },
    Case { name: "vulkan/a_failed_fence_is_not_imported", needs: &[], run: failed_import },
    Case { name: "vulkan/a_refused_import_comes_back", needs: &[], run: refused_import },
    Case { name: "vulkan/an_export_that_has_signalled", needs: &[], run: signalled_export },
    Case { name: "vulkan/an_export_is_looked_at", needs: &[], run: odd_exports },
    Case { name: "vulkan/an_export_of_a_lost_device", needs: &[], run: lost_export },
    Case { name: "vulkan/an_export_is_dropped", needs: &[], run: dropped_export },
    Case { name: "vulkan/without_the_extension", needs: &[], run: without },
];

const SEMAPHORE: vk::ExternalSemaphoreHandleTypeFlags =
    vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
const FENCE: vk::ExternalFenceHandleTypeFlags = vk::ExternalFenceHandleTypeFlags::SYNC_FD;

fn exporting(vulkan: &VulkanDevice, of: PayloadOf) -> Result<VulkanExport, FenceError> {
    // SAFETY: see the head of this file.
    unsafe { vulkan.export(of) }
}

fn of_semaphore(semaphore: &Owned<'_, vk::Semaphore>) -> PayloadOf {
    PayloadOf::Semaphore(semaphore.raw)
}

/// A device that has SYNC_FDs.
fn with_sync_fds() -> Result<&'static Gpu, Skip> {
    let gpu = gpu()?;
    if gpu.semaphore_handles().contains(SEMAPHORE) && gpu.fence_handles().contains(FENCE) {
        return Ok(gpu);
    }
    Err(lacking(&["vulkan"], &format!("{} exports no SYNC_FD", gpu.name)))
}

/// A fence that is imported as any other signals when the work is done.
fn signals(cx: &Cx<'_>, fence: Fence) {
    let done = Semaphore::new(0);
    cx.io.import_fence(fence, &done, 1).expect("room");
    assert_eq!(cx.block_on(done.wait(1)).expect("it signals"), 1);
}

/// Work that is under way when it is exported. A driver that waits in the call blocks a waiter
/// thread and not this one, which goes on polling and signals what the work waits for.
fn semaphore_exported(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = with_sync_fds()?;
    let (gate, semaphore, vulkan) = (gpu.timeline(0), gpu.binary(SEMAPHORE), gpu.vulkan());
    Work::default().after(gate.raw, 1).signals(semaphore.raw, 0).submit(gpu, None);
    let export = exporting(&vulkan, of_semaphore(&semaphore)).expect("a thread");
    cx.io.poll(Duration::from_millis(5)).expect("polling goes on");
    let info = vk::SemaphoreSignalInfo::default().semaphore(gate.raw).value(1);
    // SAFETY: it is alive, and nothing else signals it.
    unsafe { gpu.device.signal_semaphore(&info) }.expect("it is signalled");
    let fence = cx.block_on(export).expect("it is exported");
    assert!(matches!(fence, Fence::SyncFile(_) | Fence::Signalled), "{fence:?}");
    signals(cx, fence);
    Ok(())
}

fn fence_exported(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = with_sync_fds()?;
    let (fence, vulkan) = (gpu.fence(FENCE), gpu.vulkan());
    Work::default().tells(fence.raw).submit(gpu, None);
    let exported = cx.block_on(exporting(&vulkan, PayloadOf::Fence(fence.raw)).expect("a thread"));
    signals(cx, exported.expect("it is exported"));
    Ok(())
}

/// A payload from outside: one that has signalled, and what an export gave.
fn imported(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = with_sync_fds()?;
    let (from, to, vulkan) = (gpu.binary(SEMAPHORE), gpu.binary(SEMAPHORE), gpu.vulkan());
    Work::default().signals(from.raw, 0).submit(gpu, None);
    let exported = cx.block_on(exporting(&vulkan, of_semaphore(&from)).expect("a thread"));
    for fence in [exported.expect("it is exported"), Fence::Signalled] {
        let done = gpu.fence(FENCE);
        // SAFETY: see the head of this file.
        unsafe { vulkan.import(fence, of_semaphore(&to)) }.expect("it is taken");
        Work::default().after(to.raw, 0).tells(done.raw).submit(gpu, None);
        // SAFETY: see the head of this file.
        let wait = unsafe { vulkan.wait_for_fence(done.raw) }.expect("a thread");
        cx.block_on(wait).expect("the work went on");
    }
    let done = gpu.fence(FENCE);
    // SAFETY: see the head of this file.
    unsafe { vulkan.import(Fence::Signalled, PayloadOf::Fence(done.raw)) }.expect("it is taken");
    // SAFETY: see the head of this file.
    let wait = unsafe { vulkan.wait_for_fence(done.raw) }.expect("a thread");
    cx.block_on(wait).expect("a fence that has signalled");
    Ok(())
}

/// What one signals, the other has.
fn opaque(cx: &Cx<'_>) -> Result<(), Skip> {
    const OPAQUE: vk::ExternalSemaphoreHandleTypeFlags =
        vk::ExternalSemaphoreHandleTypeFlags::OPAQUE_FD;
    let gpu = gpu()?;
    if !gpu.semaphore_handles().contains(OPAQUE) {
        return Err(lacking(&["vulkan-opaque"], &format!("{} exports no OPAQUE_FD", gpu.name)));
    }
    let (one, other, done) = (gpu.binary(OPAQUE), gpu.binary(OPAQUE), gpu.fence(FENCE));
    let vulkan = gpu.vulkan();
    // SAFETY: see the head of this file.
    let fd = unsafe { vulkan.export_opaque(of_semaphore(&one)) }.expect("it is exported");
    // SAFETY: as above; by this driver, from a binary semaphore.
    unsafe { vulkan.import_opaque(fd, of_semaphore(&other)) }.expect("it is imported");
    Work::default().signals(one.raw, 0).submit(gpu, None);
    Work::default().after(other.raw, 0).tells(done.raw).submit(gpu, None);
    // SAFETY: see the head of this file.
    cx.block_on(unsafe { vulkan.wait_for_fence(done.raw) }.expect("a thread")).expect("it came");
    Ok(())
}

/// What a driver gives is ours, and what it refuses is the caller's.
fn opaque_refused(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (semaphore, (faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    let (reader, writer) = nix::unistd::pipe().expect("two descriptors");
    faults.answer(Answer::Number(reader.into_raw_fd()));
    // SAFETY: see the head of this file; the driver is not asked.
    let fd = unsafe { vulkan.export_opaque(of_semaphore(&semaphore)) }.expect("it is exported");
    faults.answer(Answer::NoSuchHandle);
    // SAFETY: as above.
    let refused = unsafe { vulkan.import_opaque(fd, of_semaphore(&semaphore)) };
    let refused = refused.expect_err("the driver does not take it");
    assert_eq!(refused.error.kind(), FenceErrorKind::WrongKind);
    nix::unistd::write(&writer, b"x").expect("it is open still");
    drop(refused.fd);
    faults.answer(Answer::NoDescriptors);
    // SAFETY: as above.
    let none = unsafe { vulkan.export_opaque(of_semaphore(&semaphore)) };
    assert_eq!(none.expect_err("none is left").kind(), FenceErrorKind::Exhausted);
    Ok(())
}

/// A driver would take an eventfd for a sync_file; we do not hand it one, and give it back.
fn wrong_kinds(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (semaphore, (_faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    let event = Event::new().expect("a descriptor");
    let fd = event.as_fd().try_clone_to_owned().expect("a descriptor");
    let fence = Fence::from_fd(fd).expect("an eventfd can be waited for");
    // SAFETY: see the head of this file.
    let refused = unsafe { vulkan.import(fence, of_semaphore(&semaphore)) }.expect_err("an event");
    assert_eq!(refused.error.kind(), FenceErrorKind::WrongKind);
    assert!(matches!(refused.fd, Fence::Event(_)));
    Ok(())
}

fn failed_import(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (stand_in, fd) = StandIn::new()?;
    let (semaphore, (_faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    stand_in.signal(-libc::EIO);
    let fence = Fence::from_fd(fd).expect("it answers as a sync_file");
    // SAFETY: see the head of this file.
    let refused = unsafe { vulkan.import(fence, of_semaphore(&semaphore)) }.expect_err("it failed");
    assert_eq!(refused.error.kind(), FenceErrorKind::Failed);
    assert_eq!(refused.error.errno(), Some(libc::EIO));
    assert!(matches!(refused.fd, Fence::SyncFile(_)));
    Ok(())
}

fn refused_import(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (_stand_in, fd) = StandIn::new()?;
    let (semaphore, (faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    faults.answer(Answer::NoSuchHandle);
    let fence = Fence::from_fd(fd).expect("it answers as a sync_file");
    // SAFETY: see the head of this file.
    let refused = unsafe { vulkan.import(fence, of_semaphore(&semaphore)) }.expect_err("it is");
    assert_eq!(refused.error.kind(), FenceErrorKind::WrongKind);
    let Fence::SyncFile(file) = refused.fd else { panic!("it came back as something else") };
    file.status().expect("and is open still");
    Ok(())
}

/// -1 is no descriptor and no error.
fn signalled_export(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (semaphore, (faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    faults.answer(Answer::Number(-1));
    let fence = cx.block_on(exporting(&vulkan, of_semaphore(&semaphore)).expect("a thread"));
    let fence = fence.expect("it has signalled");
    assert!(matches!(fence, Fence::Signalled));
    signals(cx, fence);
    Ok(())
}

/// Numbers that are not open, files that nobody can wait for, descriptors that programs started
/// later would inherit.
fn odd_exports(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (semaphore, (faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    let export = || cx.block_on(exporting(&vulkan, of_semaphore(&semaphore)).expect("a thread"));
    faults.answer(Answer::Number(1 << 20));
    assert_eq!(export().expect_err("not open").kind(), FenceErrorKind::WrongKind);
    faults.answer(Answer::Number(-7));
    assert_eq!(export().expect_err("no number").kind(), FenceErrorKind::WrongKind);
    let file = std::fs::File::open("/proc/self/stat").expect("a file");
    faults.answer(Answer::Number(OwnedFd::from(file).into_raw_fd()));
    assert_eq!(export().expect_err("a file").kind(), FenceErrorKind::WrongKind);
    faults.answer(Answer::NoDescriptors);
    assert_eq!(export().expect_err("none are left").kind(), FenceErrorKind::Exhausted);
    let event = Event::new().expect("a descriptor");
    event.set();
    let inherited = nix::unistd::dup(&event).expect("a descriptor");
    faults.answer(Answer::Number(inherited.into_raw_fd()));
    let fence = export().expect("it can be waited for");
    let flags = fcntl(fence.descriptor().expect("one"), FcntlArg::F_GETFD).expect("flags");
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "it would be inherited");
    signals(cx, fence);
    Ok(())
}

fn lost_export(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (semaphore, (faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    faults.answer(Answer::Lost);
    let export = exporting(&vulkan, of_semaphore(&semaphore)).expect("a thread");
    let error = cx.block_on(export).expect_err("it is lost");
    assert_eq!((error.kind(), error.errno()), (FenceErrorKind::Failed, Some(libc::ENODEV)));
    assert!(vulkan.lost().is_some());
    Ok(())
}

/// What it gives is closed by whoever is last.
fn dropped_export(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (semaphore, (faults, vulkan)) = (gpu.binary(Default::default()), Faults::new(gpu));
    let event = Event::new().expect("a descriptor");
    let given = nix::unistd::dup(&event).expect("a descriptor").into_raw_fd();
    faults.answer(Answer::Number(given));
    drop(exporting(&vulkan, of_semaphore(&semaphore)).expect("a thread"));
    // The last handle waits for the call; that no descriptor is left, every case is asked.
    drop(vulkan);
    Ok(())
}

/// What the device was made without is said, and nothing is called.
fn without(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let fence = gpu.fence(Default::default());
    let (_faults, vulkan) = Faults::from_the_start(gpu, Answer::Bare);
    assert!(!vulkan.has_fence_descriptors() && !vulkan.has_semaphore_descriptors());
    let error = exporting(&vulkan, PayloadOf::Fence(fence.raw)).expect_err("it has none");
    assert_eq!(error.kind(), FenceErrorKind::Unsupported);
    assert!(error.message().contains("VK_KHR_external_fence_fd"), "{error}");
    Ok(())
}
