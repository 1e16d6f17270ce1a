//! Regions: every source, hostile sizes, copies, and what ends when.
//!
//! Unsafe code: foreign regions are made from memory the test owns.
#![cfg(not(loom))]
#![allow(unsafe_code)] // foreign regions are made on this test's word
#![allow(clippy::unwrap_used)] // helpers of a test panic as its tests do

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use regions::{Access, CHUNK_LIMIT_BYTES, Region, RegionErrorKind, Slab, Source};

fn temporary_file(name: &str, content: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    let mut options = File::options();
    let mut file = options.read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(content).unwrap();
    file
}

fn foreign(bytes: usize, released: &Arc<AtomicU32>) -> Region {
    let mut memory = vec![0u64; bytes.div_ceil(8)];
    let ptr = NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
    let released = Arc::clone(released);
    let release = move || {
        drop(memory);
        released.fetch_add(1, Ordering::SeqCst);
    };
    // SAFETY: the vector moves into the release callback and nobody else uses it.
    unsafe { Region::foreign(ptr, bytes, Access::LOCAL, release).unwrap() }
}

#[test]
fn mapped_sources_are_zeroed_private_and_writable() {
    let sources = [
        (Region::anonymous(5000).unwrap(), Source::Anonymous),
        (Region::memfd(5000).unwrap(), Source::Memfd),
    ];
    for (region, source) in sources {
        assert_eq!((region.len_bytes(), region.source()), (5000, source));
        assert!(region.is_private() && region.access() == Access::LOCAL);
        let mut tail = [1; 4];
        region.copy_out(4996, &mut tail).unwrap();
        assert_eq!(tail, [0; 4]);
        region.copy_in(4996, b"tail").unwrap();
        region.copy_out(4996, &mut tail).unwrap();
        assert_eq!(&tail, b"tail");
        let error = region.copy_in(4997, b"tail").unwrap_err();
        assert_eq!(error.kind, RegionErrorKind::OutOfRange);
        assert_eq!(
            region.copy_out(usize::MAX, &mut tail).unwrap_err().kind,
            RegionErrorKind::OutOfRange
        );
        // Another handle may be copying in, so a plain region lends no slice.
        let span = region.span(4996..).unwrap();
        assert_eq!(span.bytes().unwrap_err().kind, RegionErrorKind::Shared);
        assert_eq!(span.to_vec().unwrap(), b"tail");
        assert_eq!(span.region_id(), Some(region.id()));
    }
}

#[test]
fn a_huge_region_says_what_it_got() {
    let region = Region::huge(4 << 20).unwrap();
    match region.source() {
        Source::HugePages => assert!(region.huge_pages().is_obtained()),
        source => {
            assert_eq!(source, Source::Anonymous);
            let reason = region.huge_pages().to_string();
            assert!(reason.contains("no huge pages (") && reason.len() > 20, "{reason}");
        }
    }
    region.copy_in(4 << 10, b"works").unwrap();
}

#[test]
fn identities_are_never_reused() {
    let first = Region::anonymous(1).unwrap().id();
    let second = Region::anonymous(1).unwrap().id();
    assert!(second > first);
    assert_ne!(first.get(), second.get());
}

#[test]
fn hostile_sizes_are_errors_that_name_the_limit() {
    type Make = fn(usize) -> Result<Region, regions::RegionError>;
    for make in [Region::anonymous as Make, Region::memfd, Region::huge] {
        for len in [0, usize::MAX, isize::MAX as usize + 1, isize::MAX as usize] {
            let error = make(len).unwrap_err();
            assert_eq!(error.kind, RegionErrorKind::InvalidArgument, "{error}");
        }
        let error = make(1 << 46).unwrap_err();
        assert_eq!(error.kind, RegionErrorKind::OutOfMemory);
        let text = error.to_string();
        assert!(text.contains("left: ") && text.contains(&(1u64 << 46).to_string()), "{text}");
    }
    let error = Region::device(0, Access::LOCAL, None, || ()).unwrap_err();
    assert_eq!(error.kind, RegionErrorKind::InvalidArgument);
}

#[test]
fn asking_for_the_descriptor_shares_the_region() {
    let region = Region::memfd(100).unwrap();
    assert!(region.is_private());
    // SAFETY: the region is no slab's, so there are no leases, and its spans give no slices.
    let mut file = File::from(unsafe { region.fd() }.unwrap().try_clone_to_owned().unwrap());
    assert!(!region.is_private());
    file.write_all(b"from outside").unwrap();
    let mut seen = [0; 12];
    region.copy_out(0, &mut seen).unwrap();
    assert_eq!(&seen, b"from outside");
    assert!(file.set_len(10).is_err() && file.set_len(1 << 20).is_err(), "its size is sealed");
    let anonymous = Region::anonymous(1).unwrap();
    // SAFETY: nothing is written through it: there is none.
    assert!(unsafe { anonymous.fd() }.is_none());
}

#[test]
fn a_file_mapping_is_shared_both_ways() {
    let mut file = temporary_file("mapped", b"some content");
    let region = Region::map_file(&file, Access::LOCAL).unwrap();
    assert!(!region.is_private() && region.source() == Source::FileMapping);
    assert_eq!(region.len_bytes(), 12);
    region.copy_in(0, b"SOME").unwrap();
    let mut content = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "SOME content");
    let read_only = Region::map_file(&file, Access::READ).unwrap();
    assert_eq!(read_only.copy_in(0, b"x").unwrap_err().kind, RegionErrorKind::Permission);
    assert_eq!(read_only.span(5..).unwrap().to_vec().unwrap(), b"content");
    let empty = temporary_file("empty", b"");
    let error = Region::map_file(&empty, Access::READ).unwrap_err();
    assert_eq!(error.kind, RegionErrorKind::InvalidArgument);
}

#[test]
fn foreign_memory_is_released_once_after_its_last_user() {
    let released = Arc::new(AtomicU32::new(0));
    let region = foreign(256, &released);
    assert!(!region.is_private());
    let span = region.span(8..16).unwrap();
    let part = span.slice(2..).unwrap();
    region.copy_in(10, b"kept").unwrap();
    drop((region, span));
    assert_eq!(released.load(Ordering::SeqCst), 0);
    assert_eq!(&part.to_vec().unwrap()[..4], b"kept");
    std::thread::spawn(move || drop(part)).join().unwrap();
    assert_eq!(released.load(Ordering::SeqCst), 1);
}

#[test]
fn a_slab_over_foreign_memory_keeps_it() {
    let released = Arc::new(AtomicU32::new(0));
    let mut memory = Box::new([[0u64; 8]; 5]); // room for a 64-byte boundary inside
    let first = memory.as_mut_ptr().cast::<u8>();
    let skip = first.align_offset(64);
    // SAFETY: at most 56 of 320 bytes are skipped.
    let ptr = NonNull::new(unsafe { first.add(skip) }).unwrap();
    let count = Arc::clone(&released);
    let release = move || {
        drop(memory);
        count.fetch_add(1, Ordering::SeqCst);
    };
    // SAFETY: 228 bytes from the boundary lie in the box, which the callback owns.
    let region = unsafe { Region::foreign(ptr, 228, Access::LOCAL, release).unwrap() };
    // SAFETY: nobody else knows the memory.
    let slab = unsafe { Slab::over(region, 100).unwrap() };
    assert_eq!((slab.slots(), slab.stride_bytes()), (2, 128), "the last slot needs no padding");
    let mut lease = slab.lease().unwrap();
    lease[..3].copy_from_slice(b"abc");
    lease.truncate(3);
    let span = lease.freeze();
    assert_eq!(span.bytes().unwrap_err().kind, RegionErrorKind::Shared);
    assert_eq!(span.to_vec().unwrap(), b"abc");
    let span = span.into_bytes().unwrap_err();
    drop(slab);
    assert_eq!(released.load(Ordering::SeqCst), 0);
    drop(span);
    assert_eq!(released.load(Ordering::SeqCst), 1);
}

#[test]
fn a_slab_refuses_memory_it_cannot_use() {
    let released = Arc::new(AtomicU32::new(0));
    let refuse = |region: Region, slot_bytes| {
        // SAFETY: nobody else uses the memory.
        unsafe { Slab::over(region, slot_bytes) }.unwrap_err().kind
    };
    let device = Region::device(4096, Access::LOCAL, None, || ()).unwrap();
    assert_eq!(refuse(device, 64), RegionErrorKind::NotVisible);
    assert_eq!(refuse(foreign(64, &released), 65), RegionErrorKind::InvalidArgument);
    assert_eq!(refuse(foreign(64, &released), 0), RegionErrorKind::InvalidArgument);
    let file = temporary_file("slab", &[0; 4096]);
    let read_only = Region::map_file(&file, Access::READ).unwrap();
    assert_eq!(refuse(read_only, 64), RegionErrorKind::Permission);
    let slab = Slab::new(1, 4096).unwrap();
    assert_eq!(refuse(slab.region().clone(), 64), RegionErrorKind::Permission);
    assert_eq!(released.load(Ordering::SeqCst), 2, "refused regions end as usual");
}

#[test]
fn a_panic_in_a_release_stays_there() {
    let region = Region::device(1, Access::LOCAL, None, || panic!("a release that fails"));
    drop(region.unwrap());
}

#[test]
fn a_refused_foreign_region_releases_nothing() {
    let released = Arc::new(AtomicU32::new(0));
    for len in [0, usize::MAX, isize::MAX as usize + 1] {
        let count = Arc::clone(&released);
        let release = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        // SAFETY: the lengths are refused before any byte is touched.
        let refused = unsafe { Region::foreign(NonNull::dangling(), len, Access::LOCAL, release) };
        assert_eq!(refused.unwrap_err().kind, RegionErrorKind::InvalidArgument);
    }
    assert_eq!(released.load(Ordering::SeqCst), 0);
}

#[test]
fn device_memory_has_no_pointer() {
    let region = Region::device(4096, Access::LOCAL, None, || ()).unwrap();
    assert!(region.as_ptr().is_none() && region.chunks().next().is_none());
    assert_eq!(region.chunk_index_of(std::ptr::null()), usize::MAX);
    let span = region.span(..10).unwrap();
    assert!(span.as_ptr().is_null());
    assert_eq!(span.bytes().unwrap_err().kind, RegionErrorKind::NotVisible);
    assert_eq!(span.to_vec().unwrap_err().kind, RegionErrorKind::NotVisible);
    assert_eq!(region.copy_in(0, b"x").unwrap_err().kind, RegionErrorKind::NotVisible);
}

#[test]
fn chunks_cover_a_large_region_in_order() {
    // 2.5 GiB of address space that is reserved but never touched.
    let len = (5 << 30) / 2;
    let region = match Region::anonymous(len) {
        Ok(region) => region,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let start = region.as_ptr().unwrap().as_ptr() as usize;
    let mut expected = start;
    for (index, (ptr, bytes)) in region.chunks().enumerate() {
        assert_eq!(ptr.as_ptr() as usize, expected);
        assert!(bytes <= CHUNK_LIMIT_BYTES);
        assert_eq!(region.chunk_index_of(ptr.as_ptr()), index);
        expected += bytes;
    }
    assert_eq!(expected, start + len);
    assert_eq!(region.chunk_index_of(expected as *const u8), usize::MAX);
    // It is cut already, so slots that would straddle the cuts are refused.
    // SAFETY: no slot is leased.
    let error = unsafe { Slab::over(region, 3 << 20) }.unwrap_err();
    assert!(error.to_string().contains("cut for another slot size"), "{error}");
}

#[test]
fn a_slab_made_first_decides_where_a_region_is_cut() {
    let region = match Region::anonymous((5 << 30) / 2) {
        Ok(region) => region,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    // SAFETY: no slot is leased.
    let slab = unsafe { Slab::over(region, 3 << 20) }.unwrap();
    let chunk = slab.region().chunk_bytes();
    assert!(chunk <= CHUNK_LIMIT_BYTES && chunk.is_multiple_of(slab.stride_bytes()));
    for index in 0..slab.slots() as u32 {
        let first = slab.slot_ptr(index).as_ptr();
        let last = first.wrapping_add(slab.slot_bytes() - 1);
        let region = slab.region();
        assert_eq!(region.chunk_index_of(first), region.chunk_index_of(last));
    }
}

#[test]
fn remote_writes_and_marking_share_a_region() {
    let slab = Slab::builder(1, 64).access(Access::LOCAL | Access::REMOTE_WRITE).build().unwrap();
    assert!(!slab.region().is_private());
    assert!(slab.lease().unwrap().freeze().bytes().is_err());
    let region = Region::anonymous(1).unwrap();
    region.mark_shared();
    assert!(!region.clone().is_private());
}

#[test]
fn ranges_of_every_kind_are_checked() {
    let region = Region::anonymous(10).unwrap();
    assert_eq!(region.span(..).unwrap().len(), 10);
    assert_eq!(region.span(2..=4).unwrap().len(), 3);
    assert!(region.span(10..).unwrap().is_empty());
    #[allow(clippy::reversed_empty_ranges)] // that is the point
    for range in [0..11, 11..11, 5..4, usize::MAX..usize::MAX] {
        let error = region.span(range).unwrap_err();
        assert_eq!(error.kind, RegionErrorKind::OutOfRange);
    }
    assert!(region.span(0..=usize::MAX).is_err());
}

/// The flags of the mapping that holds this address, from proc_pid_smaps(5).
fn mapping_flags(address: usize) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bounds = range.and_then(|(start, end)| {
            let start = usize::from_str_radix(start, 16).ok()?;
            Some(start..usize::from_str_radix(end, 16).ok()?)
        });
        inside = bounds.map_or(inside, |bounds| bounds.contains(&address));
        if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
            return format!("{flags} ");
        }
    }
    panic!("{address:#x} is in no mapping");
}

#[test]
fn no_mapping_is_copied_on_fork() {
    let file = temporary_file("forked", &[1; 4096]);
    let regions = [
        Region::anonymous(4096).unwrap(),
        Region::huge(4096).unwrap(),
        Region::memfd(4096).unwrap(),
        Region::map_file(&file, Access::READ).unwrap(),
        Slab::new(1, 4096).unwrap().region().clone(),
    ];
    for region in regions {
        let flags = mapping_flags(region.as_ptr().unwrap().as_ptr() as usize);
        assert!(flags.contains(" dc "), "{region:?} has {flags}");
    }
}

#[test]
fn a_forked_child_ends_nothing() {
    let released = Arc::new(AtomicU32::new(0));
    let foreign = foreign(64, &released);
    let slab = Slab::new(1, 4096).unwrap();
    let lease = slab.lease().unwrap();
    // SAFETY: the child only drops handles and exits at once.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        drop((foreign, lease, slab));
        // SAFETY: ends the child without running this process's exit handlers.
        unsafe { libc::_exit(released.load(Ordering::SeqCst) as i32) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above; `status` lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    assert_eq!(lease.len(), 4096);
    drop(foreign);
    assert_eq!(released.load(Ordering::SeqCst), 1);
}

#[test]
fn an_exported_memfd_is_the_same_memory_elsewhere() {
    let made = Region::memfd(5000).unwrap();
    assert!(made.is_private());
    let there = Region::from_memfd(made.export().unwrap(), 5000).unwrap();
    assert!(!made.is_private() && !there.is_private(), "either may write it now");
    assert_ne!(made.id(), there.id(), "another mapping is another region");
    made.copy_in(4990, b"end").unwrap();
    drop(made);
    let mut bytes = [0; 3];
    there.copy_out(4990, &mut bytes).unwrap();
    assert_eq!(&bytes, b"end");
    let error = there.copy_out(4999, &mut bytes).unwrap_err();
    assert_eq!(error.kind, RegionErrorKind::OutOfRange, "only what is said to be used");
}

#[test]
fn only_plain_memfds_are_exported() {
    let slab = Slab::new(2, 4096).unwrap();
    let error = slab.region().export().unwrap_err();
    assert_eq!(error.kind, RegionErrorKind::Permission, "its leases give slices");
    assert!(slab.region().is_private(), "and nothing changed");
    let error = Region::anonymous(4096).unwrap().export().unwrap_err();
    assert_eq!(error.kind, RegionErrorKind::Unavailable);
}

#[test]
fn a_memfd_that_could_be_cut_or_is_too_short_is_refused() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let error = Region::from_memfd(file.into(), 1).unwrap_err();
    assert_eq!(error.kind, RegionErrorKind::InvalidArgument, "no memfd");
    for len in [0, 8193, usize::MAX] {
        let sealed = Region::memfd(8192).unwrap().export().unwrap();
        let error = Region::from_memfd(sealed, len).unwrap_err();
        assert_eq!(error.kind, RegionErrorKind::InvalidArgument, "{len} bytes of 8192");
    }
}
