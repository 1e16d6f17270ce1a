//! Signals of the process: sent to itself, told to callbacks and streams, owned and given back.

use crate::soak::world::{LIMIT, World};
use dataplane::{ErrorKind, Proactor, Signal, Signals, Subscription};
use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::Pid;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Subscriptions at once.
const SUBSCRIPTIONS: usize = 4;
/// What is sent and owned.
pub(in crate::soak) const OURS: [Signal; 2] = [Signal::User1, Signal::User2];

/// The signals of a world.
#[derive(Default)]
pub(in crate::soak) struct Signaling {
    /// None while there was no room to watch them; not active after everything was cancelled.
    owner: Option<Signals>,
    subscriptions: Vec<Subscription>,
}

fn text(error: dataplane::Error) -> String {
    error.to_string()
}

fn send(signal: Signal) -> Result<(), String> {
    let number = Number::try_from(signal.number()).map_err(|errno| errno.to_string())?;
    kill(Pid::this(), number).map_err(|errno| format!("a signal to itself: {errno}"))
}

/// Owns the signals; None without room.
fn own(io: &Proactor) -> Result<Option<Signals>, String> {
    match io.signals(OURS) {
        Ok(owner) => Ok(Some(owner)),
        Err(error) if error.kind() == ErrorKind::Exhausted => Ok(None),
        Err(error) => Err(text(error)),
    }
}

/// Whether each signal comes, when nobody else owns them.
///
/// # Errors
///
/// When one does not come.
pub(in crate::soak) fn arrive(io: &Proactor) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    let wait = |what: &str| match Instant::now() >= deadline {
        true => Err(format!("{what} in vain")),
        false => io.poll(Duration::from_millis(1)).map(drop).map_err(text),
    };
    let owner = loop {
        match own(io)? {
            Some(owner) => break owner,
            None => wait("waited for room to watch signals")?,
        }
    };
    for signal in OURS {
        let told = Rc::new(Cell::new(false));
        let inside = told.clone();
        let _last = owner.on(signal, move |_| inside.set(true)).map_err(text)?;
        send(signal)?;
        while !told.get() {
            wait("waited for a signal")?;
        }
    }
    Ok(())
}

pub(super) fn raise(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("signals sent");
    send(OURS[world.dice.below(OURS.len())])
}

/// By a callback, or by a task with a stream; or one less.
pub(super) fn subscribe(world: &mut World<'_>) -> Result<(), String> {
    let (books, live) = (world.books.clone(), world.live.clone());
    let owner = world.signaling.owner.as_ref().filter(|owner| owner.is_active());
    let Some(owner) = owner else { return replace(world) };
    if world.signaling.subscriptions.len() >= SUBSCRIPTIONS {
        let at = world.dice.below(SUBSCRIPTIONS);
        drop(world.signaling.subscriptions.swap_remove(at));
        return Ok(());
    }
    if world.dice.one_in(4) {
        let mut stream = owner.stream(OURS).map_err(text)?;
        let mut left = world.dice.below(8);
        let task = world.io.spawn(async move {
            let _live = live;
            while left > 0 && stream.next().await.is_some() {
                left -= 1;
                books.did("signals from the system");
            }
        });
        world.keep_task(task);
        return Ok(());
    }
    let signal = OURS[world.dice.below(OURS.len())];
    let callback = move |_: &_| {
        let _live = &live;
        books.did("signals from the system");
    };
    let subscription = owner.on(signal, callback).map_err(text)?;
    world.signaling.subscriptions.push(subscription);
    Ok(())
}

/// Gives them back, with what is pending, and takes them again.
pub(super) fn replace(world: &mut World<'_>) -> Result<(), String> {
    let Signaling { owner, subscriptions } = std::mem::take(&mut world.signaling);
    match world.dice.one_in(2) {
        true => drop((owner, subscriptions)),
        false => drop((subscriptions, owner)),
    }
    world.signaling.owner = own(world.io)?;
    world.books.did("signals owned");
    Ok(())
}
