//! Ways to run a proactor.

pub(crate) mod submitter;
