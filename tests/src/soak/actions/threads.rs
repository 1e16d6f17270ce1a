//! Threads: a context that several run at once, a loop behind a bounded queue, proactors on
//! threads of their own.
//!
//! The context's operations are driven by the proactor that is soaked; its runners come and go. The
//! others have proactors of their own, which are ended in the middle like the peer's.

use crate::Cx;
use crate::soak::books::{Books, Entry};
use crate::soak::held::{self, Held, Owed, awaited, glance};
use crate::soak::world::{Dice, LIMIT, World};
use dataplane::operations::{Nop, Timer};
use dataplane::{
    Context, ErrorKind, Handle, Operation, Options, Placement, ProactorPool, ProactorThread,
    RemoteSubmission, Request, Submit, Submitter, Wait, WorkGuard,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that run the context, beside the one that drives it.
const RUNNERS: usize = 2;
/// Handles of a queue kept at once.
const HELD: usize = 16;
/// Operations on a proactor of its own, most of operations in flight there.
const OPERATIONS: u32 = 64;

fn text(error: dataplane::Error) -> String {
    error.to_string()
}

/// A thread that runs the context.
struct Runner {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

/// A context and those who run it.
pub(in crate::soak) struct Crew {
    context: Context,
    guard: Option<WorkGuard>,
    runners: Vec<Runner>,
    /// Cloned into handlers and tasks: alone again when all of them are gone.
    live: Arc<()>,
}

/// Runs a context in every way there is.
fn run(context: &Context, stop: &AtomicBool, mut dice: Dice) -> Result<(), String> {
    while !stop.load(Ordering::Acquire) {
        let until = Instant::now() + dice.micros(300);
        let ran = match dice.below(16) {
            0 => context.run(),
            1 => context.run_one(),
            2 => context.poll(),
            3 => context.poll_one(),
            4..=8 => context.wait_one(until),
            _ => context.run_until(until),
        };
        if ran.map_err(text)? == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
        if context.stopped() {
            context.restart();
        }
    }
    Ok(())
}

impl Runner {
    fn start(context: &Context, seed: u64) -> Result<Runner, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let (context, theirs) = (context.clone(), stop.clone());
        let named = std::thread::Builder::new().name("soak-runner".to_owned());
        let thread = named.spawn(move || run(&context, &theirs, Dice::new(seed)));
        Ok(Runner { stop, thread: thread.map_err(|error| error.to_string())? })
    }

    /// Waits for its end; what it waits for comes by polling.
    fn end(self, context: &Context, cx: &Cx<'_>) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        cx.poll_until("a runner", || {
            context.stop();
            self.thread.is_finished()
        });
        self.thread.join().map_err(|_| "a runner panicked".to_owned())?
    }
}

impl Crew {
    pub(in crate::soak) fn new(cx: &Cx<'_>, dice: &mut Dice) -> Result<Crew, String> {
        let context = Context::with_driver(cx.io.handle());
        let guard = Some(context.work());
        let starting = (0..RUNNERS).map(|_| Runner::start(&context, dice.below(1 << 20) as u64));
        let runners = starting.collect::<Result<_, _>>()?;
        Ok(Crew { context, guard, runners, live: Arc::default() })
    }

    /// Ends it with whatever is queued and spawned.
    ///
    /// # Errors
    ///
    /// When a runner failed, or something is left.
    pub(in crate::soak) fn end(self, cx: &Cx<'_>) -> Result<(), String> {
        let Crew { context, guard, runners, live } = self;
        drop(guard);
        runners.into_iter().try_for_each(|runner| runner.end(&context, cx))?;
        drop(context);
        match Arc::strong_count(&live) {
            1 => Ok(()),
            count => Err(format!("a context left {} handlers and tasks", count - 1)),
        }
    }
}

/// A handler posted, a task spawned, an operation submitted; or who runs it is stopped for a while.
pub(super) fn in_context(world: &mut World<'_>) -> Result<(), String> {
    let (handle, books) = (world.io.handle(), world.books.clone());
    let at = Instant::now() + world.dice.micros(300);
    match world.dice.below(8) {
        0..=2 => post(world),
        3 | 4 => {
            let (nop, timer) = (handle.nop(), handle.sleep_until(at));
            let (semaphore, value) = world.soon();
            let wait = handle.wait_semaphore(&semaphore, value).timeout(world.dice.micros(1000));
            let live = world.crew.live.clone();
            let task = world.crew.context.spawn(async move {
                let _live = live;
                books.did("tasks of a context");
                awaited(books.clone(), nop).await;
                awaited(books.clone(), timer).await;
                awaited(books, wait).await;
            });
            match world.dice.below(3) {
                0 => world.keep(Held::new(task, Vec::new())),
                1 => task.cancel(),
                // It goes on by itself.
                _ => drop(task),
            }
        }
        5 => submit(world, handle.nop()),
        6 => submit(world, handle.sleep_until(at)),
        _ => match world.dice.below(4) {
            0 => world.crew.context.stop(),
            1 => world.crew.guard = Some(world.crew.context.work()),
            2 => world.crew.context.restart(),
            // The driver's thread may run it as well.
            _ => drop(world.crew.context.poll().map_err(text)?),
        },
    }
    Ok(())
}

fn post(world: &mut World<'_>) {
    let (books, live) = (world.books.clone(), world.crew.live.clone());
    let (context, request) = (world.crew.context.handle(), world.io.handle().nop());
    let handler = move || {
        books.did("handlers of a context");
        let inside = live.clone();
        // Dropped when the context is gone.
        drop(context.post(move || drop(inside)));
        drop(context.spawn(async move {
            let _live = live;
            awaited(books, request).await;
        }));
    };
    match world.dice.one_in(2) {
        true => world.crew.context.post(handler),
        false => world.crew.context.dispatch(handler),
    }
}

/// Its handler is run by whichever thread, or dropped by a cancel.
fn submit<O: Operation>(world: &mut World<'_>, request: Request<Handle, O>) {
    let owed = Owed::new(world.books.enter::<O>());
    let live = world.crew.live.clone();
    let join = world.crew.context.submit(request, move |ended| {
        drop(live);
        match ended {
            Err(failed) if failed.kind() == ErrorKind::Exhausted => owed.refused(),
            ended => owed.told(ended.is_ok()),
        }
    });
    if world.dice.one_in(4) {
        join.cancel();
    }
}

/// One runner leaves, another comes.
pub(super) fn replace_runner(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(RUNNERS);
    let fresh = Runner::start(&world.crew.context, world.dice.below(1 << 20) as u64)?;
    let gone = std::mem::replace(&mut world.crew.runners[at], fresh);
    world.books.did("runners replaced");
    gone.end(&world.crew.context, world.cx)
}

/// A submission that may wait for room first.
enum InLine<O: Operation> {
    Waits(Submit<O>),
    Runs(RemoteSubmission<O>),
    Refused,
}

impl<O: Operation> held::Handle for InLine<O> {
    fn look(&mut self) -> Option<bool> {
        if let InLine::Waits(submit) = self {
            *self = match glance(submit)? {
                Ok(submission) => InLine::Runs(submission),
                Err(_) => InLine::Refused,
            };
        }
        match self {
            InLine::Runs(submission) => held::Handle::look(submission),
            _ => Some(false),
        }
    }

    fn cancel(&self) {
        if let InLine::Runs(submission) = self {
            submission.cancel();
        }
    }
}

/// A loop behind a bounded queue, and what is in it.
pub(in crate::soak) struct Line {
    options: Options,
    submitter: Submitter,
    held: Vec<Held>,
}

impl Line {
    /// Its thread, as the kernel knows it.
    const NAME: &str = "soak-line";

    pub(in crate::soak) fn new(cx: &Cx<'_>) -> Result<Line, String> {
        let options = cx.options.clone().name(Self::NAME).operations(OPERATIONS).inbox(8);
        let submitter = Submitter::start(options.clone()).map_err(text)?;
        Ok(Line { options, submitter, held: Vec::new() })
    }

    fn keep(&mut self, held: Held, dice: &mut Dice) {
        if self.held.len() >= HELD {
            drop(self.held.swap_remove(dice.below(HELD)));
        }
        self.held.push(held);
    }

    /// Drops the last handle: what was submitted is finished, then the thread ends.
    ///
    /// # Errors
    ///
    /// When one of the two does not happen.
    pub(in crate::soak) fn end(self, cx: &Cx<'_>) -> Result<(), String> {
        let Line { submitter, mut held, .. } = self;
        let handle = submitter.handle();
        drop(submitter);
        cx.poll_until("what was submitted in line", || {
            held.retain_mut(|held| !held.is_over());
            held.is_empty()
        });
        let deadline = Instant::now() + LIMIT;
        while !handle.is_closed() || is_running(Self::NAME)? {
            if Instant::now() >= deadline {
                return Err("a loop goes on without a submitter".to_owned());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

/// Whether a thread of that name is there.
fn is_running(name: &str) -> Result<bool, String> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|error| error.to_string())?;
    let name_of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
    Ok(tasks.flatten().any(|task| name_of(task).is_ok_and(|found| found.trim() == name)))
}

/// Several at once, so that the queue runs full.
pub(super) fn in_line(world: &mut World<'_>) -> Result<(), String> {
    let handle = world.line.submitter.handle();
    for _ in 0..1 + world.dice.below(6) {
        let soon = Instant::now() + world.dice.micros(300);
        match world.dice.below(4) {
            0 => try_submit(world, handle.nop()),
            1 => try_submit(world, handle.sleep_until(soon)),
            2 => wait_in_line(world, handle.nop()),
            _ => {
                let (semaphore, value) = world.soon();
                let soon = world.dice.micros(1000);
                wait_in_line(world, handle.wait_semaphore(&semaphore, value).timeout(soon));
            }
        }
    }
    world.line.held.retain_mut(|held| !held.is_over());
    Ok(())
}

fn try_submit<O: Operation>(world: &mut World<'_>, request: Request<Handle, O>) {
    let entry = world.books.enter::<O>();
    match world.line.submitter.try_submit(request) {
        Ok(submission) => {
            let held = Held::new(submission, vec![entry]);
            world.line.keep(held, &mut world.dice);
        }
        Err(_) => entry.refused(),
    }
}

fn wait_in_line<O: Operation>(world: &mut World<'_>, request: Request<Handle, O>) {
    world.books.did("waits in line");
    let entry = world.books.enter::<O>();
    let waiting = InLine::Waits(world.line.submitter.submit(request));
    let mut held = Held::new(waiting, vec![entry]);
    // A place in the line is taken with the first look.
    if !held.is_over() {
        world.line.keep(held, &mut world.dice);
    }
}

/// Ends the loop behind the queue, and starts another.
pub(super) fn replace_line(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("submitters");
    let fresh = Submitter::start(world.line.options.clone()).map_err(text)?;
    let before = std::mem::replace(&mut world.line.submitter, fresh);
    let held = std::mem::take(&mut world.line.held);
    drop(before);
    match world.dice.one_in(2) {
        true => drop(held),
        // They are looked at later: what they stand for is finished all the same.
        false => world.line.held = held,
    }
    Ok(())
}

/// A few operations by a handle of another thread's proactor.
fn some(books: &Books, handle: &Handle) -> Vec<Held> {
    let soon = Instant::now() + Duration::from_micros(200);
    let mut all = Vec::new();
    let mut hold = |held: Result<Held, Entry>| match held {
        Ok(held) => all.push(held),
        Err(entry) => entry.refused(),
    };
    for _ in 0..3 {
        let entry = books.enter::<Nop>();
        hold(held(handle.nop(), entry));
        let entry = books.enter::<Timer>();
        hold(held(handle.sleep_until(soon), entry));
        let entry = books.enter::<Timer>();
        hold(held(handle.sleep_until(soon + LIMIT), entry));
    }
    all
}

fn held<O: Operation>(request: Request<Handle, O>, entry: Entry) -> Result<Held, Entry> {
    match request.submit() {
        Ok(submission) => Ok(Held::new(submission, vec![entry])),
        Err(_) => Err(entry),
    }
}

/// Whatever is left when its proactor is gone is over, by an error if by nothing else.
fn all_over(held: Vec<Held>) -> Result<(), String> {
    for mut held in held {
        if !held.is_over() {
            return Err("a submission outlives its thread's proactor".to_owned());
        }
    }
    Ok(())
}

fn nothing_leaked(leaked: Option<dataplane::Leaked>) -> Result<(), String> {
    match leaked {
        None => Ok(()),
        Some(leaked) => Err(format!("a thread leaked {} operations", leaked.operations)),
    }
}

pub(super) fn own_thread(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("threads with a proactor");
    let options = world.cx.options.clone().name("soak-thread").operations(OPERATIONS);
    let thread = ProactorThread::start(options).map_err(text)?;
    let held = some(&world.books, &thread.handle());
    match world.dice.below(3) {
        0 => drop(thread),
        1 => nothing_leaked(thread.join().map_err(text)?)?,
        _ => {
            let soon = Instant::now() + world.dice.micros(500);
            nothing_leaked(thread.shutdown(Wait::Until(soon)).map_err(text)?)?;
        }
    }
    all_over(held)
}

pub(super) fn own_pool(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("pools of proactors");
    let options = world.cx.options.clone().name("soak-pool").operations(OPERATIONS);
    let pool = ProactorPool::start(Placement::Anywhere(2), options).map_err(text)?;
    let mut held = some(&world.books, pool.next());
    held.extend(some(&world.books, pool.next()));
    match world.dice.one_in(3) {
        true => drop(pool),
        false => nothing_leaked(pool.join().map_err(text)?)?,
    }
    all_over(held)
}

/// A context with a driver of its own, run until it is out of work.
pub(super) fn own_context(world: &mut World<'_>) -> Result<(), String> {
    world.books.did("contexts of their own");
    let options = world.cx.options.clone().name("soak-driver").operations(OPERATIONS);
    let context = Context::start(options).map_err(text)?;
    let driver = context.driver();
    let soon = Instant::now() + world.dice.micros(300);
    let mut joins = Vec::new();
    for _ in 0..3 {
        let (books, nop, timer) = (world.books.clone(), driver.nop(), driver.sleep_until(soon));
        joins.push(context.spawn(async move {
            awaited(books.clone(), nop).await;
            awaited(books, timer).await;
        }));
    }
    if world.dice.one_in(2) {
        context.run().map_err(text)?;
        match context.stopped() && joins.iter().all(|join| join.is_finished()) {
            true => {}
            false => return Err("a run returned before its context was out of work".to_owned()),
        }
    }
    // Otherwise its tasks are dropped unrun.
    drop(context);
    match joins.iter().all(|join| join.is_finished()) {
        true => Ok(()),
        false => Err("a context went without a word to who waits for its tasks".to_owned()),
    }
}
