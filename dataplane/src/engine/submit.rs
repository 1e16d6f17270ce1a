//! From submission to backend: checking, the bound, lanes, pools, deadlines, cancel.

use super::descriptors::DescId;
use super::groups::PoolId;
use super::slots::{Link, NONE, Notify, State, Step};
use super::{Engine, Fire, Outcome, Reason, deadlines};
use crate::backend::{AnyBackend, Event, OpId};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Attempt, Forms, Op, Shape, Stored};
use crate::remote::inbox;

/// What an operation uses.
pub(super) struct Links {
    desc: Option<DescId>,
    pool: Option<PoolId>,
    source: Option<DescId>,
}

impl Links {
    pub(super) fn of<F: Forms>(op: &F) -> Links {
        Links { desc: op.desc(), pool: op.pool(), source: op.source() }
    }
}

#[cold]
fn no_slot<F: Forms>(op: F) -> (Error, F) {
    let message = "too many results wait for their futures; take or drop some";
    (Error::new(op.name(), ErrorKind::Exhausted, message), op)
}

/// The error of what was made by one proactor and given to another.
#[cold]
fn foreign(name: &'static str, what: &str) -> Error {
    let message = format!("{what} belongs to another proactor; make one with this proactor");
    Error::new(name, ErrorKind::InvalidArgument, message)
}

impl Engine {
    /// Checks one operation without submitting it.
    #[inline]
    pub(crate) fn check<F: Forms>(&self, op: &F) -> Result<()> {
        let name = op.name();
        if self.poisoned {
            let message = "the kernel dropped completions; make a new proactor";
            return Err(Error::new(name, ErrorKind::DataLoss, message));
        }
        if self.draining {
            return Err(inbox::gone(name));
        }
        for desc in [op.desc(), op.source(), op.closes()].into_iter().flatten() {
            self.check_descriptor(name, desc)?;
        }
        if let Some(pool) = op.pool()
            && !self.table.groups.is_open(pool)
        {
            return Err(match self.table.groups.owns(pool) {
                true => Error::new(name, ErrorKind::Closed, "the receive pool was dropped"),
                false => foreign(name, "the receive pool"),
            });
        }
        op.check(op.desc().and_then(|desc| self.table.descriptors.peek(desc)))
    }

    fn check_descriptor(&self, name: &'static str, desc: DescId) -> Result<()> {
        match self.table.descriptors.peek(desc) {
            Some(found) if found.is_open() && !found.closing => match found.dead {
                Some(errno) if !matches!(name, "close" | "shutdown") => {
                    let message = "the connection died earlier";
                    Err(Error::from_errno(name, errno).with_message(message))
                }
                _ => Ok(()),
            },
            None if !self.table.descriptors.owns(desc) => Err(foreign(name, "the descriptor")),
            _ => Err(Error::new(name, ErrorKind::Closed, "the descriptor is closed")),
        }
    }

    /// Room for `count` more operations, or the error that says how to get it.
    pub(crate) fn check_room(&self, name: &'static str, count: usize) -> Result<()> {
        if self.table.slots.in_flight as usize + count <= self.bound as usize {
            return Ok(());
        }
        let message = format!(
            "{} of {} operations are in flight; try again after a poll, or raise \
             Options::operations",
            self.table.slots.in_flight, self.bound
        );
        Err(Error::new(name, ErrorKind::Exhausted, message))
    }

    /// Submits one operation: it is staged, the kernel sees it with the next wait or flush.
    /// `notify` is left with the caller when the operation is refused: what a callback holds may
    /// be the user's last handle of something, to be dropped with nothing borrowed.
    #[inline(always)]
    pub(crate) fn submit<F: Forms + Stored>(
        &mut self,
        op: F,
        notify: &mut Notify,
        deadline_ns: Option<u64>,
    ) -> Result<OpId, (Error, F)> {
        if let Err(error) = self.check(&op).and_then(|()| self.check_room(op.name(), 1)) {
            return Err((error, op));
        }
        self.place(op, notify, deadline_ns)
    }

    /// Puts a checked operation into a slot and starts it.
    #[inline(always)]
    pub(crate) fn place<F: Forms + Stored>(
        &mut self,
        op: F,
        notify: &mut Notify,
        deadline_ns: Option<u64>,
    ) -> Result<OpId, (Error, F)> {
        let Some(index) = self.table.slots.take() else { return Err(no_slot(op)) };
        if self.resting {
            self.rouse();
        }
        self.table.slots.in_flight += 1;
        let shape = op.shape();
        let fires_at = op.fires_at();
        let links = Links::of(&op);
        let id = self.table.slots.id(index);
        self.table.slots.spans.begin(id, op.name());
        let slot = self.table.slots.at(index);
        slot.begin(State::InFlight, shape, self.counters.turn_ns);
        // A free slot tells nobody.
        if !matches!(notify, Notify::Nobody) {
            slot.notify = std::mem::replace(notify, Notify::Nobody);
        }
        match (shape, &mut self.backend) {
            // An entry is all it needs: the slot keeps no copy.
            (Shape::Plain, Some(AnyBackend::Uring(uring))) => {
                slot.owed = 1;
                slot.is_kept = false;
                uring.push_plain(id, &op);
            }
            (Shape::Plain, Some(AnyBackend::Other(other))) => {
                slot.owed = 1;
                op.put(&mut self.table.slots.body(index).op);
                other.push(id, &mut self.table);
            }
            _ => op.put(&mut self.table.slots.body(index).op),
        }
        if fires_at.is_some() || deadline_ns.is_some() || self.options.timeout.is_some() {
            // A timer may have to end before it fires; the default timeout is not for timers.
            let end_ns = [fires_at, deadline_ns].into_iter().flatten().min();
            self.set_deadline(index, end_ns);
        }
        match (shape, links.desc) {
            (Shape::Plain, _) => {}
            (Shape::Single, desc) => {
                if let Some(desc) = desc {
                    self.link(index, desc.index);
                }
                self.hand_over(id);
            }
            _ => {
                self.enlist(index, links);
                self.start(index);
            }
        }
        Ok(id)
    }

    pub(super) fn set_deadline(&mut self, index: u32, at_ns: Option<u64>) {
        let at_ns = at_ns.unwrap_or_else(|| {
            let timeout = self.options.timeout.unwrap_or_default();
            deadlines::now_ns().saturating_add(timeout.as_nanos() as u64)
        });
        if at_ns == deadlines::NEVER_NS {
            return;
        }
        self.table.slots.at(index).has_deadline = true;
        self.deadlines.insert(index, at_ns);
    }

    /// An earlier end than the one it has, if it is earlier.
    pub(super) fn end_by(&mut self, index: u32, at_ns: u64) {
        let own = self.deadlines.at_ns(index).unwrap_or(at_ns);
        self.set_deadline(index, Some(own.min(at_ns)));
    }

    /// Counts the operation in everything it uses.
    pub(super) fn enlist(&mut self, index: u32, links: Links) {
        if let Some(desc) = links.desc {
            self.link(index, desc.index);
        }
        if let Some(pool) = links.pool.and_then(|pool| self.table.groups.find(pool)) {
            pool.arm();
        }
        if let Some(source) = links.source.and_then(|desc| self.table.descriptors.find(desc)) {
            source.pins += 1;
        }
    }

    /// To the backend, which owes a result from here on.
    #[inline]
    fn hand_over(&mut self, id: OpId) {
        self.table.slots.at(id.index()).owed += 1;
        if let Some(backend) = &mut self.backend {
            backend.push(id, &mut self.table);
        }
    }

    /// Enters the lane, or hands it over at once.
    pub(super) fn start(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        let Some(op) = body.op.as_ref() else { return };
        if slot.desc == NONE || slot.holds_lane {
            return self.launch(index);
        }
        let descriptor = self.table.descriptors.at(slot.desc);
        let Some(lane) = op.lane().filter(|_| descriptor.has_lanes()) else {
            return self.launch(index);
        };
        let lane = &mut descriptor.lanes[lane as usize];
        let holder = lane.holder;
        if holder == NONE {
            lane.holder = index;
            slot.holds_lane = true;
            return self.launch(index);
        }
        slot.state = State::Queued;
        let last = std::mem::replace(&mut lane.last, index);
        match last {
            NONE => lane.first = index,
            last => self.table.slots.at(last).next = index,
        }
        if self.table.slots.at(holder).step == Step::Waits {
            self.call_back(holder);
        }
    }

    /// Hands an operation to the backend (again).
    pub(crate) fn launch(&mut self, index: u32) {
        if self.resting {
            self.rouse();
        }
        if self.table.slots.at(index).link != Link::Apart {
            self.part(index);
        }
        let (slot, body, _) = self.table.slots.parts(index);
        slot.state = State::InFlight;
        slot.cancel_sent = false;
        let id = OpId::new(index, slot.generation);
        let Some(op) = body.op.as_mut() else { return };
        match op {
            Op::Timer(_) => return,
            Op::Close(close) if close.number < 0 => {
                let desc = close.desc;
                return self.close_when_idle(desc, index);
            }
            op if op.is_own(self.table.capabilities) => {
                slot.owed += 1;
                return self.attempt_own(id);
            }
            op => {
                if let Some(pool) = op.pool()
                    && self.backend.as_ref().is_some_and(|backend| backend.selects_buffers())
                    && let Some(group) = self.table.groups.find(pool)
                    && !group.has_buffers()
                {
                    return self.park_dry(index);
                }
            }
        }
        if self.inline > 0 && self.attempt_inline(id) {
            return;
        }
        self.hand_over(id);
    }

    /// Attempts an operation no backend is asked for.
    fn attempt_own(&mut self, id: OpId) {
        let result = match self.table.resolve(id, |op, cx| op.attempt(cx)) {
            Attempt::Done(result) => result,
            Attempt::Outside => return,
            Attempt::Here(job) => {
                let job = self.table.reported(id, job);
                return self.fire.push_back(Fire::Call(Box::new(move |_| job())));
            }
            Attempt::Waiting(job) => match self.table.run_waiting(id, job) {
                Ok(()) => return,
                Err(errno) => -errno,
            },
            Attempt::Helper(job) => match self.table.run_helper(id, job) {
                Ok(()) => return,
                Err(errno) => -errno,
            },
            // Nothing here tells when it may go on.
            Attempt::Blocked(_) => -libc::EAGAIN,
        };
        self.own_events.push_back(Event::of(id, result, 0));
    }

    /// Keeps a pool receive back until its pool has buffers.
    pub(crate) fn park_dry(&mut self, index: u32) {
        let slot = self.table.slots.at(index);
        slot.state = State::Parked;
        let pool = self.table.slots.op(index).and_then(|op| op.pool());
        self.counters.pool_dry += 1;
        self.trace.pool_dry(self.table.slots.op(index).map_or("", |op| op.name()));
        if let Some(group) = pool.and_then(|pool| self.table.groups.find(pool)) {
            group.parked.push_back(index);
        }
    }

    /// Lets the next operation of a lane go.
    pub(crate) fn leave_lane(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        if !std::mem::take(&mut slot.holds_lane) {
            return;
        }
        let (desc, lane) = (slot.desc, body.op.as_ref().and_then(|op| op.lane()));
        let Some(lane) = lane.filter(|_| desc != NONE) else { return };
        let queue = &mut self.table.descriptors.at(desc).lanes[lane as usize];
        queue.holder = queue.first;
        match queue.first {
            NONE => {}
            first => {
                let slot = self.table.slots.at(first);
                let next = std::mem::replace(&mut slot.next, NONE);
                slot.holds_lane = true;
                queue.first = next;
                if next == NONE {
                    queue.last = NONE;
                }
                self.launch(first);
            }
        }
    }

    /// Takes an operation out of the line it stands in.
    fn leave_queue(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        let after = std::mem::replace(&mut slot.next, NONE);
        let (desc, lane) = (slot.desc, body.op.as_ref().and_then(|op| op.lane()));
        let Some(lane) = lane else { return };
        let queue = &self.table.descriptors.at(desc).lanes[lane as usize];
        let (mut before, mut at) = (NONE, queue.first);
        while at != index && at != NONE {
            (before, at) = (at, self.table.slots.at(at).next);
        }
        if before != NONE {
            self.table.slots.at(before).next = after;
        }
        let queue = &mut self.table.descriptors.at(desc).lanes[lane as usize];
        if before == NONE {
            queue.first = after;
        }
        if after == NONE {
            queue.last = before;
        }
    }

    /// Asks for the end of an operation. False: nothing by that name is pending.
    pub(crate) fn cancel(&mut self, id: OpId, reason: Reason) -> bool {
        let Some(slot) = self.table.slots.find(id) else { return false };
        if slot.state == State::Done || slot.settled {
            return false;
        }
        let begun = slot.state != State::Waiting;
        if begun && matches!(self.table.slots.op(id.index()), Some(Op::Close(_))) {
            // The table has given the number up, or will: a close that does not run leaks it.
            return true;
        }
        if self.resting {
            self.rouse();
        }
        let slot = self.table.slots.at(id.index());
        if slot.reason == Reason::Kernel {
            slot.reason = reason;
        }
        let index = id.index();
        match slot.state {
            State::Queued => {
                self.leave_queue(index);
                self.cancel_own(index);
            }
            State::Parked => {
                self.unpark(index);
                self.cancel_own(index);
            }
            // A sequence ends as a whole, and the kernel knows a chain by the step it is at: what
            // is asked of a step goes on to the one that runs.
            State::Waiting | State::InFlight if slot.step == Step::Waits => {
                self.cancel_before(index, reason);
            }
            State::Waiting => self.cancel_own(index),
            State::InFlight if slot.owed == 0 => self.cancel_own(index),
            State::InFlight if !slot.cancel_sent => {
                slot.cancel_sent = true;
                let withdrawn = self.table.slots.op(index).and_then(Forms::withdraw);
                match withdrawn.or_else(|| self.table.cancel_helper(id)) {
                    Some(true) => {
                        self.own_events.push_back(Event::of(id, -libc::ECANCELED, 0));
                    }
                    Some(false) => {}
                    None => self.cancel_in_backend(id),
                }
            }
            _ => {}
        }
        true
    }

    pub(crate) fn cancel_in_backend(&mut self, id: OpId) {
        if let Some(backend) = &mut self.backend {
            backend.cancel(id, &mut self.table);
        }
    }

    /// Ends an operation the backend does not have.
    pub(super) fn cancel_own(&mut self, index: u32) {
        let slot = self.table.slots.at(index);
        // A notification may be owed of an earlier attempt.
        let is_asked = slot.state == State::InFlight && slot.owed > 0;
        slot.state = State::InFlight;
        if !is_asked {
            slot.owed += 1;
            let id = OpId::new(index, slot.generation);
            self.own_events.push_back(Event::of(id, -libc::ECANCELED, 0));
        }
    }

    fn unpark(&mut self, index: u32) {
        let pool = self.table.slots.op(index).and_then(|op| op.pool());
        if let Some(group) = pool.and_then(|pool| self.table.groups.find(pool)) {
            group.parked.retain(|parked| *parked != index);
        }
    }

    /// Cancels everything in flight on a descriptor; how many were asked to end.
    pub(crate) fn cancel_descriptor(&mut self, desc: u32, reason: Reason) -> usize {
        let mut at = self.table.descriptors.at(desc).newest;
        let mut asked = 0;
        while at != NONE {
            let older = self.table.slots.body(at).older;
            let id = self.table.slots.id(at);
            asked += usize::from(self.cancel(id, reason));
            at = older;
        }
        asked
    }

    /// Cancels everything.
    pub(crate) fn cancel_all(&mut self, reason: Reason) -> usize {
        let ids: Vec<OpId> = self
            .table
            .slots
            .live()
            .map(|(index, slot, _)| OpId::new(index, slot.generation))
            .collect();
        ids.into_iter().filter(|id| self.cancel(*id, reason)).count()
    }

    /// The handle of an operation is gone: nobody wants its outcome. What is to be dropped is
    /// handed out, to be dropped with nothing borrowed.
    pub(crate) fn abandon(&mut self, id: OpId) -> (Notify, Option<Op>, Option<Outcome>) {
        let nothing = (Notify::Nobody, None, None);
        let Some(slot) = self.table.slots.find(id) else { return nothing };
        let notify = std::mem::replace(&mut slot.notify, Notify::Nobody);
        slot.abandoned = true;
        if slot.state == State::Done {
            let (op, outcome) = self.take_finished::<Op>(id.index());
            return (notify, op, Some(outcome));
        }
        self.cancel(id, Reason::User);
        (notify, None, None)
    }

    /// The operation goes on, nobody wants its outcome.
    /// Its waker is handed out, to be dropped with nothing borrowed.
    pub(crate) fn detach(&mut self, id: OpId) -> Notify {
        let Some(slot) = self.table.slots.find(id) else { return Notify::Nobody };
        slot.abandoned = true;
        if slot.state == State::Done {
            self.fire.push_back(Fire::Finish(id));
            self.rouse();
        }
        let slot = self.table.slots.at(id.index());
        std::mem::replace(&mut slot.notify, Notify::Nobody)
    }

    /// Slots for `count` more operations.
    pub(crate) fn check_slots(&mut self, count: usize) -> Result<()> {
        if self.table.slots.reserve(count) {
            return Ok(());
        }
        let message = "too many results wait for their futures; take or drop some";
        Err(Error::new("submit a batch", ErrorKind::Exhausted, message))
    }

    fn link(&mut self, index: u32, desc: u32) {
        let descriptor = self.table.descriptors.at(desc);
        let older = std::mem::replace(&mut descriptor.newest, index);
        descriptor.users += 1;
        let (slot, body, _) = self.table.slots.parts(index);
        slot.desc = desc;
        (body.older, body.newer) = (older, NONE);
        if older != NONE {
            self.table.slots.body(older).newer = index;
        }
    }

    /// The kernel no longer uses the descriptor for this operation.
    pub(crate) fn unlink(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        let (desc, older, newer) = (slot.desc, body.older, body.newer);
        slot.desc = NONE;
        (body.older, body.newer) = (NONE, NONE);
        if older != NONE {
            self.table.slots.body(older).newer = newer;
        }
        if newer != NONE {
            self.table.slots.body(newer).older = older;
        }
        let descriptor = self.table.descriptors.at(desc);
        if descriptor.newest == index {
            descriptor.newest = older;
        }
        descriptor.users -= 1;
        if descriptor.closing {
            self.close_if_idle(desc);
        }
    }
}
