//! The toolkit beside fences of real drivers, on every backend.

use crate::checks::node;
use crate::sources::{Failing, Pending};
use dataplane::fence::{
    DrmDevice, Exported, Failure, Fence, FenceEnd, FenceErrorKind, FenceStatus, Semaphore,
    SyncFile, VgemDevice,
};
use dataplane::regions::Slab;
use dataplane::{Backend, Error, Options, Proactor, Socket, Wait};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is shown, on a proactor.
type Case = fn(&Proactor) -> Result<(), String>;

/// Longer than a fence of vgem's pends.
const PATIENCE: Duration = Duration::from_secs(40);
/// After this a fence of vgem's signals by itself.
const VGEM: Duration = Duration::from_secs(10);

/// What is shown, and the devices it needs.
pub(crate) const CASES: &[(&str, &[&str], Case)] = &[
    ("pending_then_signalled", &["vgem"], pending_then_signalled),
    ("signals_by_itself", &["vgem"], signals_by_itself),
    ("fails_with_its_errno", &["failing-fence"], fails),
    ("fails_with_its_device", &["failing-fence"], fails_with_its_device),
    ("a_failed_gate_sends_nothing", &["failing-fence"], failed_gate),
    ("merge_keeps_failures", &["vgem", "failing-fence"], merge),
    ("driver_to_driver_to_send", &["vgem", "syncobj"], driver_to_driver_to_send),
    ("a_failed_point", &["syncobj", "failing-fence"], failed_point),
    ("an_unchecked_point_is_waited_for", &["vgem", "syncobj"], unchecked_point),
    ("semaphore_to_driver", &["vgem", "syncobj"], semaphore_to_driver),
    ("a_driver_waits_for_a_semaphore", &["vgem", "syncobj"], driver_waits),
    ("a_semaphore_that_fails_is_a_success", &["vgem"], failed_semaphore),
    ("a_semaphore_that_is_late_is_known_to_be", &["vgem"], late_semaphore),
];

/// The backends, of which io_uring may not be there.
pub(crate) fn proactor(backend: Backend) -> Result<Proactor, Error> {
    Proactor::with(Options::default().backend(backend))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn fence(file: OwnedFd) -> Result<Fence, String> {
    match Fence::from_fd(file) {
        Ok(fence @ Fence::SyncFile(_)) => Ok(fence),
        Ok(other) => Err(format!("a sync_file was taken for {other:?}")),
        Err(refused) => Err(refused.to_string()),
    }
}

/// Imports it and polls once: it pends.
fn imported(io: &Proactor, fence: Fence) -> Result<Semaphore, String> {
    let drawn = Semaphore::new(0);
    io.import_fence(fence, &drawn, 1).map_err(text)?;
    io.poll(Wait::Now).map_err(text)?;
    check(drawn.value() == Ok(0), "it does not pend")?;
    Ok(drawn)
}

/// Polls until the semaphore has moved; the errno it failed with.
fn outcome(io: &Proactor, semaphore: &Semaphore) -> Result<Option<i32>, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match semaphore.value() {
            Ok(0) => check(Instant::now() < end, "nothing came of it")?,
            Ok(_) => return Ok(None),
            Err(failed) => return Ok(failed.failure.errno()),
        }
        io.poll(Wait::Until(end)).map_err(text)?;
    }
}

fn signalled(io: &Proactor, semaphore: &Semaphore) -> Result<(), String> {
    match outcome(io, semaphore)? {
        None => Ok(()),
        Some(errno) => Err(format!("the semaphore failed with {errno}")),
    }
}

fn pending_then_signalled(io: &Proactor) -> Result<(), String> {
    let (source, file) = Pending::new()?;
    let drawn = imported(io, fence(file)?)?;
    source.signal()?;
    signalled(io, &drawn)?;
    // What has signalled already needs no wait.
    let again = Semaphore::new(0);
    let waits = io.import_fence(fence(source.export()?)?, &again, 1).map_err(text)?;
    check(waits.is_none() && again.value() == Ok(1), "it was waited for")
}

fn signals_by_itself(io: &Proactor) -> Result<(), String> {
    let (_source, file) = Pending::new()?;
    let begun = Instant::now();
    let drawn = imported(io, fence(file)?)?;
    signalled(io, &drawn)?;
    check(begun.elapsed() > VGEM / 2, "it signalled at once")
}

fn fails(io: &Proactor) -> Result<(), String> {
    for errno in [libc::EIO, libc::ENOENT, libc::ENODEV] {
        let (source, file) = Failing::new()?;
        let drawn = imported(io, fence(file)?)?;
        source.end(errno)?;
        let met = outcome(io, &drawn)?;
        check(met == Some(errno), &format!("{met:?} instead of {errno}"))?;
    }
    Ok(())
}

fn fails_with_its_device(io: &Proactor) -> Result<(), String> {
    let (source, file) = Failing::new()?;
    let drawn = imported(io, fence(file)?)?;
    drop(source);
    let met = outcome(io, &drawn)?;
    check(met == Some(libc::ENODEV), &format!("{met:?} instead of ENODEV"))
}

fn pair(io: &Proactor) -> Result<(Socket, UnixStream), String> {
    let (here, there) = UnixStream::pair().map_err(text)?;
    there.set_nonblocking(true).map_err(text)?;
    Ok((io.adopt_socket(here).map_err(text)?, there))
}

fn frame(slab: &Slab) -> Result<dataplane::regions::Lease, String> {
    let mut lease = slab.lease().map_err(text)?;
    lease.fill(7);
    Ok(lease)
}

fn failed_gate(io: &Proactor) -> Result<(), String> {
    let (source, file) = Failing::new()?;
    let (near, far) = pair(io)?;
    let slab = Slab::new(1, 4096).map_err(text)?;
    let gate = io.fence_waiter(fence(file)?);
    let sending = io.sequence().then(gate.wait()).send_all(&near, frame(&slab)?.freeze());
    let running = sending.submit().map_err(text)?;
    io.poll(Wait::Now).map_err(text)?;
    source.end(libc::EIO)?;
    let ended = io.block_on(running.into_future()).map_err(text)?;
    let error = Error::from(ended.err().ok_or("it was sent")?);
    check(error.errno() == Some(libc::EIO), &format!("it failed with {error}"))?;
    let nothing = std::io::Read::read(&mut &far, &mut [0; 16]);
    check(nothing.is_err(), "bytes arrived behind a failed fence")
}

fn merge(_: &Proactor) -> Result<(), String> {
    let file = |fd| SyncFile::from_fd(fd).map_err(text);
    let ((pending, one), (failing, two)) = (Pending::new()?, Failing::new()?);
    let (one, two) = (file(one)?, file(two)?);
    let merged = one.merge(&two, "both").map_err(text)?;
    let parts = merged.info().map_err(text)?.fences.len();
    check(parts == 2, &format!("{parts} fences in it"))?;
    failing.end(libc::EIO)?;
    check(merged.status() == Ok(FenceStatus::Pending), "it did not wait for both")?;
    pending.signal()?;
    let failed = merged.wait(Some(Instant::now() + PATIENCE)).err().ok_or("it did not fail")?;
    check(failed.kind() == FenceErrorKind::Failed, &failed.to_string())?;
    let refused = one.merge(&two, "late").err().ok_or("a failed input was merged")?;
    check(refused.errno() == Some(libc::EIO), &refused.to_string())
}

fn device() -> Result<DrmDevice, String> {
    let (_, node) = node("renderD", "virtio_gpu")?;
    DrmDevice::from_fd(node.into()).map_err(text)
}

/// vgem signals, a point of virtio-gpu's has the fence, a semaphore waits for the point, a send for
/// the semaphore.
fn driver_to_driver_to_send(io: &Proactor) -> Result<(), String> {
    let (source, file) = Pending::new()?;
    let file = SyncFile::from_fd(file).map_err(text)?;
    let timeline = Arc::new(device()?.syncobj(false).map_err(text)?);
    timeline.import_sync_file(&file, 3).map_err(text)?;
    let point = timeline.point(3).map_err(text)?;
    let drawn = imported(io, Fence::from(point))?;
    let (near, far) = pair(io)?;
    let slab = Slab::new(1, 4096).map_err(text)?;
    let sending = io.sequence().wait(&drawn, 1).send_all(&near, frame(&slab)?.freeze());
    let running = sending.submit().map_err(text)?;
    io.poll(Wait::Now).map_err(text)?;
    let mut bytes = [0; 4096];
    let early = std::io::Read::read(&mut &far, &mut bytes);
    check(early.is_err(), "it was sent before the fence signalled")?;
    source.signal()?;
    let finished = io.block_on(running.into_future()).map_err(text)?.map_err(text)?;
    check(finished.steps() == 2, "not every step ran")?;
    let got = std::io::Read::read(&mut &far, &mut bytes).map_err(text)?;
    check(got == 4096 && bytes == [7; 4096], "not every byte arrived")?;
    check(timeline.value() == Ok(3), "the timeline is elsewhere")
}

/// The eventfd of a point is written when its fence fails, as when it signals.
fn failed_point(io: &Proactor) -> Result<(), String> {
    let (source, file) = Failing::new()?;
    let file = SyncFile::from_fd(file).map_err(text)?;
    let timeline = Arc::new(device()?.syncobj(false).map_err(text)?);
    timeline.import_sync_file(&file, 1).map_err(text)?;
    let drawn = imported(io, Fence::from(timeline.point(1).map_err(text)?))?;
    source.end(libc::EIO)?;
    let met = outcome(io, &drawn)?;
    check(met == Some(libc::EIO), &format!("{met:?} instead of EIO"))
}

/// The descriptor of a point is readable when the point gets its fence; a gate that asks for no
/// more than that is shut until the fence has signalled.
fn unchecked_point(io: &Proactor) -> Result<(), String> {
    let (source, file) = Pending::new()?;
    let file = SyncFile::from_fd(file).map_err(text)?;
    let timeline = Arc::new(device()?.syncobj(false).map_err(text)?);
    let point = timeline.point(1).map_err(text)?;
    let (near, far) = pair(io)?;
    let slab = Slab::new(1, 4096).map_err(text)?;
    let gate = io.fence_waiter(Fence::from(point));
    let steps = io.sequence().then(gate.wait_unchecked());
    let running = steps.send_all(&near, frame(&slab)?.freeze()).submit().map_err(text)?;
    io.poll(Wait::Now).map_err(text)?;
    timeline.import_sync_file(&file, 1).map_err(text)?;
    for _ in 0..10 {
        io.poll(Wait::Now).map_err(text)?;
    }
    let early = std::io::Read::read(&mut &far, &mut [0; 16]);
    check(early.is_err(), "it was sent when the point got its fence")?;
    source.signal()?;
    io.block_on(running.into_future()).map_err(text)?.map_err(text).map(drop)
}

/// A semaphore signals a point of virtio-gpu's; what it has reached is a sync_file that a buffer of
/// vgem's waits for.
fn semaphore_to_driver(io: &Proactor) -> Result<(), String> {
    let device = device()?;
    let timeline = Arc::new(device.syncobj(false).map_err(text)?);
    let drawn = Semaphore::new(0);
    drawn.bridge_to(1, &timeline, 9);
    check(timeline.value() == Ok(0), "the point signalled before the semaphore")?;
    let there = imported(io, Fence::from(timeline.point(9).map_err(text)?))?;
    drawn.signal(1).map_err(text)?;
    signalled(io, &there)?;
    let Exported::SyncFile(file) = drawn.export(1, Some(&device)).map_err(text)? else {
        return Err("it was exported as an event".to_owned());
    };
    let (source, _) = Pending::new()?;
    source.signal()?;
    source.import(&std::os::fd::AsFd::as_fd(&file))?;
    let waited_for = SyncFile::from_fd(source.export()?).map_err(text)?;
    waited_for.wait(Some(Instant::now() + PATIENCE)).map_err(text)
}

fn vgem() -> Result<VgemDevice, String> {
    VgemDevice::find().ok_or_else(|| "no device of vgem was found".to_owned())
}

/// A point of virtio-gpu's holds a fence that a semaphore signals: the driver's own wait for it,
/// and a proactor's, end when the value is reached and not before.
fn driver_waits(io: &Proactor) -> Result<(), String> {
    const MOMENT: Duration = Duration::from_millis(200);
    let timeline = Arc::new(device()?.syncobj(false).map_err(text)?);
    let there = imported(io, Fence::from(timeline.point(3).map_err(text)?))?;
    let drawn = Semaphore::new(0);
    let promise = drawn.export_expiring(2, &vgem()?).map_err(text)?;
    timeline.import_sync_file(promise.sync_file(), 3).map_err(text)?;
    drawn.signal(1).map_err(text)?;
    let early = timeline.wait(3, Some(Instant::now() + MOMENT)).err().ok_or("it did not wait")?;
    check(early.kind() == FenceErrorKind::TimedOut, &early.to_string())?;
    io.poll(Wait::Now).map_err(text)?;
    let pends = (there.value(), timeline.value(), promise.end());
    check(pends == (Ok(0), Ok(0), Ok(None)), &format!("early: {pends:?}"))?;
    drawn.signal(2).map_err(text)?;
    timeline.wait(3, Some(Instant::now() + PATIENCE)).map_err(text)?;
    signalled(io, &there)?;
    let over = (timeline.value(), promise.end());
    check(over == (Ok(3), Ok(Some(FenceEnd::Reached))), &format!("reached: {over:?}"))?;
    let Exported::SyncFile(file) = Exported::from(promise) else {
        return Err("it is an event".to_owned());
    };
    check(file.status() == Ok(FenceStatus::Signalled), "it is another fence")
}

/// vgem's fences cannot fail: whoever waits is let go, and the exporter knows.
fn failed_semaphore(io: &Proactor) -> Result<(), String> {
    let device = vgem()?;
    let begun = Instant::now();
    let failing = Semaphore::new(0);
    for (semaphore, fails) in [(failing.clone(), true), (Semaphore::new(0), false)] {
        let promise = semaphore.export_expiring(1, &device).map_err(text)?;
        let file = promise.sync_file().try_clone().map_err(text)?;
        let there = imported(io, Fence::from(file))?;
        check(promise.end() == Ok(None), "it ended by itself")?;
        if fails {
            semaphore.fail(Failure::with_errno(libc::EIO, "on purpose"));
        }
        drop(semaphore);
        signalled(io, &there)?;
        check(promise.end() == Ok(Some(FenceEnd::Failed)), &format!("{:?}", promise.end()))?;
    }
    check(begun.elapsed() < VGEM, "it expired first")?;
    let refused = failing.export_expiring(1, &device).err().ok_or("a failure was exported")?;
    let is_told = refused.kind() == FenceErrorKind::Failed && refused.errno() == Some(libc::EIO);
    check(is_told, &refused.to_string())
}

/// After ten seconds the fence signals although the value is not reached; the exporter knows, and a
/// signal that comes later changes nothing about that.
fn late_semaphore(io: &Proactor) -> Result<(), String> {
    let drawn = Semaphore::new(0);
    let begun = Instant::now();
    let promise = drawn.export_expiring(1, &vgem()?).map_err(text)?;
    let file = promise.sync_file().try_clone().map_err(text)?;
    signalled(io, &imported(io, Fence::from(file))?)?;
    check(begun.elapsed() > VGEM / 2, "it signalled at once")?;
    check(drawn.value() == Ok(0), "the semaphore moved")?;
    for _ in 0..2 {
        check(promise.end() == Ok(Some(FenceEnd::Expired)), &format!("{:?}", promise.end()))?;
        drawn.signal(1 + drawn.value().map_err(text)?).map_err(text)?;
    }
    Ok(())
}
