//! What is waited for: time, semaphores, events, messages.
//!
//! Waits for futex words, notifications and relays between proactors belong here.

use super::elsewhere::Shared;
use super::world::World;
use dataplane::fence::{Failure, Semaphore};
use dataplane::{Proactor, Stats, Wait};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

pub(super) fn nop(world: &mut World<'_>) -> Result<(), String> {
    world.submit(world.io.nop());
    Ok(())
}

/// Never before its time, whenever it is told of.
pub(super) fn timer(world: &mut World<'_>) -> Result<(), String> {
    let at = Instant::now() + world.dice.micros(500);
    match world.dice.one_in(4) {
        true => world.hold(world.io.sleep_until(at)),
        false => world.tell_with(world.io.sleep_until(at), move |()| Instant::now() >= at),
    }
    Ok(())
}

/// A value soon to be reached, or reached.
fn soon(world: &mut World<'_>) -> (Semaphore, u64) {
    let semaphore = world.semaphore();
    let value = semaphore.value().unwrap_or(0);
    let ahead = world.dice.below(4) as u64;
    (semaphore, value + ahead)
}

pub(super) fn semaphore(world: &mut World<'_>) -> Result<(), String> {
    let (semaphore, value) = soon(world);
    let request = world.io.wait_semaphore(&semaphore, value);
    match world.dice.one_in(4) {
        true => world.hold(request),
        false => world.tell_with(request, move |seen| seen >= value),
    }
    Ok(())
}

pub(super) fn several_semaphores(world: &mut World<'_>) -> Result<(), String> {
    let count = 1 + world.dice.below(4);
    let list: Vec<(Semaphore, u64)> = (0..count).map(|_| soon(world)).collect();
    let list: Vec<(&Semaphore, u64)> = list.iter().map(|(one, value)| (one, *value)).collect();
    match world.dice.one_in(2) {
        true => world.submit(world.io.wait_all_semaphores(&list)),
        false => world.submit(world.io.wait_any_semaphore(&list)),
    }
    Ok(())
}

/// By an operation, or from here; a value that is not above is refused.
pub(super) fn signal(world: &mut World<'_>) -> Result<(), String> {
    let (semaphore, value) = soon(world);
    match world.dice.one_in(2) {
        true => world.submit(world.io.signal_semaphore(&semaphore, value)),
        false => drop(semaphore.signal(value)),
    }
    Ok(())
}

/// Another takes its place; whoever waits for the one before hears of its failure, or waits on.
pub(super) fn replace_semaphore(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(Shared::SEMAPHORES);
    let before = world.shared.replace_semaphore(at);
    if world.dice.one_in(2) {
        before.fail(Failure::new("replaced"));
    }
    world.books.did("semaphores replaced");
    Ok(())
}

pub(super) fn event(world: &mut World<'_>) -> Result<(), String> {
    if world.waiters.len() < 4 {
        let event = world.events.take().map_err(|error| error.to_string())?;
        let waiter = world.io.event_waiter(&event).map_err(|error| error.to_string())?;
        world.books.did("event waiters");
        world.waiters.push((event, waiter));
    }
    let at = world.dice.below(world.waiters.len());
    match world.dice.below(16) {
        0 => drop(world.waiters.swap_remove(at)),
        1..=8 => world.waiters[at].0.set(),
        _ => world.submit(world.waiters[at].1.wait()),
    }
    Ok(())
}

/// What was sent to a proactor's handler, and what it was given.
pub(super) struct Messages {
    handled: Rc<Cell<u64>>,
    /// Sent for certain, and perhaps: by operations that ended otherwise than well.
    sent: Rc<Cell<u64>>,
    unsure: u64,
    begun: Stats,
}

impl Messages {
    pub(super) fn of(io: &Proactor) -> Messages {
        let (handled, sent) = (Rc::default(), Rc::default());
        Messages { handled, sent, unsure: 0, begun: io.stats() }
    }

    /// Removes the handler, once everything that was sent has arrived.
    ///
    /// # Errors
    ///
    /// When a message was lost, or came twice.
    pub(super) fn end(self, io: &Proactor) -> Result<(), String> {
        for _ in 0..8 {
            io.poll(Wait::Now).map_err(|error| error.to_string())?;
        }
        io.remove_message_handler().map_err(|error| error.to_string())?;
        let now = io.stats();
        let (handled, sent) = (self.handled.get(), self.sent.get());
        let given = now.messages - self.begun.messages;
        let arrived = given + now.unhandled_messages - self.begun.unhandled_messages;
        match handled == given && sent <= arrived {
            true => Ok(()),
            false => Err(format!(
                "messages: {sent} sent, {} more perhaps; {arrived} arrived, of which {given} were \
                 given to a handler, which saw {handled}",
                self.unsure
            )),
        }
    }
}

/// To oneself, to the other proactor, or from it.
pub(super) fn message(world: &mut World<'_>) -> Result<(), String> {
    let (own, other) = (world.io.handle(), world.peer.handle());
    let sent = world.messages.sent.clone();
    match world.dice.below(8) {
        0..=3 => {
            world.messages.unsure += 1;
            let request = world.io.send_message(&own, 7);
            world.tell_with(request, move |()| {
                sent.set(sent.get() + 1);
                true
            });
        }
        4 => world.submit(world.io.send_message(&other, 8)),
        5 => {
            world.books.did("messages");
            sent.set(sent.get() + u64::from(own.message(9).is_ok()));
        }
        6 => drop(other.message(10)),
        _ => {
            world.messages.unsure += 1;
            world.peer.send_message(&own);
        }
    }
    Ok(())
}

/// Replaces the handler, or removes it for a while.
pub(super) fn handler(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("message handlers");
    if world.dice.one_in(8) {
        return world.io.remove_message_handler().map_err(|error| error.to_string());
    }
    let (handled, live) = (world.messages.handled.clone(), world.live.clone());
    let handler = move |_payload| {
        let _live = &live;
        handled.set(handled.get() + 1);
    };
    world.io.on_message(handler).map_err(|error| error.to_string())
}
