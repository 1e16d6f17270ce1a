//! What sockets, files, submissions and the proactor share on the owning thread: the engine behind
//! its borrow, the running of user code, and the end.

use super::Proactor;
use crate::backend::OpId;
use crate::engine::deadlines::now_ns;
use crate::engine::sequence::Made;
use crate::engine::turn::{Next, Ready};
use crate::engine::{Engine, Fire};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::inbox::{self, Left, Shared};
use crate::run::executor::Executor;
use crate::run::panics::Panics;
use crate::sys::fork::Origin;
use crate::sys::helpers::Helpers;
use std::cell::{Cell, RefCell, RefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

/// What sockets, files, submissions and the proactor share on the owning thread.
pub(crate) struct Inner {
    pub(super) engine: RefCell<Engine>,
    /// A copy of the shared one, a step nearer.
    pub(super) origin: Origin,
    /// The proactor's number, part of the names it gives out.
    pub(crate) owner: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) executor: Rc<Executor>,
    pub(super) polling: Cell<bool>,
    /// A host runtime sleeps in the loop's place; see `rest.rs`.
    pub(super) host_sleeps: Cell<bool>,
    /// Set when the last `Proactor` went while a poll was running.
    pub(super) end_after_poll: Cell<bool>,
    pub(super) ended: Cell<bool>,
}

impl Inner {
    /// Runs `f` with the engine, unless this is a forked child.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        name: &'static str,
        f: impl FnOnce(&mut Engine) -> R,
    ) -> Result<R> {
        self.enter(name).map(|mut engine| f(&mut engine))
    }

    /// The engine, unless this is a forked child.
    #[inline]
    pub(crate) fn enter(&self, name: &'static str) -> Result<RefMut<'_, Engine>> {
        if !self.origin.is_here() {
            return Err(inbox::forked(name));
        }
        self.engine
            .try_borrow_mut()
            .map_err(|_| Error::new(name, ErrorKind::Busy, "the engine is busy"))
    }

    /// The handle of an operation is gone.
    pub(crate) fn abandon(&self, id: OpId) {
        // What comes out is the user's to drop, with nothing borrowed.
        match self.with("drop a submission", |engine| engine.abandon(id)) {
            Ok(parts) => drop(parts),
            Err(error) => self.leave(&error, Left::Dropped(id)),
        }
    }

    /// The handle of an operation is gone, and the operation goes on.
    pub(crate) fn detach(&self, id: OpId) {
        match self.with("detach", |engine| engine.detach(id)) {
            Ok(waker) => drop(waker),
            Err(error) => self.leave(&error, Left::Detached(id)),
        }
    }

    pub(super) fn leave(&self, error: &Error, left: Left) {
        // In a forked child there is nothing to leave.
        if error.kind() == ErrorKind::Busy {
            self.shared.leave(left);
        }
    }

    /// Runs user code for everything on the fire list.
    #[inline]
    pub(super) fn fire_all(self: &Rc<Self>) {
        if self.engine.borrow().fire.is_empty() {
            return;
        }
        self.fire_each();
    }

    /// Whether user code is to be run: fires, or tasks in line.
    #[inline(always)]
    pub(super) fn has_user_code(&self, engine: &Engine) -> bool {
        !engine.fire.is_empty() || self.executor.ready.waiting() > 0
    }

    /// Runs it, a bounded number of tasks; whether a task ran.
    pub(super) fn run_user_code(self: &Rc<Self>) -> bool {
        self.fire_each();
        self.executor.run()
    }

    pub(super) fn fire_each(self: &Rc<Self>) {
        loop {
            let next = self.engine.borrow_mut().next();
            match next {
                Next::Idle => return,
                Next::Fire(ready) => self.fire(ready),
            }
        }
    }

    pub(super) fn fire(self: &Rc<Self>, ready: Ready) {
        match ready {
            Ready::Wake(waker) => waker.wake(),
            Ready::Once(callback, op, outcome) => callback(op, outcome),
            Ready::End(mut callback, op, outcome) => callback(true, op, outcome),
            Ready::Each(id, mut callback, outcome) => {
                let told = catch_unwind(AssertUnwindSafe(|| callback(false, None, outcome)));
                let mut engine = self.engine.borrow_mut();
                match told {
                    Ok(()) => engine.put_back(id, callback),
                    // It is not called again; what it holds is dropped by a later poll.
                    Err(panic) => {
                        let parts = engine.abandon(id);
                        engine.fire.push_back(Fire::Drop(Box::new((callback, parts))));
                        drop(engine);
                        resume_unwind(panic);
                    }
                }
            }
            Ready::Call(call) => {
                let lent = Proactor::lend(self);
                call(lent.as_ref());
            }
            Ready::Make(id, mut maker) => {
                let made = catch_unwind(AssertUnwindSafe(&mut maker));
                let (made, panic) = match made {
                    Ok(made) => (made, None),
                    Err(panic) => (Made::panicked(), Some(panic)),
                };
                self.engine.borrow_mut().made(id, made);
                if let Some(panic) = panic {
                    resume_unwind(panic);
                }
            }
            Ready::Message(mut running, payload) => {
                let told = catch_unwind(AssertUnwindSafe(|| running.call(payload)));
                self.engine.borrow_mut().message_handled(running);
                if let Err(panic) = told {
                    resume_unwind(panic);
                }
            }
            Ready::Drop(parts) => drop(parts),
            Ready::Parts(op, outcome, notify) => {
                drop(notify);
                drop((op, outcome));
            }
        }
    }

    /// Cancel, wait, leak: see `engine/shutdown.rs`.
    pub(super) fn end(self: &Rc<Self>) {
        if self.ended.replace(true) || !self.shared.origin.is_here() {
            return;
        }
        // Nothing of the user's may stop this half way: the kernel would be left with memory that
        // goes with the engine. The first panic goes on at the end.
        let mut panics = Panics::default();
        panics.insist(|| self.shared.close());
        // A host that sleeps in the loop's place must see the end.
        self.shared.rouse();
        panics.insist(|| self.executor.close());
        let timeout = self.engine.borrow().options.shutdown;
        let deadline_ns = now_ns().saturating_add(timeout.as_nanos() as u64);
        self.engine.borrow_mut().begin_drain();
        loop {
            let over = self.engine.borrow_mut().drain_turn(deadline_ns);
            panics.insist(|| self.fire_all());
            if over {
                break;
            }
        }
        let leaked = self.engine.borrow_mut().end();
        panics.insist(|| self.fire_all());
        if let Some(leaked) = leaked {
            eprintln!(
                "{}: shut down with {} operations still in the kernel; their memory is leaked",
                self.shared.name, leaked.operations
            );
        }
        panics.resume();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let unfinished = self.engine.get_mut().table.slots.in_flight > 0 && !self.ended.get();
        debug_assert!(!unfinished, "a proactor ends before it goes");
        if unfinished || !self.shared.origin.is_here() {
            // A forked child: nothing here is ours to undo. The engine is forgotten whole.
            self.executor.forget();
            let engine = self.engine.get_mut();
            std::mem::forget(engine.backend.take());
            std::mem::forget(std::mem::replace(&mut engine.table.helpers, Helpers::new("", 0)));
            std::mem::forget(std::mem::take(&mut engine.table.groups));
            std::mem::forget(std::mem::take(&mut engine.table.registry));
            engine.table.slots.leak();
        }
    }
}
