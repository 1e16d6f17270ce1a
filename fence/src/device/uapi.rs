//! The kernel's side of fences: ioctl numbers and structures, and the calls that use them.
//!
//! Written from the user-space headers of the kernel (`linux/sync_file.h`, `linux/dma-buf.h`,
//! `drm/drm.h`, `drm/drm_mode.h`, `drm/vgem_drm.h`), which `headers.rs` compares with this file
//! wherever they are installed. DRM accepts a structure that is shorter or longer than its own as
//! long as what one side does not know is zero, so these are in their oldest form.
//!
//! # Unsafe
//!
//! Every call gives the kernel one structure that lives on the stack of the call, and pointers in
//! it to slices that outlive the call.

#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc::{c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Length of a name in fence information, with its terminating zero.
pub(crate) const NAME_BYTES: usize = 32;

/// `struct sync_file_info`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncFileInfo {
    pub(crate) name: [c_char; NAME_BYTES],
    pub(crate) status: i32,
    pub(crate) flags: u32,
    pub(crate) num_fences: u32,
    pub(crate) pad: u32,
    pub(crate) sync_fence_info: u64,
}

/// `struct sync_fence_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct SyncFenceInfo {
    pub(crate) obj_name: [c_char; NAME_BYTES],
    pub(crate) driver_name: [c_char; NAME_BYTES],
    pub(crate) status: i32,
    pub(crate) flags: u32,
    pub(crate) timestamp_ns: u64,
}

/// `struct sync_merge_data`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncMergeData {
    pub(crate) name: [c_char; NAME_BYTES],
    pub(crate) fd2: i32,
    pub(crate) fence: i32,
    pub(crate) flags: u32,
    pub(crate) pad: u32,
}

/// `struct sync_set_deadline`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncSetDeadline {
    pub(crate) deadline_ns: u64,
    pub(crate) pad: u64,
}

/// `struct drm_get_cap`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct DrmGetCap {
    pub(crate) capability: u64,
    pub(crate) value: u64,
}

/// `struct drm_syncobj_create`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjCreate {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
}

/// `struct drm_syncobj_destroy`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjDestroy {
    pub(crate) handle: u32,
    pub(crate) pad: u32,
}

/// `struct drm_syncobj_handle`, without the point that newer kernels know.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjHandle {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
    pub(crate) fd: i32,
    pub(crate) pad: u32,
}

/// `struct drm_syncobj_transfer`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjTransfer {
    pub(crate) src_handle: u32,
    pub(crate) dst_handle: u32,
    pub(crate) src_point: u64,
    pub(crate) dst_point: u64,
    pub(crate) flags: u32,
    pub(crate) pad: u32,
}

/// `struct drm_syncobj_timeline_wait`, without the deadline that newer kernels know.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjTimelineWait {
    pub(crate) handles: u64,
    pub(crate) points: u64,
    pub(crate) timeout_nsec: i64,
    pub(crate) count_handles: u32,
    pub(crate) flags: u32,
    pub(crate) first_signaled: u32,
    pub(crate) pad: u32,
}

/// `struct drm_syncobj_array`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjArray {
    pub(crate) handles: u64,
    pub(crate) count_handles: u32,
    pub(crate) pad: u32,
}

/// `struct drm_syncobj_timeline_array`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjTimelineArray {
    pub(crate) handles: u64,
    pub(crate) points: u64,
    pub(crate) count_handles: u32,
    pub(crate) flags: u32,
}

/// `struct drm_syncobj_eventfd`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SyncobjEventfd {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
    pub(crate) point: u64,
    pub(crate) fd: i32,
    pub(crate) pad: u32,
}

/// `struct drm_version`. Only the name is asked for.
#[repr(C)]
#[derive(Default)]
pub(crate) struct DrmVersion {
    pub(crate) numbers: [c_int; 3],
    pub(crate) name_len: usize,
    pub(crate) name: usize,
    pub(crate) date_and_desc: [usize; 4],
}

/// `struct drm_mode_create_dumb`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct DumbCreate {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) bpp: u32,
    pub(crate) flags: u32,
    pub(crate) handle: u32,
    pub(crate) pitch: u32,
    pub(crate) size: u64,
}

/// `struct drm_mode_destroy_dumb`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct DumbDestroy {
    pub(crate) handle: u32,
}

/// `struct drm_prime_handle`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct PrimeHandle {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
    pub(crate) fd: i32,
}

/// `struct drm_vgem_fence_attach`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct VgemAttach {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
    pub(crate) out_fence: u32,
    pub(crate) pad: u32,
}

/// `struct drm_vgem_fence_signal`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct VgemSignal {
    pub(crate) fence: u32,
    pub(crate) flags: u32,
}

/// `struct dma_buf_export_sync_file`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct DmaBufExport {
    pub(crate) flags: u32,
    pub(crate) fd: i32,
}

pub(crate) const CAP_SYNCOBJ: u64 = 0x13;
pub(crate) const CAP_SYNCOBJ_TIMELINE: u64 = 0x14;
/// As a flag of creation.
pub(crate) const CREATE_SIGNALED: u32 = 1 << 0;
/// As a flag of both conversions between descriptors and handles.
pub(crate) const AS_SYNC_FILE: u32 = 1 << 0;
pub(crate) const WAIT_FOR_SUBMIT: u32 = 1 << 1;
pub(crate) const WAIT_AVAILABLE: u32 = 1 << 2;
/// Of a fence that is attached: the buffer is being written, so that readers wait as well.
pub(crate) const VGEM_WRITE: u32 = 1 << 0;
/// Of the fences of a dma-buf: those that a reader waits for.
pub(crate) const DMA_BUF_READ: u32 = 1 << 0;

mod request {
    //! The requests, each an `unsafe fn` over a descriptor and a structure.

    #![allow(missing_docs)]

    use super::*;
    use nix::{ioctl_readwrite, ioctl_write_ptr};

    ioctl_readwrite!(sync_merge, b'>', 3, SyncMergeData);
    ioctl_readwrite!(sync_file_info, b'>', 4, SyncFileInfo);
    ioctl_write_ptr!(sync_set_deadline, b'>', 5, SyncSetDeadline);
    ioctl_readwrite!(get_cap, b'd', 0x0c, DrmGetCap);
    ioctl_readwrite!(syncobj_create, b'd', 0xbf, SyncobjCreate);
    ioctl_readwrite!(syncobj_destroy, b'd', 0xc0, SyncobjDestroy);
    ioctl_readwrite!(syncobj_handle_to_fd, b'd', 0xc1, SyncobjHandle);
    ioctl_readwrite!(syncobj_fd_to_handle, b'd', 0xc2, SyncobjHandle);
    ioctl_readwrite!(syncobj_reset, b'd', 0xc4, SyncobjArray);
    ioctl_readwrite!(syncobj_signal, b'd', 0xc5, SyncobjArray);
    ioctl_readwrite!(syncobj_timeline_wait, b'd', 0xca, SyncobjTimelineWait);
    ioctl_readwrite!(syncobj_query, b'd', 0xcb, SyncobjTimelineArray);
    ioctl_readwrite!(syncobj_transfer, b'd', 0xcc, SyncobjTransfer);
    ioctl_readwrite!(syncobj_timeline_signal, b'd', 0xcd, SyncobjTimelineArray);
    ioctl_readwrite!(syncobj_eventfd, b'd', 0xcf, SyncobjEventfd);
    ioctl_readwrite!(version, b'd', 0x00, DrmVersion);
    ioctl_readwrite!(prime_handle_to_fd, b'd', 0x2d, PrimeHandle);
    ioctl_readwrite!(vgem_attach, b'd', 0x41, VgemAttach);
    ioctl_write_ptr!(vgem_signal, b'd', 0x42, VgemSignal);
    ioctl_readwrite!(dumb_create, b'd', 0xb2, DumbCreate);
    ioctl_readwrite!(dumb_destroy, b'd', 0xb4, DumbDestroy);
    ioctl_readwrite!(dma_buf_export, b'b', 2, DmaBufExport);
}

/// One request, made again after a signal and where the kernel asks for it, as drmIoctl(3) does.
fn ask<T>(
    fd: BorrowedFd<'_>,
    structure: &mut T,
    request: unsafe fn(c_int, *mut T) -> nix::Result<c_int>,
) -> Result<(), Errno> {
    loop {
        // SAFETY: the structure is the one of this request; what it points to outlives the call,
        // as the functions below see to.
        match unsafe { request(fd.as_raw_fd(), structure) } {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            answer => return answer.map(drop),
        }
    }
}

/// A descriptor the kernel has just made.
fn made(fd: RawFd) -> OwnedFd {
    // SAFETY: new, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Takes a number for a descriptor that the caller owns. EBADF if it is not open.
///
/// # Safety
///
/// Nobody else owns it.
pub(crate) unsafe fn open_descriptor(number: RawFd) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: not negative, and borrowed for this question alone, which says whether it is open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    if !flags.contains(FdFlag::FD_CLOEXEC) {
        fcntl(fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    }
    Ok(made(number))
}

/// A duplicate of whatever has this number. EBADF if nothing has.
pub(crate) fn duplicate(number: RawFd) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{FcntlArg, fcntl};
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: not negative, and borrowed for this call alone, which changes nothing about it.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(0)).map(made)
}

/// A name with its terminating zero, cut where it is too long.
fn name_bytes(name: &str) -> [c_char; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    for (place, byte) in bytes.iter_mut().zip(name.bytes().take(NAME_BYTES - 1)) {
        *place = byte as c_char;
    }
    bytes
}

/// A name as the kernel gave it.
pub(crate) fn name_text(bytes: &[c_char; NAME_BYTES]) -> String {
    let text: Vec<u8> =
        bytes.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&text).into_owned()
}

/// SYNC_IOC_FILE_INFO, without the fences. ENOTTY: this is no sync_file.
pub(crate) fn sync_file_info(fd: BorrowedFd<'_>) -> Result<SyncFileInfo, Errno> {
    let mut info = SyncFileInfo::default();
    ask(fd, &mut info, request::sync_file_info)?;
    Ok(info)
}

/// SYNC_IOC_FILE_INFO, with up to `count` fences.
pub(crate) fn sync_file_fences(
    fd: BorrowedFd<'_>,
    count: u32,
) -> Result<(SyncFileInfo, Vec<SyncFenceInfo>), Errno> {
    let mut fences = vec![SyncFenceInfo::default(); count as usize];
    let mut info = SyncFileInfo {
        num_fences: count,
        sync_fence_info: fences.as_mut_ptr() as u64,
        ..SyncFileInfo::default()
    };
    ask(fd, &mut info, request::sync_file_info)?;
    fences.truncate(info.num_fences as usize);
    Ok((info, fences))
}

/// Fences of a sync_file that are asked about without an allocation.
const FEW: usize = 4;

/// The status of a sync_file by those of its fences. What the kernel says of a whole that it made
/// of several (merged, or a point of a timeline) may be that it signalled, where a part of it
/// failed.
pub(crate) fn sync_file_status(fd: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut fences = [SyncFenceInfo::default(); FEW];
    let mut info = SyncFileInfo {
        num_fences: FEW as u32,
        sync_fence_info: fences.as_mut_ptr() as u64,
        ..SyncFileInfo::default()
    };
    match ask(fd, &mut info, request::sync_file_info) {
        // It has more.
        Err(Errno::EINVAL) => {
            let count = sync_file_info(fd)?.num_fences;
            Ok(sync_file_fences(fd, count)?.0.status)
        }
        answer => answer.map(|()| info.status),
    }
}

/// SYNC_IOC_MERGE: a sync_file that signals when both have.
pub(crate) fn sync_merge(
    one: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
    name: &str,
) -> Result<OwnedFd, Errno> {
    let mut data = SyncMergeData {
        name: name_bytes(name),
        fd2: other.as_raw_fd(),
        fence: -1,
        ..SyncMergeData::default()
    };
    ask(one, &mut data, request::sync_merge)?;
    Ok(made(data.fence))
}

/// SYNC_IOC_SET_DEADLINE, in nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn sync_set_deadline(fd: BorrowedFd<'_>, deadline_ns: u64) -> Result<(), Errno> {
    let data = SyncSetDeadline { deadline_ns, pad: 0 };
    // SAFETY: the structure of this request, on the stack.
    unsafe { request::sync_set_deadline(fd.as_raw_fd(), &data) }.map(drop)
}

/// DRM_IOCTL_GET_CAP.
pub(crate) fn drm_cap(fd: BorrowedFd<'_>, capability: u64) -> Result<u64, Errno> {
    let mut cap = DrmGetCap { capability, value: 0 };
    ask(fd, &mut cap, request::get_cap)?;
    Ok(cap.value)
}

/// DRM_IOCTL_SYNCOBJ_CREATE.
pub(crate) fn syncobj_create(device: BorrowedFd<'_>, signalled: bool) -> Result<u32, Errno> {
    let flags = if signalled { CREATE_SIGNALED } else { 0 };
    let mut create = SyncobjCreate { handle: 0, flags };
    ask(device, &mut create, request::syncobj_create)?;
    Ok(create.handle)
}

/// DRM_IOCTL_SYNCOBJ_DESTROY.
pub(crate) fn syncobj_destroy(device: BorrowedFd<'_>, handle: u32) -> Result<(), Errno> {
    ask(device, &mut SyncobjDestroy { handle, pad: 0 }, request::syncobj_destroy)
}

/// DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD: the object itself, or (AS_SYNC_FILE) its fence of this moment.
pub(crate) fn syncobj_export(
    device: BorrowedFd<'_>,
    handle: u32,
    flags: u32,
) -> Result<OwnedFd, Errno> {
    let mut data = SyncobjHandle { handle, flags, fd: -1, pad: 0 };
    ask(device, &mut data, request::syncobj_handle_to_fd)?;
    Ok(made(data.fd))
}

/// DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE: a handle of an exported object, or (AS_SYNC_FILE) puts a fence
/// into the object `handle`.
pub(crate) fn syncobj_import(
    device: BorrowedFd<'_>,
    handle: u32,
    flags: u32,
    fd: BorrowedFd<'_>,
) -> Result<u32, Errno> {
    let mut data = SyncobjHandle { handle, flags, fd: fd.as_raw_fd(), pad: 0 };
    ask(device, &mut data, request::syncobj_fd_to_handle)?;
    Ok(data.handle)
}

/// DRM_IOCTL_SYNCOBJ_RESET.
pub(crate) fn syncobj_reset(device: BorrowedFd<'_>, handle: u32) -> Result<(), Errno> {
    let mut array = SyncobjArray { handles: &raw const handle as u64, count_handles: 1, pad: 0 };
    ask(device, &mut array, request::syncobj_reset)
}

/// DRM_IOCTL_SYNCOBJ_SIGNAL, or DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL for a point.
pub(crate) fn syncobj_signal(
    device: BorrowedFd<'_>,
    handle: u32,
    point: Option<u64>,
) -> Result<(), Errno> {
    let handles = &raw const handle as u64;
    let Some(point) = point else {
        let mut array = SyncobjArray { handles, count_handles: 1, pad: 0 };
        return ask(device, &mut array, request::syncobj_signal);
    };
    let points = &raw const point as u64;
    let mut array = SyncobjTimelineArray { handles, points, count_handles: 1, flags: 0 };
    ask(device, &mut array, request::syncobj_timeline_signal)
}

/// DRM_IOCTL_SYNCOBJ_QUERY: the last point that signalled.
pub(crate) fn syncobj_query(device: BorrowedFd<'_>, handle: u32) -> Result<u64, Errno> {
    let mut point = 0_u64;
    let (handles, points) = (&raw const handle as u64, &raw mut point as u64);
    let mut array = SyncobjTimelineArray { handles, points, count_handles: 1, flags: 0 };
    ask(device, &mut array, request::syncobj_query)?;
    Ok(point)
}

/// DRM_IOCTL_SYNCOBJ_TRANSFER: the fence of one point becomes that of another. A binary object's
/// point is zero.
pub(crate) fn syncobj_transfer(
    device: BorrowedFd<'_>,
    (src_handle, src_point): (u32, u64),
    (dst_handle, dst_point): (u32, u64),
) -> Result<(), Errno> {
    let mut data =
        SyncobjTransfer { src_handle, dst_handle, src_point, dst_point, ..Default::default() };
    ask(device, &mut data, request::syncobj_transfer)
}

/// DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, until an instant in nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn syncobj_wait(
    device: BorrowedFd<'_>,
    (handle, point): (u32, u64),
    until_ns: i64,
    flags: u32,
) -> Result<(), Errno> {
    let mut wait = SyncobjTimelineWait {
        handles: &raw const handle as u64,
        points: &raw const point as u64,
        timeout_nsec: until_ns,
        count_handles: 1,
        flags,
        ..Default::default()
    };
    ask(device, &mut wait, request::syncobj_timeline_wait)
}

/// DRM_IOCTL_SYNCOBJ_EVENTFD: writes to an eventfd when the point signals, or with WAIT_AVAILABLE
/// when it has a fence.
pub(crate) fn syncobj_eventfd(
    device: BorrowedFd<'_>,
    (handle, point): (u32, u64),
    flags: u32,
    event: impl AsFd,
) -> Result<(), Errno> {
    let fd = event.as_fd().as_raw_fd();
    let mut data = SyncobjEventfd { handle, flags, point, fd, pad: 0 };
    ask(device, &mut data, request::syncobj_eventfd)
}

/// DRM_IOCTL_VERSION: whether the device's driver has this name.
pub(crate) fn is_driver(device: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    let mut bytes = [0_u8; NAME_BYTES];
    let address = bytes.as_mut_ptr() as usize;
    let mut version = DrmVersion { name_len: NAME_BYTES, name: address, ..Default::default() };
    ask(device, &mut version, request::version)?;
    Ok(bytes.get(..version.name_len) == Some(name))
}

/// DRM_IOCTL_MODE_CREATE_DUMB: the smallest buffer there is, whose pages nobody touches.
pub(crate) fn dumb_create(device: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut create = DumbCreate { height: 1, width: 1, bpp: 32, ..Default::default() };
    ask(device, &mut create, request::dumb_create)?;
    Ok(create.handle)
}

/// DRM_IOCTL_MODE_DESTROY_DUMB.
pub(crate) fn dumb_destroy(device: BorrowedFd<'_>, handle: u32) -> Result<(), Errno> {
    ask(device, &mut DumbDestroy { handle }, request::dumb_destroy)
}

/// DRM_IOCTL_PRIME_HANDLE_TO_FD: a buffer as a dma-buf.
pub(crate) fn prime_export(device: BorrowedFd<'_>, handle: u32) -> Result<OwnedFd, Errno> {
    let flags = nix::libc::O_CLOEXEC as u32;
    let mut data = PrimeHandle { handle, flags, fd: -1 };
    ask(device, &mut data, request::prime_handle_to_fd)?;
    Ok(made(data.fd))
}

/// DRM_IOCTL_VGEM_FENCE_ATTACH: a fence that the buffer's users wait for; its number.
pub(crate) fn vgem_attach(device: BorrowedFd<'_>, handle: u32) -> Result<u32, Errno> {
    let mut attach = VgemAttach { handle, flags: VGEM_WRITE, ..Default::default() };
    ask(device, &mut attach, request::vgem_attach)?;
    Ok(attach.out_fence)
}

/// DRM_IOCTL_VGEM_FENCE_SIGNAL. ETIMEDOUT: it had signalled by itself.
pub(crate) fn vgem_signal(device: BorrowedFd<'_>, fence: u32) -> Result<(), Errno> {
    let data = VgemSignal { fence, flags: 0 };
    // SAFETY: the structure of this request, on the stack.
    unsafe { request::vgem_signal(device.as_raw_fd(), &data) }.map(drop)
}

/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE: what a reader of the buffer waits for at this moment.
pub(crate) fn dma_buf_export(dma_buf: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut data = DmaBufExport { flags: DMA_BUF_READ, fd: -1 };
    ask(dma_buf, &mut data, request::dma_buf_export)?;
    Ok(made(data.fd))
}
