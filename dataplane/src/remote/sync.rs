//! The atomics and the shared pointer that model-checked modules build on: the standard
//! library's, or loom's under `--cfg loom`.
//!
//! Only code whose interleavings a loom model explores needs to come through here. Under
//! `--cfg loom` the crate consists of this module and of those it models, nothing else: the rest
//! makes system calls, which no model can explore.
//!
//! Run the models with
//! `RUSTFLAGS="--cfg loom" cargo test -p dataplane --release --lib loom --target-dir target/loom`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic;

#[cfg(loom)]
#[allow(unused_imports)] // used by the models, which are tests
pub(crate) use loom::sync::Arc;
#[cfg(not(loom))]
#[allow(unused_imports)] // used by modules that share one model-checked value between threads
pub(crate) use std::sync::Arc;

/// A cell whose value is reached by raw pointer, with loom's interface: loom checks that no two
/// threads touch it at once.
#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;

/// As loom's; here it is the standard library's.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
