//! Fences of the kernel: what drivers signal and wait for.

mod error;
mod export;
mod fence;
#[cfg(all(test, not(loom)))]
mod headers;
mod node;
mod sync_file;
mod syncobj;
pub(crate) mod uapi;
mod vgem;

pub use error::{FenceError, FenceErrorKind, Refused};
pub use export::Exported;
pub use fence::{Fence, has_readiness};
pub use sync_file::{FenceInfo, FenceStatus, SyncFile, SyncFileInfo};
pub use syncobj::{DrmDevice, Point, Syncobj};
pub use vgem::{ExpiringFence, FenceEnd, VgemDevice};
