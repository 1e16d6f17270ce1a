//! A stand-in for a sync_file, for machines without a device: it pends, signals and fails as told.
//!
//! It is a file of a file system of our own (`fuse(4)`) that answers `poll(2)` and the one ioctl
//! that makes a sync_file, SYNC_IOC_FILE_INFO, so that everything above the kernel takes it for
//! one. Its server is a process of its own: were it a thread, a process that exits while it polls
//! the file would wait for itself.
//!
//! # Unsafe
//!
//! The server is forked from a process with threads. So it makes system calls and touches memory on
//! its own stack, and nothing else: it allocates nothing, takes no lock and cannot panic.

#![allow(unsafe_code)]

use crate::Skip;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// The server of one fence; ends with it.
pub struct StandIn {
    control: File,
    server: libc::pid_t,
}

impl StandIn {
    /// A fence that pends, and what tells it to signal.
    ///
    /// # Errors
    ///
    /// What this process may not do here.
    pub fn new() -> Result<(StandIn, OwnedFd), Skip> {
        StandIn::serve().map_err(|error| {
            Skip(format!("no stand-in for a sync_file (needs /dev/fuse and mount(2)): {error}"))
        })
    }

    fn serve() -> io::Result<(StandIn, OwnedFd)> {
        let mut options = OpenOptions::new();
        let device =
            options.read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse")?;
        let mount = Mount::new(&device)?;
        let (told, control) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: the child does what a forked child of a process with threads may, see the head.
        let server = Errno::result(unsafe { libc::fork() })?;
        if server == 0 {
            Server::new(device.as_raw_fd(), told.as_raw_fd()).run();
        }
        // From here on dropping it ends the server.
        let stand_in = StandIn { control: File::from(control), server };
        // The open file keeps the file system when the mount goes.
        let fence = OpenOptions::new().read(true).write(true).open(&mount.path)?;
        Ok((stand_in, fence.into()))
    }

    /// It signals: 1 is success, a negative errno a failure.
    ///
    /// # Panics
    ///
    /// When the server is gone.
    pub fn signal(&self, status: i32) {
        self.tell([status, 0]);
    }

    /// The next `count` polls call it readable although it pends.
    ///
    /// # Panics
    ///
    /// When the server is gone.
    pub fn say_readable(&self, count: i32) {
        self.tell([0, count]);
    }

    fn tell(&self, words: [i32; 2]) {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&words[0].to_ne_bytes());
        bytes[4..].copy_from_slice(&words[1].to_ne_bytes());
        (&self.control).write_all(&bytes).expect("the server of the stand-in runs");
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody else waits for.
        unsafe {
            libc::kill(self.server, libc::SIGKILL);
            libc::waitpid(self.server, std::ptr::null_mut(), 0);
        }
    }
}

/// The file system, mounted over a file of its own. What the kernel asks waits for the server.
struct Mount {
    path: PathBuf,
    is_mounted: bool,
}

impl Mount {
    fn new(device: &File) -> io::Result<Mount> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dataplane-fence-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        File::create_new(&path)?;
        let mut mount = Mount { path, is_mounted: false };
        let number = device.as_raw_fd();
        let options = format!("fd={number},rootmode=100600,user_id=0,group_id=0");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some("fuse"), &mount.path, Some("fuse"), flags, Some(options.as_str()))?;
        mount.is_mounted = true;
        Ok(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What cannot be taken away stays behind; the fence works all the same.
        if self.is_mounted {
            let _ = nix::mount::umount2(&self.path, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Bytes the kernel wants to be able to hand over at once, and more.
const REQUEST_BYTES: usize = 16 << 10;
/// `struct fuse_in_header` and `struct fuse_out_header`.
const IN_BYTES: usize = 40;
const OUT_BYTES: usize = 16;
/// Waiters to be told; a test has a few.
const WAITERS: usize = 64;

/// Requests (`enum fuse_opcode`) that are answered, and those that want no answer.
mod request {
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const POLL: u32 = 40;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// SYNC_IOC_FILE_INFO, and the size of its structure.
const FILE_INFO: u32 = 0xc038_3e04;
const FILE_INFO_BYTES: usize = 56;

/// The forked process.
struct Server {
    device: RawFd,
    told: RawFd,
    status: i32,
    /// Polls that are still to be told a lie.
    lies: i32,
    waiters: [u64; WAITERS],
    waiting: usize,
}

/// An answer under way: a few words after the header.
struct Reply {
    bytes: [u8; 128],
    len: usize,
}

impl Reply {
    fn new() -> Reply {
        Reply { bytes: [0; 128], len: OUT_BYTES }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Reply {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
        self
    }

    fn word(&mut self, value: u32) -> &mut Reply {
        self.put(&value.to_ne_bytes())
    }

    fn long(&mut self, value: u64) -> &mut Reply {
        self.put(&value.to_ne_bytes())
    }

    fn zeros(&mut self, count: usize) -> &mut Reply {
        self.len = (self.len + count).min(self.bytes.len());
        self
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    if let Some(found) = bytes.get(at..at + 4) {
        value.copy_from_slice(found);
    }
    u32::from_ne_bytes(value)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

impl Server {
    fn new(device: RawFd, told: RawFd) -> Server {
        Server { device, told, status: 0, lies: 0, waiters: [0; WAITERS], waiting: 0 }
    }

    /// Until it is killed, or nobody is left to tell it anything.
    fn run(mut self) -> ! {
        let (low, high) = (self.device.min(self.told) as u32, self.device.max(self.told) as u32);
        let others = [(0, low.wrapping_sub(1)), (low + 1, high - 1), (high + 1, u32::MAX)];
        for (first, last) in others {
            if first <= last && last.wrapping_add(1) != first {
                // SAFETY: what the parent has open stays open there.
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            }
        }
        let mut buffer = [0; REQUEST_BYTES];
        loop {
            let mut fds = [self.device, self.told].map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: two of them.
            if unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) } < 0 {
                continue;
            }
            if fds[1].revents != 0 {
                self.listen();
            }
            if fds[0].revents != 0 {
                let at = buffer.as_mut_ptr().cast();
                // SAFETY: room for as much.
                let got = unsafe { libc::read(self.device, at, REQUEST_BYTES) };
                match usize::try_from(got).ok().and_then(|got| buffer.get(..got)) {
                    Some(request) if request.len() >= IN_BYTES => self.answer(request),
                    // The file system is gone: its last file was closed.
                    _ if fds[0].revents & libc::POLLERR != 0 => exit(),
                    _ => {}
                }
            }
        }
    }

    fn listen(&mut self) {
        let mut words = [0_i32; 2];
        // SAFETY: room for as much. A pipe gives what was written at once whole.
        let got = unsafe { libc::read(self.told, words.as_mut_ptr().cast(), 8) };
        if got != 8 {
            exit();
        }
        (self.status, self.lies) = (words[0], words[1]);
        let waiting = std::mem::take(&mut self.waiting);
        for index in 0..waiting.min(WAITERS) {
            // FUSE_NOTIFY_POLL: looks again at the file.
            let mut reply = Reply::new();
            reply.long(self.waiters[index]);
            self.send(0, 1, &mut reply);
        }
    }

    fn answer(&mut self, request: &[u8]) {
        let (code, unique) = (word(request, 4), long(request, 8));
        let mut reply = Reply::new();
        let mut error = 0;
        match code {
            request::FORGET | request::BATCH_FORGET | request::INTERRUPT => return,
            // Version 7.31; reads ahead, flags, background work: none; writes of a page at most.
            request::INIT => {
                reply.word(7).word(31).zeros(8).word(0).word(4096).word(1).zeros(36);
            }
            request::GETATTR => {
                // Valid for an hour: inode 1, a file of mode 600 with one name.
                reply.long(3600).zeros(8).long(1).zeros(52).word(libc::S_IFREG | 0o600).word(1);
                reply.zeros(12).word(4096).zeros(4);
            }
            request::OPEN => {
                reply.long(1).zeros(8);
            }
            request::RELEASE | request::FLUSH => {}
            request::POLL => self.poll(request, &mut reply),
            request::IOCTL if word(request, IN_BYTES + 12) == FILE_INFO => {
                let mut info = [0; FILE_INFO_BYTES];
                info[..8].copy_from_slice(b"stand-in");
                info[32..36].copy_from_slice(&self.status.to_ne_bytes());
                reply.zeros(16).put(&info);
            }
            request::IOCTL => error = -libc::ENOTTY,
            _ => error = -libc::ENOSYS,
        }
        self.send(unique, error, &mut reply);
    }

    fn poll(&mut self, request: &[u8], reply: &mut Reply) {
        let lies = self.lies > 0;
        self.lies -= i32::from(lies);
        let readable = self.status != 0 || lies;
        // FUSE_POLL_SCHEDULE_NOTIFY: this waiter wants to be told.
        if !readable && word(request, IN_BYTES + 16) & 1 != 0 {
            let waiter = long(request, IN_BYTES + 8);
            let known = self.waiters.iter().take(self.waiting).any(|&known| known == waiter);
            if !known && self.waiting < WAITERS {
                self.waiters[self.waiting] = waiter;
                self.waiting += 1;
            }
        }
        reply.word(if readable { libc::POLLIN as u32 } else { 0 }).zeros(4);
    }

    fn send(&self, unique: u64, error: i32, reply: &mut Reply) {
        let len = if error < 0 { OUT_BYTES } else { reply.len };
        reply.bytes[..4].copy_from_slice(&(len as u32).to_ne_bytes());
        reply.bytes[4..8].copy_from_slice(&error.to_ne_bytes());
        reply.bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        // SAFETY: so many bytes are there. A request that was taken back is nobody's any more.
        unsafe { libc::write(self.device, reply.bytes.as_ptr().cast(), len) };
    }
}

fn exit() -> ! {
    // SAFETY: ends this process at once, without anything of the parent's being run.
    unsafe { libc::_exit(0) }
}
