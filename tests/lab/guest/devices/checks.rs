//! What shows that a device works: the least that tests will want of it.

use crate::ioctl::{self, Capability, FileInfo, Syncobj, Udmabuf};
use crate::sources::{Failing, Pending};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Says what was tried when it fails.
pub(crate) fn tried<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

pub(crate) fn open(path: &Path) -> Result<File, String> {
    tried(&path.display().to_string(), OpenOptions::new().read(true).write(true).open(path))
}

/// The DRM node of a driver whose name begins so, `card` or `renderD`.
pub(crate) fn node(kind: &str, driver: &str) -> Result<(PathBuf, File), String> {
    let folder = Path::new("/dev/dri");
    let mut seen = Vec::new();
    for entry in tried("/dev/dri", std::fs::read_dir(folder))? {
        let path = tried("/dev/dri", entry)?.path();
        if path.file_name().is_none_or(|name| !name.to_string_lossy().starts_with(kind)) {
            continue;
        }
        let file = open(&path)?;
        let name = tried("DRM_IOCTL_VERSION", ioctl::driver_name(file.as_fd()))?;
        if name == driver {
            return Ok((path, file));
        }
        seen.push(name);
    }
    Err(format!("no {kind} node of {driver} in /dev/dri; there are: {}", seen.join(", ")))
}

fn is_readable(fence: BorrowedFd<'_>) -> Result<bool, String> {
    tried("poll", ioctl::is_readable(fence))
}

fn status(fence: BorrowedFd<'_>) -> Result<i32, String> {
    let mut info = FileInfo::default();
    tried("SYNC_IOC_FILE_INFO", ioctl::call(fence, ioctl::FILE_INFO, &mut info))?;
    Ok(info.status)
}

/// A fence on a dumb buffer is pending until it is signalled.
pub(crate) fn vgem() -> Result<String, String> {
    let (source, fence) = Pending::new()?;
    if is_readable(fence.as_fd())? || status(fence.as_fd())? != 0 {
        return Err("its fence is not pending".into());
    }
    source.signal()?;
    match (is_readable(fence.as_fd())?, status(fence.as_fd())?) {
        (true, 1) => Ok("a fence pending and then signalled".into()),
        (readable, status) => Err(format!("signalled: readable {readable}, status {status}")),
    }
}

/// A timeline moves.
pub(crate) fn syncobj() -> Result<String, String> {
    let (path, node) = node("renderD", "virtio_gpu")?;
    let node = node.as_fd();
    let mut timeline = Capability { capability: ioctl::SYNCOBJ_TIMELINE, value: 0 };
    tried("DRM_IOCTL_GET_CAP", ioctl::call(node, ioctl::GET_CAP, &mut timeline))?;
    if timeline.value != 1 {
        return Err(format!("{}: the driver has no timelines", path.display()));
    }
    let mut created = Syncobj::default();
    tried("DRM_IOCTL_SYNCOBJ_CREATE", ioctl::call(node, ioctl::SYNCOBJ_CREATE, &mut created))?;
    let signalled = ioctl::signal_timeline(node, created.handle, 5);
    tried("DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL", signalled)?;
    let reached = ioctl::query_timeline(node, created.handle);
    let reached = tried("DRM_IOCTL_SYNCOBJ_QUERY", reached)?;
    match reached {
        5 => Ok(format!("{}, a timeline signalled to 5", path.display())),
        other => Err(format!("signalled to 5, and it says {other}")),
    }
}

/// A dma-buf of a memfd's pages.
pub(crate) fn udmabuf() -> Result<String, String> {
    const BYTES: u64 = 1 << 16;
    let device = open(Path::new("/dev/udmabuf"))?;
    let memory = tried(
        "memfd_create",
        memfd_create(c"lab", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)
            .map_err(Into::into),
    )?;
    let memory = File::from(memory);
    tried("ftruncate", memory.set_len(BYTES))?;
    let sealed = fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK));
    tried("F_ADD_SEALS", sealed.map_err(Into::into))?;
    let mut create =
        Udmabuf { memory: memory.as_raw_fd() as u32, flags: 1, offset: 0, size_bytes: BYTES };
    let made = ioctl::call(device.as_fd(), ioctl::UDMABUF_CREATE, &mut create);
    let dma_buf = File::from(tried("UDMABUF_CREATE", made.and_then(ioctl::made))?);
    let bytes = tried("the size of the dma-buf", (&dma_buf).seek(SeekFrom::End(0)))?;
    match bytes {
        BYTES => Ok(format!("/dev/udmabuf, a dma-buf of {bytes} bytes")),
        other => Err(format!("a dma-buf of {BYTES} bytes says it has {other}")),
    }
}

/// A fence that fails, and is readable all the same.
pub(crate) fn failing_fence() -> Result<String, String> {
    let (source, fence) = Failing::new()?;
    if is_readable(fence.as_fd())? || status(fence.as_fd())? != 0 {
        return Err("its fence is not pending".into());
    }
    source.end(nix::libc::EIO)?;
    match (is_readable(fence.as_fd())?, status(fence.as_fd())?) {
        (true, status) if status == -nix::libc::EIO => {
            Ok(format!("a fence pending and then failed with {status}"))
        }
        (readable, status) => Err(format!("failed: readable {readable}, status {status}")),
    }
}
