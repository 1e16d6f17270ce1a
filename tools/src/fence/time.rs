//! `dataplane fence time`: what the way through a semaphore adds to waiting for a descriptor.
//!
//! The same thread signals and waits, so that no scheduler is measured. A descriptor of an event is
//! taken over; then, timed, the event is set, seen, and the descriptor closed: once imported into a
//! semaphore, armed, and driven by the proactor, and once by a poll(2) that finds it readable and a
//! close. Both take turns, a few hundred each, and the medians are compared.
//!
//! A poll(2) that is made when all is over arms nothing and completes nothing, which is less than
//! any loop can do: the ratio tells machines and backends apart. What the import costs beside an
//! io_uring poll written by hand is asked by the benches (`ratios fence`).

use super::{as_json, print};
use crate::failure::{Doing, Result};
use dataplane::fence::{Fence, FenceStatus, Semaphore};
use dataplane::{Event, Proactor, Wait};
use serde::Serialize;
use std::os::fd::AsFd;
use std::time::Instant;

/// Signals in a row of one kind.
const TURN: u32 = 256;

#[derive(Serialize)]
struct Times {
    backend: String,
    count: u32,
    /// Signal to semaphore, of a fence that was imported before.
    import_ns: u64,
    /// Signal to return of poll(2) and of the close.
    poll_ns: u64,
    ratio: f64,
}

/// Runs the command.
pub fn run(count: u32, json: bool) -> Result<()> {
    let io = Proactor::new().doing("make a proactor")?;
    let (mut imports, mut polls) = (Vec::new(), Vec::new());
    while (imports.len() as u32) < count.max(1) {
        for _ in 0..TURN {
            imports.push(import_ns(&io)?);
        }
        for _ in 0..TURN {
            polls.push(poll_ns()?);
        }
    }
    let (import_ns, poll_ns) = (median(&mut imports), median(&mut polls));
    let times = Times {
        backend: io.backend().to_string(),
        count: imports.len() as u32,
        import_ns,
        poll_ns,
        ratio: import_ns as f64 / poll_ns.max(1) as f64,
    };
    print(&match json {
        true => as_json(&times),
        false => format!(
            "{}: {} signals: signal to semaphore {} ns, to poll(2) {} ns, {:.2} times\n",
            times.backend, times.count, times.import_ns, times.poll_ns, times.ratio
        ),
    })
}

/// An event, and a descriptor of it as a fence.
fn event() -> Result<(Event, Fence)> {
    let event = Event::new().doing("make an event")?;
    let fd = event.as_fd().try_clone_to_owned().doing("duplicate an event")?;
    Ok((event, Fence::from_fd(fd).doing("take over an event")?))
}

/// From the signal of an imported event to that of its semaphore.
fn import_ns(io: &Proactor) -> Result<u64> {
    let (event, fence) = event()?;
    let done = Semaphore::new(0);
    io.import_fence(fence, &done, 1).doing("import an event")?;
    io.flush().doing("arm the import")?;
    let begun = Instant::now();
    event.set();
    while done.value().doing("wait for the semaphore")? < 1 {
        io.poll(Wait::Forever).doing("poll")?;
    }
    Ok(begun.elapsed().as_nanos() as u64)
}

/// The same by hand.
fn poll_ns() -> Result<u64> {
    let (event, fence) = event()?;
    let begun = Instant::now();
    event.set();
    while fence.status().doing("poll")? != FenceStatus::Signalled {}
    drop(fence);
    Ok(begun.elapsed().as_nanos() as u64)
}

fn median(values: &mut [u64]) -> u64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1
}
