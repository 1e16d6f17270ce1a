//! Watching a foreign descriptor: whenever it is ready, a callback, until the watch ends.
//!
//! The watch keeps a duplicate of the descriptor, so the caller may close his at once and a reused
//! number is never watched. After a completion-queue overflow or an early end by the kernel it is
//! armed again by itself; an error ends it and is told to the callback once.

use crate::backend::OpId;
use crate::error::{Error, Result};
use crate::io::request::Multi;
use crate::io::stream::Next;
use crate::io::{Local, LocalDescriptor, Named};
use crate::op::{Interest, PollMany};
use crate::proactor::{Inner, Proactor};
use crate::sys::calls;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

/// A descriptor being watched. Dropping it ends the watch: the callback is not called again.
pub struct Watch {
    inner: Rc<Inner>,
    id: OpId,
    state: Rc<State>,
}

struct State {
    over: Cell<bool>,
    /// The last handle of the duplicate: gone, it is closed.
    held: RefCell<Option<Rc<LocalDescriptor>>>,
}

/// Lets a callback end its own watch.
pub struct WatchControl {
    state: Rc<State>,
}

impl WatchControl {
    /// No further call after this one.
    pub fn end(&self) {
        self.state.over.set(true);
    }
}

impl Watch {
    /// Whether it still is armed.
    pub fn is_active(&self) -> bool {
        !self.state.over.get()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.state.over.set(true);
        drop(self.state.held.take());
        self.inner.abandon(self.id);
    }
}

impl Proactor {
    /// Calls `callback` inside `poll` whenever the descriptor is ready, with what was seen: data
    /// that is still readable is reported with, not after, a hang-up. `Err` is the end of the
    /// watch.
    ///
    /// # Errors
    ///
    /// InvalidArgument for descriptors without readiness (regular files, memfds); Exhausted.
    pub fn watch(
        &self,
        fd: impl AsFd,
        interest: Interest,
        mut callback: impl FnMut(Result<Interest>, &WatchControl) + 'static,
    ) -> Result<Watch> {
        const NAME: &str = "watch";
        let local = self.local();
        let refused = |error: std::io::Error| Error::from_io(NAME, &error);
        let own = fd.as_fd().try_clone_to_owned().map_err(refused)?;
        let class = calls::classify(own.as_raw_fd()).map_err(refused)?;
        let descriptor = local.own(NAME, own, class)?;
        let op = PollMany { desc: Named::desc(&descriptor), interest };
        let held = RefCell::new(Some(descriptor));
        let state = Rc::new(State { over: Cell::new(false), held });
        let control = WatchControl { state: state.clone() };
        let inner = local.inner.clone();
        let ending = inner.clone();
        let id_cell = Rc::new(Cell::new(None::<OpId>));
        let id_inside = id_cell.clone();
        let id = Multi::<Local, PollMany>::new(&local, op).on_each(move |next| {
            if control.state.over.get() {
                return;
            }
            match next {
                Next::Item(seen) => callback(Ok(seen), &control),
                Next::End(Err(error)) => {
                    control.state.over.set(true);
                    callback(Err(error), &control);
                }
                Next::End(Ok(())) => control.state.over.set(true),
            }
            if control.state.over.get() {
                drop(control.state.held.take());
                if let Some(id) = id_inside.get() {
                    ending.abandon(id);
                }
            }
        })?;
        let id = id.within(inner.owner).expect("named by this proactor");
        id_cell.set(Some(id));
        Ok(Watch { inner, id, state })
    }
}
