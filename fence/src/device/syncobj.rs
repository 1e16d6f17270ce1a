//! DRM syncobjs: objects of a graphics device that hold a fence (binary) or one for every point of
//! a timeline (<https://docs.kernel.org/gpu/drm-mm.html#drm-sync-objects>).
//!
//! They are what Vulkan drivers build their semaphores on, and unlike a sync_file they can be
//! waited for before anybody has submitted what will signal them. The kernel tells by an eventfd
//! when a point gets its fence or signals (since Linux 6.6). Three things about that are traps: it
//! is written on failure as well, without telling; a point that has signalled gives a stand-in for
//! its fence, which says success; and nothing is written if the object is destroyed first. So
//! [`Point`] keeps its object until it has the point's own fence, and waits for that.

use super::error::{FenceError, FenceErrorKind, Refused};
use super::node;
use super::sync_file::{FenceStatus, SyncFile};
use super::uapi;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

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
        let fd = node::open(path.as_ref())?;
        DrmDevice::from_fd(fd).map_err(|refused| refused.error)
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
        node::all("renderD").iter().find_map(|path| DrmDevice::open(path).ok())
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

    /// Something to wait for a point with, beside other descriptors; also for one that has no fence
    /// yet, where the kernel tells when it gets one (since Linux 6.6). The object lives at least as
    /// long.
    ///
    /// # Errors
    ///
    /// Unsupported for a point without a fence on older kernels, where [`wait`](Self::wait) on a
    /// thread of its own is left; Refused.
    pub fn point(self: &Arc<Syncobj>, point: u64) -> Result<Point, FenceError> {
        let refused = |errno| FenceError::refused("syncobj point", errno);
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(refused)?;
        let mut at = Point { set, point, fence: OnceLock::new(), available: None };
        if at.look(self)? {
            return Ok(at);
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags).map_err(refused)?;
        let place = (self.handle, point);
        uapi::syncobj_eventfd(self.device.as_fd(), place, uapi::WAIT_AVAILABLE, &event)
            .map_err(refused)?;
        at.set.add(&event, readable()).map_err(refused)?;
        at.available = Some((event, self.clone()));
        Ok(at)
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
///
/// A point that has signalled gives a fence that says success, whatever became of its own: so the
/// point's own fence is taken as soon as it has one, and asked.
#[derive(Debug)]
pub struct Point {
    /// Readable when there is something to look at: the point got its fence, or that signalled.
    set: Epoll,
    point: u64,
    fence: OnceLock<SyncFile>,
    /// While it has no fence: written when it gets one.
    available: Option<(EventFd, Arc<Syncobj>)>,
}

impl Point {
    /// How the point stands.
    ///
    /// # Errors
    ///
    /// Refused, with what the kernel said.
    pub fn status(&self) -> Result<FenceStatus, FenceError> {
        if let Some(fence) = self.fence.get() {
            return fence.status();
        }
        if let Some((event, syncobj)) = &self.available
            && self.look(syncobj)?
        {
            // Another thread may have taken it out.
            let _ = self.set.delete(event);
            return self.status();
        }
        Ok(FenceStatus::Pending)
    }

    /// Takes the point's fence, if it has one.
    fn look(&self, syncobj: &Syncobj) -> Result<bool, FenceError> {
        let fence = match syncobj.export_sync_file(self.point) {
            Ok(fence) => fence,
            Err(error) if error.errno() == Some(Errno::EINVAL as i32) => return Ok(false),
            Err(error) => return Err(error),
        };
        if self.fence.set(fence).is_ok()
            && let Some(fence) = self.fence.get()
        {
            let added = self.set.add(fence, readable());
            added.map_err(|errno| FenceError::refused("syncobj point", errno))?;
        }
        Ok(true)
    }
}

fn readable() -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, 0)
}

impl AsFd for Point {
    /// Readable when there is something to look at by [`status`](Self::status), which is not the
    /// end yet where the point only got its fence.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.0.as_fd()
    }
}
