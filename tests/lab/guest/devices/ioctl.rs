//! The ioctls of DRM, dma-buf, sync_file, udmabuf and our own module, with their structures.
//!
//! Unsafe because a driver reads and writes what it is pointed to. Each number is bound to its
//! structure by its type, so the size the kernel takes from the number is that of what it is given.
//! The layouts are those of the kernel's headers `drm/drm.h`, `drm/drm_mode.h`, `drm/vgem_drm.h`,
//! `linux/dma-buf.h`, `linux/sync_file.h` and `linux/udmabuf.h`.
#![allow(unsafe_code)]

use nix::libc;
use std::io::{Error, Result};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An ioctl that takes a `T`.
pub(crate) struct Number<T>(libc::Ioctl, PhantomData<T>);

const WRITES: u64 = 1;
const READS: u64 = 2;

impl<T> Number<T> {
    const fn new(direction: u64, kind: u8, number: u8) -> Number<T> {
        let size = size_of::<T>() as u64;
        let bits = direction << 30 | size << 16 | (kind as u64) << 8 | number as u64;
        Number(bits as libc::Ioctl, PhantomData)
    }

    const fn both(kind: u8, number: u8) -> Number<T> {
        Number::new(WRITES | READS, kind, number)
    }
}

const VERSION: Number<Version> = Number::both(b'd', 0x00);
pub(crate) const GET_CAP: Number<Capability> = Number::both(b'd', 0x0c);
pub(crate) const CREATE_DUMB: Number<DumbBuffer> = Number::both(b'd', 0xb2);
pub(crate) const HANDLE_TO_FD: Number<Prime> = Number::both(b'd', 0x2d);
pub(crate) const FENCE_ATTACH: Number<FenceAttach> = Number::both(b'd', 0x41);
pub(crate) const FENCE_SIGNAL: Number<FenceSignal> = Number::new(WRITES, b'd', 0x42);
pub(crate) const SYNCOBJ_CREATE: Number<Syncobj> = Number::both(b'd', 0xbf);
const SYNCOBJ_QUERY: Number<SyncobjPoints> = Number::both(b'd', 0xcb);
const TIMELINE_SIGNAL: Number<SyncobjPoints> = Number::both(b'd', 0xcd);
pub(crate) const EXPORT_SYNC_FILE: Number<SyncFile> = Number::both(b'b', 2);
pub(crate) const IMPORT_SYNC_FILE: Number<SyncFile> = Number::new(WRITES, b'b', 3);
pub(crate) const FILE_INFO: Number<FileInfo> = Number::both(b'>', 4);
pub(crate) const UDMABUF_CREATE: Number<Udmabuf> = Number::new(WRITES, b'u', 0x42);

/// Of `guest/failing_fence`; these take a number.
pub(crate) const FAILING_FENCE_EXPORT: Number<()> = Number::new(0, b'F', 0);
pub(crate) const FAILING_FENCE_SIGNAL: Number<()> = Number::new(0, b'F', 1);

/// The capability by which a driver says it has timelines.
pub(crate) const SYNCOBJ_TIMELINE: u64 = 0x14;
/// Of a fence that is attached: the buffer is being written.
pub(crate) const WRITE: u32 = 1;
/// Of fences that are exported: those of readers and of writers.
pub(crate) const READ_WRITE: u32 = 3;

#[repr(C)]
struct Version {
    numbers: [libc::c_int; 3],
    name_bytes: usize,
    name: *mut u8,
    /// Date and description, neither of which is asked for.
    rest: [usize; 4],
}

#[repr(C)]
pub(crate) struct Capability {
    pub(crate) capability: u64,
    pub(crate) value: u64,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct DumbBuffer {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) bits_per_pixel: u32,
    pub(crate) flags: u32,
    pub(crate) handle: u32,
    pub(crate) pitch_bytes: u32,
    pub(crate) size_bytes: u64,
}

#[repr(C)]
pub(crate) struct Prime {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
    pub(crate) fd: i32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct FenceAttach {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
    pub(crate) fence: u32,
    pub(crate) padding: u32,
}

#[repr(C)]
pub(crate) struct FenceSignal {
    pub(crate) fence: u32,
    pub(crate) flags: u32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct Syncobj {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
}

#[repr(C)]
struct SyncobjPoints {
    handles: u64,
    points: u64,
    count: u32,
    flags: u32,
}

#[repr(C)]
pub(crate) struct SyncFile {
    pub(crate) flags: u32,
    pub(crate) fd: i32,
}

/// Of a sync_file; without the fences in it.
#[derive(Default)]
#[repr(C)]
pub(crate) struct FileInfo {
    name: [u8; 32],
    /// 1 signalled, 0 pending, else the negative errno it failed with.
    pub(crate) status: i32,
    flags: u32,
    fences: u32,
    padding: u32,
    infos: u64,
}

#[repr(C)]
pub(crate) struct Udmabuf {
    pub(crate) memory: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) size_bytes: u64,
}

/// Calls with a structure that holds no address.
pub(crate) fn call<T: Plain>(file: BorrowedFd<'_>, number: Number<T>, of: &mut T) -> Result<i32> {
    // SAFETY: the number is that of the structure, which is borrowed until the call is over.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), number.0, &raw mut *of) })
}

/// Calls with a number.
pub(crate) fn number(file: BorrowedFd<'_>, number: Number<()>, argument: u64) -> Result<i32> {
    // SAFETY: these do not take the argument for an address.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), number.0, argument) })
}

/// The name of a node's driver.
pub(crate) fn driver_name(node: BorrowedFd<'_>) -> Result<String> {
    let mut name = [0; 32];
    let mut version =
        Version { numbers: [0; 3], name_bytes: name.len(), name: name.as_mut_ptr(), rest: [0; 4] };
    // SAFETY: the name has room for as many bytes as are said, the other texts for none.
    checked(unsafe { libc::ioctl(node.as_raw_fd(), VERSION.0, &raw mut version) })?;
    let bytes = &name[..version.name_bytes.min(name.len())];
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Signals a point of a timeline.
pub(crate) fn signal_timeline(node: BorrowedFd<'_>, handle: u32, point: u64) -> Result<()> {
    let mut point = point;
    points(node, TIMELINE_SIGNAL, handle, &mut point)
}

/// The point a timeline has reached.
pub(crate) fn query_timeline(node: BorrowedFd<'_>, handle: u32) -> Result<u64> {
    let mut point = 0;
    points(node, SYNCOBJ_QUERY, handle, &mut point)?;
    Ok(point)
}

fn points(
    node: BorrowedFd<'_>,
    number: Number<SyncobjPoints>,
    handle: u32,
    point: &mut u64,
) -> Result<()> {
    let handles = (&raw const handle).addr() as u64;
    let mut points = SyncobjPoints {
        handles,
        points: (&raw mut *point).expose_provenance() as u64,
        count: 1,
        flags: 0,
    };
    // SAFETY: one handle and one point are there until the call is over.
    checked(unsafe { libc::ioctl(node.as_raw_fd(), number.0, &raw mut points) }).map(drop)
}

/// Whether the descriptor is readable now.
pub(crate) fn is_readable(file: BorrowedFd<'_>) -> Result<bool> {
    let mut one = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, borrowed until the call is over.
    let count = checked(unsafe { libc::poll(&raw mut one, 1, 0) })?;
    Ok(count == 1 && one.revents & libc::POLLIN != 0)
}

/// A descriptor that an ioctl has just made.
pub(crate) fn made(fd: i32) -> Result<OwnedFd> {
    match fd {
        // SAFETY: made for the call that gave it, so nobody else owns it.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::from_raw_os_error(libc::EBADF)),
    }
}

fn checked(result: libc::c_int) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// A structure of numbers alone, any of which a driver may be given and may write.
pub(crate) trait Plain {}

impl Plain for Capability {}
impl Plain for DumbBuffer {}
impl Plain for Prime {}
impl Plain for FenceAttach {}
impl Plain for FenceSignal {}
impl Plain for Syncobj {}
impl Plain for SyncFile {}
impl Plain for FileInfo {}
impl Plain for Udmabuf {}
