//! Timeline semaphores and frontiers: points in time that any thread can reach, await and pass on.
//!
//! A [`Semaphore`] is one `u64` that only grows. Work that produces something signals the value
//! it has reached; work that needs it waits for that value: as a future ([`Semaphore::wait`]), as
//! a callback ([`Semaphore::on_reach`]), or by blocking the thread
//! ([`Semaphore::wait_blocking`]). Several are waited for with [`wait_all`] and [`wait_any`], one
//! can be linked to another ([`Semaphore::link`]), and one whose work is lost is failed
//! ([`Semaphore::fail`]), which reaches everybody who waits now or later. The model is the
//! timeline semaphore of Vulkan (`VK_KHR_timeline_semaphore`), kept wholly in user space.
//!
//! Where work depends on many timelines, a [`Frontier`] says how far each of them has got, and a
//! [`Tracker`] has their semaphores, waits for a frontier to be reached, and keeps what each signal
//! says of the others. What a peer sends is [`Tainted`] until it is checked.
//!
//! The fences of drivers are beside them: a [`SyncFile`], the points of a DRM [`Syncobj`], and
//! [`Fence`] for whichever of them a descriptor is. [`Semaphore::settle`] takes what they say into
//! a semaphore, [`Semaphore::export`] makes a descriptor of a point of one. A [`VulkanDevice`] does
//! the same for what a user's Vulkan device signals and waits for.
//!
//! The crate knows no ring and no loop: nothing here has a timer of its own, and none a thread but
//! a [`VulkanDevice`], whose driver offers no other way to wait. User code (callbacks, wakers) runs
//! on the thread that signals, with no lock held.
//!
//! ```
//! use fence::{Failure, Semaphore};
//!
//! let drawn = Semaphore::new(0);
//! let seen = std::thread::spawn({
//!     let drawn = drawn.clone();
//!     move || drawn.wait_blocking(2, None)
//! });
//! drawn.signal(1)?;
//! drawn.signal(2)?;
//! assert!(seen.join().expect("the waiter does not panic")? >= 2);
//!
//! drawn.fail(Failure::with_errno(5, "the device is lost"));
//! assert!(drawn.value().is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | noun |
//! |---|---|
//! | `semaphore/` | the value, its failure, and who may change them |
//! | `semaphore/waiters.rs` | everybody who waits, in the order of the values waited for |
//! | `semaphore/wait.rs`, `callback.rs` | one wait: future and blocked thread; callback |
//! | `semaphore/all_any.rs`, `link.rs` | several waits as one; a change passed on to linked ones |
//! | `frontier/` | how far several timelines have got, and the tracker that waits for it |
//! | `device/` | sync_files, syncobjs, what a descriptor is, exports |
//! | `vulkan/` | fences and semaphores of a user's Vulkan device |
//! | `error.rs` | what can go wrong |
//! | `sync.rs` | the primitives, replaced by loom's under `cfg(loom)` |

mod device;
mod error;
mod frontier;
mod semaphore;
mod sync;
#[cfg(not(loom))]
mod vulkan;

/// The version of the bindings that [`VulkanDevice`] takes devices of.
#[cfg(not(loom))]
pub use ash;
pub use device::{
    DrmDevice, ExpiringFence, Exported, Fence, FenceEnd, FenceError, FenceErrorKind, FenceInfo,
    FenceStatus, Point, Refused, SyncFile, SyncFileInfo, Syncobj, VgemDevice, has_readiness,
};
pub use error::{Failed, Failure, SignalError, WaitError, WaitManyError};
pub use frontier::{
    Axis, DecodeError, Frontier, FrontierError, Reach, ReachCallback, Tainted, Tracker,
};
pub use semaphore::{
    Callback, Link, Reached, Semaphore, Wait, WaitAll, WaitAny, wait_all, wait_any,
};
#[cfg(not(loom))]
pub use vulkan::{PayloadOf, VulkanDevice, VulkanExport, VulkanFenceWait, VulkanTimeline};
