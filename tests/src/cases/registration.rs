//! Registered memory: by region, used by range, given back when the kernel says so, and dropped
//! from anywhere. Where registration is masked the same programs go on without it.

use super::file::{made, opened, pipe};
use super::remote::beside;
use crate::{Case, Cx, Skip};
use dataplane::{Capability, ErrorKind, File, Mechanism, OpenOptions, Proactor, Registration};
use futures_util::StreamExt;
use futures_util::future::FutureExt;
use regions::{Access, Region, Slab};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "registration/masked_says_so_and_io_goes_on", needs: &[], run: masked_says_so },
    Case { name: "registration/twice_is_shared", needs: &[], run: twice_is_shared },
    Case { name: "registration/several_slabs_at_once", needs: &[], run: several_slabs },
    Case {
        name: "registration/a_part_of_a_span_is_fixed",
        needs: &[Capability::RegisteredBuffers],
        run: a_part_is_fixed,
    },
    Case { name: "registration/release_waits_for_the_kernel", needs: &[], run: release_waits },
    Case {
        name: "registration/memory_lives_until_released",
        needs: &[Capability::RegisteredBuffers],
        run: memory_lives_until_released,
    },
    Case { name: "registration/dropped_on_another_thread", needs: &[], run: dropped_elsewhere },
    Case { name: "registration/slab_dropped_on_another_thread", needs: &[], run: slab_elsewhere },
    Case { name: "registration/from_another_thread", needs: &[], run: from_another_thread },
    Case { name: "registration/one_region_two_proactors", needs: &[], run: two_proactors },
    Case { name: "registration/again_after_release", needs: &[], run: again_after_release },
    Case {
        name: "registration/memory_that_cannot_be_pinned",
        needs: &[Capability::RegisteredBuffers],
        run: cannot_be_pinned,
    },
    Case { name: "registration/device_memory_has_no_address", needs: &[], run: device_memory },
    Case { name: "registration/outlives_the_proactor", needs: &[], run: outlives_the_proactor },
    Case { name: "registration/pool_names_are_used_again", needs: &[], run: pool_names_again },
    Case { name: "registration/a_late_return_to_a_dead_pool", needs: &[], run: a_late_return },
];

/// The registration, or none where it is masked, which the error then says.
fn registered(io: &Proactor, slab: &Slab) -> Option<Registration> {
    match io.register_slab(slab) {
        Ok(registration) => Some(registration),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(!io.capabilities().contains(Capability::RegisteredBuffers));
            None
        }
    }
}

/// Reads the file's start into a slot of the slab.
fn reads(cx: &Cx<'_>, file: &File, slab: &Slab, bytes: &[u8], is_fixed: bool) {
    let filled = cx.block_on(file.read_at(slab.lease().expect("a slot"), 0)).expect("read");
    assert!(filled[..] == *bytes);
    let can = cx.io.capabilities().contains(Capability::RegisteredBuffers);
    let mechanism = if is_fixed && can { Mechanism::FileFixed } else { Mechanism::File };
    assert_eq!(filled.path().mechanism, mechanism);
}

fn gone(cx: &Cx<'_>) {
    cx.poll_until("the release", || {
        let stats = cx.io.stats();
        (stats.registered, stats.releasing) == (0, 0)
    });
}

fn masked_says_so(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(1, 512);
    let registration = registered(cx.io, &slab);
    assert_eq!(cx.io.stats().registered, usize::from(registration.is_some()));
    let bytes = Cx::pattern(512, 1);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    reads(cx, &file, &slab, &bytes, true);
    drop(registration);
    gone(cx);
    Ok(())
}

fn twice_is_shared(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(1, 512);
    let bytes = Cx::pattern(512, 2);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let Some(one) = registered(cx.io, &slab) else { return Ok(()) };
    let two = registered(cx.io, &slab);
    assert_eq!(cx.io.stats().registered, 1, "one region, one entry");
    drop(one);
    reads(cx, &file, &slab, &bytes, true);
    assert_eq!(cx.io.stats().registered, 1, "the other one holds it");
    let three = registered(cx.io, &slab);
    // Both go between two turns of the loop.
    drop(two);
    drop(three);
    gone(cx);
    reads(cx, &file, &slab, &bytes, false);
    Ok(())
}

fn several_slabs(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4096, 3);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slabs: Vec<Slab> = (0..5).map(|_| cx.slab(2, 4096)).collect();
    let mut registrations: Vec<_> = slabs.iter().map(|slab| registered(cx.io, slab)).collect();
    for slab in &slabs {
        reads(cx, &file, slab, &bytes, true);
    }
    drop(registrations.remove(2));
    cx.io.poll(dataplane::Wait::Now).expect("a turn");
    for (at, slab) in slabs.iter().enumerate() {
        reads(cx, &file, slab, &bytes, at != 2);
    }
    drop(registrations);
    gone(cx);
    Ok(())
}

fn a_part_is_fixed(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"");
    let file = opened(cx, &path, OpenOptions::write());
    let slab = cx.slab(2, 4096);
    let registration = registered(cx.io, &slab);
    let bytes = Cx::pattern(4096, 4);
    let mut lease = slab.lease().expect("a slot");
    lease.copy_from_slice(&bytes);
    let span = lease.freeze();
    for (from, to) in [(0, 1), (1000, 2000), (4095, 4096)] {
        let part = span.slice(from..to).expect("inside");
        let sent = cx.block_on(file.write_at(part, from as u64)).expect("written");
        assert_eq!((sent.bytes, sent.path.mechanism), (to - from, Mechanism::FileFixed));
    }
    let found = std::fs::read(&path).expect("there");
    assert_eq!(found[1000..2000], bytes[1000..2000]);
    drop((registration, span));
    gone(cx);
    Ok(())
}

/// An entry is cleared while a read uses it: the read goes on, and the region is released after.
fn release_waits(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = pipe(cx);
    let slab = cx.slab(1, 64);
    let registration = registered(cx.io, &slab);
    let has_kernel_table = cx.io.capabilities().contains(Capability::RegisteredBuffers);
    let mut read = reader.read(slab.lease().expect("a slot")).submit().expect("room");
    assert!(read.try_take().is_none());
    for _ in 0..8 {
        cx.io.poll(dataplane::Wait::Now).expect("a turn");
    }
    drop(registration);
    for _ in 0..8 {
        cx.io.poll(dataplane::Wait::Now).expect("a turn");
    }
    let stats = cx.io.stats();
    assert_eq!((stats.registered, stats.in_flight), (0, 1));
    assert_eq!(stats.releasing, usize::from(has_kernel_table), "the read still uses it");
    cx.block_on(writer.write(b"late".to_vec())).expect("written");
    assert_eq!(cx.block_on(read).expect("the read goes on")[..], *b"late");
    gone(cx);
    Ok(())
}

/// Whether the process maps a memfd of this name.
fn is_mapped(name: &str) -> bool {
    std::fs::read_to_string("/proc/self/maps").expect("maps").contains(&format!("memfd:{name}"))
}

/// Every handle of the slab is gone, and its memory stays while the kernel may still write it.
fn memory_lives_until_released(cx: &Cx<'_>) -> Result<(), Skip> {
    const NAME: &str = "conformance-released";
    let (reader, writer) = pipe(cx);
    let slab = Slab::builder(1, 64).name(NAME).build().expect("memory");
    let registration = registered(cx.io, &slab);
    let read = reader.read(slab.lease().expect("a slot")).submit().expect("room");
    for _ in 0..8 {
        cx.io.poll(dataplane::Wait::Now).expect("a turn");
    }
    drop((slab, registration));
    cx.io.poll(dataplane::Wait::Now).expect("a turn");
    assert!(is_mapped(NAME), "a read is in flight on it");
    cx.block_on(writer.write(b"late".to_vec())).expect("written");
    let filled = cx.block_on(read).expect("read");
    assert_eq!(filled[..], *b"late");
    gone(cx);
    assert!(is_mapped(NAME), "a lease of it is here");
    drop(filled);
    assert!(!is_mapped(NAME), "nobody holds it any more");
    Ok(())
}

fn dropped_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = pipe(cx);
    let slab = cx.slab(1, 64);
    let registration = registered(cx.io, &slab);
    let read = reader.read(slab.lease().expect("a slot")).submit().expect("room");
    cx.io.poll(dataplane::Wait::Now).expect("a turn");
    beside(cx, move |_| drop(registration));
    cx.block_on(writer.write(b"late".to_vec())).expect("written");
    assert_eq!(cx.block_on(read).expect("read")[..], *b"late");
    gone(cx);
    Ok(())
}

/// The last handle of the slab, and later its last lease, go on threads that know no proactor.
fn slab_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = pipe(cx);
    let slab = cx.slab(2, 64);
    let registration = registered(cx.io, &slab);
    let read = reader.read(slab.lease().expect("a slot")).submit().expect("room");
    cx.io.poll(dataplane::Wait::Now).expect("a turn");
    beside(cx, move |_| drop((slab, registration)));
    cx.block_on(writer.write(b"late".to_vec())).expect("written");
    let filled = cx.block_on(read).expect("read");
    let found = beside(cx, move |_| filled.to_vec());
    assert_eq!(found, b"late");
    gone(cx);
    Ok(())
}

fn from_another_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(512, 5);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(1, 512);
    let theirs = slab.clone();
    let registration = beside(cx, move |handle| {
        super::remote::parked(async move { handle.register(theirs.region()).await })
    });
    let has_table = registration.is_ok();
    assert!(has_table || !cx.io.capabilities().contains(Capability::RegisteredBuffers));
    assert_eq!(cx.io.stats().registered, usize::from(has_table));
    reads(cx, &file, &slab, &bytes, true);
    drop(registration);
    gone(cx);
    Ok(())
}

fn two_proactors(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(512, 6);
    let path = made(cx, &bytes);
    let file = opened(cx, &path, OpenOptions::read());
    let slab = cx.slab(2, 512);
    let ours = registered(cx.io, &slab);
    let other = Proactor::with(cx.options.clone()).expect("a second proactor");
    let theirs = registered(&other, &slab);
    reads(cx, &file, &slab, &bytes, true);
    drop(ours);
    gone(cx);
    assert_eq!(other.stats().registered, usize::from(theirs.is_some()), "not ours to undo");
    let filled = other.block_on(async {
        let file = other.open(&path, OpenOptions::read()).expect("a path").await.expect("opens");
        file.read_at(slab.lease().expect("a slot"), 0).await
    });
    assert!(filled.expect("polls").expect("read")[..] == bytes);
    drop((theirs, other));
    Ok(())
}

fn again_after_release(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(512, 7);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(1, 512);
    for _ in 0..20 {
        let registration = registered(cx.io, &slab);
        reads(cx, &file, &slab, &bytes, true);
        drop(registration);
        cx.io.poll(dataplane::Wait::Now).expect("a turn");
        reads(cx, &file, &slab, &bytes, false);
    }
    gone(cx);
    Ok(())
}

fn cannot_be_pinned(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, &Cx::pattern(4096, 8));
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let region = Region::map_file(&file, Access::LOCAL).expect("maps");
    let error = cx.io.register(&region).expect_err("a shared mapping of a file");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let errnos = [libc::EFAULT, libc::EOPNOTSUPP]; // by the kernel's version
    assert!(errnos.map(Some).contains(&error.errno()), "{error}");
    assert!(error.message().contains("slab"), "the next step: {error}");
    assert_eq!(cx.io.stats().registered, 0);
    Ok(())
}

fn device_memory(cx: &Cx<'_>) -> Result<(), Skip> {
    let region = Region::device(4096, Access::LOCAL, None, || {}).expect("a length is enough");
    let error = cx.io.register(&region).expect_err("there is no address to register");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(cx.io.stats().registered, 0);
    Ok(())
}

fn outlives_the_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(2, 512);
    let other = Proactor::with(cx.options.clone()).expect("a second proactor");
    let registration = registered(&other, &slab);
    let pool = other.receive_pool_over(&slab).expect("a pool");
    let handle = other.handle();
    drop(other);
    let refused = handle.register(slab.region()).now_or_never().expect("no loop to wait for");
    assert_eq!(refused.map(drop).expect_err("it is gone").kind(), ErrorKind::ShutDown);
    drop((registration, pool));
    assert_eq!(slab.available(), 2, "the pool gave its slots back");
    Ok(())
}

/// More pools than fit beside each other in a group table of a few; each receives.
fn pool_names_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(4, 64);
    for round in 0..40u8 {
        let (one, two) = cx.unix_pair();
        let pool = cx.io.receive_pool_over(&slab).expect("a pool");
        let mut stream = one.receive_all(&pool).submit().expect("room");
        cx.block_on(two.send_all(vec![round; 10])).expect("sent");
        let filled = cx.block_on(stream.next()).expect("not the end").expect("received");
        assert_eq!(filled[..], [round; 10]);
        drop((stream, pool, filled));
        cx.poll_until("the slots", || slab.available() == 4);
    }
    Ok(())
}

/// A lease outlives its pool, whose name a newer pool may have by now: its return is of memory
/// only.
fn a_late_return(cx: &Cx<'_>) -> Result<(), Skip> {
    let (old, new) = (cx.slab(2, 64), cx.slab(2, 64));
    let (one, two) = cx.unix_pair();
    let pool = cx.io.receive_pool_over(&old).expect("a pool");
    cx.block_on(two.send_all(b"old".to_vec())).expect("sent");
    let late = cx.block_on(one.recv_pool(&pool)).expect("received").expect("not the end");
    drop(pool);
    cx.poll_until("the pool's end", || old.available() == 1);
    let pool = cx.io.receive_pool_over(&new).expect("a pool");
    assert_eq!(late[..], *b"old", "its bytes are still there");
    drop(late);
    assert_eq!(old.available(), 2);
    for round in 0..4u8 {
        cx.block_on(two.send_all(vec![round; 3])).expect("sent");
        let filled = cx.block_on(one.recv_pool(&pool)).expect("received").expect("bytes");
        assert_eq!(filled[..], [round; 3]);
        assert_eq!(filled.slab(), new);
    }
    drop(pool);
    cx.poll_until("the pool's end", || new.available() == 2);
    Ok(())
}
