//! The sparse tables of fixed buffers and fixed files of one ring.
//!
//! Each table is registered empty when its first entry is needed, as large as the kernel allows up
//! to what was asked for, and belongs to the thread of its ring. A table hands out indices and
//! keeps their state; it neither owns the memory nor duplicates the descriptors behind them (the
//! kernel pins pages and holds file references of its own).
//!
//! # When an entry may be used again
//!
//! A fixed buffer lives as long as an operation uses it, whatever the table says. Every buffer is
//! registered with a tag; clearing the entry lets go of it, and a completion with the tag as its
//! user data says that the last operation on it is over. Until [`BufferTable::on_tag`] is told of
//! it, the entry is `Clearing`: its memory may not be released and its index is not handed out.
//!
//! The kernel finds an entry when it *issues* an operation, which for a later link of a chain, or
//! an entry that is only staged, has not happened yet. So an index is cleared only when nothing
//! staged or queued behind a link names it; what already runs is covered by the tag. A cleared
//! file's index is free at once under the same rule.
//!
//! Unsafe code: one registration call that the crate makes without its count. See
//! io_uring_register(2), IORING_REGISTER_BUFFERS_UPDATE.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::ring::Ring;

/// Most fixed buffers a ring may have; more is EINVAL.
pub(crate) const BUFFERS_MAX: u32 = 16_384;
/// Most fixed files a ring may have; RLIMIT_NOFILE is usually the tighter limit.
pub(crate) const FILES_MAX: u32 = 1 << 20;

const IORING_REGISTER_BUFFERS_UPDATE: libc::c_uint = 16;

/// Which table an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Fixed buffers.
    Buffers,
    /// Fixed files.
    Files,
}

/// Why a table took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableError {
    /// No run of `wanted` free entries; entries still being cleared count as used.
    Exhausted { kind: Kind, wanted: usize, used: u32, maximum: u32 },
    /// The kernel refused item `at` of those given. Nothing of the request stays in the table.
    Refused { kind: Kind, errno: i32, at: usize },
    /// The kernel makes no table of any size.
    Unavailable { kind: Kind, errno: i32 },
}

impl TableError {
    /// The kernel's code, if it was the kernel that said no.
    pub(crate) fn errno(self) -> Option<i32> {
        match self {
            TableError::Exhausted { .. } => None,
            TableError::Refused { errno, .. } | TableError::Unavailable { errno, .. } => {
                Some(errno)
            }
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = |kind| if kind == Kind::Buffers { "buffer" } else { "file" };
        match *self {
            TableError::Exhausted { kind, wanted, used, maximum } => write!(
                f,
                "fixed {} table: no {wanted} free entries in a row, {used} of {maximum} used; \
                 unregister something first",
                noun(kind)
            ),
            TableError::Refused { kind, errno, at } => write!(
                f,
                "fixed {} table: item {at} refused: {}{}",
                noun(kind),
                io::Error::from_raw_os_error(errno),
                remedy(kind, errno)
            ),
            TableError::Unavailable { kind, errno } => write!(
                f,
                "fixed {} table: not available: {}{}",
                noun(kind),
                io::Error::from_raw_os_error(errno),
                remedy(kind, errno)
            ),
        }
    }
}

fn remedy(kind: Kind, errno: i32) -> &'static str {
    match (kind, errno) {
        (Kind::Buffers, libc::EFAULT) => {
            "; not mapped, larger than 1 GiB, or a mapping that cannot be pinned (a shared file \
             mapping, a mapped dma-buf): copy through a slab instead"
        }
        (Kind::Buffers, libc::ENOMEM) => {
            "; more than RLIMIT_MEMLOCK allows to pin: raise it (ulimit -l) or register less"
        }
        (Kind::Files, libc::EMFILE) => "; raise RLIMIT_NOFILE",
        (Kind::Files, libc::EBADF) => "; not an open descriptor",
        _ => "",
    }
}

impl std::error::Error for TableError {}

/// Registers a sparse table of at most `wanted` entries, halving while the kernel says that this
/// is too many; answers the size it got.
fn register_sparse(
    kind: Kind,
    wanted: u32,
    register: impl Fn(u32) -> io::Result<()>,
) -> Result<u32, TableError> {
    let mut size = wanted;
    loop {
        let Err(error) = register(size) else { return Ok(size) };
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        match errno {
            libc::EINVAL | libc::ENOMEM | libc::EMFILE if size > 1 => size /= 2,
            _ => return Err(TableError::Unavailable { kind, errno }),
        }
    }
}

/// Entries taken (a set bit), with first-fit search for runs.
#[derive(Debug, Default)]
struct Taken {
    words: Vec<u64>,
    size: u32,
    used: u32,
}

impl Taken {
    fn new(size: u32) -> Taken {
        Taken { words: vec![0; size.div_ceil(64) as usize], size, used: 0 }
    }

    fn contains(&self, index: u32) -> bool {
        index < self.size && self.words[index as usize / 64] & (1 << (index % 64)) != 0
    }

    fn set(&mut self, index: u32, taken: bool) {
        if self.contains(index) == taken {
            return;
        }
        self.words[index as usize / 64] ^= 1 << (index % 64);
        if taken { self.used += 1 } else { self.used -= 1 }
    }

    /// The first run of `length` free entries.
    fn find_run(&self, length: u32) -> Option<u32> {
        let (mut first, mut index) = (0, 0);
        while index < self.size {
            let word = self.words[index as usize / 64];
            if index.is_multiple_of(64) && word == u64::MAX {
                index += 64;
                first = index;
                continue;
            }
            index += 1;
            if word & (1 << ((index - 1) % 64)) != 0 {
                first = index;
            } else if index - first == length {
                return Some(first);
            }
        }
        None
    }
}

/// The fixed buffers of one ring.
#[derive(Debug)]
pub(crate) struct BufferTable {
    wanted: u32,
    registered: bool,
    taken: Taken,
    clearing: Taken,
}

impl BufferTable {
    /// A table of at most `wanted` entries, at most [`BUFFERS_MAX`]; registered at first use.
    pub(crate) fn new(wanted: u32) -> BufferTable {
        let wanted = wanted.clamp(1, BUFFERS_MAX);
        BufferTable {
            wanted,
            registered: false,
            taken: Taken::default(),
            clearing: Taken::default(),
        }
    }

    /// Registers the empty table now, if it is not yet; the size it got.
    pub(crate) fn prepare(&mut self, ring: &Ring) -> Result<u32, TableError> {
        if !self.registered {
            let register = |size| ring.submitter().register_buffers_sparse(size);
            let size = register_sparse(Kind::Buffers, self.wanted, register)?;
            self.taken = Taken::new(size);
            self.clearing = Taken::new(size);
            self.registered = true;
        }
        Ok(self.taken.size)
    }

    /// Registers `pieces` (address and length in bytes, 1 to 2^30 each) at consecutive indices and
    /// answers the first; `tag_of(i)` is the user data of the completion that will say that entry
    /// `i` is released. It must not be zero: zero means no tag.
    ///
    /// All or nothing. When the kernel refuses one piece, those before it are cleared again, and
    /// their tags do arrive.
    pub(crate) fn insert_run(
        &mut self,
        ring: &mut Ring,
        pieces: &[(*mut u8, usize)],
        tag_of: impl Fn(u32) -> u64,
    ) -> Result<u32, TableError> {
        let maximum = self.prepare(ring)?;
        let exhausted = TableError::Exhausted {
            kind: Kind::Buffers,
            wanted: pieces.len(),
            used: self.used(),
            maximum,
        };
        let length = u32::try_from(pieces.len()).map_err(|_| exhausted)?;
        if length == 0 {
            return Err(TableError::Refused { kind: Kind::Buffers, errno: libc::EINVAL, at: 0 });
        }
        let first = self.taken.find_run(length).ok_or(exhausted)?;
        let iovecs: Vec<libc::iovec> = pieces
            .iter()
            .map(|&(base, len)| libc::iovec { iov_base: base.cast(), iov_len: len })
            .collect();
        let tags: Vec<u64> = (first..first + length).map(tag_of).collect();
        debug_assert!(!tags.contains(&0));
        let mut done = 0;
        while done < pieces.len() {
            // A null base would be an empty entry, which is no buffer to hand out.
            let refused = match iovecs[done].iov_base.is_null() {
                true => Err(libc::EFAULT),
                false => update_buffers(ring, first + done as u32, &iovecs[done..], &tags[done..]),
            };
            match refused {
                Ok(count) => {
                    (done..done + count).for_each(|at| self.taken.set(first + at as u32, true));
                    done += count;
                }
                Err(errno) => {
                    self.clear_run(ring, first, done as u32)?;
                    return Err(TableError::Refused { kind: Kind::Buffers, errno, at: done });
                }
            }
        }
        Ok(first)
    }

    /// Empties `count` entries from `first`. Each becomes usable again when its tag has arrived.
    ///
    /// Nothing staged, and nothing queued behind a link, may still name them.
    pub(crate) fn clear_run(
        &mut self,
        ring: &mut Ring,
        first: u32,
        count: u32,
    ) -> Result<(), TableError> {
        let refused =
            |errno, at: u32| TableError::Refused { kind: Kind::Buffers, errno, at: at as usize };
        let live = |index| self.taken.contains(index) && !self.clearing.contains(index);
        if let Some(stray) = (0..count).find(|at| !live(first + at)) {
            return Err(refused(libc::ENOENT, stray));
        }
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let iovecs = vec![empty; count as usize];
        let tags = vec![0; count as usize];
        let mut done = 0;
        while done < count {
            let rest = done as usize..;
            let cleared = update_buffers(ring, first + done, &iovecs[rest.clone()], &tags[rest]);
            let cleared = cleared.map_err(|errno| refused(errno, done))? as u32;
            (done..done + cleared).for_each(|at| self.clearing.set(first + at, true));
            done += cleared;
        }
        Ok(())
    }

    /// The tag completion of `index` has arrived: the kernel is done with its memory, and the
    /// index is free. `false` when the entry was not being cleared, which is a stray tag.
    pub(crate) fn on_tag(&mut self, index: u32) -> bool {
        if !self.clearing.contains(index) {
            return false;
        }
        self.clearing.set(index, false);
        self.taken.set(index, false);
        true
    }

    /// Entries in use, those being cleared included.
    pub(crate) fn used(&self) -> u32 {
        self.taken.used
    }

    /// Entries whose tag has not arrived yet.
    #[cfg(test)]
    pub(crate) fn clearing(&self) -> u32 {
        self.clearing.used
    }

    /// Entries the table has, or would ask for.
    #[cfg(test)]
    pub(crate) fn maximum(&self) -> u32 {
        if self.registered { self.taken.size } else { self.wanted }
    }
}

/// `struct io_uring_rsrc_update2` of the kernel's interface.
#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
    tags: u64,
    count: u32,
    reserved2: u32,
}

/// Updates entries from `offset`; how many the kernel did before it stopped, or why it did none.
///
/// The crate's call forgets the count, and a refusal in the middle is only visible in it.
fn update_buffers(
    ring: &Ring,
    offset: u32,
    iovecs: &[libc::iovec],
    tags: &[u64],
) -> Result<usize, i32> {
    let update = Update {
        offset,
        reserved: 0,
        data: iovecs.as_ptr() as u64,
        tags: tags.as_ptr() as u64,
        count: iovecs.len().min(tags.len()) as u32,
        reserved2: 0,
    };
    // SAFETY: the structure and both arrays are read during the call only. Registering pins the
    // pages; data moves only for entries pushed later, under the promise made there.
    let done = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_BUFFERS_UPDATE,
            &raw const update,
            size_of::<Update>() as libc::c_uint,
        )
    };
    match done {
        1.. => Ok(done as usize),
        0 => Err(libc::EIO),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// The fixed files of one ring.
#[derive(Debug)]
pub(crate) struct FileTable {
    wanted: u32,
    registered: bool,
    taken: Taken,
}

impl FileTable {
    /// A table of at most `wanted` entries, at most [`FILES_MAX`]; registered at first use.
    pub(crate) fn new(wanted: u32) -> FileTable {
        let wanted = wanted.clamp(1, FILES_MAX);
        FileTable { wanted, registered: false, taken: Taken::default() }
    }

    /// Registers the empty table now, if it is not yet; the size it got.
    pub(crate) fn prepare(&mut self, ring: &Ring) -> Result<u32, TableError> {
        if !self.registered {
            let register = |size| ring.submitter().register_files_sparse(size);
            self.taken = Taken::new(register_sparse(Kind::Files, self.wanted, register)?);
            self.registered = true;
        }
        Ok(self.taken.size)
    }

    /// Puts `fd` at a free index and answers it. The kernel takes a reference of its own: the file
    /// stays open until the entry is cleared, even if `fd` is closed.
    pub(crate) fn insert(&mut self, ring: &mut Ring, fd: RawFd) -> Result<u32, TableError> {
        let maximum = self.prepare(ring)?;
        let (kind, used) = (Kind::Files, self.used());
        let full = TableError::Exhausted { kind, wanted: 1, used, maximum };
        let index = self.taken.find_run(1).ok_or(full)?;
        if fd < 0 {
            return Err(TableError::Refused { kind, errno: libc::EBADF, at: 0 });
        }
        self.write(ring, index, fd)?;
        self.taken.set(index, true);
        Ok(index)
    }

    /// Empties `index`, which is free at once: an operation that runs holds the file, not the
    /// entry. Nothing staged, and nothing queued behind a link, may still name it.
    pub(crate) fn clear(&mut self, ring: &mut Ring, index: u32) -> Result<(), TableError> {
        if !self.taken.contains(index) {
            return Err(TableError::Refused { kind: Kind::Files, errno: libc::ENOENT, at: 0 });
        }
        self.write(ring, index, -1)?;
        self.taken.set(index, false);
        Ok(())
    }

    fn write(&self, ring: &mut Ring, index: u32, fd: RawFd) -> Result<(), TableError> {
        let refused = |errno| TableError::Refused { kind: Kind::Files, errno, at: 0 };
        match ring.submitter().register_files_update(index, &[fd]) {
            Ok(1..) => Ok(()),
            Ok(0) => Err(refused(libc::EIO)),
            Err(error) => Err(refused(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// Entries in use.
    pub(crate) fn used(&self) -> u32 {
        self.taken.used
    }
}

#[cfg(test)]
mod tests {
    use super::super::setup::Setup;
    use super::*;
    use io_uring::{opcode, types};
    use std::io::Write;

    fn ring() -> Ring {
        Ring::new(&Setup { sq_entries: 8, cq_entries: 64, sqpoll: None, iopoll: false }).unwrap()
    }

    fn pieces(memory: &mut [u8], each: usize) -> Vec<(*mut u8, usize)> {
        memory.chunks_mut(each).map(|piece| (piece.as_mut_ptr(), piece.len())).collect()
    }

    fn reap(ring: &mut Ring) -> Vec<(u64, i32)> {
        let mut seen = Vec::new();
        ring.enter(0, None).unwrap();
        ring.reap(usize::MAX, |user_data, result, _| seen.push((user_data, result)));
        seen
    }

    #[test]
    fn runs_are_found_first_fit_across_words() {
        let mut taken = Taken::new(200);
        (0..70).for_each(|index| taken.set(index, true));
        taken.set(100, true);
        assert_eq!(taken.find_run(30), Some(70));
        assert_eq!(taken.find_run(31), Some(101));
        assert_eq!(taken.find_run(99), Some(101));
        assert_eq!(taken.find_run(100), None);
        taken.set(3, false);
        taken.set(3, false);
        assert_eq!((taken.find_run(1), taken.used), (Some(3), 70));
    }

    #[test]
    fn a_cleared_entry_is_used_again_only_after_its_tag() {
        let (mut ring, mut table) = (ring(), BufferTable::new(8));
        let mut memory = vec![0_u8; 8 * 4096];
        let pieces = pieces(&mut memory, 4096);
        assert_eq!(table.insert_run(&mut ring, &pieces, |at| 100 + at as u64), Ok(0));
        assert_eq!((table.used(), table.maximum()), (8, 8));
        let full = TableError::Exhausted { kind: Kind::Buffers, wanted: 1, used: 8, maximum: 8 };
        assert_eq!(table.insert_run(&mut ring, &pieces[..1], |_| 1), Err(full));
        table.clear_run(&mut ring, 2, 3).unwrap();
        assert!(table.clear_run(&mut ring, 2, 1).is_err(), "cleared twice");
        assert_eq!((table.used(), table.clearing()), (8, 3));
        assert_eq!(table.insert_run(&mut ring, &pieces[..1], |_| 1), Err(full));
        let mut tags = reap(&mut ring);
        tags.sort_unstable();
        assert_eq!(tags, [(102, 0), (103, 0), (104, 0)]);
        assert!((2..5).all(|index| table.on_tag(index)));
        assert!(!table.on_tag(2), "a stray tag");
        assert_eq!(table.insert_run(&mut ring, &pieces[..2], |_| 9), Ok(2));
        assert_eq!(table.used(), 7);
    }

    #[test]
    fn the_tag_waits_for_the_read_that_is_in_flight() {
        let (mut ring, mut table) = (ring(), BufferTable::new(4));
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut memory = vec![0_u8; 4096];
        let base = memory.as_mut_ptr();
        let index = table.insert_run(&mut ring, &[(base, 4096)], |_| 55).unwrap();
        let fd = types::Fd(reader.as_raw_fd());
        let read = opcode::ReadFixed::new(fd, base, 4096, index as u16).build().user_data(1);
        // SAFETY: the memory outlives the read, whose completion is reaped below.
        assert!(unsafe { ring.push(&read) });
        ring.enter(0, None).unwrap();
        table.clear_run(&mut ring, index, 1).unwrap();
        assert_eq!(reap(&mut ring), []);
        writer.write_all(b"late").unwrap();
        ring.enter(2, None).unwrap();
        let mut seen = reap(&mut ring);
        seen.sort_unstable();
        assert_eq!(seen, [(1, 4), (55, 0)]);
        assert!(table.on_tag(index));
        assert_eq!((&memory[..4], table.used()), (&b"late"[..], 0));
    }

    #[test]
    fn a_refused_piece_takes_the_others_with_it() {
        let (mut ring, mut table) = (ring(), BufferTable::new(BUFFERS_MAX));
        let mut memory = vec![0_u8; 2 * 4096];
        let mut run = pieces(&mut memory, 4096);
        run.push((std::ptr::without_provenance_mut(4096), 4096));
        let unmapped = TableError::Refused { kind: Kind::Buffers, errno: libc::EFAULT, at: 2 };
        let answer = table.insert_run(&mut ring, &run, |at| 1 + at as u64);
        assert_eq!(answer, Err(unmapped));
        assert!(unmapped.to_string().contains("pinned"), "{unmapped}");
        let mut tags = reap(&mut ring);
        tags.sort_unstable();
        assert_eq!(tags, [(1, 0), (2, 0)]);
        assert!(table.on_tag(0) && table.on_tag(1));
        assert_eq!((table.used(), table.clearing()), (0, 0));
        run[2].0 = std::ptr::null_mut();
        assert_eq!(table.insert_run(&mut ring, &run, |at| 1 + at as u64), Err(unmapped));
    }

    #[test]
    fn table_sizes_are_halved_to_what_the_kernel_takes() {
        let calls = std::cell::RefCell::new(Vec::new());
        let limit = |size: u32| {
            calls.borrow_mut().push(size);
            let refused = io::Error::from_raw_os_error(libc::EINVAL);
            if size > 300 { Err(refused) } else { Ok(()) }
        };
        assert_eq!(register_sparse(Kind::Files, 1000, limit), Ok(250));
        assert_eq!(*calls.borrow(), [1000, 500, 250]);
        let never = |_| Err(io::Error::from_raw_os_error(libc::EPERM));
        let none = TableError::Unavailable { kind: Kind::Files, errno: libc::EPERM };
        assert_eq!(register_sparse(Kind::Files, 8, never), Err(none));
        let ring = ring();
        assert!(FileTable::new(FILES_MAX).prepare(&ring).unwrap() >= 64);
        assert!(BufferTable::new(u32::MAX).prepare(&ring).unwrap() >= 64);
    }

    #[test]
    fn refusals_name_the_table_and_the_remedy() {
        let (mut ring, mut table) = (ring(), BufferTable::new(2));
        let nothing = table.insert_run(&mut ring, &[], u64::from).unwrap_err();
        assert_eq!(nothing.errno(), Some(libc::EINVAL));
        let full = TableError::Exhausted { kind: Kind::Buffers, wanted: 3, used: 1, maximum: 2 };
        assert_eq!(full.errno(), None);
        assert!(full.to_string().contains("no 3 free entries in a row, 1 of 2 used"), "{full}");
        for (kind, errno, words) in [
            (Kind::Buffers, libc::ENOMEM, "fixed buffer table: not available: "),
            (Kind::Buffers, libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (Kind::Files, libc::EMFILE, "RLIMIT_NOFILE"),
            (Kind::Files, libc::EBADF, "not an open descriptor"),
        ] {
            let none = TableError::Unavailable { kind, errno };
            assert!(none.to_string().contains(words), "{none}");
        }
    }

    #[test]
    fn files_come_and_go_and_stay_open_while_registered() {
        let (mut ring, mut table) = (ring(), FileTable::new(2));
        let (reader, mut writer) = std::io::pipe().unwrap();
        let index = table.insert(&mut ring, reader.as_raw_fd()).unwrap();
        drop(reader);
        writer.write_all(b"x").unwrap();
        let mut byte = [0_u8; 1];
        let read = opcode::Read::new(types::Fixed(index), byte.as_mut_ptr(), 1).build();
        // SAFETY: the byte outlives the read, which is reaped below.
        assert!(unsafe { ring.push(&read.user_data(3)) });
        ring.enter(1, None).unwrap();
        assert_eq!((reap(&mut ring), byte), (vec![(3, 1)], *b"x"));
        assert_eq!(table.insert(&mut ring, writer.as_raw_fd()), Ok(1));
        let full = TableError::Exhausted { kind: Kind::Files, wanted: 1, used: 2, maximum: 2 };
        assert_eq!(table.insert(&mut ring, writer.as_raw_fd()), Err(full));
        table.clear(&mut ring, index).unwrap();
        assert_eq!(table.clear(&mut ring, index).unwrap_err().errno(), Some(libc::ENOENT));
        assert_eq!(writer.write_all(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(table.insert(&mut ring, -1).unwrap_err().errno(), Some(libc::EBADF));
        assert_eq!(table.insert(&mut ring, 1 << 30).unwrap_err().errno(), Some(libc::EBADF));
        assert_eq!(table.used(), 1);
    }
}
