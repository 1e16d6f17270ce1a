//! Signals as events of the loop: SIGUSR1 shows what is in flight, SIGINT and SIGTERM end in order.
//!
//! The three are blocked before any thread starts, so that every thread inherits the mask, and are
//! read from a `signalfd(2)` the proactor watches. No handler of ours runs in signal context. An
//! ordered end drops the work: sockets close, temporary files go.

use crate::failure::{Doing, Exit, Failure, Result};
use crate::report::say;
use dataplane::{Handle, Interest, Proactor};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The process's signals; made once, before threads.
pub struct Signals {
    descriptor: Rc<SignalFd>,
    /// Other loops of this process, whose operations are shown too.
    pub others: RefCell<Vec<Handle>>,
}

#[derive(Default)]
struct Seen {
    signals: VecDeque<Signal>,
    waker: Option<Waker>,
}

impl Signals {
    /// Blocks the signals on this thread and on those it starts from now on.
    pub fn block() -> Result<Signals> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGUSR1, Signal::SIGINT, Signal::SIGTERM] {
            set.add(signal);
        }
        set.thread_block().doing("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&set, flags).doing("watch signals")?;
        Ok(Signals { descriptor: Rc::new(descriptor), others: RefCell::default() })
    }

    /// Runs work on the loop until it is done or a signal ends it.
    pub fn drive<T>(&self, io: &Proactor, work: impl Future<Output = Result<T>>) -> Result<T> {
        let seen: Rc<RefCell<Seen>> = Rc::default();
        let (descriptor, inside) = (self.descriptor.clone(), seen.clone());
        let watch = io.watch(&*self.descriptor, Interest::READABLE, move |_, _| {
            let mut seen = inside.borrow_mut();
            while let Ok(Some(info)) = descriptor.read_signal() {
                seen.signals.extend(Signal::try_from(info.ssi_signo as i32));
            }
            let waker = seen.waker.take();
            drop(seen);
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        let _watch = watch.doing("watch signals")?;
        let mut work = pin!(work);
        let both = poll_fn(|cx| {
            loop {
                let next = seen.borrow_mut().signals.pop_front();
                match next {
                    None => break,
                    Some(Signal::SIGUSR1) => self.show(io),
                    Some(signal) => {
                        let text = format!("ended by {signal}; nothing unfinished is left behind");
                        return Poll::Ready(Err(Failure::new(Exit::Interrupted, text)));
                    }
                }
            }
            seen.borrow_mut().waker = Some(cx.waker().clone());
            work.as_mut().poll(cx)
        });
        io.block_on(both).doing("run the loop")?
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
