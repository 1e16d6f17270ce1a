//! Waiting on a futex word and waking who waits: `io_uring_prep_futex_wait(3)`, `futex(2)`,
//! `futex_waitv(2)`.
//!
//! # Two ways to wait
//!
//! In the ring (Linux 6.7) the kernel queues the wait itself; a cancel takes it out of the queue,
//! or comes too late and the wake is its result. Elsewhere a helper thread sleeps on two words at
//! once, the caller's and one of this operation's own, the *bell* of its cancel: a cancel sets it
//! and wakes whoever sleeps there, which is this helper and nobody else. When both were woken the
//! caller's word wins, so no wake is taken by a wait that then says it was cancelled. Before Linux
//! 5.16 no call sleeps on two words; there the helper looks at its bell every 5 ms.
//!
//! The kernel answers a word of another value with EAGAIN. That is a result here, not a request to
//! try again, which is what the engine makes of it otherwise.
//!
//! # Who owns what
//!
//! The operation owns a handle of the word until its last completion, the helper's job another. A
//! wake that an operation took is either told to its owner or, when it is dropped untold, passed on
//! to another sleeper of the word.

use super::super::{Advance, Attempt, Context, Forms, Operation, settle, variant};
use crate::capability::{Capabilities, Capability};
use crate::engine::Outcome;
use crate::error::{Error, Failed};
use crate::event::futex::{FutexWord, Woken};
use crate::io::Port;
use crate::sys::futex;
use io_uring::{opcode, squeue::Entry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whoever waits, wakes or is woken, without distinction.
const ANYBODY: u64 = u32::MAX as u64;
/// The result of a wait that found another value.
pub(super) const CHANGED: i32 = 1;

/// Waits on a word while it has a value.
#[derive(Debug)]
pub struct FutexWait {
    sleep: Sleep,
    /// It took a wake that its owner has not been told of.
    owes_wake: bool,
}

/// Wakes who waits on a word.
#[derive(Debug)]
pub struct FutexWake {
    word: FutexWord,
    count: u32,
}

variant!(FutexWait);
variant!(FutexWake);

impl FutexWait {
    /// On `word`, while it is `expected`.
    pub fn new(word: &FutexWord, expected: u32) -> FutexWait {
        FutexWait { sleep: Sleep::new(word.clone(), expected), owes_wake: false }
    }
}

impl FutexWake {
    /// Of at most `count`.
    pub fn new(word: &FutexWord, count: u32) -> FutexWake {
        FutexWake { word: word.clone(), count }
    }
}

/// Both forms of sleeping on a word, for every operation that does.
#[derive(Debug)]
pub(super) struct Sleep {
    word: FutexWord,
    expected: u32,
    /// Where a helper sleeps: the word a cancel sets.
    bell: Option<Arc<AtomicU32>>,
}

impl Sleep {
    pub(super) fn new(word: FutexWord, expected: u32) -> Sleep {
        Sleep { word, expected, bell: None }
    }

    pub(super) fn word(&self) -> &FutexWord {
        &self.word
    }

    pub(super) fn entry(&self) -> Entry {
        let flags = futex::flags(self.word.is_shared());
        opcode::FutexWait::new(self.word.as_ptr(), self.expected.into(), ANYBODY, flags).build()
    }

    pub(super) fn attempt(&mut self) -> Attempt {
        if self.word.load(Ordering::Acquire) != self.expected {
            return Attempt::Done(CHANGED);
        }
        let bell = self.bell.get_or_insert_default().clone();
        let (word, expected) = (self.word.clone(), self.expected);
        Attempt::Waiting(Box::new(move || wait(&bell, &word, expected)))
    }

    pub(super) fn withdraw(&mut self) {
        if let Some(bell) = &self.bell {
            bell.store(1, Ordering::SeqCst);
            futex::wake(bell, u32::MAX, false);
        }
    }
}

/// What a helper does.
fn wait(bell: &AtomicU32, word: &FutexWord, expected: u32) -> i32 {
    loop {
        match futex::wait_beside(bell, word, expected, word.is_shared()) {
            0 => return -libc::ECANCELED,
            1 => return 0,
            again if again == -libc::EINTR => continue,
            differs if differs == -libc::EAGAIN => {}
            errno => return errno,
        }
        if word.load(Ordering::Acquire) != expected {
            return CHANGED;
        }
        match bell.load(Ordering::SeqCst) {
            // It changed and changed back: nobody can tell from that it never did.
            0 => return CHANGED,
            _ => return -libc::ECANCELED,
        }
    }
}

/// Says what is missing where a wait could not be placed.
pub(super) fn explained(error: Error) -> Error {
    match error.errno() {
        Some(libc::EOPNOTSUPP) => error.with_message(
            "without the capability `futex` of io_uring a helper thread waits, and one is left for \
             files and names; set Options::helpers to 2 or more",
        ),
        Some(libc::ENOMEM) => error.with_message(
            "without the capability `futex` of io_uring each wait occupies a helper thread, and \
             all of them but one do; end a wait, or raise Options::helpers",
        ),
        _ => error,
    }
}

impl Forms for FutexWait {
    const NAME: &'static str = "futex wait";

    fn is_own(&self, capabilities: Capabilities) -> bool {
        !capabilities.contains(Capability::Futex)
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        self.sleep.entry()
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        self.sleep.attempt()
    }

    fn means_again(&self, result: i32) -> bool {
        result == -libc::EINTR
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        self.owes_wake = result == 0;
        Advance::Done(if result == -libc::EAGAIN { CHANGED } else { result })
    }

    fn withdraw(&mut self) -> Option<bool> {
        self.sleep.withdraw();
        None
    }
}

impl Drop for FutexWait {
    fn drop(&mut self) {
        if self.owes_wake {
            self.sleep.word.wake(1);
        }
    }
}

impl Operation for FutexWait {
    type Output<P: Port> = Woken;

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<Woken, Failed<Self>> {
        self.owes_wake = false;
        match settle(&outcome, Self::NAME) {
            Ok(0) => Ok(Woken::Wake),
            Ok(_) => Ok(Woken::Changed),
            Err(error) => Err(Failed::new(explained(error), self)),
        }
    }
}

impl Forms for FutexWake {
    const NAME: &'static str = "futex wake";

    fn is_own(&self, capabilities: Capabilities) -> bool {
        !capabilities.contains(Capability::Futex)
    }

    fn links(&self) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        let count = u64::from(self.count.min(i32::MAX as u32));
        let flags = futex::flags(self.word.is_shared());
        opcode::FutexWake::new(self.word.as_ptr(), count, ANYBODY, flags).build()
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        Attempt::Done(futex::wake(&self.word, self.count, self.word.is_shared()))
    }

    /// Attempted, it is done; in the ring it never waits.
    fn withdraw(&mut self) -> Option<bool> {
        Some(false)
    }
}

impl Operation for FutexWake {
    type Output<P: Port> = u32;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<u32, Failed<Self>> {
        settle(&outcome, Self::NAME).map_err(|error| Failed::new(error, self))
    }
}
