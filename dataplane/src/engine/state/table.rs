//! What operations are resolved against: slots, descriptors, pools, registered memory, helpers.

use super::descriptors::{Class, Decision, Descriptors};
use super::groups::Groups;
use super::registry::Registry;
use super::slots::Slots;
use crate::backend::OpId;
use crate::capability::{Capabilities, Capability};
use crate::op::{Completer, Context, Forms, HelperJob, Op};
use crate::remote::inbox::Shared;
use crate::sys::helpers::{Helpers, HelpersError, JobId};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The engine's state that a backend may look at.
pub(crate) struct Table {
    /// The proactor's number.
    pub(crate) owner: u32,
    pub(crate) slots: Slots,
    pub(crate) descriptors: Descriptors,
    pub(crate) groups: Groups,
    pub(crate) registry: Registry,
    pub(crate) capabilities: Capabilities,
    pub(crate) helpers: Helpers,
    /// Operations a helper thread has or will have.
    helping: Vec<(OpId, JobId)>,
    /// Those of them that wait for somebody else.
    waiting: Vec<OpId>,
    pub(crate) shared: Arc<Shared>,
}

/// The number of a new proactor, which is part of the names of its descriptors and pools. They
/// come again only after four thousand million proactors.
fn next_owner() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Table {
    pub(crate) fn new(
        bound: u32,
        descriptors: usize,
        helpers: Helpers,
        shared: Arc<Shared>,
    ) -> Table {
        let owner = next_owner();
        Table {
            owner,
            slots: Slots::new(bound),
            descriptors: Descriptors::new(owner, descriptors),
            groups: Groups::new(owner),
            registry: Registry::default(),
            capabilities: Capabilities::default(),
            helpers,
            helping: Vec::new(),
            waiting: Vec::new(),
            shared,
        }
    }

    /// The operation of a slot with everything it refers to.
    #[inline]
    pub(crate) fn resolve<R>(
        &mut self,
        id: OpId,
        f: impl FnOnce(&mut Op, &mut Context<'_>) -> R,
    ) -> R {
        let (_, body, scratch) = self.slots.parts(id.index());
        let op = body.op.as_mut().expect("an operation in flight stays in its slot");
        let source = op.source().and_then(|desc| self.descriptors.peek(desc)).map(|d| d.raw());
        let descriptor = op.desc().and_then(|desc| self.descriptors.find(desc));
        let mut context = Context {
            id,
            shared: &self.shared,
            descriptor,
            own_fd: op.own_fd(),
            source,
            scratch,
            registry: &self.registry,
            groups: &mut self.groups,
            capabilities: self.capabilities,
            plain: false,
        };
        f(op, &mut context)
    }

    /// The number of the descriptor an operation works on; -1 if it has none.
    pub(crate) fn descriptor_of(&mut self, id: OpId) -> RawFd {
        let op = self.slots.op(id.index());
        op.and_then(|op| self.descriptors.number(op)).unwrap_or(-1)
    }

    /// Runs a blocking call of an operation on a helper thread; its result arrives by the inbox.
    pub(crate) fn run_helper(&mut self, id: OpId, job: HelperJob) -> Result<(), i32> {
        match self.helpers.run(self.reported(id, job)) {
            Ok(job) => {
                self.helping.push((id, job));
                Ok(())
            }
            Err((HelpersError::Unavailable, _)) => Err(libc::EOPNOTSUPP),
            // EAGAIN, the usual code for no thread, would be tried again at once, for ever.
            Err((HelpersError::Exhausted | HelpersError::CannotStart(_), _)) => Err(libc::ENOMEM),
        }
    }

    /// As [`run_helper`](Self::run_helper), for a call that may wait for ever: one thread is never
    /// given to those, or files and names would wait with them.
    pub(crate) fn run_waiting(&mut self, id: OpId, job: HelperJob) -> Result<(), i32> {
        match self.helpers.max_threads() {
            0 | 1 => return Err(libc::EOPNOTSUPP),
            most if self.waiting.len() >= most - 1 => return Err(libc::ENOMEM),
            _ => {}
        }
        self.run_helper(id, job)?;
        self.waiting.push(id);
        Ok(())
    }

    /// The job, with its result told by the inbox.
    pub(crate) fn reported(&self, id: OpId, job: HelperJob) -> Box<dyn FnOnce() + Send> {
        let completer = Completer { shared: self.shared.clone(), id };
        Box::new(move || {
            // The guard exists from here on only: a job that never runs reports nothing, one that
            // panics still pays the result it owes.
            let mut report = Report { completer, result: -libc::EFAULT };
            report.result = job();
        })
    }

    /// None: no helper has it. True: it never starts. False: it runs, and its result will come.
    pub(crate) fn cancel_helper(&mut self, id: OpId) -> Option<bool> {
        let at = self.helping.iter().position(|(helped, _)| *helped == id)?;
        let stopped = self.helpers.cancel(self.helping[at].1);
        if stopped {
            self.forget_helper(at);
        }
        Some(stopped)
    }

    /// A helper's result arrived.
    pub(crate) fn helped(&mut self, id: OpId) {
        if let Some(at) = self.helping.iter().position(|(helped, _)| *helped == id) {
            self.forget_helper(at);
        }
    }

    fn forget_helper(&mut self, at: usize) {
        let (id, _) = self.helping.swap_remove(at);
        self.waiting.retain(|waiting| *waiting != id);
    }
}

struct Report {
    completer: Completer,
    result: i32,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.completer.complete(self.result);
    }
}

impl Context<'_> {
    /// How a send of `bytes` goes out.
    pub(crate) fn zero_copy(&mut self, bytes: usize) -> Decision {
        let supported = self.capabilities.contains(Capability::ZeroCopySend);
        let descriptor = self.descriptor.as_mut().expect("what sends has a descriptor");
        descriptor.policy.decide(bytes, supported)
    }

    /// MSG_DONTWAIT where the kernel must not try a send again by itself.
    pub(crate) fn no_second_try(&self) -> i32 {
        match self.descriptor.as_ref().is_some_and(|descriptor| descriptor.naps) {
            true => libc::MSG_DONTWAIT,
            false => 0,
        }
    }

    /// Whether the descriptor has no readiness.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.descriptor.as_ref().map(|d| d.class()), Some(Class::File { .. }))
    }

    /// Whether it is open with O_DIRECT.
    pub(crate) fn is_direct(&self) -> bool {
        let class = self.descriptor.as_ref().map(|d| d.class());
        matches!(class, Some(Class::File { direct: Some(_) }))
    }
}
