//! What may be done to a region, by the kernel and by other hosts.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

/// Access flags of a region; combine them with `|`.
///
/// ```
/// use regions::Access;
/// let access = Access::READ | Access::WRITE;
/// assert!(access.contains(Access::READ));
/// assert!(!access.contains(Access::REMOTE_READ));
/// assert_eq!(access.to_string(), "read|write");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Access(u8);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The kernel or a device may read it: the send side.
    pub const READ: Self = Self(1);
    /// The kernel or a device may write it: the receive side.
    pub const WRITE: Self = Self(2);
    /// Another host may read it (an RDMA read).
    pub const REMOTE_READ: Self = Self(4);
    /// Another host may write it (an RDMA write).
    pub const REMOTE_WRITE: Self = Self(8);
    /// Both local sides: what a slab has unless told otherwise.
    pub const LOCAL: Self = Self(3);

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags as bits: 1 read, 2 write, 4 remote read, 8 remote write.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl BitOr for Access {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Access {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Access {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Access, &str); 4] = [
            (Access::READ, "read"),
            (Access::WRITE, "write"),
            (Access::REMOTE_READ, "remote-read"),
            (Access::REMOTE_WRITE, "remote-write"),
        ];
        let mut names = NAMES.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, n)| n);
        f.write_str(names.next().unwrap_or(&"none"))?;
        names.try_for_each(|name| write!(f, "|{name}"))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({self})")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn flags_combine_and_print() {
        let mut access = Access::READ;
        access |= Access::REMOTE_WRITE;
        assert_eq!(access.to_string(), "read|remote-write");
        assert_eq!(access.bits(), 9);
        assert_eq!(access & Access::LOCAL, Access::READ);
        assert!(Access::NONE.is_empty() && !access.is_empty());
        assert_eq!(format!("{:?}", Access::NONE), "Access(none)");
    }
}
