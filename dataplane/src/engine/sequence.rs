//! Sequences: steps of which each starts when the one before it succeeded.
//!
//! Every step is an operation in a slot of its own from the beginning, with everything it uses
//! counted, so a sequence has room for all of itself or is refused. A step whose turn has not come
//! is *waiting*: no backend knows of it. The slot before it names it (`then`), and that is all
//! there is to emulating a sequence:
//!
//! - a step *settles* (its result is known): it succeeded, and the next one starts; or it failed,
//!   and the next one ends as cancelled, which settles it, and so on to the last;
//! - a step that succeeded with less than was asked for (a short read at the end of a file) counts
//!   as failed here: the step after it must not work on bytes that never came;
//! - a step that is *made* from what came before runs its maker with nothing borrowed when the
//!   step before it is over, and not earlier: its outcome, buffers and all, is taken by the maker.
//!
//! # Chains in the kernel
//!
//! Where two or more steps in a row can be linked (`IOSQE_IO_LINK`, `io_uring_enter(2)`), they are
//! handed over together and the kernel goes from one to the next by itself. This is only ever an
//! advance on what the emulation would do. The kernel breaks a chain for reasons of its own (a
//! short transfer that we continue, a descriptor that would block): then every step after the
//! break comes back cancelled, is *waiting* again, and the emulation goes on from there. What a
//! step's success is must be the same for both, which is what [`Forms::links`] says.
//!
//! On a ring with deferred task work a chain moves only while its owner is in the kernel
//! (`IORING_SETUP_DEFER_TASKRUN`, `io_uring_setup(2)`); with SQPOLL it moves by itself.
//!
//! A step inside a chain cannot be cancelled by name while the kernel has not come to it: the step
//! it is at is cancelled instead, and takes the rest with it.
//!
//! # Chains in the lines of streams
//!
//! Emulated, a step gets into its stream's line (its *lane*) when its turn comes. A chain stands in
//! the lines of all its steps from the beginning, since the kernel asks nobody before it goes on:
//! it is linked only if they are free, and its last step in each of them holds it. What comes to
//! such a line then would wait for steps that have not begun, and they perhaps for it: a question
//! goes out on the socket on which the chain waits for the answer. So whoever finds a line held by
//! a step that waits has the chain *called back*: the step the kernel is at is cancelled, which
//! breaks the chain, the lines of the steps after it go on, and the emulation takes over. A step
//! that wins its race against the cancel is simply over, and the next one is called back; one that
//! ends by itself (a read of a file) is left alone until then. A step that has moved a part of its
//! bytes goes on with the rest before anybody else is let into its line.

use super::slots::{Link, NONE, State, Step};
use super::submit::Links;
use super::{Engine, Fire, Payload, Reason};
use crate::backend::OpId;
use crate::capability::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Forms, Lane, Op, Shape, Stored};

/// Makes a step from what came before it; user code. Called once, and dropped when the step has
/// begun: the sockets it owns are open until then.
pub(crate) type Maker = Box<dyn FnMut() -> Made>;

/// What a maker made.
pub(crate) enum Made {
    /// The step, and when it ends at the latest.
    Step(Op, Option<u64>),
    /// The sequence ends here, with success.
    Stop,
    /// It cannot go on.
    Failed(Error),
}

impl Made {
    pub(crate) fn panicked() -> Made {
        let message = "the function that makes this step panicked";
        Made::Failed(Error::new("sequence", ErrorKind::Interrupted, message))
    }
}

/// A step to be placed.
pub(crate) enum Content {
    Op(Op),
    Maker(Maker),
}

/// Whether it may wait for what somebody else does, and not just for a device.
fn waits_for_others(op: &Op) -> bool {
    op.lane().is_some() || matches!(op, Op::Poll(_) | Op::RecvFrom(_) | Op::SendTo(_))
}

impl Engine {
    /// Puts a checked step into a slot. It starts with [`start_step`](Self::start_step) when it is
    /// the first, else after `before`.
    pub(crate) fn place_step(
        &mut self,
        content: Content,
        before: Option<OpId>,
        deadline_ns: Option<u64>,
    ) -> Option<OpId> {
        let index = self.table.slots.take()?;
        self.table.slots.in_flight += 1;
        let started_ns = self.counters.turn_ns;
        let (slot, body, _) = self.table.slots.parts(index);
        // Ordinary whatever it is: the fast ways past a slot's body are for operations alone.
        slot.begin(State::Waiting, Shape::Ordinary, started_ns);
        slot.step = if before.is_some() { Step::Waits } else { Step::May };
        let id = OpId::new(index, slot.generation);
        match content {
            Content::Op(op) => {
                let links = Links::of(&op);
                op.put(&mut body.op);
                self.enlist(index, links);
            }
            Content::Maker(maker) => {
                self.makers.insert(index, maker);
            }
        }
        if let Some(before) = before {
            let (slot, body, _) = self.table.slots.parts(before.index());
            slot.leads = true;
            body.then = index;
            self.table.slots.body(index).before = before.index();
        }
        if deadline_ns.is_some() {
            self.set_deadline(index, deadline_ns);
        }
        Some(id)
    }

    /// The step's turn has come.
    pub(crate) fn start_step(&mut self, index: u32) {
        if self.makers.contains_key(&index) {
            let id = self.table.slots.id(index);
            return self.fire.push_back(Fire::Make(id));
        }
        let run = self.linkable(index);
        if run.len() > 1 && self.push_linked(&run) {
            return;
        }
        let has_deadline = self.table.slots.at(index).has_deadline;
        let fires_at = self.table.slots.op(index).and_then(|op| op.fires_at());
        match fires_at {
            Some(at_ns) => self.end_by(index, at_ns),
            None if self.options.timeout.is_some() && !has_deadline => {
                self.set_deadline(index, None);
            }
            None => {}
        }
        self.start(index);
    }

    /// The step and those after it that may be one chain.
    fn linkable(&mut self, first: u32) -> Vec<u32> {
        let mut run = Vec::new();
        let able = self.table.capabilities.contains(Capability::LinkedOperations)
            && self.options.timeout.is_none();
        let longest = match &self.backend {
            Some(backend) if able => backend.longest_chain(),
            _ => 0,
        };
        // No further: what does not fit would be looked at again with each step.
        let mut at = first;
        while at != NONE && run.len() < longest && self.is_linkable(at) {
            run.push(at);
            at = self.table.slots.body(at).then;
        }
        run
    }

    fn is_linkable(&mut self, index: u32) -> bool {
        let (slot, body, _) = self.table.slots.parts(index);
        let have = self.table.capabilities;
        let may = |op: &Op| slot.state == State::Waiting && op.links() && !op.is_own(have);
        if !body.op.as_ref().is_some_and(may) {
            return false;
        }
        if slot.holds_lane {
            return true;
        }
        let lane = self.lane_of(index);
        lane.is_none_or(|lane| *self.holder(lane) == NONE)
    }

    /// The lane the step stands in, or will.
    fn lane_of(&mut self, index: u32) -> Option<(u32, Lane)> {
        let (slot, body, _) = self.table.slots.parts(index);
        let lane = body.op.as_ref()?.lane().filter(|_| slot.desc != NONE)?;
        let has_lanes = self.table.descriptors.at(slot.desc).has_lanes();
        has_lanes.then_some((slot.desc, lane))
    }

    fn holder(&mut self, (desc, lane): (u32, Lane)) -> &mut u32 {
        &mut self.table.descriptors.at(desc).lanes[lane as usize].holder
    }

    fn push_linked(&mut self, run: &[u32]) -> bool {
        let ids: Vec<OpId> = run.iter().map(|index| self.table.slots.id(*index)).collect();
        let Some(backend) = &mut self.backend else { return false };
        if !backend.push_chain(&ids, &mut self.table) {
            return false;
        }
        for index in run {
            let slot = self.table.slots.at(*index);
            slot.state = State::InFlight;
            slot.link = Link::Linked;
            slot.by_kernel = *index != run[0];
            slot.owed += 1;
            self.hold_lane(*index);
        }
        self.counters.linked_steps += run.len() as u64;
        if self.resting {
            self.rouse();
        }
        true
    }

    /// Holds its line, which was free or another step's of the same chain.
    fn hold_lane(&mut self, index: u32) {
        let Some(lane) = self.lane_of(index) else { return };
        let before = std::mem::replace(self.holder(lane), index);
        if before != NONE {
            self.table.slots.at(before).holds_lane = false;
        }
        self.table.slots.at(index).holds_lane = true;
    }

    /// The kernel gave a step of a chain back: it waits again, or goes on alone.
    pub(crate) fn chain_broke(&mut self, index: u32) {
        let slot = self.table.slots.at(index);
        slot.state = State::Waiting;
        slot.cancel_sent = false;
        slot.by_kernel = false;
        if slot.step == Step::May {
            self.part(index);
            return self.start_step(index);
        }
        slot.link = if slot.link == Link::Cut { Link::Apart } else { Link::Back };
    }

    /// The kernel is done with a chain at this step, whose turn has come and which is not over:
    /// nothing after it runs there. Their lines go on, but its own is its own again.
    pub(crate) fn part(&mut self, index: u32) {
        self.table.slots.at(index).link = Link::Apart;
        let own = self.lane_of(index);
        let mut at = self.table.slots.body(index).then;
        while at != NONE {
            let slot = self.table.slots.at(at);
            slot.link = match slot.link {
                Link::Linked | Link::Unwanted => Link::Cut,
                Link::Back => Link::Apart,
                // Here another chain begins, or an earlier look ended.
                Link::Cut | Link::Apart => return,
            };
            if slot.holds_lane {
                match own.is_some() && self.lane_of(at) == own {
                    true => self.hold_lane(index),
                    false => self.leave_lane(at),
                }
            }
            at = self.table.slots.body(at).then;
        }
    }

    /// Somebody stands in a line that is held by a step whose turn has not come.
    #[cold]
    pub(super) fn call_back(&mut self, holder: u32) {
        let mut at = self.table.slots.body(holder).before;
        while at != NONE {
            let slot = self.table.slots.at(at);
            if slot.step != Step::Waits {
                return self.call_back_running(at);
            }
            if slot.link != Link::Linked {
                // It was done before, or the chain has broken and the news is on its way.
                return;
            }
            slot.link = Link::Unwanted;
            at = self.table.slots.body(at).before;
        }
    }

    /// Cancels the step that a chain is at, unless it ends by itself.
    fn call_back_running(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        let waits = body.op.as_ref().is_some_and(waits_for_others);
        let is_out = slot.link != Link::Apart && slot.state == State::InFlight && !slot.settled;
        if waits && is_out && slot.reason == Reason::Kernel && !slot.cancel_sent {
            slot.cancel_sent = true;
            self.counters.called_back += 1;
            let id = self.table.slots.id(index);
            self.cancel_in_backend(id);
        }
    }

    /// A step whose turn has not come is asked to end: so are those before it, back to the one that
    /// runs. Step by step and not by calls within calls: a sequence may be as long as the bound.
    pub(super) fn cancel_before(&mut self, mut index: u32, reason: Reason) {
        loop {
            if self.table.slots.at(index).state == State::Waiting {
                self.cancel_own(index);
            }
            index = self.table.slots.body(index).before;
            if index == NONE {
                // The one before it has failed: it ends already.
                return;
            }
            let slot = self.table.slots.at(index);
            if slot.settled || slot.step != Step::Waits {
                let id = self.table.slots.id(index);
                self.cancel(id, reason);
                return;
            }
            if slot.reason != Reason::Kernel {
                // It was asked before, and asked those before it.
                return;
            }
            slot.reason = reason;
        }
    }

    /// A step is over: what made it, or would have, is not needed any more.
    pub(crate) fn end_step(&mut self, index: u32) {
        if let Some(maker) = self.makers.remove(&index) {
            self.fire.push_back(Fire::Drop(Box::new(maker)));
        }
        let before = std::mem::replace(&mut self.table.slots.body(index).before, NONE);
        if before != NONE {
            // It ended before its turn came: nothing is to be started there.
            self.table.slots.at(before).leads = false;
            self.table.slots.body(before).then = NONE;
        }
    }

    /// A step settled, or is over: on to the one after it.
    pub(crate) fn lead_on(&mut self, index: u32) {
        let (slot, body, _) = self.table.slots.parts(index);
        let (result, over, then) = (slot.result, slot.state == State::Done, body.then);
        let short = body.op.as_ref().is_some_and(|op| op.falls_short(result));
        let failed = result < 0 || short;
        if !failed && !over && self.makers.contains_key(&then) {
            // It wants the outcome, which is there when nothing is owed any more.
            return;
        }
        let (slot, body, _) = self.table.slots.parts(index);
        slot.leads = false;
        body.then = NONE;
        let stopped = slot.reason == Reason::Stopped;
        self.table.slots.body(then).before = NONE;
        let next = self.table.slots.at(then);
        let state = next.state;
        if failed {
            if next.reason == Reason::Kernel {
                next.reason = if stopped { Reason::Stopped } else { Reason::Sequence };
            }
            if state == State::Waiting {
                self.cancel_own(then);
            }
            return;
        }
        next.step = Step::May;
        if state == State::Waiting {
            if next.link == Link::Back {
                self.part(then);
            }
            return self.start_step(then);
        }
        let (reason, link, cancel_sent) = (next.reason, next.link, next.cancel_sent);
        if link != Link::Apart && reason != Reason::Kernel && !cancel_sent {
            // It was asked to end when the kernel had not come to it.
            self.table.slots.at(then).cancel_sent = true;
            let id = self.table.slots.id(then);
            self.cancel_in_backend(id);
        } else if link == Link::Unwanted {
            self.call_back_running(then);
        }
    }

    /// None: the step ended before it could be made, and its slot may be another's.
    pub(crate) fn take_maker(&mut self, id: OpId) -> Option<Maker> {
        let slot = self.table.slots.find(id)?;
        (slot.state == State::Waiting).then(|| self.makers.remove(&id.index()))?
    }

    /// What a maker made becomes the step.
    pub(crate) fn made(&mut self, id: OpId, made: Made) {
        let waiting = self.table.slots.find(id).is_some_and(|slot| {
            slot.state == State::Waiting && slot.reason == Reason::Kernel && slot.owed == 0
        });
        let index = id.index();
        if !waiting {
            return self.fire.push_back(Fire::Drop(Box::new(made)));
        }
        let (op, deadline_ns) = match made {
            Made::Step(op, deadline_ns) => (op, deadline_ns),
            Made::Failed(error) => return self.refuse_step(index, error, None),
            Made::Stop => {
                self.table.slots.at(index).reason = Reason::Stopped;
                return self.settle(index, -libc::ECANCELED, 0);
            }
        };
        if let Err(error) = self.check_step(&op, None) {
            return self.refuse_step(index, error, Some(op));
        }
        let links = Links::of(&op);
        op.put(&mut self.table.slots.body(index).op);
        self.enlist(index, links);
        if let Some(at_ns) = deadline_ns {
            self.end_by(index, at_ns);
        }
        self.start_step(index);
    }

    /// Checks a step without submitting it.
    pub(crate) fn check_step(&self, op: &Op, deadline_ns: Option<u64>) -> Result<()> {
        if op.is_multishot() {
            let message = "a step has one result, and this operation goes on giving them";
            return Err(Error::new(op.name(), ErrorKind::InvalidArgument, message));
        }
        if op.fires_at().is_some_and(|at_ns| deadline_ns.is_some_and(|end_ns| end_ns < at_ns)) {
            let message = "the timer is later than the deadline of its sequence";
            return Err(Error::new(op.name(), ErrorKind::InvalidArgument, message));
        }
        self.check(op)
    }

    fn refuse_step(&mut self, index: u32, error: Error, op: Option<Op>) {
        self.settle(index, -libc::EINVAL, 0);
        let body = self.table.slots.body(index);
        body.payload = Payload::Refusal(error);
        // Handed back to whoever takes the step; it was never enlisted.
        body.op = op;
    }

    /// How a step that is over ended: None when it succeeded in full.
    pub(crate) fn step_error(&mut self, id: OpId) -> Option<(Reason, Error)> {
        let (slot, body, _) = self.table.slots.parts(id.index());
        let (result, reason) = (slot.result, slot.reason);
        let name = body.op.as_ref().map_or("step", |op| op.name());
        let short = body.op.as_ref().is_some_and(|op| op.falls_short(result));
        if result >= 0 && !short {
            return None;
        }
        let error = match &body.payload {
            _ if short => {
                let message = format!(
                    "only {result} bytes were there, fewer than asked for; the steps after it did \
                     not run"
                );
                Error::new(name, ErrorKind::DataLoss, message)
            }
            Payload::Refusal(error) => error.clone(),
            _ => match body.op.as_ref().and_then(|op| op.error(result)) {
                Some(error) => error,
                None => {
                    let outcome = super::Outcome::new(result, reason, Payload::None);
                    crate::op::settle(&outcome, name).err()?
                }
            },
        };
        Some((reason, error))
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::AnyBackend;
    use crate::{Backend, Interest, Options, Proactor, RunningSequence, Socket, Wait};
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair(io: &Proactor) -> (Socket, UnixStream) {
        let (here, there) = UnixStream::pair().expect("two descriptors");
        there.set_nonblocking(true).expect("a flag");
        (io.adopt_socket(here).expect("room"), there)
    }

    /// The kernel takes so many entries of what is staged.
    fn take_at_most(io: &Proactor, entries: u32) {
        let staged = |engine: &mut super::Engine| match &mut engine.backend {
            Some(AnyBackend::Uring(uring)) => uring.take_at_most(entries),
            _ => panic!("a ring was asked for"),
        };
        io.inner().with("test", staged).expect("nothing is borrowed");
    }

    fn turns(io: &Proactor) {
        for _ in 0..10 {
            io.poll(Wait::Now).expect("a turn");
        }
    }

    fn run(io: &Proactor, running: RunningSequence) -> usize {
        io.block_on(async { running.await.expect("every step succeeds").steps() }).expect("polled")
    }

    #[test]
    fn a_chain_of_which_the_kernel_took_a_part_goes_on_in_order() {
        for taken in 1..6 {
            let io = Proactor::with(Options::default().backend(Backend::IoUring)).expect("a ring");
            let ((gate, mut opener), (near, mut far)) = (pair(&io), pair(&io));
            io.poll(Wait::Now).expect("the bell is armed");
            let steps = io.sequence().then(io.nop()).then(gate.ready(Interest::READABLE));
            let steps = steps.then(io.nop()).send_all(&near, b"one ".to_vec()).then(io.nop());
            let steps = steps.send_all(&near, b"two".to_vec());
            let running = steps.submit().expect("room");
            assert_eq!(io.stats().linked_steps, 6);
            take_at_most(&io, taken);
            turns(&io);
            let mut got = [0; 16];
            let early = far.read(&mut got).map_err(|error| error.kind());
            assert_eq!(early, Err(ErrorKind::WouldBlock), "{taken} taken: the gate is closed");
            opener.write_all(b"!").expect("room for a byte");
            assert_eq!(run(&io, running), 6);
            let len = far.read(&mut got).expect("it arrived");
            assert_eq!(&got[..len], b"one two", "{taken} taken");
            assert_eq!(io.stats().in_flight, 0);
        }
    }

    #[test]
    fn a_sequence_longer_than_the_queue_is_looked_through_once() {
        let mut options = Options::default().backend(Backend::IoUring).operations(64);
        options.submissions = Some(8);
        let io = Proactor::with(options).expect("a ring");
        io.poll(Wait::Now).expect("the bell is armed");
        let mut steps = io.sequence();
        for _ in 0..50 {
            steps.add(io.nop());
        }
        let running = steps.submit().expect("room");
        assert_eq!(run(&io, running), 50);
        // Six chains of eight; the two that are left are a chain too.
        assert_eq!(io.stats().linked_steps, 50);
    }
}
