//! Fences of drivers: waited for, imported, refused. What pends and fails as told is a stand-in for
//! a sync_file; the lab has real ones.

use super::net::{idle_turns, settled, span};
use super::sequence::links;
use crate::stand_in::StandIn;
use crate::{Case, Cx, Skip};
use dataplane::fence::{Fence, FenceErrorKind, FenceStatus, Semaphore};
use dataplane::{Error, ErrorKind, Event, Options, Proactor};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "fence/pends_then_signals", needs: &[], run: pends_then_signals },
    Case { name: "fence/fails_with_its_errno", needs: &[], run: fails_with_its_errno },
    Case { name: "fence/a_false_report_is_no_signal", needs: &[], run: a_false_report },
    Case { name: "fence/an_event", needs: &[], run: an_event },
    Case { name: "fence/a_hang_up_is_a_failure", needs: &[], run: a_hang_up },
    Case { name: "fence/many_wait", needs: &[], run: many_wait },
    Case { name: "fence/cancel", needs: &[], run: cancel },
    Case { name: "fence/wrong_kinds_come_back", needs: &[], run: wrong_kinds },
    Case { name: "fence/import_signals", needs: &[], run: import_signals },
    Case { name: "fence/import_fails", needs: &[], run: import_fails },
    Case { name: "fence/import_of_what_has_signalled", needs: &[], run: import_signalled },
    Case { name: "fence/import_of_what_is_reached", needs: &[], run: import_reached },
    Case { name: "fence/import_cancelled", needs: &[], run: import_cancelled },
    Case { name: "fence/import_timed_out", needs: &[], run: import_timed_out },
    Case { name: "fence/import_outlived", needs: &[], run: import_outlived },
    Case { name: "fence/import_without_room", needs: &[], run: import_without_room },
    Case { name: "fence/import_from_another_thread", needs: &[], run: import_remote },
    Case { name: "fence/import_into_what_is_gone", needs: &[], run: import_gone },
    Case { name: "fence/gates_a_send", needs: &[], run: gates_a_send },
    Case { name: "fence/a_failed_gate_sends_nothing", needs: &[], run: failed_gate },
    Case { name: "fence/an_unchecked_gate", needs: &[], run: unchecked_gate },
];

/// A fence that pends, and what signals it.
fn pending() -> Result<(StandIn, Fence), Skip> {
    let (stand_in, fd) = StandIn::new()?;
    let fence = Fence::from_fd(fd).expect("it answers as a sync_file");
    assert!(matches!(&fence, Fence::SyncFile(file) if file.status() == Ok(FenceStatus::Pending)));
    Ok((stand_in, fence))
}

fn event() -> (Event, Fence) {
    let event = Event::new().expect("a descriptor");
    let fd = event.as_fd().try_clone_to_owned().expect("a descriptor");
    (event, Fence::from_fd(fd).expect("an eventfd can be waited for"))
}

fn errno_of(semaphore: &Semaphore) -> Option<i32> {
    semaphore.value().err().and_then(|failed| failed.failure.errno())
}

fn pends_then_signals(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let waiter = cx.io.fence_waiter(fence);
    let mut wait = waiter.wait().submit().expect("room");
    idle_turns(cx);
    assert!(wait.try_take().is_none());
    stand_in.signal(1);
    cx.block_on(wait).expect("it signalled");
    cx.block_on(waiter.wait()).expect("and stays so");
    drop(waiter);
    settled(cx, 0);
    Ok(())
}

fn fails_with_its_errno(cx: &Cx<'_>) -> Result<(), Skip> {
    for errno in [libc::EIO, libc::ENODEV, libc::ECANCELED, libc::EAGAIN, libc::ETIME] {
        let (stand_in, fence) = pending()?;
        let waiter = cx.io.fence_waiter(fence);
        let wait = waiter.wait().submit().expect("room");
        stand_in.signal(-errno);
        let error = cx.block_on(wait).err().expect("it failed").into_error();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(errno)));
    }
    Ok(())
}

fn a_false_report(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let waiter = cx.io.fence_waiter(fence);
    let mut wait = waiter.wait().submit().expect("room");
    idle_turns(cx);
    stand_in.say_readable(3);
    idle_turns(cx);
    assert!(wait.try_take().is_none(), "readable, and pending by its status");
    stand_in.signal(1);
    cx.block_on(wait).expect("it signalled");
    Ok(())
}

fn an_event(cx: &Cx<'_>) -> Result<(), Skip> {
    let (event, fence) = event();
    let waiter = cx.io.fence_waiter(fence);
    let mut wait = waiter.wait().submit().expect("room");
    idle_turns(cx);
    assert!(wait.try_take().is_none());
    event.set();
    cx.block_on(wait).expect("it is set");
    assert!(event.is_set(), "nothing was taken");
    Ok(())
}

fn a_hang_up(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    let waiter = cx.io.fence_waiter(Fence::from_fd(reader).expect("a pipe"));
    let wait = waiter.wait().submit().expect("room");
    drop(writer);
    let error = cx.block_on(wait).err().expect("nobody is left to signal").into_error();
    cx.note(format!("{:?} {:?}", error.kind(), error.errno()));
    Ok(())
}

fn many_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let waiter = cx.io.fence_waiter(fence);
    let waits: Vec<_> = (0..5).map(|_| waiter.wait().submit().expect("room")).collect();
    idle_turns(cx);
    stand_in.signal(1);
    for wait in waits {
        cx.block_on(wait).expect("it signalled for all");
    }
    Ok(())
}

fn cancel(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_stand_in, fence) = pending()?;
    let waiter = cx.io.fence_waiter(fence);
    let wait = waiter.wait().submit().expect("room");
    idle_turns(cx);
    cx.io.cancel(wait.id()).expect("it is pending");
    assert_eq!(cx.block_on(wait).err().expect("cancelled").kind(), ErrorKind::Cancelled);
    let late = waiter.wait().timeout(Duration::from_millis(1));
    assert_eq!(cx.block_on(late).err().expect("too late").kind(), ErrorKind::TimedOut);
    assert_eq!(waiter.fence().status(), Ok(FenceStatus::Pending));
    Ok(())
}

fn wrong_kinds(_: &Cx<'_>) -> Result<(), Skip> {
    let memfd = memfd_create(c"fence", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let directory = OwnedFd::from(std::fs::File::open("/").expect("it is there"));
    let program = std::fs::File::open(std::env::current_exe().expect("a path")).expect("readable");
    for fd in [memfd, directory, program.into()] {
        let number = fd.as_raw_fd();
        let refused = Fence::from_fd(fd).expect_err("it has no readiness");
        assert_eq!(refused.error.kind(), FenceErrorKind::WrongKind);
        assert_eq!(refused.fd.as_raw_fd(), number, "it comes back");
        assert_eq!(Error::from(refused.error).kind(), ErrorKind::InvalidArgument);
    }
    Ok(())
}

fn import_signals(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let drawn = Semaphore::new(0);
    assert!(cx.io.import_fence(fence, &drawn, 3).expect("room").is_some());
    idle_turns(cx);
    assert_eq!(drawn.value(), Ok(0));
    stand_in.signal(1);
    assert_eq!(cx.block_on(cx.io.wait_semaphore(&drawn, 3)).expect("it signals"), 3);
    settled(cx, 0);
    Ok(())
}

fn import_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let drawn = Semaphore::new(0);
    cx.io.import_fence(fence, &drawn, 1).expect("room");
    idle_turns(cx);
    stand_in.signal(-libc::ENODEV);
    let error = cx.block_on(cx.io.wait_semaphore(&drawn, 1)).err().expect("it failed");
    assert_eq!(error.into_error().errno(), Some(libc::ENODEV));
    Ok(())
}

fn import_signalled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    stand_in.signal(1);
    let drawn = Semaphore::new(0);
    // Told by the stand-in's server in its own time.
    while fence.status() == Ok(FenceStatus::Pending) {
        std::thread::yield_now();
    }
    assert_eq!(cx.io.import_fence(fence, &drawn, 1).expect("nothing to wait for"), None);
    assert_eq!(drawn.value(), Ok(1));
    assert_eq!(cx.io.import_fence(Fence::Signalled, &drawn, 2).expect("as good"), None);
    assert_eq!(drawn.value(), Ok(2));
    let waiter = cx.io.fence_waiter(Fence::Signalled);
    cx.block_on(waiter.wait()).expect("it has signalled");
    Ok(())
}

fn import_reached(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_stand_in, fence) = pending()?;
    let drawn = Semaphore::new(7);
    assert_eq!(cx.io.import_fence(fence, &drawn, 7).expect("nothing to do"), None);
    // Signalled by others meanwhile: the fence changes nothing when it comes.
    let (event, fence) = event();
    assert!(cx.io.import_fence(fence, &drawn, 8).expect("room").is_some());
    drawn.signal(9).expect("above");
    event.set();
    settled(cx, 0);
    assert_eq!(drawn.value(), Ok(9));
    Ok(())
}

fn import_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_event, fence) = event();
    let drawn = Semaphore::new(0);
    let id = cx.io.import_fence(fence, &drawn, 1).expect("room").expect("it pends");
    idle_turns(cx);
    cx.io.cancel(id).expect("it is pending");
    settled(cx, 0);
    assert_eq!(errno_of(&drawn), Some(libc::ECANCELED));
    Ok(())
}

fn import_timed_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_event, fence) = event();
    let drawn = Semaphore::new(0);
    let soon = Duration::from_millis(2);
    cx.io.import_fence_within(fence, &drawn, 1, soon).expect("room").expect("it pends");
    settled(cx, 0);
    assert_eq!(errno_of(&drawn), Some(libc::ETIME));
    Ok(())
}

fn import_outlived(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_event, fence) = event();
    let drawn = Semaphore::new(0);
    let io = Proactor::with(cx.options.clone()).expect("a proactor");
    io.import_fence(fence, &drawn, 1).expect("room").expect("it pends");
    drop(io);
    assert_eq!(errno_of(&drawn), Some(libc::ECANCELED));
    Ok(())
}

fn import_without_room(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_event, fence) = event();
    let number = fence.descriptor().expect("it pends").as_raw_fd();
    let drawn = Semaphore::new(0);
    let options: Options = cx.options.clone().operations(1);
    let io = Proactor::with(options).expect("a proactor");
    let (_other, taken) = event();
    let _waiting = io.fence_waiter(taken).wait().submit().expect("room for one");
    let refused = io.import_fence(fence, &drawn, 1).expect_err("no room for two");
    assert_eq!(refused.error.kind(), ErrorKind::Exhausted);
    assert_eq!(refused.fence.descriptor().expect("it pends").as_raw_fd(), number);
    assert_eq!(drawn.value(), Ok(0), "untouched");
    Ok(())
}

fn import_remote(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let drawn = Semaphore::new(0);
    let (handle, theirs) = (cx.io.handle(), drawn.clone());
    std::thread::spawn(move || handle.import_fence(fence, &theirs, 1).expect("room"))
        .join()
        .expect("no panic");
    idle_turns(cx);
    assert_eq!(drawn.value(), Ok(0));
    stand_in.signal(1);
    assert_eq!(cx.block_on(cx.io.wait_semaphore(&drawn, 1)).expect("it signals"), 1);
    Ok(())
}

fn import_gone(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a proactor");
    let handle = io.handle();
    let (_event, fence) = event();
    let waiting = Semaphore::new(0);
    handle.import_fence(fence, &waiting, 1).expect("room");
    drop(io);
    assert_eq!(errno_of(&waiting), Some(libc::ECANCELED), "it stood in the inbox");
    let (_event, fence) = event();
    let drawn = Semaphore::new(0);
    let refused = handle.import_fence(fence, &drawn, 1).expect_err("nobody is there");
    assert_eq!(refused.error.kind(), ErrorKind::ShutDown);
    assert!(refused.fence.descriptor().is_some());
    assert_eq!(drawn.value(), Ok(0), "untouched");
    Ok(())
}

fn gates_a_send(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let (a, b) = cx.tcp_pair();
    let slab = cx.slab(1, 8);
    let gate = cx.io.fence_waiter(fence);
    let steps = cx.io.sequence().then(gate.wait()).send_all(&a, span(b"send"));
    let running = steps.send_all(&a, span(b"more")).submit().expect("room");
    let mut receiving = b.recv_all(slab.lease().expect("a slot")).submit().expect("room");
    idle_turns(cx);
    assert!(receiving.try_take().is_none(), "the gate is shut");
    stand_in.signal(1);
    let finished = cx.block_on(running).expect("it went through");
    assert!(!finished.started_by_kernel(1), "the gate was checked");
    if cx.options.faults.is_none() {
        assert_eq!(finished.started_by_kernel(2), links(cx), "what follows the send is no gate");
    }
    assert_eq!(cx.block_on(receiving).expect("received")[..], *b"sendmore");
    Ok(())
}

fn failed_gate(cx: &Cx<'_>) -> Result<(), Skip> {
    let (stand_in, fence) = pending()?;
    let (a, b) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    let gate = cx.io.fence_waiter(fence);
    let frame = span(b"frame");
    let running = cx.io.sequence().then(gate.wait()).send_all(&a, frame).submit().expect("room");
    let mut receiving = b.recv(slab.lease().expect("a slot")).submit().expect("room");
    stand_in.signal(-libc::EIO);
    let failed = cx.block_on(running).err().expect("the gate failed");
    let error = Error::from(failed);
    assert_eq!(error.errno(), Some(libc::EIO));
    idle_turns(cx);
    assert!(receiving.try_take().is_none(), "nothing was sent");
    Ok(())
}

fn unchecked_gate(cx: &Cx<'_>) -> Result<(), Skip> {
    let (event, fence) = event();
    let (a, b) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    let gate = cx.io.fence_waiter(fence);
    let frame = span(b"frame");
    let sequence = cx.io.sequence().then(gate.wait_unchecked()).send_all(&a, frame);
    let running = sequence.submit().expect("room");
    idle_turns(cx);
    event.set();
    let finished = cx.block_on(running).expect("it went through");
    if cx.options.faults.is_none() {
        assert_eq!(finished.started_by_kernel(1), links(cx), "nobody checked, where it can be so");
    }
    let received = cx.block_on(b.recv(slab.lease().expect("a slot")));
    assert_eq!(received.expect("received")[..], *b"frame");
    Ok(())
}
