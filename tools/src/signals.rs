//! Signals as events of the loop: SIGUSR1 shows what is in flight, SIGINT and SIGTERM end in order.
//!
//! The three are blocked before any thread starts, so that every thread inherits the mask; the loop
//! that drives the work owns them. No handler of ours runs in signal context. An ordered end drops
//! the work: sockets close, temporary files go.

use crate::failure::{Doing, Exit, Failure, Result};
use crate::report::say;
use dataplane::{Handle, Proactor, Signal, block_signals_early};
use futures_util::future::{Either, select};
use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;

const OURS: [Signal; 3] = [Signal::User1, Signal::Interrupt, Signal::Terminate];

/// The process's signals; made once, before threads.
pub struct Signals {
    /// Other loops of this process, whose operations are shown too.
    pub others: RefCell<Vec<Handle>>,
}

impl Signals {
    /// Blocks the signals on this thread and on those it starts from now on.
    pub fn block() -> Result<Signals> {
        block_signals_early(OURS).doing("block signals")?;
        Ok(Signals { others: RefCell::default() })
    }

    /// Runs work on the loop until it is done or a signal ends it.
    pub fn drive<T>(&self, io: &Proactor, work: impl Future<Output = Result<T>>) -> Result<T> {
        let signals = io.signals(OURS).doing("watch signals")?;
        let mut arriving = signals.stream(OURS).doing("watch signals")?;
        let ended = pin!(async {
            loop {
                match arriving.next().await.map(|received| received.signal) {
                    Some(Signal::User1) => self.show(io),
                    Some(signal) => {
                        let text = format!("ended by {signal}; nothing unfinished is left behind");
                        return Failure::new(Exit::Interrupted, text);
                    }
                    // The loop has ended, and says itself why.
                    None => std::future::pending().await,
                }
            }
        });
        // Signals first: work that is always ready must not keep them out.
        match io.block_on(select(ended, pin!(work))).doing("run the loop")? {
            Either::Left((failure, _)) => Err(failure),
            Either::Right((done, _)) => done,
        }
    }

    fn show(&self, io: &Proactor) {
        show("this loop", io);
        for other in self.others.borrow().iter() {
            // Its answer is what it prints; a loop that is gone has nothing in flight.
            drop(other.call(|io| show("receiver", io)));
        }
    }
}

fn show(name: &str, io: &Proactor) {
    let entries = io.in_flight();
    say(format_args!("{name}: {} operations in flight on {}", entries.len(), io.backend()));
    for entry in entries {
        say(format_args!("  {entry}"));
    }
}
