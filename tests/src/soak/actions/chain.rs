//! What is submitted as one: sequences, linked and made from outcomes, and batches with chains.

use crate::soak::books::Entry;
use crate::soak::held::Held;
use crate::soak::world::World;
use dataplane::operations::Send;
use dataplane::{
    Address, Filled, Flow, Interest, Local, Nop, Operation, Request, Sequence, Ticket,
};
use std::time::Instant;

/// A sequence under construction, and its operations.
struct Chain {
    steps: Sequence,
    entries: Vec<Entry>,
}

impl Chain {
    fn add<O: Operation>(&mut self, world: &World<'_>, request: Request<Local, O>) -> Ticket<O> {
        self.entries.push(world.books.enter::<O>());
        self.steps.add(request)
    }

    /// Adds a step whose outcome nobody will ask for.
    fn put<O: Operation>(&mut self, world: &World<'_>, request: Request<Local, O>) {
        self.add(world, request);
    }

    /// One step of whatever kind.
    fn any(&mut self, world: &mut World<'_>) {
        let socket = world.socket();
        match world.dice.below(13) {
            0 => self.put(world, world.io.nop()),
            1 => {
                let at = Instant::now() + world.dice.micros(100);
                self.put(world, world.io.sleep_until(at));
            }
            2 => self.put(world, socket.ready(Interest::WRITABLE)),
            3 => {
                let semaphore = world.semaphore();
                let value = semaphore.value().unwrap_or(0);
                self.put(world, world.io.wait_semaphore(&semaphore, value));
            }
            4 => {
                let semaphore = world.semaphore();
                let value = semaphore.value().unwrap_or(0) + 1;
                self.put(world, world.io.signal_semaphore(&semaphore, value));
            }
            5 => {
                let offset = world.dice.below(1 << 15) as u64;
                if let Some(lease) = world.lease() {
                    let file = world.file.clone();
                    self.put(world, file.read_at(lease, offset));
                }
            }
            6 => {
                let notification = world.shared.notification(&mut world.dice);
                let seen = notification.epoch();
                self.put(world, world.io.wait_notification(&notification, seen));
            }
            7 => {
                let notification = world.shared.notification(&mut world.dice);
                self.put(world, world.io.signal_notification(&notification, 1));
            }
            8 => {
                let word = world.shared.word(&mut world.dice);
                self.put(world, world.io.futex_wake(&word, 1));
            }
            9 => {
                let unchecked = world.dice.one_in(2);
                let gate = world.fences.last().map(|(_, fence)| match unchecked {
                    true => fence.wait_unchecked(),
                    false => fence.wait(),
                });
                gate.into_iter().for_each(|gate| self.put(world, gate));
            }
            10 => {
                if let Some(lease) = world.lease() {
                    self.put(world, socket.recv(lease));
                }
            }
            _ => {
                let span = world.span();
                self.put(world, socket.send_all(span));
            }
        }
    }

    /// Submits it, with or without an end, and now and then cancels it at once.
    fn submit(self, world: &mut World<'_>) {
        let Chain { steps, entries } = self;
        let steps = match world.dice.below(3) {
            0 => steps.timeout(world.dice.micros(300)),
            1 => steps.deadline(Instant::now() + world.dice.micros(3000)),
            _ => steps,
        };
        match steps.submit() {
            Ok(running) => {
                world.books.did("sequences");
                let held = Held::new(running, entries);
                if world.dice.one_in(16) {
                    held.cancel();
                }
                world.keep(held);
            }
            Err(refused) => {
                drop(refused);
                entries.into_iter().for_each(Entry::refused);
            }
        }
    }
}

fn chain(world: &World<'_>) -> Chain {
    Chain { steps: world.io.sequence(), entries: Vec::new() }
}

pub(super) fn sequence(world: &mut World<'_>) -> Result<(), String> {
    let mut chain = chain(world);
    for _ in 0..1 + world.dice.below(4) {
        chain.any(world);
    }
    chain.submit(world);
    Ok(())
}

/// Receive, and send what came.
pub(super) fn made_sequence(world: &mut World<'_>) -> Result<(), String> {
    let (from, to) = (world.socket(), world.socket());
    let Some(lease) = world.lease() else { return Ok(()) };
    let mut chain = chain(world);
    if world.dice.one_in(2) {
        chain.any(world);
    }
    let received = chain.add(world, from.recv(lease));
    let choice = world.dice.below(4);
    let (live, mut to) = (world.live.clone(), Some(to));
    chain.entries.push(world.books.enter::<Send>());
    chain.steps.add_with(received, move |filled: Filled| {
        let _live = &live;
        let Some(to) = to.take() else { panic!("a maker was called twice") };
        match choice {
            0 => Ok(Flow::Stop),
            1 => Err(failure()),
            _ => Ok(Flow::Run(to.send_all(filled.freeze()))),
        }
    });
    if world.dice.one_in(2) {
        chain.any(world);
    }
    chain.submit(world);
    Ok(())
}

/// Some error of the library, which alone makes them.
fn failure() -> dataplane::Error {
    Address::unix("").expect_err("an empty path is refused")
}

pub(super) fn batch(world: &mut World<'_>) -> Result<(), String> {
    let mut batch = world.io.batch();
    let mut entries = Vec::new();
    let mut tickets = Vec::new();
    for _ in 0..1 + world.dice.below(4) {
        entries.push(world.books.enter::<Nop>());
        let before = tickets.len().checked_sub(1).filter(|_| world.dice.one_in(2));
        let ticket = match before.map(|at| batch.after(&tickets[at], Nop)) {
            Some(Ok(ticket)) => ticket,
            Some(Err(failed)) => return Err(failed.to_string()),
            None => batch.add(Nop),
        };
        tickets.push(ticket);
    }
    // Taken out again, it is as if it had never been in it.
    let extra = batch.add(Nop);
    if batch.take(extra).is_err() {
        return Err("a batch does not give back what was added".to_owned());
    }
    let socket = world.socket();
    let span = world.span();
    let sending = batch.add(socket.send_all(span).into_operation());
    let sent = world.books.enter::<Send>();
    let mut submitted = match batch.submit() {
        Ok(submitted) => submitted,
        Err(refused) => {
            drop(refused);
            entries.into_iter().chain([sent]).for_each(Entry::refused);
            return Ok(());
        }
    };
    world.books.did("batches");
    for (ticket, entry) in tickets.into_iter().zip(entries) {
        match submitted.take(ticket) {
            Ok(submission) if world.dice.one_in(2) => {
                world.keep(Held::new(submission, vec![entry]));
            }
            _ => entry.dropped(),
        }
    }
    match submitted.take(sending) {
        Ok(submission) => world.keep(Held::new(submission, vec![sent])),
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}
