//! Registration without a kernel that registers: the same calls, limits and answers as the tables
//! of io_uring, so a program that fits here fits there.
//!
//! Nothing is pinned; an entry only says that a range was named. What the kernel would refuse is
//! refused: more than 16,384 entries, pieces of no bytes or of more than 1 GiB, ranges that wrap
//! or leave the address space (`io_uring_register(2)`, IORING_REGISTER_BUFFERS2). Memory that is
//! in range but not mapped is found out by the first transfer, which gives EFAULT.
//!
//! An index that was given back is not handed out before its release was reported and answered by
//! [`MemoryTable::released`], as with a kernel that still had the memory.

use crate::backend::RegisterError;
use std::os::fd::RawFd;

/// Most memory entries.
pub(super) const MEMORY_ENTRIES: u32 = 16_384;
/// Most bytes of one entry.
pub(super) const PIECE_BYTES: usize = 1 << 30;
/// End of the user's half of the address space on a 64-bit machine with five-level tables.
const ADDRESSES_END: u64 = 1 << 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Free,
    Used,
    /// Given back; its release was reported and not answered yet.
    Leaving,
}

/// The memory entries.
pub(super) struct MemoryTable {
    entries: Vec<Entry>,
    used: u32,
}

impl MemoryTable {
    pub(super) fn new() -> MemoryTable {
        MemoryTable { entries: Vec::new(), used: 0 }
    }

    /// Enters the pieces side by side; the index of the first.
    pub(super) fn register(&mut self, pieces: &[(*mut u8, usize)]) -> Result<u32, RegisterError> {
        if pieces.is_empty() {
            return Err(RegisterError::Refused(libc::EINVAL));
        }
        if pieces.iter().any(|&(at, bytes)| !is_valid(at, bytes)) {
            return Err(RegisterError::Refused(libc::EFAULT));
        }
        let full = RegisterError::Full { used: self.used, maximum: MEMORY_ENTRIES };
        let first = self.free_run(pieces.len()).ok_or(full)?;
        let end = first + pieces.len();
        if end > self.entries.len() {
            self.entries.resize(end, Entry::Free);
        }
        self.entries[first..end].fill(Entry::Used);
        self.used += pieces.len() as u32;
        Ok(first as u32)
    }

    /// The first run of `count` free entries; past the last entry everything is free.
    fn free_run(&self, count: usize) -> Option<usize> {
        let mut start = 0;
        for (index, entry) in self.entries.iter().enumerate() {
            if *entry != Entry::Free {
                start = index + 1;
            } else if index + 1 - start == count {
                return Some(start);
            }
        }
        (start.checked_add(count)? <= MEMORY_ENTRIES as usize).then_some(start)
    }

    /// Gives entries back; `leaving` hears the index of each that was in use.
    pub(super) fn unregister(&mut self, first: u32, count: u32, mut leaving: impl FnMut(u32)) {
        let end = first.saturating_add(count).min(self.entries.len() as u32);
        for index in first..end {
            let entry = &mut self.entries[index as usize];
            if *entry == Entry::Used {
                *entry = Entry::Leaving;
                leaving(index);
            }
        }
    }

    /// The release of an entry was taken note of: its index may be used again.
    pub(super) fn released(&mut self, index: u32) {
        if let Some(entry @ Entry::Leaving) = self.entries.get_mut(index as usize) {
            *entry = Entry::Free;
            self.used -= 1;
        }
    }
}

fn is_valid(at: *mut u8, bytes: usize) -> bool {
    let end = (at as u64).checked_add(bytes as u64);
    !at.is_null()
        && (1..=PIECE_BYTES).contains(&bytes)
        && end.is_some_and(|end| end <= ADDRESSES_END)
}

/// The descriptor entries.
pub(super) struct FileTable {
    entries: Vec<Option<RawFd>>,
    free: Vec<u32>,
    maximum: u32,
}

impl FileTable {
    pub(super) fn new(maximum: usize) -> FileTable {
        let maximum = u32::try_from(maximum).unwrap_or(u32::MAX);
        FileTable { entries: Vec::new(), free: Vec::new(), maximum }
    }

    /// Enters a descriptor number; its index.
    pub(super) fn register(&mut self, fd: RawFd) -> Result<u32, RegisterError> {
        if fd < 0 {
            return Err(RegisterError::Refused(libc::EBADF));
        }
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Some(fd);
            return Ok(index);
        }
        let used = self.entries.len() as u32;
        if used >= self.maximum {
            return Err(RegisterError::Full { used, maximum: self.maximum });
        }
        self.entries.push(Some(fd));
        Ok(used)
    }

    /// Gives an entry back; its index is free at once.
    pub(super) fn unregister(&mut self, index: u32) {
        if self.entries.get_mut(index as usize).and_then(Option::take).is_some() {
            self.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: usize) -> (*mut u8, usize) {
        (0x10_0000 as *mut u8, bytes)
    }

    fn give_back(table: &mut MemoryTable, first: u32, count: u32) -> Vec<u32> {
        let mut left = Vec::new();
        table.unregister(first, count, |index| left.push(index));
        left
    }

    #[test]
    fn pieces_stand_side_by_side_and_an_index_returns_only_after_its_release() {
        let mut table = MemoryTable::new();
        assert_eq!(table.register(&[piece(1); 3]), Ok(0));
        assert_eq!(table.register(&[piece(PIECE_BYTES)]), Ok(3));
        assert_eq!(give_back(&mut table, 0, 3), [0, 1, 2]);
        assert_eq!(table.register(&[piece(1); 3]), Ok(4), "0..3 are not released yet");
        (0..3).for_each(|index| table.released(index));
        assert_eq!(table.register(&[piece(1); 2]), Ok(0));
        assert_eq!(table.register(&[piece(1); 2]), Ok(7), "one free entry is not two");
        assert_eq!(table.register(&[piece(1)]), Ok(2));
    }

    #[test]
    fn a_full_table_says_how_full_and_takes_again_what_was_released() {
        let mut table = MemoryTable::new();
        let all = vec![piece(4096); MEMORY_ENTRIES as usize];
        assert_eq!(table.register(&all), Ok(0));
        let full = RegisterError::Full { used: MEMORY_ENTRIES, maximum: MEMORY_ENTRIES };
        assert_eq!(table.register(&[piece(1)]), Err(full));
        assert_eq!(give_back(&mut table, 7, 1), [7]);
        assert_eq!(table.register(&[piece(1)]), Err(full));
        table.released(7);
        assert_eq!(table.register(&[piece(1)]), Ok(7));
        let one_more = vec![piece(1); MEMORY_ENTRIES as usize + 1];
        let empty = RegisterError::Full { used: 0, maximum: MEMORY_ENTRIES };
        assert_eq!(MemoryTable::new().register(&one_more), Err(empty));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        let mut table = MemoryTable::new();
        let hostile = [
            (std::ptr::null_mut(), 1),
            piece(0),
            piece(PIECE_BYTES + 1),
            (usize::MAX as *mut u8, 2),
            ((1_usize << 56) as *mut u8, 1),
        ];
        for bad in hostile {
            let refused = Err(RegisterError::Refused(libc::EFAULT));
            assert_eq!(table.register(&[piece(1), bad]), refused, "{bad:?}");
        }
        assert_eq!(table.register(&[]), Err(RegisterError::Refused(libc::EINVAL)));
        assert_eq!(table.register(&[piece(1)]), Ok(0), "nothing of the refused ones stayed");
    }

    #[test]
    fn giving_back_what_is_not_there_changes_nothing() {
        let mut table = MemoryTable::new();
        assert_eq!(table.register(&[piece(1)]), Ok(0));
        table.released(0);
        assert_eq!(give_back(&mut table, 0, u32::MAX), [0]);
        assert_eq!(give_back(&mut table, 0, 1), [0; 0]);
        table.released(0);
        table.released(0);
        table.released(9);
        assert_eq!(table.register(&[piece(1)]), Ok(0));
    }

    #[test]
    fn descriptor_entries_are_reused_and_bounded() {
        let mut table = FileTable::new(2);
        assert_eq!(table.register(-1), Err(RegisterError::Refused(libc::EBADF)));
        assert_eq!((table.register(5), table.register(6)), (Ok(0), Ok(1)));
        assert_eq!(table.register(7), Err(RegisterError::Full { used: 2, maximum: 2 }));
        table.unregister(0);
        table.unregister(0);
        table.unregister(9);
        assert_eq!(table.register(7), Ok(0));
        assert_eq!(table.register(8), Err(RegisterError::Full { used: 2, maximum: 2 }));
    }
}
