//! A soak: operations at random, by a seed, until something does not add up.
//!
//! Everything a program may do to a proactor is done in an order nobody would choose: operations
//! with callbacks and with handles that are dropped, cancels of what may be over, sockets closed
//! under what is in flight, memory registered and not, files, pools, and a second thread that
//! submits all the while. It is not looked at what came of each operation (the cases do that), but
//! that the books balance: every accepted operation is told of exactly once, every buffer comes
//! back, every descriptor is released, and shutting down leaks nothing.
//!
//! The second thread makes the interleaving differ between runs; the choices are those of the seed.

use crate::cx::dump;
use crate::runner::{descriptors, no_descriptor_left, turn};
use crate::{Configuration, Cx};
use dataplane::operations::Nop;
use dataplane::{
    File, Handle, Local, Next, OpenOptions, Operation, OperationId, Proactor, ReceivePool,
    Registration, Request, Socket, Wait,
};
use regions::{Slab, Span};
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Socket pairs at once.
const PAIRS: usize = 6;
/// Slots of the slab that receives and sends take from.
const SLOTS: usize = 32;
/// How long the end of a soak may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What a soak did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Operations submitted with a callback, and told of.
    pub told: u64,
    /// Of those, how many succeeded.
    pub succeeded: u64,
    /// Operations submitted with a handle that was dropped.
    pub dropped: u64,
    /// Submissions that were refused.
    pub refused: u64,
    /// Operations of the second thread.
    pub remote: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { told, succeeded, dropped, refused, remote } = self;
        write!(
            f,
            "{told} told of ({succeeded} succeeded), {dropped} dropped, {refused} refused, \
             {remote} from another thread"
        )
    }
}

/// Callbacks owed, and what was told so far.
#[derive(Default)]
struct Books {
    owed: HashSet<u64>,
    tally: Tally,
    wrong: Option<String>,
}

impl Books {
    fn told(&mut self, serial: u64, succeeded: bool) {
        if !self.owed.remove(&serial) {
            self.wrong = Some(format!("operation {serial} was told of twice"));
        }
        self.tally.told += 1;
        self.tally.succeeded += u64::from(succeeded);
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

/// What the soak has in its hands.
struct World<'a> {
    io: &'a Proactor,
    dice: Dice,
    books: Rc<RefCell<Books>>,
    serial: u64,
    slab: Slab,
    pool: ReceivePool,
    sockets: Vec<Socket>,
    listener: Socket,
    file: File,
    held: Vec<Box<dyn Any>>,
    ids: Vec<OperationId>,
    registration: Option<Registration>,
}

impl World<'_> {
    fn enter(&mut self) -> (u64, Rc<RefCell<Books>>) {
        self.serial += 1;
        self.books.borrow_mut().owed.insert(self.serial);
        (self.serial, self.books.clone())
    }

    fn entered(&mut self, placed: Option<OperationId>) {
        if let Some(id) = placed {
            self.ids.push(id);
            return;
        }
        let mut books = self.books.borrow_mut();
        books.owed.remove(&self.serial);
        books.tally.refused += 1;
    }

    /// Submits with a callback, now and then with a timeout.
    fn told<O: Operation>(&mut self, request: Request<Local, O>) {
        let (serial, books) = self.enter();
        let request = match self.dice.below(8) {
            0 => request.timeout(Duration::from_micros(self.dice.below(300) as u64)),
            _ => request,
        };
        let placed = request.on_complete(move |ended| {
            let succeeded = ended.is_ok();
            // What it brought goes first: it may be the last of something.
            drop(ended);
            books.borrow_mut().told(serial, succeeded);
        });
        self.entered(placed.ok());
    }

    /// Submits with a handle that is kept for a while.
    fn hold<O: Operation>(&mut self, request: Request<Local, O>) {
        match request.submit() {
            Ok(submission) => self.held.push(Box::new(submission)),
            Err(_) => self.books.borrow_mut().tally.refused += 1,
        }
    }

    fn stream(&mut self) {
        let (serial, books) = self.enter();
        let at = self.dice.below(self.sockets.len());
        let placed = self.sockets[at].receive_all(&self.pool).on_each(move |next| match next {
            Next::Item(filled) => drop(filled),
            Next::End(end) => books.borrow_mut().told(serial, end.is_ok()),
        });
        self.entered(placed.ok());
    }

    fn socket(&mut self) -> Socket {
        let at = self.dice.below(self.sockets.len());
        self.sockets[at].clone()
    }

    fn pair(&mut self) -> Result<(), String> {
        let (one, two) = UnixStream::pair().map_err(|error| error.to_string())?;
        for end in [one, two] {
            self.sockets.push(self.io.adopt_socket(end).map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// One step, chosen by the dice.
    fn step(&mut self) -> Result<(), String> {
        let socket = self.socket();
        match self.dice.below(20) {
            0..=3 => self.receive(&socket),
            4..=6 => self.send(&socket),
            7 => self.told(socket.recv_pool(&self.pool)),
            8 => self.stream(),
            9 => self.told(self.io.nop()),
            10 => {
                let micros = self.dice.below(500) as u64;
                let at = Instant::now() + Duration::from_micros(micros);
                self.told(self.io.sleep_until(at));
            }
            11 => self.file(),
            12 | 13 => self.cancel(&socket),
            14 => self.drop_one(),
            15 => self.connect()?,
            16 => self.replace(socket)?,
            17 => self.register(),
            18 => self.batch(),
            _ => self.told(socket.finish()),
        }
        Ok(())
    }

    fn receive(&mut self, socket: &Socket) {
        let Some(lease) = self.slab.try_lease() else { return };
        match self.dice.below(4) {
            0 => self.hold(socket.recv(lease)),
            1 => self.told(socket.recv_all(lease)),
            _ => self.told(socket.recv(lease)),
        }
    }

    fn send(&mut self, socket: &Socket) {
        if self.dice.below(4) == 0 {
            let bytes = 1 + self.dice.below(100_000);
            return self.told(socket.send_all(Span::from(vec![1u8; bytes])));
        }
        let Some(mut lease) = self.slab.try_lease() else { return };
        lease.truncate(1 + self.dice.below(500));
        let span = lease.freeze();
        match self.dice.below(5) {
            0 => self.hold(socket.send(span)),
            _ => self.told(socket.send_all(span)),
        }
    }

    fn file(&mut self) {
        let offset = self.dice.below(1 << 16) as u64;
        let Some(lease) = self.slab.try_lease() else { return };
        match self.dice.below(3) {
            0 => self.told(self.file.write_at(lease.freeze(), offset)),
            1 => self.hold(self.file.read_at(lease, offset)),
            _ => self.told(self.file.read_at(lease, offset)),
        }
    }

    fn cancel(&mut self, socket: &Socket) {
        if self.dice.below(8) == 0 {
            // It may be closed by now.
            let _ = socket.cancel_all();
        } else if !self.ids.is_empty() {
            let at = self.dice.below(self.ids.len());
            // It may be over by now.
            let _ = self.io.cancel(self.ids.swap_remove(at));
        }
    }

    fn drop_one(&mut self) {
        if !self.held.is_empty() {
            let at = self.dice.below(self.held.len());
            drop(self.held.swap_remove(at));
            self.books.borrow_mut().tally.dropped += 1;
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        self.told(self.listener.accept());
        let to = self.listener.local_addr().map_err(|error| error.to_string())?;
        let port = to.inet().map(|to| to.port()).ok_or("a listener without a port")?;
        // Nothing waits for it: the system completes connections from the backlog.
        let client = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        let client = self.io.adopt_socket(client).map_err(|error| error.to_string())?;
        self.receive(&client);
        Ok(())
    }

    /// Ends a socket, by closing or by dropping it, and makes a new pair when few are left.
    fn replace(&mut self, socket: Socket) -> Result<(), String> {
        let at = self.dice.below(self.sockets.len());
        let gone = self.sockets.swap_remove(at);
        if self.dice.below(2) == 0 {
            self.told(gone.close());
        }
        drop(socket);
        if self.sockets.len() < PAIRS { self.pair() } else { Ok(()) }
    }

    fn register(&mut self) {
        self.registration = match self.registration.take() {
            // Unavailable without registered buffers; then there is nothing to drop.
            None => self.io.register_slab(&self.slab).ok(),
            Some(_) => None,
        };
    }

    fn batch(&mut self) {
        let mut batch = self.io.batch();
        let tickets: Vec<_> = (0..1 + self.dice.below(4)).map(|_| batch.add(Nop)).collect();
        let Ok(mut submitted) = batch.submit() else { return };
        for ticket in tickets {
            if self.dice.below(2) == 0
                && let Some(submission) = submitted.take(ticket)
            {
                self.held.push(Box::new(submission));
            }
        }
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

/// The second thread: submits, waits, drops, until told to stop.
fn elsewhere(handle: &Handle, stop: &AtomicBool) -> Result<u64, String> {
    let mut count = 0;
    while !stop.load(Ordering::Acquire) {
        let later = Instant::now() + Duration::from_micros(50 * (count % 5));
        match count % 4 {
            // The bound is shared with the other thread: no room is an answer.
            0 => drop(wait(handle.nop())),
            1 => drop(wait(handle.sleep_until(later))),
            2 => drop(handle.sleep_until(Instant::now() + LIMIT).submit()),
            _ => {
                let called = wait(handle.call(|io| io.stats().in_flight));
                called.map_err(|error| format!("a call from another thread: {error}"))?;
            }
        }
        count += 1;
    }
    Ok(count)
}

/// Runs `operations` random steps on a fresh proactor of a configuration.
///
/// # Errors
///
/// What does not add up.
pub fn run(configuration: &Configuration, operations: u64, seed: u64) -> Result<Tally, String> {
    let _turn = turn();
    let before = descriptors();
    let options = configuration.options.clone().name("soak");
    let io = Proactor::with(options.clone()).map_err(|error| error.to_string())?;
    let cx = Cx::new(&io, &options);
    let tally = soaked(&cx, operations, seed)?;
    drop(cx);
    match io.shutdown(Wait::Now) {
        Ok(None) => no_descriptor_left(&before).map(|()| tally),
        Ok(Some(leaked)) => Err(format!("{} operations were leaked", leaked.operations)),
        Err(error) => Err(format!("shutting down: {error}")),
    }
}

fn soaked(cx: &Cx<'_>, operations: u64, seed: u64) -> Result<Tally, String> {
    let io = cx.io;
    let text = |error: dataplane::Error| error.to_string();
    let path = cx.scratch_dir().join("soak");
    let open = io.open(&path, OpenOptions::read_write().create(0o600)).map_err(text)?;
    let mut world = World {
        io,
        dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        books: Rc::default(),
        serial: 0,
        slab: cx.slab(SLOTS, 512),
        pool: io.receive_pool(8, 256).map_err(text)?,
        sockets: Vec::new(),
        listener: io.listen("127.0.0.1:0").map_err(text)?,
        file: cx.block_on(open).map_err(|failed| failed.to_string())?,
        held: Vec::new(),
        ids: Vec::new(),
        registration: None,
    };
    for _ in 0..PAIRS {
        world.pair()?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (handle, stopped) = (io.handle(), stop.clone());
    let other = std::thread::spawn(move || elsewhere(&handle, &stopped));
    let outcome = (0..operations).try_for_each(|_| {
        world.step()?;
        if world.dice.below(3) == 0 {
            io.poll(Wait::Now).map_err(text)?;
        }
        if world.ids.len() > 256 {
            world.ids.drain(..128);
        }
        Ok(())
    });
    stop.store(true, Ordering::Release);
    cx.poll_until("the other thread", || other.is_finished());
    let remote = other.join().map_err(|_| "the other thread panicked".to_owned())?;
    outcome.map_err(|problem: String| format!("{problem} (seed {seed})"))?;
    balance(world, remote?).map_err(|problem| format!("{problem} (seed {seed})"))
}

/// Ends everything, and looks at the books.
fn balance(world: World<'_>, remote: u64) -> Result<Tally, String> {
    let World { io, books, slab, pool, sockets, listener, file, held, registration, .. } = world;
    let pooled = pool.slab().clone();
    books.borrow_mut().tally.dropped += held.len() as u64;
    drop((sockets, listener, file, held, registration, pool));
    io.cancel_all().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let stats = io.stats();
        let owed = books.borrow().owed.len();
        let gauges = [stats.in_flight as usize, stats.descriptors, stats.registered, owed];
        let free = [slab.available(), pooled.available()];
        let is_even =
            gauges == [0; 4] && stats.releasing == 0 && free == [slab.slots(), pooled.slots()];
        if is_even {
            break;
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "in flight, descriptors, registrations, callbacks owed: {gauges:?}; free slots \
                 {free:?}; {}",
                dump(io)
            ));
        }
        io.poll(Duration::from_millis(1)).map_err(|error| error.to_string())?;
    }
    let books = books.borrow();
    match &books.wrong {
        Some(wrong) => Err(wrong.clone()),
        None => Ok(Tally { remote, ..books.tally }),
    }
}
