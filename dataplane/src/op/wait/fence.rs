//! Waiting for a fence: readiness, then its status.
//!
//! A sync_file that failed polls as readable, exactly as one that signalled, so the kernel's answer
//! never is the outcome: the status is asked for when the descriptor is readable, and one that is
//! pending still (a report that was not the fence's own) is waited for again. Of an event there is
//! nothing more to ask: the report is its status. Nothing is taken from the descriptor: any number
//! of waits may wait for one fence.
//!
//! The operation has its share of the fence, whose descriptor is open until the last completion
//! then, and stands in no table.

use crate::capability::Capabilities;
use crate::engine::Outcome;
use crate::error::{Error, ErrorKind, Failed};
use crate::io::Port;
use crate::op::poll::{attempt_poll, poll_entry};
use crate::op::{Advance, Attempt, Context, Forms, Interest, Operation, Shape, unit, variant};
use fence::{Fence, FenceError, FenceStatus};
use io_uring::squeue::Entry;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// The result of a wait whose fence failed; what it failed with is beside it. Not one that the
/// engine would take for a reason to try again.
const FAILED: i32 = -libc::EIO;

/// Waits until a fence has signalled. Dropping it loses nothing: the fence stays as it is.
pub struct FenceWait {
    fence: Arc<Fence>,
    /// It is over when it is readable, so that the kernel may start the next step of a sequence.
    by_readiness: bool,
    failed: Option<Error>,
}

variant!(FenceWait);

impl FenceWait {
    pub(crate) fn new(fence: Arc<Fence>, unchecked: bool) -> FenceWait {
        // A point is readable too when it has only got its fence.
        let by_readiness = unchecked && !matches!(*fence, Fence::Point(_));
        FenceWait { fence, by_readiness, failed: None }
    }

    /// What it waited for; None while others wait for it too.
    pub(crate) fn into_fence(self) -> Option<Fence> {
        Arc::into_inner(self.fence)
    }
}

/// Its kind is Io whatever the errno: Cancelled and TimedOut are for the wait's own ends.
#[cold]
fn failed(failure: Result<i32, FenceError>) -> Error {
    let (errno, message) = match failure {
        Ok(errno) => (errno, "the fence failed".to_owned()),
        Err(error) => (error.errno().unwrap_or(libc::EIO), error.to_string()),
    };
    Error::from_errno(FenceWait::NAME, errno).with_kind(ErrorKind::Io).with_message(message)
}

impl Forms for FenceWait {
    const NAME: &'static str = "fence wait";

    fn shape(&self) -> Shape {
        match self.fence.descriptor() {
            Some(_) => Shape::Single,
            None => Shape::Ordinary,
        }
    }

    fn own_fd(&self) -> Option<RawFd> {
        self.fence.descriptor().map(|fd| fd.as_raw_fd())
    }

    /// One that has signalled has no descriptor, and nothing is asked of the kernel.
    fn is_own(&self, _: Capabilities) -> bool {
        self.own_fd().is_none()
    }

    fn links(&self) -> bool {
        self.by_readiness
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        poll_entry(Interest::READABLE, cx)
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        match cx.own_fd {
            Some(_) => attempt_poll(Interest::READABLE, cx),
            None => Attempt::Done(0),
        }
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        if result < 0 {
            return Advance::Done(result);
        }
        let status = match self.fence.status_by(result as i16) {
            // The kernel has gone on already.
            Ok(FenceStatus::Pending) if self.by_readiness => return Advance::Done(0),
            Ok(FenceStatus::Pending) => return Advance::Again,
            Ok(FenceStatus::Signalled) => return Advance::Done(0),
            Ok(FenceStatus::Failed(errno)) => Ok(errno),
            Err(error) => Err(error),
        };
        self.failed = Some(failed(status));
        Advance::Done(FAILED)
    }

    fn error(&self, _: i32) -> Option<Error> {
        self.failed.clone()
    }
}

impl Operation for FenceWait {
    type Output<P: Port> = ();

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        match self.failed.take() {
            Some(error) => Err(Failed::new(error, self)),
            None => unit(self, &outcome),
        }
    }
}
