//! A soak: operations at random, by a seed, until something does not add up.
//!
//! Everything a program may do to a proactor is done in an order nobody would choose: every kind of
//! operation, with callbacks, with handles that are looked at, cancelled and dropped, and in tasks;
//! sequences and batches; sockets closed under what is in flight; memory registered and not;
//! descriptors passed and bytes read as streams; events, futex words, notifications, relays,
//! semaphores, messages, signals, watches and readiness; a second proactor that is shut down in the
//! middle; a second thread that submits and registers all the while; a context that other threads
//! run; and proactors on threads of their own. That no kind is forgotten is looked at too: see
//! [`Tally::complete`]. What came of each
//! operation is the cases' to look at; here the books must balance: every accepted operation is
//! told of exactly once or was dropped, every buffer comes back, every descriptor is released,
//! every callback and task is gone, no message is lost, and shutting down leaks nothing.
//!
//! One proactor lives through all of it, in ten tenths. After each the hands are emptied, the books
//! balanced, and the process is measured: its descriptors and its resident memory. What is held is
//! the same each time, nothing, so both must be flat: over the last three tenths descriptors must
//! not grow at all, and memory by no more than [`GROWTH_BYTES`]. (The first tenths are for tables,
//! stacks of helper threads and the allocator's pools, which grow to what is needed and stay.)
//!
//! Threads and the clock make the interleaving differ between runs; the choices are the seed's.

mod actions;
mod books;
mod elsewhere;
mod held;
mod peer;
mod world;

pub use books::{Count, Tally};

use crate::runner::{descriptors, no_descriptor_left, turn};
use crate::{Configuration, Cx};
use dataplane::{Proactor, Wait, block_signals_early};
use std::fmt;
use std::time::{Duration, Instant};
use world::World;

/// Most operations in flight: few enough that submissions are refused now and then.
const OPERATIONS: u32 = 256;
/// Parts of a soak, after each of which the books are balanced.
const PARTS: u64 = 10;
/// Parts at the end in which nothing may grow.
const FLAT_PARTS: usize = 3;
/// What the resident memory may grow by in them: the allocator's noise. At ten million operations
/// it is less than one byte for each of them.
pub const GROWTH_BYTES: u64 = 2 << 20;

/// The process after a tenth of a soak.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Operations accepted so far.
    pub operations: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Since the beginning.
    pub elapsed: Duration,
}

impl Sample {
    fn take(operations: u64, begun: Instant) -> Result<Sample, String> {
        let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: Option<u64> = line.and_then(|it| it.split_whitespace().next()?.parse().ok());
        let resident_bytes = kib.ok_or("/proc/self/status does not tell VmRSS")? << 10;
        let descriptors = descriptors().len();
        Ok(Sample { operations, resident_bytes, descriptors, elapsed: begun.elapsed() })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample { operations, resident_bytes, descriptors, elapsed } = self;
        write!(
            f,
            "{operations} operations, {} KiB resident, {descriptors} descriptors, {:.1} s",
            resident_bytes >> 10,
            elapsed.as_secs_f64()
        )
    }
}

/// Whether the end of a soak was flat.
fn flat(samples: &[Sample]) -> Result<(), String> {
    let Some(last) = samples.len().checked_sub(FLAT_PARTS + 1) else { return Ok(()) };
    let (before, rest) = (&samples[last], &samples[last + 1..]);
    for sample in rest {
        let grown = sample.resident_bytes.saturating_sub(before.resident_bytes);
        if grown > GROWTH_BYTES || sample.descriptors > before.descriptors {
            return Err(format!("it grows: {before}; then {sample}"));
        }
    }
    Ok(())
}

/// Blocks the signals that soaks own. The first thing in a process, before it has threads.
///
/// # Errors
///
/// When there are threads that do not block them.
pub fn prepare() -> Result<(), String> {
    block_signals_early(actions::OURS).map_err(|error| error.to_string())
}

/// Runs at least so many operations on one proactor of a configuration; `each` is told after each
/// tenth. The process must be [prepared](prepare).
///
/// # Errors
///
/// What does not add up.
pub fn run(
    configuration: &Configuration,
    operations: u64,
    seed: u64,
    mut each: impl FnMut(&Sample),
) -> Result<Tally, String> {
    let _turn = turn();
    let before = descriptors();
    let begun = Instant::now();
    let options = configuration.options.clone().name("soak").operations(OPERATIONS);
    let io = Proactor::with(options.clone()).map_err(|error| error.to_string())?;
    let cx = Cx::new(&io, &options);
    let mut tally = Tally::default();
    let mut samples = Vec::new();
    for part in 0..PARTS {
        let until = operations * (part + 1) / PARTS;
        let wanted = until.saturating_sub(tally.accepted());
        let seed = seed.wrapping_mul(PARTS).wrapping_add(part);
        let more = soaked(&cx, wanted, seed);
        tally.add(&more.map_err(|problem| format!("{problem} (part {part})"))?);
        let sample = Sample::take(tally.accepted(), begun)?;
        each(&sample);
        samples.push(sample);
    }
    drop(cx);
    match io.shutdown(Wait::Now) {
        Ok(None) => no_descriptor_left(&before)?,
        Ok(Some(leaked)) => return Err(format!("{} operations were leaked", leaked.operations)),
        Err(error) => return Err(format!("shutting down: {error}")),
    }
    flat(&samples)?;
    Ok(tally)
}

/// One tenth: a world, and the other thread beside it.
fn soaked(cx: &Cx<'_>, operations: u64, seed: u64) -> Result<Tally, String> {
    let mut world = World::new(cx, seed)?;
    let shared = world.shared.clone();
    let there = shared.clone();
    let other = std::thread::Builder::new().name("soak-elsewhere".to_owned());
    let other = other.spawn(move || elsewhere::run(&there, seed));
    let other = other.map_err(|error| error.to_string())?;
    let mut outcome = Ok(());
    while outcome.is_ok() && world.books.accepted() < operations {
        outcome = world.step();
    }
    shared.stop();
    cx.poll_until("the other thread", || other.is_finished());
    let remote = other.join().map_err(|_| "the other thread panicked".to_owned())??;
    outcome?;
    world.balance(&remote)
}
