//! Runs cases: one at a time in a process, each on a thread of its own.
//!
//! One at a time, because what is looked at afterwards belongs to the whole process: its open
//! descriptors are counted before the case's proactor is made and after it is gone. A thread of its
//! own, so that a case that hangs can be reported: its thread is given up, and the run with it,
//! because nothing counted after that would mean anything.
//!
//! After a case the proactor must be empty: no operation, descriptor or registration, shut down
//! without leaking memory to the kernel, and no descriptor of the process left.

use crate::cx::{Cx, dump};
use crate::{Case, Configuration, Entry, Outcome, Report, Skip};
use dataplane::{Handle, Proactor, Wait};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long a case may take before it counts as hanging. Every wait inside is bounded by less.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// How long what a case dropped may take to be gone.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits until no case runs, and keeps it that way.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs cases and remembers their transcripts, to compare them between configurations.
pub struct Runner {
    required: Vec<String>,
    transcripts: Mutex<BTreeMap<&'static str, (String, Vec<String>)>>,
}

/// What a case's thread answers.
struct Verdict {
    outcome: Outcome,
    reason: String,
    notes: Vec<String>,
}

impl Runner {
    /// A runner for which the rows in `required` (comma separated: io_uring, epoll, poll) must not
    /// be skipped.
    pub fn new(required: &str) -> Runner {
        let names = required.split(',').map(|name| name.trim().to_owned());
        let required = names.filter(|name| !name.is_empty()).collect();
        Runner { required, transcripts: Mutex::default() }
    }

    /// A runner that requires what the environment variable `REQUIRE` says.
    pub fn from_env() -> Runner {
        Runner::new(&std::env::var("REQUIRE").unwrap_or_default())
    }

    /// Runs every case in every configuration; `each` is told of each as it ends.
    pub fn run(
        &self,
        cases: &[Case],
        configurations: &[Configuration],
        mut each: impl FnMut(&Entry),
    ) -> Report {
        let mut report = Report::default();
        for configuration in configurations {
            for case in cases {
                let entry = match self.one(case, configuration) {
                    Ok(entry) => entry,
                    Err(entry) => {
                        report.cut_short = Some(format!("{} hangs", entry.case));
                        entry
                    }
                };
                each(&entry);
                report.entries.push(entry);
                if report.cut_short.is_some() {
                    return report;
                }
            }
        }
        report
    }

    /// One case in one configuration; as an error when it hangs.
    fn one(&self, case: &Case, configuration: &Configuration) -> Result<Entry, Entry> {
        let begun = Instant::now();
        let entry = |outcome, reason| Entry {
            case: case.name,
            configuration: configuration.name.clone(),
            outcome,
            reason,
            elapsed: begun.elapsed(),
        };
        let have = match &configuration.capabilities {
            Ok(have) => *have,
            Err(reason) => {
                let is_required = self.required.iter().any(|row| row == configuration.row());
                let outcome = if is_required { Outcome::Failed } else { Outcome::Skipped };
                return Ok(entry(outcome, reason.clone()));
            }
        };
        let lacks = case.lacks(have);
        if !lacks.is_empty() {
            return Ok(entry(Outcome::Skipped, format!("needs {lacks}")));
        }
        let _turn = turn();
        match watched(case, configuration) {
            Ok(verdict) => {
                let compared = self.compare(case, configuration, &verdict);
                match (verdict.outcome, compared) {
                    (Outcome::Ok, Err(difference)) => Ok(entry(Outcome::Failed, difference)),
                    _ => Ok(entry(verdict.outcome, verdict.reason)),
                }
            }
            Err(hang) => Err(entry(Outcome::Failed, hang)),
        }
    }

    /// Whether the case told here what it told where it was run first.
    fn compare(
        &self,
        case: &Case,
        configuration: &Configuration,
        verdict: &Verdict,
    ) -> Result<(), String> {
        if verdict.outcome != Outcome::Ok {
            return Ok(());
        }
        let mut transcripts = self.transcripts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((first, lines)) = transcripts.get(case.name) else {
            let told = (configuration.name.clone(), verdict.notes.clone());
            transcripts.insert(case.name, told);
            return Ok(());
        };
        if *lines == verdict.notes {
            return Ok(());
        }
        let longest = lines.len().max(verdict.notes.len());
        let line = |notes: &[String], at: usize| {
            notes.get(at).map_or("nothing".to_owned(), |line| format!("`{line}`"))
        };
        let at = (0..longest).find(|&at| lines.get(at) != verdict.notes.get(at)).unwrap_or(0);
        Err(format!(
            "line {} of the transcript is {} here and {} in `{first}`",
            at + 1,
            line(&verdict.notes, at),
            line(lines, at)
        ))
    }
}

/// Runs a case under the watchdog; as an error the text of a hang.
fn watched(case: &Case, configuration: &Configuration) -> Result<Verdict, String> {
    let (to_us, verdict) = mpsc::channel();
    let handle = Arc::new(Mutex::new(None));
    let (case, configuration, slot) = (*case, configuration.clone(), handle.clone());
    let thread = std::thread::Builder::new().name(case.name.to_owned()).spawn(move || {
        // The receiver is gone only when it has called this a hang.
        let _ = to_us.send(judged(&case, &configuration, &slot));
    });
    let thread = thread.map_err(|error| format!("no thread for the case: {error}"))?;
    match verdict.recv_timeout(HANGS_AFTER) {
        Ok(verdict) => {
            // It ends at once: nothing is done after the verdict.
            let _ = thread.join();
            Ok(verdict)
        }
        Err(RecvTimeoutError::Disconnected) => Err("its thread ended without a verdict".into()),
        Err(RecvTimeoutError::Timeout) => {
            let handle = handle.lock().unwrap_or_else(PoisonError::into_inner).take();
            Err(format!("hangs for {} s; {}", HANGS_AFTER.as_secs(), stuck(handle)))
        }
    }
}

/// What is in flight on a proactor whose thread hangs, if it still polls.
fn stuck(handle: Option<Handle>) -> String {
    let Some(handle) = handle else { return "its proactor was not made yet".to_owned() };
    let (to_us, answer) = mpsc::channel();
    drop(handle.call(move |io| to_us.send(dump(io)).is_ok()));
    match answer.recv_timeout(Duration::from_secs(1)) {
        Ok(dump) => dump,
        Err(_) => "its thread does not poll".to_owned(),
    }
}

/// On the case's thread: runs it and looks at what it left.
fn judged(case: &Case, configuration: &Configuration, slot: &Mutex<Option<Handle>>) -> Verdict {
    let failed = |reason| Verdict { outcome: Outcome::Failed, reason, notes: Vec::new() };
    if case.name.starts_with("vulkan/") {
        crate::vulkan::prepare();
    }
    let before = descriptors();
    let name = format!("{}/{}", configuration.name, case.name);
    let options = configuration.options.clone().name(&name);
    let io = match Proactor::with(options.clone()) {
        Ok(io) => io,
        Err(error) => return failed(format!("no proactor: {error}")),
    };
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(io.handle());
    let caught = caught(|| {
        let cx = Cx::new(&io, &options);
        let outcome = (case.run)(&cx);
        (outcome, cx.take_notes())
    });
    slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (outcome, notes) = match caught {
        Ok(told) => told,
        Err(panic) => {
            // Its end may panic again, in a callback the case left behind.
            let ended = self::caught(|| drop(io));
            let more = ended.err().map_or(String::new(), |more| format!("; and then {more}"));
            return failed(panic + &more);
        }
    };
    let ended = self::caught(|| end(io)).and_then(|ended| ended);
    let ended = ended.and_then(|()| no_descriptor_left(&before));
    match (outcome, ended) {
        (_, Err(reason)) => failed(reason),
        (Ok(()), Ok(())) => Verdict { outcome: Outcome::Ok, reason: String::new(), notes },
        (Err(Skip(reason)), Ok(())) => Verdict { outcome: Outcome::Skipped, reason, notes },
    }
}

/// Waits until the proactor is empty and shuts it down.
fn end(io: Proactor) -> Result<(), String> {
    if io.handle().is_closed() {
        return Ok(());
    }
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        let stats = io.stats();
        if stats.in_flight == 0
            && stats.descriptors == 0
            && stats.registered == 0
            && stats.releasing == 0
        {
            break;
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "left after the case: {} descriptors, {} registrations ({} releasing); {}",
                stats.descriptors,
                stats.registered,
                stats.releasing,
                dump(&io)
            ));
        }
        io.poll(Duration::from_millis(1)).map_err(|error| format!("after the case: {error}"))?;
    }
    match io.shutdown(Wait::Now) {
        Ok(None) => Ok(()),
        Ok(Some(leaked)) => Err(format!("shut down with {} operations leaked", leaked.operations)),
        Err(error) => Err(format!("shutting down: {error}")),
    }
}

/// The process's descriptors, each with what it is. The one that lists them is not among them.
pub(crate) fn descriptors() -> BTreeMap<String, PathBuf> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return BTreeMap::new() };
    folder
        .flatten()
        .filter_map(|entry| {
            let what = std::fs::read_link(entry.path()).ok()?;
            let is_own = what.starts_with("/proc/") && what.ends_with("fd");
            (!is_own).then(|| (entry.file_name().to_string_lossy().into_owned(), what))
        })
        .collect()
}

pub(crate) fn no_descriptor_left(before: &BTreeMap<String, PathBuf>) -> Result<(), String> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        let after = descriptors();
        if after.len() == before.len() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let new: Vec<String> = after
                .iter()
                .filter(|(number, _)| !before.contains_key(*number))
                .map(|(number, what)| format!("{number} ({})", what.display()))
                .collect();
            let (is, was, new) = (after.len(), before.len(), new.join(", "));
            return Err(format!("{is} descriptors after it, {was} before; new: {new}"));
        }
        // What a thread of the case still holds goes with the thread.
        std::thread::sleep(Duration::from_millis(1));
    }
}

thread_local! {
    /// Set on a case's thread: its last panic, kept here instead of being printed.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_CAUGHT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `f`; its panic as text, with the place.
fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match IS_CAUGHT.get() {
            true => LAST_PANIC.set(Some(told(info))),
            false => previous(info),
        }));
    });
    IS_CAUGHT.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    IS_CAUGHT.set(false);
    let last = LAST_PANIC.take();
    result.map_err(|_| last.unwrap_or_else(|| "a panic without words".to_owned()))
}

fn told(info: &std::panic::PanicHookInfo<'_>) -> String {
    let words = info.payload_as_str().unwrap_or("a panic without words");
    match info.location() {
        Some(place) => format!("{words} ({}:{})", place.file(), place.line()),
        None => words.to_owned(),
    }
}
