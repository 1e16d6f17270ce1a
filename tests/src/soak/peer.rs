//! A second proactor on the same thread, shut down in the middle and followed by a fresh one.
//!
//! What it is given is meant not to be over by then: waits for semaphores and for bytes that do not
//! come, timers far away, tasks, watches. Shutting down tells every callback, gives every buffer
//! back, drops every task, and leaks nothing; a handle that outlives it gives an error.

use super::books::{Books, Tally};
use super::elsewhere::Shared;
use super::held::{Held, awaited};
use super::world::Dice;
use crate::Cx;
use dataplane::regions::Slab;
use dataplane::{
    Event, Handle, Interest, Local, Operation, Options, Proactor, Relay, RelaySink, RelaySource,
    Request, Socket, Wait, Watch,
};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Slots of its slab.
const SLOTS: usize = 8;
/// Most operations in flight on it.
const OPERATIONS: u32 = 64;
/// Handles kept at once.
const HELD: usize = 12;

struct Life {
    io: Proactor,
    sockets: [Socket; 2],
    watches: Vec<Watch>,
    relays: Vec<Relay>,
}

/// See the head of this file.
pub(super) struct Peer {
    options: Options,
    life: Option<Life>,
    handle: Handle,
    slab: Slab,
    books: Books,
    live: Rc<()>,
    held: Vec<Held>,
}

fn text(error: dataplane::Error) -> String {
    error.to_string()
}

impl Life {
    fn new(options: &Options, live: &Rc<()>) -> Result<Life, String> {
        let io = Proactor::with(options.clone()).map_err(text)?;
        let (one, two) = UnixStream::pair().map_err(|error| error.to_string())?;
        let sockets = [io.adopt_socket(one).map_err(text)?, io.adopt_socket(two).map_err(text)?];
        let live = live.clone();
        io.on_message(move |_| drop(live.clone())).map_err(text)?;
        Ok(Life { io, sockets, watches: Vec::new(), relays: Vec::new() })
    }
}

impl Peer {
    pub(super) fn new(cx: &Cx<'_>) -> Result<Peer, String> {
        let options = cx.options.clone().name("soak-peer").operations(OPERATIONS);
        let live = Rc::default();
        let life = Life::new(&options, &live)?;
        let handle = life.io.handle();
        let (slab, books) = (cx.slab(SLOTS, 512), Books::default());
        Ok(Peer { options, life: Some(life), handle, slab, books, live, held: Vec::new() })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    fn tell<O: Operation>(&mut self, request: Request<Local, O>) {
        let entry = self.books.enter::<O>();
        let (serial, live) = (entry.serial(), self.live.clone());
        let placed = request.on_complete(move |ended| {
            drop((live, ended.is_ok()));
            entry.told(ended.is_ok());
        });
        if placed.is_err() {
            self.books.strike(serial);
        }
    }

    fn hold<O: Operation>(&mut self, request: Request<Local, O>) {
        let entry = self.books.enter::<O>();
        match request.submit() {
            Ok(submission) => self.held.push(Held::new(submission, vec![entry])),
            Err(_) => entry.refused(),
        }
        if self.held.len() > HELD {
            drop(self.held.swap_remove(0));
        }
    }

    pub(super) fn send_message(&mut self, to: &Handle) {
        let Some(life) = &self.life else { return };
        let request = life.io.send_message(to, 11);
        self.tell(request);
    }

    /// One thing done on it, and a turn.
    pub(super) fn step(&mut self, dice: &mut Dice, shared: &Shared) -> Result<(), String> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let (io, later) = (life.io.clone(), Instant::now() + Duration::from_secs(60));
        let socket = life.sockets[dice.below(2)].clone();
        match dice.below(11) {
            0 => self.tell(io.nop()),
            1 => self.tell(io.sleep_until(later).timeout(dice.micros(2000))),
            2 => self.hold(io.sleep_until(later)),
            3 => {
                let semaphore = shared.semaphore(dice.below(Shared::SEMAPHORES));
                let value = semaphore.value().unwrap_or(0) + 1;
                self.tell(io.wait_semaphore(&semaphore, value));
            }
            4 => {
                let word = shared.word(dice);
                let value = word.load(Ordering::Acquire);
                self.tell(io.futex_wait(&word, value));
            }
            5 => {
                let notification = shared.notification(dice);
                self.hold(io.wait_notification(&notification, notification.epoch()));
            }
            6 => {
                let (from, to) = (shared.notification(dice), shared.notification(dice));
                let source = RelaySource::notification(&from);
                let relay = io.relay(source, RelaySink::notification(&to, 1));
                let live = self.live.clone();
                life.relays.extend(relay.on_fault(move |_| drop(live)).register().ok());
                if life.relays.len() > 2 {
                    drop(life.relays.swap_remove(0));
                }
            }
            7 => {
                if let Some(lease) = self.slab.try_lease() {
                    self.tell(socket.recv(lease));
                }
            }
            8 => self.hold(socket.send_all(vec![3u8; 1 + dice.below(300)])),
            9 => {
                let (books, live) = (self.books.clone(), self.live.clone());
                let task = io.spawn_with(move |io| async move {
                    let _live = live;
                    awaited(books.clone(), io.nop()).await;
                    awaited(books, io.sleep_until(later)).await;
                });
                if dice.one_in(2) {
                    task.abort();
                }
            }
            _ => {
                let event = Event::new().map_err(text)?;
                let live = self.live.clone();
                let watch = io.watch(&event, Interest::READABLE, move |_, _| drop(live.clone()));
                event.set();
                life.watches.extend(watch.ok());
                if life.watches.len() > 4 {
                    drop(life.watches.swap_remove(0));
                }
            }
        }
        io.poll(Wait::Now).map_err(text)?;
        Ok(())
    }

    /// Ends it, and begins anew.
    pub(super) fn replace(&mut self, wait: Wait, is_dropped: bool) -> Result<(), String> {
        if is_dropped {
            // What was made with their proactor outlives it here.
            let Some(Life { io, sockets, watches, relays }) = self.life.take() else {
                return Ok(());
            };
            drop(io);
            drop((sockets, watches, relays));
        }
        self.end(wait)?;
        let life = Life::new(&self.options, &self.live)?;
        self.handle = life.io.handle();
        self.life = Some(life);
        Ok(())
    }

    /// Shuts it down, and looks whether it left anything.
    pub(super) fn end(&mut self, wait: Wait) -> Result<(), String> {
        if let Some(Life { io, sockets, watches, relays }) = self.life.take() {
            let leaked = io.shutdown(wait).map_err(text)?;
            if let Some(leaked) = leaked {
                return Err(format!("{} operations leaked by a shutdown", leaked.operations));
            }
            drop((sockets, watches, relays));
        }
        if !self.handle.is_closed() {
            return Err("a proactor that was shut down is not closed".to_owned());
        }
        for mut held in self.held.drain(..) {
            if !held.is_over() {
                return Err("a submission outlives its proactor without an error".to_owned());
            }
        }
        let owed = self.books.owed();
        let out = self.slab.slots() - self.slab.available();
        match (owed, out, Rc::strong_count(&self.live)) {
            (0, 0, 1) => Ok(()),
            (_, _, count) => Err(format!(
                "a shutdown left {owed} operations owed ({}), {out} slots out, {} callbacks alive",
                self.books.debts(),
                count - 1
            )),
        }
    }

    /// What was done on it, in all its lives.
    pub(super) fn tally(&self) -> Result<Tally, String> {
        self.books.tally()
    }
}
