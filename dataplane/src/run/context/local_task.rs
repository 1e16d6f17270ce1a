//! The tasks of a local context, and how they are woken.
//!
//! A task is named by a number that is never used again; its future stands in a map that belongs to
//! the thread. Wakers are Send, whatever the future is: a waker holds the number, a flag, and a
//! lock-free queue of what was woken, which the runner empties before it looks for work. The flag
//! keeps a task from standing in the queue twice. A waker that outlives its task wakes nobody.
//!
//! The future is taken out of the map for its turn, so polling it borrows nothing.

use super::join::Cancel;
use super::panics::Panics;
use crate::proactor::Proactor;
use crate::proactor::loop_waker::LoopWaker;
use crossbeam_queue::SegQueue;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

pub(super) type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks woken since the runner last looked.
pub(super) struct Woken {
    queue: SegQueue<u64>,
    bell: Arc<LoopWaker>,
}

impl Woken {
    /// On the proactor's thread.
    pub(super) fn new(io: &Proactor) -> Woken {
        let bell = LoopWaker::new(io.inner().shared.clone(), false);
        Woken { queue: SegQueue::new(), bell }
    }

    pub(super) fn take(&self) -> Option<u64> {
        self.queue.pop()
    }
}

/// Wakes one task, from any thread.
pub(super) struct TaskWaker {
    key: u64,
    queued: AtomicBool,
    cancelled: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Acquire and release: what was done before the waking is seen by the turn it causes.
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.woken.queue.push(self.key);
            self.woken.bell.wake_by_ref();
        }
    }
}

impl Cancel for TaskWaker {
    fn cancel(self: Arc<Self>) {
        self.cancelled.store(true, Ordering::Release);
        self.wake();
    }
}

struct Task {
    /// None while it runs.
    future: Option<LocalFuture>,
    /// A turn fell due while it ran.
    missed: bool,
    waker: Arc<TaskWaker>,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Tasks {
    all: RefCell<HashMap<u64, Task>>,
    next: Cell<u64>,
}

/// Ends the task when its turn panics.
struct Turn<'a, F: Fn()> {
    tasks: &'a Tasks,
    key: u64,
    ended: F,
    over: bool,
}

impl<F: Fn()> Drop for Turn<'_, F> {
    fn drop(&mut self) {
        if self.over {
            let task = self.tasks.all.borrow_mut().remove(&self.key);
            if task.is_some() {
                (self.ended)();
            }
        }
    }
}

impl Tasks {
    /// A task that counts as queued: its first turn is the caller's to queue.
    pub(super) fn insert(&self, future: LocalFuture, woken: &Arc<Woken>) -> (u64, Arc<TaskWaker>) {
        let key = self.next.get();
        self.next.set(key + 1);
        let waker = Arc::new(TaskWaker {
            key,
            queued: AtomicBool::new(true),
            cancelled: AtomicBool::new(false),
            woken: woken.clone(),
        });
        let task = Task { future: Some(future), missed: false, waker: waker.clone() };
        self.all.borrow_mut().insert(key, task);
        (key, waker)
    }

    /// Polls the future once, or drops it when it was cancelled; `ended` is called when it is over.
    pub(super) fn turn(&self, key: u64, ended: impl Fn()) {
        let mut turn = Turn { tasks: self, key, ended, over: true };
        let mut all = self.all.borrow_mut();
        let taken = all.get_mut(&key).and_then(|task| {
            // Acquire: see `wake_by_ref`. From here on a waking queues it again.
            task.waker.queued.swap(false, Ordering::AcqRel);
            task.missed |= task.future.is_none();
            Some((task.future.take()?, task.waker.clone()))
        });
        drop(all);
        let Some((mut future, task)) = taken else {
            // It is over; or it is running, and a run nested in it came upon its next turn.
            turn.over = false;
            return;
        };
        if task.cancelled.load(Ordering::Acquire) {
            return drop(future);
        }
        let waker = Waker::from(task);
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return drop(future);
        }
        turn.over = false;
        let mut all = self.all.borrow_mut();
        let missed = match all.get_mut(&key) {
            Some(task) => {
                task.future = Some(future);
                std::mem::take(&mut task.missed).then(|| task.waker.clone())
            }
            None => {
                drop(all);
                return drop(future);
            }
        };
        drop(all);
        if let Some(waker) = missed {
            waker.wake();
        }
    }

    /// Drops every task; `ended` is called for each.
    pub(super) fn discard(&self, panics: &mut Panics, ended: impl Fn()) {
        let all = std::mem::take(&mut *self.all.borrow_mut());
        for task in all.into_values() {
            panics.guard(|| drop(task.future));
            ended();
        }
    }
}
