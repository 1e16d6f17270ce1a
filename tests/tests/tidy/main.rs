//! The house rules that no compiler checks, each an ordinary test.
//!
//! A rule is a function from a tree of files to findings; a finding names file and line and says
//! what to do. Each rule runs on the repository and, in a test of its own, on a bad sample, so that
//! no rule can rot into one that always passes. Exceptions live in tables beside their rule, carry
//! a reason, and fail when they are no longer needed.
//!
//! One noun per file: `tree` (what is looked at), `rust` (enough of the language to look),
//! `shape` (sizes and heads), `shown` (proofs that pages name), `unsafety`, `words`, `links`,
//! `manifests`, `promises` (what the repository as a whole must hold: licences, the README's
//! commands, the script of the automatic runs). Everything reads; nothing is built, written or
//! fetched.

mod links;
mod manifests;
mod promises;
mod rust;
mod shape;
mod shown;
mod tree;
mod unsafety;
mod words;
