//! Ending: finish, cancel, leak, under one deadline.
//!
//! Cancelled operations end by their own last event, which is awaited; that event, not the closing
//! of the ring, frees their memory (a read parked in a kernel worker was measured to write its
//! buffer after the ring was closed). What does not end in time is leaked, with its buffers, its
//! scratch and the backend itself, and its waiters are told at once.

use super::slots::{Notify, State};
use super::{Engine, Fire, Outcome, Reason, deadlines};
use crate::backend::Until;

/// What could not be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaked {
    /// Operations the kernel still had when the deadline passed.
    pub operations: u32,
}

impl Engine {
    /// No new operation from here on; descriptors nobody closed are closed.
    pub(crate) fn begin_drain(&mut self) {
        self.draining = true;
        self.cancel_all(Reason::Shutdown);
    }

    /// Waits a little for what was cancelled. True: nothing is in flight any more.
    pub(crate) fn drain_turn(&mut self, deadline_ns: u64) -> bool {
        self.run_own_events();
        if self.table.slots.in_flight == 0 {
            return true;
        }
        let mut helped = std::mem::take(&mut self.counters.helped);
        self.table.shared.take_helped(&mut helped);
        for (id, result) in helped.drain(..) {
            self.table.helped(id);
            self.counters.helped_operations += 1;
            self.own_events.push_back(crate::backend::Event::of(id, result, 0));
        }
        self.counters.helped = helped;
        // Short waits: a helper's result arrives without ringing once the inbox is closed.
        let now_ns = deadlines::now_ns();
        let until = match self.own_events.is_empty() {
            true => Until::At(deadline_ns.min(now_ns + 10_000_000)),
            false => Until::Now,
        };
        // A wait that fails cannot drain anything; the deadline ends the attempt.
        let _ = self.wait(until);
        self.run_own_events();
        self.table.slots.in_flight == 0 || deadlines::now_ns() >= deadline_ns
    }

    /// Lets the backend go, or leaks it with everything the kernel may still touch.
    pub(crate) fn end(&mut self) -> Option<Leaked> {
        if let Some(handler) = self.messages.replace(None) {
            self.fire.push_back(Fire::Drop(Box::new(handler)));
        }
        let stuck: Vec<u32> = self
            .table
            .slots
            .live()
            .filter(|(_, slot, _)| slot.state != State::Done)
            .map(|(index, ..)| index)
            .collect();
        for index in &stuck {
            self.give_up(*index, libc::ECANCELED, Reason::Shutdown);
        }
        // After lost completions the kernel may have what was given up then.
        let leak = !stuck.is_empty() || self.poisoned;
        for index in self.table.descriptors.open_indexes() {
            let descriptor = self.table.descriptors.at(index);
            // Operations that were given up may still use the number.
            match leak {
                false => drop(descriptor.surrender()),
                true => std::mem::forget(descriptor.surrender()),
            }
        }
        self.keep_counts();
        let backend = self.backend.take();
        if leak {
            std::mem::forget(backend);
            self.table.slots.leak_scratch();
            std::mem::forget(std::mem::take(&mut self.table.groups));
            std::mem::forget(std::mem::take(&mut self.table.registry));
            self.counters.leaked += stuck.len() as u64;
            let operations = self.counters.leaked as u32;
            self.trace.shut_down(self.counters.leaked);
            return (operations > 0).then_some(Leaked { operations });
        }
        let mut backend = backend?;
        let unused = self.table.groups.take_unused();
        self.fire.push_back(Fire::Drop(Box::new(unused)));
        for index in self.table.groups.indexes() {
            let group = self.table.groups.at(index);
            if group.is_live() {
                backend.close_pool(index);
                let parts = self.table.groups.at(index).finish();
                self.fire.push_back(Fire::Drop(parts));
            }
        }
        drop(backend);
        self.trace.shut_down(0);
        None
    }

    /// Ends an operation the kernel still has: its parts are leaked, its waiter gets an error.
    pub(crate) fn give_up(&mut self, index: u32, errno: i32, reason: Reason) {
        self.table.slots.in_flight -= 1;
        std::mem::forget(self.table.slots.body(index).op.take());
        let slot = self.table.slots.at(index);
        slot.result = -errno;
        slot.reason = reason;
        slot.state = State::Done;
        slot.owed = 0;
        slot.desc = super::slots::NONE;
        slot.leads = false;
        if std::mem::take(&mut slot.has_deadline) {
            self.deadlines.remove(index);
        }
        self.end_step(index);
        let slot = self.table.slots.at(index);
        let id = crate::backend::OpId::new(index, slot.generation);
        match std::mem::replace(&mut slot.notify, Notify::Nobody) {
            Notify::Nobody => {}
            Notify::Waker(waker) => self.fire.push_back(Fire::Wake(waker)),
            Notify::Cell(cell) => {
                self.fire.extend(cell.lose(Outcome::failed(errno, reason)).map(Fire::Wake));
            }
            callback => {
                slot.notify = callback;
                self.fire.push_back(Fire::Finish(id));
            }
        }
    }
}
