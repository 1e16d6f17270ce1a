//! Messages: 64 bits from anywhere to the handler of a proactor.
//!
//! A message is a number and nothing else; what it means is between its sender and the handler.
//! It stands in a queue of its own beside the inbox ([`Options::messages`] many at most) until the
//! poll owner hands it to the handler, inside `poll` with nothing borrowed. Whoever queued it
//! announces it as everything else that other threads bring, so a sleeping loop costs its sender
//! one `write(2)` and a busy one none.
//!
//! # What is promised
//!
//! * From any thread, and from a signal handler: [`Handle::message`] is a push and an
//!   announcement, both async-signal-safe, and its error allocates nothing.
//! * Messages of one sender arrive in the order of sending; those of several are in some order. The
//!   operation form sends when it is submitted, so that its place in that order is known.
//! * Ok means queued. The handler gets it in a later poll, at most [`PER_TURN`] in one turn of the
//!   loop; what arrives while there is no handler is counted ([`Stats::unhandled_messages`]), and
//!   so goes what a proactor that shuts down has not handed over yet.
//! * A full queue is an error that a later try clears; a proactor that is gone is one for good.
//! * A message is never mistaken for a completion: it does not pass the queue that completions
//!   come by, and no part of it names an operation.
//!
//! # Why not MSG_RING
//!
//! The kernel can post a completion to another ring (`io_uring_prep_msg_ring(3)`). It would serve
//! one of three backends, and not a signal handler; a sender can write any result and user data it
//! likes, so that only a tag keeps a message from being taken for a completion; a target whose
//! completion queue is full or which is gone gives EOVERFLOW or EBADFD afterwards, to be turned
//! back into an order per sender.
//!
//! Nor is it faster. Measured from one thread to another on two busy processors, in ns a message:
//! one at a time both cost a wake (13,500 to 17,300 by ring, 11,500 to 17,300 by queue); sent
//! singly with up to 4096 under way 2,700 to 4,500 against 330 to 510; by 64 to an enter, 660 to
//! 1,900 against 260 to 540. The ring was ahead where 64 are sent and then awaited, one enter and
//! one wake for all of them (910 to 1,600), while every push woke a loop that had fallen asleep
//! again (6,700 to 10,400): that is what [`Options::spin`] is for, see the head of
//! `proactor/spin.rs`.
//!
//! [`Options::messages`]: crate::Options::messages
//! [`Options::spin`]: crate::Options::spin
//! [`Stats::unhandled_messages`]: crate::Stats::unhandled_messages

use super::handle::Handle;
use super::inbox;
use crate::engine::{Engine, Fire};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Local;
use crate::io::request::Request;
use crate::op::Message;
use crate::proactor::Proactor;
use std::fmt;

/// Most messages handed over in one turn of the loop.
pub(crate) const PER_TURN: usize = 256;

/// Why a message was not queued. It holds no memory, so that it can be made and dropped in a signal
/// handler; it becomes an [`Error`] where one is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// The target holds as many messages as it may; a try after its next poll may succeed.
    Exhausted,
    /// The target is gone.
    ShutDown,
    /// This process was forked from the one that made the target.
    Forked,
}

impl MessageError {
    /// The kind of the error it becomes.
    pub fn kind(self) -> ErrorKind {
        match self {
            MessageError::Exhausted => ErrorKind::Exhausted,
            MessageError::ShutDown => ErrorKind::ShutDown,
            MessageError::Forked => ErrorKind::Forked,
        }
    }

    fn text(self) -> &'static str {
        match self {
            MessageError::Exhausted => {
                "the target holds as many messages as it may; try again after it has polled, or \
                 raise its Options::messages"
            }
            MessageError::ShutDown => "the target is gone",
            MessageError::Forked => {
                "this process was forked from the one that made the target; make another"
            }
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message: {}", self.text())
    }
}

impl std::error::Error for MessageError {}

impl From<MessageError> for Error {
    fn from(refused: MessageError) -> Error {
        Error::new("message", refused.kind(), refused.text())
    }
}

impl Handle {
    /// Queues a message for the proactor's handler ([`Proactor::on_message`]) and wakes the loop
    /// if it sleeps. Any thread; async-signal-safe: no lock, no allocation, at most one `write(2)`.
    ///
    /// # Errors
    ///
    /// See [`MessageError`].
    pub fn message(&self, payload: u64) -> Result<(), MessageError> {
        self.shared().message(payload)
    }

    /// Sends a message as an operation of this handle's proactor, which may be another than the
    /// target's. It is sent when that proactor takes it out of its inbox.
    pub fn send_message(&self, target: &Handle, payload: u64) -> Request<Handle, Message> {
        Request::new(self, Message::new(target, payload))
    }
}

impl Proactor {
    /// Sends a message as an operation, which takes part in batches. It is sent when it is
    /// submitted; its result says whether the target took it.
    pub fn send_message(&self, target: &Handle, payload: u64) -> Request<Local, Message> {
        Request::over(self.local(), Message::new(target, payload))
    }

    /// Hands messages to `handler` from now on, instead of the one before. It runs inside `poll`
    /// with nothing borrowed, where everything but polling is allowed, also replacing or removing
    /// it: then it is not called again. A handler that panics keeps its place, and the messages
    /// after that one are handed over by the next poll.
    ///
    /// A handler that holds a [`Proactor`] keeps it from ending; let it hold a [`Handle`].
    ///
    /// # Errors
    ///
    /// ShutDown after the end, Forked in a forked child; the handler is dropped.
    pub fn on_message(&self, handler: impl FnMut(u64) + 'static) -> Result<()> {
        self.change_handler(Some(Box::new(handler)))
    }

    /// Removes the handler: messages are counted and forgotten until there is another.
    ///
    /// # Errors
    ///
    /// As [`on_message`](Self::on_message).
    pub fn remove_message_handler(&self) -> Result<()> {
        self.change_handler(None)
    }

    fn change_handler(&self, fresh: Option<Callback>) -> Result<()> {
        const NAME: &str = "message handler";
        // What was there is the user's to drop, with nothing borrowed.
        let mut fresh = fresh;
        let stale = self.inner().with(NAME, |engine| match engine.draining {
            true => Err(inbox::gone(NAME)),
            false => Ok(engine.messages.replace(fresh.take())),
        })?;
        stale.map(drop)
    }
}

type Callback = Box<dyn FnMut(u64)>;

/// The receiving end, on the owner's thread.
#[derive(Default)]
pub(crate) struct Messages {
    callback: Option<Callback>,
    /// How often it was replaced or removed: a handler that did so itself does not come back.
    changes: u64,
    /// Some were left in the queue.
    pub(crate) left: bool,
    pub(crate) handled: u64,
    pub(crate) unhandled: u64,
}

/// The handler while it runs.
pub(crate) struct Running {
    callback: Callback,
    change: u64,
}

impl Running {
    pub(crate) fn call(&mut self, payload: u64) {
        (self.callback)(payload);
    }
}

impl Messages {
    /// Puts another in its place, or none; what was there comes back.
    pub(crate) fn replace(&mut self, fresh: Option<Callback>) -> Option<Callback> {
        self.changes += 1;
        std::mem::replace(&mut self.callback, fresh)
    }

    /// The handler, to be called for one message. None: there is none, and it is counted.
    pub(crate) fn run(&mut self) -> Option<Running> {
        let callback = self.callback.take();
        match callback.is_some() {
            true => self.handled += 1,
            false => self.unhandled += 1,
        }
        Some(Running { callback: callback?, change: self.changes })
    }

    /// The handler has run; it comes back if it was replaced or removed meanwhile.
    pub(crate) fn put_back(&mut self, running: Running) -> Option<Running> {
        if running.change != self.changes {
            return Some(running);
        }
        self.callback = Some(running.callback);
        None
    }
}

impl Engine {
    /// Puts what has arrived on the fire list, as much as one turn may hand over.
    pub(crate) fn take_messages(&mut self) {
        let Some(mut queued) = self.table.shared.messages.consumer() else { return };
        for _ in 0..PER_TURN {
            match queued.pop() {
                Some(payload) => self.fire.push_back(Fire::Message(payload)),
                None => {
                    self.messages.left = false;
                    return;
                }
            }
        }
        self.messages.left = true;
    }

    /// A message was handled; the handler goes back to its place.
    pub(crate) fn message_handled(&mut self, running: Running) {
        self.table.slots.delivered += 1;
        if let Some(stale) = self.messages.put_back(running) {
            self.fire.push_back(Fire::Drop(Box::new(stale)));
        }
    }
}
