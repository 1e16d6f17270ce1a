//! The conformance suite: one set of cases, run over every backend and every capability mask.
//!
//! # The parts
//!
//! - [`Case`]: a named function over a [`Cx`], which holds a fresh proactor and says what happened
//!   line by line. The lists are in [`cases`].
//! - [`matrix`]: the configurations, made from the lists of the crate under test, so that a new
//!   backend or capability is covered without a change here.
//! - [`Runner`]: runs cases one at a time, each on a thread of its own under a watchdog, and looks
//!   afterwards for what was left: operations, descriptors, registrations, memory in the kernel.
//! - [`soak`]: operations at random, until the books do not balance.
//! - [`Report`]: what came of it. A skip has a reason; a run without cases is a failure.
//!
//! Every configuration must tell the same story: the lines a case notes are compared between all
//! configurations in which it ran.

// Cases are tests: a panic is how one fails. What an operation gives is often not `Debug`, as
// `expect_err` wants it.
#![allow(clippy::unwrap_used, clippy::err_expect)]

mod case;
pub mod cases;
mod cx;
pub mod matrix;
mod report;
mod runner;
pub mod soak;
mod stand_in;
pub mod vulkan;

pub use case::{Case, Skip};
pub use cx::{Cx, OPERATIONS};
pub use matrix::Configuration;
pub use report::{Entry, Outcome, Report};
pub use runner::Runner;
