//! From backend event to whoever is to be told: the only gate from in flight to done.
//!
//! Nothing of the user's runs here. Wakers, callbacks and drops are put on the fire list and run
//! by the turn, one at a time, with nothing borrowed; so a panic in one loses none of the others,
//! and everything but polling is allowed inside.
//!
//! Unsafe code: a descriptor number the kernel has just returned becomes an owned descriptor.

#![allow(unsafe_code)]

use super::descriptors::Class;
use super::slots::{Link, NONE, Notify, State, Step};
use super::{Engine, Fire, Outcome, Payload, Reason};
use crate::backend::{BUFFER, COPIED, Event, Kind, MORE, NOTIFICATION, OpId};
use crate::op::{Advance, Forms, Moves, Op, Shape, Stored};
use crate::remote::cell::{Adopted, Cell};
use crate::sys::calls;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

/// Results of an operation that was asked to end.
fn was_asked(result: i32) -> bool {
    matches!(-result, libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOBUFS)
}

impl Engine {
    /// One event of the backend, or of our own.
    pub(crate) fn on_event(&mut self, event: Event) {
        if event.kind() == Kind::Operation as u8 {
            return self.on_operation(event);
        }
        if event.kind() == Kind::Released as u8 {
            let index = event.user_data as u32;
            if let Some(backend) = &mut self.backend {
                backend.released(index);
            }
            if let Some(region) = self.table.registry.released(index) {
                self.fire.push_back(Fire::Drop(Box::new(region)));
            }
        }
    }

    #[inline]
    fn on_operation(&mut self, event: Event) {
        let index = event.op().index();
        let Some(slot) = self.table.slots.find(event.op()) else {
            self.counters.stale_events += 1;
            return;
        };
        if slot.owed == 0 {
            self.counters.stale_events += 1;
            return;
        }
        if event.flags & NOTIFICATION != 0 {
            return self.on_notification(index, event.result & COPIED != 0);
        }
        if event.flags & MORE == 0 {
            slot.owed -= 1;
        }
        match slot.shape {
            Shape::Plain if event.result >= 0 => {
                slot.result = event.result;
                slot.settled = true;
                self.finish(index);
            }
            Shape::Plain | Shape::Single | Shape::Ordinary => self.on_result(index, event),
            Shape::Multishot => self.on_multishot(index, event),
        }
    }

    fn on_notification(&mut self, index: u32, copied: bool) {
        let slot = self.table.slots.at(index);
        slot.owed -= 1;
        let over = slot.owed == 0 && slot.settled;
        let op = self.table.slots.body(index).op.as_mut();
        if op.is_none_or(|op| op.notified(copied)) {
            let desc = self.table.slots.op(index).and_then(|op| op.desc());
            if let Some(found) = desc.and_then(|desc| self.table.descriptors.find(desc)) {
                found.policy.reported(copied);
            }
            let counter = match copied {
                true => &mut self.counters.zero_copy_copied,
                false => &mut self.counters.zero_copy_sent,
            };
            *counter += 1;
        }
        if over {
            self.finish(index);
        }
    }

    #[inline]
    fn on_result(&mut self, index: u32, event: Event) {
        let (slot, body, _) = self.table.slots.parts(index);
        let own = slot.reason == Reason::Kernel;
        let Some(op) = body.op.as_mut() else {
            // A plain operation the backend kept no copy of: its result is as it is.
            return self.settle(index, event.result, 0);
        };
        let is_linked = slot.link != Link::Apart && slot.step != Step::Alone;
        if is_linked && own && event.result == -libc::ECANCELED {
            return self.chain_broke(index);
        }
        if event.result < 0 && event.flags & MORE != 0 {
            // A notification follows the failure, and says nothing of what goes out instead.
            op.cut_off();
        }
        let retry = event.result == -libc::EINTR || event.result == -libc::EAGAIN;
        if retry && own && op.means_again(event.result) {
            return self.try_again(index);
        }
        if event.result == -libc::ENOBUFS && own && op.pool().is_some() {
            return self.park_dry(index);
        }
        if own && op.falls_back(event.result) {
            self.counters.fell_back += 1;
            self.trace.fell_back(op.name(), -event.result);
            if let Some(found) = op.desc().and_then(|desc| self.table.descriptors.find(desc)) {
                found.policy.refused = true;
            }
            return self.launch(index);
        }
        if event.result > 0 {
            self.counters.bytes[op.moves() as usize] += event.result as u64;
        }
        // Asked to end before it went its other way: that way is not gone any more.
        let result = if op.falls_back(event.result) { -libc::ECANCELED } else { event.result };
        match op.advance(result, event.flags) {
            Advance::Done(result) => self.settle(index, result, event.flags),
            Advance::Again if own => {
                // It goes on after a refusal: another way.
                if event.result < 0 {
                    self.counters.fell_back += 1;
                    self.trace.fell_back(op.name(), -event.result);
                }
                self.launch(index);
            }
            // It is asked to end while it wants more: what has moved is its result.
            Advance::Again => {
                let end = -libc::ECANCELED;
                let result = if let Advance::Done(it) = op.advance(end, 0) { it } else { end };
                self.settle(index, result, event.flags);
            }
        }
    }

    /// Hands it over again: at once, or at the next turn where it waits for a Unix datagram peer.
    #[cold]
    fn try_again(&mut self, index: u32) {
        let slot = self.table.slots.at(index);
        let (desc, id) = (slot.desc, OpId::new(index, slot.generation));
        if desc == NONE || !self.table.descriptors.at(desc).naps {
            return self.launch(index);
        }
        // If it was in a chain, the kernel goes on with nothing of that.
        self.part(index);
        self.table.slots.at(index).state = State::Parked;
        self.napping.push(id);
    }

    /// The result of a one-shot operation, or the end of a multishot one, is known.
    #[inline]
    pub(super) fn settle(&mut self, index: u32, result: i32, flags: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        slot.result = result;
        slot.settled = true;
        let owed = slot.owed;
        let desc = slot.desc;
        if slot.shape == Shape::Single {
            if desc != NONE {
                self.unlink(index);
            }
            if owed == 0 {
                self.finish(index);
            }
            return;
        }
        let source = body.op.as_ref().and_then(|op| op.source());
        let pool = body.op.as_ref().and_then(|op| op.pool());
        let payload = self.payload(index, result, flags);
        self.table.slots.body(index).payload = payload;
        if desc != NONE {
            self.note_death(desc, result);
            self.leave_lane(index);
            self.unlink(index);
        }
        if let Some(source) = source {
            self.unpin(source);
        }
        if let Some(group) = pool.and_then(|pool| self.table.groups.find(pool)) {
            group.disarm();
        }
        if self.table.slots.at(index).step != Step::Alone {
            self.end_step(index);
        }
        if self.table.slots.at(index).leads {
            self.lead_on(index);
        }
        if owed == 0 {
            self.finish(index);
        }
    }

    /// The kernel reports the death of a connection once, and then an end of stream: remember it.
    fn note_death(&mut self, desc: u32, result: i32) {
        let fatal = [libc::ECONNRESET, libc::ETIMEDOUT, libc::ECONNREFUSED];
        if result < 0 && fatal.contains(&-result) {
            let descriptor = self.table.descriptors.at(desc);
            if descriptor.class() == Class::Stream {
                descriptor.dead = Some(-result);
            }
        }
    }

    /// Owns what a result brought, at once: whatever happens next, nothing leaks.
    fn payload(&mut self, index: u32, result: i32, flags: u32) -> Payload {
        let (slot, body, scratch) = self.table.slots.parts(index);
        let Some(op) = body.op.as_mut() else { return Payload::None };
        if let Some(pool) = op.pool() {
            return self.pool_payload(index, pool, result, flags);
        }
        if result < 0 {
            return Payload::None;
        }
        if !op.brings_descriptor() {
            op.collect(scratch);
            return Payload::None;
        }
        // SAFETY: the kernel returned this number as the result of an accept or an open, which
        // nobody else has seen.
        let fd = unsafe { OwnedFd::from_raw_fd(result) };
        let class = match op {
            Op::Open(_) => calls::classify(result).unwrap_or(Class::Other),
            _ => op
                .desc()
                .and_then(|desc| self.table.descriptors.peek(desc))
                .map_or(Class::Stream, |listener| listener.accepts),
        };
        if !matches!(slot.notify, Notify::Cell(_)) {
            return Payload::Fd(fd, class);
        }
        // A submitter elsewhere cannot put it into the table: do it here.
        let name = op.name();
        match self.adopt(name, fd, class) {
            Ok(id) => Payload::Adopted(Adopted { shared: self.table.shared.clone(), id }),
            // The table is full: the descriptor closes here, the submitter learns why.
            Err((error, _closed)) => Payload::Refusal(error),
        }
    }

    fn pool_payload(
        &mut self,
        index: u32,
        pool: super::groups::PoolId,
        result: i32,
        flags: u32,
    ) -> Payload {
        let bytes = result.max(0) as usize;
        let arm = self.table.slots.op(index).and_then(Op::pool_arm);
        let held = arm.and_then(|arm| arm.held.take());
        let lease = match flags & BUFFER {
            0 => held,
            _ => {
                let group = self.table.groups.find(pool);
                group.and_then(|group| group.selected((flags >> 16) as u16, bytes))
            }
        };
        // An empty datagram has a lease too, with or without a buffer; the end of a stream has
        // none.
        let is_empty_datagram = result == 0 && self.is_datagram(index);
        match lease {
            Some(lease) if result > 0 || is_empty_datagram => Payload::Lease(lease),
            Some(unused) => {
                self.fire.push_back(Fire::Drop(Box::new(unused)));
                Payload::None
            }
            None if is_empty_datagram => {
                self.table.groups.blank().map_or(Payload::None, Payload::Lease)
            }
            None => Payload::None,
        }
    }

    fn is_datagram(&mut self, index: u32) -> bool {
        let desc = self.table.slots.at(index).desc;
        desc != NONE && self.table.descriptors.at(desc).class() == Class::Datagram
    }

    fn on_multishot(&mut self, index: u32, event: Event) {
        let result = event.result;
        let is_receive = matches!(self.table.slots.op(index), Some(Op::RecvMany(_)));
        let end_of_stream = is_receive && result == 0 && !self.is_datagram(index);
        if result >= 0 && !end_of_stream {
            if is_receive {
                self.counters.bytes[Moves::Received as usize] += result as u64;
            }
            let payload = self.payload(index, result, event.flags);
            self.deliver(index, Outcome::new(result, Reason::Kernel, payload));
        }
        if event.flags & MORE != 0 {
            return;
        }
        let (slot, body, _) = self.table.slots.parts(index);
        let own = slot.reason == Reason::Kernel;
        let paused_here = slot.cancel_sent && result == -libc::ECANCELED;
        let goes_on = match -result {
            _ if result >= 0 => !end_of_stream,
            libc::EINTR | libc::EAGAIN => true,
            libc::ENOBUFS if is_receive => true,
            // One connection was reset while it waited; the listener lives.
            libc::ECONNABORTED => !is_receive,
            _ => paused_here,
        };
        let paused = body.backlog.as_ref().is_some_and(|backlog| backlog.paused);
        match (goes_on, own) {
            (true, true) if paused => self.table.slots.at(index).state = State::Parked,
            (true, true) if result == -libc::ENOBUFS => self.park_dry(index),
            (true, true) => {
                self.counters.rearmed += 1;
                self.launch(index);
            }
            (true, false) => self.settle(index, -libc::ECANCELED, 0),
            (false, _) => self.settle(index, result, event.flags),
        }
    }

    /// A result of a multishot operation goes to its callback, its cell or its backlog.
    fn deliver(&mut self, index: u32, outcome: Outcome) {
        self.table.slots.delivered += 1;
        self.counters.items += 1;
        let limit = self.options.undelivered;
        let (slot, body, _) = self.table.slots.parts(index);
        let id = OpId::new(index, slot.generation);
        let is_poll = matches!(body.op, Some(Op::PollMany(_)));
        if slot.abandoned {
            return self.fire.push_back(Fire::Drop(Box::new(outcome)));
        }
        let waiting = match &mut slot.notify {
            Notify::Each(_) => return self.fire.push_back(Fire::Result(id, outcome)),
            Notify::Cell(cell) => {
                let cell = cell.clone();
                return self.deliver_to_cell(index, &cell, outcome, is_poll);
            }
            notify => {
                let backlog = body.backlog.get_or_insert_default();
                match backlog.results.back_mut() {
                    Some(last) if is_poll => last.result |= outcome.result,
                    _ => backlog.results.push_back(outcome),
                }
                if let Notify::Waker(waker) = std::mem::replace(notify, Notify::Nobody) {
                    self.fire.push_back(Fire::Wake(waker));
                }
                backlog.results.len()
            }
        };
        if waiting >= limit {
            self.pause(index);
        }
    }

    fn deliver_to_cell(&mut self, index: u32, cell: &Arc<Cell>, outcome: Outcome, is_poll: bool) {
        if is_poll && cell.merge(outcome.result) {
            return;
        }
        match cell.give(outcome, self.options.undelivered) {
            Err(outcome) => self.fire.push_back(Fire::Drop(Box::new(outcome))),
            Ok(told) => {
                if told.waiting >= self.options.undelivered {
                    self.pause(index);
                }
                self.fire.extend(told.waker.map(Fire::Wake));
            }
        }
    }

    /// Ends the kernel's part of a multishot operation until its results are taken.
    fn pause(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        let backlog = body.backlog.get_or_insert_default();
        if std::mem::replace(&mut backlog.paused, true) {
            return;
        }
        let id = OpId::new(index, slot.generation);
        let ask = slot.state == State::InFlight && slot.owed > 0 && !slot.cancel_sent;
        slot.cancel_sent |= ask;
        self.counters.paused += 1;
        if ask {
            self.cancel_in_backend(id);
        }
    }

    /// Results were taken: a paused multishot operation goes on.
    pub(crate) fn resume(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        let Some(backlog) = &mut body.backlog else { return };
        let was_paused = std::mem::take(&mut backlog.paused);
        if was_paused && slot.state == State::Parked && slot.reason == Reason::Kernel {
            self.launch(index);
        }
    }

    /// Nothing is owed any more: tell whoever waits.
    #[inline]
    fn finish(&mut self, index: u32) {
        self.table.slots.in_flight -= 1;
        self.table.slots.delivered += 1;
        let slot = self.table.slots.at(index);
        if slot.result >= 0 || !was_asked(slot.result) {
            slot.reason = Reason::Kernel;
        }
        slot.state = State::Done;
        if std::mem::take(&mut slot.has_deadline) {
            self.deadlines.remove(index);
        }
        if self.table.slots.at(index).leads {
            self.lead_on(index);
        }
        let slot = self.table.slots.at(index);
        if slot.abandoned || !matches!(slot.notify, Notify::Nobody) {
            self.tell(index);
        }
    }

    fn tell(&mut self, index: u32) {
        let slot = self.table.slots.at(index);
        let id = OpId::new(index, slot.generation);
        match std::mem::replace(&mut slot.notify, Notify::Nobody) {
            Notify::Waker(waker) => self.fire.push_back(Fire::Wake(waker)),
            Notify::Cell(cell) => self.finish_cell(index, &cell),
            // A callback, or nobody, to whom its parts are dropped.
            callback => {
                slot.notify = callback;
                self.fire.push_back(Fire::Finish(id));
            }
        }
    }

    fn finish_cell(&mut self, index: u32, cell: &Arc<Cell>) {
        let (op, outcome) = self.take_finished::<Op>(index);
        match cell.finish(op, outcome) {
            Ok(waker) => self.fire.extend(waker.map(Fire::Wake)),
            Err(parts) => self.fire.push_back(Fire::Drop(parts)),
        }
    }

    /// As [`take_finished`](Self::take_finished), for an operation that brings nothing of its own:
    /// no payload is moved about.
    #[inline]
    pub(crate) fn take_plain<S: Stored>(&mut self, index: u32) -> (Option<S>, i32, Reason) {
        let slot = self.table.slots.at(index);
        let (result, reason) = (slot.result, slot.reason);
        let op = match slot.is_kept {
            true => S::take(&mut self.table.slots.body(index).op),
            false => S::take(&mut None),
        };
        self.table.slots.release(index);
        (op, result, reason)
    }

    /// Takes a finished operation out of its slot, which is free afterwards.
    #[inline]
    pub(crate) fn take_finished<S: Stored>(&mut self, index: u32) -> (Option<S>, Outcome) {
        let (slot, body, _) = self.table.slots.parts(index);
        debug_assert_eq!(slot.state, State::Done);
        let op = S::take(&mut body.op);
        let mut outcome = Outcome::new(slot.result, slot.reason, Payload::None);
        if !matches!(slot.shape, Shape::Plain | Shape::Single) {
            (slot.step, slot.link) = (Step::Alone, Link::Apart);
            outcome.payload = std::mem::take(&mut body.payload);
            // Results nobody took are dropped with nothing borrowed, like everything else.
            if let Some(backlog) = body.backlog.take()
                && !backlog.results.is_empty()
            {
                self.fire.push_back(Fire::Drop(backlog));
            }
        }
        self.table.slots.release(index);
        (op, outcome)
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::{Event, OpId};
    use crate::{Options, Proactor, Wait};

    #[test]
    fn an_event_nobody_is_owed_is_counted_and_nothing_else() {
        let io = Proactor::with(Options::default()).expect("proactor");
        let mut nop = io.nop().submit().expect("room");
        while io.stats().in_flight > 0 {
            io.poll(Wait::Forever).expect("poll");
        }
        let told = io.inner().with("test", |engine| {
            let ended = engine.table.slots.id(0);
            let late = OpId::new(ended.index(), ended.generation() + 1);
            for id in [ended, late, OpId::new(0x00ff_ffff, 1)] {
                engine.on_event(Event::of(id, -libc::EAGAIN, 0));
            }
            (engine.counters.stale_events, engine.table.slots.in_flight)
        });
        assert_eq!(told.expect("nothing is borrowed"), (3, 0));
        nop.try_take().expect("it is over").expect("and went well");
    }
}
