//! Descriptors that are watched: by callbacks, from another thread, for events, for tasks.

use crate::soak::world::World;
use dataplane::{Event, Interest, IoSource, Token, Trigger, Wait};
use std::rc::Rc;

/// Watches of each sort at once.
const WATCHES: usize = 6;

fn text(error: dataplane::Error) -> String {
    error.to_string()
}

pub(super) fn watch(world: &mut World<'_>) -> Result<(), String> {
    if world.watches.len() >= WATCHES {
        let at = world.dice.below(WATCHES);
        drop(world.watches.swap_remove(at));
        return Ok(());
    }
    let event = Event::new().map_err(text)?;
    let (inside, live) = (event.clone(), world.live.clone());
    let mut left = world.dice.below(20);
    let watching = world.io.watch(&event, Interest::READABLE, move |seen, control| {
        let _live = &live;
        left = left.saturating_sub(1);
        if left == 0 || seen.is_err() {
            control.end();
        }
        inside.reset();
    });
    // Refused when the proactor is full.
    if let Ok(watching) = watching {
        world.books.did("watches");
        world.watches.push((watching, event));
    }
    Ok(())
}

/// As a program on another thread would have it; the other thread registers some too.
pub(super) fn remote_watch(world: &mut World<'_>) -> Result<(), String> {
    if world.remote_watches.len() >= WATCHES {
        let at = world.dice.below(WATCHES);
        let (gone, _event) = world.remote_watches.swap_remove(at);
        match world.dice.one_in(2) {
            true => drop(gone),
            // What it gives is dropped: that takes nothing back.
            false => drop(gone.unregister()),
        }
        return Ok(());
    }
    let event = Event::new().map_err(text)?;
    let inside = event.clone();
    let registering = world.io.handle().watch(&event, Interest::READABLE, move |_, _| {
        inside.reset();
    });
    if world.dice.one_in(4) {
        // Registered and dropped, or never.
        drop(registering);
        return Ok(());
    }
    if let Ok(watching) = world.cx.block_on(registering) {
        world.books.did("remote watches");
        world.remote_watches.push((watching, event));
    }
    Ok(())
}

pub(super) fn readiness(world: &mut World<'_>) -> Result<(), String> {
    let trigger = if world.dice.one_in(2) { Trigger::Edge } else { Trigger::Level };
    let at = world.dice.below(WATCHES);
    let Some((token, _)) = world.tokens.get(at) else {
        let event = Event::new().map_err(text)?;
        if let Ok(token) = world.readiness.register(&event, Interest::READABLE, trigger) {
            world.books.did("readiness registrations");
            world.tokens.push((token, event));
        }
        return Ok(());
    };
    match world.dice.below(4) {
        0 => {
            let (token, _event) = world.tokens.swap_remove(at);
            world.readiness.deregister(token).map_err(text)?;
        }
        1 | 2 => {
            // Refused when the proactor is full; the registration before stays.
            let _ = world.readiness.reregister(*token, Interest::READABLE, trigger);
        }
        _ => await_ready(world, at),
    }
    Ok(())
}

fn await_ready(world: &mut World<'_>, at: usize) {
    let waiting = world.readiness.ready(world.tokens[at].0, Interest::READABLE);
    let (books, live) = (world.books.clone(), world.live.clone());
    let task = world.io.spawn(async move {
        let _live = live;
        if waiting.await.is_ok() {
            books.did("waits for readiness");
        }
    });
    world.keep_task(task);
}

pub(super) fn source(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(WATCHES);
    let Some(source) = world.sources.get(at).cloned() else {
        let event = Event::new().map_err(text)?;
        if let Ok(source) = IoSource::with_interest(&world.readiness, event, Interest::READABLE) {
            world.books.did("sources");
            world.sources.push(Rc::new(source));
        }
        return Ok(());
    };
    if world.dice.one_in(4) {
        drop(world.sources.swap_remove(at));
        return Ok(());
    }
    let (books, live) = (world.books.clone(), world.live.clone());
    let task = world.io.spawn(async move {
        let _live = live;
        let blocked = || std::io::Error::from(std::io::ErrorKind::WouldBlock);
        let take = |event: &Event| event.reset().then_some(()).ok_or_else(blocked);
        if source.io(Interest::READABLE, take).await.is_ok() {
            books.did("takes from sources");
        }
    });
    world.keep_task(task);
    Ok(())
}

/// Something happens on one of the watched descriptors.
pub(super) fn set(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(WATCHES);
    let event = match world.dice.below(4) {
        0 => world.watches.get(at).map(|(_, event)| event),
        1 => world.remote_watches.get(at).map(|(_, event)| event),
        2 => world.tokens.get(at).map(|(_, event)| event),
        _ => world.sources.get(at).map(|source| source.get_ref()),
    };
    if let Some(event) = event {
        event.set();
    }
    Ok(())
}

/// A turn by way of the readiness registrations, most of whose events are taken.
pub(in crate::soak) fn take_events(world: &mut World<'_>) -> Result<(), String> {
    let mut events = Vec::new();
    world.readiness.poll(&mut events, Wait::Now).map_err(text)?;
    let told: Vec<Token> = events.iter().map(|event| event.token).collect();
    for token in told {
        let found = world.tokens.iter().find(|(known, _)| *known == token);
        // The rest belongs to sources.
        if let Some((_, event)) = found
            && !world.dice.one_in(4)
        {
            event.reset();
        }
    }
    Ok(())
}
