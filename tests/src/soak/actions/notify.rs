//! Futex words, notifications, and relays between what becomes ready and what is signalled.
//!
//! The words and notifications are shared with the other thread, which sleeps on them, wakes and
//! signals as well.

use crate::soak::world::World;
use dataplane::{Event, Notification, Relay, RelaySink, RelaySource};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

/// Relays at once.
const RELAYS: usize = 6;

/// The relays of a world.
pub(in crate::soak) struct Notify {
    /// Each with the event that is its source, if one is.
    relays: Vec<(Relay, Option<Event>)>,
    sink: Event,
}

impl Notify {
    pub(in crate::soak) fn new() -> Result<Notify, String> {
        let sink = Event::new().map_err(|error| error.to_string())?;
        Ok(Notify { relays: Vec::new(), sink })
    }
}

pub(super) fn wait_for_word(world: &mut World<'_>) -> Result<(), String> {
    let word = world.shared.word(&mut world.dice);
    let value = word.load(Ordering::Acquire);
    // One that is not there any more ends the wait at once.
    let expected = if world.dice.one_in(8) { value.wrapping_sub(1) } else { value };
    world.submit(world.io.futex_wait(&word, expected));
    Ok(())
}

pub(super) fn wake_word(world: &mut World<'_>) -> Result<(), String> {
    let word = world.shared.word(&mut world.dice);
    if world.dice.one_in(2) {
        word.fetch_add(1, Ordering::Release);
    }
    let count = if world.dice.one_in(4) { u32::MAX } else { 1 + world.dice.below(2) as u32 };
    if world.dice.one_in(4) {
        world.books.did("words woken at once");
        word.wake(count);
        return Ok(());
    }
    world.submit(world.io.futex_wake(&word, count));
    Ok(())
}

/// Never told before the epoch has moved.
pub(super) fn wait_for_notification(world: &mut World<'_>) -> Result<(), String> {
    let notification = world.shared.notification(&mut world.dice);
    let epoch = notification.epoch();
    let seen = if world.dice.one_in(8) { epoch.wrapping_sub(1) } else { epoch };
    let request = world.io.wait_notification(&notification, seen);
    match world.dice.one_in(4) {
        true => world.hold(request),
        false => world.tell_with(request, move |epoch| epoch != seen),
    }
    Ok(())
}

pub(super) fn signal_notification(world: &mut World<'_>) -> Result<(), String> {
    let notification = world.shared.notification(&mut world.dice);
    let count = world.dice.below(3) as u32;
    if world.dice.one_in(4) {
        world.books.did("notifications signalled at once");
        notification.signal_all();
        return Ok(());
    }
    world.submit(world.io.signal_notification(&notification, count));
    Ok(())
}

/// A relay more; one less when there are many.
pub(super) fn relay(world: &mut World<'_>) -> Result<(), String> {
    if world.notify.relays.len() >= RELAYS {
        let at = world.dice.below(RELAYS);
        let (gone, _source) = world.notify.relays.swap_remove(at);
        world.books.did_many("relays fired", gone.fired());
        gone.unregister();
        return Ok(());
    }
    let (source, event) = source(world)?;
    let sink = match world.dice.one_in(2) {
        true => RelaySink::notification(&world.shared.notification(&mut world.dice), 1),
        false => RelaySink::eventfd(&world.notify.sink, 1).map_err(|error| error.to_string())?,
    };
    let live = world.live.clone();
    let mut relay = world.io.relay(source, sink).on_fault(move |_| drop(live));
    if !world.dice.one_in(4) {
        relay = relay.persistent();
    }
    if world.dice.one_in(2) {
        relay = relay.error_sensitive();
    }
    // Refused when the proactor is full.
    if let Ok(relay) = relay.register() {
        world.books.did("relays");
        world.notify.relays.push((relay, event));
    }
    Ok(())
}

fn source(world: &mut World<'_>) -> Result<(RelaySource, Option<Event>), String> {
    match world.dice.below(4) {
        0 => {
            world.books.did("relays from a notification");
            let notification: Notification = world.shared.notification(&mut world.dice);
            Ok((RelaySource::notification(&notification), None))
        }
        1 => {
            // Its peer is gone: a hang-up.
            let (end, _) = UnixStream::pair().map_err(|error| error.to_string())?;
            Ok((RelaySource::owned(end), None))
        }
        _ => {
            let event = Event::new().map_err(|error| error.to_string())?;
            let source = RelaySource::readable(&event).map_err(|error| error.to_string())?;
            Ok((source, Some(event)))
        }
    }
}

/// Something happens at the source of a relay.
pub(super) fn fire(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(RELAYS);
    if let Some((_, Some(event))) = world.notify.relays.get(at) {
        match world.dice.one_in(4) {
            true => drop(event.reset()),
            false => event.set(),
        }
    }
    Ok(())
}
