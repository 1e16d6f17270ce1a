//! Ways to run a proactor.
