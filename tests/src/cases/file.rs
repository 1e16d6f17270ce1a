//! Files: opening, reading and writing in place, making durable, closing, and what each says when
//! it cannot. O_DIRECT and pipes
//! are at the end.

use crate::{Case, Cx, Skip};
use dataplane::{Backend, Capability, ErrorKind, File, Mechanism, OpenOptions, Proactor};
use futures_util::future::{FutureExt, join_all};
use regions::{Lease, Span};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "file/what_is_written_is_read", needs: &[], run: what_is_written_is_read },
    Case { name: "file/missing_is_not_found", needs: &[], run: missing_is_not_found },
    Case { name: "file/open_says_what_the_system_says", needs: &[], run: open_errors },
    Case { name: "file/a_path_has_no_zero_byte", needs: &[], run: zero_byte },
    Case { name: "file/create_sets_the_mode", needs: &[], run: create_sets_the_mode },
    Case { name: "file/truncate_empties", needs: &[], run: truncate_empties },
    Case { name: "file/reads_end_at_the_end", needs: &[], run: reads_end_at_the_end },
    Case { name: "file/writes_past_the_end_leave_zeros", needs: &[], run: holes_are_zero },
    Case { name: "file/read_only_refuses_writes", needs: &[], run: read_only_refuses_writes },
    Case { name: "file/a_directory_is_not_read", needs: &[], run: a_directory_is_not_read },
    Case { name: "file/malformed_reads_go_nowhere", needs: &[], run: malformed_reads },
    Case { name: "file/sync_makes_durable", needs: &[], run: sync_makes_durable },
    Case { name: "file/close_is_for_every_clone", needs: &[], run: close_is_for_every_clone },
    Case { name: "file/reads_in_parallel_by_offset", needs: &[], run: reads_in_parallel },
    Case { name: "file/dropped_reads_give_slots_back", needs: &[], run: dropped_reads },
    Case { name: "file/a_dropped_open_is_closed", needs: &[], run: a_dropped_open_is_closed },
    Case { name: "file/sequential_reads_in_order", needs: &[], run: sequential_reads },
    Case {
        name: "file/registered_memory_reads_the_same",
        needs: &[Capability::RegisteredBuffers],
        run: registered_memory_reads_the_same,
    },
    Case { name: "file/registered_descriptor_reads_the_same", needs: &[], run: fixed_descriptor },
    Case { name: "file/direct_alignment_is_named", needs: &[], run: direct_alignment_is_named },
    Case { name: "file/direct_moves_the_same_bytes", needs: &[], run: direct_moves_bytes },
    Case { name: "file/a_pipe_keeps_order", needs: &[], run: a_pipe_keeps_order },
    Case { name: "file/a_pipe_ends", needs: &[], run: a_pipe_ends },
    Case { name: "file/a_pipe_without_readers_is_gone", needs: &[], run: a_broken_pipe },
    Case { name: "file/a_full_pipe_waits", needs: &[], run: a_full_pipe_waits },
    Case { name: "file/without_helpers", needs: &[], run: without_helpers },
];

/// A file of these bytes.
pub(super) fn made(cx: &Cx<'_>, bytes: &[u8]) -> PathBuf {
    let path = cx.scratch_dir().join("bytes");
    std::fs::write(&path, bytes).expect("room for a small file");
    path
}

pub(super) fn opened(cx: &Cx<'_>, path: &Path, options: OpenOptions) -> File {
    cx.block_on(cx.io.open(path, options).expect("a path")).expect("the file opens")
}

/// The kind and errno an open ends with.
fn refused(cx: &Cx<'_>, path: &Path, options: OpenOptions) -> (ErrorKind, Option<i32>) {
    let ended = cx.block_on(cx.io.open(path, options).expect("a path"));
    let error = ended.expect_err("this open cannot succeed").into_error();
    let place = path.to_string_lossy();
    assert!(error.message().contains(&*place), "the message names the path: {error}");
    (error.kind(), error.errno())
}

fn whole(lease: &Lease) -> &[u8] {
    lease
}

fn what_is_written_is_read(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("new");
    let file = opened(cx, &path, OpenOptions::read_write().create(0o600));
    let bytes = Cx::pattern(10_000, 1);
    let sent = cx.block_on(file.write_at(bytes.clone(), 0)).expect("written");
    assert_eq!(sent.bytes, bytes.len());
    assert!(!sent.path.is_zero_copy(), "through the page cache");
    assert_eq!(file.size_bytes().expect("a size"), 10_000);
    let slab = cx.slab(1, 16_384);
    let lease = slab.lease().expect("one slot");
    let filled = cx.block_on(file.read_at(lease, 100)).expect("read");
    assert_eq!(whole(&filled), &bytes[100..]);
    assert_eq!(filled.capacity(), 16_384, "the slot is whole, its content what was read");
    assert_eq!(std::fs::read(&path).expect("it is there"), bytes);
    cx.note(format!("{} written, {} read", sent.bytes, filled.len()));
    Ok(())
}

fn missing_is_not_found(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("nowhere");
    let (kind, errno) = refused(cx, &path, OpenOptions::read());
    assert_eq!((kind, errno), (ErrorKind::NotFound, Some(libc::ENOENT)));
    cx.note(format!("{kind:?}"));
    Ok(())
}

fn open_errors(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"there");
    let folder = cx.scratch_dir();
    let outcomes = [
        refused(cx, &folder, OpenOptions::write()),
        refused(cx, &path, OpenOptions::write().create(0o600).new()),
        refused(cx, &path.join("below"), OpenOptions::read()),
    ];
    let errnos = outcomes.map(|(_, errno)| errno.expect("the system said no"));
    assert_eq!(errnos, [libc::EISDIR, libc::EEXIST, libc::ENOTDIR]);
    cx.note(format!("{outcomes:?}"));
    assert_eq!(cx.io.stats().descriptors, 0, "nothing was opened");
    Ok(())
}

fn zero_byte(cx: &Cx<'_>) -> Result<(), Skip> {
    let refused = cx.io.open("with\0zero", OpenOptions::read());
    let error = refused.map(drop).expect_err("no path has a zero byte");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(cx.io.stats().in_flight, 0);
    Ok(())
}

fn create_sets_the_mode(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("private");
    drop(opened(cx, &path, OpenOptions::write().create(0o600).new()));
    let mode = std::fs::metadata(&path).expect("created").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    Ok(())
}

fn truncate_empties(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"something to lose");
    let file = opened(cx, &path, OpenOptions::write());
    assert_eq!(file.size_bytes().expect("a size"), 17, "opening alone changes nothing");
    let file = opened(cx, &path, OpenOptions::write().truncate());
    assert_eq!(file.size_bytes().expect("a size"), 0);
    Ok(())
}

fn reads_end_at_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(1000, 2);
    let path = made(cx, &bytes);
    let file = opened(cx, &path, OpenOptions::read());
    let slab = cx.slab(1, 512);
    for (offset, expected) in [(0, 512), (488, 512), (512, 488), (999, 1), (1000, 0), (5000, 0)] {
        let filled = cx.block_on(file.read_at(slab.lease().expect("a slot"), offset));
        let filled = filled.expect("past the end is no error");
        let from = (offset as usize).min(bytes.len());
        assert_eq!(whole(&filled), &bytes[from..from + expected], "at {offset}");
        cx.note(format!("at {offset}: {}", filled.len()));
    }
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn holes_are_zero(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"head");
    let file = opened(cx, &path, OpenOptions::read_write());
    cx.block_on(file.write_at(b"tail".to_vec(), 100)).expect("written");
    let found = std::fs::read(&path).expect("it is there");
    assert_eq!(found.len(), 104);
    assert_eq!((&found[..4], &found[100..]), (&b"head"[..], &b"tail"[..]));
    assert!(found[4..100].iter().all(|&byte| byte == 0));
    Ok(())
}

fn read_only_refuses_writes(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"kept");
    let file = opened(cx, &path, OpenOptions::read());
    let span = Span::from(b"lost".to_vec());
    let failed = cx.block_on(file.write_at(span, 0)).expect_err("it is open for reading");
    assert_eq!(failed.error.errno(), Some(libc::EBADF), "{failed:?}");
    let back = failed.into_buffer().expect("the span comes back");
    assert_eq!(back.bytes().expect("private memory"), b"lost");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"kept");
    let filled = cx.block_on(file.read_at(cx.slab(1, 64).lease().expect("a slot"), 0));
    assert_eq!(whole(&filled.expect("reading goes on")), b"kept");
    Ok(())
}

fn a_directory_is_not_read(cx: &Cx<'_>) -> Result<(), Skip> {
    let folder = opened(cx, &cx.scratch_dir(), OpenOptions::read());
    let slab = cx.slab(1, 64);
    let failed = cx.block_on(folder.read_at(slab.lease().expect("a slot"), 0));
    let failed = failed.expect_err("a directory has no bytes");
    assert_eq!(failed.error.errno(), Some(libc::EISDIR));
    let lease = failed.into_buffer().expect("the lease comes back");
    assert_eq!((lease.len(), slab.available()), (64, 0));
    drop(lease);
    assert_eq!(slab.available(), 1);
    Ok(())
}

/// Nothing reaches the kernel, and the lease comes back.
fn malformed_reads(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"bytes");
    let file = opened(cx, &path, OpenOptions::read());
    let slab = cx.slab(1, 64);
    let mut empty = slab.lease().expect("a slot");
    empty.truncate(0);
    let failed = file.read_at(empty, 0).submit().map(drop).expect_err("no room for a byte");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    let mut lease = failed.into_buffer().expect("the lease comes back");
    lease.reset();
    let past = i64::MAX as u64 - 10;
    let failed = file.read_at(lease, past).submit().map(drop).expect_err("past every file");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    assert!(failed.error.message().contains(&past.to_string()), "{failed}");
    assert_eq!(cx.io.stats().in_flight, 0);
    drop(failed);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn sync_makes_durable(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"");
    let file = opened(cx, &path, OpenOptions::write());
    cx.block_on(file.write_at(vec![7; 5000], 0)).expect("written");
    cx.block_on(file.sync_data()).expect("data is durable");
    cx.block_on(file.sync()).expect("all is durable");
    let (reader, _writer) = std::io::pipe().expect("two descriptors");
    let pipe = cx.io.adopt_file(reader).expect("room");
    let failed = cx.block_on(pipe.sync()).expect_err("a pipe is never durable");
    assert_eq!(failed.error.errno(), Some(libc::EINVAL));
    Ok(())
}

fn close_is_for_every_clone(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"bytes");
    let file = opened(cx, &path, OpenOptions::read());
    let other = file.clone();
    cx.block_on(file.close()).expect("closed");
    let slab = cx.slab(1, 64);
    let failed = cx.block_on(other.read_at(slab.lease().expect("a slot"), 0));
    assert_eq!(failed.expect_err("it is closed").kind(), ErrorKind::Closed);
    assert_eq!(other.size_bytes().expect_err("it is closed").kind(), ErrorKind::Closed);
    let again = cx.block_on(other.close()).expect_err("it is closed");
    assert_eq!(again.kind(), ErrorKind::Closed);
    assert_eq!(cx.io.stats().descriptors, 0, "the last handle frees the place in the table");
    Ok(())
}

fn reads_in_parallel(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(16 * 1024, 3);
    let path = made(cx, &bytes);
    let file = opened(cx, &path, OpenOptions::read());
    let slab = cx.slab(16, 1024);
    let reads = (0..16u64).rev().map(|at| {
        let lease = slab.lease().expect("16 slots");
        file.read_at(lease, at * 1024).submit().expect("room for 16")
    });
    let reads: Vec<_> = reads.collect();
    assert_eq!(cx.io.stats().in_flight, 16);
    for (at, filled) in (0..16usize).rev().zip(cx.block_on(join_all(reads))) {
        let filled = filled.expect("read");
        assert_eq!(whole(&filled), &bytes[at * 1024..(at + 1) * 1024], "chunk {at}");
    }
    assert_eq!((slab.available(), cx.io.stats().in_flight), (16, 0));
    Ok(())
}

fn dropped_reads(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, &Cx::pattern(8192, 4));
    let file = opened(cx, &path, OpenOptions::read());
    let slab = cx.slab(8, 1024);
    for at in 0..8 {
        let lease = slab.lease().expect("8 slots");
        drop(file.read_at(lease, at * 1024).submit().expect("room for 8"));
    }
    cx.poll_until("the slots", || slab.available() == 8);
    assert_eq!(cx.io.stats().in_flight, 0);
    Ok(())
}

/// The runner counts descriptors after the case.
fn a_dropped_open_is_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"bytes");
    for _ in 0..8 {
        let opening = cx.io.open(&path, OpenOptions::read()).expect("a path").submit();
        drop(opening.expect("room for an open"));
    }
    let detached = cx.io.open(&path, OpenOptions::read()).expect("a path").submit();
    detached.expect("room for an open").detach();
    cx.poll_until("the opens", || cx.io.stats().in_flight == 0);
    assert_eq!(cx.io.stats().descriptors, 0);
    Ok(())
}

/// The descriptor's own position moves on with each read, in the order of submission.
fn sequential_reads(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4000, 5);
    let path = made(cx, &bytes);
    let file = opened(cx, &path, OpenOptions::read());
    let slab = cx.slab(5, 1000);
    let reads: Vec<_> = (0..5)
        .map(|_| file.read(slab.lease().expect("5 slots")).submit().expect("room for 5"))
        .collect();
    let mut found = Vec::new();
    for filled in cx.block_on(join_all(reads)) {
        found.extend_from_slice(&filled.expect("read"));
    }
    assert_eq!(found, bytes, "in order, and the fifth is at the end");
    Ok(())
}

fn registered_memory_reads_the_same(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4096, 6);
    let path = made(cx, &bytes);
    let file = opened(cx, &path, OpenOptions::read_write());
    let (known, unknown) = (cx.slab(2, 4096), cx.slab(1, 4096));
    let registration = cx.io.register_slab(&known).expect("the table has room");
    let read = |lease: Lease| cx.block_on(file.read_at(lease, 0)).expect("read");
    let fixed = read(known.lease().expect("a slot"));
    let plain = read(unknown.lease().expect("a slot"));
    assert_eq!(fixed.path().mechanism, Mechanism::FileFixed);
    assert_eq!(plain.path().mechanism, Mechanism::File);
    assert_eq!((whole(&fixed), whole(&plain)), (&bytes[..], &bytes[..]));
    let sent = cx.block_on(file.write_at(fixed.freeze(), 4096)).expect("written");
    assert_eq!((sent.bytes, sent.path.mechanism), (4096, Mechanism::FileFixed));
    assert_eq!(std::fs::read(&path).expect("there")[4096..], bytes);
    drop(registration);
    Ok(())
}

fn fixed_descriptor(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(2048, 7);
    let path = made(cx, &bytes);
    let file = opened(cx, &path, OpenOptions::read());
    let registered = file.register().expect("the table has room");
    assert!(registered || !cx.io.capabilities().contains(Capability::FixedFiles));
    assert_eq!(file.register().expect("twice is once"), registered);
    let slab = cx.slab(1, 2048);
    let filled = cx.block_on(file.read_at(slab.lease().expect("a slot"), 0)).expect("read");
    assert_eq!(whole(&filled), bytes);
    cx.block_on(file.close()).expect("closed, and out of the table");
    Ok(())
}

/// The file, its memory alignment and its unit; a skip where the file system has no O_DIRECT.
fn direct(cx: &Cx<'_>, bytes: &[u8]) -> Result<(File, usize, usize), Skip> {
    let path = made(cx, bytes);
    let options = OpenOptions::read_write().direct();
    let opening = cx.block_on(cx.io.open(&path, options).expect("a path"));
    let file = opening.map_err(|failed| Skip(format!("no O_DIRECT here: {failed}")))?;
    let alignment = file.direct_alignment().expect("it is open");
    let (memory, unit) = alignment.expect("a file open with O_DIRECT wants alignment");
    Ok((file, memory as usize, unit as usize))
}

fn direct_alignment_is_named(cx: &Cx<'_>) -> Result<(), Skip> {
    let (file, memory, unit) = direct(cx, &Cx::pattern(65_536, 8))?;
    let slab = cx.slab(1, 65_536);
    let mut told = Vec::new();
    let mut refuse = |lease: Lease, offset: u64, wanted: usize| {
        let failed = file.read_at(lease, offset).submit().map(drop).expect_err("misaligned");
        assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
        let words = failed.error.message().to_owned();
        assert!(words.contains("O_DIRECT") && words.contains(&wanted.to_string()), "{words}");
        told.push(failed.kind());
        drop(failed);
    };
    refuse(slab.lease().expect("a slot"), unit as u64 / 2, unit);
    let mut odd = slab.lease().expect("a slot");
    odd.truncate(unit - 1);
    refuse(odd, 0, unit);
    let mut askew = slab.lease().expect("a slot");
    let mut rest = askew.split_off(memory / 2);
    rest.truncate(unit);
    drop(askew);
    refuse(rest, 0, memory);
    assert_eq!((cx.io.stats().in_flight, slab.available()), (0, 1), "nothing was submitted");
    let failed = file.write_at(vec![0; unit + 1], 0).submit().map(drop).expect_err("odd");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    cx.note(format!("{told:?}"));
    Ok(())
}

fn direct_moves_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(65_536, 9);
    let (file, ..) = direct(cx, &bytes)?;
    let slab = cx.slab(2, 65_536);
    let filled = cx.block_on(file.read_at(slab.lease().expect("a slot"), 0)).expect("read");
    assert_eq!(whole(&filled), bytes);
    assert!(filled.path().is_zero_copy(), "{}", filled.path());
    let sent = cx.block_on(file.write_at(filled.freeze(), 65_536)).expect("written");
    assert!(sent.path.is_zero_copy(), "{}", sent.path);
    assert_eq!(file.size_bytes().expect("a size"), 131_072);
    let again = cx.block_on(file.read_at(slab.lease().expect("a slot"), 65_536)).expect("read");
    assert_eq!(whole(&again), bytes);
    Ok(())
}

/// The two ends of a pipe as files: what is read and what is written.
pub(super) fn pipe(cx: &Cx<'_>) -> (File, File) {
    let (reader, writer) = std::io::pipe().expect("two descriptors");
    let reader = cx.io.adopt_file(reader).expect("room");
    (reader, cx.io.adopt_file(writer).expect("room"))
}

fn a_pipe_keeps_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = pipe(cx);
    let bytes = Cx::pattern(8000, 10);
    let slab = cx.slab(8, 1000);
    let reads: Vec<_> = (0..8)
        .map(|_| reader.read(slab.lease().expect("8 slots")).submit().expect("room"))
        .collect();
    let writes: Vec<_> = bytes
        .chunks(1000)
        .map(|chunk| writer.write(chunk.to_vec()).submit().expect("room"))
        .collect();
    for sent in cx.block_on(join_all(writes)) {
        assert_eq!(sent.expect("written").bytes, 1000);
    }
    let mut found = Vec::new();
    // A read takes what is there: the eight of them may not have taken everything.
    for filled in cx.block_on(join_all(reads)) {
        found.extend_from_slice(&filled.expect("read"));
    }
    while found.len() < bytes.len() {
        let filled = cx.block_on(reader.read(slab.lease().expect("a slot"))).expect("read");
        found.extend_from_slice(&filled);
    }
    assert!(found == bytes, "out of order");
    Ok(())
}

fn a_pipe_ends(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = pipe(cx);
    let slab = cx.slab(1, 64);
    let read = reader.read(slab.lease().expect("a slot")).submit().expect("room");
    cx.block_on(writer.write(b"last".to_vec())).expect("written");
    assert_eq!(whole(&cx.block_on(read).expect("read")), b"last");
    let read = reader.read(slab.lease().expect("a slot")).submit().expect("room");
    drop(writer);
    assert_eq!(cx.block_on(read).expect("the end is no error").len(), 0);
    Ok(())
}

fn a_broken_pipe(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = pipe(cx);
    cx.block_on(reader.close()).expect("closed");
    let failed = cx.block_on(writer.write(b"nobody".to_vec())).expect_err("nobody reads");
    assert_eq!((failed.kind(), failed.error.errno()), (ErrorKind::Disconnected, Some(libc::EPIPE)));
    let back = failed.into_buffer().expect("the span comes back");
    assert_eq!(back.bytes().expect("private memory"), b"nobody");
    cx.note("Disconnected");
    Ok(())
}

fn a_full_pipe_waits(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = pipe(cx);
    let bytes = Cx::pattern(300_000, 11);
    let mut writing = writer.write(bytes.clone()).submit().expect("room");
    let slab = cx.slab(1, 65_536);
    let mut found = Vec::new();
    assert!((&mut writing).now_or_never().is_none(), "a pipe does not hold that much");
    while found.len() < bytes.len() {
        let filled = cx.block_on(reader.read(slab.lease().expect("a slot"))).expect("read");
        found.extend_from_slice(&filled);
    }
    assert_eq!(cx.block_on(writing).expect("written").bytes, 300_000);
    assert!(found == bytes, "the pipe is shorter than the write and nothing is lost");
    Ok(())
}

/// A file is read by the ring, or by a helper thread; where there is neither, the error says so.
fn without_helpers(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, b"bytes");
    let io = Proactor::with(cx.options.clone().helpers(0)).expect("a second proactor");
    let file = io.adopt_file(std::fs::File::open(path).expect("opens")).expect("room");
    let slab = cx.slab(1, 8);
    let read = async { file.read_at(slab.lease().expect("free"), 0).await };
    let ended = io.block_on(read).expect("polls");
    match io.backend() {
        Backend::IoUring => assert_eq!(ended.expect("read")[..], *b"bytes"),
        _ => assert_eq!(ended.expect_err("nobody reads").kind(), ErrorKind::Unavailable),
    }
    assert_eq!(slab.available(), 1);
    Ok(())
}
