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
//! for nothing, which every future must bear anyway. The map has a fixed number of bits, so tasks
//! whose indexes are [`BITS`] apart share one and are polled together; again for nothing.

use crate::remote::inbox::Shared;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};

/// Bits of the return map.
pub(crate) const BITS: usize = 1 << 16;

/// No task: a panic that nobody will be told of otherwise stands in line.
pub(crate) const LOST_PANIC: u32 = u32::MAX;

thread_local! {
    /// The run queues of this thread's loops.
    static HERE: RefCell<Vec<Rc<Ready>>> = const { RefCell::new(Vec::new()) };
}

/// The run queue of one loop; used from its thread only.
pub(crate) struct Ready {
    shared: Arc<Shared>,
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
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Ready> {
        Rc::new(Ready { shared, lines: RefCell::default(), waiting: Cell::new(0) })
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
        for index in (bit..known).step_by(BITS) {
            self.push(index as u32);
        }
    }

    /// The waker of a slot of the task table.
    pub(crate) fn waker(&self, index: u32) -> Waker {
        Waker::from(Arc::new(TaskWaker { shared: self.shared.clone(), index }))
    }
}

struct TaskWaker {
    shared: Arc<Shared>,
    index: u32,
}

impl TaskWaker {
    /// False: this is not the loop's thread, or its proactor has ended.
    fn push_here(&self) -> bool {
        let push = |here: &RefCell<Vec<Rc<Ready>>>| {
            let here = here.borrow();
            let own = here.iter().find(|ready| Arc::ptr_eq(&ready.shared, &self.shared));
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
                self.shared.returns.tasks.insert(self.index as usize % BITS);
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
        Ready::new(Arc::new(shared))
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
}
