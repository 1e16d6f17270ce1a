//! Operations about to be submitted and under way: requests, batches, submissions, streams, and the
//! ways to be told.

pub(crate) mod batch;
pub(crate) mod callback;
pub(crate) mod operation_id;
pub(crate) mod request;
pub(crate) mod sequence;
pub(crate) mod stream;
pub(crate) mod submission;

use super::{Local, Port, Socket, Typed, conclude};
