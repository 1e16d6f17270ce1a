//! The atomics and the lock that the model checker can replace.
//!
//! Everything that loom checks takes its atomics from here. Process-wide counters and reference
//! counts that no model covers use `std` directly.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Stands between a write and a read of *another* word that must not pass each other.
///
/// On both sides of such a pair this crate uses `SeqCst` accesses, whose single total order is all
/// that is needed, so in a real build this is nothing. loom treats `SeqCst` accesses as
/// acquire-release ones and honours only fences, so the model needs it spelled out.
#[inline(always)]
pub(crate) fn model_fence() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
