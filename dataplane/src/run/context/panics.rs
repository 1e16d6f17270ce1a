//! The first panic of several pieces of user code that must all be run.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Collects panics; the first goes on at the end, the others are forgotten.
#[derive(Default)]
pub(super) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    pub(super) fn guard(&mut self, code: impl FnOnce()) {
        match (catch_unwind(AssertUnwindSafe(code)), &self.0) {
            (Ok(()), _) => {}
            (Err(payload), None) => self.0 = Some(payload),
            // Its drop may panic again.
            (Err(payload), Some(_)) => std::mem::forget(payload),
        }
    }

    /// Lets the first one go on, unless another is on its way already.
    pub(super) fn resume(self) {
        match self.0 {
            Some(payload) if !std::thread::panicking() => resume_unwind(payload),
            payload => std::mem::forget(payload),
        }
    }
}
