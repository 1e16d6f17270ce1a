//! One operation at a time: attempt it, then end it or put it where it waits.
//!
//! Runs on the poll owner's thread, inside `wait` and `flush`. The rules are those at the head of
//! the backend.

use super::poller::{ALWAYS, Arming};
use super::standing::Phase;
use super::{Cause, FALSE_REPORTS, Ready, SHOTS_PER_TURN, SOON_NS};
use crate::backend::{Event, MORE, OpId};
use crate::capability::Capability;
use crate::engine::deadlines::now_ns;
use crate::engine::descriptors::DescId;
use crate::engine::table::Table;
use crate::op::Forms;
use crate::op::{Attempt, Context, HelperJob, Interest, Lane, Op};
use std::os::fd::RawFd;

/// What an operation in its slot turned out to be or to do.
enum Look {
    /// A persistent poll: descriptor and interest.
    Watch(RawFd, u32),
    /// About to close this number.
    Close(RawFd),
    /// Its last buffer was not taken yet.
    Busy,
    Tried(Tried),
}

/// One attempt, with what is needed to act on it.
struct Tried {
    attempt: Attempt,
    fd: RawFd,
    owner: Option<DescId>,
    shots: Shots,
    /// Whether EAGAIN proves that the descriptor is not ready: then the next edge tells.
    proves: bool,
    /// Whether a result of zero is the end of a stream.
    reads: bool,
}

/// What follows a success.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shots {
    One,
    /// A multishot accept: zero is a descriptor too.
    Accepts,
    /// A multishot receive: zero is the end.
    Receives,
}

fn look(op: &mut Op, cx: &mut Context<'_>) -> Look {
    match op {
        Op::PollMany(poll) => return Look::Watch(cx.fd(), poll.interest.bits()),
        Op::Close(close) if close.number >= 0 => return Look::Close(close.number),
        Op::RecvMany(recv) if recv.arm.held.is_some() => return Look::Busy,
        _ => {}
    }
    attempt(op, cx)
}

fn attempt(op: &mut Op, cx: &mut Context<'_>) -> Look {
    let many = op.is_multishot() && cx.capabilities.contains(Capability::Multishot);
    let accepts = matches!(op, Op::Accept(_) | Op::AcceptMany(_));
    Look::Tried(Tried {
        fd: cx.fd(),
        owner: op.desc(),
        shots: match (many, accepts) {
            (false, _) => Shots::One,
            (true, true) => Shots::Accepts,
            (true, false) => Shots::Receives,
        },
        proves: !accepts,
        reads: op.lane() == Some(Lane::Recv),
        attempt: op.attempt(cx),
    })
}

impl Ready {
    /// Attempts `id`, ends it or puts it where it waits.
    pub(super) fn run(&mut self, id: OpId, table: &mut Table, cause: Cause) {
        let mut progress = false;
        for _ in 0..SHOTS_PER_TURN {
            let mut found = table.resolve(id, look);
            if let Look::Close(number) = found {
                self.forget(number);
                found = table.resolve(id, attempt);
            }
            let tried = match found {
                Look::Tried(tried) => tried,
                Look::Watch(fd, interest) => return self.watch(id, fd, interest),
                Look::Busy | Look::Close(_) => return self.heat(id),
            };
            let result = match tried.attempt {
                Attempt::Done(result) => result,
                Attempt::Helper(job) => return self.help(id, job, table),
                Attempt::Here(_) | Attempt::Outside | Attempt::Waiting(_) => {
                    unreachable!("the engine attempts it itself")
                }
                Attempt::Blocked(interest) => {
                    if table.groups.has_unused() {
                        // Its return, at the next sweep, may be what others wait for.
                        table.shared.announce();
                    }
                    let cause = if progress { Cause::Turn } else { cause };
                    return self.block(id, &tried, interest, cause);
                }
            };
            match tried.shots {
                Shots::Accepts if result >= 0 => {
                    self.done.push_back(Event::of(id, result, MORE));
                    progress = true;
                }
                Shots::Receives if result > 0 => {
                    self.done.push_back(Event::of(id, result, MORE));
                    return self.heat(id);
                }
                _ => {
                    // A descriptor that is no table's goes with its operation.
                    let over = result < 0 || result == 0 && tried.reads || tried.owner.is_none();
                    return self.end(id, Event::of(id, result, 0), tried.fd, over);
                }
            }
        }
        self.heat(id);
    }

    /// More to do at the next turn.
    fn heat(&mut self, id: OpId) {
        self.leave_descriptor(id, false);
        self.standing.set(id, Phase::Hot);
        self.hot.push_back(id);
    }

    /// Nothing to do before a moment has passed.
    fn rest(&mut self, id: OpId) {
        self.leave_descriptor(id, false);
        self.standing.set(id, Phase::Soon);
        self.soon.push_back((now_ns() + SOON_NS, id));
    }

    fn help(&mut self, id: OpId, job: HelperJob, table: &mut Table) {
        self.leave_descriptor(id, false);
        if let Err(errno) = table.run_helper(id, job) {
            self.done.push_back(Event::of(id, -errno, 0));
        }
    }

    /// The last event of `id`; `over`: its descriptor is probably closed next.
    fn end(&mut self, id: OpId, event: Event, fd: RawFd, over: bool) {
        self.leave_descriptor(id, false);
        if over && self.standing.is_idle(fd) && self.standing.is_registered(fd) {
            self.forget(fd);
        }
        self.done.push_back(event);
    }

    /// Takes `id` from where it waits, and its descriptor from the poller when it was the last
    /// one there and registrations are not kept, or are not wanted any more.
    fn leave_descriptor(&mut self, id: OpId, over: bool) {
        let Some(fd) = self.standing.leave(id) else { return };
        let needed = self.standing.needed(fd);
        if self.standing.is_idle(fd) {
            if over || !self.poller.keeps() {
                self.forget(fd);
            }
        } else {
            // With epoll nothing to tell; with poll an entry that exists: neither can fail.
            let generation = self.standing.generation(fd);
            let _ = self.poller.arm(fd, generation, needed, Arming::Kept);
        }
    }

    fn forget(&mut self, fd: RawFd) {
        if self.standing.is_registered(fd) {
            self.poller.disarm(fd);
            self.standing.set_registered(fd, false);
        }
    }

    /// The call would block: stand, or rest where readiness does not tell.
    fn block(&mut self, id: OpId, tried: &Tried, interest: Interest, cause: Cause) {
        if interest == Interest::SOON {
            return self.rest(id);
        }
        let misled = cause == Cause::Report;
        let bits = interest.bits();
        let stood = self.standing.stand(id, tried.fd, tried.owner, bits);
        if misled && self.standing.false_report(id) >= FALSE_REPORTS {
            return self.rest(id);
        }
        let proven = tried.proves && interest == Interest::READABLE && !misled;
        let arming = match (stood.registered, proven) {
            (false, _) => Arming::New,
            (true, false) => Arming::Again,
            (true, true) => Arming::Kept,
        };
        match self.poller.arm(tried.fd, stood.generation, stood.needed, arming) {
            Ok(()) => self.standing.set_registered(tried.fd, true),
            Err(errno) => self.end(id, Event::of(id, -errno, 0), tried.fd, true),
        }
    }

    fn watch(&mut self, id: OpId, fd: RawFd, interest: u32) {
        let own = match self.poller.watch(id, fd, interest) {
            Ok(own) => own,
            Err(errno) => return self.done.push_back(Event::of(id, -errno, 0)),
        };
        self.standing.set(id, Phase::Watching);
        self.watches.insert(id, (own, interest | ALWAYS));
    }

    /// Ends what still waits; what is over, or about to be, answers by itself.
    pub(super) fn cancel_now(&mut self, id: OpId, table: &mut Table) {
        match self.standing.phase(id) {
            Phase::Absent if table.cancel_helper(id) != Some(true) => return,
            Phase::Absent => {}
            Phase::Watching => {
                self.standing.leave(id);
                if let Some((own, _)) = self.watches.remove(&id) {
                    self.poller.unwatch(own);
                }
            }
            Phase::Standing | Phase::Soon | Phase::Hot => self.leave_descriptor(id, true),
        }
        self.done.push_back(Event::of(id, -libc::ECANCELED, 0));
    }
}
