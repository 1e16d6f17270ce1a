//! What the running kernel's io_uring can do, found by doing it.
//!
//! Each capability has a trial: a real operation on a pipe, a socket pair or a loopback connection
//! whose bytes or completions are checked. The kernel's version is never asked, since distributions
//! carry features back and security policies take them away. A probe opens and closes a few
//! descriptors, pins one page, and takes a few milliseconds; [`probe`] keeps the answer for the
//! process. Callable from any thread.
//!
//! Unsafe code: entries handed to the bench, and two plain system calls.
#![allow(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, cqueue, opcode, squeue::Flags};

use super::buf_ring::{Consume, FIRST_GROUP};
use super::ring::Ring;
use super::setup::{Setup, errno_of};
use super::tables::{BufferTable, FileTable};
use super::trial::{Bench, Completion, TAG, Why, stays_armed};
use super::trial_send::{send_vectored_fixed, zero_copy_send};
use crate::capability::{Capabilities, Capability};

/// Whether a capability was seen to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It was done and the outcome checked.
    Available,
    /// It was refused, or could not be tried.
    Missing,
}

/// One capability and how its state is known.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    /// What was tried.
    pub(crate) capability: Capability,
    /// Whether it works.
    pub(crate) state: State,
    /// What was done to know, or the reason it is missing.
    pub(crate) proof: String,
    /// Of one that could not be tried: the errno that said what there was too little of.
    short_of: Option<i32>,
}

/// Why there is no ring at all.
#[derive(Clone, Debug)]
pub(crate) struct Unavailable {
    /// The kernel's code, if it gave one.
    pub(crate) errno: Option<i32>,
    /// The whole message, with its remedy.
    pub(crate) message: String,
}

/// The answer of a probe.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// What works.
    pub(crate) capabilities: Capabilities,
    /// One entry per capability, in the order of [`Capability::ALL`].
    pub(crate) proofs: Vec<Proof>,
    /// Set when no ring could be made; nothing is available then.
    pub(crate) unavailable: Option<Unavailable>,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Whether everything could be tried, so that asking again would tell nothing new.
    conclusive: bool,
}

/// What io_uring can do here. Computed once per process, unless a shortage (descriptors, memory)
/// got in the way of a trial: then the next call tries again.
pub(crate) fn probe() -> Arc<Probe> {
    static ANSWER: OnceLock<Arc<Probe>> = OnceLock::new();
    if let Some(answer) = ANSWER.get() {
        return answer.clone();
    }
    let answer = Arc::new(Probe::run());
    if answer.conclusive { ANSWER.get_or_init(|| answer).clone() } else { answer }
}

impl Probe {
    /// Tries everything now.
    pub(crate) fn run() -> Probe {
        let start = Instant::now();
        let mut bench = match Bench::new() {
            Ok(bench) => bench,
            Err(error) => return Probe::without_ring(&error, start.elapsed()),
        };
        let mut opcodes = io_uring::Probe::new();
        // A kernel that cannot tell is taken to have none of the optional ones.
        let _ = bench.ring.submitter().register_probe(&mut opcodes);
        let mut answer = Probe {
            capabilities: Capabilities::none(),
            proofs: Vec::with_capacity(Capability::ALL.len()),
            unavailable: None,
            elapsed: Duration::ZERO,
            conclusive: true,
        };
        for capability in Capability::ALL {
            let outcome = opcodes_there(capability, &opcodes)
                .and_then(|()| attempt(capability, &mut bench))
                .and_then(|proof| bench.settle().map(|()| proof));
            if outcome.is_err() && bench.settle().is_err() {
                // What is stuck must not be taken for the answer of a later trial.
                match Bench::new() {
                    Ok(fresh) => bench = fresh,
                    Err(error) => return Probe::without_ring(&error, start.elapsed()),
                }
            }
            answer.note(capability, outcome);
        }
        answer.elapsed = start.elapsed();
        answer
    }

    fn note(&mut self, capability: Capability, outcome: Result<String, Why>) {
        let mut short_of = None;
        let (state, proof) = match outcome {
            Ok(proof) if Capabilities::used().contains(capability) => (State::Available, proof),
            Ok(proof) => (State::Missing, format!("{proof}; no operation uses it yet")),
            Err(Why::Missing(reason)) => (State::Missing, reason),
            Err(Why::Untried(reason, errno)) => {
                self.conclusive = false;
                short_of = errno;
                (State::Missing, format!("could not be tried: {reason}"))
            }
        };
        if state == State::Available {
            self.capabilities = self.capabilities.with(capability);
        }
        self.proofs.push(Proof { capability, state, proof, short_of });
    }

    fn without_ring(error: &io::Error, elapsed: Duration) -> Probe {
        let errno = errno_of(error);
        let lasting = |errno| matches!(Why::refused("", errno), Why::Missing(_));
        let missing = |capability| Proof {
            capability,
            state: State::Missing,
            proof: "no ring could be made".to_owned(),
            short_of: None,
        };
        Probe {
            capabilities: Capabilities::none(),
            proofs: Capability::ALL.into_iter().map(missing).collect(),
            unavailable: Some(Unavailable { errno, message: error.to_string() }),
            elapsed,
            conclusive: errno.is_some_and(lasting),
        }
    }

    /// The proof of one capability.
    pub(crate) fn proof(&self, capability: Capability) -> Option<&Proof> {
        self.proofs.iter().find(|proof| proof.capability == capability)
    }

    /// Why memory cannot be registered although nobody forbade it and the kernel did not say it
    /// could not: the errno of the shortage in which that was tried.
    pub(crate) fn short_of(&self, allowed: Capabilities) -> Option<i32> {
        let proof = self.proof(Capability::RegisteredBuffers)?;
        proof.short_of.filter(|_| allowed.contains(Capability::RegisteredBuffers))
    }
}

/// Operations that a trial is spared when the kernel does not know them.
fn opcodes_there(capability: Capability, opcodes: &io_uring::Probe) -> Result<(), Why> {
    let needed: &[(u8, &str)] = match capability {
        Capability::ZeroCopySend => {
            &[(opcode::SendZc::CODE, "SEND_ZC"), (opcode::SendMsgZc::CODE, "SENDMSG_ZC")]
        }
        Capability::ZeroCopyReceive => &[(opcode::RecvZc::CODE, "RECV_ZC")],
        Capability::Futex => {
            &[(opcode::FutexWait::CODE, "FUTEX_WAIT"), (opcode::FutexWake::CODE, "FUTEX_WAKE")]
        }
        Capability::Messaging => &[(opcode::MsgRingData::CODE, "MSG_RING")],
        Capability::VectoredFixed => {
            &[(opcode::ReadvFixed::CODE, "READV_FIXED"), (opcode::SendMsgZc::CODE, "SENDMSG_ZC")]
        }
        _ => &[],
    };
    match needed.iter().find(|(code, _)| !opcodes.is_supported(*code)) {
        None => Ok(()),
        Some((_, name)) => Err(Why::Missing(format!("this kernel has no {name}"))),
    }
}

fn attempt(capability: Capability, bench: &mut Bench) -> Result<String, Why> {
    let missing = |reason: &str| Err(Why::Missing(reason.to_owned()));
    match capability {
        Capability::Multishot => multishot(bench),
        Capability::FixedFiles => fixed_files(bench),
        Capability::RegisteredBuffers => registered_buffers(bench),
        Capability::LinkedOperations => linked_operations(bench),
        Capability::ZeroCopySend => zero_copy_send(bench),
        Capability::ZeroCopyReceive => {
            missing("needs a NIC queue of its own, with header split; none is registered")
        }
        Capability::DmaBuf => missing("io_uring takes no dma-buf as the memory of an operation"),
        Capability::DeviceFence => missing("io_uring has no operation that waits for a fence"),
        Capability::AbsoluteTimeout => absolute_timeout(bench),
        Capability::Futex => futex(bench),
        Capability::Messaging => messaging(bench),
        Capability::BufferRings => buffer_rings(bench),
        Capability::IncrementalBuffers => incremental_buffers(bench),
        Capability::ReceiveBundles => receive_bundles(bench),
        Capability::VectoredFixed => vectored_fixed(bench),
    }
}

fn pipe() -> Result<(PipeReader, PipeWriter), Why> {
    io::pipe().map_err(Why::untried("pipe"))
}

fn sockets() -> Result<(UnixStream, UnixStream), Why> {
    UnixStream::pair().map_err(Why::untried("socketpair"))
}

fn put(to: &mut impl Write, bytes: &[u8]) -> Result<(), Why> {
    to.write_all(bytes).map_err(Why::untried("write"))
}

/// What the bench's memory begins with; nothing may be writing to it.
fn page<const N: usize>(bench: &mut Bench) -> [u8; N] {
    // SAFETY: a page of initialized bytes, read by value, with no completion outstanding for it.
    unsafe { bench.memory().cast::<[u8; N]>().read() }
}

fn bytes_are(bench: &mut Bench, what: &str, expected: &[u8; 8]) -> Result<(), Why> {
    match page::<8>(bench) {
        found if found == *expected => Ok(()),
        found => Err(Why::Missing(format!("{what}: wrong bytes {found:02x?}"))),
    }
}

fn multishot(bench: &mut Bench) -> Result<String, Why> {
    let (mut near, far) = sockets()?;
    let receive = opcode::RecvMulti::new(Fd(far.as_raw_fd()), FIRST_GROUP).build();
    bench.with_buffers(FIRST_GROUP, Consume::Whole, |bench| {
        twice(bench, "multishot receive", receive, 1, || put(&mut near, b"x"))
    })?;
    let (reader, mut writer) = pipe()?;
    let poll = opcode::PollAdd::new(Fd(reader.as_raw_fd()), libc::POLLIN as u32).multi(true);
    let ready = i32::from(libc::POLLIN);
    twice(bench, "multishot poll", poll.build(), ready, || put(&mut writer, b"x"))?;
    multishot_accept(bench)?;
    Ok("one receive, one poll and one accept completed twice each".to_owned())
}

/// One entry that completes with `expected` each of two times something happens, and stays armed.
fn twice(
    bench: &mut Bench,
    what: &str,
    entry: io_uring::squeue::Entry,
    expected: i32,
    mut happen: impl FnMut() -> Result<(), Why>,
) -> Result<(), Why> {
    // SAFETY: a selecting receive or a poll; it points at nothing.
    unsafe { bench.submit(&[entry])? };
    for _ in 0..2 {
        happen()?;
        stays_armed(what, bench.one()?.expect(what, expected)?)?;
    }
    bench.settle()
}

fn multishot_accept(bench: &mut Bench) -> Result<(), Why> {
    let what = "multishot accept";
    let listener = listener().map_err(Why::untried("a listening socket"))?;
    let address = listener.local_addr().map_err(Why::untried("getsockname"))?;
    // SAFETY: no address is asked for, so the entry points at nothing.
    unsafe { bench.submit(&[opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build()])? };
    for _ in 0..2 {
        let _peer = UnixStream::connect_addr(&address).map_err(Why::untried("connect"))?;
        let completion = bench.one()?;
        if completion.result < 0 {
            return Err(Why::refused(what, -completion.result));
        }
        // SAFETY: a descriptor just made for us.
        drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
        stays_armed(what, completion)?;
    }
    bench.settle()
}

/// A listener whose name the kernel chooses, so that it collides with nobody's.
fn listener() -> io::Result<UnixListener> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let family = libc::AF_UNIX as libc::sa_family_t;
    let length = size_of_val(&family) as libc::socklen_t;
    // SAFETY: an address of the family alone asks for a name (unix(7), autobind feature).
    let bound = unsafe { libc::bind(fd, (&raw const family).cast(), length) };
    // SAFETY: no pointers.
    if bound != 0 || unsafe { libc::listen(fd, 4) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

fn fixed_files(bench: &mut Bench) -> Result<String, Why> {
    let (reader, mut writer) = pipe()?;
    let mut table = FileTable::new(8);
    let index = table.insert(&mut bench.ring, reader.as_raw_fd())?;
    drop(reader);
    put(&mut writer, b"by index")?;
    let read = opcode::Read::new(Fixed(index), bench.memory().cast(), 8).build();
    // SAFETY: reads into the bench's memory.
    unsafe { bench.run(read)? }.expect("read by index", 8)?;
    bytes_are(bench, "read by index", b"by index")?;
    table.clear(&mut bench.ring, index)?;
    Ok("a sparse table took a pipe, and 8 bytes were read from it by index".to_owned())
}

/// Registers the page, runs `trial` with its index, and waits for its tag.
///
/// The table goes before that wait: Linux before 6.4 puts a release off by a second, unless the
/// whole table is given up.
fn with_fixed_page(
    bench: &mut Bench,
    trial: impl FnOnce(&mut Bench, u16) -> Result<(), Why>,
) -> Result<(), Why> {
    let mut table = BufferTable::new(8);
    let piece = (bench.memory().cast(), 4096);
    let index = table.insert_run(&mut bench.ring, &[piece], |_| TAG)?;
    let outcome = trial(bench, index as u16).and_then(|()| bench.settle());
    table.clear_run(&mut bench.ring, index, 1)?;
    let _ = bench.ring.submitter().unregister_buffers();
    let tag = bench.one();
    outcome?;
    match tag? {
        Completion { user_data: TAG, result: 0, .. } => Ok(()),
        other => Err(Why::Missing(format!("a cleared buffer announced {other}"))),
    }
}

fn registered_buffers(bench: &mut Bench) -> Result<String, Why> {
    let (reader, mut writer) = pipe()?;
    put(&mut writer, b"in place")?;
    with_fixed_page(bench, |bench, index| {
        let fd = Fd(reader.as_raw_fd());
        let read = opcode::ReadFixed::new(fd, bench.memory().cast(), 8, index).build();
        // SAFETY: reads into the bench's memory.
        unsafe { bench.run(read)? }.expect("READ_FIXED", 8)?;
        bytes_are(bench, "READ_FIXED", b"in place")
    })?;
    Ok("a sparse table took a page, READ_FIXED filled 8 bytes of it, and its tag told of its \
        release"
        .to_owned())
}

fn vectored_fixed(bench: &mut Bench) -> Result<String, Why> {
    let (reader, mut writer) = pipe()?;
    put(&mut writer, b"halves 2")?;
    with_fixed_page(bench, |bench, index| {
        let memory = bench.memory();
        // SAFETY: the bench's own memory, which no operation uses now.
        let vectors = unsafe {
            let at = |offset| memory.cast::<u8>().add(offset).cast();
            (*memory).vectors = [
                libc::iovec { iov_base: at(0), iov_len: 3 },
                libc::iovec { iov_base: at(3), iov_len: 5 },
            ];
            (&raw const (*memory).vectors).cast()
        };
        let fd = Fd(reader.as_raw_fd());
        let read = opcode::ReadvFixed::new(fd, vectors, 2, index).build();
        // SAFETY: the vectors and what they point at are the bench's memory.
        unsafe { bench.run(read)? }.expect("READV_FIXED", 8)?;
        bytes_are(bench, "READV_FIXED", b"halves 2")?;
        send_vectored_fixed(bench, index)
    })?;
    Ok("READV_FIXED filled two parts of a registered page, SENDMSG_ZC sent them from it".to_owned())
}

fn linked_operations(bench: &mut Bench) -> Result<String, Why> {
    let what = "linked operations";
    let nop = |user_data| opcode::Nop::new().build().user_data(user_data);
    let nowhere = opcode::Close::new(Fd(-1)).build().user_data(2);
    let chains = [nop(0).flags(Flags::IO_LINK), nop(1), nowhere.flags(Flags::IO_LINK), nop(3)];
    // SAFETY: these point at nothing.
    unsafe { bench.submit(&chains)? };
    let mut seen = bench.collect(4)?;
    seen.sort_by_key(|completion| completion.user_data);
    for (completion, expected) in seen.into_iter().zip([0, 0, -libc::EBADF, -libc::ECANCELED]) {
        completion.expect(what, expected)?;
    }
    Ok("of two chains one ran through, and the other stopped at its failed first step".to_owned())
}

fn absolute_timeout(bench: &mut Bench) -> Result<String, Why> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a local.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
        return Err(Why::untried("clock_gettime")(io::Error::last_os_error()));
    }
    // Already past as a point in time; as a duration it is the time since the machine started.
    let time = Timespec::new().sec(now.tv_sec as u64).nsec(now.tv_nsec as u32);
    let arguments = SubmitArgs::new().timespec(&time);
    let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG | EnterFlags::ABS_TIMER;
    // SAFETY: EXT_ARG goes with this type; nothing is submitted.
    let waited = unsafe { bench.ring.submitter().enter(0, 1, flags.bits(), Some(&arguments)) };
    match waited.map_err(|error| error.raw_os_error()) {
        Err(Some(libc::ETIME)) => {
            Ok("a wait until a moment that had passed ended at once".to_owned())
        }
        Err(Some(errno)) => Err(Why::refused("a wait until a point in time", errno)),
        other => Err(Why::Untried(format!("a wait until a point in time gave {other:?}"), None)),
    }
}

fn futex(bench: &mut Bench) -> Result<String, Why> {
    const PRIVATE_U32: u32 = 0x80 | 0x02;
    const ANY: u64 = u32::MAX as u64;
    // SAFETY: the bench's own memory.
    let word = unsafe { &raw const (*bench.memory()).word };
    let wait = opcode::FutexWait::new(word, 0, ANY, PRIVATE_U32).build().user_data(1);
    let wake = opcode::FutexWake::new(word, 1, ANY, PRIVATE_U32).build().user_data(2);
    // SAFETY: the word is the bench's memory.
    unsafe { bench.submit(&[wait, wake])? };
    let mut seen = bench.collect(2)?;
    seen.sort_by_key(|completion| completion.user_data);
    for (completion, (what, expected)) in
        seen.into_iter().zip([("FUTEX_WAIT", 0), ("FUTEX_WAKE", 1)])
    {
        completion.expect(what, expected)?;
    }
    Ok("FUTEX_WAKE woke one FUTEX_WAIT".to_owned())
}

fn messaging(bench: &mut Bench) -> Result<String, Why> {
    let setup = Setup { sq_entries: 1, cq_entries: 2, sqpoll: None, iopoll: false };
    let mut other = Ring::new(&setup).map_err(Why::untried("a second ring"))?;
    let message = opcode::MsgRingData::new(Fd(other.as_raw_fd()), 7, 9, None).build();
    // SAFETY: a message points at nothing.
    unsafe { bench.run(message)? }.expect("MSG_RING", 0)?;
    other
        .enter(1, Some(Duration::from_secs(1)))
        .map_err(Why::from_ring("waiting for a message"))?;
    let mut arrived = None;
    other.reap(1, |user_data, result, _| arrived = Some((user_data, result)));
    match arrived {
        Some((9, 7)) => Ok("a message arrived on a second ring".to_owned()),
        other => Err(Why::Missing(format!("MSG_RING: the other ring got {other:?}"))),
    }
}

fn buffer_rings(bench: &mut Bench) -> Result<String, Why> {
    let (mut near, far) = sockets()?;
    put(&mut near, b"selected")?;
    let fd = Fd(far.as_raw_fd());
    let receive = opcode::Recv::new(fd, std::ptr::null_mut(), 8).buf_group(FIRST_GROUP).build();
    bench.with_buffers(FIRST_GROUP, Consume::Whole, |bench| {
        // SAFETY: fills a buffer of the group, which is the bench's memory.
        let got = unsafe { bench.run(receive.flags(Flags::BUFFER_SELECT))? };
        let got = got.expect("receive from a buffer ring", 8)?;
        match cqueue::buffer_select(got.flags) {
            Some(0) => bytes_are(bench, "receive from a buffer ring", b"selected"),
            other => Err(Why::Missing(format!("receive from a buffer ring: selected {other:?}"))),
        }
    })?;
    Ok("a receive picked the first of four buffers and filled it".to_owned())
}

fn incremental_buffers(bench: &mut Bench) -> Result<String, Why> {
    let what = "receive into part of a buffer";
    let (mut near, far) = sockets()?;
    put(&mut near, b"in parts")?;
    bench.with_buffers(FIRST_GROUP, Consume::Incremental, |bench| {
        for (length, more) in [(3, true), (5, false)] {
            let fd = Fd(far.as_raw_fd());
            let receive =
                opcode::Recv::new(fd, std::ptr::null_mut(), length).buf_group(FIRST_GROUP).build();
            // SAFETY: fills a buffer of the group, which is the bench's memory.
            let got = unsafe { bench.run(receive.flags(Flags::BUFFER_SELECT))? };
            let got = got.expect(what, length as i32)?;
            let kept = cqueue::buffer_more(got.flags);
            if cqueue::buffer_select(got.flags) != Some(0) || kept != more {
                return Err(Why::Missing(format!("{what}: {got}")));
            }
        }
        bytes_are(bench, what, b"in parts")
    })?;
    Ok("two receives shared one buffer, and the last one used it up".to_owned())
}

fn receive_bundles(bench: &mut Bench) -> Result<String, Why> {
    if !bench.ring.params().is_feature_recvsend_bundle() {
        return Err(Why::Missing("this kernel has no RECVSEND_BUNDLE".to_owned()));
    }
    let what = "receive into a bundle";
    let (mut near, far) = sockets()?;
    put(&mut near, b"two full buffers")?;
    let receive = opcode::RecvBundle::new(Fd(far.as_raw_fd()), FIRST_GROUP).build();
    bench.with_buffers(FIRST_GROUP, Consume::Whole, |bench| {
        // SAFETY: fills buffers of the group, which are the bench's memory.
        unsafe { bench.run(receive)? }.expect(what, 16)?;
        match &page::<16>(bench) {
            b"two full buffers" => Ok(()),
            other => Err(Why::Missing(format!("{what}: wrong bytes {other:02x?}"))),
        }
    })?;
    Ok("one receive filled two buffers".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_proof_and_the_set_agrees() {
        let probe = Probe::run();
        if let Some(unavailable) = &probe.unavailable {
            eprintln!("skipped: {}", unavailable.message);
            return;
        }
        for (proof, capability) in probe.proofs.iter().zip(Capability::ALL) {
            println!("{:<20} {:?}: {}", proof.capability, proof.state, proof.proof);
            assert_eq!(proof.capability, capability);
            let available = proof.state == State::Available;
            assert_eq!(probe.capabilities.contains(capability), available);
            assert!(!proof.proof.is_empty());
        }
        println!("{:?}", probe.elapsed);
        assert_eq!(probe.proofs.len(), Capability::ALL.len());
        // What every kernel with DEFER_TASKRUN has, whatever its policy on the rest.
        assert!(probe.capabilities.contains(Capability::Multishot));
        let receive = probe.proof(Capability::ZeroCopyReceive).unwrap();
        assert_eq!(receive.state, State::Missing);
    }

    #[test]
    fn a_conclusive_answer_is_kept_and_another_agrees() {
        let (first, second) = (probe(), probe());
        assert_eq!(Arc::ptr_eq(&first, &second), first.conclusive);
        assert_eq!(Probe::run().capabilities, first.capabilities);
    }

    #[test]
    fn a_shortage_is_not_remembered_as_missing() {
        let mut answer = Probe::run();
        answer.note(Capability::Futex, Err(Why::refused("pipe", libc::EMFILE)));
        assert!(!answer.conclusive);
        let last = answer.proofs.last().unwrap();
        assert!(last.proof.starts_with("could not be tried: pipe"), "{}", last.proof);
        assert_eq!(last.short_of, Some(libc::EMFILE));
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let forbidden = Probe::without_ring(&denied, Duration::ZERO);
        assert!(forbidden.conclusive && forbidden.capabilities.is_empty());
        let short = io::Error::from_raw_os_error(libc::ENOMEM);
        assert!(!Probe::without_ring(&short, Duration::ZERO).conclusive);
    }
}
