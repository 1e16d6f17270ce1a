//! One turn of the loop: what other threads brought, what fell due, one wait, what came of it.
//!
//! The order matters. The wake word is observed *before* the inbox is drained and armed after, so
//! whatever is announced in between makes the wait look again instead of sleeping. User code runs
//! between borrows only: the engine is borrowed to pick the next thing to fire and released before
//! it runs.

use super::slots::{Notify, State};
use super::{Engine, Fire, Outcome, Reason, deadlines};
use crate::backend::{Event, Fatal, OpId, Until};
use crate::op::{Forms, Op};
use crate::proactor::rest::Rest;
use crate::remote::cell::Cell;
use crate::remote::inbox::{Command, ForeignCall, Left};
use crate::remote::message::Running;
use std::sync::Arc;

/// Most foreign commands taken in one turn.
const COMMANDS_PER_TURN: usize = 256;
/// How long an operation waits that no readiness wakes, in ns.
const NAP_NS: u64 = 1_000_000;

/// What the turn does next.
pub(crate) enum Next {
    /// Run this, with nothing borrowed.
    Fire(Ready),
    /// Nothing to run.
    Idle,
}

/// Something taken off the fire list, ready to run.
pub(crate) enum Ready {
    Wake(std::task::Waker),
    Once(super::slots::OnceCallback, Option<Op>, Outcome),
    /// One result of a multishot operation.
    Each(OpId, super::slots::EachCallback, Outcome),
    /// Its end.
    End(super::slots::EachCallback, Option<Op>, Outcome),
    Make(OpId, super::sequence::Maker),
    Call(ForeignCall),
    Message(Running, u64),
    Drop(Box<dyn std::any::Any>),
    Parts(Option<Op>, Outcome, Notify),
}

impl Engine {
    /// Everything that needs no wait: inbox, returns, pools, deadlines, our own events.
    ///
    /// `seen` is the wake word: whatever other threads bring is announced on it, so a word that
    /// has not moved means that there is nothing to look for. True: they brought operations.
    #[inline]
    pub(crate) fn sweep(&mut self, seen: u64) -> bool {
        self.counters.turns += 1;
        let foreign = self.counters.foreign_submissions;
        self.counters.turn_ns = deadlines::coarse_ns();
        if seen != self.swept || self.commands_left || self.messages.left {
            self.swept = seen;
            self.take_commands();
            self.fire.extend(self.table.shared.next_in_line().map(Fire::Wake));
            self.take_messages();
            self.take_helped();
            self.take_returns();
        }
        if !self.table.groups.is_empty() {
            self.fill_pools();
        }
        self.expire();
        if !self.napping.is_empty() {
            self.wake_napping();
        }
        if !self.own_events.is_empty() {
            self.run_own_events();
        }
        self.counters.foreign_submissions != foreign
    }

    pub(crate) fn run_own_events(&mut self) {
        for _ in 0..self.own_events.len() {
            let Some(event) = self.own_events.pop_front() else { break };
            self.on_event(event);
        }
    }

    fn take_commands(&mut self) {
        let shared = self.table.shared.clone();
        let Some(mut commands) = shared.commands() else { return };
        self.commands_left = true;
        for _ in 0..COMMANDS_PER_TURN {
            if self.table.slots.in_flight >= self.bound && !self.draining {
                // No room: what stands in the inbox waits there until something completes.
                return;
            }
            match commands.pop() {
                None => {
                    self.commands_left = false;
                    return;
                }
                Some(Command::Call(call)) => self.fire.push_back(Fire::Call(call)),
                Some(Command::Submit { cell, last }) => {
                    self.counters.foreign_submissions += 1;
                    self.submit_foreign(cell);
                    drop(last);
                }
            }
        }
    }

    fn submit_foreign(&mut self, cell: Arc<Cell>) {
        // Without one its submitter is gone, and dropped it.
        let Some(op) = cell.take_op() else { return };
        match self.submit(op, &mut Notify::Cell(cell.clone()), cell.deadline_ns()) {
            Ok(id) => {
                if !cell.started(id) {
                    self.cancel(id, Reason::User);
                }
            }
            Err((error, op)) => {
                let outcome = Outcome::refused(error);
                match cell.finish(Some(op), outcome) {
                    Ok(waker) => self.fire.extend(waker.map(Fire::Wake)),
                    Err(parts) => self.fire.push_back(Fire::Drop(parts)),
                }
            }
        }
    }

    fn take_helped(&mut self) {
        let mut helped = std::mem::take(&mut self.counters.helped);
        self.table.shared.take_helped(&mut helped);
        for (id, result) in helped.drain(..) {
            self.table.helped(id);
            self.counters.helped_operations += 1;
            self.own_events.push_back(Event::of(id, result, 0));
        }
        self.counters.helped = helped;
    }

    /// Sweeps the bit maps of what was dropped on other threads.
    fn take_returns(&mut self) {
        let shared = self.table.shared.clone();
        for left in shared.take_left() {
            let parts = match left {
                Left::Dropped(id) => self.abandon(id),
                Left::Detached(id) => (self.detach(id), None, None),
            };
            self.fire.push_back(Fire::Drop(Box::new(parts)));
        }
        let returns = &shared.returns;
        if !returns.operations.is_empty() {
            returns.operations.drain(|index| {
                let slot = self.table.slots.at(index as u32);
                let gone = matches!(&slot.notify, Notify::Cell(cell) if cell.wants_end());
                if slot.state != State::Free && gone {
                    let id = OpId::new(index as u32, slot.generation);
                    self.cancel(id, Reason::User);
                }
            });
        }
        if !returns.resumes.is_empty() {
            returns.resumes.drain(|index| self.resume(index as u32));
        }
        if !returns.descriptors.is_empty() {
            returns.descriptors.drain(|index| self.release_descriptor(index as u32));
        }
        if !returns.registrations.is_empty() {
            returns.registrations.drain(|index| self.unregister(index as u32));
        }
        if !returns.tasks.is_empty() {
            returns.tasks.drain(|bit| {
                self.run_queues.iter().for_each(|queue| queue.push_all_of(bit));
            });
        }
        if !returns.pools.is_empty() {
            returns.pools.drain(|index| self.table.groups.at(index as u16).close());
        }
    }

    /// Hands returned buffers to the kernel and lets receives go on that waited for them.
    pub(crate) fn fill_pools(&mut self) {
        if self.table.groups.has_unused() {
            let unused = self.table.groups.take_unused();
            self.fire.push_back(Fire::Drop(Box::new(unused)));
        }
        for index in self.table.groups.indexes() {
            let group = self.table.groups.at(index);
            if !group.is_live() {
                continue;
            }
            if group.is_finished() {
                if let Some(backend) = &mut self.backend {
                    backend.close_pool(index);
                }
                let parts = self.table.groups.at(index).finish();
                self.fire.push_back(Fire::Drop(parts));
                continue;
            }
            let mut provided = std::mem::take(&mut self.counters.provided);
            group.refill(&mut provided);
            if let Some(backend) = &mut self.backend
                && !provided.is_empty()
            {
                backend.provide(index, &provided);
            }
            provided.clear();
            self.counters.provided = provided;
            self.unpark_pool(index);
        }
    }

    fn unpark_pool(&mut self, index: u16) {
        let waker = self.self_waker.clone();
        loop {
            let group = self.table.groups.at(index);
            if group.parked.is_empty() {
                return;
            }
            if !group.has_buffers() {
                // It goes back when this turn's fires run, and its return wakes this loop again.
                let Some(lease) = group.watch(&waker) else { return };
                let lease: Box<dyn std::any::Any> = Box::new(lease);
                self.fire.push_back(Fire::Drop(lease));
                self.table.shared.announce();
            }
            let group = self.table.groups.at(index);
            let mut provided = Vec::new();
            group.refill(&mut provided);
            if let Some(backend) = &mut self.backend
                && !provided.is_empty()
            {
                backend.provide(index, &provided);
            }
            let group = self.table.groups.at(index);
            if !group.has_buffers() {
                return;
            }
            // As many as there may be buffers for; each takes at least one.
            let parked = std::mem::take(&mut group.parked);
            for slot in parked {
                self.launch(slot);
            }
        }
    }

    #[inline]
    fn expire(&mut self) {
        if self.deadlines.next_ns().is_some() {
            self.expire_due();
        }
    }

    fn expire_due(&mut self) {
        let now_ns = deadlines::now_ns();
        while let Some(index) = self.deadlines.pop_expired(now_ns) {
            let slot = self.table.slots.at(index);
            slot.has_deadline = false;
            let id = OpId::new(index, slot.generation);
            let fires_at = self.table.slots.op(index).and_then(|op| op.fires_at());
            let slot = self.table.slots.at(index);
            let fires = slot.state == State::InFlight && fires_at.is_some_and(|at| at <= now_ns);
            if !fires {
                self.counters.timed_out += 1;
                self.cancel(id, Reason::Timeout);
            } else if slot.owed == 0 {
                slot.owed = 1;
                self.own_events.push_back(Event::of(id, 0, 0));
            }
        }
    }

    fn wake_napping(&mut self) {
        for id in std::mem::take(&mut self.napping) {
            // What was cancelled meanwhile is no longer parked, or no longer there.
            if self.table.slots.find(id).is_some_and(|slot| slot.state == State::Parked) {
                self.launch(id.index());
            }
        }
    }

    /// How long the wait may sleep: not at all while something is ready here.
    pub(crate) fn until(&self, wanted: Until) -> Until {
        let busy = !self.fire.is_empty()
            || !self.own_events.is_empty()
            || self.messages.left
            || (self.commands_left && self.table.slots.in_flight < self.bound);
        match (wanted, self.next_deadline_ns()) {
            _ if busy => Until::Now,
            (Until::Now, _) => Until::Now,
            (wanted, None) => wanted,
            (Until::Forever, Some(next)) => Until::At(next),
            (Until::At(at), Some(next)) => Until::At(at.min(next)),
        }
    }

    /// When there is something to do although nothing happens.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        let nap = (!self.napping.is_empty()).then(|| deadlines::now_ns() + NAP_NS);
        [self.deadlines.next_ns(), nap].into_iter().flatten().min()
    }

    /// Hands over what is staged; whether a host may sleep in the loop's place, as far as can be
    /// seen here. `seen` is the wake word.
    pub(crate) fn rest(&mut self, seen: u64) -> Result<Rest, Fatal> {
        // A receive that found its pool dry in the last wait goes on if buffers are back by now.
        if !self.table.groups.is_empty() {
            self.fill_pools();
        }
        let Some(backend) = &mut self.backend else { return Err(Fatal::Dropped) };
        backend.flush(&mut self.table)?;
        let hidden = backend.has_hidden_work() || seen != self.swept;
        match self.until(Until::Forever) {
            until if hidden || until == Until::Now => Ok(Rest::Busy),
            Until::At(at_ns) => Ok(Rest::Until(Some(at_ns))),
            _ => Ok(Rest::Until(None)),
        }
    }

    /// Something was staged outside a poll: a host that sleeps in the loop's place is woken.
    #[cold]
    pub(crate) fn rouse(&mut self) {
        self.resting = false;
        self.table.shared.rouse();
    }

    /// One wait of the backend and everything its events mean.
    #[inline(always)]
    pub(crate) fn wait(&mut self, until: Until) -> Result<(), Fatal> {
        // None after lost completions; after the end nobody waits.
        let Some(backend) = &mut self.backend else { return Err(Fatal::Dropped) };
        let mut events = std::mem::take(&mut self.events);
        let waited = backend.wait_flat(until, &mut self.table, &mut events);
        for event in &events {
            self.on_event(*event);
        }
        events.clear();
        self.events = events;
        if matches!(waited, Err(Fatal::Dropped)) && !self.poisoned {
            self.poison();
        }
        waited
    }

    /// Takes the next thing to run off the fire list.
    pub(crate) fn next(&mut self) -> Next {
        loop {
            let ready = match self.fire.pop_front() {
                None => return Next::Idle,
                Some(Fire::Wake(waker)) => Ready::Wake(waker),
                Some(Fire::Call(call)) => Ready::Call(call),
                Some(Fire::Message(payload)) => match self.messages.run() {
                    Some(running) => Ready::Message(running, payload),
                    None => continue,
                },
                Some(Fire::Drop(parts)) => Ready::Drop(parts),
                Some(Fire::Make(id)) => match self.take_maker(id) {
                    Some(maker) => Ready::Make(id, maker),
                    None => continue,
                },
                Some(Fire::Finish(id)) => match self.ready_finish(id) {
                    Some(ready) => ready,
                    None => continue,
                },
                Some(Fire::Result(id, outcome)) => self.ready_result(id, outcome),
            };
            return Next::Fire(ready);
        }
    }

    /// None: somebody took it between its end and now, and its slot may be another's.
    fn ready_finish(&mut self, id: OpId) -> Option<Ready> {
        let slot = self.table.slots.find(id).filter(|slot| slot.state == State::Done)?;
        let notify = std::mem::replace(&mut slot.notify, Notify::Nobody);
        Some(match (notify, self.take_finished(id.index())) {
            (Notify::Once(callback), (op, outcome)) => Ready::Once(callback, op, outcome),
            (Notify::Each(callback), (op, outcome)) => Ready::End(callback, op, outcome),
            (notify, (op, outcome)) => Ready::Parts(op, outcome, notify),
        })
    }

    fn ready_result(&mut self, id: OpId, outcome: Outcome) -> Ready {
        let slot = self.table.slots.find(id);
        match slot.map(|slot| std::mem::replace(&mut slot.notify, Notify::Nobody)) {
            Some(Notify::Each(callback)) => Ready::Each(id, callback, outcome),
            _ => Ready::Drop(Box::new(outcome)),
        }
    }

    /// A multishot callback comes back after it ran; None: its operation is over.
    pub(crate) fn put_back(&mut self, id: OpId, callback: super::slots::EachCallback) {
        match self.table.slots.find(id) {
            Some(slot) if !slot.abandoned => slot.notify = Notify::Each(callback),
            _ => self.fire.push_back(Fire::Drop(Box::new(callback))),
        }
    }
}
