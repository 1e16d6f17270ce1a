//! The line of those who wait for room in the inbox: first come, first served.
//!
//! A full inbox hands a command back ([`Shared::send`]). Who would rather wait stands in line with
//! a waker and keeps its command: nothing is submitted before its turn, and going away leaves
//! nothing behind. The front alone may try, and who tries without waiting is refused while
//! somebody stands there.
//!
//! # Why nobody is forgotten
//!
//! The front sleeps with its waker in the line. It put it there after the queue was full, and
//! *then* announced itself on the wake word, so the owner sweeps once more after that; and after
//! every sweep in which the queue has room, which includes every one that took something, the
//! owner wakes the front. Everybody else is woken by the one before: when it is served, refused,
//! or goes away. All of that happens under one short lock, with the wakers run outside of it. A
//! front that was woken and is neither polled nor dropped holds the others up, as in any fair line.
//!
//! When the inbox closes everybody is woken and refused, whatever their place.

use super::inbox::{Command, Refused, Shared};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

/// What became of a command whose sender would wait.
pub(crate) enum Queued {
    /// It is in the inbox.
    Sent,
    /// Not yet: it comes back, and the waker stands at this place.
    Waits(Command, Place),
    /// Never: the proactor is gone.
    Refused(Command),
}

#[derive(Default)]
struct State {
    next: u64,
    /// A waker that was taken to be woken is missing until its owner comes.
    waiting: VecDeque<(Place, Option<Waker>)>,
}

impl State {
    /// Gives a place up; the waker that stood there comes back, to be dropped outside the lock.
    fn leave(&mut self, place: Option<Place>) -> Option<Waker> {
        let at = self.waiting.iter().position(|(other, _)| Some(*other) == place);
        at.and_then(|at| self.waiting.remove(at)).and_then(|(_, waker)| waker)
    }

    /// The waker of whoever is first now.
    fn front(&mut self) -> Option<Waker> {
        self.waiting.front_mut().and_then(|(_, waker)| waker.take())
    }
}

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Line {
    state: Mutex<State>,
    /// Somebody stands in it. Changed under the lock.
    occupied: AtomicBool,
}

impl Line {
    /// No user code runs under the lock, so a poisoned one is in order.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place becomes free, and whoever is first now may try.
    fn end_of_wait(&self, mut state: MutexGuard<'_, State>, place: Option<Place>) {
        let stale = state.leave(place);
        self.occupied.store(!state.waiting.is_empty(), Ordering::Relaxed);
        let next = state.front();
        drop(state);
        drop(stale);
        next.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_occupied(&self) -> bool {
        self.occupied.load(Ordering::Relaxed)
    }

    /// The waker of the front, to be woken: there may be room.
    pub(crate) fn front(&self) -> Option<Waker> {
        self.is_occupied().then(|| self.lock().front()).flatten()
    }

    /// Any waker that stands here: nobody will be served any more.
    pub(crate) fn any(&self) -> Option<Waker> {
        self.lock().waiting.iter_mut().find_map(|(_, waker)| waker.take())
    }
}

impl Shared {
    /// As [`send`](Shared::send), but not past those who wait for room.
    pub(crate) fn send_behind(&self, command: Command) -> Result<(), Refused> {
        match self.line.is_occupied() && !self.is_closed() {
            true => Err(Refused::Full(command)),
            false => self.send(command),
        }
    }

    /// Sends when it is this sender's turn and there is room, or else stands in line: at `place`,
    /// or at the end.
    pub(crate) fn send_in_line(
        &self,
        command: Command,
        place: Option<Place>,
        waker: Waker,
    ) -> Queued {
        let mut state = self.line.lock();
        let front = state.waiting.front().map(|(front, _)| *front);
        let command = match front.is_none() || front == place || self.is_closed() {
            false => command,
            true => match self.send(command) {
                Err(Refused::Full(command)) => command,
                ended => {
                    self.line.end_of_wait(state, place);
                    return match ended {
                        Ok(()) => Queued::Sent,
                        Err(Refused::Full(command) | Refused::Closed(command)) => {
                            Queued::Refused(command)
                        }
                    };
                }
            },
        };
        let (place, stale) = state.stand(place, waker);
        self.line.occupied.store(true, Ordering::Relaxed);
        drop(state);
        drop(stale);
        // The owner may have made room before the waker stood there: it looks once more.
        self.announce();
        Queued::Waits(command, place)
    }

    /// A sender goes away without having sent.
    pub(crate) fn leave_line(&self, place: Place) {
        self.line.end_of_wait(self.line.lock(), Some(place));
    }
}

impl State {
    /// The waker stands at its place, or at the end; the one that stood there comes back.
    fn stand(&mut self, place: Option<Place>, waker: Waker) -> (Place, Option<Waker>) {
        let known = self.waiting.iter_mut().find(|(other, _)| Some(*other) == place);
        if let Some((place, stands)) = known {
            return (*place, stands.replace(waker));
        }
        let place = Place(self.next);
        self.next += 1;
        self.waiting.push_back((place, Some(waker)));
        (place, None)
    }
}
