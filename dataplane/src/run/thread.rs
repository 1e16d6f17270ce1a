//! A proactor on a thread of its own, for programs whose threads have other things to do.
//!
//! The thread makes the proactor, polls it until it is asked to stop, and shuts it down. Everything
//! else goes through its [`Handle`]: operations, calls, wakes. Code that must run on the thread
//! itself (sockets and tasks that stay there) is brought by
//! [`start_with`](ProactorThread::start_with) or [`Handle::call`].
//!
//! # Who ends what
//!
//! - `start` returns when the proactor stands. If it cannot be made, or the caller's set-up fails
//!   or panics, the thread has ended by the time the error is returned.
//! - A stop is a flag and a wake, so it ends a poll that sleeps. Asking twice is asking once.
//! - A panic of the caller's code leaves `poll`, as it does on any thread, and here there is nobody
//!   else to catch it: the loop ends, what was in flight is cancelled and told so, handles give
//!   ShutDown from then on, and [`join`](ProactorThread::join) says what the panic said.
//! - Dropping asks and waits. Dropped on its own thread (by a callback that held the last one) it
//!   only asks: a thread cannot wait for itself.

use crate::engine::shutdown::Leaked;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Options;
use crate::proactor::{Proactor, Wait};
use crate::remote::handle::Handle;
use crate::remote::inbox;
use crate::sys::limits;
use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

const START: &str = "start a proactor thread";
const JOIN: &str = "join a proactor thread";

/// What the loop is asked from outside.
#[derive(Default)]
pub(super) struct Stop {
    asked: AtomicBool,
    /// Until when what completes by itself is still delivered; None: cancel at once.
    finish: Mutex<Option<Wait>>,
}

impl Stop {
    pub(super) fn ask(&self, handle: &Handle) {
        // Release: the loop sees everything that was queued before.
        self.asked.store(true, Ordering::Release);
        handle.wake();
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn finish(&self) -> std::sync::MutexGuard<'_, Option<Wait>> {
        self.finish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the head of this module. `Send` and `Sync`.
pub struct ProactorThread {
    handle: Handle,
    stop: Arc<Stop>,
    /// None once it was joined.
    thread: Option<Running>,
}

/// Gives what the loop's end was.
type Running = JoinHandle<Result<Option<Leaked>>>;

impl fmt::Debug for ProactorThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProactorThread({:?})", self.handle)
    }
}

impl ProactorThread {
    /// Starts a thread named after [`Options::name`] (the kernel keeps 15 bytes of it) with a
    /// proactor of its own; [`Options::cpu`] pins it. Returns when the proactor stands.
    ///
    /// # Errors
    ///
    /// As [`Proactor::with`]; Exhausted or Io when the system starts no thread. None is left then.
    pub fn start(options: Options) -> Result<ProactorThread> {
        ProactorThread::start_with(options, |_| Ok(()))
    }

    /// As [`start`](Self::start), and runs `set_up` on the new thread before the first poll: the
    /// place to make what stays there.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and what `set_up` returns; Panicked when it panics.
    pub fn start_with(
        options: Options,
        set_up: impl FnOnce(&Proactor) -> Result<()> + Send + 'static,
    ) -> Result<ProactorThread> {
        ProactorThread::start_on(options, None, set_up)
    }

    /// On these CPUs.
    pub(super) fn start_on(
        options: Options,
        cpus: Option<Vec<u32>>,
        set_up: impl FnOnce(&Proactor) -> Result<()> + Send + 'static,
    ) -> Result<ProactorThread> {
        let stop = Arc::new(Stop::default());
        let theirs = stop.clone();
        let make = |options| make(options, cpus, set_up);
        let (handle, thread) = launch(options, make, move |io| drive(io, &theirs))?;
        Ok(ProactorThread { handle, stop, thread: Some(thread) })
    }

    /// A handle to its proactor. Clones of it do not keep the thread going.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Whether the thread has ended: it was asked to, or its loop failed.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks the loop to end, without waiting: what is in flight is cancelled.
    pub fn request_stop(&self) {
        self.stop.ask(&self.handle);
    }

    /// Asks the loop to end and waits until it has. Operations are cancelled, and awaited for at
    /// most [`Options::shutdown`]; what had to be leaked is reported.
    ///
    /// # Errors
    ///
    /// Panicked, with what it said, when a panic of a callback or call had ended the loop; the
    /// error with which a poll had ended it; Busy on the thread itself, which goes on to end.
    pub fn join(mut self) -> Result<Option<Leaked>> {
        self.end()
    }

    /// As [`join`](Self::join), and first delivers what completes by itself, until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`join`](Self::join).
    pub fn shutdown(mut self, deadline: impl Into<Wait>) -> Result<Option<Leaked>> {
        *self.stop.finish() = Some(deadline.into());
        self.end()
    }

    fn end(&mut self) -> Result<Option<Leaked>> {
        let Some(thread) = self.thread.take() else { return Ok(None) };
        if !self.handle.shared().origin.is_here() {
            // A forked child has no such thread to wait for, nor anything of it to undo.
            std::mem::forget(thread);
            return Err(inbox::forked(JOIN));
        }
        self.request_stop();
        if thread.thread().id() == thread::current().id() {
            let message = "called on the thread itself, which ends when it returns to its loop";
            return Err(Error::new(JOIN, ErrorKind::Busy, message));
        }
        ended(thread, JOIN)
    }
}

impl Drop for ProactorThread {
    fn drop(&mut self) {
        // Whoever wants to know how it ended joins; a panic has said its words already.
        let _ = self.end();
    }
}

/// Starts a thread named like the options say, which makes a proactor and then drives it to its
/// end. Returns when the proactor stands; an error leaves no thread.
pub(super) fn launch(
    options: Options,
    make: impl FnOnce(Options) -> Result<Proactor> + Send + 'static,
    drive: impl FnOnce(Proactor) -> Result<Option<Leaked>> + Send + 'static,
) -> Result<(Handle, Running)> {
    // A NUL ends a thread's name; the library panics rather than cut one there.
    let name = options.name.replace('\0', "?");
    let (to_us, started) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name(name).spawn(move || {
        let io = match make(options) {
            Ok(io) => io,
            Err(error) => {
                // Whoever starts it waits for this; if not, nobody wants to know.
                let _ = to_us.send(Err(error));
                return Ok(None);
            }
        };
        let _ = to_us.send(Ok(io.handle()));
        drive(io)
    });
    let thread = spawned.map_err(|error| Error::from_io(START, &error))?;
    match started.recv() {
        Ok(Ok(handle)) => Ok((handle, thread)),
        Ok(Err(error)) => {
            let _ = ended(thread, START);
            Err(error)
        }
        // It ended without a word: it panicked.
        Err(_) => Err(ended(thread, START).err().unwrap_or_else(|| silent(START))),
    }
}

fn make(
    options: Options,
    cpus: Option<Vec<u32>>,
    set_up: impl FnOnce(&Proactor) -> Result<()>,
) -> Result<Proactor> {
    if let Some(cpus) = cpus {
        limits::pin_to_cpus(&cpus).map_err(|error| Error::from_io(START, &error))?;
    }
    let io = Proactor::with(options)?;
    set_up(&io)?;
    Ok(io)
}

fn drive(io: Proactor, stop: &Stop) -> Result<Option<Leaked>> {
    while !stop.is_asked() {
        io.poll(Wait::Forever)?;
    }
    let finish = stop.finish().take();
    io.shutdown(finish.unwrap_or(Wait::Now))
}

/// Waits for the thread; its panic as an error.
fn ended(thread: Running, operation: &'static str) -> Result<Option<Leaked>> {
    thread.join().unwrap_or_else(|panic| Err(panicked(operation, panic)))
}

/// A panic as an error, with its words.
pub(super) fn panicked(operation: &'static str, panic: Box<dyn Any + Send>) -> Error {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
    // Dropping what was thrown is the caller's code again.
    std::mem::forget(panic);
    let message =
        words.map_or("a panic ended it".to_owned(), |words| format!("a panic ended it: {words}"));
    Error::new(operation, ErrorKind::Panicked, message)
}

fn silent(operation: &'static str) -> Error {
    Error::new(operation, ErrorKind::ShutDown, "the thread ended before its proactor stood")
}
