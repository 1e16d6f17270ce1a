//! Futex words: 32 bits that threads, processes and operations sleep on (`futex(2)`).
//!
//! A [`FutexWord`] is a handle of an atomic word. Every clone, and every operation on it, keeps the
//! word alive; the last one to go frees it. The value is the caller's: change it first, wake then.
//! A wait compares and sleeps in one step, so a wake that follows a change is never lost.
//!
//! A word is of this process ([`new`](FutexWord::new)) or in a memfd
//! ([`shared`](FutexWord::shared)), which another process [opens](FutexWord::open). A forked child
//! shares the second kind with its parent and has a copy of the first.
//!
//! Spurious wakes happen, as with `futex(2)`: whoever is woken looks at the value again.

use crate::error::{Error, ErrorKind, Result};
use crate::io::Local;
use crate::io::request::Request;
use crate::op::{FutexWait, FutexWake};
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use crate::sys::futex;
use crate::sys::words::Words;
use std::fmt;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How a wait on a futex word ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Woken {
    /// It slept and was woken.
    Wake,
    /// It did not sleep: the word had another value.
    Changed,
}

/// A word to sleep on; see the module. It derefs to the atomic.
///
/// `Send` and `Sync`; clones are the same word. Sleep and wake through it, not by calls of your own
/// on the address: those would have to agree with it on whether the word is shared.
#[derive(Clone)]
pub struct FutexWord {
    words: Arc<Words>,
    index: u8,
}

impl FutexWord {
    /// A word of this process.
    pub fn new(value: u32) -> FutexWord {
        let word = FutexWord { words: Arc::new(Words::own()), index: 0 };
        word.store(value, Ordering::Relaxed);
        word
    }

    /// A word in a new memfd, to be passed to another process: see [`fd`](Self::fd).
    ///
    /// # Errors
    ///
    /// Exhausted when there is no descriptor or memory left.
    pub fn shared(value: u32) -> Result<FutexWord> {
        let words = Words::shared("futex word")?;
        let word = FutexWord { words: Arc::new(words), index: 0 };
        word.store(value, Ordering::Relaxed);
        Ok(word)
    }

    /// The word of a memfd that [`shared`](Self::shared) made, here or elsewhere.
    ///
    /// Whoever has it may write any value: it is for processes that trust each other to keep to
    /// what the word means. Nothing it does is undefined behaviour here.
    ///
    /// # Errors
    ///
    /// InvalidArgument for anything but such a memfd.
    pub fn open(fd: impl Into<OwnedFd>) -> Result<FutexWord> {
        let words = Words::open("futex word", fd.into())?;
        Ok(FutexWord { words: Arc::new(words), index: 0 })
    }

    /// A word of a set.
    pub(crate) fn of(words: Arc<Words>, index: u8) -> FutexWord {
        FutexWord { words, index }
    }

    /// The memfd of a shared word.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.words.fd()
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.words.is_shared()
    }

    /// Wakes at most `count` of those who sleep on the word; how many there were. Never blocks.
    pub fn wake(&self, count: u32) -> u32 {
        // No error is possible for a word that is mapped.
        futex::wake(self, count, self.is_shared()).max(0).unsigned_abs()
    }

    /// Sleeps until it is woken, while the word has the value `expected`. Blocks the thread: not
    /// for the one that polls.
    ///
    /// # Errors
    ///
    /// TimedOut.
    pub fn wait(&self, expected: u32, timeout: Option<Duration>) -> Result<Woken> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.wait_until(expected, until)
    }

    pub(crate) fn wait_until(&self, expected: u32, until: Option<Instant>) -> Result<Woken> {
        const NAME: &str = "futex wait";
        loop {
            match -futex::wait(self, expected, until, self.is_shared()) {
                0 => return Ok(Woken::Wake),
                libc::EAGAIN => return Ok(Woken::Changed),
                libc::EINTR => continue,
                libc::ETIMEDOUT => {
                    return Err(Error::new(NAME, ErrorKind::TimedOut, "nobody woke it in time"));
                }
                errno => return Err(Error::from_errno(NAME, errno)),
            }
        }
    }
}

impl Deref for FutexWord {
    type Target = AtomicU32;

    fn deref(&self) -> &AtomicU32 {
        self.words.at(self.index.into())
    }
}

impl fmt::Debug for FutexWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_shared() { "shared" } else { "own" };
        write!(f, "FutexWord({}, {kind})", self.load(Ordering::Relaxed))
    }
}

impl Proactor {
    /// Waits on a word while it has the value `expected`, until it is woken.
    ///
    /// The comparison is made when the operation reaches the kernel, with the next poll or flush:
    /// like every futex wait it is for protocols that change the value before they wake. Dropping
    /// the future loses nothing: a wake that it took and nobody saw is passed on.
    ///
    /// Where io_uring cannot do it ([`Capability::Futex`](crate::Capability::Futex)) a helper
    /// thread waits, one for each: at most [`Options::helpers`](crate::Options::helpers) less one,
    /// so that one is left for files and names. Before Linux 5.16, which brought `futex_waitv(2)`,
    /// that thread looks every 5 ms whether its wait is over for another reason than a wake.
    ///
    /// # Errors
    ///
    /// Exhausted when that many helpers wait already; Unavailable with fewer than two helpers.
    pub fn futex_wait(&self, word: &FutexWord, expected: u32) -> Request<Local, FutexWait> {
        Request::over(self.local(), FutexWait::new(word, expected))
    }

    /// Wakes at most `count` of those who sleep on a word, as an operation; gives how many.
    /// [`FutexWord::wake`] does it at once.
    pub fn futex_wake(&self, word: &FutexWord, count: u32) -> Request<Local, FutexWake> {
        Request::over(self.local(), FutexWake::new(word, count))
    }
}

impl Handle {
    /// As [`Proactor::futex_wait`].
    pub fn futex_wait(&self, word: &FutexWord, expected: u32) -> Request<Handle, FutexWait> {
        Request::new(self, FutexWait::new(word, expected))
    }

    /// As [`Proactor::futex_wake`].
    pub fn futex_wake(&self, word: &FutexWord, count: u32) -> Request<Handle, FutexWake> {
        Request::new(self, FutexWake::new(word, count))
    }
}
