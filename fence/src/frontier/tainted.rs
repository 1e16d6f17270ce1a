//! A value that came from outside and has not been checked.
//!
//! The wrapper gives no reference to what it holds and does not dereference to it, so a claim
//! cannot be passed where the truth is asked for: that is a type error. It opens only by a check.

use std::fmt;

use super::{Axis, Frontier};

/// A claim that has not been checked: what a peer sent. Checked by [`check`](Tainted::check), and
/// a frontier by [`Tracker::confirm`](crate::Tracker::confirm) or by waiting for it
/// ([`Tracker::reach`](crate::Tracker::reach)).
///
/// Every value may be marked as tainted (`From`); there is no way back but the check.
#[derive(Clone, PartialEq, Eq, Hash)]
#[must_use = "a claim says nothing until it is checked"]
pub struct Tainted<T>(T);

impl<T> Tainted<T> {
    /// Marks a value that comes from outside.
    pub fn new(value: T) -> Tainted<T> {
        Tainted(value)
    }

    /// Gives the value out if `check` accepts it.
    ///
    /// # Errors
    /// The claim comes back, tainted as before, together with what `check` said.
    pub fn check<E>(self, check: impl FnOnce(&T) -> Result<(), E>) -> Result<T, (Tainted<T>, E)> {
        match check(&self.0) {
            Ok(()) => Ok(self.0),
            Err(error) => Err((self, error)),
        }
    }

    /// What is claimed, for the modules here that treat it as a claim.
    pub(super) fn into_claim(self) -> T {
        self.0
    }
}

impl Tainted<Frontier> {
    /// The pairs claimed, in the order of their axes: to show them, or to choose by them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Axis, u64)> + '_ {
        self.0.iter()
    }

    /// Encodes the claim as it is, to forward it: see [`Frontier::encode`].
    pub fn encode(&self, into: &mut Vec<u8>) {
        self.0.encode(into);
    }
}

impl<T> From<T> for Tainted<T> {
    fn from(value: T) -> Tainted<T> {
        Tainted(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Tainted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tainted").field(&self.0).finish()
    }
}
