//! Sleeping on a 32-bit word and waking who sleeps there: `futex(2)` and `futex_waitv(2)`.
//!
//! The kernel compares the word with the value the caller saw and puts him to sleep in one step, so
//! a wake that follows a change of the word is never lost: whoever compares later finds the change,
//! whoever compared earlier sleeps already and is found. Results are counts or negative errnos.
//!
//! Kernels before 5.16 have no `futex_waitv(2)`: there a sleep on two words is one on the first of
//! them, in slices.
//!
//! A word of this process alone is found by its address (FUTEX_PRIVATE_FLAG), which is cheaper; one
//! in memory shared with other processes is found by its page. Both sides of a word must agree.
//!
//! # Unsafe
//!
//! The calls themselves. The words are references to atomics, alive for the time of the call.

#![allow(unsafe_code)]

use crate::engine::deadlines::instant_to_ns;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A 32-bit word, in the notation of `futex2`.
const SIZE_U32: u32 = 0x02;
/// A word of this process alone, in the same notation.
const PRIVATE: u32 = 0x80;
/// The same number on every architecture (`futex_waitv(2)`, Linux 5.16).
const SYS_FUTEX_WAITV: libc::c_long = 449;
/// How long the end of a wait may stay unseen on a kernel without that call.
const SLICE: Duration = Duration::from_millis(5);

/// The flags that `futex2` calls and ring operations take for a word.
pub(crate) fn flags(shared: bool) -> u32 {
    if shared { SIZE_U32 } else { SIZE_U32 | PRIVATE }
}

fn operation(operation: i32, shared: bool) -> i32 {
    if shared { operation } else { operation | libc::FUTEX_PRIVATE_FLAG }
}

fn result_of(result: libc::c_long) -> i32 {
    match result {
        0.. => i32::try_from(result).unwrap_or(i32::MAX),
        _ => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Wakes at most `count` of those who sleep on the word; how many.
pub(crate) fn wake(word: &AtomicU32, count: u32, shared: bool) -> i32 {
    let Ok(count) = i32::try_from(count.min(i32::MAX as u32)) else { return 0 };
    if count == 0 {
        return 0; // which the call takes for one
    }
    let operation = operation(libc::FUTEX_WAKE, shared);
    // SAFETY: the kernel only looks the address up.
    result_of(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, count) })
}

/// Sleeps while the word is `expected`: zero when it was woken, -EAGAIN for another value,
/// -ETIMEDOUT, -EINTR.
pub(crate) fn wait(word: &AtomicU32, expected: u32, until: Option<Instant>, shared: bool) -> i32 {
    let operation = operation(libc::FUTEX_WAIT_BITSET, shared);
    let until = until.map(|at| {
        let ns = instant_to_ns(at);
        libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        }
    });
    let until = until.as_ref().map_or(ptr::null(), ptr::from_ref);
    let nobody: *const u32 = ptr::null();
    // SAFETY: a word and a time that outlive the call; the kernel writes neither.
    result_of(unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            expected,
            until,
            nobody,
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    })
}

/// One word of `futex_waitv(2)`.
#[repr(C)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

impl Waiter {
    fn new(word: &AtomicU32, expected: u32, shared: bool) -> Waiter {
        let address = word.as_ptr().addr() as u64;
        Waiter { value: expected.into(), address, flags: flags(shared), reserved: 0 }
    }
}

/// Sleeps while `own`, a word of this process, is zero and `word` is `expected`: zero when `own`
/// was woken, one when `word` was, also when both were; -EAGAIN when one has another value, -EINTR.
pub(crate) fn wait_beside(own: &AtomicU32, word: &AtomicU32, expected: u32, shared: bool) -> i32 {
    match wait_at_once(own, word, expected, shared) {
        // An older kernel, and what filters of system calls answer for one they do not know.
        errno if errno == -libc::ENOSYS || errno == -libc::EPERM => {
            wait_in_slices(own, word, expected, shared)
        }
        result => result,
    }
}

/// [`wait_beside`] where no call sleeps on two words: on `word` for a short time, then a look at
/// `own`, and again. A wake of `word` is told at once as ever; only the end of the wait by `own` is
/// late, by a slice at most, and each slice costs a system call.
fn wait_in_slices(own: &AtomicU32, word: &AtomicU32, expected: u32, shared: bool) -> i32 {
    while own.load(Ordering::SeqCst) == 0 {
        match wait(word, expected, Some(Instant::now() + SLICE), shared) {
            0 => return 1,
            errno if errno == -libc::ETIMEDOUT => {}
            errno => return errno,
        }
    }
    -libc::EAGAIN
}

/// [`wait_beside`] by `futex_waitv(2)`; -ENOSYS or -EPERM where that is not to be had.
fn wait_at_once(own: &AtomicU32, word: &AtomicU32, expected: u32, shared: bool) -> i32 {
    // Of several woken the kernel names the last: a wake of `word` is never taken for another.
    let waiters = [Waiter::new(own, 0, false), Waiter::new(word, expected, shared)];
    let nothing: *const libc::timespec = ptr::null();
    let count = waiters.len() as u32;
    // SAFETY: the waiters and both words outlive the call; the kernel only reads them.
    result_of(unsafe {
        libc::syscall(
            SYS_FUTEX_WAITV,
            waiters.as_ptr(),
            count,
            0_u32,
            nothing,
            libc::CLOCK_MONOTONIC,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn another_value_is_no_sleep_and_nobody_is_no_wake() {
        for shared in [false, true] {
            let (own, word) = (AtomicU32::new(0), AtomicU32::new(7));
            assert_eq!(wait(&word, 8, None, shared), -libc::EAGAIN);
            let soon = Instant::now() + Duration::from_millis(2);
            assert_eq!(wait(&word, 7, Some(soon), shared), -libc::ETIMEDOUT);
            assert!(Instant::now() >= soon);
            assert_eq!(wake(&word, u32::MAX, shared), 0);
            // By one call, and as on a kernel that has no such call.
            for beside in [wait_beside, wait_in_slices] {
                assert_eq!(beside(&own, &word, 8, shared), -libc::EAGAIN);
                assert_eq!(beside(&AtomicU32::new(1), &word, 7, shared), -libc::EAGAIN);
            }
        }
    }

    /// Wakes until one was found; it may not sleep yet.
    fn wake_one(word: &AtomicU32) {
        while wake(word, 1, false) == 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn either_word_ends_the_sleep_and_says_which() {
        let words = Arc::new([AtomicU32::new(0), AtomicU32::new(3)]);
        for index in [0, 1] {
            let inside = words.clone();
            let sleeper =
                std::thread::spawn(move || wait_at_once(&inside[0], &inside[1], 3, false));
            while !sleeper.is_finished() && wake(&words[index], 1, false) == 0 {
                std::thread::yield_now();
            }
            match sleeper.join().unwrap() {
                errno if errno == -libc::ENOSYS => eprintln!("SKIPPED: no futex_waitv(2)"),
                woken => assert_eq!(woken, index as i32),
            }
        }
    }

    #[test]
    fn a_sleep_in_slices_ends_by_either_word() {
        let words = Arc::new([AtomicU32::new(0), AtomicU32::new(3)]);
        let sleeper = || {
            let inside = words.clone();
            std::thread::spawn(move || wait_in_slices(&inside[0], &inside[1], 3, false))
        };
        let woken = sleeper();
        while !woken.is_finished() && wake(&words[1], 1, false) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(woken.join().unwrap(), 1);
        let ended = sleeper();
        words[0].store(1, Ordering::SeqCst);
        assert_eq!(ended.join().unwrap(), -libc::EAGAIN);
    }

    #[test]
    fn a_change_and_a_wake_end_a_sleep() {
        let word = Arc::new(AtomicU32::new(0));
        let inside = word.clone();
        let sleeper = std::thread::spawn(move || wait(&inside, 0, None, false));
        wake_one(&word);
        assert_eq!(sleeper.join().unwrap(), 0);
        word.store(1, Ordering::SeqCst);
        assert_eq!(wait(&word, 0, None, false), -libc::EAGAIN);
    }
}
