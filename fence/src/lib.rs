//! Timeline semaphores.
