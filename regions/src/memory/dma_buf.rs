//! dma-bufs: memory of a driver's, mapped.
//!
//! A dma-buf is mapped as a whole and is never private: a device may write it. Between
//! [`Region::cpu_access`] and the drop of what it gives, the CPU's caches and the device's view are
//! the same; where the hardware keeps them the same anyway, that costs two short system calls.
//! Copies in and out of such a region do it by themselves.
//!
//! io_uring refuses to register such a mapping and to send from it without a copy (EFAULT: its
//! pages belong to a driver); reads, writes, receives and sends that copy work.
//!
//! Source: the kernel's documentation, "Buffer Sharing and Synchronization (dma-buf)".
//!
//! Unsafe is here for one ioctl.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::access::Access;
use crate::error::{RegionError, RegionErrorKind};
use crate::mapping::Mapping;
use crate::range::check_len;
use crate::region::{Inner, Region};
use crate::source::Source;

/// linux/dma-buf.h: `_IOW('b', 0, struct dma_buf_sync)`, a structure of one 64-bit word.
const DMA_BUF_IOCTL_SYNC: libc::c_ulong = 0x4008_6200;
const SYNC_READ: u64 = 1;
const SYNC_WRITE: u64 = 2;
const SYNC_END: u64 = 4;

impl Region {
    /// Maps a dma-buf, of which `len` bytes are used. The descriptor is kept.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no dma-buf, or is shorter than `len`; the system's error when
    /// it cannot be mapped: not every driver lets the CPU do that, and it must have been exported
    /// for reading and writing. The descriptor is closed then.
    pub fn dma_buf(fd: OwnedFd, len: usize) -> Result<Self, RegionError> {
        const OPERATION: &str = "region of a dma-buf";
        check_len(OPERATION, len)?;
        match sync(fd.as_fd(), SYNC_READ) {
            Ok(()) => {}
            Err(libc::ENOTTY | libc::EINVAL | libc::EBADF) => {
                let message = "the descriptor is no dma-buf; export one from its driver";
                return Err(RegionError::invalid(OPERATION, message));
            }
            Err(errno) => return Err(refused(OPERATION, errno)),
        }
        sync(fd.as_fd(), SYNC_READ | SYNC_END).map_err(|errno| refused(OPERATION, errno))?;
        let size = size_of(OPERATION, fd.as_fd())?;
        if size < len {
            let message = format!("the dma-buf has {size} bytes, and {len} are said to be used");
            return Err(RegionError::invalid(OPERATION, message));
        }
        let mapping = Mapping::of_driver(OPERATION, fd.as_fd(), size)?;
        let mut inner = Inner::mapped(mapping, len, Source::DmaBuf);
        inner.fd = Some(fd);
        let region = inner.into_region();
        region.mark_shared();
        Ok(region)
    }

    /// Begins access by the CPU: what a device has written before is seen, and what the CPU writes
    /// is seen by the device when the guard is dropped. It keeps no device out: wait for its fence
    /// first. For memory that is no dma-buf, and for access that neither reads nor writes here, it
    /// does nothing.
    ///
    /// # Errors
    /// The system's; a driver may have lost its device.
    pub fn cpu_access(&self, access: Access) -> Result<CpuAccess<'_>, RegionError> {
        const OPERATION: &str = "begin access to a dma-buf";
        let fd = self.dma_buf_fd();
        let mut flags = 0;
        if access.contains(Access::READ) {
            flags |= SYNC_READ;
        }
        if access.contains(Access::WRITE) {
            flags |= SYNC_WRITE;
        }
        let fd = fd.filter(|_| flags != 0);
        if let Some(fd) = fd {
            sync(fd, flags).map_err(|errno| refused(OPERATION, errno))?;
        }
        Ok(CpuAccess { fd, flags })
    }
}

/// Access by the CPU, until this is dropped.
#[must_use = "the access ends when it is dropped"]
#[derive(Debug)]
pub struct CpuAccess<'a> {
    fd: Option<BorrowedFd<'a>>,
    flags: u64,
}

impl Drop for CpuAccess<'_> {
    fn drop(&mut self) {
        if let Some(fd) = self.fd {
            // A driver that refuses the end has nothing left to make visible.
            let _ = sync(fd, self.flags | SYNC_END);
        }
    }
}

fn sync(fd: BorrowedFd<'_>, flags: u64) -> Result<(), i32> {
    loop {
        // SAFETY: the call reads one word, which outlives it, and touches no memory of ours.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), DMA_BUF_IOCTL_SYNC, &flags) };
        let errno = match result {
            0 => return Ok(()),
            _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        };
        if errno != libc::EINTR && errno != libc::EAGAIN {
            return Err(errno);
        }
    }
}

fn refused(operation: &'static str, errno: i32) -> RegionError {
    let next = "see the kernel log for the driver that exported it";
    RegionError::system(operation, errno, "DMA_BUF_IOCTL_SYNC", next)
}

/// The size of the buffer, which its end says.
fn size_of(operation: &'static str, fd: BorrowedFd<'_>) -> Result<usize, RegionError> {
    // SAFETY: a number and two constants; a dma-buf has no position that anybody relies on.
    let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
    usize::try_from(end).map_err(|_| {
        let message = "the dma-buf does not say how long it is; export it from its driver again";
        RegionError::new(operation, RegionErrorKind::Unavailable, message)
    })
}
