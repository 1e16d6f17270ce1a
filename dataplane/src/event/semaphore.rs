//! Semaphores as operations of a proactor: the entry points, on its thread and from elsewhere.
//!
//! A semaphore is not tied to a proactor: any thread signals it, by itself or by an operation, and
//! every proactor that waits for it is told. Waits and signals need neither the kernel nor a
//! descriptor, and are the same on every backend.

use crate::io::Local;
use crate::io::request::Request;
use crate::op::{SemaphoreSignal, SemaphoreWait, SemaphoreWaitAll, SemaphoreWaitAny};
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use fence::Semaphore;

impl Proactor {
    /// Waits until `semaphore` has reached `value`, and gives the value seen. Dropping it loses
    /// nothing: the semaphore is untouched.
    ///
    /// A failed semaphore ends it with an error that carries the failure's errno and message.
    pub fn wait_semaphore(
        &self,
        semaphore: &Semaphore,
        value: u64,
    ) -> Request<Local, SemaphoreWait> {
        Request::over(self.local(), SemaphoreWait::new(semaphore, value))
    }

    /// Waits until every semaphore of the list has reached its value; at once for none. The first
    /// failure ends it, as in [`wait_semaphore`](Self::wait_semaphore).
    pub fn wait_all_semaphores(
        &self,
        list: &[(&Semaphore, u64)],
    ) -> Request<Local, SemaphoreWaitAll> {
        Request::over(self.local(), SemaphoreWaitAll::new(list))
    }

    /// Waits until one semaphore of the list has reached its value: which, and the value seen.
    /// A failure of any ends it, as in [`wait_semaphore`](Self::wait_semaphore); an empty list is
    /// refused.
    pub fn wait_any_semaphore(
        &self,
        list: &[(&Semaphore, u64)],
    ) -> Request<Local, SemaphoreWaitAny> {
        Request::over(self.local(), SemaphoreWaitAny::new(list))
    }

    /// Advances `semaphore` to `value` inside a poll, where the callbacks it releases run. A value
    /// not above the current one is an error; nothing changed then.
    pub fn signal_semaphore(
        &self,
        semaphore: &Semaphore,
        value: u64,
    ) -> Request<Local, SemaphoreSignal> {
        Request::over(self.local(), SemaphoreSignal::new(semaphore, value))
    }
}

impl Handle {
    /// As [`Proactor::wait_semaphore`].
    pub fn wait_semaphore(
        &self,
        semaphore: &Semaphore,
        value: u64,
    ) -> Request<Handle, SemaphoreWait> {
        Request::new(self, SemaphoreWait::new(semaphore, value))
    }

    /// As [`Proactor::wait_all_semaphores`].
    pub fn wait_all_semaphores(
        &self,
        list: &[(&Semaphore, u64)],
    ) -> Request<Handle, SemaphoreWaitAll> {
        Request::new(self, SemaphoreWaitAll::new(list))
    }

    /// As [`Proactor::wait_any_semaphore`].
    pub fn wait_any_semaphore(
        &self,
        list: &[(&Semaphore, u64)],
    ) -> Request<Handle, SemaphoreWaitAny> {
        Request::new(self, SemaphoreWaitAny::new(list))
    }

    /// As [`Proactor::signal_semaphore`], on the poll thread: for callbacks that belong there.
    /// Otherwise [`Semaphore::signal`] from here is shorter.
    pub fn signal_semaphore(
        &self,
        semaphore: &Semaphore,
        value: u64,
    ) -> Request<Handle, SemaphoreSignal> {
        Request::new(self, SemaphoreSignal::new(semaphore, value))
    }
}
