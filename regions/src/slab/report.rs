//! What a slab was given when it was made, for people and programs to read.

use std::fmt;

use crate::page::HugeOutcome;

/// What a slab was given when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlabReport {
    /// Its name.
    pub name: String,
    /// Slots it has.
    pub slots: usize,
    /// Bytes of a slot.
    pub slot_bytes: usize,
    /// Bytes from one slot to the next.
    pub stride_bytes: usize,
    /// Bytes of all of it, in whole pages.
    pub total_bytes: usize,
    /// The size of the pages it lies on (the base page size for the caller's memory).
    pub page_bytes: usize,
    /// Whether huge pages were obtained, and why not.
    pub huge: HugeOutcome,
    /// The NUMA node it is bound to.
    pub numa: Option<u32>,
    /// Whether every page was made present at creation.
    pub populated: bool,
    /// Whether its memfd's size is sealed.
    pub sealed: bool,
}

impl fmt::Display for SlabReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slab {:?}: {} slots of {} bytes, {} bytes apart, {} bytes on pages of {} bytes; {}; ",
            self.name,
            self.slots,
            self.slot_bytes,
            self.stride_bytes,
            self.total_bytes,
            self.page_bytes,
            self.huge
        )?;
        match self.numa {
            Some(node) => write!(f, "bound to NUMA node {node}; ")?,
            None => f.write_str("not bound to a NUMA node; ")?,
        }
        let not = |yes| if yes { "" } else { "not " };
        write!(f, "{}populated; {}sealed", not(self.populated), not(self.sealed))
    }
}
