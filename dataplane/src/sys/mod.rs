//! The system, called plainly: what the readiness backend does instead of a ring, and what every
//! backend needs beside one. Nothing here knows of operations, slots or the loop.
//!
//! Unsafe code is in the tests of this file: raw calls that make descriptors, signals and terminals
//! to try the functions on.

pub(crate) mod calls;
pub mod diagnose;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod helpers;
pub(crate) mod limits;
pub(crate) mod rights;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod words;

/// The calls against real descriptors. Those that must not sleep are made on blocking ones: a
/// test that hangs shows one that does.
#[cfg(test)]
mod tests {
    use super::calls::*;
    use super::sockets::{self, Kind, SocketOptions};
    use crate::engine::descriptors::{Alignment, Class};
    use crate::io::Address;
    use crate::op::Interest;
    use regions::{Lease, Slab, Span};
    use std::ffi::CString;
    use std::fs::{self, File, OpenOptions};
    use std::io::{Read, Seek, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const READABLE: Interest = Interest::READABLE;
    const WRITABLE: Interest = Interest::WRITABLE;

    fn lease(bytes: usize) -> Lease {
        Slab::new(1, bytes).unwrap().lease().unwrap()
    }

    /// A path that goes away with its owner.
    struct Scrap(PathBuf);

    impl Scrap {
        fn new(name: &str) -> Scrap {
            Scrap(std::env::temp_dir().join(format!("dataplane-{}-{name}", std::process::id())))
        }

        fn open(&self, flags: i32) -> File {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(flags)
                .open(&self.0)
                .unwrap()
        }
    }

    impl Drop for Scrap {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    /// The descriptor a call returned, owned.
    #[allow(unsafe_code)]
    fn own(result: i32) -> OwnedFd {
        assert!(result >= 0, "errno {}", -result);
        // SAFETY: a new descriptor that nobody else knows.
        unsafe { OwnedFd::from_raw_fd(result) }
    }

    /// The line of a descriptor's `flags` in /proc, which also says close-on-exec.
    fn flags(fd: RawFd) -> i32 {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        i32::from_str_radix(line.trim(), 8).unwrap()
    }

    fn is_blocking(fd: RawFd) -> bool {
        flags(fd) & libc::O_NONBLOCK == 0
    }

    #[test]
    fn accept_never_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = listener.as_raw_fd();
        assert_eq!(accept(fd), -libc::EAGAIN);
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = own(accept(fd));
        assert_ne!(flags(accepted.as_raw_fd()) & libc::O_CLOEXEC, 0);
        client.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        TcpStream::from(accepted).read_exact(&mut text).unwrap();
        assert_eq!((&text, accept(fd)), (b"hello", -libc::EAGAIN));
        assert!(is_blocking(fd));
        assert_eq!(accept(client.as_raw_fd()), -libc::EINVAL);
        assert_eq!(accept(-1), -libc::EBADF);
    }

    #[test]
    fn send_and_receive_from_an_offset() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut lease = lease(64);
        assert_eq!(recv(there.as_raw_fd(), &mut lease, 0), -libc::EAGAIN);
        let span = Span::from("0123456789");
        assert_eq!(send(here.as_raw_fd(), &span, 4, libc::MSG_NOSIGNAL), 6);
        lease[..2].copy_from_slice(b"ab");
        assert_eq!(recv(there.as_raw_fd(), &mut lease, 2), 6);
        assert_eq!(&lease[..8], b"ab456789");
        assert_eq!(shutdown(here.as_raw_fd(), libc::SHUT_WR), 0);
        assert_eq!(recv(there.as_raw_fd(), &mut lease, 0), 0);
        drop(there);
        assert_eq!(send(here.as_raw_fd(), &span, 0, libc::MSG_NOSIGNAL), -libc::EPIPE);
        assert_eq!(shutdown(-1, libc::SHUT_WR), -libc::EBADF);
    }

    #[test]
    fn a_full_socket_takes_no_more() {
        let (here, there) = UnixStream::pair().unwrap();
        let span = Span::from(vec![7; 100_000]);
        let mut sent = 0;
        let last = loop {
            match send(here.as_raw_fd(), &span, 0, libc::MSG_NOSIGNAL) {
                bytes @ 1.. => sent += bytes as usize,
                last => break last,
            }
        };
        assert_eq!((last, poll_now(here.as_raw_fd(), WRITABLE)), (-libc::EAGAIN, 0));
        let (mut lease, mut received) = (lease(1 << 16), 0);
        while received < sent {
            let bytes = recv(there.as_raw_fd(), &mut lease, 0);
            assert!(bytes > 0, "errno {}", -bytes);
            received += bytes as usize;
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn readiness_now() {
        let (here, there) = UnixStream::pair().unwrap();
        let fd = here.as_raw_fd();
        assert_eq!(poll_now(fd, READABLE), 0);
        assert_eq!(poll_now(fd, READABLE | WRITABLE), i32::from(libc::POLLOUT));
        drop(there);
        let seen = Interest::from_bits(poll_now(fd, READABLE) as u32);
        assert!(seen.contains(READABLE | Interest::HANG_UP), "{seen:?}");
        assert_eq!(poll_now(1 << 20, READABLE), -libc::EBADF);
        assert_eq!(poll_now(-1, READABLE), -libc::EBADF);
    }

    fn blocking(domain: i32) -> OwnedFd {
        sockets::make(domain, Kind::Stream, &SocketOptions::new(), false).unwrap()
    }

    #[test]
    fn connect_goes_on_by_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        let socket = blocking(libc::AF_INET);
        let fd = socket.as_raw_fd();
        let result = connect_nonblocking(fd, &address);
        assert!(result == 0 || result == -libc::EINPROGRESS, "errno {}", -result);
        assert!(is_blocking(fd));
        listener.accept().unwrap();
        assert_eq!((poll_now(fd, WRITABLE), socket_error(fd)), (libc::POLLOUT.into(), 0));
        assert_eq!(sockets::peer_address(fd).unwrap(), address);
    }

    #[test]
    fn a_refused_connect_says_so_once() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = blocking(libc::AF_INET);
        let fd = socket.as_raw_fd();
        match connect_nonblocking(fd, &address.into()) {
            result if result == -libc::EINPROGRESS => {
                while poll_now(fd, WRITABLE) == 0 {
                    std::thread::yield_now();
                }
                assert_eq!(socket_error(fd), libc::ECONNREFUSED);
                assert_eq!(socket_error(fd), 0);
            }
            result => assert_eq!(result, -libc::ECONNREFUSED),
        }
        assert_eq!(socket_error(-1), libc::EBADF);
    }

    #[test]
    fn a_full_unix_backlog_is_not_waited_for() {
        let address = Address::abstract_name(b"dataplane test: full backlog").unwrap();
        let listener = blocking(libc::AF_UNIX);
        sockets::bind(listener.as_raw_fd(), &address).unwrap();
        sockets::listen(listener.as_raw_fd(), 1).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            let socket = blocking(libc::AF_UNIX);
            match connect_nonblocking(socket.as_raw_fd(), &address) {
                0 => waiting.push(socket),
                result => break (result, is_blocking(socket.as_raw_fd())),
            }
        };
        assert_eq!(refused, (-libc::EAGAIN, true));
        assert!(!waiting.is_empty());
    }

    #[test]
    fn open_close_and_duplicate() {
        let scrap = Scrap::new("open");
        let path = CString::new(scrap.0.as_os_str().as_bytes()).unwrap();
        assert_eq!(open(&path, libc::O_RDONLY, 0), -libc::ENOENT);
        let fd = open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC, 0o600);
        assert!(fd >= 0);
        let mut copy = File::from(dup(fd).unwrap());
        assert_ne!(flags(copy.as_raw_fd()) & libc::O_CLOEXEC, 0);
        assert_eq!(close(fd), 0);
        copy.write_all(b"12345").unwrap();
        assert_eq!(file_bytes(copy.as_raw_fd()).unwrap(), 5);
        assert_eq!(close(1 << 20), -libc::EBADF);
        assert!(dup(-1).is_err());
        assert!(file_bytes(-1).is_err());
    }

    #[test]
    #[allow(unsafe_code)]
    fn jobs_read_and_write_at_an_offset_or_the_position() {
        let scrap = Scrap::new("jobs");
        let mut file = scrap.open(0);
        let fd = file.as_raw_fd();
        let (text, mut lease) = (Span::from("0123456789"), lease(64));
        let write = |at: u64, from: usize| {
            // SAFETY: span and file outlive the job, which runs here and now.
            let job = unsafe { write_job(fd, text.as_ptr().wrapping_add(from), 10 - from, at) };
            job()
        };
        let mut read = |at: u64| {
            // SAFETY: as above, and the lease is used by nobody else.
            let job = unsafe { read_job(fd, lease.as_mut_ptr(), lease.len(), at) };
            let bytes = job();
            assert!(bytes >= 0, "errno {}", -bytes);
            String::from_utf8(lease[..bytes as usize].to_vec()).unwrap()
        };
        assert_eq!(write(u64::MAX, 0), 10);
        assert_eq!(write(8, 4), 6);
        assert_eq!((read(5).as_str(), read(14).as_str()), ("567456789", ""));
        assert_eq!(read(u64::MAX), "6789"); // the position is behind the first write
        file.rewind().unwrap();
        assert_eq!(read(u64::MAX), "01234567456789");
        assert_eq!((sync(fd, true), sync(fd, false), sync(-1, true)), (0, 0, -libc::EBADF));
    }

    /// Until there is no more room; how much that was.
    fn fill(fd: RawFd, span: &Span, write: impl Fn(RawFd, &Span, usize) -> i32) -> usize {
        let mut total = 0;
        loop {
            match write(fd, span, 1) {
                bytes @ 1.. => total += bytes as usize,
                last => {
                    assert_eq!(last, -libc::EAGAIN);
                    return total;
                }
            }
        }
    }

    #[test]
    fn blocking_pipes_are_not_waited_for() {
        let pair = pipe().unwrap();
        let (reader, writer) = (pair.reader.as_raw_fd(), pair.writer.as_raw_fd());
        assert!(is_blocking(reader) && is_blocking(writer));
        assert!(pair.capacity_bytes >= 4096);
        let mut lease = lease(4 << 20);
        assert_eq!(read(reader, &mut lease), -libc::EAGAIN);
        let span = Span::from(vec![3; 4097]);
        let total = fill(writer, &span, write_some);
        assert_eq!(total, pair.capacity_bytes);
        assert_eq!(read(reader, &mut lease) as usize, total);
        drop(pair.writer);
        assert_eq!(read(reader, &mut lease), 0);
    }

    /// A terminal refuses RWF_NOWAIT, so it takes the other way.
    #[test]
    #[allow(unsafe_code)]
    fn blocking_terminals_are_not_waited_for() {
        let control = open(c"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC, 0);
        if control < 0 {
            eprintln!("SKIPPED: no pseudo terminals here (errno {})", -control);
            return;
        }
        let control = own(control);
        let (fd, unlocked) = (control.as_raw_fd(), 0);
        // SAFETY: both read at most an int.
        let terminal = unsafe {
            assert_eq!(libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlocked), 0);
            own(libc::ioctl(fd, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY))
        };
        assert_eq!(classify(fd).unwrap(), Class::Other);
        let mut lease = lease(64);
        assert_eq!(read(terminal.as_raw_fd(), &mut lease), -libc::EAGAIN);
        let line = Span::from("a line\n");
        assert_eq!(write_some(fd, &line, 2), 5);
        while poll_now(terminal.as_raw_fd(), READABLE) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(read(terminal.as_raw_fd(), &mut lease), 5);
        assert_eq!(&lease[..5], b"line\n");
    }

    /// A signal whose handler does not restart calls ends them with EINTR.
    #[test]
    #[allow(unsafe_code)]
    fn an_interrupted_call_is_made_again() {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn count(_: i32) {
            SEEN.fetch_add(1, Ordering::SeqCst);
        }
        let pair = pipe().unwrap();
        let (reader, mut lease) = (pair.reader.as_raw_fd(), lease(16));
        let (told, thread_id) = mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            // SAFETY: gettid takes nothing; lease and pipe outlive the job, which runs here.
            let job = unsafe {
                told.send(libc::gettid()).unwrap();
                read_job(reader, lease.as_mut_ptr(), lease.len(), u64::MAX)
            };
            (job(), lease)
        });
        let thread_id = thread_id.recv().unwrap();
        // SAFETY: the handler touches one atomic; sa_flags is zero, without SA_RESTART.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(i32) as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
        }
        for round in 0..3 {
            // The number of the call it sleeps in, or "running".
            let path = format!("/proc/self/task/{thread_id}/syscall");
            let in_read = format!("{} ", libc::SYS_read);
            while !fs::read_to_string(&path).unwrap().starts_with(&in_read) {
                std::thread::yield_now();
            }
            // SAFETY: the thread lives until it is joined below.
            let sent = unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), thread_id, libc::SIGUSR1)
            };
            assert_eq!(sent, 0);
            while SEEN.load(Ordering::SeqCst) <= round {
                std::thread::yield_now();
            }
        }
        assert_eq!(write_some(pair.writer.as_raw_fd(), &Span::from("at last"), 0), 7);
        let (result, lease) = sleeper.join().unwrap();
        assert_eq!((result, &lease[..7]), (7, &b"at last"[..]));
    }

    #[test]
    fn a_file_goes_through_a_pipe_to_a_socket() {
        let scrap = Scrap::new("splice");
        let mut file = scrap.open(0);
        file.write_all(b"0123456789").unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        let (pair, fd) = (pipe().unwrap(), here.as_raw_fd());
        let (from, to) = (file.as_raw_fd(), pair.writer.as_raw_fd());
        assert_eq!(splice_out(&pair.reader, fd, 100), -libc::EAGAIN); // an empty pipe
        assert_eq!(splice_in(from, 4, to, 100), 6);
        assert_eq!(splice_in(from, 10, to, 100), 0);
        assert_eq!(splice_out(&pair.reader, fd, 6), 6);
        let mut text = [0; 6];
        there.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"456789");
        file.rewind().unwrap();
        assert_eq!(splice_in(from, u64::MAX, to, 3), 3);
        assert_eq!(file.stream_position().unwrap(), 3);
        let full = Span::from(vec![1; 5000]);
        fill(fd, &full, |fd, span, from| send(fd, span, from, libc::MSG_NOSIGNAL));
        assert_eq!(splice_out(&pair.reader, fd, 3), -libc::EAGAIN);
        assert!(is_blocking(fd));
    }

    #[test]
    fn descriptors_are_told_apart() {
        let scrap = Scrap::new("classes");
        let file = Class::File { direct: None };
        let (stream, _peer) = UnixStream::pair().unwrap();
        let listener = UnixListener::bind(&scrap.0).unwrap();
        let packets = (libc::AF_UNIX, Kind::SeqPacket);
        let packets = sockets::make(packets.0, packets.1, &SocketOptions::new(), true).unwrap();
        let pair = pipe().unwrap();
        let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
        let table: Vec<(&str, OwnedFd, Class)> = vec![
            ("stream", stream.into(), Class::Stream),
            ("new stream", blocking(libc::AF_INET6), Class::Stream),
            ("packets", packets, Class::Stream),
            ("listener", listener.into(), Class::Listener),
            ("tcp listener", TcpListener::bind("[::1]:0").unwrap().into(), Class::Listener),
            ("udp", UdpSocket::bind("127.0.0.1:0").unwrap().into(), Class::Datagram),
            ("datagrams", UnixDatagram::unbound().unwrap().into(), Class::Datagram),
            ("pipe", pair.reader, Class::Other),
            ("program", open("/proc/self/exe"), file),
            ("kernel's text", open("/proc/self/mounts"), file), // regular, though epoll takes it
            ("directory", open("/"), file),
            ("zeros", open("/dev/zero"), file),
            ("random", open("/dev/random"), Class::Other),
        ];
        for (name, fd, class) in table {
            assert_eq!(classify(fd.as_raw_fd()).unwrap(), class, "{name}");
        }
        assert_eq!(classify(1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    #[allow(unsafe_code)]
    fn handles_without_a_path_are_told_apart() {
        // SAFETY: a name that ends with a NUL, and numbers; each makes a new descriptor.
        let (memory, event, process) = unsafe {
            (
                own(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)),
                own(libc::eventfd(0, libc::EFD_CLOEXEC)),
                own(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) as i32),
            )
        };
        assert_eq!(classify(memory.as_raw_fd()).unwrap(), Class::File { direct: None });
        assert_eq!(classify(event.as_raw_fd()).unwrap(), Class::Other);
        assert_eq!(classify(process.as_raw_fd()).unwrap(), Class::Other);
        assert_eq!(read(event.as_raw_fd(), &mut lease(8)), -libc::EAGAIN);
    }

    #[test]
    #[allow(unsafe_code)]
    fn direct_files_say_their_alignment_and_take_it() {
        let scrap = Scrap::new("direct");
        scrap.open(0).write_all(&[5; 1 << 16]).unwrap();
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&scrap.0);
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                eprintln!("SKIPPED: no O_DIRECT in {}: {error}", scrap.0.display());
                return;
            }
        };
        let class = classify(file.as_raw_fd()).unwrap();
        let Class::File { direct: Some(Alignment { memory_bytes, offset_bytes }) } = class else {
            panic!("{class:?}")
        };
        eprintln!("memory {memory_bytes}, offsets {offset_bytes}");
        assert!(memory_bytes.is_power_of_two() && offset_bytes.is_power_of_two());
        let mut memory = vec![0_u8; 2 * memory_bytes as usize + offset_bytes as usize];
        let skip = memory.as_ptr().align_offset(memory_bytes as usize);
        let (at, bytes) = (memory[skip..].as_mut_ptr(), offset_bytes as usize);
        // SAFETY: the memory outlives the job, which runs here and now, and holds `bytes` there.
        let job = unsafe { read_job(file.as_raw_fd(), at, bytes, offset_bytes.into()) };
        assert_eq!(job(), offset_bytes as i32);
        assert_eq!(&memory[skip..skip + bytes], &vec![5; bytes][..]);
    }

    #[test]
    fn a_block_device_says_its_size() {
        let found = fs::read_dir("/sys/block").into_iter().flatten().flatten().find_map(|entry| {
            let sectors = fs::read_to_string(entry.path().join("size")).ok()?;
            let sectors: u64 = sectors.trim().parse().ok()?;
            let device = File::open(PathBuf::from("/dev").join(entry.file_name())).ok()?;
            Some((device, sectors))
        });
        let Some((device, sectors)) = found else {
            eprintln!("SKIPPED: no block device that may be opened");
            return;
        };
        assert_eq!(file_bytes(device.as_raw_fd()).unwrap(), sectors * 512);
        assert_eq!(classify(device.as_raw_fd()).unwrap(), Class::File { direct: None });
    }
}
