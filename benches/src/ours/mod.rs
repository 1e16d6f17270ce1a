//! The toolkit's answers, written as a user would write them: default options, registered slabs and
//! descriptors where that helps, no unsafe code.

pub mod echo;
pub mod fence;
pub mod handoff;
pub mod noop;
pub mod read;
pub mod receive;
pub mod send;
pub mod stream;

use crate::Result;
use dataplane::{Backend, Options, Proactor};

/// A proactor over io_uring: beside the limit nothing else would be comparable.
///
/// # Errors
///
/// Where there is no io_uring.
pub fn proactor() -> Result<Proactor> {
    Ok(Proactor::with(Options::default().backend(Backend::IoUring))?)
}
