//! Tasks, contexts, cancels, looks, drops, and what is done to the other proactor.

use crate::soak::held::{Held, Owed, awaited};
use crate::soak::world::World;
use dataplane::{ErrorKind, Nop, Wait};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

/// Tasks that wait to be woken at once.
const GATES: usize = 16;

/// Opens for one task, which is woken from here or from the other thread.
pub(in crate::soak) struct Gate {
    waker: Rc<RefCell<Option<Waker>>>,
    open: Rc<Cell<bool>>,
}

impl Gate {
    /// Lets its task go on.
    pub(in crate::soak) fn open(self) {
        self.open.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A task that awaits a few operations; joined, detached, aborted, or dropped by the end.
pub(super) fn spawn(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("tasks");
    if world.dice.one_in(4) {
        return gated(world);
    }
    let (books, live) = (world.books.clone(), world.live.clone());
    let (nop, at) = (world.io.nop(), Instant::now() + world.dice.micros(300));
    let timer = world.io.sleep_until(at);
    let (semaphore, value) = (world.semaphore(), world.dice.below(3) as u64);
    let value = semaphore.value().unwrap_or(0) + value;
    let wait = world.io.wait_semaphore(&semaphore, value).timeout(world.dice.micros(2000));
    let task = world.io.spawn(async move {
        let _live = live;
        awaited(books.clone(), nop).await;
        awaited(books.clone(), timer).await;
        awaited(books, wait).await;
    });
    match world.dice.below(4) {
        0 => task.detach(),
        1 => world.keep(Held::new(task, Vec::new())),
        _ => world.keep_task(task),
    }
    Ok(())
}

fn gated(world: &mut World<'_>) -> Result<(), String> {
    if world.gates.len() >= GATES {
        return wake(world);
    }
    let gate = Gate { waker: Rc::default(), open: Rc::default() };
    let (waker, open, live) = (gate.waker.clone(), gate.open.clone(), world.live.clone());
    let waiting = poll_fn(move |cx| {
        let _live = &live;
        if open.get() {
            return Poll::Ready(());
        }
        waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    });
    world.gates.push(gate);
    let task = world.io.spawn(waiting);
    world.keep_task(task);
    Ok(())
}

/// Opens a gate, and has its task woken here or elsewhere.
pub(super) fn wake(world: &mut World<'_>) -> Result<(), String> {
    if world.gates.is_empty() {
        return Ok(());
    }
    let at = world.dice.below(world.gates.len());
    let gate = world.gates.swap_remove(at);
    match world.dice.one_in(2) {
        true => gate.open(),
        false => {
            gate.open.set(true);
            gate.waker.take().into_iter().for_each(|waker| world.shared.wake_there(waker));
        }
    }
    world.books.did("tasks woken");
    Ok(())
}

pub(super) fn abort(world: &mut World<'_>) -> Result<(), String> {
    if !world.tasks.is_empty() {
        let at = world.dice.below(world.tasks.len());
        world.tasks.swap_remove(at).abort();
        world.books.did("tasks aborted");
    }
    Ok(())
}

/// Handlers and operations of a context, which completes some on the spot.
pub(super) fn in_context(world: &mut World<'_>) -> Result<(), String> {
    let (books, live) = (world.books.clone(), world.live.clone());
    let (context, io) = (world.context.handle(), world.io.clone());
    let socket = world.socket();
    let lease = world.lease();
    books.did("handlers");
    let handler = move || {
        let _live = live.clone();
        let Some(lease) = lease else { return };
        let receiving = socket.recv(lease).timeout(std::time::Duration::from_micros(200));
        let nop = io.nop();
        drop(context.spawn(async move {
            let _live = live;
            awaited(books.clone(), receiving).await;
            awaited(books, nop).await;
        }));
    };
    match world.dice.below(3) {
        0 => world.context.post(handler),
        1 => world.context.dispatch(handler),
        _ => {
            let owed = Owed::new(world.books.enter::<Nop>());
            let task = world.context.submit(world.io.nop(), move |ended| match ended {
                Err(failed) if failed.kind() == ErrorKind::Exhausted => owed.refused(),
                ended => owed.told(ended.is_ok()),
            });
            world.keep_task(task);
        }
    }
    if world.dice.one_in(32) {
        world.context.stop();
    }
    world.context.restart();
    Ok(())
}

pub(super) fn cancel_one(world: &mut World<'_>) -> Result<(), String> {
    if world.dice.one_in(2) && !world.held.is_empty() {
        let at = world.dice.below(world.held.len());
        world.held[at].cancel();
    } else if !world.ids.is_empty() {
        let at = world.dice.below(world.ids.len());
        // It may be over by now.
        let _ = world.io.cancel(world.ids.swap_remove(at));
    }
    world.books.did("cancels");
    Ok(())
}

pub(super) fn cancel_descriptor(world: &mut World<'_>) -> Result<(), String> {
    // It may be closed by now.
    let _ = world.socket().cancel_all();
    world.books.did("cancels of a descriptor");
    Ok(())
}

pub(in crate::soak) fn cancel_all(world: &mut World<'_>) -> Result<(), String> {
    world.io.cancel_all().map_err(|error| error.to_string())?;
    world.books.did("cancels of all");
    world.io.poll(Wait::Now).map_err(|error| error.to_string())?;
    world.forgive();
    Ok(())
}

/// Asks a few handles whether they are over.
pub(super) fn look(world: &mut World<'_>) -> Result<(), String> {
    for _ in 0..4 {
        if world.held.is_empty() {
            return Ok(());
        }
        let at = world.dice.below(world.held.len());
        if world.held[at].is_over() {
            drop(world.held.swap_remove(at));
        }
    }
    Ok(())
}

pub(super) fn drop_one(world: &mut World<'_>) -> Result<(), String> {
    if !world.held.is_empty() {
        let at = world.dice.below(world.held.len());
        drop(world.held.swap_remove(at));
    }
    Ok(())
}

/// From this thread, as from any: run inside the next poll, or its answer is dropped.
pub(super) fn call(world: &mut World<'_>) -> Result<(), String> {
    let called = world.io.handle().call(|io| io.stats().in_flight);
    world.books.did("calls");
    match world.dice.one_in(2) {
        true => drop(called),
        false => {
            world.cx.block_on(called).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

pub(super) fn on_peer(world: &mut World<'_>) -> Result<(), String> {
    world.peer.step(&mut world.dice, &world.shared)
}

/// Shuts the other proactor down in the middle of whatever it does, and makes a fresh one.
pub(super) fn replace_peer(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("shutdowns in the middle");
    let wait = match world.dice.below(3) {
        0 => Wait::Until(Instant::now() + world.dice.micros(300)),
        _ => Wait::Now,
    };
    let dropped = world.dice.one_in(3);
    world.peer.replace(wait, dropped)
}
