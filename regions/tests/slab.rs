//! Slabs, leases and spans: sizes, ownership, waiting, and threads.
//!
//! Unsafe code: slabs over foreign memory, and slots taken back as a ring takes them back.
#![cfg(not(loom))]
#![allow(unsafe_code)] // slot references as a kernel would hold them
#![allow(clippy::unwrap_used)] // helpers of a test panic as its tests do

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use regions::{Access, HugePages, PageSize, RegionErrorKind, Slab, Span};

#[derive(Default)]
struct Wakes(AtomicU32);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    fn new() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn slots_are_aligned_disjoint_and_reported() {
    let page = PageSize::base().bytes();
    for (slot_bytes, stride) in [(1, 64), (64, 64), (100, 128), (page, page), (page + 1, 2 * page)]
    {
        let slab = Slab::new(3, slot_bytes).unwrap();
        assert_eq!(slab.stride_bytes(), stride);
        for index in 0..3 {
            let address = slab.slot_ptr(index).as_ptr() as usize;
            let base = slab.slot_ptr(0).as_ptr() as usize;
            assert_eq!(address, base + index as usize * stride);
            assert_eq!(address % if slot_bytes >= page { page } else { 64 }, 0);
        }
        let report = slab.report();
        assert!(report.populated && report.sealed && report.total_bytes >= 3 * stride);
        assert_eq!((report.slots, report.slot_bytes, report.stride_bytes), (3, slot_bytes, stride));
        assert_eq!(slab.region().chunk_bytes() % stride, 0);
        let text = report.to_string();
        assert!(text.contains("3 slots") && text.contains("huge pages"), "{text}");
    }
}

#[test]
fn hostile_sizes_are_errors() {
    let invalid =
        [(0, 1), (1, 0), ((1 << 24) + 1, 1), (1, (1 << 30) + 1), (usize::MAX, usize::MAX)];
    for (slots, slot_bytes) in invalid {
        let error = Slab::new(slots, slot_bytes).unwrap_err();
        assert_eq!(error.kind, RegionErrorKind::InvalidArgument, "{error}");
    }
    for (slots, slot_bytes) in [(1 << 24, 1 << 30), (1 << 20, 1 << 30)] {
        let error = Slab::new(slots, slot_bytes).unwrap_err();
        assert_eq!(error.kind, RegionErrorKind::OutOfMemory);
        assert!(error.to_string().contains("left: "), "{error}");
    }
    let text = Slab::new(1 << 24, 4096 << 8).unwrap_err().to_string();
    assert!(text.starts_with("slab: ") && text.contains("ask for"), "{text}");
}

#[test]
fn names_access_and_nodes_are_checked() {
    let slab = Slab::builder(1, 1).name("frames").build().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains("/memfd:frames"), "the name is seen in the maps");
    assert_eq!(slab.report().name, "frames");
    for name in ["nul\0nul".to_owned(), "x".repeat(250)] {
        let error = Slab::builder(1, 1).name(&name).build().unwrap_err();
        assert_eq!(error.kind, RegionErrorKind::InvalidArgument);
    }
    assert!(Slab::builder(1, 1).access(Access::READ).build().is_err());
    for node in [1023, 1024, u32::MAX] {
        let error = Slab::builder(1, 1).numa_node(node).build().unwrap_err();
        assert!(error.to_string().contains(&format!("node {node}")), "{error}");
    }
    match Slab::builder(4, 4096).numa_node(0).build() {
        Ok(slab) => assert_eq!(slab.report().numa, Some(0)),
        Err(error) => {
            assert_eq!(error.kind, RegionErrorKind::Unavailable);
            eprintln!("skipped: {error}");
        }
    }
}

#[test]
fn huge_pages_are_obtained_or_explained() {
    let never = Slab::builder(2, 1 << 20).huge_pages(HugePages::Never).build().unwrap();
    assert!(!never.report().huge.is_obtained());
    let free = PageSize::huge_pools().iter().any(|pool| pool.free > 0);
    match Slab::builder(2, 1 << 20).huge_pages(HugePages::Require).build() {
        Ok(slab) => {
            assert!(slab.report().huge.is_obtained());
            assert!(slab.report().page_bytes > PageSize::base().bytes());
        }
        Err(error) => {
            assert_eq!(error.kind, RegionErrorKind::Unavailable);
            assert!(error.to_string().contains("huge pages are required"), "{error}");
            eprintln!("huge pages: free ones listed: {free}; {error}");
        }
    }
    let auto = Slab::new(2, 1 << 20).unwrap();
    let obtained = auto.report().huge.is_obtained();
    assert_eq!(obtained, auto.report().page_bytes > PageSize::base().bytes());
}

#[test]
fn a_slot_returns_with_its_last_reference() {
    let slab = Slab::new(2, 4096).unwrap();
    let mut lease = slab.lease().unwrap();
    assert_eq!((lease.len(), lease.capacity(), slab.available()), (4096, 4096, 1));
    let rest = lease.split_off(1000);
    assert_eq!((lease.capacity(), rest.capacity(), rest.slot_offset()), (1000, 3096, 1000));
    assert_eq!(lease.slot(), rest.slot());
    let span = lease.freeze();
    let part = span.slice(10..20).unwrap();
    let span = span.try_unfreeze().unwrap_err();
    drop((span, rest));
    assert_eq!(slab.available(), 1);
    let again = part.try_unfreeze().unwrap();
    assert_eq!((again.slot_offset(), again.len(), again.capacity()), (10, 10, 4086));
    drop(again);
    assert_eq!(slab.available(), 2);
}

#[test]
fn an_empty_slab_says_what_to_do() {
    let slab = Slab::new(1, 1).unwrap();
    let lease = slab.lease().unwrap();
    assert!(!slab.has_available() && slab.try_lease().is_none());
    let error = slab.lease().unwrap_err();
    assert_eq!(error.kind, RegionErrorKind::Exhausted);
    let text = error.to_string();
    assert!(text.contains("all 1 slots are out") && text.contains("lease_async"), "{text}");
    drop(lease);
    assert!(slab.has_available());
}

#[test]
fn lengths_stay_inside_the_capacity() {
    let slab = Slab::new(1, 100).unwrap();
    let mut lease = slab.lease().unwrap();
    lease.fill(7);
    lease.truncate(10);
    lease.truncate(50);
    assert_eq!(lease.len(), 10);
    assert_eq!(lease.set_len(101).unwrap_err().kind, RegionErrorKind::OutOfRange);
    lease.set_len(100).unwrap();
    assert!(lease.iter().all(|byte| *byte == 7));
    let mut tail = lease.split_off(60);
    assert_eq!((lease.len(), tail.len()), (60, 40));
    assert!(lease.set_len(61).is_err());
    tail[0] = 1;
    lease.truncate(0);
    assert!(lease.is_empty());
    lease.reset();
    assert_eq!(lease.len(), 60);
    let empty = lease.split_off(60);
    assert_eq!((empty.len(), empty.capacity()), (0, 0));
    let debug = format!("{lease:?}");
    assert!(debug.contains("len: 60") && !debug.contains("7, 7"), "{debug}");
}

#[test]
#[should_panic(expected = "split at 101")]
fn a_split_behind_the_capacity_panics() {
    let slab = Slab::new(1, 100).unwrap();
    let _ = slab.lease().unwrap().split_off(101);
}

#[test]
fn leases_outlive_the_slabs_handles() {
    let slab = Slab::new(2, 64).unwrap();
    let id = slab.region().id();
    let mut lease = slab.lease().unwrap();
    drop(slab);
    lease.fill(9);
    assert_eq!(lease.region_id(), id);
    let slab = lease.slab();
    drop(lease);
    assert_eq!(slab.available(), 2);
}

#[test]
fn a_slabs_memory_is_reached_through_leases_only() {
    let slab = Slab::new(2, 64).unwrap();
    let region = slab.region();
    assert_eq!(region.copy_in(0, b"x").unwrap_err().kind, RegionErrorKind::Permission);
    assert_eq!(region.copy_out(0, &mut [0]).unwrap_err().kind, RegionErrorKind::Permission);
    let span = region.span(..64).unwrap();
    assert!(span.bytes().is_err() && span.to_vec().is_err());
    assert!(!span.as_ptr().is_null());
}

#[test]
fn slot_references_travel_as_indexes() {
    let slab = Slab::new(1, 100).unwrap();
    let mut lease = slab.lease().unwrap();
    lease[..4].copy_from_slice(b"abcd");
    let slot = lease.into_slot();
    assert_eq!(slab.available(), 0);
    // SAFETY: this test holds the reference of the lease above, and adds one.
    unsafe { slab.share_slot(slot) };
    // SAFETY: two references are held, for two disjoint parts.
    let (first, second) =
        unsafe { (slab.lease_from_slot(slot, 0, 2), slab.lease_from_slot(slot, 2, 2)) };
    assert_eq!((&first[..], &second[..], second.capacity()), (&b"ab"[..], &b"cd"[..], 2));
    drop(first);
    assert_eq!(slab.available(), 0);
    drop(second);
    assert_eq!(slab.available(), 1);
}

#[test]
fn a_shared_slab_copies_frozen_bytes_beside_a_lease() {
    let slab = Slab::new(1, 64).unwrap();
    let mut front = slab.lease().unwrap();
    let mut back = front.split_off(3);
    front.copy_from_slice(b"abc");
    let span = front.freeze();
    assert_eq!(span.bytes().unwrap(), b"abc");
    // SAFETY: nothing is written through it.
    assert!(unsafe { slab.region().fd() }.is_some());
    assert_eq!(span.bytes().unwrap_err().kind, RegionErrorKind::Shared);
    back.fill(1);
    assert_eq!(span.to_vec().unwrap(), b"abc");
    let mut two = [0; 2];
    span.copy_to(1, &mut two).unwrap();
    assert_eq!(&two, b"bc");
    assert!(span.copy_to(2, &mut two).is_err());
}

#[test]
fn ordinary_memory_is_a_span() {
    let vector = vec![1u8, 2, 3];
    let address = vector.as_ptr();
    let span = Span::from(vector);
    assert_eq!(span.as_ptr(), address, "nothing is copied");
    assert_eq!(span.slice(1..).unwrap().bytes().unwrap(), [2, 3]);
    assert!(span.region_id().is_none() && span.clone().try_unfreeze().is_err());
    assert_eq!(&span.into_bytes().unwrap()[..], [1, 2, 3]);
    assert_eq!(Span::from("text").bytes().unwrap(), b"text");
    assert_eq!(Span::from(b"array").to_vec().unwrap(), b"array");
    assert_eq!(Span::from(&b"slice"[..]).len(), 5);
    assert_eq!(Span::from(String::from("owned")).len(), 5);
    assert!(Span::from(Vec::new()).is_empty());
    assert!(Span::from("abc").slice(2..5).is_err());
    let debug = format!("{:?}", Span::from("secret"));
    assert!(debug.contains("len: 6") && !debug.contains("secret"), "{debug}");
}

#[test]
fn a_slot_becomes_bytes_without_a_copy() {
    let slab = Slab::new(1, 64).unwrap();
    let mut lease = slab.lease().unwrap();
    lease[..5].copy_from_slice(b"bytes");
    lease.truncate(5);
    let address = lease.as_ptr();
    let bytes = Span::from(lease).into_bytes().unwrap();
    assert_eq!((bytes.as_ptr(), &bytes[..]), (address, &b"bytes"[..]));
    let part = bytes.slice(1..3);
    drop(bytes);
    assert_eq!(slab.available(), 0);
    drop(part);
    assert_eq!(slab.available(), 1);
}

#[test]
fn waiters_are_woken_in_order() {
    let slab = Slab::new(1, 1).unwrap();
    let lease = slab.lease().unwrap();
    let (first_wakes, first_waker) = Wakes::new();
    let (second_wakes, second_waker) = Wakes::new();
    let mut first = pin!(slab.lease_async());
    let mut second = pin!(slab.lease_async());
    assert!(first.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
    assert!(second.as_mut().poll(&mut Context::from_waker(&second_waker)).is_pending());
    drop(lease);
    assert_eq!((first_wakes.count(), second_wakes.count()), (1, 0));
    // Somebody is faster; the first waiter keeps its place.
    let barger = slab.lease().unwrap();
    assert!(first.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
    drop(barger);
    assert_eq!((first_wakes.count(), second_wakes.count()), (2, 0));
    let Poll::Ready(lease) = first.as_mut().poll(&mut Context::from_waker(&first_waker)) else {
        panic!("the slot is free");
    };
    drop(lease);
    assert_eq!(second_wakes.count(), 1);
    assert!(second.as_mut().poll(&mut Context::from_waker(&second_waker)).is_ready());
}

#[test]
fn a_dropped_waiter_passes_its_wake_on() {
    let slab = Slab::new(1, 1).unwrap();
    let lease = slab.lease().unwrap();
    let (_, quitter_waker) = Wakes::new();
    let (wakes, waker) = Wakes::new();
    let mut quitter = Box::pin(slab.lease_async());
    let mut waiter = pin!(slab.lease_async());
    assert!(quitter.as_mut().poll(&mut Context::from_waker(&quitter_waker)).is_pending());
    assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(lease);
    assert_eq!(wakes.count(), 0);
    drop(quitter);
    assert_eq!(wakes.count(), 1);
    assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(slab.available(), 1);
}

#[test]
fn a_waker_that_panics_loses_no_slot() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that fails");
        }
    }
    let slab = Slab::new(1, 1).unwrap();
    let lease = slab.lease().unwrap();
    let waker = Waker::from(Arc::new(Panics));
    let mut waiter = Box::pin(slab.lease_async());
    assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(lease)));
    assert!(dropped.is_err());
    drop(waiter);
    assert_eq!(slab.available(), 1);
}

#[test]
fn threads_hammer_leases_and_spans() {
    let slab = Slab::new(5, 256).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let slab = &slab;
            scope.spawn(move || {
                for round in 0..5_000u32 {
                    let Some(mut lease) = slab.try_lease() else { continue };
                    lease.fill(thread);
                    let rest = lease.split_off(round as usize % 257);
                    let span = lease.freeze();
                    let copy = span.clone();
                    assert!(rest.iter().all(|byte| *byte == thread));
                    drop(rest);
                    assert!(span.bytes().unwrap().iter().all(|byte| *byte == thread));
                    let span = span.try_unfreeze().unwrap_err();
                    drop(copy);
                    let mut lease = span.try_unfreeze().unwrap();
                    lease.reset();
                    assert_eq!(lease.capacity(), 256);
                    assert!(lease.iter().all(|byte| *byte == thread));
                }
            });
        }
    });
    let leases: Vec<_> = std::iter::from_fn(|| slab.try_lease()).collect();
    let slots: HashSet<_> = leases.iter().map(|lease| lease.slot()).collect();
    assert_eq!((leases.len(), slots.len()), (5, 5));
}

#[test]
fn waiting_threads_all_get_their_turn() {
    let slab = Slab::new(2, 64).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (slab, sender) = (slab.clone(), sender.clone());
            scope.spawn(move || {
                for _ in 0..2_000 {
                    let mut lease = block_on(slab.lease_async());
                    lease[0] = lease[0].wrapping_add(1);
                    sender.send(lease).unwrap(); // it returns on another thread
                }
            });
        }
        drop(sender);
        assert_eq!(receiver.into_iter().count(), 8_000);
    });
    assert_eq!(slab.available(), 2);
    let sum: u32 = [slab.lease().unwrap(), slab.lease().unwrap()].iter().map(|l| l[0] as u32).sum();
    assert_eq!(sum % 256, 8_000 % 256);
}

#[test]
fn many_slots_come_and_go() {
    let slab = Slab::new(5000, 1).unwrap();
    let mut leases: Vec<_> = (0..5000).map(|_| slab.lease().unwrap()).collect();
    assert!(slab.lease().is_err());
    leases.retain(|lease| lease.slot() % 2 == 0);
    assert_eq!(slab.available(), 2500);
    let again: Vec<_> = std::iter::from_fn(|| slab.try_lease()).collect();
    assert_eq!(again.len(), 2500);
    assert!(again.iter().all(|lease| lease.slot() % 2 == 1));
}
