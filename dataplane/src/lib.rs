//! A caller-driven proactor.
