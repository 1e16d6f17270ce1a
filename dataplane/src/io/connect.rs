//! Making sockets: connect, listen, bind, adopt.

use super::{Local, Port, Socket};
use crate::engine::descriptors::Class;
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::Address;
use crate::op::{Connect, Resolve};
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use crate::sys::calls;
use crate::sys::sockets::{self, Kind, SocketOptions};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// Connections that may wait to be accepted (`listen(2)`).
const BACKLOG: u32 = 4096;

/// Where to: an address, or a name that is resolved first.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// An address.
    Address(Address),
    /// `host:port`.
    Name(String),
}

impl From<&str> for Endpoint {
    /// An address when it reads as one, else a name.
    fn from(text: &str) -> Endpoint {
        match text.parse::<SocketAddr>() {
            Ok(address) => Endpoint::Address(address.into()),
            Err(_) => Endpoint::Name(text.to_owned()),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint::Address(address.into())
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Endpoint {
        Endpoint::Address(address)
    }
}

impl From<&Address> for Endpoint {
    fn from(address: &Address) -> Endpoint {
        Endpoint::Address(address.clone())
    }
}

async fn addresses<P: Port>(port: &P, to: Endpoint) -> Result<Vec<Address>> {
    match to {
        Endpoint::Address(address) => Ok(vec![address]),
        Endpoint::Name(name) => {
            let resolving =
                port.clone().submit(Resolve::new(&name), None, None).map_err(Error::from)?;
            let found = resolving.await.map_err(Error::from)?;
            Ok(found.into_iter().map(Address::from).collect())
        }
    }
}

/// Connects to the first address that answers.
async fn connect<P: Port>(
    port: P,
    to: Endpoint,
    kind: Kind,
    options: SocketOptions,
) -> Result<Socket<P>> {
    const NAME: &str = "connect";
    let mut last = Error::new(NAME, ErrorKind::NotFound, "no address to connect to");
    for address in addresses(&port, to).await? {
        let fd = sockets::make(address.family(), kind, &options, port.wants_nonblocking())
            .map_err(|error| Error::from_io(NAME, &error))?;
        let descriptor = port.place(NAME, fd, class_of(kind)).await?;
        let socket = Socket::new(port.clone(), descriptor);
        let connecting =
            port.clone().submit(Connect::new(socket.desc(), address.clone()), None, None);
        match connecting.map_err(Failed::into_error)?.await {
            Ok(()) => return Ok(socket),
            Err(failed) => {
                let message = format!("to {address}");
                last = failed.into_error().with_message(message);
            }
        }
    }
    Err(last)
}

fn class_of(kind: Kind) -> Class {
    match kind {
        Kind::Datagram => Class::Datagram,
        Kind::Stream | Kind::SeqPacket => Class::Stream,
    }
}

fn bound(
    name: &'static str,
    at: &Address,
    kind: Kind,
    options: &SocketOptions,
    nonblocking: bool,
) -> Result<OwnedFd> {
    let refused = |error: std::io::Error| Error::from_io(name, &error).with_message(at.to_string());
    let fd = sockets::make(at.family(), kind, options, nonblocking).map_err(refused)?;
    sockets::bind(fd.as_raw_fd(), at).map_err(refused)?;
    Ok(fd)
}

fn listening(
    name: &'static str,
    at: Endpoint,
    kind: Kind,
    options: &SocketOptions,
    nonblocking: bool,
) -> Result<OwnedFd> {
    let at = here(name, at)?;
    let fd = bound(name, &at, kind, options, nonblocking)?;
    sockets::listen(fd.as_raw_fd(), BACKLOG)
        .map_err(|error| Error::from_io(name, &error).with_message(at.to_string()))?;
    Ok(fd)
}

/// Reads `text` as an address to bind to: no name is resolved for that.
fn here(name: &'static str, at: Endpoint) -> Result<Address> {
    match at {
        Endpoint::Address(address) => Ok(address),
        Endpoint::Name(text) => {
            let message = format!("`{text}` is not an address; write IP:PORT or [IPv6]:PORT");
            Err(Error::new(name, ErrorKind::InvalidArgument, message))
        }
    }
}

impl Proactor {
    /// Connects a TCP (or Unix stream) socket. Names are resolved on a helper thread; several
    /// addresses are tried in order.
    ///
    /// # Errors
    ///
    /// Of the last address tried; NotFound for an unknown name.
    pub async fn connect(&self, to: impl Into<Endpoint>) -> Result<Socket> {
        self.connect_with(to, Kind::Stream, SocketOptions::default()).await
    }

    /// As [`connect`](Self::connect), with the kind and options of the socket.
    ///
    /// # Errors
    ///
    /// As `connect`, or of an option the system refuses.
    pub async fn connect_with(
        &self,
        to: impl Into<Endpoint>,
        kind: Kind,
        options: SocketOptions,
    ) -> Result<Socket> {
        connect(self.local(), to.into(), kind, options).await
    }

    /// Listens on an address, with address reuse. Port 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// InvalidArgument for what is no address; what `bind(2)` and `listen(2)` say.
    pub fn listen(&self, at: impl Into<Endpoint>) -> Result<Socket> {
        let options = SocketOptions::default().reuse_address(true);
        self.listen_with(at, Kind::Stream, &options)
    }

    /// As [`listen`](Self::listen), with the kind and options of the socket.
    ///
    /// # Errors
    ///
    /// As `listen`.
    pub fn listen_with(
        &self,
        at: impl Into<Endpoint>,
        kind: Kind,
        options: &SocketOptions,
    ) -> Result<Socket> {
        const NAME: &str = "listen";
        let local = self.local();
        let fd = listening(NAME, at.into(), kind, options, local.wants_nonblocking())?;
        let descriptor = local.own(NAME, fd, Class::Listener)?;
        Ok(Socket::new(local, descriptor))
    }

    /// Binds a datagram socket.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    pub fn bind_datagram(
        &self,
        at: impl Into<Endpoint>,
        options: &SocketOptions,
    ) -> Result<Socket> {
        const NAME: &str = "bind";
        let at = here(NAME, at.into())?;
        let local = self.local();
        let fd = bound(NAME, &at, Kind::Datagram, options, local.wants_nonblocking())?;
        let descriptor = local.own(NAME, fd, Class::Datagram)?;
        Ok(Socket::new(local, descriptor))
    }

    /// Takes over an existing socket (or pipe, eventfd, …): `std` types convert into `OwnedFd`.
    /// Nothing on the descriptor is changed.
    ///
    /// # Errors
    ///
    /// Exhausted when the descriptor table is full.
    pub fn adopt_socket(&self, fd: impl Into<OwnedFd>) -> Result<Socket> {
        let local = self.local();
        let descriptor = local.take_over(fd.into())?;
        Ok(Socket::new(local, descriptor))
    }

    /// Resolves `host:port` on a helper thread.
    pub fn resolve(&self, name: &str) -> super::request::Request<Local, Resolve> {
        super::request::Request::over(self.local(), Resolve::new(name))
    }
}

impl Handle {
    /// Connects a stream socket that belongs to no thread; see [`Proactor::connect`].
    ///
    /// # Errors
    ///
    /// As [`Proactor::connect`]; ShutDown when the proactor is gone.
    pub async fn connect(&self, to: impl Into<Endpoint>) -> Result<Socket<Handle>> {
        self.connect_with(to, Kind::Stream, SocketOptions::default()).await
    }

    /// As [`connect`](Self::connect), with the kind and options of the socket.
    ///
    /// # Errors
    ///
    /// As `connect`, or of an option the system refuses.
    pub async fn connect_with(
        &self,
        to: impl Into<Endpoint>,
        kind: Kind,
        options: SocketOptions,
    ) -> Result<Socket<Handle>> {
        connect(self.clone(), to.into(), kind, options).await
    }

    /// Listens on an address; see [`Proactor::listen`].
    ///
    /// # Errors
    ///
    /// As [`Proactor::listen`]; ShutDown when the proactor is gone.
    pub async fn listen(&self, at: impl Into<Endpoint>) -> Result<Socket<Handle>> {
        let options = SocketOptions::default().reuse_address(true);
        self.listen_with(at, Kind::Stream, &options).await
    }

    /// As [`listen`](Self::listen), with the kind and options of the socket.
    ///
    /// # Errors
    ///
    /// As `listen`.
    pub async fn listen_with(
        &self,
        at: impl Into<Endpoint>,
        kind: Kind,
        options: &SocketOptions,
    ) -> Result<Socket<Handle>> {
        const NAME: &str = "listen";
        let fd = listening(NAME, at.into(), kind, options, self.wants_nonblocking())?;
        let descriptor = self.place(NAME, fd, Class::Listener).await?;
        Ok(Socket::new(self.clone(), descriptor))
    }

    /// Binds a datagram socket; see [`Proactor::bind_datagram`].
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    pub async fn bind_datagram(
        &self,
        at: impl Into<Endpoint>,
        options: &SocketOptions,
    ) -> Result<Socket<Handle>> {
        const NAME: &str = "bind";
        let at = here(NAME, at.into())?;
        let fd = bound(NAME, &at, Kind::Datagram, options, self.wants_nonblocking())?;
        let descriptor = self.place(NAME, fd, Class::Datagram).await?;
        Ok(Socket::new(self.clone(), descriptor))
    }

    /// Resolves `host:port` on a helper thread.
    pub fn resolve(&self, name: &str) -> super::request::Request<Handle, Resolve> {
        super::request::Request::new(self, Resolve::new(name))
    }

    /// Takes over an existing socket; see [`Proactor::adopt_socket`].
    ///
    /// # Errors
    ///
    /// As [`Proactor::adopt_socket`]; ShutDown when the proactor is gone.
    pub async fn adopt_socket(&self, fd: impl Into<OwnedFd>) -> Result<Socket<Handle>> {
        const NAME: &str = "adopt";
        let fd = fd.into();
        let class =
            calls::classify(fd.as_raw_fd()).map_err(|error| Error::from_io(NAME, &error))?;
        let descriptor = self.place(NAME, fd, class).await?;
        Ok(Socket::new(self.clone(), descriptor))
    }
}

impl Proactor {
    /// A no-op through the ring.
    pub fn nop(&self) -> super::request::Request<Local, crate::op::Nop> {
        super::request::Request::over(self.local(), crate::op::Nop)
    }

    /// Completes at an instant.
    pub fn sleep_until(
        &self,
        at: std::time::Instant,
    ) -> super::request::Request<Local, crate::op::Timer> {
        super::request::Request::over(self.local(), crate::op::Timer::at(at))
    }
}
