//! Relays: whenever a source becomes ready a sink is signalled, by the loop and without a callback
//! of the user's in between.
//!
//! # Sources and sinks
//!
//! A source is a descriptor that becomes readable, or a notification whose epoch moves. A sink is
//! an eventfd that is written to, or a notification that is signalled. A relay reports *news*: it
//! does not read its source, and several events that come faster than the loop turns may fire it
//! once.
//!
//! It is active as soon as [`register`](NewRelay::register) returns: what happens from then on
//! fires it in a later poll, and a descriptor that is readable already does too. After
//! [`unregister`](Relay::unregister), which is the same as dropping it, it never fires again, not
//! even for what was on its way. All of this is on the proactor's thread.
//!
//! # Life
//!
//! *Active*, then one of three ends, from which it never fires again:
//!
//! - *done*: it was one-shot and has fired;
//! - *faulted*: the source failed, the wait for it ended although nobody asked (cancelled, shut
//!   down), it could not be armed again, or the sink refused; an error-sensitive relay also when
//!   the source reports an error or hang-up, which then does not fire. The fault is told once, to
//!   [`on_fault`](NewRelay::on_fault), and stays readable as [`Relay::fault`];
//! - *unregistered*.
//!
//! # Who owns what
//!
//! The source's wait is a watch (see `watch.rs`) or a wait operation, placed again after each
//! signal; both hold the [`Core`] with sink and state, so a relay that goes while something is on
//! its way leaves nothing dangling. A descriptor is the relay's own: a duplicate of the caller's,
//! or the caller's if he gives it away; it is closed when the relay ends and the kernel has let go
//! of it.
//!
//! A notification as source occupies a helper thread where io_uring has no futex operations; see
//! [`Proactor::futex_wait`].

use super::notification::Notification;
use super::watch::{self, Watch};
use crate::backend::OpId;
use crate::engine::Outcome;
use crate::engine::deadlines::NEVER_NS;
use crate::engine::slots::Notify;
use crate::error::{Error, ErrorKind, Result};
use crate::io::Local;
use crate::op::{Interest, Op, Operation, Stored, WaitNotification};
use crate::proactor::Proactor;
use crate::sys::calls;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};

const NAME: &str = "relay";

/// What fires a [`Relay`].
#[derive(Debug)]
pub struct RelaySource(Source);

#[derive(Debug)]
enum Source {
    Descriptor(OwnedFd),
    Notification(Notification, u32),
}

impl RelaySource {
    /// A descriptor that becomes readable. It is duplicated: the caller may close his.
    ///
    /// # Errors
    ///
    /// Exhausted when there is no descriptor left.
    pub fn readable(fd: impl AsFd) -> Result<RelaySource> {
        let own = fd.as_fd().try_clone_to_owned().map_err(|error| Error::from_io(NAME, &error))?;
        Ok(RelaySource(Source::Descriptor(own)))
    }

    /// A descriptor that becomes readable, owned by the relay from now on and closed with it.
    pub fn owned(fd: impl Into<OwnedFd>) -> RelaySource {
        RelaySource(Source::Descriptor(fd.into()))
    }

    /// A notification whose epoch moves on from what it is now.
    pub fn notification(notification: &Notification) -> RelaySource {
        RelaySource::notification_after(notification, notification.epoch())
    }

    /// A notification whose epoch is, or becomes, another than `seen`.
    pub fn notification_after(notification: &Notification, seen: u32) -> RelaySource {
        RelaySource(Source::Notification(notification.clone(), seen))
    }
}

/// What a [`Relay`] signals.
#[derive(Debug)]
pub struct RelaySink(Sink);

#[derive(Debug)]
enum Sink {
    Eventfd(OwnedFd, u64),
    Notification(Notification, u32),
}

impl RelaySink {
    /// An eventfd, to which `value` is added (`eventfd(2)`). It is duplicated: the caller may close
    /// his. A counter with no room for it is a fault; the loop never blocks on one.
    ///
    /// # Errors
    ///
    /// InvalidArgument for another kind of descriptor and for a value of zero or 2⁶⁴−1; Exhausted.
    pub fn eventfd(fd: impl AsFd, value: u64) -> Result<RelaySink> {
        let unfit = |message| Err(Error::new(NAME, ErrorKind::InvalidArgument, message));
        if value == 0 || value == u64::MAX {
            return unfit("an eventfd takes 1 to 2^64 - 2");
        }
        if !calls::is_eventfd(fd.as_fd().as_raw_fd()) {
            return unfit("the sink is no eventfd; watch the source and write to it yourself");
        }
        let own = fd.as_fd().try_clone_to_owned().map_err(|error| Error::from_io(NAME, &error))?;
        Ok(RelaySink(Sink::Eventfd(own, value)))
    }

    /// A notification, of which at most `count` sleepers are woken each time.
    pub fn notification(notification: &Notification, count: u32) -> RelaySink {
        RelaySink(Sink::Notification(notification.clone(), count))
    }
}

impl Sink {
    fn signal(&self) -> Result<()> {
        match self {
            Sink::Notification(notification, count) => {
                notification.signal(*count);
                Ok(())
            }
            Sink::Eventfd(fd, value) => match calls::add_to_eventfd(fd.as_raw_fd(), *value) {
                0.. => Ok(()),
                errno => Err(Error::from_errno(NAME, -errno).with_message(
                    "the sink's counter has no room; read the eventfd and register again",
                )),
            },
        }
    }
}

/// Called once with the fault of a relay.
type OnFault = Box<dyn FnOnce(Error)>;

enum State {
    Active,
    Done,
    Faulted(Error),
}

/// What a relay and its source's wait share.
struct Core {
    sink: Sink,
    is_persistent: bool,
    is_sensitive: bool,
    state: RefCell<State>,
    on_fault: RefCell<Option<OnFault>>,
    fired: Cell<u64>,
}

impl Core {
    fn is_active(&self) -> bool {
        matches!(*self.state.borrow(), State::Active)
    }

    fn end(&self, state: State) {
        *self.state.borrow_mut() = state;
    }

    fn fire(&self) {
        if !self.is_active() {
            return;
        }
        match self.sink.signal() {
            Err(error) => self.fault(error),
            Ok(()) => {
                self.fired.set(self.fired.get() + 1);
                if !self.is_persistent {
                    self.end(State::Done);
                }
            }
        }
    }

    /// Told once; the user's code runs with nothing borrowed.
    fn fault(&self, error: Error) {
        if !self.is_active() {
            return;
        }
        self.end(State::Faulted(error.clone()));
        let on_fault = self.on_fault.borrow_mut().take();
        if let Some(on_fault) = on_fault {
            on_fault(error);
        }
    }

    fn seen(&self, seen: Result<Interest>) {
        match seen {
            Err(error) => self.fault(error),
            Ok(seen) if self.is_sensitive && seen.failed() => {
                let message = format!("the source reported {seen:?}; it does not fire any more");
                self.fault(Error::new(NAME, ErrorKind::Disconnected, message));
            }
            Ok(_) => self.fire(),
        }
    }
}

/// A relay about to be registered; see [`Proactor::relay`].
#[must_use = "it does nothing until it is registered"]
pub struct NewRelay {
    local: Local,
    source: Source,
    sink: Sink,
    is_persistent: bool,
    is_sensitive: bool,
    on_fault: Option<OnFault>,
}

impl NewRelay {
    /// It fires each time, until it is unregistered; without this, once.
    pub fn persistent(mut self) -> NewRelay {
        self.is_persistent = true;
        self
    }

    /// An error or hang-up of the source is a fault; without this it fires like anything else.
    pub fn error_sensitive(mut self) -> NewRelay {
        self.is_sensitive = true;
        self
    }

    /// Called once if the relay becomes faulted, inside of poll; everything but polling is allowed.
    pub fn on_fault(mut self, callback: impl FnOnce(Error) + 'static) -> NewRelay {
        self.on_fault = Some(Box::new(callback));
        self
    }

    /// Active from here on.
    ///
    /// # Errors
    ///
    /// InvalidArgument for a source without readiness (regular files, memfds, directories);
    /// Exhausted; ShutDown. What it was made of is dropped: an owned descriptor is closed.
    pub fn register(self) -> Result<Relay> {
        let core = Rc::new(Core {
            sink: self.sink,
            is_persistent: self.is_persistent,
            is_sensitive: self.is_sensitive,
            state: RefCell::new(State::Active),
            on_fault: RefCell::new(self.on_fault),
            fired: Cell::new(0),
        });
        let armed = match self.source {
            Source::Descriptor(own) => {
                Armed::Watch { _watch: watch_source(&self.local, own, &core)? }
            }
            Source::Notification(notification, seen) => {
                let (local, id) = (self.local, Cell::new(None));
                let waiting = Waiting { local, notification, core: Rc::downgrade(&core), id };
                let waiting = Rc::new(waiting);
                waiting.arm(seen)?;
                Armed::Wait(waiting)
            }
        };
        Ok(Relay { armed, core })
    }
}

impl fmt::Debug for NewRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewRelay({:?} to {:?})", self.source, self.sink)
    }
}

fn watch_source(local: &Local, own: OwnedFd, core: &Rc<Core>) -> Result<Watch> {
    let renamed = |error: Error| error.named(NAME);
    let descriptor = watch::take(local, own).map_err(renamed)?;
    let inside = core.clone();
    watch::arm(local, descriptor, Interest::READABLE, move |seen, control| {
        inside.seen(seen);
        if !inside.is_active() {
            control.end();
        }
    })
    .map_err(renamed)
}

/// The wait for a notification, one operation after the other.
struct Waiting {
    local: Local,
    notification: Notification,
    /// Gone with the relay: then nothing is told.
    core: Weak<Core>,
    id: Cell<Option<OpId>>,
}

impl Waiting {
    fn arm(self: &Rc<Self>, seen: u32) -> Result<()> {
        let waiting = self.clone();
        let told: Box<dyn FnOnce(Option<Op>, Outcome)> =
            Box::new(move |op, outcome| waiting.told(op, outcome));
        let op = WaitNotification::new(&self.notification, seen);
        // The default timeout is for operations that are expected to end.
        let placed = self.local.place_op(op, Notify::Once(told), Some(NEVER_NS));
        self.id.set(Some(placed.map_err(|failed| failed.into_error().named(NAME))?));
        Ok(())
    }

    fn told(self: &Rc<Self>, mut op: Option<Op>, outcome: Outcome) {
        self.id.set(None);
        let Some(core) = self.core.upgrade() else { return };
        let Some(op) = WaitNotification::take(&mut op) else { return };
        let armed = match op.finish(outcome, &self.local) {
            Ok(epoch) => {
                core.fire();
                match core.is_active() {
                    true => self.arm(epoch),
                    false => Ok(()),
                }
            }
            Err(failed) => Err(failed.into_error().named(NAME)),
        };
        if let Err(error) = armed {
            core.fault(error);
        }
    }
}

enum Armed {
    Watch { _watch: Watch },
    Wait(Rc<Waiting>),
}

/// A registered relay. Dropping it unregisters: it does not fire again. `!Send`.
#[must_use = "dropping a relay unregisters it"]
pub struct Relay {
    armed: Armed,
    core: Rc<Core>,
}

impl Relay {
    /// Whether it can still fire.
    pub fn is_active(&self) -> bool {
        self.core.is_active()
    }

    /// Why it ended although nobody unregistered it and it was not done.
    pub fn fault(&self) -> Option<Error> {
        match &*self.core.state.borrow() {
            State::Faulted(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// How many times it has signalled its sink.
    pub fn fired(&self) -> u64 {
        self.core.fired.get()
    }

    /// Ends it, in whatever state it is.
    pub fn unregister(self) {}
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.core.state.borrow() {
            State::Active => "active".to_owned(),
            State::Done => "done".to_owned(),
            State::Faulted(error) => format!("faulted: {error}"),
        };
        write!(f, "Relay(to {:?}, {state}, fired {})", self.core.sink, self.fired())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.core.is_active() {
            self.core.end(State::Done);
        }
        if let Armed::Wait(waiting) = &self.armed
            && let Some(id) = waiting.id.take()
        {
            waiting.local.inner.abandon(id);
        }
    }
}

impl Proactor {
    /// Signals `sink` when `source` is ready, inside of poll: once, or each time if it is
    /// [persistent](NewRelay::persistent). Nothing happens before it is
    /// [registered](NewRelay::register).
    pub fn relay(&self, source: RelaySource, sink: RelaySink) -> NewRelay {
        NewRelay {
            local: self.local(),
            source: source.0,
            sink: sink.0,
            is_persistent: false,
            is_sensitive: false,
            on_fault: None,
        }
    }
}
