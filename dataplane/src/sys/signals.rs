//! Signal masks and dispositions of the process, and which of its threads could be hit.
//!
//! Set-up calls for the signals a proactor owns (`sigaction(2)`, `pthread_sigmask(3)`, `proc(5)`).
//!
//! Unsafe code: `sigaction(2)` takes handlers, which must be safe to run at any moment. Here only
//! the default, "ignore", and what was there before are ever installed.

#![allow(unsafe_code)]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::fmt::Write as _;
use std::fs;
use std::io;

/// Puts the default action in force; what was there before.
pub(crate) fn reset(signal: Signal) -> nix::Result<SigAction> {
    install(signal, SigHandler::SigDfl)
}

/// Ignores a signal.
pub(crate) fn ignore(signal: Signal) -> nix::Result<SigAction> {
    install(signal, SigHandler::SigIgn)
}

fn install(signal: Signal, handler: SigHandler) -> nix::Result<SigAction> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither the default nor "ignore" is code of ours.
    unsafe { sigaction(signal, &action) }
}

/// Puts back what [`reset`] found.
pub(crate) fn restore(signal: Signal, action: &SigAction) {
    // SAFETY: it was in force in this process before, with the same mask and flags. It fails for
    // unknown signals only, and this one was known.
    let _ = unsafe { sigaction(signal, action) };
}

/// A thread that a signal could be delivered to.
struct Exposed {
    id: String,
    name: String,
}

/// The threads other than this one that leave one of `signals` unblocked, as text; None when there
/// are none.
///
/// # Errors
///
/// When `/proc/self/task` cannot be read.
pub(crate) fn exposed_threads(signals: &[Signal]) -> io::Result<Option<String>> {
    let wanted = signals.iter().fold(0u64, |bits, signal| bits | 1 << (*signal as i32 - 1));
    let own = nix::unistd::gettid().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if id == own {
            continue;
        }
        // A thread that has ended meanwhile is not hit any more.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        if let Some(name) = exposed(&status, wanted) {
            found.push(Exposed { id, name });
        }
    }
    Ok(describe(&found))
}

/// The name of the thread with this `status`, unless it blocks all of `wanted` or is no more.
fn exposed(status: &str, wanted: u64) -> Option<String> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
    };
    let is_over = field("State:").is_some_and(|state| state.starts_with(['Z', 'X']));
    let blocked = field("SigBlk:").and_then(|mask| u64::from_str_radix(mask, 16).ok())?;
    let is_exposed = !is_over && blocked & wanted != wanted;
    is_exposed.then(|| field("Name:").unwrap_or("?").to_owned())
}

fn describe(found: &[Exposed]) -> Option<String> {
    const NAMED: usize = 3;
    let (first, rest) = found.split_first()?;
    let mut text = format!("`{}` ({})", first.name, first.id);
    for thread in rest.iter().take(NAMED - 1) {
        // Writing to a string does not fail.
        let _ = write!(text, ", `{}` ({})", thread.name, thread.id);
    }
    if found.len() > NAMED {
        let _ = write!(text, " and {} more", found.len() - NAMED);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, blocked: u64) -> String {
        format!("Name:\tworker\nState:\t{state} (x)\nSigPnd:\t0\nSigBlk:\t{blocked:016x}\n")
    }

    #[test]
    fn a_thread_is_exposed_unless_it_blocks_them_all() {
        let wanted = 1 << 1 | 1 << 14;
        assert_eq!(exposed(&status("S", wanted), wanted), None);
        assert_eq!(exposed(&status("S", u64::MAX), wanted), None);
        assert_eq!(exposed(&status("R", 1 << 1), wanted).as_deref(), Some("worker"));
        assert_eq!(exposed(&status("S", 0), wanted).as_deref(), Some("worker"));
        assert_eq!(exposed(&status("Z", 0), wanted), None, "it has ended");
        assert_eq!(exposed("nonsense", wanted), None);
    }

    #[test]
    fn few_threads_are_named_and_many_are_counted() {
        let many: Vec<_> =
            (1..6).map(|n: u32| Exposed { id: n.to_string(), name: format!("t{n}") }).collect();
        assert_eq!(describe(&[]), None);
        assert_eq!(describe(&many[..1]).as_deref(), Some("`t1` (1)"));
        assert_eq!(describe(&many).as_deref(), Some("`t1` (1), `t2` (2), `t3` (3) and 2 more"));
    }
}
