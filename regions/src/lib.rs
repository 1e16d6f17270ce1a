//! Memory for zero-copy I/O.
