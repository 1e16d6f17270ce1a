//! Waiting for timeline semaphores, and signalling them, as operations.
//!
//! # Who tells whom
//!
//! The kernel has no part in it: a wait registers one callback with each of its semaphores, on the
//! poll thread, when it is attempted. The thread that signals runs the callback, which writes the
//! answer into what it shares with the operation ([`Told`]) and completes the operation through
//! the proactor's inbox. One word under one lock decides the race between that and the wait's
//! withdrawal (cancel, timeout, drop, shutdown): whoever comes first has ended it, the other finds
//! it ended. So a cancel that succeeds delivers no value, and one that fails delivers the value.
//!
//! # Who owns what
//!
//! The operation keeps its semaphores for as long as it has callbacks registered, and a callback
//! owns nothing of the user's: taking one back under the engine's borrow runs no user code. What
//! an ended wait for *any of several* left registered is taken back when the operation is dropped.
//!
//! # Signalling
//!
//! A signal runs the callbacks and wakers of everybody it releases, which is user code: it happens
//! on the poll thread inside poll, with nothing borrowed. A panic among them leaves that poll; the
//! signal has happened all the same, and the operation says so. One cancelled before its turn has
//! changed nothing.

use crate::capability::Capabilities;
use crate::engine::Outcome;
use crate::engine::descriptors::Descriptor;
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::Port;
use crate::op::{Attempt, Completer, Context, Forms, Operation, settle, unit, variant};
use fence::{Callback, Failure, Reached, Semaphore, SignalError};
use io_uring::squeue::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The result of a wait whose semaphore failed; the failure itself is in the answer. Not one that
/// the engine would take for a reason to try again.
const FAILED: i32 = -libc::EIO;

/// How a wait ended: which semaphore told it, and what.
struct Answer {
    index: usize,
    outcome: Result<u64, Failure>,
}

enum Progress {
    /// So many have to be reached still.
    Waiting(usize),
    /// Answered, until the operation takes the answer; or withdrawn.
    Over(Option<Answer>),
}

/// What the callbacks of a wait share with the operation.
struct Told {
    progress: Mutex<Progress>,
    completer: Completer,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One semaphore was reached or failed.
    fn tell(&self, index: usize, outcome: Result<u64, Failure>) {
        let mut progress = self.lock();
        let Progress::Waiting(left) = &mut *progress else { return };
        if outcome.is_ok() && *left > 1 {
            *left -= 1;
            return;
        }
        let result = if outcome.is_ok() { 0 } else { FAILED };
        *progress = Progress::Over(Some(Answer { index, outcome }));
        drop(progress);
        self.completer.complete(result);
    }

    fn is_over(&self) -> bool {
        matches!(*self.lock(), Progress::Over(_))
    }

    /// True: nothing was told, and nothing will be.
    fn withdraw(&self) -> bool {
        let mut progress = self.lock();
        let waiting = matches!(*progress, Progress::Waiting(_));
        if waiting {
            *progress = Progress::Over(None);
        }
        waiting
    }

    /// Which semaphore failed, and how.
    fn failure(&self) -> Option<(usize, Failure)> {
        match &*self.lock() {
            Progress::Over(Some(Answer { index, outcome: Err(failure) })) => {
                Some((*index, failure.clone()))
            }
            _ => None,
        }
    }

    fn take(&self) -> Option<Answer> {
        match &mut *self.lock() {
            Progress::Over(answer) => answer.take(),
            Progress::Waiting(_) => None,
        }
    }
}

/// A wait under way.
#[derive(Default)]
struct Armed {
    told: Option<Arc<Told>>,
    callbacks: Vec<Callback>,
}

impl Armed {
    /// Registers with each, until the wait is over: `needed` of them have to be reached.
    fn start<'a>(
        &mut self,
        list: impl Iterator<Item = (&'a Semaphore, u64)>,
        needed: usize,
        cx: &Context<'_>,
    ) -> Attempt {
        if needed == 0 {
            return Attempt::Done(0);
        }
        let progress = Mutex::new(Progress::Waiting(needed));
        let told = Arc::new(Told { progress, completer: cx.completer() });
        self.told = Some(told.clone());
        for (index, (semaphore, value)) in list.enumerate() {
            let shared = told.clone();
            self.callbacks.push(semaphore.on_reach(value, move |seen| shared.tell(index, seen)));
            if told.is_over() {
                break;
            }
        }
        Attempt::Outside
    }

    /// As [`Forms::withdraw`]: a wait that was for nothing has its result already.
    fn withdraw(&mut self) -> bool {
        let withdrawn = self.told.as_ref().is_some_and(|told| told.withdraw());
        if withdrawn {
            self.take_back();
        }
        withdrawn
    }

    fn take_back(&mut self) {
        for callback in self.callbacks.drain(..) {
            callback.cancel();
        }
    }

    /// As [`Forms::error`].
    fn error(&self, name: &'static str, several: bool) -> Option<Error> {
        let (index, failure) = self.told.as_ref()?.failure()?;
        Some(failed(name, &failure, several.then_some(index)))
    }

    /// What ended it: the answer, or else the engine's reason.
    fn answer(&mut self, name: &'static str, outcome: &Outcome, several: bool) -> Result<Reached> {
        let answer = self.told.take().and_then(|told| told.take());
        self.take_back();
        match answer {
            Some(Answer { index, outcome: Ok(value) }) => Ok(Reached { index, value }),
            Some(Answer { index, outcome: Err(failure) }) => {
                let which = several.then_some(index);
                Err(failed(name, &failure, which))
            }
            None => settle(outcome, name).map(|_| Reached { index: 0, value: 0 }),
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// The error of a failed semaphore. Its kind is Io whatever the errno: Cancelled and TimedOut are
/// for this wait's own ends.
#[cold]
fn failed(name: &'static str, failure: &Failure, which: Option<usize>) -> Error {
    let which = which.map_or_else(String::new, |index| format!(" (number {index})"));
    let message = format!(
        "the semaphore{which} failed: {}; a failed semaphore stays failed, use a new one",
        failure.message()
    );
    match failure.errno() {
        Some(errno) => {
            Error::from_errno(name, errno).with_kind(ErrorKind::Io).with_message(message)
        }
        None => Error::new(name, ErrorKind::Io, message),
    }
}

/// Waits until a semaphore has reached a value, and gives the value seen.
pub struct SemaphoreWait {
    semaphore: Semaphore,
    value: u64,
    armed: Armed,
}

/// Waits until every semaphore of a list has reached its value.
pub struct SemaphoreWaitAll {
    list: Box<[(Semaphore, u64)]>,
    armed: Armed,
}

/// Waits until one semaphore of a list has reached its value, and says which.
pub struct SemaphoreWaitAny {
    list: Box<[(Semaphore, u64)]>,
    armed: Armed,
}

variant!(SemaphoreWait);
variant!(SemaphoreWaitAll);
variant!(SemaphoreWaitAny);

impl SemaphoreWait {
    /// For `value` or more.
    pub fn new(semaphore: &Semaphore, value: u64) -> SemaphoreWait {
        SemaphoreWait { semaphore: semaphore.clone(), value, armed: Armed::default() }
    }
}

impl SemaphoreWaitAll {
    /// For each value or more. A wait for none is over at once.
    pub fn new(list: &[(&Semaphore, u64)]) -> SemaphoreWaitAll {
        SemaphoreWaitAll { list: own(list), armed: Armed::default() }
    }
}

impl SemaphoreWaitAny {
    /// For one of the values or more. A wait for one of none is refused.
    pub fn new(list: &[(&Semaphore, u64)]) -> SemaphoreWaitAny {
        SemaphoreWaitAny { list: own(list), armed: Armed::default() }
    }
}

fn own(list: &[(&Semaphore, u64)]) -> Box<[(Semaphore, u64)]> {
    list.iter().map(|&(semaphore, value)| (semaphore.clone(), value)).collect()
}

fn borrowed(list: &[(Semaphore, u64)]) -> impl Iterator<Item = (&Semaphore, u64)> {
    list.iter().map(|(semaphore, value)| (semaphore, *value))
}

impl Forms for SemaphoreWait {
    const NAME: &'static str = "semaphore wait";

    fn is_own(&self, _: Capabilities) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("semaphores are no business of the kernel")
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        self.armed.start(std::iter::once((&self.semaphore, self.value)), 1, cx)
    }

    fn error(&self, _: i32) -> Option<Error> {
        self.armed.error(Self::NAME, false)
    }

    fn withdraw(&mut self) -> Option<bool> {
        Some(self.armed.withdraw())
    }
}

impl Forms for SemaphoreWaitAll {
    const NAME: &'static str = "semaphore wait for all";

    fn is_own(&self, _: Capabilities) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("semaphores are no business of the kernel")
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        self.armed.start(borrowed(&self.list), self.list.len(), cx)
    }

    fn error(&self, _: i32) -> Option<Error> {
        self.armed.error(Self::NAME, true)
    }

    fn withdraw(&mut self) -> Option<bool> {
        Some(self.armed.withdraw())
    }
}

impl Forms for SemaphoreWaitAny {
    const NAME: &'static str = "semaphore wait for any";

    fn check(&self, _: Option<&Descriptor>) -> Result<()> {
        if self.list.is_empty() {
            let message = "any one of none never comes; name at least one semaphore";
            return Err(Error::new(Self::NAME, ErrorKind::InvalidArgument, message));
        }
        Ok(())
    }

    fn is_own(&self, _: Capabilities) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("semaphores are no business of the kernel")
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        self.armed.start(borrowed(&self.list), 1, cx)
    }

    fn error(&self, _: i32) -> Option<Error> {
        self.armed.error(Self::NAME, true)
    }

    fn withdraw(&mut self) -> Option<bool> {
        Some(self.armed.withdraw())
    }
}

impl Operation for SemaphoreWait {
    type Output<P: Port> = u64;

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<u64, Failed<Self>> {
        match self.armed.answer(Self::NAME, &outcome, false) {
            Ok(reached) => Ok(reached.value),
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

impl Operation for SemaphoreWaitAll {
    type Output<P: Port> = ();

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        match self.armed.answer(Self::NAME, &outcome, true) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

impl Operation for SemaphoreWaitAny {
    type Output<P: Port> = Reached;

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<Reached, Failed<Self>> {
        match self.armed.answer(Self::NAME, &outcome, true) {
            Ok(reached) => Ok(reached),
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

/// How far a signal has come.
enum Turn {
    Waiting,
    /// Cancelled before its turn.
    Withdrawn,
    /// It happened, even if a callback it ran has panicked.
    Happened,
    Refused(SignalError),
}

/// Advances a semaphore to a value above its own.
pub struct SemaphoreSignal {
    semaphore: Semaphore,
    value: u64,
    turn: Arc<Mutex<Turn>>,
}

variant!(SemaphoreSignal);

impl SemaphoreSignal {
    /// To `value`.
    pub fn new(semaphore: &Semaphore, value: u64) -> SemaphoreSignal {
        let turn = Arc::new(Mutex::new(Turn::Waiting));
        SemaphoreSignal { semaphore: semaphore.clone(), value, turn }
    }

    fn refusal(&self, refused: &SignalError) -> Error {
        match refused {
            SignalError::Failed { failure, .. } => failed(Self::NAME, failure, None),
            refused => not_above(refused, self.value),
        }
    }
}

fn lock(turn: &Mutex<Turn>) -> MutexGuard<'_, Turn> {
    turn.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On the poll thread, with nothing borrowed.
fn signal(semaphore: &Semaphore, value: u64, turn: &Mutex<Turn>) -> i32 {
    {
        let mut turn = lock(turn);
        if matches!(*turn, Turn::Withdrawn) {
            return -libc::ECANCELED;
        }
        // Before it is called: it can leave by a panic, which is a callback's and not its own.
        *turn = Turn::Happened;
    }
    match semaphore.signal(value) {
        Ok(()) => 0,
        Err(refused) => {
            *lock(turn) = Turn::Refused(refused);
            FAILED
        }
    }
}

impl Forms for SemaphoreSignal {
    const NAME: &'static str = "semaphore signal";

    fn is_own(&self, _: Capabilities) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("semaphores are no business of the kernel")
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        let (semaphore, value, turn) = (self.semaphore.clone(), self.value, self.turn.clone());
        *lock(&turn) = Turn::Waiting;
        Attempt::Here(Box::new(move || signal(&semaphore, value, &turn)))
    }

    fn error(&self, _: i32) -> Option<Error> {
        match &*lock(&self.turn) {
            Turn::Refused(refused) => Some(self.refusal(refused)),
            _ => None,
        }
    }

    /// Its result comes from its turn in any case.
    fn withdraw(&mut self) -> Option<bool> {
        let mut turn = lock(&self.turn);
        if matches!(*turn, Turn::Waiting) {
            *turn = Turn::Withdrawn;
        }
        Some(false)
    }
}

impl Operation for SemaphoreSignal {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        let turn = std::mem::replace(&mut *lock(&self.turn), Turn::Waiting);
        let error = match turn {
            Turn::Happened => return Ok(()),
            Turn::Waiting | Turn::Withdrawn => return unit(self, &outcome),
            Turn::Refused(refused) => self.refusal(&refused),
        };
        Err(Failed::new(error, self))
    }
}

#[cold]
fn not_above(refused: &SignalError, value: u64) -> Error {
    let current = match refused {
        SignalError::NotAbove { current, .. } => format!("the current value {current}"),
        _ => "the current value".to_owned(),
    };
    let message = format!("{value} is not above {current}; signal a greater value");
    Error::new(SemaphoreSignal::NAME, ErrorKind::InvalidArgument, message)
}
