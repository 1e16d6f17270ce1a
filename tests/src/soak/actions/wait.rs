//! What is waited for: time, semaphores, events, fences, messages.

use crate::soak::elsewhere::Shared;
use crate::soak::world::World;
use dataplane::fence::{Failure, Fence, Semaphore};
use dataplane::{Event, Proactor, Stats, Wait};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

/// Links at once.
const LINKS: usize = 4;

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

pub(super) fn semaphore(world: &mut World<'_>) -> Result<(), String> {
    let (semaphore, value) = world.soon();
    let request = world.io.wait_semaphore(&semaphore, value);
    match world.dice.one_in(4) {
        true => world.hold(request),
        false => world.tell_with(request, move |seen| seen >= value),
    }
    Ok(())
}

pub(super) fn several_semaphores(world: &mut World<'_>) -> Result<(), String> {
    let count = 1 + world.dice.below(4);
    let list: Vec<(Semaphore, u64)> = (0..count).map(|_| world.soon()).collect();
    let list: Vec<(&Semaphore, u64)> = list.iter().map(|(one, value)| (one, *value)).collect();
    match world.dice.one_in(2) {
        true => world.submit(world.io.wait_all_semaphores(&list)),
        false => world.submit(world.io.wait_any_semaphore(&list)),
    }
    Ok(())
}

/// By an operation, or from here; a value that is not above is refused.
pub(super) fn signal(world: &mut World<'_>) -> Result<(), String> {
    let (semaphore, value) = world.soon();
    match world.dice.one_in(2) {
        true => world.submit(world.io.signal_semaphore(&semaphore, value)),
        false => drop(semaphore.signal(value)),
    }
    Ok(())
}

/// What one reaches, another does; a chain of them may be a ring.
pub(super) fn link(world: &mut World<'_>) -> Result<(), String> {
    if world.links.len() >= LINKS {
        let at = world.dice.below(LINKS);
        // False when a failure of its source has ended it.
        world.links.swap_remove(at).unlink();
        world.books.did("semaphores unlinked");
        return Ok(());
    }
    let (from, to) = (world.semaphore(), world.semaphore());
    world.links.push(from.link(&to));
    world.books.did("semaphores linked");
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

/// Fences that are events: waited for, and imported into semaphores.
pub(super) fn fence(world: &mut World<'_>) -> Result<(), String> {
    fn of(event: &Event) -> Result<Fence, String> {
        let fd = event.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
        Fence::from_fd(fd).map_err(|refused| refused.to_string())
    }
    if world.fences.len() < 4 {
        let event = Event::new().map_err(|error| error.to_string())?;
        let waiter = world.io.fence_waiter(of(&event)?);
        world.books.did("fence waiters");
        world.fences.push((event, waiter));
    }
    let at = world.dice.below(world.fences.len());
    let (event, waiter) = &world.fences[at];
    match world.dice.below(16) {
        0 => drop(world.fences.swap_remove(at)),
        1..=4 => event.set(),
        5 => drop(event.reset()),
        6..=8 => {
            let drawn = Semaphore::new(0);
            // Refused where there is no room; the fence goes with the refusal.
            if world.io.import_fence(of(event)?, &drawn, 1).is_ok() {
                world.books.did("fences imported");
                world.submit(world.io.wait_semaphore(&drawn, 1));
            }
        }
        9..=11 => world.submit(waiter.wait_unchecked()),
        _ => world.submit(waiter.wait()),
    }
    Ok(())
}

/// A value of a semaphore as a descriptor, and that as the fence of another semaphore.
pub(super) fn export(world: &mut World<'_>) -> Result<(), String> {
    let (from, value) = world.soon();
    let exported = from.export(value, None).map_err(|error| error.to_string())?;
    let fence = Fence::from_fd(exported.into_fd()).map_err(|refused| refused.to_string())?;
    let to = Semaphore::new(0);
    let imported = match world.dice.one_in(4) {
        true => world.io.import_fence_within(fence, &to, 1, world.dice.micros(300)),
        false => world.io.import_fence(fence, &to, 1),
    };
    // Refused where there is no room; the fence goes with the refusal.
    if imported.is_ok() {
        world.books.did("semaphores exported");
        world.submit(world.io.wait_semaphore(&to, 1));
    }
    Ok(())
}

/// What was sent to a proactor's handler, and what it was given.
pub(in crate::soak) struct Messages {
    handled: Rc<Cell<u64>>,
    /// Sent for certain, and perhaps: by operations that ended otherwise than well.
    sent: Rc<Cell<u64>>,
    unsure: u64,
    begun: Stats,
}

impl Messages {
    pub(in crate::soak) fn of(io: &Proactor) -> Messages {
        let (handled, sent) = (Rc::default(), Rc::default());
        Messages { handled, sent, unsure: 0, begun: io.stats() }
    }

    /// Removes the handler, once everything that was sent has arrived.
    ///
    /// # Errors
    ///
    /// When a message was lost, or came twice.
    pub(in crate::soak) fn end(self, io: &Proactor) -> Result<(), String> {
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
pub(in crate::soak) fn handler(world: &mut World<'_>) -> Result<(), String> {
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
