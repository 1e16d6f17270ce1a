//! Devices a guest can have, and what makes them appear.
//!
//! A device is modules of the packaged kernel, or one of our own, something the emulator plugs in,
//! or a user land whose libraries are the device. Groups name them; the programs of a group find
//! the names in `REQUIRE_DEVICES`, where what is missing is a failure and never a skip.

use crate::packages::userland::{self, UserLand};
use std::fmt;

/// One device.
pub(crate) struct Device {
    /// As `REQUIRE_DEVICES` names it.
    pub(crate) name: &'static str,
    /// What it is good for.
    about: &'static str,
    /// Modules, without those they depend on; those built into a kernel are passed over.
    pub(crate) modules: &'static [&'static str],
    /// A module of our own, built against the kernel's headers.
    pub(crate) own: Option<&'static str>,
    /// What the programs of its group run in.
    pub(crate) user_land: Option<&'static UserLand>,
    /// Arguments to the emulator.
    pub(crate) plugged: &'static [&'static str],
    /// The first kernel of the lab on which it does what tests want of it.
    pub(crate) since: (u32, u32),
}

/// Fences that are pending until an ioctl signals them.
pub(crate) const VGEM: Device = Device {
    name: "vgem",
    about: "pending sync_files and dumb buffers that are dma-bufs",
    modules: &["vgem"],
    own: None,
    user_land: None,
    plugged: &[],
    since: (6, 1),
};

/// A DRM driver with timeline syncobjs.
pub(crate) const SYNCOBJ: Device = Device {
    name: "syncobj",
    about: "timeline syncobjs, on the render node of virtio-gpu",
    modules: &["virtio_pci", "virtio-gpu"],
    own: None,
    user_land: None,
    plugged: &["-device", "virtio-gpu-pci"],
    since: (6, 12),
};

/// dma-bufs made of ordinary memory.
pub(crate) const UDMABUF: Device = Device {
    name: "udmabuf",
    about: "dma-bufs of memfd pages",
    modules: &[],
    own: None,
    user_land: None,
    plugged: &[],
    since: (6, 12),
};

/// The module in `guest/failing_fence`.
pub(crate) const FAILING_FENCE: Device = Device {
    name: "failing-fence",
    about: "sync_files that end with an error",
    modules: &[],
    own: Some("failing_fence"),
    user_land: None,
    plugged: &[],
    since: (6, 1),
};

/// A Vulkan driver that needs no hardware.
pub(crate) const VULKAN: Device = Device {
    name: "vulkan",
    about: "lavapipe, with semaphores as sync_files and memory as dma-bufs",
    // Of the file system by which the guest sees the user land.
    modules: &["virtio_pci", "9pnet_virtio", "9p"],
    own: None,
    user_land: Some(&userland::MESA),
    plugged: &[],
    since: (6, 12),
};

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.since;
        write!(f, "{}: {} (from {major}.{minor})", self.name, self.about)
    }
}
