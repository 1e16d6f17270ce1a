//! What a soak has in its hands, and the dice that choose what is done with it.
//!
//! A world lives for a tenth of a soak, on a proactor that lives for all of it. Its actions are in
//! the files beside this one, by noun; [`STEPS`] says how often each is done. Whatever an action
//! begins ends by being told of, cancelled, timed out, or with what it works on; that most
//! operations are given little time keeps the rest from standing in line behind what nothing will
//! come to.

use super::actions_chain as chain;
use super::actions_file as file;
use super::actions_net as net;
use super::actions_run as run;
use super::actions_wait as wait;
use super::actions_watch as watch;
use super::books::{Books, Tally};
use super::elsewhere::Shared;
use super::held::Held;
use super::peer::Peer;
use crate::Cx;
use crate::cx::dump;
use dataplane::fence::Semaphore;
use dataplane::regions::{Lease, Slab, Span};
use dataplane::{
    Address, Event, EventPool, EventWaiter, File, IoSource, Local, LocalContext, Multi, Multishot,
    Next, OpenOptions, Operation, OperationId, PooledEvent, Proactor, Readiness, ReceivePool,
    Registration, RemoteWatch, Request, Socket, SocketOptions, Task, Token, Wait, Watch,
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

/// One step, or what keeps the soak from going on.
pub(super) type Step = fn(&mut World<'_>) -> Result<(), String>;

/// Every action, and how often it is done beside the others.
const STEPS: &[(usize, Step)] = &[
    (60, net::receive),
    (30, net::receive_vectored),
    (16, net::receive_pooled),
    (8, net::receive_stream),
    (60, net::send),
    (24, net::send_vectored),
    (24, net::datagram),
    (4, net::accept),
    (4, net::connect),
    (6, net::replace),
    (8, net::shut_down),
    (12, net::poll),
    (4, net::policy),
    (24, file::read_or_write),
    (6, file::transfer),
    (3, file::open),
    (2, file::chunks),
    (1, file::sync_or_resolve),
    (4, file::register),
    (60, wait::nop),
    (30, wait::timer),
    (20, wait::semaphore),
    (12, wait::several_semaphores),
    (24, wait::signal),
    (20, wait::event),
    (24, wait::message),
    (1, wait::handler),
    // Waits for futex words, notifications and relays go here.
    (16, chain::sequence),
    (12, chain::made_sequence),
    (12, chain::batch),
    (4, watch::watch),
    (4, watch::remote_watch),
    (4, watch::readiness),
    (4, watch::source),
    (12, watch::set),
    (20, run::spawn),
    (12, run::wake),
    (6, run::abort),
    (12, run::in_context),
    (12, run::cancel_one),
    (2, run::cancel_descriptor),
    (40, run::look),
    (12, run::drop_one),
    (30, run::on_peer),
];

/// Things done so seldom that they have dice of their own: once in so many steps.
const SELDOM: &[(usize, Step)] = &[
    (4_000, run::replace_peer),
    (3_000, run::cancel_all),
    (2_000, net::connect_over_tcp),
    (500, wait::replace_semaphore),
    (500, run::call),
];

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
    pub(super) watches: Vec<(Watch, Event)>,
    pub(super) remote_watches: Vec<(RemoteWatch, Event)>,
    pub(super) readiness: Readiness,
    pub(super) tokens: Vec<(Token, Event)>,
    pub(super) sources: Vec<Rc<IoSource<Event>>>,
    pub(super) tasks: Vec<Task<()>>,
    pub(super) gates: Vec<run::Gate>,
    pub(super) context: LocalContext,
    pub(super) messages: wait::Messages,
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
        let mut world = World {
            io,
            cx,
            dice: Dice::new(seed),
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
            shared: Arc::new(Shared::new(io.handle())),
            events: EventPool::new(4),
            waiters: Vec::new(),
            watches: Vec::new(),
            remote_watches: Vec::new(),
            readiness: Readiness::new(io),
            tokens: Vec::new(),
            sources: Vec::new(),
            tasks: Vec::new(),
            gates: Vec::new(),
            context: LocalContext::new(io),
            messages: wait::Messages::of(io),
            peer: Peer::new(cx)?,
            steps: steps.collect(),
            refusals: 0,
        };
        (0..PAIRS).try_for_each(|_| net::pair(&mut world))?;
        wait::handler(&mut world)?;
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
            run::cancel_all(self)?;
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
            10..=17 => watch::take_events(self)?,
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

    /// Ends everything, and looks at the books. `remote` is what the other thread did.
    ///
    /// # Errors
    ///
    /// What does not add up.
    pub(super) fn balance(self, remote: &Tally) -> Result<Tally, String> {
        let World { io, books, live, slab, pool, held, tasks, messages, mut peer, .. } = self;
        let pooled = pool.slab().clone();
        let before = [slab.clone(), pooled.clone()];
        self.gates.into_iter().for_each(run::Gate::open);
        self.shared.wake_all();
        peer.end(Wait::Now)?;
        let more = peer.tally()?;
        drop((held, tasks, peer));
        drop((self.sockets, self.arrived, self.listener, self.tcp, self.datagrams, self.file));
        drop((self.registrations, self.waiters, self.events, self.watches, self.remote_watches));
        drop((self.tokens, self.sources, self.readiness, self.context, pool, slab));
        messages.end(io)?;
        io.cancel_all().map_err(text)?;
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
