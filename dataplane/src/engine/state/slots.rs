//! Slots: where operations live while they are in flight.
//!
//! The life of one operation, the same on every backend and for every way of being told:
//!
//! ```text
//! free -> queued -> in flight <-> parked -> done -> free
//! ```
//!
//! - *Waiting*: a step of a sequence whose turn has not come; see `engine/sequence.rs`.
//! - *Queued*: it waits for its turn on a stream's send or receive queue.
//! - *In flight*: the backend has it. `owed` counts the events the kernel still owes (the result;
//!   for a zero-copy send also the notification). While it is above zero, operation, buffers,
//!   scratch and descriptor stay.
//! - *Parked*: the engine keeps it back (its pool is dry, or nobody takes its results) and will
//!   hand it to the backend again. The kernel has nothing of it.
//! - *Done*: over; the outcome waits for whoever was to be told.
//!
//! An operation whose handle was dropped is *abandoned*: cancel is sent, and it goes on as above;
//! at the end its parts are dropped instead of delivered. Waker, callback and foreign cell are
//! values of one field, [`Notify`], not lives of their own.
//!
//! Slots never move: the address range for all of them is reserved at once. The bound on operations
//! counts those that are not done; results waiting for their future take slots, not room. The
//! scratch of a slot is beside it, reached by raw pointer only, so no reference covers memory the
//! kernel may be writing.

use super::scratch::Scratch;
use super::{Outcome, Payload, Reason};
use crate::backend::OpId;
use crate::engine::report::trace::OpSpans;
use crate::op::{Op, Shape};
use crate::remote::cell::Cell;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::Arc;
use std::task::Waker;

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// Most slots of one proactor: operations in flight and results not yet taken.
pub(crate) const MAX_SLOTS: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Waiting,
    Queued,
    InFlight,
    Parked,
    Done,
}

/// What an operation is to the one before it in its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is none.
    Alone,
    /// It is not over.
    Waits,
    /// It succeeded.
    May,
}

/// What a chain of the kernel's is to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The kernel has it by itself, or not at all.
    Apart,
    /// The kernel has it as a part of a chain.
    Linked,
    /// Likewise, and it is called back when the kernel comes to it: somebody stands in a line that
    /// a step after it holds.
    Unwanted,
    /// Likewise, but the chain broke before it: its end comes, and it holds no line any more.
    Cut,
    /// The kernel gave it back before the end of the step before it was seen: it and the steps
    /// after it still hold their lines.
    Back,
}

/// Called once with the ended operation; without it when its memory had to be leaked.
pub(crate) type OnceCallback = Box<dyn FnOnce(Option<Op>, Outcome)>;
/// Called with each result of a multishot operation, and (true) with its end.
pub(crate) type EachCallback = Box<dyn FnMut(bool, Option<Op>, Outcome)>;

/// Who is told.
pub(crate) enum Notify {
    /// Nobody yet; the result waits.
    Nobody,
    Waker(Waker),
    Once(OnceCallback),
    Each(EachCallback),
    /// A submitter on another thread.
    Cell(Arc<Cell>),
}

impl Notify {
    /// Whether this waker is told already.
    #[inline]
    pub(crate) fn tells(&self, waker: &Waker) -> bool {
        matches!(self, Notify::Waker(own) if own.will_wake(waker))
    }

    /// Tells a waker from now on. Both are user code: `fresh` was cloned with nothing borrowed,
    /// and the one before it comes back to be dropped so.
    #[inline]
    #[must_use = "a waker is dropped with nothing borrowed"]
    pub(crate) fn tell(&mut self, fresh: Waker) -> Notify {
        std::mem::replace(self, Notify::Waker(fresh))
    }
}

/// Results of a multishot operation that nobody took yet.
#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) results: VecDeque<Outcome>,
    /// The kernel operation was (or is being) ended because the backlog is full.
    pub(crate) paused: bool,
}

/// The part of a slot that every event touches: one cache line.
#[repr(align(64))]
pub(crate) struct Slot {
    pub(crate) state: State,
    pub(crate) reason: Reason,
    /// A cancel went to the backend since the last push.
    pub(crate) cancel_sent: bool,
    /// Its handle is gone: drop the outcome.
    pub(crate) abandoned: bool,
    /// The result is known, only a notification is owed.
    pub(crate) settled: bool,
    pub(crate) has_deadline: bool,
    /// The body holds the operation. A plain one that the backend needs no copy of is not kept.
    pub(crate) is_kept: bool,
    pub(crate) shape: Shape,
    /// Stands first in a lane of its descriptor.
    pub(crate) holds_lane: bool,
    pub(crate) step: Step,
    /// A step of a sequence starts after it.
    pub(crate) leads: bool,
    pub(crate) link: Link,
    /// The kernel went on to it by itself after the step before it; the loop did not ask how that
    /// one ended.
    pub(crate) by_kernel: bool,
    pub(crate) owed: u16,
    pub(crate) generation: u32,
    pub(crate) result: i32,
    /// Free list, or the lane queue.
    pub(crate) next: u32,
    pub(crate) desc: u32,
    pub(crate) started_ns: u64,
    pub(crate) notify: Notify,
}

const _: () = assert!(size_of::<Slot>() == 64, "the hot part of a slot grew");

/// The part that is touched when an operation is handed over and when it ends.
pub(crate) struct Body {
    pub(crate) op: Option<Op>,
    /// Neighbours in the descriptor's list of operations.
    pub(crate) older: u32,
    pub(crate) newer: u32,
    /// Neighbours in its sequence.
    pub(crate) before: u32,
    pub(crate) then: u32,
    pub(crate) payload: Payload,
    pub(crate) backlog: Option<Box<Backlog>>,
}

impl Body {
    fn empty() -> Body {
        Body {
            op: None,
            older: NONE,
            newer: NONE,
            before: NONE,
            then: NONE,
            payload: Payload::None,
            backlog: None,
        }
    }
}

impl Slot {
    /// For an operation that begins; a free slot tells nobody and is no step.
    #[inline(always)]
    pub(crate) fn begin(&mut self, state: State, shape: Shape, started_ns: u64) {
        self.state = state;
        self.reason = Reason::Kernel;
        self.cancel_sent = false;
        self.abandoned = false;
        self.settled = false;
        self.holds_lane = false;
        self.has_deadline = false;
        self.is_kept = true;
        self.shape = shape;
        self.by_kernel = false;
        self.started_ns = started_ns;
        self.desc = NONE;
    }

    fn empty(next: u32) -> Slot {
        Slot {
            state: State::Free,
            reason: Reason::Kernel,
            cancel_sent: false,
            abandoned: false,
            settled: false,
            has_deadline: false,
            is_kept: false,
            shape: Shape::Ordinary,
            holds_lane: false,
            step: Step::Alone,
            leads: false,
            link: Link::Apart,
            by_kernel: false,
            owed: 0,
            generation: 1,
            result: 0,
            next,
            desc: NONE,
            started_ns: 0,
            notify: Notify::Nobody,
        }
    }
}

type ScratchCell = UnsafeCell<MaybeUninit<Scratch>>;

/// The slots of one proactor: three arrays side by side, by index.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    bodies: Vec<Body>,
    /// Freed with the rest, unless the kernel may still write it.
    scratch: ManuallyDrop<Vec<ScratchCell>>,
    is_leaked: bool,
    free: u32,
    /// Operations that are not done; what the bound is about.
    pub(crate) in_flight: u32,
    /// Results delivered so far: ends of operations and items of multishot ones.
    pub(crate) delivered: u64,
    pub(crate) spans: OpSpans,
}

/// Slots a proactor of `bound` operations may have: room for results that wait.
pub(crate) fn most_slots(bound: u32) -> usize {
    (bound as usize * 16).clamp(1 << 16, MAX_SLOTS)
}

impl Slots {
    /// For `bound` operations. The address range for all slots is reserved at once, so that they
    /// never move; its memory is touched as slots are first used.
    pub(crate) fn new(bound: u32) -> Slots {
        let most = most_slots(bound);
        Slots {
            slots: Vec::with_capacity(most),
            bodies: Vec::with_capacity(most),
            scratch: ManuallyDrop::new(Vec::with_capacity(most)),
            is_leaked: false,
            free: NONE,
            in_flight: 0,
            delivered: 0,
            spans: OpSpans::default(),
        }
    }

    /// The whole way of a plain operation whose result nobody waits for yet, which is most of a
    /// busy loop's events: small enough to be inlined where events are taken out of the ring.
    /// False: it is another kind of event.
    #[inline]
    pub(crate) fn finish_plain(&mut self, user_data: u64, result: i32, flags: u32) -> bool {
        let Some(slot) = self.slots.get_mut(user_data as u32 as usize) else { return false };
        // The name of an operation has nothing above its generation, and a slot that is in
        // flight is not free.
        let plain = user_data >> 32 == u64::from(slot.generation)
            && flags == 0
            && result >= 0
            && slot.state == State::InFlight
            && slot.shape == Shape::Plain
            && slot.owed == 1
            && !slot.abandoned
            && !slot.has_deadline
            && matches!(slot.notify, Notify::Nobody);
        if plain {
            slot.owed = 0;
            slot.result = result;
            slot.reason = Reason::Kernel;
            slot.state = State::Done;
            self.in_flight -= 1;
            self.delivered += 1;
        }
        plain
    }

    /// One more slot, within what was reserved.
    #[cold]
    fn grow(&mut self) -> bool {
        if self.slots.len() == self.slots.capacity() {
            return false;
        }
        self.free = self.slots.len() as u32;
        self.slots.push(Slot::empty(NONE));
        self.bodies.push(Body::empty());
        self.scratch.push(UnsafeCell::new(MaybeUninit::uninit()));
        true
    }

    /// The kernel may still write scratch: its memory is never given back. Outcomes that were not
    /// taken yet still are.
    pub(crate) fn leak_scratch(&mut self) {
        self.is_leaked = true;
    }

    /// Forgets everything: in a forked child nothing here may be dropped.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
        std::mem::forget(std::mem::take(&mut self.bodies));
        self.leak_scratch();
    }

    /// A free slot, taken off the list.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.free == NONE && !self.grow() {
            return None;
        }
        let index = self.free;
        let slot = self.at(index);
        let next = slot.next;
        slot.next = NONE;
        self.free = next;
        Some(index)
    }

    /// Makes sure that `count` slots can be taken one after the other.
    pub(crate) fn reserve(&mut self, count: usize) -> bool {
        let mut taken = Vec::with_capacity(count);
        let complete = (0..count).all(|_| self.take().map(|index| taken.push(index)).is_some());
        // Back in reverse: the list is as it was.
        for index in taken.into_iter().rev() {
            let free = self.free;
            self.at(index).next = free;
            self.free = index;
        }
        complete
    }

    /// Frees a slot that owes nothing any more; its generation moves on, so late names of it are
    /// recognised.
    #[inline]
    pub(crate) fn release(&mut self, index: u32) {
        let free = self.free;
        let slot = self.at(index);
        debug_assert_eq!(slot.owed, 0);
        slot.state = State::Free;
        slot.generation = (slot.generation + 1) & 0x00ff_ffff;
        if slot.generation == 0 {
            slot.generation = 1;
        }
        slot.next = free;
        let result = slot.result;
        self.free = index;
        self.spans.end(index, result);
    }

    #[inline]
    pub(crate) fn at(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// The body of a slot.
    #[inline]
    pub(crate) fn body(&mut self, index: u32) -> &mut Body {
        self.parts(index).1
    }

    /// The operation of a slot.
    #[inline]
    pub(crate) fn op(&mut self, index: u32) -> Option<&mut Op> {
        self.parts(index).1.op.as_mut()
    }

    /// A slot, its body and its scratch.
    #[inline]
    pub(crate) fn parts(&mut self, index: u32) -> (&mut Slot, &mut Body, *mut Scratch) {
        let at = index as usize;
        (&mut self.slots[at], &mut self.bodies[at], self.scratch[at].get().cast())
    }

    /// The slot a name means, unless it has moved on to another operation.
    #[inline]
    pub(crate) fn find(&mut self, id: OpId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id.index() as usize)?;
        (slot.generation == id.generation() && slot.state != State::Free).then_some(slot)
    }

    pub(crate) fn id(&mut self, index: u32) -> OpId {
        OpId::new(index, self.at(index).generation)
    }

    /// Every slot that is not free, with its operation.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, &Slot, Option<&Op>)> {
        self.slots
            .iter()
            .zip(&self.bodies)
            .enumerate()
            .filter(|(_, (slot, _))| slot.state != State::Free)
            .map(|(index, (slot, body))| (index as u32, slot, body.op.as_ref()))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if !self.is_leaked {
            // Scratch is plain memory: only the allocation goes.
            drop(std::mem::take(&mut *self.scratch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_dies_with_its_operation() {
        let mut slots = Slots::new(4);
        let index = slots.take().expect("room");
        slots.at(index).state = State::InFlight;
        let id = slots.id(index);
        assert!(slots.find(id).is_some());
        slots.release(index);
        assert!(slots.find(id).is_none());
        let again = slots.take().expect("room");
        slots.at(again).state = State::InFlight;
        assert_eq!(again, index);
        assert!(slots.find(id).is_none(), "the old name must not reach the new operation");
    }

    #[test]
    fn results_waiting_take_more_slots_and_nothing_moves() {
        let mut slots = Slots::new(4);
        let first = slots.take().expect("room");
        let at = std::ptr::from_mut(slots.at(first));
        let scratch = slots.parts(first).2;
        for _ in 0..64 {
            let index = slots.take().expect("room");
            slots.at(index).state = State::Done;
        }
        assert_eq!(at, std::ptr::from_mut(slots.at(first)));
        assert_eq!(scratch, slots.parts(first).2);
        assert_eq!(slots.live().count(), 64);
    }

    #[test]
    fn generations_skip_zero_when_they_wrap() {
        let mut slots = Slots::new(1);
        let index = slots.take().expect("room");
        slots.at(index).generation = 0x00ff_ffff;
        slots.release(index);
        assert_eq!(slots.at(index).generation, 1);
    }
}
