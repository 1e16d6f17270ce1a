//! A proactor inside a host runtime: tokio, or whatever can wait for a descriptor.
//!
//! The host's thread owns the proactor; operations are awaited in the host's own local tasks. A
//! [`Hosted`] has one descriptor that is readable when there is something to do: completions, the
//! bell that other threads ring, or a deadline. So a host needs no timer of ours, only a way to
//! wait for readability, and this module needs no runtime.
//!
//! # The order
//!
//! Each [`turn`](Hosted::turn): **poll** without sleeping (which on io_uring enters the kernel:
//! under DEFER_TASKRUN nothing completes before), and when nothing was delivered **flush**, **arm**
//! the wake word, and **look again** whether the descriptor is readable. Only then may the host
//! sleep. What its other tasks submit meanwhile wakes it through the bell.
//!
//! # Inside tokio
//!
//! On a current-thread runtime, or in a `LocalSet`, with the feature `tokio`:
//!
//! ```
//! use dataplane::{Backend, Hosted, Options, Proactor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokio = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
//! let io = Proactor::with(Options::default().backend(Backend::Epoll))?;
//! let work = async { io.nop().await.map(|()| 42) };
//! let answer = tokio.block_on(Hosted::new(&io)?.drive_in_tokio(work))??;
//! assert_eq!(answer, 42);
//! # Ok(())
//! # }
//! ```
//!
//! Any other host: [`drive`](Hosted::drive), or [`turn`](Hosted::turn) by hand.
//!
//! # Limits
//!
//! One `Hosted` of a proactor is driven at a time. On the poll(2) backend there is no descriptor
//! that shows readiness: Unavailable; give the proactor a thread of its own and use a
//! [`Handle`](crate::Handle).

use crate::engine::deadlines::now_ns;
use crate::error::{Error, ErrorKind, Result};
use crate::proactor::rest::Rest;
use crate::proactor::{Proactor, Wait};
use crate::sys::calls;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

pub(super) const NAME: &str = "host";

/// What a host does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Let its other tasks run, then take another turn.
    Again,
    /// Sleep until the descriptor is readable, then take another turn.
    Rest,
}

/// A proactor that a host runtime drives; see the head of this module.
pub struct Hosted {
    io: Proactor,
    /// The backend's descriptor, the bell and the timer, in one that the host watches.
    set: Epoll,
    timer: TimerFd,
    /// What the timer was last set to, in ns of CLOCK_MONOTONIC.
    alarm_ns: Cell<Option<u64>>,
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted").field("io", &self.io).finish_non_exhaustive()
    }
}

fn system(errno: Errno) -> Error {
    Error::from_errno(NAME, errno as i32)
}

impl Hosted {
    /// Makes a proactor of this thread ready to be driven by a host.
    ///
    /// # Errors
    ///
    /// Unavailable on the poll(2) backend; what the system says when descriptors run out.
    pub fn new(io: &Proactor) -> Result<Hosted> {
        let Some(backend) = io.watchable() else {
            let message = "the poll(2) backend has no descriptor a host could watch; use io_uring \
                           or epoll, or give the proactor a thread of its own and use a Handle";
            return Err(Error::new(NAME, ErrorKind::Unavailable, message));
        };
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system)?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(system)?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        // The set knows the open file, not the number: it needs no descriptor of its own, and
        // forgets the file when the backend closes it.
        let passing = calls::dup(backend).map_err(|error| Error::from_io(NAME, &error))?;
        set.add(&passing, readable()).map_err(system)?;
        set.add(&timer, readable()).map_err(system)?;
        // The backend watches it too; here it also tells of the proactor's end.
        set.add(&io.inner().shared.bell, readable()).map_err(system)?;
        Ok(Hosted { io: io.clone(), set, timer, alarm_ns: Cell::new(None) })
    }

    /// The proactor.
    pub fn proactor(&self) -> &Proactor {
        &self.io
    }

    /// Delivers what is there, hands over what is staged, and says whether the host may sleep.
    ///
    /// # Errors
    ///
    /// As [`Proactor::poll`].
    pub fn turn(&self) -> Result<Turn> {
        self.io.stir()?;
        if self.io.poll(Wait::Now)? > 0 {
            return Ok(Turn::Again);
        }
        let Rest::Until(deadline_ns) = self.io.rest()? else { return Ok(Turn::Again) };
        self.set_alarm(deadline_ns)?;
        match self.is_readable()? {
            true => Ok(Turn::Again),
            false => Ok(Turn::Rest),
        }
    }

    /// Ok when there is something to do, else WouldBlock: what `AsyncFd::async_io` of tokio and
    /// `Async::read_with` of async-io ask for.
    ///
    /// # Errors
    ///
    /// WouldBlock, or what `epoll_wait(2)` says.
    pub fn check(&self) -> io::Result<()> {
        match self.is_readable() {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Drives the proactor until `future` is ready, and returns its value. Every other task of
    /// this thread may use the proactor meanwhile. To drive it for others only, hand in a future
    /// that never is ready, and drop this one at the end.
    ///
    /// `readable` waits until the host sees the descriptor readable; it is called before each
    /// sleep. It must be sure that the descriptor is not readable ([`check`](Self::check)) before
    /// it waits.
    ///
    /// # Errors
    ///
    /// As [`Proactor::poll`]; Io with what `readable` failed with.
    pub async fn drive<F, R>(&self, readable: impl Fn() -> R, future: F) -> Result<F::Output>
    where
        F: Future,
        R: Future<Output = io::Result<()>>,
    {
        let mut future = pin!(future);
        let mut waiting = pin!(None::<R>);
        poll_fn(|cx| {
            loop {
                // What the future stages needs no bell: the turn below hands it over.
                self.io.stir()?;
                if let Poll::Ready(value) = future.as_mut().poll(cx) {
                    return Poll::Ready(Ok(value));
                }
                if self.turn()? == Turn::Again {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if waiting.is_none() {
                    waiting.set(Some(readable()));
                }
                let Some(wait) = waiting.as_mut().as_pin_mut() else { continue };
                match wait.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(woken) => {
                        waiting.set(None);
                        woken.map_err(|error| Error::from_io(NAME, &error))?;
                    }
                }
            }
        })
        .await
    }

    /// Makes the descriptor readable at the deadline, or never.
    fn set_alarm(&self, at_ns: Option<u64>) -> Result<()> {
        let stale = self.alarm_ns.get().is_some_and(|alarm_ns| alarm_ns <= now_ns());
        if self.alarm_ns.get() == at_ns && !stale {
            return Ok(());
        }
        match at_ns {
            None => self.timer.unset().map_err(system)?,
            // Zero would disarm it.
            Some(at_ns) => {
                let at = TimeSpec::from(Duration::from_nanos(at_ns.max(1)));
                let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
                self.timer.set(Expiration::OneShot(at), flags).map_err(system)?;
            }
        }
        self.alarm_ns.set(at_ns);
        Ok(())
    }

    fn is_readable(&self) -> Result<bool> {
        let mut events = [EpollEvent::empty()];
        loop {
            match self.set.wait(&mut events, EpollTimeout::ZERO) {
                Ok(count) => return Ok(count > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(system(errno)),
            }
        }
    }
}

impl AsFd for Hosted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.0.as_fd()
    }
}

impl AsRawFd for Hosted {
    fn as_raw_fd(&self) -> RawFd {
        self.set.0.as_raw_fd()
    }
}
