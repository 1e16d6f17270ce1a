//! Fences to work with: one that pends until it is signalled, one that ends with an error.

use crate::checks::{node, open, tried};
use crate::ioctl::{self, DumbBuffer, FenceAttach, FenceSignal, Prime, SyncFile};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A fence of vgem's on a buffer. It signals by itself after ten seconds.
pub(crate) struct Pending {
    card: File,
    fence: u32,
    /// The buffer, which others may be made to wait for.
    pub(crate) dma_buf: OwnedFd,
}

impl Pending {
    /// With a sync_file of it.
    pub(crate) fn new() -> Result<(Pending, OwnedFd), String> {
        let (_, card) = node("card", "vgem")?;
        let mut buffer =
            DumbBuffer { width: 64, height: 64, bits_per_pixel: 32, ..Default::default() };
        let at = card.as_fd();
        tried("DRM_IOCTL_MODE_CREATE_DUMB", ioctl::call(at, ioctl::CREATE_DUMB, &mut buffer))?;
        let access = (nix::libc::O_RDWR | nix::libc::O_CLOEXEC) as u32;
        let mut prime = Prime { handle: buffer.handle, flags: access, fd: -1 };
        tried("DRM_IOCTL_PRIME_HANDLE_TO_FD", ioctl::call(at, ioctl::HANDLE_TO_FD, &mut prime))?;
        let dma_buf = tried("a dma-buf", ioctl::made(prime.fd))?;
        let mut attach =
            FenceAttach { handle: buffer.handle, flags: ioctl::WRITE, ..Default::default() };
        tried("DRM_IOCTL_VGEM_FENCE_ATTACH", ioctl::call(at, ioctl::FENCE_ATTACH, &mut attach))?;
        let pending = Pending { card, fence: attach.fence, dma_buf };
        let file = pending.export()?;
        Ok((pending, file))
    }

    /// A sync_file of everything the buffer waits for.
    pub(crate) fn export(&self) -> Result<OwnedFd, String> {
        let mut export = SyncFile { flags: ioctl::READ_WRITE, fd: -1 };
        let called = ioctl::call(self.dma_buf.as_fd(), ioctl::EXPORT_SYNC_FILE, &mut export);
        tried("DMA_BUF_IOCTL_EXPORT_SYNC_FILE", called.and_then(|_| ioctl::made(export.fd)))
    }

    /// Makes the buffer wait for a sync_file as well.
    pub(crate) fn import(&self, file: &impl std::os::fd::AsRawFd) -> Result<(), String> {
        let mut import = SyncFile { flags: ioctl::READ_WRITE, fd: file.as_raw_fd() };
        let called = ioctl::call(self.dma_buf.as_fd(), ioctl::IMPORT_SYNC_FILE, &mut import);
        tried("DMA_BUF_IOCTL_IMPORT_SYNC_FILE", called).map(drop)
    }

    pub(crate) fn signal(&self) -> Result<(), String> {
        let mut signal = FenceSignal { fence: self.fence, flags: 0 };
        let called = ioctl::call(self.card.as_fd(), ioctl::FENCE_SIGNAL, &mut signal);
        tried("DRM_IOCTL_VGEM_FENCE_SIGNAL", called).map(drop)
    }
}

/// A fence of our own module. A pending one fails with ENODEV when this is dropped.
pub(crate) struct Failing {
    device: File,
}

impl Failing {
    /// With a sync_file of it.
    pub(crate) fn new() -> Result<(Failing, OwnedFd), String> {
        let device = open(Path::new("/dev/failing-fence"))?;
        let made = ioctl::number(device.as_fd(), ioctl::FAILING_FENCE_EXPORT, 0);
        let file = tried("FAILING_FENCE_EXPORT", made.and_then(ioctl::made))?;
        Ok((Failing { device }, file))
    }

    /// It fails with this errno; with zero it signals.
    pub(crate) fn end(&self, errno: i32) -> Result<(), String> {
        let ended = ioctl::number(self.device.as_fd(), ioctl::FAILING_FENCE_SIGNAL, errno as u64);
        tried("FAILING_FENCE_SIGNAL", ended).map(drop)
    }
}
