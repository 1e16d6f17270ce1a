//! `dataplane fence self-test`: every bridge this machine can run, each line proven by running it.
//!
//! What needs no device runs on every backend there is: events imported into semaphores, semaphores
//! exported, gates before sends. What needs one (sync_files, syncobjs) runs on the first render
//! node that has syncobjs, or says that there is none; likewise pending sync_files and vgem. What
//! needs Vulkan runs on every device that its loader finds.

use super::{as_json, print};
use crate::doctor::exchange::tcp_pair;
use crate::doctor::report::{self, Check};
use crate::failure::{Exit, Failure, Result};
use dataplane::fence::{DrmDevice, Exported, Fence, FenceEnd, FenceStatus, Semaphore, VgemDevice};
use dataplane::{Backend, Error, Event, Options, Proactor, Socket, Wait};
use regions::Slab;
use serde::Serialize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that a line may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough that what should not happen would have happened.
const MOMENT: Duration = Duration::from_millis(20);

pub(super) type Proven = std::result::Result<String, String>;

/// A bridge: its name, what is tried, and the trial.
type Line = (&'static str, &'static str, fn(&Proactor) -> Proven);

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
}

/// Runs the checks. A line that should hold and does not is a failure.
pub fn run(json: bool) -> Result<()> {
    let mut checks = Vec::new();
    for backend in [Backend::IoUring, Backend::Epoll, Backend::Poll] {
        checks.extend(on(backend));
    }
    checks.push(check("refusals", "offered a directory, a file, a closed number", refusals));
    checks.extend(on_a_device());
    checks.push(on_vgem());
    checks.extend(super::vulkan::checks());
    let failed = checks.iter().filter(|check| check.state == report::State::Failed).count();
    let report = Report { checks };
    print(&match json {
        true => as_json(&report),
        false => report::lines(&report.checks, false),
    })?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(Exit::Requirement, format!("{failed} lines did not hold"))),
    }
}

pub(super) fn check(name: &str, doing: &str, test: impl FnOnce() -> Proven) -> Check {
    match test() {
        Ok(proof) => Check::ok(name, proof),
        Err(reason) => Check::failed(name, reason, doing).remedy("report this"),
    }
}

fn on(backend: Backend) -> Vec<Check> {
    let name = |what: &str| format!("{backend}/{what}");
    let io = match Proactor::with(Options::default().backend(backend).timeout(PATIENCE)) {
        Ok(io) => io,
        Err(error) => {
            let check = Check::missing(&name("fences"), error.to_string(), "asked for a proactor");
            return vec![check.remedy("`dataplane doctor` says what is in the way")];
        }
    };
    let lines: [Line; 6] = [
        ("event-to-semaphore", "imported an eventfd and set it", event_to_semaphore),
        ("hang-up-to-failure", "imported a pipe and closed its other end", hang_up_to_failure),
        ("signalled-before", "imported a fence that had signalled", signalled_before),
        ("semaphore-to-event", "exported a value and reached it", semaphore_to_event),
        ("gated-send", "sent behind a gate, and opened it", gated_send),
        ("failed-gate", "sent behind a gate, and failed it", failed_gate),
    ];
    lines.map(|(what, doing, test)| check(&name(what), doing, || test(&io))).into()
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn event() -> std::result::Result<(Event, Fence), String> {
    let event = Event::new().map_err(text)?;
    let fd = event.as_fd().try_clone_to_owned().map_err(text)?;
    Ok((event, Fence::from_fd(fd).map_err(text)?))
}

/// Polls until the semaphore has moved, and says how it stands.
pub(super) fn settled(
    io: &Proactor,
    semaphore: &Semaphore,
) -> std::result::Result<Option<i32>, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match semaphore.value() {
            Ok(0) if Instant::now() > end => return Err("nothing came of it in 5 s".to_owned()),
            Ok(0) => io.poll(Wait::Until(end)).map_err(text)?,
            Ok(_) => return Ok(None),
            Err(failed) => return Ok(failed.failure.errno().or(Some(0))),
        };
    }
}

fn reached(io: &Proactor, semaphore: &Semaphore) -> std::result::Result<(), String> {
    match settled(io, semaphore)? {
        None => Ok(()),
        Some(errno) => Err(format!("the semaphore failed with errno {errno}")),
    }
}

fn event_to_semaphore(io: &Proactor) -> Proven {
    let (event, fence) = event()?;
    let drawn = Semaphore::new(0);
    io.import_fence(fence, &drawn, 1).map_err(text)?;
    io.poll(Wait::Now).map_err(text)?;
    if drawn.value() != Ok(0) {
        return Err("it signalled before the event was set".to_owned());
    }
    event.set();
    reached(io, &drawn)?;
    Ok("imported an eventfd; pending before it was set, signalled after".to_owned())
}

fn hang_up_to_failure(io: &Proactor) -> Proven {
    let (reader, writer) = nix::unistd::pipe().map_err(text)?;
    let fence = Fence::from_fd(reader).map_err(text)?;
    let drawn = Semaphore::new(0);
    io.import_fence(fence, &drawn, 1).map_err(text)?;
    drop(writer);
    match settled(io, &drawn)? {
        Some(errno) => Ok(format!("imported a pipe; its hang-up failed the semaphore ({errno})")),
        None => Err("a hang-up was taken for a signal".to_owned()),
    }
}

fn signalled_before(io: &Proactor) -> Proven {
    let (event, fence) = event()?;
    event.set();
    let drawn = Semaphore::new(0);
    let pending = io.import_fence(fence, &drawn, 1).map_err(text)?.is_some();
    let nothing = io.import_fence(Fence::Signalled, &drawn, 2).map_err(text)?.is_some();
    match (pending, nothing, drawn.value()) {
        (false, false, Ok(2)) => Ok("a set eventfd and descriptor -1 signalled at once".to_owned()),
        _ => Err("what had signalled was waited for".to_owned()),
    }
}

fn semaphore_to_event(io: &Proactor) -> Proven {
    let drawn = Semaphore::new(0);
    let mut seen = Vec::new();
    for failing in [false, true] {
        let exported = drawn.export(1 + u64::from(failing), None).map_err(text)?;
        let Exported::Event(fd) = exported else {
            return Err("without a device it is an eventfd".to_owned());
        };
        let back = Semaphore::new(0);
        io.import_fence(Fence::from_fd(fd).map_err(text)?, &back, 1).map_err(text)?;
        io.poll(Wait::Now).map_err(text)?;
        seen.push(back.value() == Ok(0));
        match failing {
            false => drawn.signal(1).map_err(text)?,
            true => drop(drawn.fail(dataplane::fence::Failure::new("on purpose"))),
        }
        reached(io, &back)?;
    }
    match seen[..] {
        [true, true] => {
            Ok("exported eventfds; readable when reached, and when it failed".to_owned())
        }
        _ => Err("readable before the value was reached".to_owned()),
    }
}

/// What came of a send behind a gate.
struct Sent {
    before: bool,
    outcome: std::result::Result<(), Error>,
    after: bool,
}

/// Sends behind the fence over a connection; looks for the bytes for a moment before `open` and one
/// after it.
fn behind(io: &Proactor, fence: Fence, open: impl FnOnce()) -> std::result::Result<Sent, String> {
    let slab = Slab::new(2, 4096).map_err(text)?;
    let gate = io.fence_waiter(fence);
    let work = async {
        let (near, far) = tcp_pair(io).await.map_err(text)?;
        let mut frame = slab.lease().map_err(text)?;
        frame.copy_from_slice(&[7; 4096]);
        let sequence = io.sequence().then(gate.wait()).send_all(&near, frame.freeze());
        let running = sequence.submit().map_err(text)?;
        let before = arrives(&far, &slab).await?;
        open();
        let outcome = running.await.map(drop).map_err(Error::from);
        Ok(Sent { before, outcome, after: arrives(&far, &slab).await? })
    };
    io.block_on(work).map_err(text)?
}

async fn arrives(socket: &Socket, slab: &Slab) -> std::result::Result<bool, String> {
    let received = socket.recv(slab.lease().map_err(text)?).timeout(MOMENT).await;
    Ok(received.is_ok_and(|bytes| bytes.iter().all(|&byte| byte == 7)))
}

fn gated_send(io: &Proactor) -> Proven {
    let (event, fence) = event()?;
    match behind(io, fence, || event.set())? {
        Sent { before: false, outcome: Ok(()), after: true } => {
            Ok("nothing before the gate opened, every byte after".to_owned())
        }
        other => Err(other.text()),
    }
}

fn failed_gate(io: &Proactor) -> Proven {
    let (reader, writer) = nix::unistd::pipe().map_err(text)?;
    let fence = Fence::from_fd(reader).map_err(text)?;
    match behind(io, fence, || drop(writer))? {
        Sent { before: false, outcome: Err(error), after: false } => {
            Ok(format!("nothing was sent; {error}"))
        }
        other => Err(other.text()),
    }
}

impl Sent {
    fn text(&self) -> String {
        let Sent { before, outcome, after } = self;
        format!("bytes came before it opened: {before}, after: {after}; sent: {outcome:?}")
    }
}

fn refusals() -> Proven {
    let directory = OwnedFd::from(std::fs::File::open("/").map_err(text)?);
    if Fence::from_fd(directory).is_ok() {
        return Err("a directory was taken for a fence".to_owned());
    }
    let program = std::env::current_exe().and_then(std::fs::File::open).map_err(text)?;
    if Fence::from_fd(program.into()).is_ok() {
        return Err("a regular file was taken for a fence".to_owned());
    }
    if Fence::duplicate_of(i32::MAX).is_ok() {
        return Err("a closed number was taken for a fence".to_owned());
    }
    Ok("a directory, a regular file and a closed number were refused".to_owned())
}

fn on_a_device() -> Vec<Check> {
    const REMEDY: &str = "a graphics driver with syncobjs, and /dev/dri in the container (docker: \
                          --device /dev/dri)";
    let Some(device) = DrmDevice::find() else {
        return ["sync_file", "syncobj"]
            .map(|name| {
                let reason = "no render node with syncobjs";
                Check::missing(name, reason, "looked through /dev/dri").remedy(REMEDY)
            })
            .into();
    };
    let mut checks = vec![check("sync_file", "made one that has signalled", || sync_file(&device))];
    checks.push(match device.has_timelines() {
        true => check("syncobj", "passed points both ways", || points(&device)),
        false => Check::missing("syncobj", "the device has no timelines", "asked the device"),
    });
    checks
}

fn sync_file(device: &DrmDevice) -> Proven {
    let drawn = Semaphore::new(1);
    let Exported::SyncFile(file) = drawn.export(1, Some(device)).map_err(text)? else {
        return Err("a reached value was not exported as a sync_file".to_owned());
    };
    let copy = file.try_clone().map_err(text)?;
    let merged = file.merge(&copy, "self-test").map_err(text)?;
    merged.wait(Some(Instant::now() + PATIENCE)).map_err(text)?;
    match merged.status().map_err(text)? {
        FenceStatus::Signalled => {
            Ok("exported a reached value as a sync_file, merged it, and asked for it".to_owned())
        }
        other => Err(format!("it is {other:?}")),
    }
}

fn points(device: &DrmDevice) -> Proven {
    let io = Proactor::new().map_err(text)?;
    let timeline = Arc::new(device.syncobj(false).map_err(text)?);
    let (there, back) = (Semaphore::new(0), Semaphore::new(0));
    let bridge = there.bridge_to(1, &timeline, 5);
    let point = timeline.point(5).map_err(text)?;
    io.import_fence(Fence::from(point), &back, 1).map_err(text)?;
    io.poll(Wait::Now).map_err(text)?;
    if back.value() != Ok(0) {
        return Err("the point signalled before the semaphore".to_owned());
    }
    there.signal(1).map_err(text)?;
    reached(&io, &back)?;
    drop(bridge);
    match timeline.value().map_err(text)? {
        5 => Ok("a semaphore signalled point 5, and the point another semaphore".to_owned()),
        value => Err(format!("the timeline is at {value}")),
    }
}

fn on_vgem() -> Check {
    const NAME: &str = "pending sync_file";
    let Some(device) = VgemDevice::find() else {
        let reason = "no device of vgem, the driver that makes them, or none this process may open";
        return Check::missing(NAME, reason, "looked through /dev/dri").remedy("modprobe vgem");
    };
    check(NAME, "exported a value before it was reached", || pending(&device))
}

fn pending(device: &VgemDevice) -> Proven {
    let io = Proactor::new().map_err(text)?;
    let (there, back) = (Semaphore::new(0), Semaphore::new(0));
    let exported = there.export_expiring(1, device).map_err(text)?;
    let file = exported.sync_file().try_clone().map_err(text)?;
    io.import_fence(Fence::from(file), &back, 1).map_err(text)?;
    io.poll(Wait::Now).map_err(text)?;
    if back.value() != Ok(0) {
        return Err("the sync_file signalled before the semaphore".to_owned());
    }
    there.signal(1).map_err(text)?;
    reached(&io, &back)?;
    match exported.end().map_err(text)? {
        Some(FenceEnd::Reached) => {
            Ok("exported a sync_file; pending until the value was reached".to_owned())
        }
        other => Err(format!("its end is {other:?}")),
    }
}
