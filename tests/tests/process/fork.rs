//! A forked child owns nothing of its parent's proactor: every call says Forked, every drop leaves
//! the kernel alone, and the parent goes on as if there had been no child.
//!
//! Unsafe: handles of Vulkan are destroyed by their drop, after what was made with them.
#![allow(clippy::unwrap_used, unsafe_code)]

use crate::child;

use crate::child::{Ended, forked};
use conformance::vulkan::{TIMELINE, gpu, lacking};
use dataplane::fence::FenceErrorKind;
use dataplane::regions::{Slab, VulkanMemory};
use dataplane::{Backend, ErrorKind, OpenOptions, Options, Placement, Proactor};
use dataplane::{ProactorPool, ProactorThread, Wait};
use std::cell::RefCell;
use std::future::{Future, IntoFuture};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Runs `body` with a proactor of each backend there is.
fn each_backend(name: &str, body: fn(Proactor)) {
    child::alone(module_path!(), name, || {
        for backend in Backend::ALL {
            match Proactor::with(Options::default().backend(backend)) {
                Ok(io) => body(io),
                Err(error) => child::say(&format!("skipped on {backend}: {error}")),
            }
        }
    });
}

/// What the child ends with when everything was as it should be.
const GOOD: i32 = 42;

#[test]
fn every_call_in_the_child_says_forked() {
    each_backend("every_call_in_the_child_says_forked", |io| {
        let slab = Slab::new(4, 64).unwrap();
        let (one, _two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        let handle = io.handle();
        let pool = io.receive_pool(2, 64).unwrap();
        let mut nop = io.nop().submit().unwrap();
        let ended = forked(|| {
            let forked = |kind: ErrorKind| assert_eq!(kind, ErrorKind::Forked);
            forked(io.poll(Wait::Now).unwrap_err().kind());
            forked(io.flush().unwrap_err().kind());
            forked(io.cancel_all().unwrap_err().kind());
            forked(io.nop().submit().map(drop).unwrap_err().kind());
            forked(io.register_slab(&slab).map(drop).unwrap_err().kind());
            forked(io.receive_pool(2, 64).map(drop).unwrap_err().kind());
            let failed = socket.send_all(vec![1]).submit().map(drop).unwrap_err();
            forked(failed.kind());
            assert!(failed.into_buffer().is_some(), "the buffer comes back here too");
            forked(socket.receive_all(&pool).submit().map(drop).unwrap_err().kind());
            forked(socket.local_addr().unwrap_err().kind());
            forked(handle.nop().submit().map(drop).unwrap_err().kind());
            forked(nop.try_take().unwrap().unwrap_err().kind());
            handle.wake();
            let open = io.open("/dev/null", OpenOptions::read()).unwrap();
            forked(open.submit().map(drop).unwrap_err().kind());
            forked(io.block_on(std::future::pending::<()>()).unwrap_err().kind());
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD));
        io.block_on(nop).unwrap().unwrap();
    });
}

/// What the child has of them are copies of memory: the threads are the parent's.
#[test]
fn contexts_and_threads_are_the_parents() {
    child::alone(module_path!(), "contexts_and_threads_are_the_parents", || {
        let context = RefCell::new(Some(dataplane::Context::start(Options::default()).unwrap()));
        let thread = RefCell::new(Some(ProactorThread::start(Options::default()).unwrap()));
        let pool = ProactorPool::start(Placement::Anywhere(2), Options::default()).unwrap();
        let pool = RefCell::new(Some(pool));
        let unshared = RefCell::new(Some(dataplane::Context::start(Options::default()).unwrap()));
        let work = context.borrow().as_ref().unwrap().work();
        let inside = context.borrow().as_ref().unwrap().clone();
        let runner = std::thread::spawn(move || inside.run().unwrap());
        let ended = forked(|| {
            let forked = |kind: ErrorKind| assert_eq!(kind, ErrorKind::Forked);
            let context = context.take().unwrap();
            forked(context.run().unwrap_err().kind());
            forked(context.poll().unwrap_err().kind());
            context.post(|| unreachable!("nobody runs it here"));
            drop(context.spawn(async {}));
            drop(work.clone());
            context.stop();
            context.restart();
            forked(thread.take().unwrap().join().unwrap_err().kind());
            drop(pool.take());
            drop((context, unshared.take()));
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD));
        assert!(!runner.is_finished(), "a stop in the child is none here");
        let (count, context) = (Arc::new(()), context.take().unwrap());
        let theirs = count.clone();
        context.post(move || drop(theirs));
        drop(work);
        assert_eq!(runner.join().unwrap(), 1);
        assert_eq!(unshared.take().unwrap().run().unwrap(), 0);
        assert_eq!(Arc::strong_count(&count), 1);
        assert_eq!(thread.take().unwrap().join().unwrap(), None);
        assert_eq!(pool.take().unwrap().join().unwrap(), None);
    });
}

#[test]
fn a_child_that_drops_everything_disturbs_nothing() {
    each_backend("a_child_that_drops_everything_disturbs_nothing", |io| {
        let slab = Slab::new(4, 64).unwrap();
        let registration = io.register_slab(&slab).ok();
        let (one, mut two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        let remote = io.adopt_socket(UnixStream::pair().unwrap().0).unwrap();
        let remote = remote.into_remote(&io.handle()).map_err(|(error, _)| error).unwrap();
        let pool = io.receive_pool(2, 64).unwrap();
        let receive = socket.recv(slab.lease().unwrap()).submit().unwrap();
        io.poll(Wait::Now).unwrap();
        let mut held = Some((socket.clone(), registration, remote, pool, io.clone(), receive));
        let ended = forked(|| {
            drop(held.take());
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD), "no drop hangs, panics or leaves by a signal");
        let (.., receive) = held.take().unwrap();
        two.write_all(b"after the child").unwrap();
        let filled = io.block_on(receive).unwrap().unwrap();
        assert_eq!(filled[..], *b"after the child", "its completion was not eaten");
        io.block_on(socket.send_all(filled.freeze()).into_future()).unwrap().unwrap();
        assert_eq!(io.shutdown(Duration::from_secs(5)).unwrap(), None);
    });
}

#[test]
fn a_child_makes_its_own_proactor() {
    each_backend("a_child_makes_its_own_proactor", |io| {
        let backend = io.backend();
        let mut before = io.nop().submit().unwrap();
        let ended = forked(|| {
            let own = Proactor::with(Options::default().backend(backend)).unwrap();
            let slab = Slab::new(1, 64).unwrap();
            let (one, mut two) = UnixStream::pair().unwrap();
            let socket = own.adopt_socket(one).unwrap();
            two.write_all(b"here").unwrap();
            let receiving = socket.recv(slab.lease().unwrap()).into_future();
            let filled = own.block_on(receiving).unwrap().unwrap();
            assert_eq!(filled[..], *b"here");
            // A file read goes to a helper thread where the kernel has no better way.
            let open = own.open("/proc/self/stat", OpenOptions::read()).unwrap().into_future();
            let file = own.block_on(open).unwrap().unwrap();
            drop(filled);
            let read = file.read_at(slab.lease().unwrap(), 0).into_future();
            assert!(!own.block_on(read).unwrap().unwrap().is_empty());
            drop((file, socket, own));
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD));
        while before.try_take().map(|ended| ended.unwrap()).is_none() {
            io.poll(Wait::Forever).unwrap();
        }
    });
}

/// The helper threads of the parent are not in the child: nothing there waits for them.
#[test]
fn work_on_helpers_is_the_parents() {
    each_backend("work_on_helpers_is_the_parents", |io| {
        let slab = Slab::new(2, 4096).unwrap();
        let open = io.open("/proc/self/maps", OpenOptions::read()).unwrap().into_future();
        let file = io.block_on(open).unwrap().unwrap();
        let read = file.read_at(slab.lease().unwrap(), 0).submit().unwrap();
        io.poll(Wait::Now).unwrap();
        let mut held = Some((io.clone(), file.clone()));
        assert_eq!(forked(|| (held.take().map(drop), GOOD).1), Ended::Code(GOOD));
        assert!(!io.block_on(read).unwrap().unwrap().is_empty());
    });
}

/// Sockets are close-on-exec, but fork alone copies them: the peer's end of stream comes when the
/// child is gone too. What the parent closes is closed for it.
#[test]
fn the_parent_closes_while_a_child_lives() {
    each_backend("the_parent_closes_while_a_child_lives", |io| {
        let (one, two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        let keeper = child::Keeper::of(Vec::<UnixStream>::new());
        io.block_on(socket.close().into_future()).unwrap().unwrap();
        assert_eq!(io.stats().descriptors, 0);
        drop(keeper);
        let mut end = [0];
        assert_eq!(std::io::Read::read(&mut (&two), &mut end).unwrap(), 0);
    });
}

#[test]
fn tasks_stay_with_the_parent() {
    each_backend("tasks_stay_with_the_parent", |io| {
        let nop = io.nop();
        let mut task = io.spawn(async move { nop.await.map(|()| 5).unwrap() });
        let ended = forked(|| {
            let mut cx = Context::from_waker(Waker::noop());
            for task in [&mut task, &mut io.spawn(async { 6 })] {
                task.abort();
                let Poll::Ready(joined) = Pin::new(task).poll(&mut cx) else { return 1 };
                assert_eq!(joined.unwrap_err().kind(), ErrorKind::Forked);
            }
            drop(io.clone());
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD));
        assert_eq!(io.block_on(task).unwrap().unwrap(), 5);
    });
}

fn is_over(mut wait: impl Future + Unpin) -> bool {
    Pin::new(&mut wait).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A Vulkan device, its waiter threads and what it was lent are the parent's.
#[test]
fn a_vulkan_device_is_the_parents() {
    child::alone(module_path!(), "a_vulkan_device_is_the_parents", || {
        let gpu = match gpu() {
            Ok(gpu) => gpu,
            Err(skip) => return child::say(&format!("skipped: {}", skip.0)),
        };
        let (timeline, fence, vulkan) =
            (gpu.timeline(0), gpu.fence(Default::default()), gpu.vulkan());
        let slab = Slab::new(4, 4096).unwrap();
        let memory = match gpu.target().imports_regions() {
            // SAFETY: the device writes none of it.
            true => unsafe { VulkanMemory::import_region(&gpu.target(), slab.region(), !0) }.ok(),
            false => return child::say(&lacking(&[TIMELINE], "no host memory is imported").0),
        };
        // SAFETY: see the head of this file.
        let bridge = unsafe { vulkan.timeline(timeline.raw) }.unwrap();
        // SAFETY: as above.
        let wait = unsafe { vulkan.wait_for_fence(fence.raw) }.unwrap();
        let mut held = Some((bridge, wait, memory, vulkan));
        let ended = forked(|| {
            let (bridge, wait, memory, vulkan) = held.take().unwrap();
            // SAFETY: as above.
            let refused = unsafe { vulkan.timeline(timeline.raw) }.map(drop).unwrap_err();
            assert_eq!(refused.kind(), FenceErrorKind::Forked);
            assert!(is_over(bridge.stop()) && is_over(wait.stop()));
            let _ = bridge.semaphore().signal(7);
            assert!(bridge.semaphore().value().is_err(), "the device is not signalled from here");
            drop((bridge, wait, memory, vulkan));
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD), "no drop hangs or panics");
        let (bridge, ..) = held.as_ref().unwrap();
        bridge.semaphore().signal(1).unwrap();
        // SAFETY: it is alive.
        let value = unsafe { gpu.device.get_semaphore_counter_value(timeline.raw) };
        assert_eq!(value, Ok(1), "it is the parent's bridge still");
        drop(held);
    });
}
