//! Which tasks are to be polled, and the wakers that say so.
//!
//! Two ways lead to the run queue, and neither is new. On the loop's own thread a wake pushes the
//! task's index: a look into a thread-local list, no lock, no atomic but the waker's own count of
//! references. On any other thread it sets a bit in the return map and announces it, as a dropped
//! handle does ([`Returns`](crate::remote::inbox::Returns)): the first wake after the loop said
//! that it goes to sleep rings, the others do not; nothing allocates, blocks or fails.
//!
//! A waker belongs to a slot of the task table, not to a task: it is made when the table grows and
//! used again by the slot's next task. One that somebody kept too long polls that next task once
//! for nothing, which every future must bear anyway. The map has a fixed number of bits, and each
//! run queue begins at another one. Tasks that share a bit are polled together; again for nothing.
//!
//! A loop has one run queue of its own and one for each local context over it ([`Driver`]).

use crate::remote::inbox::Shared;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};

/// Bits of the return map.
pub(crate) const BITS: usize = 1 << 16;

/// How far apart the run queues of a thread begin in the return map.
const STRIDE: usize = 1 << 12;

/// No task: a panic that nobody will be told of otherwise stands in line.
pub(crate) const LOST_PANIC: u32 = u32::MAX;

thread_local! {
    /// The run queues of this thread's loops.
    static HERE: RefCell<Vec<Rc<Ready>>> = const { RefCell::new(Vec::new()) };
    /// The number of the next one.
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// Who polls the tasks of a run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// The proactor, inside its polls.
    Poll,
    /// A local context, between polls: a task that gets in line during one ends it.
    Context,
}

/// A run queue of one loop; used from its thread only.
pub(crate) struct Ready {
    pub(crate) shared: Arc<Shared>,
    pub(crate) driver: Driver,
    /// Among those of this thread.
    number: usize,
    lines: RefCell<Lines>,
    /// Length of the queue, for the turn to look at.
    waiting: Cell<usize>,
}

#[derive(Default)]
struct Lines {
    queue: VecDeque<u32>,
    /// By index: whether it stands in the queue.
    queued: Vec<bool>,
}

impl Ready {
    /// On the loop's thread.
    pub(crate) fn new(shared: Arc<Shared>, driver: Driver) -> Rc<Ready> {
        let number = NEXT.with(|next| next.replace(next.get() + 1));
        let (lines, waiting) = (RefCell::default(), Cell::new(0));
        Rc::new(Ready { shared, driver, number, lines, waiting })
    }

    /// Lets wakers of this thread find it.
    pub(crate) fn enrol(self: &Rc<Self>) {
        let _ = HERE.try_with(|here| here.borrow_mut().push(self.clone()));
    }

    /// From here on every wake is one from elsewhere.
    pub(crate) fn leave(self: &Rc<Self>) {
        // A thread that ends has no list any more.
        let _ = HERE.try_with(|here| here.borrow_mut().retain(|one| !Rc::ptr_eq(one, self)));
    }

    /// Puts a task in line, unless it stands there.
    pub(crate) fn push(&self, index: u32) {
        let mut lines = self.lines.borrow_mut();
        if index != LOST_PANIC {
            let at = index as usize;
            if at >= lines.queued.len() {
                lines.queued.resize(at + 1, false);
            }
            if std::mem::replace(&mut lines.queued[at], true) {
                return;
            }
        }
        lines.queue.push_back(index);
        self.waiting.set(lines.queue.len());
        if self.driver == Driver::Context {
            self.shared.wake_here();
        }
    }

    pub(crate) fn pop(&self) -> Option<u32> {
        let mut lines = self.lines.borrow_mut();
        let index = lines.queue.pop_front()?;
        if let Some(queued) = lines.queued.get_mut(index as usize) {
            *queued = false;
        }
        self.waiting.set(lines.queue.len());
        Some(index)
    }

    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// A bit of the return map was set: every task it stands for is put in line.
    pub(crate) fn push_all_of(&self, bit: usize) {
        let known = self.lines.borrow().queued.len();
        let first = (bit + BITS - bit_of(self.number, 0)) % BITS;
        for index in (first..known).step_by(BITS) {
            self.push(index as u32);
        }
    }

    /// The waker of a slot of the task table.
    pub(crate) fn waker(&self, index: u32) -> Waker {
        Waker::from(Arc::new(TaskWaker { shared: self.shared.clone(), number: self.number, index }))
    }
}

/// Where a task's wakes from elsewhere are noted.
fn bit_of(number: usize, index: u32) -> usize {
    (number % BITS * STRIDE + index as usize) % BITS
}

struct TaskWaker {
    shared: Arc<Shared>,
    /// Of its run queue.
    number: usize,
    index: u32,
}

impl TaskWaker {
    /// False: this is not the loop's thread, or its proactor has ended.
    fn push_here(&self) -> bool {
        let push = |here: &RefCell<Vec<Rc<Ready>>>| {
            let here = here.borrow();
            let is_own = |ready: &&Rc<Ready>| {
                Arc::ptr_eq(&ready.shared, &self.shared) && ready.number == self.number
            };
            let own = here.iter().find(is_own);
            own.map(|ready| ready.push(self.index)).is_some()
        };
        HERE.try_with(push).unwrap_or(false)
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.push_here() {
            true => self.shared.rouse(),
            false => {
                self.shared.returns.tasks.insert(bit_of(self.number, self.index));
                self.shared.announce();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn ready() -> Rc<Ready> {
        let shared = Shared::new("test", (4, 4), 4, 4).expect("an eventfd");
        Ready::new(Arc::new(shared), Driver::Poll)
    }

    #[test]
    fn a_task_stands_in_line_once_and_in_order() {
        let ready = ready();
        for index in [2, 0, 2, 1, 0] {
            ready.push(index);
        }
        assert_eq!(ready.waiting(), 3);
        let order: Vec<u32> = std::iter::from_fn(|| ready.pop()).collect();
        assert_eq!(order, [2, 0, 1]);
        ready.push(2);
        assert_eq!(ready.pop(), Some(2), "and again once it was taken out");
    }

    #[test]
    fn a_wake_on_the_loops_thread_announces_nothing() {
        let ready = ready();
        ready.enrol();
        let seen = ready.shared.observe();
        ready.waker(3).wake();
        assert_eq!((ready.pop(), ready.shared.observe()), (Some(3), seen));
        assert!(ready.shared.returns.tasks.is_empty());
        ready.leave();
        ready.waker(3).wake();
        assert_eq!(ready.pop(), None, "one that left is woken like from elsewhere");
        assert!(ready.shared.returns.tasks.contains(3) && ready.shared.observe() != seen);
    }

    #[test]
    fn wakes_from_elsewhere_ring_once_for_each_sleep() {
        let ready = ready();
        ready.enrol();
        let (one, two) = (ready.waker(0), ready.waker(1));
        assert!(ready.shared.arm(ready.shared.observe()));
        let waking = std::thread::spawn(move || {
            for _ in 0..100 {
                one.wake_by_ref();
                two.wake_by_ref();
            }
        });
        waking.join().expect("it only wakes");
        let bell = ready.shared.bell.as_fd().try_clone_to_owned().expect("a descriptor");
        let mut rings = [0; 8];
        File::from(bell).read_exact(&mut rings).expect("a bell that was rung");
        assert_eq!(u64::from_ne_bytes(rings), 1);
        ready.push(0);
        ready.push(1);
        while ready.pop().is_some() {}
        ready.shared.returns.tasks.drain(|bit| ready.push_all_of(bit));
        assert_eq!(ready.waiting(), 2);
        ready.leave();
    }

    #[test]
    fn tasks_that_share_a_bit_are_woken_together() {
        let ready = ready();
        let far = BITS as u32 + 7;
        ready.push(far);
        ready.pop();
        ready.push_all_of(7);
        assert_eq!((ready.pop(), ready.pop(), ready.pop()), (Some(7), Some(far), None));
    }

    #[test]
    fn two_run_queues_of_a_loop_are_told_apart() {
        let own = ready();
        let context = Ready::new(own.shared.clone(), Driver::Context);
        own.enrol();
        context.enrol();
        context.waker(3).wake();
        assert_eq!((own.pop(), context.pop()), (None, Some(3)));
        assert!(own.shared.take_wake_here(), "the poll returns to the context");
        let waker = context.waker(3);
        std::thread::spawn(move || waker.wake()).join().expect("it only wakes");
        own.push(3);
        own.pop();
        own.shared.returns.tasks.drain(|bit| {
            own.push_all_of(bit);
            context.push_all_of(bit);
        });
        assert_eq!((own.pop(), context.pop()), (None, Some(3)));
        own.leave();
        context.leave();
    }
}
