//! The first panic of several pieces of user code that must all be run.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Collects panics; the first goes on at the end, the others are forgotten.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Runs it; false: it panicked.
    pub(crate) fn guard(&mut self, code: impl FnOnce()) -> bool {
        match (catch_unwind(AssertUnwindSafe(code)), &self.0) {
            (Ok(()), _) => return true,
            (Err(payload), None) => self.0 = Some(payload),
            // Its drop may panic again.
            (Err(payload), Some(_)) => std::mem::forget(payload),
        }
        false
    }

    /// Runs what goes on where it was, when it is called again after a panic, until it is done.
    pub(crate) fn insist(&mut self, code: impl Fn()) {
        while !self.guard(&code) {}
    }

    /// Lets the first one go on, unless another is on its way already.
    pub(crate) fn resume(self) {
        match self.0 {
            Some(payload) if !std::thread::panicking() => resume_unwind(payload),
            payload => std::mem::forget(payload),
        }
    }
}
