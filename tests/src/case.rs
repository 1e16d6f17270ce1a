//! A case: something every backend must do alike.

use crate::Cx;
use dataplane::{Capabilities, Capability};

/// One thing to be shown. Its function panics when it does not hold.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `file/what_it_shows`.
    pub name: &'static str,
    /// Capabilities without which there is nothing to show; empty: it runs everywhere.
    pub needs: &'static [Capability],
    /// Shows it. At most 50 ms on an idle machine, a listed few excepted.
    pub run: fn(&Cx<'_>) -> Result<(), Skip>,
}

/// Why a case cannot be run here: what is missing on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip(pub String);

impl Case {
    /// What the case needs and `have` lacks.
    pub fn lacks(&self, have: Capabilities) -> Capabilities {
        self.needs.iter().copied().collect::<Capabilities>().difference(have)
    }
}
