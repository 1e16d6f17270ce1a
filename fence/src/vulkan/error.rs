//! What Vulkan answers, as our errors.

use crate::Failure;
use crate::device::{FenceError, FenceErrorKind};
use ash::vk;
use nix::errno::Errno;

/// An answer of a call that says nothing of the device as a whole.
pub(super) fn refused(
    operation: &'static str,
    call: &'static str,
    result: vk::Result,
) -> FenceError {
    let (kind, next) = match result {
        vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
            (FenceErrorKind::Exhausted, "free some memory")
        }
        vk::Result::ERROR_TOO_MANY_OBJECTS => {
            (FenceErrorKind::Exhausted, "close some descriptors, or raise RLIMIT_NOFILE")
        }
        vk::Result::ERROR_INVALID_EXTERNAL_HANDLE => {
            (FenceErrorKind::WrongKind, "hand in a descriptor of the kind that was named")
        }
        vk::Result::ERROR_FEATURE_NOT_PRESENT | vk::Result::ERROR_EXTENSION_NOT_PRESENT => {
            (FenceErrorKind::Unsupported, "ask the physical device what it has")
        }
        _ => (FenceErrorKind::Refused, "run with the validation layers to see why"),
    };
    FenceError::new(operation, kind, format!("{call} answered {result:?}; {next}"))
}

/// The device is lost.
pub(super) fn lost(operation: &'static str, message: impl Into<String>) -> FenceError {
    FenceError::new(operation, FenceErrorKind::Failed, message).with_errno(Errno::ENODEV as i32)
}

pub(super) fn lost_message(why: &str) -> String {
    format!("the Vulkan device is lost: {why}; make a new one")
}

/// Whether a call said so.
pub(super) fn is_lost(error: &FenceError) -> bool {
    error.kind() == FenceErrorKind::Failed && error.errno() == Some(Errno::ENODEV as i32)
}

/// The device is the parent's.
pub(super) fn forked(operation: &'static str) -> FenceError {
    let message = "the Vulkan device is the parent's; make instance and device anew in the child";
    FenceError::new(operation, FenceErrorKind::Forked, message)
}

/// The device was made without something.
pub(super) fn missing(operation: &'static str, what: &str, enable: &str) -> FenceError {
    let message = format!("the device has no {what}; make it with {enable} enabled");
    FenceError::new(operation, FenceErrorKind::Unsupported, message)
}

/// As what fails a semaphore.
pub(super) fn failure(error: &FenceError) -> Failure {
    match error.errno() {
        Some(errno) => Failure::with_errno(errno, error.to_string()),
        None => Failure::new(error.to_string()),
    }
}
