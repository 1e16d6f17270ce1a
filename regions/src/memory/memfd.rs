//! Memory files: memfd_create(2), sealed against shrinking, growing and further seals, so that
//! whoever maps one may rely on its size.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use crate::error::RegionError;
use crate::limits;

/// The kernel's limit for a memfd's name, without the NUL.
const NAME_BYTES_MAX: usize = 249;

/// Makes a memfd of `len` bytes, on huge pages of `huge_bytes` if given.
pub(crate) fn create(
    operation: &'static str,
    name: &str,
    len: usize,
    huge_bytes: Option<usize>,
) -> Result<OwnedFd, RegionError> {
    check_name(operation, name)?;
    let size = i64::try_from(len).map_err(|_| too_long(operation, len))?;
    limits::check_file_size(operation, len)?;
    let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    if let Some(bytes) = huge_bytes {
        let log2 = bytes.trailing_zeros() << libc::MFD_HUGE_SHIFT;
        flags |= MFdFlags::MFD_HUGETLB | MFdFlags::from_bits_retain(log2);
    }
    let refused = |doing: &str, errno: Errno| {
        let next = "ask for less, or raise RLIMIT_NOFILE (ulimit -n) if descriptors ran out";
        RegionError::system(operation, errno as i32, doing, next)
    };
    let fd = memfd_create(name, flags).map_err(|errno| refused("memfd_create", errno))?;
    ftruncate(&fd, size).map_err(|errno| refused(&format!("ftruncate to {len} bytes"), errno))?;
    Ok(fd)
}

/// Fixes the size for good, and that it is fixed.
pub(crate) fn seal(operation: &'static str, fd: BorrowedFd<'_>) -> Result<(), RegionError> {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop).map_err(|errno| {
        let next = "check the seccomp profile for fcntl";
        RegionError::system(operation, errno as i32, "sealing the memfd", next)
    })
}

/// Whether a memfd's size is fixed for good; what has no seals is no memfd.
pub(crate) fn check_sealed(operation: &'static str, fd: BorrowedFd<'_>) -> Result<(), RegionError> {
    let wanted = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| {
        RegionError::invalid(operation, "the descriptor is no memfd (it has no seals)")
    })?;
    match SealFlag::from_bits_truncate(seals).contains(wanted) {
        true => Ok(()),
        false => {
            let message = "the memfd's size is not sealed (F_SEAL_SHRINK, F_SEAL_GROW and \
                           F_SEAL_SEAL); whoever has it could take mapped pages away";
            Err(RegionError::invalid(operation, message))
        }
    }
}

/// Allocates the file's pages, an error when there are not enough.
pub(crate) fn allocate(
    operation: &'static str,
    fd: BorrowedFd<'_>,
    len: usize,
) -> Result<(), RegionError> {
    let size = i64::try_from(len).map_err(|_| too_long(operation, len))?;
    loop {
        match fallocate(fd.as_fd(), nix::fcntl::FallocateFlags::empty(), 0, size) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(errno) => {
                let doing = format!("fallocate of {len} bytes");
                let next = "ask for less or free memory";
                return Err(RegionError::system(operation, errno as i32, &doing, next));
            }
        }
    }
}

fn check_name(operation: &'static str, name: &str) -> Result<(), RegionError> {
    if name.len() > NAME_BYTES_MAX {
        let message = format!(
            "the name has {} bytes, the kernel takes {NAME_BYTES_MAX}; shorten it",
            name.len()
        );
        return Err(RegionError::invalid(operation, message));
    }
    if name.contains('\0') {
        return Err(RegionError::invalid(operation, "the name has a NUL byte; leave it out"));
    }
    Ok(())
}

fn too_long(operation: &'static str, len: usize) -> RegionError {
    RegionError::invalid(operation, format!("{len} bytes are more than any file has; ask for less"))
}
