//! What a soak has in its hands, and the dice that choose what is done with it.
//!
//! A world lives for a tenth of a soak, on a proactor that lives for all of it. Its actions are in
//! [`actions`], by noun; [`STEPS`] says how often each is done. Whatever an action
//! begins ends by being told of, cancelled, timed out, or with what it works on; that most
//! operations are given little time keeps the rest from standing in line behind what nothing will
//! come to.

use super::actions::{self, Crew, Line, Notify, SELDOM, STEPS, Signaling, Step};
use super::books::{Books, Tally};
use super::elsewhere::Shared;
use super::held::Held;
use super::peer::Peer;
use crate::Cx;
use crate::cx::dump;
use dataplane::fence::{Link, Semaphore};
use dataplane::regions::{Lease, Slab, Span};
use dataplane::{
    Address, Event, EventPool, EventWaiter, FenceWaiter, File, Hosted, IoSource, Local,
    LocalContext, Multi, Multishot, Next, OpenOptions, Operation, OperationId, PooledEvent,
    Proactor, Readiness, ReceivePool, Registration, RemoteWatch, Request, Socket, SocketOptions,
    Task, Token, Wait, Watch,
};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Socket pairs at once, at least.
pub(super) const PAIRS: usize = 6;
/// Slots of the slab that receives and sends take from.
const SLOTS: usize = 48;
/// Bytes of each.
const SLOT_BYTES: usize = 512;
/// Handles kept at once, at most.
const HELD: usize = 48;
/// Handles of tasks kept at once, at most.
const TASKS: usize = 64;
/// Names of operations that are remembered, at most.
const NAMES: usize = 256;
/// Refusals in a row after which everything in flight is cancelled: nothing may come to it.
const REFUSALS: u32 = 24;
/// How long the end of a world may take.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// A xorshift generator (Marsaglia, "Xorshift RNGs", 2003).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }

    /// True once in `n` on average.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn micros(&mut self, limit: usize) -> Duration {
        Duration::from_micros(self.below(limit) as u64)
    }
}

/// See the head of this file.
pub(super) struct World<'a> {
    pub(super) io: &'a Proactor,
    pub(super) cx: &'a Cx<'a>,
    pub(super) dice: Dice,
    pub(super) books: Books,
    /// Cloned into every callback and task: alone again when all of them are gone.
    pub(super) live: Rc<()>,
    pub(super) slab: Slab,
    pub(super) pool: ReceivePool,
    pub(super) sockets: Vec<Socket>,
    /// Accepted, opened or connected by callbacks and tasks.
    pub(super) arrived: Rc<RefCell<Vec<Socket>>>,
    pub(super) listener: Socket,
    pub(super) address: Address,
    pub(super) tcp: Socket,
    pub(super) datagrams: Vec<(Socket, Address)>,
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) held: Vec<Held>,
    pub(super) ids: Vec<OperationId>,
    pub(super) registrations: Vec<Registration>,
    pub(super) shared: Arc<Shared>,
    pub(super) events: EventPool,
    pub(super) waiters: Vec<(PooledEvent, EventWaiter)>,
    pub(super) fences: Vec<(Event, FenceWaiter)>,
    pub(super) watches: Vec<(Watch, Event)>,
    pub(super) remote_watches: Vec<(RemoteWatch, Event)>,
    pub(super) readiness: Readiness,
    pub(super) tokens: Vec<(Token, Event)>,
    pub(super) sources: Vec<Rc<IoSource<Event>>>,
    pub(super) tasks: Vec<Task<()>>,
    pub(super) gates: Vec<actions::Gate>,
    pub(super) context: LocalContext,
    pub(super) hosted: Option<Hosted>,
    pub(super) messages: actions::Messages,
    pub(super) links: Vec<Link>,
    pub(super) notify: Notify,
    pub(super) signaling: Signaling,
    pub(super) crew: Crew,
    pub(super) line: Line,
    pub(super) peer: Peer,
    steps: Vec<Step>,
    refusals: u32,
}

fn text(error: dataplane::Error) -> String {
    error.to_string()
}

fn bound(io: &Proactor) -> Result<(Socket, Address), String> {
    let socket = io.bind_datagram("127.0.0.1:0", &SocketOptions::new()).map_err(text)?;
    let address = socket.local_addr().map_err(text)?;
    Ok((socket, address))
}

impl<'a> World<'a> {
    pub(super) fn new(cx: &'a Cx<'a>, seed: u64) -> Result<World<'a>, String> {
        let io = cx.io;
        let folder = cx.scratch_dir();
        let path = folder.join("soak");
        let open = io.open(&path, OpenOptions::read_write().create(0o600)).map_err(text)?;
        let file = cx.block_on(open).map_err(|failed| failed.to_string())?;
        let name = format!("{}-soak", folder.display());
        let address = Address::abstract_name(name.as_bytes()).map_err(text)?;
        let steps = STEPS.iter().flat_map(|&(weight, step)| std::iter::repeat_n(step, weight));
        let mut dice = Dice::new(seed);
        let shared = Shared::new(io.handle(), name.as_bytes(), &path).map_err(text)?;
        let mut world = World {
            crew: Crew::new(cx, &mut dice)?,
            line: Line::new(cx)?,
            io,
            cx,
            dice,
            books: Books::default(),
            live: Rc::default(),
            slab: cx.slab(SLOTS, SLOT_BYTES),
            pool: io.receive_pool(8, 256).map_err(text)?,
            sockets: Vec::new(),
            arrived: Rc::default(),
            listener: io.listen(address.clone()).map_err(text)?,
            address,
            tcp: io.listen("127.0.0.1:0").map_err(text)?,
            datagrams: vec![bound(io)?, bound(io)?],
            file,
            path,
            held: Vec::new(),
            ids: Vec::new(),
            registrations: Vec::new(),
            shared: Arc::new(shared),
            events: EventPool::new(4),
            waiters: Vec::new(),
            fences: Vec::new(),
            watches: Vec::new(),
            remote_watches: Vec::new(),
            readiness: Readiness::new(io),
            tokens: Vec::new(),
            sources: Vec::new(),
            tasks: Vec::new(),
            gates: Vec::new(),
            context: LocalContext::new(io),
            // There is none for poll(2).
            hosted: Hosted::new(io).ok(),
            messages: actions::Messages::of(io),
            links: Vec::new(),
            notify: Notify::new()?,
            signaling: Signaling::default(),
            peer: Peer::new(cx)?,
            steps: steps.collect(),
            refusals: 0,
        };
        (0..PAIRS).try_for_each(|_| actions::pair(&mut world))?;
        actions::handler(&mut world)?;
        Ok(world)
    }

    /// One step, chosen by the dice, and now and then a turn of the loop.
    pub(super) fn step(&mut self) -> Result<(), String> {
        let at = self.dice.below(self.steps.len());
        self.steps[at](self)?;
        for (rarity, step) in SELDOM {
            if self.dice.one_in(*rarity) {
                step(self)?;
            }
        }
        if self.refusals > REFUSALS {
            actions::cancel_all(self)?;
        }
        match self.dice.one_in(3) {
            true => self.turn(),
            false => Ok(()),
        }
    }

    /// One turn of the loop, in one of the ways there are.
    fn turn(&mut self) -> Result<(), String> {
        match self.dice.below(64) {
            0 => self.io.flush().map_err(text)?,
            1 => drop(self.io.poll(Duration::from_micros(20)).map_err(text)?),
            2..=9 => drop(self.context.poll().map_err(text)?),
            10..=17 => actions::take_events(self)?,
            18..=21 => {
                self.books.did("turns of a host");
                match &self.hosted {
                    Some(hosted) => drop(hosted.turn().map_err(text)?),
                    None => drop(self.io.poll(Wait::Now).map_err(text)?),
                }
            }
            22 => drop((self.io.in_flight(), self.io.next_deadline())),
            _ => drop(self.io.poll(Wait::Now).map_err(text)?),
        }
        let mut arrived = self.arrived.take();
        self.sockets.append(&mut arrived);
        while self.sockets.len() > 4 * PAIRS {
            let at = self.dice.below(self.sockets.len());
            drop(self.sockets.swap_remove(at));
        }
        Ok(())
    }

    /// An end, for most requests: what nothing comes to must not stay for ever.
    fn ending<O: Operation>(&mut self, request: Request<Local, O>) -> Request<Local, O> {
        match self.dice.below(4) {
            0 => request.timeout(self.dice.micros(300)),
            1 => request.deadline(Instant::now() + self.dice.micros(2000)),
            2 => request.timeout(Duration::from_millis(20)),
            _ => request,
        }
    }

    /// Notes what came of a submission with a callback.
    pub(super) fn placed(&mut self, placed: Option<OperationId>, serial: u64) {
        let Some(id) = placed else {
            self.books.strike(serial);
            self.refusals += 1;
            return;
        };
        self.refusals = 0;
        if self.ids.len() >= NAMES {
            self.ids.drain(..NAMES / 2);
        }
        self.ids.push(id);
    }

    /// Submits with a callback, which now and then submits something itself.
    pub(super) fn tell<O: Operation>(&mut self, request: Request<Local, O>) {
        self.tell_with(request, |output| {
            drop(output);
            true
        });
    }

    /// As [`tell`](Self::tell); `look` is given what it brought and says whether that is right.
    pub(super) fn tell_with<O: Operation>(
        &mut self,
        request: Request<Local, O>,
        look: impl FnOnce(O::Output<Local>) -> bool + 'static,
    ) {
        let request = self.ending(request);
        let entry = self.books.enter::<O>();
        let (serial, live, books) = (entry.serial(), self.live.clone(), self.books.clone());
        let again = self.dice.one_in(16).then(|| self.io.clone());
        let placed = request.on_complete(move |ended| {
            let succeeded = ended.is_ok();
            // What it brought goes first: it may be the last of something.
            if !ended.map_or(true, look) {
                books.wrong(format!("a {} gave something wrong", super::books::name_of::<O>()));
            }
            entry.told(succeeded);
            if let Some(io) = again {
                nested(&io, &books, live);
            }
        });
        self.placed(placed.ok(), serial);
    }

    /// Submits with a handle that is kept for a while.
    pub(super) fn hold<O: Operation>(&mut self, request: Request<Local, O>) {
        let request = self.ending(request);
        let entry = self.books.enter::<O>();
        match request.submit() {
            // It runs to its end, and nobody asks.
            Ok(submission) if self.dice.one_in(16) => {
                submission.detach();
                entry.dropped();
            }
            Ok(submission) => self.keep(Held::new(submission, vec![entry])),
            Err(refused) => {
                drop(refused);
                entry.refused();
                self.refusals += 1;
            }
        }
    }

    /// Submits in either way.
    pub(super) fn submit<O: Operation>(&mut self, request: Request<Local, O>) {
        match self.dice.one_in(4) {
            true => self.hold(request),
            false => self.tell(request),
        }
    }

    /// A stream with a callback, or one that is taken from at leisure: it is paused meanwhile.
    pub(super) fn stream<O: Multishot>(
        &mut self,
        multi: Multi<Local, O>,
        take: impl Fn(O::Output<Local>) + 'static,
    ) {
        let multi = multi.timeout(self.dice.micros(10_000));
        let entry = self.books.enter::<O>();
        if self.dice.one_in(2) {
            return match multi.submit() {
                Ok(stream) => self.keep(Held::new(stream, vec![entry])),
                Err(_) => entry.refused(),
            };
        }
        let (serial, live) = (entry.serial(), self.live.clone());
        let entry = Cell::new(Some(entry));
        let books = self.books.clone();
        let placed = multi.on_each(move |next| match next {
            Next::Item(item) => take(item),
            Next::End(end) => match entry.take() {
                Some(entry) => entry.told(end.is_ok()),
                None => books.wrong(format!("a stream ended twice ({})", Rc::strong_count(&live))),
            },
        });
        self.placed(placed.ok(), serial);
    }

    /// Keeps a handle; one kept before goes when there are many.
    pub(super) fn keep(&mut self, held: Held) {
        self.refusals = 0;
        if self.held.len() >= HELD {
            let at = self.dice.below(HELD);
            drop(self.held.swap_remove(at));
        }
        self.held.push(held);
    }

    /// Keeps a task; one kept before goes on by itself when there are many.
    pub(super) fn keep_task(&mut self, task: Task<()>) {
        if self.tasks.len() >= TASKS {
            let at = self.dice.below(TASKS);
            drop(self.tasks.swap_remove(at));
        }
        self.tasks.push(task);
    }

    /// Everything was cancelled: there is room again.
    pub(super) fn forgive(&mut self) {
        self.refusals = 0;
    }

    pub(super) fn socket(&mut self) -> Socket {
        let at = self.dice.below(self.sockets.len());
        self.sockets[at].clone()
    }

    pub(super) fn lease(&mut self) -> Option<Lease> {
        self.slab.try_lease()
    }

    /// Bytes to send: of the slab, of the heap, few or many.
    pub(super) fn span(&mut self) -> Span {
        if let Some(mut lease) = self.slab.try_lease().filter(|_| !self.dice.one_in(8)) {
            lease.truncate(1 + self.dice.below(SLOT_BYTES - 1));
            return lease.freeze();
        }
        let most = if self.dice.one_in(32) { 100_000 } else { 2_000 };
        Span::from(vec![1u8; 1 + self.dice.below(most)])
    }

    pub(super) fn semaphore(&mut self) -> Semaphore {
        let at = self.dice.below(Shared::SEMAPHORES);
        self.shared.semaphore(at)
    }

    /// A semaphore, and a value of it that is reached, or soon will be.
    pub(super) fn soon(&mut self) -> (Semaphore, u64) {
        let semaphore = self.semaphore();
        let value = semaphore.value().unwrap_or(0);
        (semaphore, value + self.dice.below(4) as u64)
    }

    /// Ends everything, and looks at the books. `remote` is what the other thread did.
    ///
    /// # Errors
    ///
    /// What does not add up.
    pub(super) fn balance(self, remote: &Tally) -> Result<Tally, String> {
        let World { io, cx, books, live, slab, pool, held, tasks, messages, mut peer, .. } = self;
        let pooled = pool.slab().clone();
        let before = [slab.clone(), pooled.clone()];
        self.gates.into_iter().for_each(actions::Gate::open);
        self.shared.wake_all();
        peer.end(Wait::Now)?;
        let more = peer.tally()?;
        drop((held, tasks, peer));
        drop((self.hosted, self.notify, self.signaling));
        self.links.into_iter().for_each(|link| {
            link.unlink();
        });
        self.crew.end(cx)?;
        self.line.end(cx)?;
        drop((self.sockets, self.arrived, self.listener, self.tcp, self.datagrams, self.file));
        drop((
            self.registrations,
            self.waiters,
            self.fences,
            self.events,
            self.watches,
            self.remote_watches,
        ));
        drop((self.tokens, self.sources, self.readiness, self.context, pool, slab));
        messages.end(io)?;
        io.cancel_all().map_err(text)?;
        actions::arrive(io)?;
        let deadline = Instant::now() + LIMIT;
        while let Err(problem) = evenness(io, &books, &live, &before) {
            if Instant::now() >= deadline {
                return Err(problem);
            }
            io.poll(Duration::from_millis(1)).map_err(text)?;
        }
        let mut tally = books.tally()?;
        tally.add(&more);
        tally.add(remote);
        Ok(tally)
    }
}

/// What a callback submits from inside.
fn nested(io: &Proactor, books: &Books, live: Rc<()>) {
    let entry = books.enter::<dataplane::Nop>();
    let serial = entry.serial();
    let placed = io.nop().on_complete(move |ended| {
        drop(live);
        entry.told(ended.is_ok());
    });
    if placed.is_err() {
        books.strike(serial);
    }
}

/// Whether nothing is left of a world on its proactor; what is, otherwise.
fn evenness(io: &Proactor, books: &Books, live: &Rc<()>, slabs: &[Slab]) -> Result<(), String> {
    let stats = io.stats();
    let owed = books.owed();
    let gauges = [
        ("in flight", stats.in_flight as usize),
        ("descriptors", stats.descriptors),
        ("registrations", stats.registered),
        ("being released", stats.releasing),
        ("tasks", stats.tasks),
        ("operations owed", owed),
        ("callbacks alive", Rc::strong_count(live) - 1),
        ("slots out", slabs.iter().map(|slab| slab.slots() - slab.available()).sum()),
    ];
    let left: Vec<String> = gauges
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    match left.is_empty() {
        true => Ok(()),
        false => Err(format!("left: {}; owed {}; {}", left.join(", "), books.debts(), dump(io))),
    }
}
