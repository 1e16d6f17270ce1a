//! The synchronisation primitives of this crate: std's, or loom's under `cfg(loom)`.
//!
//! `Arc` and `Weak` are std's in both: nothing here depends on when a count changes.

use std::sync::PoisonError;

pub(crate) use std::sync::atomic::Ordering;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// Locks, and takes the data as it is if a panic passed through the lock.
///
/// No user code runs under a lock of this crate and every critical section leaves its data whole,
/// so what a panic (an allocation that failed) left behind is consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
