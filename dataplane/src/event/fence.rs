//! Fences of drivers: waited for as an operation, and taken into semaphores.
//!
//! A [`Fence`] says what a descriptor is; [`Proactor::fence_waiter`] makes the end that is waited
//! on, which is a step of a sequence like any other: a send behind it leaves in the poll turn in
//! which the fence was found signalled, and one behind a fence that failed does not leave.
//! [`Proactor::import_fence`] is that wait with a semaphore to tell.
//!
//! # Checked and unchecked
//!
//! The kernel could start the send by itself when the descriptor becomes readable (a linked chain).
//! But a failed sync_file becomes readable too, and the data would be gone before anybody asked.
//! [`FenceWaiter::wait`] therefore is never linked. [`FenceWaiter::wait_unchecked`] is, where the
//! sequence can be: for fences that cannot fail, or whose failure may be found out afterwards. On a
//! ring that defers its work to its thread (the default here) a linked chain moves only while that
//! thread is in the kernel; [`Options::sqpoll`] makes one that moves by itself. Which of the two a
//! send behind a gate was, [`Finished::started_by_kernel`] says.
//!
//! [`Options::sqpoll`]: crate::Options::sqpoll
//! [`Finished::started_by_kernel`]: crate::Finished::started_by_kernel

use crate::error::{Error, ErrorKind, Result};
use crate::io::Local;
use crate::io::operation_id::OperationId;
use crate::io::request::Request;
use crate::op::FenceWait;
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use fence::{Failure, Fence, FenceError, FenceStatus, Semaphore};
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const IMPORT: &str = "fence import";

/// Where a proactor's thread waits for a fence.
pub struct FenceWaiter {
    local: Local,
    fence: Arc<Fence>,
}

impl FenceWaiter {
    /// Waits until the fence has signalled; its failure is the failure of the wait, with the
    /// fence's errno. Never linked in the kernel, see the head of this module.
    pub fn wait(&self) -> Request<Local, FenceWait> {
        self.request(false)
    }

    /// As [`wait`](Self::wait), but over when the descriptor is readable, and the kernel may start
    /// the next step of a sequence by that, before anybody asked whether the fence failed: the
    /// failure is then reported although the next step ran. A point of a syncobj is checked all the
    /// same: it is readable too when it has only got its fence.
    pub fn wait_unchecked(&self) -> Request<Local, FenceWait> {
        self.request(true)
    }

    fn request(&self, unchecked: bool) -> Request<Local, FenceWait> {
        Request::new(&self.local, FenceWait::new(self.fence.clone(), unchecked))
    }

    /// What is waited for.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }
}

/// A fence that was not imported, with the reason: it is still the caller's, and the semaphore is
/// untouched.
#[derive(Debug)]
pub struct RefusedFence {
    /// Why.
    pub error: Error,
    /// The fence.
    pub fence: Fence,
}

impl fmt::Display for RefusedFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for RefusedFence {}

impl From<RefusedFence> for Error {
    fn from(refused: RefusedFence) -> Error {
        refused.error
    }
}

/// What is owed to the semaphore of an import: whatever happens to it, the semaphore is told.
struct Owed {
    semaphore: Semaphore,
    value: u64,
    told: bool,
}

impl Owed {
    fn new(semaphore: &Semaphore, value: u64) -> Owed {
        Owed { semaphore: semaphore.clone(), value, told: false }
    }

    fn tell(mut self, status: &Result<FenceStatus, FenceError>) {
        self.told = true;
        self.semaphore.settle(self.value, status);
    }

    /// Nothing is owed any more.
    fn forgive(mut self) {
        self.told = true;
    }

    fn fail(mut self, error: &Error) {
        self.told = true;
        let errno = match error.kind() {
            ErrorKind::TimedOut => libc::ETIME,
            _ => error.errno().unwrap_or(libc::EIO),
        };
        self.semaphore.fail(Failure::with_errno(errno, error.to_string()));
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.told {
            let message = "the proactor that waited for the imported fence is gone";
            self.semaphore.fail(Failure::with_errno(libc::ECANCELED, message));
        }
    }
}

/// Whether there is nothing to wait for. A fence that has signalled is told here and now.
fn is_over(fence: &Fence, semaphore: &Semaphore, value: u64) -> bool {
    semaphore.value().is_ok_and(|reached| reached >= value)
        || semaphore.settle(value, &fence.status())
}

impl Proactor {
    /// The end of a fence that this proactor waits on.
    pub fn fence_waiter(&self, fence: Fence) -> FenceWaiter {
        FenceWaiter { local: self.local(), fence: Arc::new(fence) }
    }

    /// Advances `semaphore` to `value` when the fence signals, and fails it when the fence fails,
    /// with the same errno. One that has signalled already does so before this returns, and one
    /// whose value is reached changes nothing. The proactor takes over the fence.
    ///
    /// The semaphore fails as well when the wait comes to another end: cancelled (ECANCELED), the
    /// proactor's default timeout (ETIME), a proactor that goes. The name is for
    /// [`Proactor::cancel`]; there is none when it is over already.
    ///
    /// # Errors
    ///
    /// Exhausted, ShutDown, Forked. The fence comes back and the semaphore is untouched.
    ///
    /// # Panics
    ///
    /// With the panic of a callback of the semaphore's, when the fence had signalled already.
    pub fn import_fence(
        &self,
        fence: Fence,
        semaphore: &Semaphore,
        value: u64,
    ) -> Result<Option<OperationId>, Box<RefusedFence>> {
        self.import(fence, semaphore, value, None)
    }

    /// As [`import_fence`](Self::import_fence), with a time after which the semaphore fails with
    /// ETIME.
    ///
    /// # Errors
    ///
    /// As [`import_fence`](Self::import_fence).
    pub fn import_fence_within(
        &self,
        fence: Fence,
        semaphore: &Semaphore,
        value: u64,
        timeout: Duration,
    ) -> Result<Option<OperationId>, Box<RefusedFence>> {
        self.import(fence, semaphore, value, Instant::now().checked_add(timeout))
    }

    fn import(
        &self,
        fence: Fence,
        semaphore: &Semaphore,
        value: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<OperationId>, Box<RefusedFence>> {
        if is_over(&fence, semaphore, value) {
            return Ok(None);
        }
        let mut request = Request::over(self.local(), FenceWait::new(Arc::new(fence), false));
        if let Some(at) = deadline {
            request = request.deadline(at);
        }
        let owed = Rc::new(Cell::new(Some(Owed::new(semaphore, value))));
        let telling = owed.clone();
        let placed = request.on_complete(move |ended| {
            let Some(owed) = telling.take() else { return };
            match ended {
                Ok(()) => owed.tell(&Ok(FenceStatus::Signalled)),
                Err(failed) => owed.fail(&failed.error),
            }
        });
        placed.map(Some).map_err(|failed| {
            if let Some(owed) = owed.take() {
                owed.forgive();
            }
            let error = failed.error.clone();
            let fence = failed.into_operation().and_then(FenceWait::into_fence);
            Box::new(RefusedFence { error, fence: fence.expect("a refused wait comes back whole") })
        })
    }
}

impl Handle {
    /// As [`Proactor::import_fence`], from any thread. A fence that has signalled already tells the
    /// semaphore here and now; any other is taken to the proactor's thread, and what goes wrong
    /// there fails the semaphore.
    ///
    /// # Errors
    ///
    /// Exhausted when the inbox is full, ShutDown. The fence comes back and the semaphore is
    /// untouched.
    ///
    /// # Panics
    ///
    /// As [`Proactor::import_fence`].
    pub fn import_fence(
        &self,
        fence: Fence,
        semaphore: &Semaphore,
        value: u64,
    ) -> Result<(), Box<RefusedFence>> {
        if is_over(&fence, semaphore, value) {
            return Ok(());
        }
        let brought = Arc::new(Mutex::new(Some((fence, Owed::new(semaphore, value)))));
        let taken = brought.clone();
        let sent = self.post(IMPORT, move |io| {
            // Without a proactor what is owed is dropped, which tells the semaphore.
            let (Some(io), Some((fence, owed))) = (io, take(&taken)) else { return };
            match io.import_fence(fence, &owed.semaphore, owed.value) {
                Ok(_) => owed.forgive(),
                Err(refused) => owed.fail(&refused.error),
            }
        });
        sent.map_err(|error| {
            let (fence, owed) = take(&brought).expect("what was not sent was not run");
            owed.forgive();
            Box::new(RefusedFence { error, fence })
        })
    }
}

fn take<T>(from: &Mutex<Option<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).take()
}
