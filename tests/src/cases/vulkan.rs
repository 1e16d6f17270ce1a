//! Timelines and fences of a Vulkan device beside ours: both ways, every end, a lost device.
//!
//! # Unsafe
//!
//! Each handle that is bridged or waited for is destroyed after what waits, as `Owned` stands
//! before it in every case.

#![allow(unsafe_code)]

use super::net::settled;
use crate::vulkan::{Answer, Faults, Gpu, Owned, Work, gpu};
use crate::{Case, Cx, Skip};
use dataplane::fence::ash::vk;
use dataplane::fence::{FenceErrorKind, Semaphore, VulkanDevice, VulkanFenceWait, VulkanTimeline};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "vulkan/a_timeline_is_followed", needs: &[], run: followed },
    Case { name: "vulkan/a_timeline_is_led", needs: &[], run: led },
    Case { name: "vulkan/a_timeline_both_ways", needs: &[], run: both_ways },
    Case { name: "vulkan/a_timeline_skips_values", needs: &[], run: skips },
    Case { name: "vulkan/a_timeline_of_many_signallers", needs: &[], run: many_signallers },
    Case { name: "vulkan/a_timeline_of_hasty_signallers", needs: &[], run: hasty_signallers },
    Case { name: "vulkan/a_timeline_is_let_go", needs: &[], run: let_go },
    Case { name: "vulkan/a_timeline_stops_without_blocking", needs: &[], run: stops },
    Case { name: "vulkan/a_timeline_dropped_in_its_callback", needs: &[], run: dropped_inside },
    Case { name: "vulkan/a_timeline_dropped_beside_its_callback", needs: &[], run: dropped_beside },
    Case { name: "vulkan/a_fence_dropped_beside_its_callback", needs: &[], run: fence_beside },
    Case { name: "vulkan/a_callback_panics", needs: &[], run: callback_panics },
    Case { name: "vulkan/a_wait_does_not_spin", needs: &[], run: does_not_spin },
    Case { name: "vulkan/a_fence_is_awaited", needs: &[], run: awaited },
    Case { name: "vulkan/a_fence_that_has_signalled", needs: &[], run: signalled_before },
    Case { name: "vulkan/a_fence_is_awaited_in_tokio", needs: &[], run: in_tokio },
    Case { name: "vulkan/a_fence_is_let_go", needs: &[], run: fence_let_go },
    Case { name: "vulkan/threads_are_bounded_and_reused", needs: &[], run: bounded },
    Case { name: "vulkan/a_lost_device_fails_all", needs: &[], run: lost },
    Case { name: "vulkan/a_driver_that_says_lost", needs: &[], run: driver_lost },
    Case { name: "vulkan/a_signal_to_a_lost_device", needs: &[], run: lost_by_signal },
    Case { name: "vulkan/a_bridge_dropped_when_it_is_lost", needs: &[], run: dropped_when_lost },
];

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough that what should not happen would have happened.
const MOMENT: Duration = Duration::from_millis(15);

fn bridged(vulkan: &VulkanDevice, timeline: &Owned<'_, vk::Semaphore>) -> VulkanTimeline {
    // SAFETY: see the head of this file.
    unsafe { vulkan.timeline(timeline.raw) }.expect("a timeline is bridged")
}

fn waiting(vulkan: &VulkanDevice, fence: &Owned<'_, vk::Fence>) -> VulkanFenceWait {
    // SAFETY: see the head of this file.
    unsafe { vulkan.wait_for_fence(fence.raw) }.expect("a fence is waited for")
}

fn plain(gpu: &Gpu) -> Owned<'_, vk::Fence> {
    gpu.fence(vk::ExternalFenceHandleTypeFlags::empty())
}

fn value(gpu: &Gpu, timeline: &Owned<'_, vk::Semaphore>) -> u64 {
    // SAFETY: it is alive.
    unsafe { gpu.device.get_semaphore_counter_value(timeline.raw) }.expect("a value")
}

fn has_signalled(gpu: &Gpu, fence: &Owned<'_, vk::Fence>) -> bool {
    // SAFETY: it is alive.
    unsafe { gpu.device.get_fence_status(fence.raw) }.expect("a status")
}

fn signal(gpu: &Gpu, timeline: &Owned<'_, vk::Semaphore>, value: u64) {
    let info = vk::SemaphoreSignalInfo::default().semaphore(timeline.raw).value(value);
    // SAFETY: it is alive, and nothing else signals it.
    unsafe { gpu.device.signal_semaphore(&info) }.expect("it is signalled");
}

fn errno_of(semaphore: &Semaphore) -> Option<i32> {
    semaphore.value().err().and_then(|failed| failed.failure.errno())
}

/// What the device signals is heard by an operation.
fn followed(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(2);
    let bridge = bridged(&gpu.vulkan(), &timeline);
    assert_eq!(bridge.semaphore().value(), Ok(2));
    let wait = cx.io.wait_semaphore(bridge.semaphore(), 5).submit().expect("room");
    Work::default().signals(timeline.raw, 5).submit(gpu, None);
    assert_eq!(cx.block_on(wait).expect("it signalled"), 5);
    settled(cx, 0);
    Ok(())
}

/// Work of the device waits for what we signal.
fn led(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, fence, vulkan) = (gpu.timeline(0), plain(gpu), gpu.vulkan());
    let bridge = bridged(&vulkan, &timeline);
    Work::default().after(timeline.raw, 7).tells(fence.raw).submit(gpu, None);
    let done = waiting(&vulkan, &fence);
    std::thread::sleep(MOMENT);
    assert!(!has_signalled(gpu, &fence), "the work did not wait");
    cx.block_on(cx.io.signal_semaphore(bridge.semaphore(), 7)).expect("above");
    cx.block_on(done).expect("the work went on");
    assert_eq!(value(gpu, &timeline), 7);
    Ok(())
}

/// A ball between the two: odd values are ours, even ones the device's.
fn both_ways(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(0);
    let bridge = bridged(&gpu.vulkan(), &timeline);
    for turn in 0..20 {
        let (ours, theirs) = (2 * turn + 1, 2 * turn + 2);
        Work::default().after(timeline.raw, ours).signals(timeline.raw, theirs).submit(gpu, None);
        bridge.semaphore().signal(ours).expect("above");
        let reached = cx.block_on(cx.io.wait_semaphore(bridge.semaphore(), theirs));
        assert_eq!(reached.expect("the device answers"), theirs);
    }
    assert_eq!(value(gpu, &timeline), 40);
    Ok(())
}

/// Both may leave values out, and the greatest that both ever met is passed on.
fn skips(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(10);
    let bridge = bridged(&gpu.vulkan(), &timeline);
    bridge.semaphore().signal(1 << 20).expect("above");
    assert_eq!(value(gpu, &timeline), 1 << 20, "the signal is the device's when it returns");
    Work::default().signals(timeline.raw, (1 << 20) + 9).submit(gpu, None);
    cx.block_on(bridge.semaphore().wait((1 << 20) + 9)).expect("it signalled");
    bridge.semaphore().signal((1 << 20) + 10).expect("above");
    assert_eq!(value(gpu, &timeline), (1 << 20) + 10);
    Ok(())
}

/// Signals of ours from several threads: the device ends where we do.
fn many_signallers(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(0);
    let bridge = bridged(&gpu.vulkan(), &timeline);
    let semaphore = bridge.semaphore();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                for value in (thread + 1..=400).step_by(4) {
                    // Not above what another has signalled: nothing to do.
                    let _ = semaphore.signal(value);
                }
            });
        }
    });
    assert_eq!(semaphore.value(), Ok(400));
    cx.poll_until("the device to be there too", || value(gpu, &timeline) == 400);
    Ok(())
}

/// Signals of ours that are faster than the driver takes them: however far they get meanwhile, the
/// stack of whoever passes them on does not grow with it.
fn hasty_signallers(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(0);
    let (faults, vulkan) = Faults::new(gpu);
    let bridge = bridged(&vulkan, &timeline);
    let (semaphore, end) = (bridge.semaphore(), Instant::now() + Duration::from_millis(250));
    faults.answer(Answer::SlowSignals);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let small = std::thread::Builder::new().stack_size(1 << 17);
            let signals = move || {
                while Instant::now() < end {
                    let value = semaphore.value().expect("it is sound");
                    let _ = semaphore.signal(value + 1);
                }
            };
            small.spawn_scoped(scope, signals).expect("a thread");
        }
    });
    let last = semaphore.value().expect("it is sound");
    cx.poll_until("the device to be there too", || value(gpu, &timeline) == last);
    Ok(())
}

/// Whoever waits is told that nobody will signal, and the timeline is the user's again.
fn let_go(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, vulkan) = (gpu.timeline(0), gpu.with_waiters(1));
    let bridge = bridged(&vulkan, &timeline);
    let left = bridge.semaphore().clone();
    let wait = cx.io.wait_semaphore(&left, 1).submit().expect("room");
    drop(bridge);
    assert!(cx.block_on(wait).is_err());
    assert_eq!(errno_of(&left), Some(libc::ECANCELED));
    Work::default().signals(timeline.raw, 3).submit(gpu, None);
    let again = bridged(&vulkan, &timeline);
    cx.block_on(again.semaphore().wait(3)).expect("a second bridge is as good");
    assert_eq!(vulkan.waiter_threads(), 1, "a thread is reused");
    Ok(())
}

/// For a thread that must not block: ask, be told, drop.
fn stops(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, fence, vulkan) = (gpu.timeline(0), plain(gpu), gpu.vulkan());
    let (bridge, pending) = (bridged(&vulkan, &timeline), waiting(&vulkan, &fence));
    cx.block_on(bridge.stop()).expect("it stops");
    cx.block_on(pending.stop()).expect("it stops");
    bridge.semaphore().signal(1).expect("still ours");
    assert_eq!(value(gpu, &timeline), 0, "and the device's no more");
    Ok(())
}

/// A callback that owns its own bridge: dropping it there waits for nobody.
fn dropped_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, vulkan) = (gpu.timeline(0), gpu.vulkan());
    let bridge = bridged(&vulkan, &timeline);
    let (semaphore, (told, done)) = (bridge.semaphore().clone(), mpsc::channel());
    semaphore.on_reach(1, move |reached| {
        drop(bridge);
        told.send(reached).expect("the case waits");
    });
    Work::default().signals(timeline.raw, 1).submit(gpu, None);
    assert_eq!(done.recv_timeout(PATIENCE).expect("it does not hang"), Ok(1));
    cx.poll_until("its end", || errno_of(&semaphore) == Some(libc::ECANCELED));
    // The last handle waits until the thread has left the driver.
    drop(vulkan);
    Ok(())
}

/// Whether a drop ends before a callback does that was told on a waiter thread.
fn is_dropped_beside<T>(semaphore: &Semaphore, begins: impl FnOnce(), dropped: T) -> bool {
    let ((began, begun), (go_on, waits)) = (mpsc::channel(), mpsc::channel::<()>());
    let (ended, end) = mpsc::channel();
    semaphore.on_reach(1, move |_| {
        began.send(()).expect("the case waits");
        let in_time = waits.recv_timeout(Duration::from_secs(2)).is_ok();
        ended.send(in_time).expect("the case waits");
    });
    begins();
    begun.recv_timeout(PATIENCE).expect("it is called");
    drop(dropped);
    let _ = go_on.send(());
    end.recv_timeout(PATIENCE).expect("it ends")
}

/// A drop waits for the driver, and for no callback: that may want what the dropper holds.
fn dropped_beside(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, vulkan) = (gpu.timeline(0), gpu.vulkan());
    let bridge = bridged(&vulkan, &timeline);
    let semaphore = bridge.semaphore().clone();
    let work = || Work::default().signals(timeline.raw, 1).submit(gpu, None);
    assert!(is_dropped_beside(&semaphore, work, bridge), "the drop waited for the callback");
    Ok(())
}

fn fence_beside(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (gate, fence, vulkan) = (gpu.timeline(0), plain(gpu), gpu.vulkan());
    Work::default().after(gate.raw, 1).tells(fence.raw).submit(gpu, None);
    let wait = waiting(&vulkan, &fence);
    let semaphore = wait.semaphore().clone();
    let begins = || signal(gpu, &gate, 1);
    assert!(is_dropped_beside(&semaphore, begins, wait), "the drop waited for the callback");
    Ok(())
}

/// What the user's code does on a waiter thread ends no bridge.
fn callback_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(0);
    let bridge = bridged(&gpu.vulkan(), &timeline);
    let (told, done) = mpsc::channel();
    bridge.semaphore().on_reach(1, move |_| {
        told.send(()).expect("the case waits");
        std::panic::resume_unwind(Box::new("of a case"));
    });
    Work::default().signals(timeline.raw, 1).submit(gpu, None);
    done.recv_timeout(PATIENCE).expect("it is called");
    Work::default().signals(timeline.raw, 2).submit(gpu, None);
    cx.poll_until("the next value", || bridge.semaphore().value() == Ok(2));
    Ok(())
}

/// Processor time of the waiter threads, in clock ticks.
fn waiter_ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc").flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let of_waiters = stats.filter(|stat| stat.contains("(vulkan-waiter)"));
    let ticks = |stat: String| -> Option<u64> {
        let (_, rest) = stat.rsplit_once(')')?;
        let field = |at: usize| rest.split_whitespace().nth(at)?.parse::<u64>().ok();
        Some(field(11)? + field(12)?)
    };
    of_waiters.filter_map(ticks).sum()
}

/// Three waits of 200 ms are less than 100 ms of work; a tick is 10 ms.
fn does_not_spin(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, other, fence) = (gpu.timeline(0), gpu.timeline(0), plain(gpu));
    let vulkan = gpu.vulkan();
    let _bridges = (bridged(&vulkan, &timeline), bridged(&vulkan, &other));
    let _wait = waiting(&vulkan, &fence);
    assert_eq!(vulkan.waiter_threads(), 3, "one for each");
    let before = waiter_ticks();
    std::thread::sleep(Duration::from_millis(200));
    let spent = waiter_ticks() - before;
    assert!(spent < 10, "three waits took {spent} ticks of the processor in 200 ms");
    Ok(())
}

fn awaited(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, fence, vulkan) = (gpu.timeline(0), plain(gpu), gpu.vulkan());
    Work::default().after(timeline.raw, 1).tells(fence.raw).submit(gpu, None);
    let done = waiting(&vulkan, &fence);
    let wait = cx.io.wait_semaphore(done.semaphore(), 1).submit().expect("room");
    assert_eq!(done.semaphore().value(), Ok(0));
    signal(gpu, &timeline, 1);
    cx.block_on(done).expect("by the future");
    cx.block_on(wait).expect("by the operation");
    Ok(())
}

/// Nothing is waited for, and no thread begins.
fn signalled_before(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (fence, vulkan) = (plain(gpu), gpu.with_waiters(0));
    Work::default().tells(fence.raw).submit(gpu, None);
    let limit = Instant::now() + PATIENCE;
    while !has_signalled(gpu, &fence) {
        assert!(Instant::now() < limit, "empty work does not end");
        std::thread::yield_now();
    }
    cx.block_on(waiting(&vulkan, &fence)).expect("it has");
    assert_eq!(vulkan.waiter_threads(), 0);
    Ok(())
}

/// The futures are anybody's.
fn in_tokio(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, fence, vulkan) = (gpu.timeline(0), plain(gpu), gpu.vulkan());
    let bridge = bridged(&vulkan, &timeline);
    Work::default().after(timeline.raw, 1).tells(fence.raw).submit(gpu, None);
    let done = waiting(&vulkan, &fence);
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let signaller = bridge.semaphore().clone();
    tokio.block_on(async {
        let signals = tokio::spawn(async move { signaller.signal(1) });
        done.await.expect("the fence");
        bridge.semaphore().wait(1).await.expect("the timeline");
        signals.await.expect("no panic").expect("above");
    });
    Ok(())
}

fn fence_let_go(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (fence, vulkan) = (plain(gpu), gpu.vulkan());
    let pending = waiting(&vulkan, &fence);
    let left = pending.semaphore().clone();
    drop(pending);
    assert_eq!(errno_of(&left), Some(libc::ECANCELED));
    Ok(())
}

fn bounded(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (one, two, none) = (gpu.timeline(0), plain(gpu), gpu.with_waiters(0));
    // SAFETY: see the head of this file.
    let refused = unsafe { none.timeline(one.raw) }.err().expect("no threads");
    assert_eq!(refused.kind(), FenceErrorKind::Unsupported);
    let (gate, vulkan) = (gpu.timeline(0), gpu.with_waiters(1));
    Work::default().after(gate.raw, 1).tells(two.raw).submit(gpu, None);
    let bridge = bridged(&vulkan, &one);
    // SAFETY: see the head of this file.
    let refused = unsafe { vulkan.wait_for_fence(two.raw) }.err().expect("no thread is left");
    assert_eq!(refused.kind(), FenceErrorKind::Exhausted);
    assert!(refused.message().contains("all 1 waiter threads"), "{refused}");
    drop(bridge);
    // At once, each time: the thread of what is over is free before anybody hears of it.
    for turn in 1..=20 {
        drop(waiting(&vulkan, &two));
        let wait = waiting(&vulkan, &two);
        signal(gpu, &gate, turn);
        cx.block_on(wait).expect("it signalled");
        // SAFETY: it has signalled, and nobody waits for it.
        unsafe { gpu.device.reset_fences(&[two.raw]) }.expect("it is reset");
        Work::default().after(gate.raw, turn + 1).tells(two.raw).submit(gpu, None);
    }
    signal(gpu, &gate, 21);
    assert_eq!(vulkan.waiter_threads(), 1);
    Ok(())
}

/// Everything that waits is told, and nothing waits any more.
fn lost(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, fence, vulkan) = (gpu.timeline(4), plain(gpu), gpu.vulkan());
    let (bridge, done) = (bridged(&vulkan, &timeline), waiting(&vulkan, &fence));
    let wait = cx.io.wait_semaphore(bridge.semaphore(), 5).submit().expect("room");
    vulkan.lose();
    assert!(cx.block_on(wait).is_err());
    let failed = cx.block_on(done).expect_err("the fence never signals");
    assert_eq!(failed.failure().and_then(|failure| failure.errno()), Some(libc::ENODEV));
    assert_eq!(errno_of(bridge.semaphore()), Some(libc::ENODEV));
    // SAFETY: see the head of this file.
    let refused = unsafe { vulkan.timeline(timeline.raw) }.err().expect("it is lost");
    assert_eq!((refused.kind(), refused.errno()), (FenceErrorKind::Failed, Some(libc::ENODEV)));
    Ok(())
}

/// One wait finds out, and all are told.
fn driver_lost(cx: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let (timeline, fence) = (gpu.timeline(0), plain(gpu));
    let (faults, vulkan) = Faults::new(gpu);
    let (bridge, done) = (bridged(&vulkan, &timeline), waiting(&vulkan, &fence));
    faults.answer(Answer::Lost);
    cx.block_on(done).expect_err("the fence never signals");
    cx.block_on(bridge.semaphore().wait(1)).expect_err("nor does the timeline");
    assert_eq!(errno_of(bridge.semaphore()), Some(libc::ENODEV));
    assert!(vulkan.lost().is_some());
    Ok(())
}

/// It is found out by a signal of ours.
fn lost_by_signal(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(0);
    let (faults, vulkan) = Faults::new(gpu);
    let bridge = bridged(&vulkan, &timeline);
    faults.answer(Answer::Lost);
    // Its waiters, if there were any, are told 1; from then on it has failed.
    let _ = bridge.semaphore().signal(1);
    assert_eq!(errno_of(bridge.semaphore()), Some(libc::ENODEV));
    assert!(vulkan.lost().is_some());
    Ok(())
}

/// Dropping everything when the device is lost is what a callback may well do, also inside the
/// signal that finds out.
fn dropped_when_lost(_: &Cx<'_>) -> Result<(), Skip> {
    let gpu = gpu()?;
    let timeline = gpu.timeline(0);
    let (faults, vulkan) = Faults::new(gpu);
    let bridge = bridged(&vulkan, &timeline);
    let (semaphore, (told, done)) = (bridge.semaphore().clone(), mpsc::channel());
    semaphore.on_reach(2, move |reached| {
        drop(bridge);
        told.send(reached.err().and_then(|failure| failure.errno())).expect("the case waits");
    });
    faults.answer(Answer::LostSignals);
    std::thread::spawn(move || semaphore.signal(1));
    let errno = done.recv_timeout(PATIENCE).expect("it does not hang");
    assert_eq!(errno, Some(libc::ENODEV));
    Ok(())
}
