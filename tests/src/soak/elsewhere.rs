//! The other thread: submits, registers, waits, wakes and drops through a handle, all the while.
//!
//! What both threads work on is [`Shared`]: the semaphores, futex words and notifications, wakers
//! of tasks that are to be woken from here, and sockets that were given away.

use super::books::{Books, Tally};
use super::held::{Held, awaited, connected};
use super::world::{Dice, LIMIT};
use dataplane::fence::{Fence, Semaphore};
use dataplane::regions::Slab;
use dataplane::{
    Address, Event, FutexWord, Handle, Interest, Multi, Multishot, Notification, OpenOptions,
    Operation, ReceivePool, RemoteWatch, Request, Socket,
};
use std::future::{Future, IntoFuture};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Handles kept at once.
const HELD: usize = 24;
/// Sockets kept at once.
const SOCKETS: usize = 12;
/// Slots of this thread's slabs.
const SLOTS: usize = 8;

/// What the threads share.
pub(super) struct Shared {
    handle: Handle,
    /// What this thread listens on.
    address: Address,
    path: PathBuf,
    semaphores: Mutex<Vec<Semaphore>>,
    /// One of this process, one in a memfd.
    words: [FutexWord; 2],
    notifications: [Notification; 2],
    given: Mutex<Vec<Socket<Handle>>>,
    wakers: Mutex<Vec<Waker>>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Semaphores at once.
    pub(super) const SEMAPHORES: usize = 4;

    /// The other thread listens on an abstract name beside this one.
    pub(super) fn new(handle: Handle, name: &[u8], path: &Path) -> dataplane::Result<Shared> {
        let semaphores = (0..Self::SEMAPHORES).map(|_| Semaphore::new(0)).collect();
        Ok(Shared {
            handle,
            address: Address::abstract_name(&[name, b"-elsewhere"].concat())?,
            path: path.to_owned(),
            semaphores: Mutex::new(semaphores),
            words: [FutexWord::new(0), FutexWord::shared(0)?],
            notifications: [Notification::new(), Notification::shared()?],
            given: Mutex::default(),
            wakers: Mutex::default(),
            stop: AtomicBool::new(false),
        })
    }

    pub(super) fn word(&self, dice: &mut Dice) -> FutexWord {
        self.words[dice.below(self.words.len())].clone()
    }

    pub(super) fn notification(&self, dice: &mut Dice) -> Notification {
        self.notifications[dice.below(self.notifications.len())].clone()
    }

    /// Makes a socket the other thread's.
    pub(super) fn give(&self, socket: Socket<Handle>) {
        lock(&self.given).push(socket);
    }

    fn take_given(&self) -> Vec<Socket<Handle>> {
        std::mem::take(&mut *lock(&self.given))
    }

    pub(super) fn semaphore(&self, at: usize) -> Semaphore {
        lock(&self.semaphores)[at].clone()
    }

    /// Puts a fresh one in the place of one, which is given.
    pub(super) fn replace_semaphore(&self, at: usize) -> Semaphore {
        std::mem::replace(&mut lock(&self.semaphores)[at], Semaphore::new(0))
    }

    /// Has a waker woken on the other thread.
    pub(super) fn wake_there(&self, waker: Waker) {
        lock(&self.wakers).push(waker);
    }

    /// Wakes those that wait to be woken.
    pub(super) fn wake_all(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Asks the other thread to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Wakes a thread that waits in [`wait`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<F: IntoFuture>(future: F) -> F::Output {
    let mut future = pin!(future.into_future());
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// What this thread has in its hands.
struct There<'a> {
    shared: &'a Shared,
    handle: &'a Handle,
    dice: Dice,
    books: Books,
    slab: Slab,
    sockets: Vec<Socket<Handle>>,
    listener: Socket<Handle>,
    pool: ReceivePool,
    held: Vec<Held>,
    watches: Vec<(RemoteWatch, Event)>,
}

/// Runs until told to stop.
///
/// # Errors
///
/// What does not add up.
pub(super) fn run(shared: &Shared, seed: u64) -> Result<Tally, String> {
    let pooled = Slab::new(SLOTS, 256).map_err(|error| error.to_string())?;
    let listening = shared.handle.listen(shared.address.clone());
    let listener = wait(Box::pin(listening)).map_err(|error| error.to_string())?;
    let pool = wait(Box::pin(shared.handle.receive_pool_over(&pooled)));
    let mut there = There {
        listener,
        pool: pool.map_err(|error| error.to_string())?,
        shared,
        handle: &shared.handle,
        dice: Dice::new(seed ^ 0x5eed),
        books: Books::default(),
        slab: Slab::new(SLOTS, 256).map_err(|error| error.to_string())?,
        sockets: Vec::new(),
        held: Vec::new(),
        watches: Vec::new(),
    };
    while !shared.stop.load(Ordering::Acquire) {
        there.step()?;
        shared.wake_all();
    }
    let There { books, slab, sockets, held, watches, listener, pool, .. } = there;
    drop((sockets, held, listener, pool, shared.take_given()));
    watches.into_iter().for_each(|(watch, _)| wait(watch.unregister()).unwrap_or(()));
    let deadline = Instant::now() + LIMIT;
    while slab.available() < slab.slots() || pooled.available() < pooled.slots() {
        if Instant::now() >= deadline {
            return Err("buffers of the other thread did not come back".to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    books.tally()
}

impl There<'_> {
    fn hold<O: Operation>(&mut self, request: Request<Handle, O>) {
        let entry = self.books.enter::<O>();
        match request.submit() {
            Ok(submission) => self.keep(Held::new(submission, vec![entry])),
            Err(_) => entry.refused(),
        }
    }

    fn keep(&mut self, mut held: Held) {
        match self.dice.below(8) {
            0 => held.cancel(),
            // As good as never looked at.
            1 => drop(held.is_over()),
            _ => {}
        }
        if self.held.len() >= HELD {
            let at = self.dice.below(HELD);
            let mut gone = self.held.swap_remove(at);
            gone.is_over();
        }
        self.held.push(held);
    }

    fn await_one<O: Operation>(&mut self, request: Request<Handle, O>) {
        drop(wait(Box::pin(awaited(self.books.clone(), request))));
    }

    fn step(&mut self) -> Result<(), String> {
        let soon = Instant::now() + self.dice.micros(300);
        match self.dice.below(32) {
            24 | 25 => self.on_word(),
            26 | 27 => self.on_notification(),
            28 => self.on_listener(),
            29 => self.on_stream(),
            30 => self.on_file()?,
            31 => self.hold(self.handle.resolve("127.0.0.1:80")),
            0 => self.await_one(self.handle.nop()),
            1..=3 => self.hold(self.handle.nop()),
            4 => self.hold(self.handle.sleep_until(soon)),
            5 => self.hold(self.handle.sleep_until(soon + LIMIT)),
            6 | 7 => self.signal(),
            8 => self.wait_for_semaphore(),
            9..=14 => self.on_socket()?,
            15 => self.call()?,
            16 | 17 => self.watch()?,
            18 => self.hold(self.handle.send_message(self.handle, 12)),
            19 => drop(self.handle.message(13)),
            20 => self.handle.wake(),
            21 => self.register(),
            _ => self.look(),
        }
        Ok(())
    }

    fn signal(&mut self) {
        let semaphore = self.shared.semaphore(self.dice.below(Shared::SEMAPHORES));
        let value = semaphore.value().unwrap_or(0) + 1;
        match self.dice.one_in(4) {
            true => self.hold(self.handle.signal_semaphore(&semaphore, value)),
            // Another may have been faster.
            false => drop(semaphore.signal(value)),
        }
    }

    fn wait_for_semaphore(&mut self) {
        let one = self.shared.semaphore(self.dice.below(Shared::SEMAPHORES));
        let two = self.shared.semaphore(self.dice.below(Shared::SEMAPHORES));
        let value = one.value().unwrap_or(0) + 1;
        match self.dice.below(4) {
            0 => self.import(&one, value),
            3 => self.hold(self.handle.wait_semaphore(&one, value)),
            1 => self.hold(self.handle.wait_any_semaphore(&[(&one, value), (&two, value)])),
            _ => self.hold(self.handle.wait_all_semaphores(&[(&one, value), (&two, value)])),
        }
    }

    /// The value as a fence, imported into another semaphore.
    fn import(&mut self, from: &Semaphore, value: u64) {
        let exported = from.export(value, None).ok();
        let fence = exported.and_then(|exported| Fence::from_fd(exported.into_fd()).ok());
        let to = Semaphore::new(0);
        // No room is an answer.
        if fence.is_some_and(|fence| self.handle.import_fence(fence, &to, 1).is_ok()) {
            self.books.did("fences imported from another thread");
            self.hold(self.handle.wait_semaphore(&to, 1));
        }
    }

    fn on_socket(&mut self) -> Result<(), String> {
        self.sockets.append(&mut self.shared.take_given());
        self.sockets.truncate(SOCKETS);
        if self.sockets.len() < 4 {
            let (one, two) = UnixStream::pair().map_err(|error| error.to_string())?;
            for end in [one, two] {
                // The table may be full, or the inbox.
                self.sockets.extend(wait(Box::pin(self.handle.adopt_socket(end))).ok());
            }
            return Ok(());
        }
        let at = self.dice.below(self.sockets.len());
        let soon = self.dice.micros(3000);
        let socket = self.sockets[at].clone();
        match self.dice.below(24) {
            0 => {
                drop(self.sockets.swap_remove(at));
                self.hold(socket.close());
            }
            1 => drop(self.sockets.swap_remove(at)),
            2 => drop(wait(Box::pin(socket.cancel_all()))),
            3 => drop(wait(Box::pin(socket.local_addr()))),
            4..=13 => {
                if let Some(lease) = self.slab.try_lease() {
                    self.hold(socket.recv(lease).timeout(soon));
                }
            }
            _ => {
                let bytes = 1 + self.dice.below(400);
                self.hold(socket.send_all(vec![2u8; bytes]).timeout(soon));
            }
        }
        Ok(())
    }

    /// An operation that waits, or this thread; or somebody is woken.
    fn on_word(&mut self) {
        let word = self.shared.word(&mut self.dice);
        let value = word.load(Ordering::Acquire);
        match self.dice.below(4) {
            0 => {
                self.books.did("words slept on by a thread");
                // Nobody may come in time.
                let _ = word.wait(value, Some(self.dice.micros(100)));
            }
            1 => self.hold(self.handle.futex_wake(&word, 1)),
            _ => self.hold(self.handle.futex_wait(&word, value)),
        }
    }

    fn on_notification(&mut self) {
        let notification = self.shared.notification(&mut self.dice);
        let seen = notification.epoch();
        match self.dice.below(4) {
            0 => {
                self.books.did("notifications slept on by a thread");
                let _ = notification.wait(seen, Some(self.dice.micros(100)));
            }
            1 => self.hold(self.handle.signal_notification(&notification, 1)),
            _ => self.hold(self.handle.wait_notification(&notification, seen)),
        }
    }

    /// Accepts, once or again and again, and connects to itself.
    fn on_listener(&mut self) {
        let soon = self.dice.micros(3000);
        match self.dice.below(4) {
            0 => self.hold(self.listener.accept().timeout(soon)),
            1 => self.hold_stream(self.listener.incoming().timeout(soon)),
            _ => {
                let (books, to) = (self.books.clone(), self.shared.address.clone());
                let connecting = connected(books, self.handle.connect(to));
                self.sockets.extend(wait(Box::pin(connecting)));
            }
        }
    }

    fn on_stream(&mut self) {
        let Some(socket) = self.sockets.first().cloned() else { return };
        let soon = self.dice.micros(3000);
        match self.dice.below(3) {
            0 => self.hold(socket.recv_pool(&self.pool).timeout(soon)),
            1 => self.hold_stream(socket.readiness(Interest::READABLE).timeout(soon)),
            _ => self.hold_stream(socket.receive_all(&self.pool).timeout(soon)),
        }
    }

    /// A file of this thread's, opened, used and closed.
    fn on_file(&mut self) -> Result<(), String> {
        let opening = self.handle.open(&self.shared.path, OpenOptions::read_write());
        let opening = opening.map_err(|error| error.to_string())?;
        let Some(file) = wait(Box::pin(awaited(self.books.clone(), opening))) else {
            return Ok(());
        };
        let offset = self.dice.below(4096) as u64;
        if let Some(lease) = self.slab.try_lease() {
            self.hold(file.read_at(lease, offset));
        }
        // What is not awaited ends with the file.
        match self.dice.one_in(4) {
            true => self.hold(file.write_at(vec![4u8; 100], offset)),
            false => self.await_one(file.write_at(vec![4u8; 100], offset)),
        }
        match self.dice.one_in(2) {
            true => self.await_one(file.sync_data()),
            false => self.hold(file.close()),
        }
        Ok(())
    }

    fn hold_stream<O: Multishot>(&mut self, multi: Multi<Handle, O>) {
        let entry = self.books.enter::<O>();
        match multi.submit() {
            Ok(stream) => self.keep(Held::new(stream, vec![entry])),
            Err(_) => entry.refused(),
        }
    }

    /// The bound of the inbox is shared with the other thread: no room is an answer.
    fn call(&mut self) -> Result<(), String> {
        match wait(self.handle.call(|io| io.stats().in_flight)) {
            Err(error) if error.kind() != dataplane::ErrorKind::Exhausted => {
                Err(format!("a call from another thread: {error}"))
            }
            _ => {
                self.books.did("calls from another thread");
                Ok(())
            }
        }
    }

    fn watch(&mut self) -> Result<(), String> {
        if let Some((_, event)) = self.watches.last() {
            event.set();
        }
        if self.watches.len() > 3 {
            let (gone, _event) = self.watches.swap_remove(0);
            match self.dice.one_in(2) {
                true => drop(gone),
                false => wait(gone.unregister()).map_err(|error| error.to_string())?,
            }
            return Ok(());
        }
        let event = Event::new().map_err(|error| error.to_string())?;
        let inside = event.clone();
        let watching = self.handle.watch(&event, Interest::READABLE, move |_, _| {
            inside.reset();
        });
        if let Ok(watching) = wait(watching) {
            self.books.did("watches from another thread");
            self.watches.push((watching, event));
        }
        Ok(())
    }

    /// Memory registered and unregistered from here.
    fn register(&mut self) {
        let region = self.slab.region().clone();
        self.books.did("registrations from another thread");
        // Missing in some configurations.
        drop(wait(Box::pin(self.handle.register(&region))));
    }

    fn look(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.dice.below(self.held.len());
        let is_over = self.held[at].is_over();
        if is_over || self.dice.one_in(4) {
            drop(self.held.swap_remove(at));
        }
    }
}
