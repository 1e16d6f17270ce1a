//! The waker of the loop's own thread: what `block_on` gives its future, and what the engine gives
//! to whatever it waits for itself. It rings the bell only when it fires on another thread.

use crate::remote::inbox::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

pub(crate) struct LoopWaker {
    woken: AtomicBool,
    shared: Arc<Shared>,
    owner: usize,
}

thread_local! {
    static HERE: u8 = const { 0 };
}

/// Names the calling thread for as long as it runs: the address of a thread-local.
fn this_thread() -> usize {
    HERE.with(|here| std::ptr::from_ref(here) as usize)
}

impl LoopWaker {
    /// Of a loop on the calling thread.
    pub(crate) fn new(shared: Arc<Shared>, woken: bool) -> Arc<LoopWaker> {
        Arc::new(LoopWaker { woken: AtomicBool::new(woken), shared, owner: this_thread() })
    }

    /// Whether it fired since this was last asked.
    pub(crate) fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::Acquire)
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        match this_thread() == self.owner {
            true => self.shared.wake_here(),
            false => self.shared.wake(),
        }
    }
}
