//! Name resolution. The system's resolver blocks (`getaddrinfo(3)`), so it runs on a helper
//! thread on every backend, never on the poll thread.

use super::{Attempt, Context, Forms, Operation, settle, variant};
use crate::capability::Capabilities;
use crate::engine::Outcome;
use crate::error::{Error, ErrorKind, Failed};
use crate::io::Port;
use io_uring::squeue::Entry;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

/// Resolves `host:port` to addresses. Dropping it loses the answer only; the helper thread finishes
/// its look-up.
#[derive(Debug)]
pub struct Resolve {
    host: Box<str>,
    found: Arc<Mutex<Result<Vec<SocketAddr>, String>>>,
}

variant!(Resolve);

impl Resolve {
    /// Of `host:port`, where host is a name or an address.
    pub fn new(host: &str) -> Resolve {
        Resolve { host: host.into(), found: Arc::new(Mutex::new(Ok(Vec::new()))) }
    }
}

impl Forms for Resolve {
    const NAME: &'static str = "resolve";

    fn is_own(&self, _: Capabilities) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("name resolution runs on a helper thread")
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        let (host, found) = (self.host.clone(), self.found.clone());
        Attempt::Helper(Box::new(move || {
            let result = host.to_socket_addrs().map(Vec::from_iter);
            let code = match &result {
                Ok(_) => 0,
                Err(error) => -error.raw_os_error().unwrap_or(libc::ENOENT),
            };
            let result = result.map_err(|error| error.to_string());
            *found.lock().unwrap_or_else(PoisonError::into_inner) = result;
            code
        }))
    }
}

impl Operation for Resolve {
    type Output<P: Port> = Vec<SocketAddr>;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Vec<SocketAddr>, Failed<Self>> {
        let settled = settle(&outcome, Self::NAME);
        let taken = std::mem::replace(
            &mut *self.found.lock().unwrap_or_else(PoisonError::into_inner),
            Ok(Vec::new()),
        );
        let error = match (settled, taken) {
            (Ok(_), Ok(found)) if !found.is_empty() => return Ok(found),
            (Ok(_), _) => {
                Error::new(Self::NAME, ErrorKind::NotFound, format!("{}: no address", self.host))
            }
            (Err(error), Err(why)) if error.errno() != Some(libc::ECANCELED) => {
                Error::new(Self::NAME, ErrorKind::NotFound, format!("{}: {why}", self.host))
            }
            (Err(error), _) if error.kind() == ErrorKind::Unavailable => {
                let message = "names are resolved on a helper thread, and Options::helpers is 0; \
                               raise it, or give an address";
                error.with_message(message)
            }
            (Err(error), _) => error,
        };
        Err(Failed::new(error, self))
    }
}
