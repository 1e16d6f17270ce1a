//! No-ops handed to a proactor's thread by another, and their results handed back.

use crate::{Contender, Error, Result};
use dataplane::{Backend, Handle, Nop, Options, Proactor, RemoteSubmission, Wait};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// Longer than the other thread takes from one burst to the next.
const LOOK: Duration = Duration::from_micros(20);

/// `depth` no-ops outstanding. A step is one no-op: submitted here, run there, awaited here.
pub struct Handoff {
    handle: Handle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    submissions: Vec<RemoteSubmission<Nop>>,
    depth: usize,
}

impl Handoff {
    /// With a proactor on a thread of its own, which `looks` for more before it sleeps.
    ///
    /// # Errors
    ///
    /// When there is no io_uring, or no thread.
    pub fn new(depth: usize, looks: bool) -> Result<Handoff> {
        let spin = if looks { LOOK } else { Duration::ZERO };
        let (ready, made) = mpsc::channel::<Result<Handle>>();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("loop".into()).spawn(move || {
            let options = Options::default().backend(Backend::IoUring).spin(spin);
            let io = match Proactor::with(options) {
                Ok(io) => io,
                Err(error) => return drop(ready.send(Err(error.into()))),
            };
            let _ = ready.send(Ok(io.handle()));
            while !stopped.load(Ordering::Relaxed) && io.poll(Wait::Forever).is_ok() {}
        })?;
        let handle = made.recv().map_err(|_| Error::from("the loop's thread ended"))??;
        let submissions = Vec::with_capacity(depth);
        Ok(Handoff { handle, stop, thread: Some(thread), submissions, depth })
    }
}

impl Contender for Handoff {
    fn run(&mut self, steps: u64) -> Result<()> {
        let (handle, submissions, depth) = (&self.handle, &mut self.submissions, self.depth);
        parked(async {
            for _ in 0..steps.div_ceil(depth as u64) {
                for _ in 0..depth {
                    submissions.push(handle.nop().submit()?);
                }
                for submission in submissions.drain(..) {
                    submission.await?;
                }
            }
            Ok(())
        })
    }
}

impl Drop for Handoff {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.handle.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks for a wake before parking, as the channels do before they sleep: with a pause after each,
/// then with a yield.
const LOOKS: (u32, u32) = (64, 16);

struct Unpark {
    woken: AtomicBool,
    thread: Thread,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The smallest executor there is: looks for a while, then parks, until the future is ready.
fn parked<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let thread = std::thread::current();
    let unpark = Arc::new(Unpark { woken: AtomicBool::new(false), thread });
    let waker = Waker::from(unpark.clone());
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        for look in 0..LOOKS.0 + LOOKS.1 {
            if unpark.woken.load(Ordering::Relaxed) {
                break;
            }
            match look < LOOKS.0 {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}
