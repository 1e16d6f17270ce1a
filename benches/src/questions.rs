//! The questions, and what is demanded of the answers.
//!
//! A question opens its two contenders on the thread that asks. Both get the same sizes from here,
//! and the same fixture.

use crate::fixture::{FILE_BYTES, Fixture, WIRE_PERIOD_BYTES};
use crate::ours::noop::Told;
use crate::peer::Peer;
use crate::pipeline::{Ends, Pipeline};
use crate::{Contender, Result, limit, ours, wire};
use regions::Slab;
use std::rc::Rc;
use std::time::Duration;

/// Ratio demanded of no-ops.
const NOOP: f64 = 0.9;
/// Ratio demanded of what moves files.
const FILES: f64 = 0.95;

/// No-ops outstanding that are handed to another thread.
const HANDED: usize = 64;
/// Ratio demanded of them beside a ping-pong over channels, with nothing done between. Shown is
/// also the ratio to channels that carry as many at once.
const HANDOFF: f64 = 0.3;

/// Fences that are armed at once.
const ARMED: usize = 64;
/// Ratio demanded of fences: at most one and a half times what a poll of the ring costs.
const FENCES: f64 = 0.667;

/// Buffers a receive may fill: count, and bytes of each.
const POOL: (usize, usize) = (64, 64 << 10);

/// What a step is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// An operation or a round trip: shown as nanoseconds for one.
    Operation,
    /// So many bytes: shown as MB/s.
    Bytes(u64),
}

/// Both sides of a question, ready to run.
pub struct Pair {
    /// The toolkit.
    pub ours: Box<dyn Contender>,
    /// The loop written by hand.
    pub limit: Box<dyn Contender>,
    /// Peers of the two, ended after them.
    pub peers: Vec<Peer>,
}

/// What opening a question gives.
pub enum Opened {
    /// It can be asked.
    Pair(Pair),
    /// This machine cannot answer it, for this reason.
    Skipped(String),
}

type Open = Box<dyn Fn(&Rc<Fixture>) -> Result<Opened>>;

/// One question.
pub struct Question {
    /// Path-like name: topic, then particulars.
    pub name: String,
    /// What a step is.
    pub unit: Unit,
    /// The ratio demanded, if one is.
    pub demanded: Option<f64>,
    /// How long one side runs before the other takes its turn: short where one thread does it
    /// all, longer where a peer's full socket has to be worked off first.
    pub slice: Duration,
    open: Open,
}

impl Question {
    fn new(
        name: impl Into<String>,
        unit: Unit,
        slice_ms: u64,
        open: impl Fn(&Rc<Fixture>) -> Result<Opened> + 'static,
    ) -> Question {
        let slice = Duration::from_millis(slice_ms);
        Question { name: name.into(), unit, demanded: None, slice, open: Box::new(open) }
    }

    fn demand(mut self, ratio: f64) -> Question {
        self.demanded = Some(ratio);
        self
    }

    /// Makes both contenders, on this thread.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn open(&self, fixture: &Rc<Fixture>) -> Result<Opened> {
        (self.open)(fixture)
    }

    /// Whether it is `wanted`, or one of the topic `wanted`.
    pub fn is_of(&self, wanted: &str) -> bool {
        let rest = self.name.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || wanted.ends_with('/'))
    }
}

fn pair(
    ours: impl Contender + 'static,
    limit: impl Contender + 'static,
    peers: Vec<Peer>,
) -> Result<Opened> {
    Ok(Opened::Pair(Pair { ours: Box::new(ours), limit: Box::new(limit), peers }))
}

/// All of them, in the order they are asked.
pub fn all() -> Vec<Question> {
    let mut questions = Vec::new();
    for depth in [1, 32, 256] {
        questions.extend(Told::ALL.map(|told| noop(depth, told)));
    }
    for looks in [true, false] {
        questions.extend([1, HANDED as u64].map(|outstanding| handoff(looks, outstanding)));
    }
    questions.extend(fences());
    questions.extend([("64B", 64), ("4KiB", 4 << 10)].map(|(size, bytes)| echo(size, bytes)));
    questions.push(receive());
    questions
        .extend([("64KiB", 64 << 10), ("1MiB", 1 << 20)].map(|(size, bytes)| send(size, bytes)));
    for direct in [false, true] {
        questions.push(read("4KiB", 4 << 10, 32, direct));
        questions.push(read("1MiB", 1 << 20, 8, direct));
    }
    questions.extend([false, true].map(stream));
    questions
}

fn noop(depth: u32, told: Told) -> Question {
    let name = format!("noop/depth-{depth}/{}", told.name());
    let question = Question::new(name, Unit::Operation, 1, move |_| {
        pair(ours::noop::Noops::new(depth as usize, told)?, limit::noop::Noops::new(depth)?, vec![])
    });
    // Taking is the way that costs least, as looking at the queue oneself is: the ratio is
    // demanded of it, and shown of the others.
    match (depth, told) {
        (1 | 256, Told::TryTake) => question.demand(NOOP),
        _ => question,
    }
}

fn handoff(looks: bool, outstanding: u64) -> Question {
    let loop_name = if looks { "spinning" } else { "sleeping" };
    let limit_name = if outstanding == 1 { "ping-pong" } else { "pipelined" };
    let name = format!("handoff/{loop_name}/{limit_name}");
    let question = Question::new(name, Unit::Operation, 5, move |_| {
        let ours = ours::handoff::Handoff::new(HANDED, looks)?;
        pair(ours, limit::handoff::Handoff::new(outstanding)?, vec![])
    });
    match (looks, outstanding) {
        (true, 1) => question.demand(HANDOFF),
        _ => question,
    }
}

fn fences() -> [Question; 4] {
    use {limit::fence as by_hand, limit::fence::Kind, ours::fence as ours};
    fn ask(name: &str, open: fn() -> Result<Opened>) -> Question {
        Question::new(name, Unit::Operation, 1, move |_| open())
    }
    fn import(kind: Kind) -> Result<Opened> {
        pair(ours::Import::new(kind)?, by_hand::Import::new(kind)?, vec![])
    }
    // Demanded is the way from a signal to whoever waits: of a fence that is armed to its
    // semaphore, and of a semaphore to its descriptor. An import alone asks whether the fence has
    // signalled already, which a loop that is about to poll it does not: that ratio is shown.
    [
        ask("fence/armed", || pair(ours::Armed::new(ARMED)?, by_hand::Armed::new(ARMED)?, vec![]))
            .demand(FENCES),
        ask("fence/import/known", || import(Kind::Known)),
        ask("fence/import/sorted", || import(Kind::Sorted)),
        ask("fence/export", || pair(ours::Export::new()?, by_hand::Export::new()?, vec![]))
            .demand(FENCES),
    ]
}

fn echo(size: &str, bytes: usize) -> Question {
    Question::new(format!("echo/{size}"), Unit::Operation, 2, move |_| {
        pair(ours::echo::Echo::new(bytes)?, limit::echo::Echo::new(bytes)?, vec![])
    })
}

fn receive() -> Question {
    Question::new("receive/64KiB", Unit::Bytes(1 << 20), 50, |_| {
        let ((a, to_a), (b, to_b)) = (wire::pair()?, wire::pair()?);
        let peers = vec![Peer::sender(to_a)?, Peer::sender(to_b)?];
        let (count, bytes) = POOL;
        let ours = ours::receive::Receiver::new(a, count, bytes, WIRE_PERIOD_BYTES)?;
        let limit = limit::receive::Receiver::new(b, count, bytes, WIRE_PERIOD_BYTES)?;
        pair(ours::receive::Receive::new(ours), limit::receive::Receive::new(limit), peers)
    })
}

fn send(size: &str, bytes: usize) -> Question {
    Question::new(format!("send/{size}"), Unit::Bytes(bytes as u64), 50, move |_| {
        let ((a, to_a), (b, to_b)) = (wire::pair()?, wire::pair()?);
        let peers = vec![Peer::discarder(to_a)?, Peer::discarder(to_b)?];
        pair(ours::send::Send::new(a, bytes)?, limit::send::Send::new(b, bytes)?, peers)
    })
}

fn cache_name(direct: bool) -> &'static str {
    if direct { "direct" } else { "cached" }
}

/// Why O_DIRECT is not to be had, if it is not.
fn no_direct(fixture: &Fixture, direct: bool) -> Option<String> {
    let refused = fixture.open(direct).err().filter(|_| direct)?;
    let folder = fixture.path().parent().unwrap_or(fixture.path()).display();
    Some(format!("no O_DIRECT in {folder} ({refused}); set TMPDIR to a disk's file system"))
}

fn read(size: &str, bytes: usize, depth: usize, direct: bool) -> Question {
    let name = format!("read/{size}/{}", cache_name(direct));
    Question::new(name, Unit::Bytes(bytes as u64), if direct { 100 } else { 1 }, move |fixture| {
        if let Some(reason) = no_direct(fixture, direct) {
            return Ok(Opened::Skipped(reason));
        }
        // The same memory for both: what a large read costs depends on how the pages lie. They
        // take turns, and neither has anything in flight or leased when its turn is over.
        let slab = Slab::new(depth, bytes)?;
        let ours = ours::read::Read::new(fixture.open(direct)?, slab.clone())?;
        let limit = limit::read::Read::new(fixture.open(direct)?, slab)?;
        pair(ours, limit, vec![])
    })
    .demand(FILES)
}

fn stream(direct: bool) -> Question {
    let name = format!("stream/1MiBx8/{}", cache_name(direct));
    Question::new(name, Unit::Bytes(FILE_BYTES), 100, move |fixture| {
        if let Some(reason) = no_direct(fixture, direct) {
            return Ok(Opened::Skipped(reason));
        }
        let ours = Pipeline::new(Ends::OURS, fixture, direct)?;
        let limit = Pipeline::new(Ends::LIMIT, fixture, direct)?;
        pair(ours, limit, vec![])
    })
    .demand(FILES)
}
