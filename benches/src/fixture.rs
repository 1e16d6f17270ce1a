//! The bytes that are moved, and the file they are in.
//!
//! Every byte's value follows from its position, so that whoever receives one can say whether it
//! is the right one. What goes round in circles repeats after a period: the file after its length,
//! what the sending peer sends after [`WIRE_PERIOD_BYTES`], so that it stays in the cache. The file
//! lives in the temporary directory (`TMPDIR`) and is removed when the fixture goes.

use crate::Result;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Length of the file, in bytes.
pub const FILE_BYTES: u64 = 256 << 20;
/// After how many bytes a sending peer starts again.
pub const WIRE_PERIOD_BYTES: u64 = 1 << 20;

const BLOCK_BYTES: usize = 1 << 20;

/// The byte at a position.
#[inline]
pub fn byte_at(p: u64) -> u8 {
    (p ^ (p >> 8) ^ (p >> 16) ^ (p >> 24)) as u8
}

/// Whether the first and the last byte of what was received are those of its position
/// in a pattern that repeats after `period` bytes.
#[inline]
pub fn ends_are_right(bytes: &[u8], position: u64, period: u64) -> bool {
    let expected = |at: u64| byte_at(at % period);
    match bytes {
        [] => false,
        [only] => *only == expected(position),
        [first, .., last] => {
            *first == expected(position) && *last == expected(position + bytes.len() as u64 - 1)
        }
    }
}

/// Fills `bytes` with the pattern from a position on.
pub fn fill(bytes: &mut [u8], position: u64) {
    for (byte, at) in bytes.iter_mut().zip(position..) {
        *byte = byte_at(at);
    }
}

/// A file of [`FILE_BYTES`] in the page cache and on the disk.
#[derive(Debug)]
pub struct Fixture {
    path: PathBuf,
}

impl Fixture {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// No room, or no right to write, in the temporary directory.
    pub fn new() -> Result<Fixture> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dataplane-bench-{}-{number}", std::process::id());
        let fixture = Fixture { path: std::env::temp_dir().join(name) };
        let mut file = OpenOptions::new().write(true).create_new(true).open(&fixture.path)?;
        let mut block = vec![0; BLOCK_BYTES];
        for position in (0..FILE_BYTES).step_by(BLOCK_BYTES) {
            fill(&mut block, position);
            file.write_all(&block)?;
        }
        // Direct reads should find it on the disk, and cached ones nothing left to write back.
        file.sync_all()?;
        Ok(fixture)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for reading, through the page cache or past it (O_DIRECT, `open(2)`).
    ///
    /// # Errors
    ///
    /// EINVAL where the file system has no O_DIRECT.
    pub fn open(&self, direct: bool) -> std::io::Result<File> {
        let flags = if direct { libc::O_DIRECT } else { 0 };
        OpenOptions::new().read(true).custom_flags(flags).open(&self.path)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// A small generator of offsets (xorshift64*): both sides read the same places in the same order.
#[derive(Clone, Debug)]
pub struct Offsets {
    state: u64,
    block_bytes: u64,
}

impl Offsets {
    /// Offsets that are multiples of `block_bytes`.
    pub fn new(block_bytes: usize) -> Offsets {
        Offsets { state: 0x9e37_79b9_7f4a_7c15, block_bytes: block_bytes as u64 }
    }

    /// The next one.
    #[inline]
    pub fn next_offset(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let blocks = FILE_BYTES / self.block_bytes;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % blocks * self.block_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_tell_a_wrong_position() {
        let mut bytes = vec![0; 4096];
        fill(&mut bytes, 12_288);
        assert!(ends_are_right(&bytes, 12_288, FILE_BYTES));
        assert!(ends_are_right(&bytes, 12_288 + FILE_BYTES, FILE_BYTES));
        assert!(!ends_are_right(&bytes, 12_288 + 4096, FILE_BYTES));
        assert!(!ends_are_right(&bytes, 12_288 + BLOCK_BYTES as u64, FILE_BYTES));
        assert!(!ends_are_right(&[], 0, FILE_BYTES));
    }

    #[test]
    fn offsets_are_blocks_of_the_file() {
        let mut offsets = Offsets::new(4096);
        let seen: std::collections::HashSet<u64> =
            (0..1000).map(|_| offsets.next_offset()).collect();
        assert!(seen.len() > 900);
        assert!(seen.iter().all(|at| at % 4096 == 0 && *at < FILE_BYTES));
    }
}
