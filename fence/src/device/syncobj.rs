//! DRM syncobjs: objects of a graphics device that hold a fence (binary) or one for every point of
//! a timeline (<https://docs.kernel.org/gpu/drm-mm.html#drm-sync-objects>).
//!
//! They are what Vulkan drivers build their semaphores on, and unlike a sync_file they can be
//! waited for before anybody has submitted what will signal them. Points are passed on without
//! blocking a thread by an eventfd (since Linux 6.6). Two things about that are traps: the eventfd
//! is written on failure as well, without telling, and never if the object is destroyed first. So
//! [`Point`] keeps its object, and asks for the point's status when the eventfd was written.

use super::error::{FenceError, FenceErrorKind, Refused};
use super::sync_file::{FenceStatus, SyncFile};
use super::uapi;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where render nodes are, and how their names begin.
const NODES: (&str, &str) = ("/dev/dri", "renderD");

/// A DRM device with syncobjs, by its render node. `Send + Sync`; a clone is the same open file.
#[derive(Clone)]
pub struct DrmDevice {
    fd: Arc<OwnedFd>,
    has_timelines: bool,
}

impl DrmDevice {
    /// Opens a device, as `/dev/dri/renderD128`.
    ///
    /// # Errors
    ///
    /// Refused when it cannot be opened, Unsupported when it has no syncobjs.
    pub fn open(path: impl AsRef<Path>) -> Result<DrmDevice, FenceError> {
        let path = path.as_ref();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| {
            let message = format!("cannot open {}: {error}", path.display());
            let error_code = error.raw_os_error().unwrap_or_default();
            FenceError::new("drm device", FenceErrorKind::Refused, message).with_errno(error_code)
        })?;
        DrmDevice::from_fd(file.into()).map_err(|refused| refused.error)
    }

    /// Takes over an open device.
    ///
    /// # Errors
    ///
    /// Unsupported when it has no syncobjs, or is no DRM device; the descriptor comes back.
    pub fn from_fd(fd: OwnedFd) -> Result<DrmDevice, Refused<OwnedFd>> {
        let has = |cap| uapi::drm_cap(fd.as_fd(), cap).is_ok_and(|value| value != 0);
        let (has_syncobjs, has_timelines) =
            (has(uapi::CAP_SYNCOBJ), has(uapi::CAP_SYNCOBJ_TIMELINE));
        if !has_syncobjs {
            let message = "the device has no syncobjs; name the render node of a graphics driver";
            let error = FenceError::new("drm device", FenceErrorKind::Unsupported, message);
            return Err(Refused { error, fd });
        }
        Ok(DrmDevice { fd: Arc::new(fd), has_timelines })
    }

    /// The first render node of this machine that has syncobjs. None: there is none, or none that
    /// this process may open.
    pub fn find() -> Option<DrmDevice> {
        let entries = std::fs::read_dir(NODES.0).ok()?;
        let mut nodes: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(NODES.1))
            .map(|entry| entry.path())
            .collect();
        nodes.sort();
        nodes.iter().find_map(|node| DrmDevice::open(node).ok())
    }

    /// Whether its syncobjs have points.
    pub fn has_timelines(&self) -> bool {
        self.has_timelines
    }

    /// A new syncobj: without a fence, or holding one that has signalled.
    ///
    /// # Errors
    ///
    /// Refused.
    pub fn syncobj(&self, signalled: bool) -> Result<Syncobj, FenceError> {
        let handle = uapi::syncobj_create(self.as_fd(), signalled)
            .map_err(|errno| FenceError::refused("syncobj create", errno))?;
        Ok(Syncobj { device: self.clone(), handle })
    }

    /// The syncobj that another process or driver exported; the descriptor can be closed.
    ///
    /// # Errors
    ///
    /// WrongKind when it is none; Refused.
    pub fn import_syncobj(&self, fd: impl AsFd) -> Result<Syncobj, FenceError> {
        const NAME: &str = "syncobj import";
        match uapi::syncobj_import(self.as_fd(), 0, 0, fd.as_fd()) {
            Ok(handle) => Ok(Syncobj { device: self.clone(), handle }),
            Err(Errno::EINVAL | Errno::EBADF) => {
                let message = "the descriptor is no syncobj; export one as an opaque descriptor";
                Err(FenceError::new(NAME, FenceErrorKind::WrongKind, message))
            }
            Err(errno) => Err(FenceError::refused(NAME, errno)),
        }
    }
}

impl AsFd for DrmDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for DrmDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrmDevice").field("has_timelines", &self.has_timelines).finish()
    }
}

/// A syncobj. `Send + Sync`; destroyed when dropped, which leaves other handles and exported
/// descriptors of it as they are.
///
/// Point zero is the fence of a binary one; points from one on are those of a timeline.
pub struct Syncobj {
    device: DrmDevice,
    handle: u32,
}

impl Syncobj {
    /// The device it belongs to.
    pub fn device(&self) -> &DrmDevice {
        &self.device
    }

    /// Signals it (binary).
    ///
    /// # Errors
    ///
    /// Refused.
    pub fn signal(&self) -> Result<(), FenceError> {
        uapi::syncobj_signal(self.device.as_fd(), self.handle, None)
            .map_err(|errno| FenceError::refused("syncobj signal", errno))
    }

    /// Signals a point of the timeline, which has to be above those it has.
    ///
    /// # Errors
    ///
    /// Unsupported without timelines; Refused.
    pub fn signal_point(&self, point: u64) -> Result<(), FenceError> {
        uapi::syncobj_signal(self.device.as_fd(), self.handle, Some(point))
            .map_err(|errno| FenceError::refused("syncobj signal", errno))
    }

    /// Takes its fence out, or its points (`DRM_IOCTL_SYNCOBJ_RESET`).
    ///
    /// # Errors
    ///
    /// Refused.
    pub fn reset(&self) -> Result<(), FenceError> {
        uapi::syncobj_reset(self.device.as_fd(), self.handle)
            .map_err(|errno| FenceError::refused("syncobj reset", errno))
    }

    /// The last point of the timeline that has signalled.
    ///
    /// # Errors
    ///
    /// Unsupported without timelines; Refused.
    pub fn value(&self) -> Result<u64, FenceError> {
        uapi::syncobj_query(self.device.as_fd(), self.handle)
            .map_err(|errno| FenceError::refused("syncobj query", errno))
    }

    /// Blocks this thread until a point has signalled, also with an error, at most until
    /// `deadline`; None waits for ever. A point that nobody has submitted yet is waited for as
    /// well. Not for a thread that drives a loop.
    ///
    /// # Errors
    ///
    /// TimedOut; Unsupported; Refused.
    pub fn wait(&self, point: u64, deadline: Option<Instant>) -> Result<(), FenceError> {
        let refused = |errno| FenceError::refused("syncobj wait", errno);
        let until_ns = match deadline {
            None => i64::MAX,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(refused)?;
                i64::try_from((Duration::from(now) + left).as_nanos()).unwrap_or(i64::MAX)
            }
        };
        let at = (self.handle, point);
        uapi::syncobj_wait(self.device.as_fd(), at, until_ns, uapi::WAIT_FOR_SUBMIT)
            .map_err(refused)
    }

    /// Makes the fence of `point` also that of another object's point.
    ///
    /// # Errors
    ///
    /// Refused, with EINVAL when the point has no fence yet.
    pub fn transfer(&self, point: u64, to: &Syncobj, to_point: u64) -> Result<(), FenceError> {
        let (from, to) = ((self.handle, point), (to.handle, to_point));
        uapi::syncobj_transfer(self.device.as_fd(), from, to)
            .map_err(|errno| FenceError::refused("syncobj transfer", errno))
    }

    /// The fence of a point, as a sync_file. A point is transferred to a binary object first: older
    /// kernels export no other.
    ///
    /// # Errors
    ///
    /// Refused, with EINVAL when it has no fence yet.
    pub fn export_sync_file(&self, point: u64) -> Result<SyncFile, FenceError> {
        if point > 0 {
            let binary = self.device.syncobj(false)?;
            self.transfer(point, &binary, 0)?;
            return binary.export_sync_file(0);
        }
        uapi::syncobj_export(self.device.as_fd(), self.handle, uapi::AS_SYNC_FILE)
            .map(SyncFile::made)
            .map_err(|errno| FenceError::refused("syncobj export", errno))
    }

    /// Puts a sync_file's fence into a point.
    ///
    /// # Errors
    ///
    /// Refused.
    pub fn import_sync_file(&self, fence: &SyncFile, point: u64) -> Result<(), FenceError> {
        if point > 0 {
            let binary = self.device.syncobj(false)?;
            binary.import_sync_file(fence, 0)?;
            return binary.transfer(0, self, point);
        }
        let (device, fd) = (self.device.as_fd(), fence.as_fd());
        uapi::syncobj_import(device, self.handle, uapi::AS_SYNC_FILE, fd)
            .map(drop)
            .map_err(|errno| FenceError::refused("syncobj import", errno))
    }

    /// The object as a descriptor, for another process or driver. It cannot be polled.
    ///
    /// # Errors
    ///
    /// Refused.
    pub fn export(&self) -> Result<OwnedFd, FenceError> {
        uapi::syncobj_export(self.device.as_fd(), self.handle, 0)
            .map_err(|errno| FenceError::refused("syncobj export", errno))
    }

    /// How a point stands. One without a fence is pending.
    ///
    /// # Errors
    ///
    /// Refused.
    pub fn status(&self, point: u64) -> Result<FenceStatus, FenceError> {
        match self.export_sync_file(point) {
            Ok(fence) => fence.status(),
            Err(error) if error.errno() == Some(Errno::EINVAL as i32) => Ok(FenceStatus::Pending),
            Err(error) => Err(error),
        }
    }

    /// Something to wait for a point with, beside other descriptors (since Linux 6.6). The object
    /// lives at least as long.
    ///
    /// # Errors
    ///
    /// Unsupported on older kernels, where [`wait`](Self::wait) on a thread of its own is left;
    /// Refused.
    pub fn point(self: &Arc<Syncobj>, point: u64) -> Result<Point, FenceError> {
        self.watch(point, 0)
    }

    /// As [`point`](Self::point), for the moment when the point gets a fence, signalled or not.
    ///
    /// # Errors
    ///
    /// As [`point`](Self::point).
    pub fn available(self: &Arc<Syncobj>, point: u64) -> Result<Point, FenceError> {
        self.watch(point, uapi::WAIT_AVAILABLE)
    }

    fn watch(self: &Arc<Syncobj>, point: u64, flags: u32) -> Result<Point, FenceError> {
        let refused = |errno| FenceError::refused("syncobj eventfd", errno);
        let event =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(refused)?;
        let at = (self.handle, point);
        uapi::syncobj_eventfd(self.device.as_fd(), at, flags, &event).map_err(refused)?;
        Ok(Point { syncobj: self.clone(), point, event })
    }
}

impl Drop for Syncobj {
    fn drop(&mut self) {
        // Only an unknown handle is an error here, and this one is ours.
        let _ = uapi::syncobj_destroy(self.device.as_fd(), self.handle);
    }
}

impl fmt::Debug for Syncobj {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncobj").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// A point of a syncobj that is waited for; see [`Syncobj::point`].
#[derive(Debug)]
pub struct Point {
    syncobj: Arc<Syncobj>,
    point: u64,
    event: EventFd,
}

impl Point {
    /// How the point stands.
    ///
    /// # Errors
    ///
    /// As [`Syncobj::status`].
    pub fn status(&self) -> Result<FenceStatus, FenceError> {
        self.syncobj.status(self.point)
    }
}

impl AsFd for Point {
    /// Readable when the point has signalled, also with an error.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
