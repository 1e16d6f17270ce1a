//! The two pollers and every system call they make: `epoll(7)` and `poll(2)` in one binary.
//!
//! Each poller watches three kinds of things, told apart by their [`Token`]:
//!
//! - *descriptors* on which operations stand ([`Poller::arm`], [`Poller::disarm`]);
//! - *edges* for persistent polls ([`Poller::watch`], [`Poller::unwatch`]): a report for each new
//!   readiness and never twice the same one;
//! - its own business: the bell of other threads and, with epoll, the timer.
//!
//! # epoll
//!
//! Descriptors are registered edge-triggered for everything, once, and stay registered while
//! operations come and go: a request and its answer cost no `epoll_ctl`. The price of edges is
//! that an operation may stand on a descriptor that is ready already. Whoever cannot exclude that
//! arms with [`Arming::Again`]: `EPOLL_CTL_MOD` looks at the descriptor anew and reports what it
//! finds. A registration whose file lives on after its number was closed (it was duplicated) can
//! no longer be removed; being edge-triggered it costs one stale event per activity and never a
//! spin, and the generation in its token tells that it is stale.
//!
//! Deadlines go to a timerfd in the set, absolute in CLOCK_MONOTONIC nanoseconds, so an interrupted
//! wait is simply repeated. It is set again only for an *earlier* instant; one that is no longer
//! wanted ends one wait early. The descriptor of the set therefore shows all there is to do, and a
//! host runtime can watch it.
//!
//! # poll
//!
//! A vector of `pollfd` kept in step: adding, changing and removing an entry are O(1). It is
//! level-triggered; the entry of a descriptor exists only while operations stand on it. Deadlines
//! are the relative timeout of `ppoll(2)`, computed anew after each interruption.
//!
//! # Edges
//!
//! `poll(2)` cannot tell a new readiness from the old one: when a descriptor was drained and filled
//! between two looks, nothing seems to have changed, and a report that waits for "not ready" would
//! be lost for ever. The only object that counts wake-ups is an epoll set. So persistent polls are
//! edge-triggered registrations in both pollers: directly in the set, or, with poll, in a small set
//! of their own whose descriptor stands in the vector. Each is made on a duplicate of the
//! descriptor, since a set holds one registration per number, and another is needed beside that of
//! the standing operations. What is reported is what an io_uring multishot poll reports: once
//! for the state found at the start, then for each wake-up of the file; wake-ups between two waits
//! are merged.
//!
//! Everything here belongs to the poll owner's thread. Unsafe code: the system calls, on arrays
//! owned here.
#![allow(unsafe_code)]

use super::token::{Report, Token};
use crate::backend::{OpId, Until};
use crate::engine::deadlines::now_ns;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Bits that are reported whether asked for or not: error, hang-up, closed number.
pub(super) const ALWAYS: u32 = (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) as u32;
/// Most reports taken from a set at once.
const REPORTS: usize = 256;
/// No place in the vector.
const NOWHERE: u32 = u32::MAX;

/// How sure the caller is of the registration of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arming {
    /// There is none.
    New,
    /// There is one; look at the descriptor again, it may be ready already.
    Again,
    /// There is one, and the descriptor was found not ready: the next edge tells.
    Kept,
}

/// One of the two.
pub(super) enum Poller {
    Epoll(Epoll),
    Poll(PollSet),
}

impl Poller {
    /// Watches `fd` for operations waiting for `bits`. An errno when the system refuses: nobody
    /// waits for a descriptor without readiness, which is known when it is adopted.
    pub(super) fn arm(
        &mut self,
        fd: RawFd,
        generation: u32,
        bits: u32,
        arming: Arming,
    ) -> Result<(), i32> {
        let token = Token::Descriptor(fd, generation);
        match self {
            Poller::Epoll(_) if arming == Arming::Kept => Ok(()),
            Poller::Epoll(epoll) => epoll.set.arm(fd, token, arming == Arming::New),
            Poller::Poll(set) => set.put(fd, token, bits),
        }
    }

    /// Stops watching `fd`. A number that is not watched, or closed, is no error.
    pub(super) fn disarm(&mut self, fd: RawFd) {
        match self {
            Poller::Epoll(epoll) => epoll.set.remove(fd),
            Poller::Poll(set) => set.take(fd),
        }
    }

    /// Whether registrations stay while no operation stands on their descriptor.
    pub(super) fn keeps(&self) -> bool {
        matches!(self, Poller::Epoll(_))
    }

    /// Begins to report each new readiness of `fd` for `bits`; the duplicate ends it, given to
    /// [`unwatch`](Self::unwatch).
    pub(super) fn watch(&mut self, id: OpId, fd: RawFd, bits: u32) -> Result<OwnedFd, i32> {
        let own = duplicate(fd)?;
        let set = match self {
            Poller::Epoll(epoll) => &epoll.set,
            Poller::Poll(set) => set.edges()?,
        };
        let events = bits | libc::EPOLLET as u32;
        set.control(libc::EPOLL_CTL_ADD, own.as_raw_fd(), Token::Watch(id), events)?;
        Ok(own)
    }

    /// Ends a watch and closes its duplicate.
    pub(super) fn unwatch(&mut self, own: OwnedFd) {
        match self {
            Poller::Epoll(epoll) => epoll.set.remove(own.as_raw_fd()),
            Poller::Poll(set) => set.edges.iter().for_each(|edges| edges.remove(own.as_raw_fd())),
        }
    }

    /// Waits until something is reported, at most until `until`, and appends the reports.
    /// Interruptions are not reported. One call that can sleep, repeated only when interrupted.
    pub(super) fn wait(&mut self, until: Until, out: &mut Vec<Report>) -> Result<(), i32> {
        match self {
            Poller::Epoll(epoll) => epoll.wait(until, out),
            Poller::Poll(set) => set.wait(until, out),
        }
    }

    /// Makes the watchable descriptor readable at `at_ns`. Without one there is nothing to do.
    pub(super) fn remind(&mut self, at_ns: u64) -> Result<(), i32> {
        match self {
            Poller::Epoll(epoll) => epoll.timer.set_if_earlier(at_ns),
            Poller::Poll(_) => Ok(()),
        }
    }

    /// The descriptor of the set, where there is one.
    pub(super) fn watchable(&self) -> Option<RawFd> {
        match self {
            Poller::Epoll(epoll) => Some(epoll.set.0.as_raw_fd()),
            Poller::Poll(_) => None,
        }
    }
}

/// The value of a system call, or its errno.
fn checked(value: libc::c_int) -> Result<libc::c_int, i32> {
    match value {
        0.. => Ok(value),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
    }
}

fn owned(value: libc::c_int) -> Result<OwnedFd, i32> {
    let number = checked(value)?;
    // SAFETY: the system has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn duplicate(fd: RawFd) -> Result<OwnedFd, i32> {
    // SAFETY: takes and returns plain numbers; a bad one is EBADF.
    owned(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })
}

/// An epoll set: registrations and reports.
pub(super) struct Set(OwnedFd);

impl Set {
    fn new() -> Result<Set, i32> {
        // SAFETY: takes and returns plain numbers.
        Ok(Set(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?))
    }

    fn control(&self, what: i32, fd: RawFd, token: Token, events: u32) -> Result<(), i32> {
        let mut event = libc::epoll_event { events, u64: token.pack() };
        // SAFETY: `event` lives across the call; numbers that are not open are EBADF.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd, &mut event) }).map(drop)
    }

    /// Registers for every edge, or looks again. What the caller believes of the registration
    /// may be outdated, since a close removes it: the other form is tried then.
    fn arm(&self, fd: RawFd, token: Token, new: bool) -> Result<(), i32> {
        let all = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLET;
        let (add, modify) = (libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD);
        let (first, second) = if new { (add, modify) } else { (modify, add) };
        match self.control(first, fd, token, all as u32) {
            Err(libc::EEXIST | libc::ENOENT) => self.control(second, fd, token, all as u32),
            other => other,
        }
    }

    fn remove(&self, fd: RawFd) {
        // Not registered or closed already: it is out of the set, which is what was asked for.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, Token::Bell, 0);
    }

    /// Reports with a timeout of whole milliseconds; -1 waits for ever.
    fn reports(&self, timeout_ms: i32, out: &mut Vec<Report>) -> Result<(), i32> {
        let mut found = [libc::epoll_event { events: 0, u64: 0 }; REPORTS];
        let count = loop {
            // SAFETY: the array is ours and as long as it says.
            let count = checked(unsafe {
                let room = REPORTS as libc::c_int;
                libc::epoll_wait(self.0.as_raw_fd(), found.as_mut_ptr(), room, timeout_ms)
            });
            match count {
                Err(libc::EINTR) => {}
                other => break other? as usize,
            }
        };
        out.extend(
            found[..count].iter().map(|event| Report {
                token: Token::unpack(event.u64),
                bits: event.events & 0xffff,
            }),
        );
        Ok(())
    }
}

/// The timer of an epoll set, and the instant it stands at.
struct Timer {
    own: OwnedFd,
    armed_ns: u64,
}

impl Timer {
    fn new() -> Result<Timer, i32> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes and returns plain numbers.
        let own = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        Ok(Timer { own, armed_ns: u64::MAX })
    }

    fn set_if_earlier(&mut self, at_ns: u64) -> Result<(), i32> {
        if at_ns >= self.armed_ns {
            return Ok(());
        }
        // An instant of zero would disarm it.
        let value = timespec(at_ns.max(1));
        let zero = timespec(0);
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: `setting` lives across the call; no old value is asked for.
        checked(unsafe {
            let (fd, absolute) = (self.own.as_raw_fd(), libc::TFD_TIMER_ABSTIME);
            libc::timerfd_settime(fd, absolute, &setting, std::ptr::null_mut())
        })?;
        self.armed_ns = at_ns;
        Ok(())
    }
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

/// See the head of this file.
pub(super) struct Epoll {
    set: Set,
    timer: Timer,
}

impl Epoll {
    /// A set that holds the bell and a timer.
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE, ENOMEM of `epoll_create1(2)` and `timerfd_create(2)`.
    pub(super) fn new(bell: BorrowedFd<'_>) -> io::Result<Epoll> {
        let make = || {
            let (set, timer) = (Set::new()?, Timer::new()?);
            let readable = libc::EPOLLIN as u32;
            set.control(libc::EPOLL_CTL_ADD, bell.as_raw_fd(), Token::Bell, readable)?;
            // Edge-triggered: setting it anew ends what was reported, so it is never read.
            let edges = readable | libc::EPOLLET as u32;
            set.control(libc::EPOLL_CTL_ADD, timer.own.as_raw_fd(), Token::Timer, edges)?;
            Ok(Epoll { set, timer })
        };
        make().map_err(io::Error::from_raw_os_error)
    }

    fn wait(&mut self, until: Until, out: &mut Vec<Report>) -> Result<(), i32> {
        let timeout_ms = match until {
            Until::Now => 0,
            Until::Forever => -1,
            Until::At(at_ns) if at_ns <= now_ns() => 0,
            Until::At(at_ns) => {
                self.timer.set_if_earlier(at_ns)?;
                -1
            }
        };
        let before = out.len();
        self.set.reports(timeout_ms, out)?;
        if out[before..].iter().any(|report| report.token == Token::Timer) {
            self.timer.armed_ns = u64::MAX;
        }
        Ok(())
    }
}

/// See the head of this file.
pub(super) struct PollSet {
    entries: Vec<libc::pollfd>,
    tokens: Vec<Token>,
    /// Place of a descriptor number in the two above.
    places: Vec<u32>,
    edges: Option<Set>,
}

impl PollSet {
    /// A vector that holds the bell.
    pub(super) fn new(bell: BorrowedFd<'_>) -> PollSet {
        let mut set =
            PollSet { entries: Vec::new(), tokens: Vec::new(), places: Vec::new(), edges: None };
        set.insert(bell.as_raw_fd(), Token::Bell, libc::POLLIN);
        set
    }

    fn place(&self, fd: RawFd) -> Option<usize> {
        let place = *self.places.get(usize::try_from(fd).ok()?)?;
        (place != NOWHERE).then_some(place as usize)
    }

    fn insert(&mut self, fd: RawFd, token: Token, events: i16) {
        let number = fd as usize;
        if number >= self.places.len() {
            self.places.resize((number + 1).next_power_of_two(), NOWHERE);
        }
        self.places[number] = self.entries.len() as u32;
        self.entries.push(libc::pollfd { fd, events, revents: 0 });
        self.tokens.push(token);
    }

    fn put(&mut self, fd: RawFd, token: Token, bits: u32) -> Result<(), i32> {
        if fd < 0 {
            return Err(libc::EBADF);
        }
        match self.place(fd) {
            Some(place) => {
                self.entries[place].events = bits as i16;
                self.tokens[place] = token;
            }
            None => self.insert(fd, token, bits as i16),
        }
        Ok(())
    }

    fn take(&mut self, fd: RawFd) {
        let Some(place) = self.place(fd) else { return };
        self.places[fd as usize] = NOWHERE;
        self.entries.swap_remove(place);
        self.tokens.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            self.places[moved.fd as usize] = place as u32;
        }
    }

    fn edges(&mut self) -> Result<&Set, i32> {
        if self.edges.is_none() {
            let set = Set::new()?;
            self.insert(set.0.as_raw_fd(), Token::Edges, libc::POLLIN);
            self.edges = Some(set);
        }
        self.edges.as_ref().ok_or(libc::EBADF)
    }

    fn wait(&mut self, until: Until, out: &mut Vec<Report>) -> Result<(), i32> {
        let mut left = self.sleep(until)?;
        for (entry, token) in self.entries.iter().zip(&self.tokens) {
            if left == 0 {
                break;
            }
            if entry.revents == 0 {
                continue;
            }
            left -= 1;
            match (token, &self.edges) {
                (Token::Edges, Some(edges)) => edges.reports(0, out)?,
                _ => out.push(Report { token: *token, bits: u32::from(entry.revents as u16) }),
            }
        }
        Ok(())
    }

    fn sleep(&mut self, until: Until) -> Result<usize, i32> {
        loop {
            let timeout = match until {
                Until::Now => Some(timespec(0)),
                Until::Forever => None,
                Until::At(at_ns) => Some(timespec(at_ns.saturating_sub(now_ns()))),
            };
            let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the vector is ours and as long as it says; the timeout lives across the call.
            let count = checked(unsafe {
                let (at, length) = (self.entries.as_mut_ptr(), self.entries.len() as libc::nfds_t);
                libc::ppoll(at, length, timeout, std::ptr::null())
            });
            match count {
                Err(libc::EINTR) => {}
                other => return other.map(|count| count as usize),
            }
        }
    }
}

#[cfg(test)]
#[path = "poller_tests.rs"]
mod tests;
