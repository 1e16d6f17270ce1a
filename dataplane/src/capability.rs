//! What a backend can do, as names and as a set.
//!
//! A capability is found by doing it once on the running system, never by comparing kernel
//! versions; the versions below are for orientation only. A set can be narrowed, so that a program
//! or a test runs as if something were missing, but asking for more than was found grants nothing.

use std::fmt;
use std::str::FromStr;

/// Something a backend may or may not be able to do on this machine.
///
/// What is missing is either emulated, and then the path report of an operation says so, or
/// refused with the capability's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Capability {
    /// One submitted operation that completes many times: accept, receive, readiness
    /// (Linux 5.13 to 6.0).
    Multishot,
    /// A table of descriptors that operations name by index, without a look-up per operation
    /// (sparse tables: Linux 5.19).
    FixedFiles,
    /// Memory that stays pinned and is named by index, with a notice when the kernel is done with
    /// it (tags: Linux 5.13; sparse tables: 5.19).
    RegisteredBuffers,
    /// Operations that the kernel starts one after the other (Linux 5.3).
    LinkedOperations,
    /// Sends whose data the network reads from the caller's memory, with a report of whether it
    /// did or copied (Linux 6.0; vectored 6.1; report 6.2).
    ZeroCopySend,
    /// Receives that the network card writes to the caller's memory (Linux 6.15; needs a card that
    /// separates headers from data and a queue of it to own).
    ZeroCopyReceive,
    /// Transfers from and to device memory described by a dma-buf.
    DmaBuf,
    /// Waiting for fences of a device inside the kernel.
    DeviceFence,
    /// Waiting until a point in time instead of for a duration (Linux 6.12).
    AbsoluteTimeout,
    /// Waiting on and waking futex words as operations (Linux 6.7).
    Futex,
    /// Messages from one ring to another by the kernel (MSG_RING, Linux 5.18). Nothing uses it:
    /// [`Handle::message`](crate::Handle::message) works without, on every backend.
    Messaging,
    /// A pool of buffers from which the kernel picks when data has arrived (Linux 5.19).
    BufferRings,
    /// Pool buffers that are consumed piece by piece (Linux 6.12).
    IncrementalBuffers,
    /// One receive that fills several pool buffers (Linux 6.10).
    ReceiveBundles,
    /// Vectored reads and writes within one registered buffer (Linux 6.15).
    VectoredFixed,
}

impl Capability {
    /// Every capability, in the order of the declaration.
    pub const ALL: [Capability; 15] = [
        Capability::Multishot,
        Capability::FixedFiles,
        Capability::RegisteredBuffers,
        Capability::LinkedOperations,
        Capability::ZeroCopySend,
        Capability::ZeroCopyReceive,
        Capability::DmaBuf,
        Capability::DeviceFence,
        Capability::AbsoluteTimeout,
        Capability::Futex,
        Capability::Messaging,
        Capability::BufferRings,
        Capability::IncrementalBuffers,
        Capability::ReceiveBundles,
        Capability::VectoredFixed,
    ];

    /// The name used on command lines and in reports: lower case, words joined by hyphens.
    pub const fn name(self) -> &'static str {
        match self {
            Capability::Multishot => "multishot",
            Capability::FixedFiles => "fixed-files",
            Capability::RegisteredBuffers => "registered-buffers",
            Capability::LinkedOperations => "linked-operations",
            Capability::ZeroCopySend => "zero-copy-send",
            Capability::ZeroCopyReceive => "zero-copy-receive",
            Capability::DmaBuf => "dma-buf",
            Capability::DeviceFence => "device-fence",
            Capability::AbsoluteTimeout => "absolute-timeout",
            Capability::Futex => "futex",
            Capability::Messaging => "messaging",
            Capability::BufferRings => "buffer-rings",
            Capability::IncrementalBuffers => "incremental-buffers",
            Capability::ReceiveBundles => "receive-bundles",
            Capability::VectoredFixed => "vectored-fixed",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no capability has. Its message lists those there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCapability(String);

impl fmt::Display for UnknownCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown capability `{}`; choose from {}", self.0, Capabilities::all())
    }
}

impl std::error::Error for UnknownCapability {}

impl FromStr for Capability {
    type Err = UnknownCapability;

    /// Reads a [`Capability::name`]; letter case does not matter, and `_` stands for `-` too.
    fn from_str(text: &str) -> Result<Capability, UnknownCapability> {
        let name = text.trim().to_ascii_lowercase().replace('_', "-");
        let found = Capability::ALL.into_iter().find(|capability| capability.name() == name);
        found.ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

/// A set of [`Capability`]: a small value, copied freely.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u32);

impl Capabilities {
    /// The empty set.
    pub const fn none() -> Capabilities {
        Capabilities(0)
    }

    /// Those that an operation of this version makes use of; others are reported Missing, whatever
    /// the kernel has.
    pub const fn used() -> Capabilities {
        Capabilities::none()
            .with(Capability::Multishot)
            .with(Capability::FixedFiles)
            .with(Capability::RegisteredBuffers)
            .with(Capability::ZeroCopySend)
            .with(Capability::BufferRings)
            .with(Capability::VectoredFixed)
            .with(Capability::LinkedOperations)
            .with(Capability::Futex)
    }

    /// Every capability there is a name for.
    pub const fn all() -> Capabilities {
        Capabilities((1 << Capability::ALL.len()) - 1)
    }

    /// Whether `capability` is in the set.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Whether everything in `other` is in the set.
    #[must_use]
    pub const fn contains_all(self, other: Capabilities) -> bool {
        other.0 & !self.0 == 0
    }

    /// The set and `capability`.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Capabilities {
        Capabilities(self.0 | capability.bit())
    }

    /// The set but `capability`.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Capabilities {
        Capabilities(self.0 & !capability.bit())
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// What is in both sets: what was found, narrowed by a mask.
    #[must_use]
    pub const fn intersection(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// What is in the set and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in the set.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those in the set, in the order of [`Capability::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |&capability| self.contains(capability))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(items: I) -> Capabilities {
        items.into_iter().fold(Capabilities::none(), Capabilities::with)
    }
}

impl From<Capability> for Capabilities {
    fn from(capability: Capability) -> Capabilities {
        Capabilities::none().with(capability)
    }
}

/// The names, separated by a comma and a space; `none` for the empty set.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (at, capability) in self.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{capability}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_read_back() {
        for (at, capability) in Capability::ALL.into_iter().enumerate() {
            assert_eq!(capability as usize, at, "ALL follows the declaration");
            assert_eq!(capability.name().parse(), Ok(capability));
            let shouted = capability.to_string().to_uppercase().replace('-', "_");
            assert_eq!(shouted.parse(), Ok(capability));
        }
        let error = "telepathy".parse::<Capability>().unwrap_err().to_string();
        assert!(error.contains("telepathy") && error.contains("vectored-fixed"), "{error}");
    }

    #[test]
    fn sets_do_what_sets_do() {
        use Capability::{Futex, Messaging, Multishot};
        let pair = Capabilities::from_iter([Futex, Multishot]);
        assert!(pair.contains(Futex) && !pair.contains(Messaging));
        assert_eq!(pair.without(Futex), Multishot.into());
        assert_eq!(pair.with(Futex), pair);
        let other = Capabilities::from(Messaging).with(Futex);
        assert_eq!(pair.union(other).len(), 3);
        assert_eq!(pair.intersection(other), Futex.into());
        assert_eq!(pair.difference(other), Multishot.into());
        assert!(pair.contains_all(Multishot.into()) && !pair.contains_all(other));
        assert_eq!(Capabilities::all().iter().count(), Capability::ALL.len());
        assert_eq!(pair.iter().collect::<Vec<_>>(), [Multishot, Futex]);
    }

    #[test]
    fn sets_print_their_names() {
        let pair = Capabilities::from_iter([Capability::DmaBuf, Capability::Multishot]);
        assert_eq!(pair.to_string(), "multishot, dma-buf");
        assert_eq!(Capabilities::none().to_string(), "none");
        assert_eq!(format!("{pair:?}"), "{Multishot, DmaBuf}");
        assert_eq!(format!("{:>7}", Capability::Futex), "  futex");
    }
}
