//! What the engine keeps: operations in their slots, descriptors, pools, registered memory and
//! deadlines, each a table of its own that knows nothing of the loop.

pub(crate) mod deadlines;
pub(crate) mod descriptors;
pub(crate) mod groups;
pub(crate) mod registry;
pub(crate) mod scratch;
pub(crate) mod slots;
pub(crate) mod table;

use super::{Outcome, Payload, Reason, path};
