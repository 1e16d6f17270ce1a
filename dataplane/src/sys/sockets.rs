//! Making sockets, their options and their addresses.
//!
//! Set-up calls, made once per socket, that do not sleep. They take a descriptor number, which
//! the caller keeps open, and work from any thread. Every descriptor made here is close-on-exec.
//! Options are those of `socket(7)`, `tcp(7)` and `ipv6(7)`; the getters say what the kernel made
//! of them, which is not always what was asked for.

use super::calls;
use crate::io::Address;
use libc::c_int;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The longest idle time before keep-alive probes, in seconds (`tcp(7)`).
const MAX_KEEP_ALIVE_S: u64 = 32767;

/// The kind of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A byte stream: TCP, or a Unix stream.
    Stream,
    /// Datagrams: UDP, or Unix datagrams.
    Datagram,
    /// A connection that keeps message boundaries; Unix sockets.
    SeqPacket,
}

impl Kind {
    fn raw(self) -> c_int {
        match self {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::Datagram => libc::SOCK_DGRAM,
            Kind::SeqPacket => libc::SOCK_SEQPACKET,
        }
    }
}

/// Options a socket is made with. What is not named stays as the system has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    reuse_address: Option<bool>,
    reuse_port: Option<bool>,
    no_delay: Option<bool>,
    keep_alive: Option<Duration>,
    linger: Option<Option<Duration>>,
    send_buffer_bytes: Option<usize>,
    receive_buffer_bytes: Option<usize>,
    v6_only: Option<bool>,
}

impl SocketOptions {
    /// The system's defaults.
    pub fn new() -> SocketOptions {
        SocketOptions::default()
    }

    /// Binds to an address whose old connections are still in TIME_WAIT (SO_REUSEADDR).
    pub fn reuse_address(mut self, on: bool) -> SocketOptions {
        self.reuse_address = Some(on);
        self
    }

    /// Lets several sockets of one user bind to the same address and share what comes
    /// (SO_REUSEPORT); each of them must set it before it binds.
    pub fn reuse_port(mut self, on: bool) -> SocketOptions {
        self.reuse_port = Some(on);
        self
    }

    /// Sends small segments at once instead of gathering them (TCP_NODELAY). TCP alone.
    pub fn no_delay(mut self, on: bool) -> SocketOptions {
        self.no_delay = Some(on);
        self
    }

    /// Probes a connection on which nothing was heard for `idle` (SO_KEEPALIVE, TCP_KEEPIDLE):
    /// 1 to 32,767 seconds, fractions rounded up. TCP alone.
    pub fn keep_alive(mut self, idle: Duration) -> SocketOptions {
        self.keep_alive = Some(idle);
        self
    }

    /// How long a close waits for unsent bytes (SO_LINGER): fractions of a second rounded up, zero
    /// to drop them and reset the connection, None for the system's default, to send them in the
    /// background.
    pub fn linger(mut self, linger: Option<Duration>) -> SocketOptions {
        self.linger = Some(linger);
        self
    }

    /// Bytes that may wait to be sent (SO_SNDBUF). The system doubles it for its own
    /// bookkeeping and cuts it at `net.core.wmem_max` without a word.
    pub fn send_buffer_bytes(mut self, bytes: usize) -> SocketOptions {
        self.send_buffer_bytes = Some(bytes);
        self
    }

    /// Bytes that may wait to be received (SO_RCVBUF); doubled and cut (`net.core.rmem_max`) as
    /// the send buffer is.
    pub fn receive_buffer_bytes(mut self, bytes: usize) -> SocketOptions {
        self.receive_buffer_bytes = Some(bytes);
        self
    }

    /// Whether an IPv6 socket takes IPv6 alone (IPV6_V6ONLY), or IPv4 as mapped addresses too.
    /// Nothing on other sockets.
    pub fn v6_only(mut self, on: bool) -> SocketOptions {
        self.v6_only = Some(on);
        self
    }

    pub(crate) fn apply(&self, fd: RawFd, domain: i32) -> io::Result<()> {
        if let Some(on) = self.v6_only.filter(|_| domain == libc::AF_INET6) {
            set_v6_only(fd, on)?;
        }
        self.reuse_address.map_or(Ok(()), |on| set_reuse_address(fd, on))?;
        self.reuse_port.map_or(Ok(()), |on| set_reuse_port(fd, on))?;
        self.no_delay.map_or(Ok(()), |on| set_no_delay(fd, on))?;
        self.keep_alive.map_or(Ok(()), |idle| set_keep_alive(fd, Some(idle)))?;
        self.linger.map_or(Ok(()), |linger| set_linger(fd, linger))?;
        self.send_buffer_bytes.map_or(Ok(()), |bytes| set_send_buffer_bytes(fd, bytes))?;
        self.receive_buffer_bytes.map_or(Ok(()), |bytes| set_receive_buffer_bytes(fd, bytes))
    }
}

/// Makes a socket for addresses of a family ([`Address::family`]).
pub(crate) fn make(
    domain: i32,
    kind: Kind,
    options: &SocketOptions,
    nonblocking: bool,
) -> io::Result<OwnedFd> {
    let flags = if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    let socket = calls::socket(domain, kind.raw(), flags)?;
    options.apply(socket.as_raw_fd(), domain)?;
    Ok(socket)
}

/// Gives a socket its local address.
pub(crate) fn bind(fd: RawFd, address: &Address) -> io::Result<()> {
    if *address == Address::Unnamed {
        return invalid("there is nothing to bind to; give an address, with port 0 for any port");
    }
    calls::bind(fd, address)
}

/// Makes a bound socket listen. At most `backlog` connections wait to be accepted, and no more
/// than `net.core.somaxconn`, whatever was asked for.
pub(crate) fn listen(fd: RawFd, backlog: u32) -> io::Result<()> {
    calls::listen(fd, c_int::try_from(backlog).unwrap_or(c_int::MAX))
}

/// The address the socket is bound to, with the port the system chose.
pub(crate) fn local_address(fd: RawFd) -> io::Result<Address> {
    calls::name_of(fd, false)
}

/// The address the socket is connected to; ENOTCONN when it is not.
pub(crate) fn peer_address(fd: RawFd) -> io::Result<Address> {
    calls::name_of(fd, true)
}

fn invalid<T>(message: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, message.into()))
}

/// A pair of functions for an option that is on or off.
macro_rules! switch {
    ($get:ident, $set:ident, $level:ident, $name:ident) => {
        #[doc = concat!("Whether ", stringify!($name), " is set.")]
        #[cfg(test)]
        pub(crate) fn $get(fd: RawFd) -> io::Result<bool> {
            calls::get_option::<c_int>(fd, libc::$level, libc::$name).map(|value| value != 0)
        }

        #[doc = concat!("Sets or clears ", stringify!($name), ".")]
        pub(crate) fn $set(fd: RawFd, on: bool) -> io::Result<()> {
            calls::set_option(fd, libc::$level, libc::$name, c_int::from(on))
        }
    };
}

switch!(reuse_address, set_reuse_address, SOL_SOCKET, SO_REUSEADDR);
switch!(reuse_port, set_reuse_port, SOL_SOCKET, SO_REUSEPORT);
switch!(no_delay, set_no_delay, IPPROTO_TCP, TCP_NODELAY);
switch!(v6_only, set_v6_only, IPPROTO_IPV6, IPV6_V6ONLY);

/// A pair of functions for the size of a buffer.
macro_rules! buffer {
    ($get:ident, $set:ident, $name:ident) => {
        #[doc = concat!(stringify!($name), " in bytes, as the system counts: twice what was set.")]
        #[cfg(test)]
        pub(crate) fn $get(fd: RawFd) -> io::Result<usize> {
            calls::get_option::<c_int>(fd, libc::SOL_SOCKET, libc::$name).map(|n| n as usize)
        }

        #[doc = concat!("Sets ", stringify!($name), ", in bytes.")]
        pub(crate) fn $set(fd: RawFd, bytes: usize) -> io::Result<()> {
            // Half the range, since the system doubles it.
            let Some(value) = c_int::try_from(bytes).ok().filter(|n| *n <= c_int::MAX / 2) else {
                let most = c_int::MAX / 2;
                return invalid(format!("a buffer of {bytes} bytes; a socket's is at most {most}"));
            };
            calls::set_option(fd, libc::SOL_SOCKET, libc::$name, value)
        }
    };
}

buffer!(send_buffer_bytes, set_send_buffer_bytes, SO_SNDBUF);
buffer!(receive_buffer_bytes, set_receive_buffer_bytes, SO_RCVBUF);

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// The idle time before probes, when the socket sends any.
#[cfg(test)]
pub(crate) fn keep_alive(fd: RawFd) -> io::Result<Option<Duration>> {
    if calls::get_option::<c_int>(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE)? == 0 {
        return Ok(None);
    }
    let idle = calls::get_option::<c_int>(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE)?;
    Ok(Some(Duration::from_secs(idle as u64)))
}

/// Sets the idle time before probes, or stops them.
pub(crate) fn set_keep_alive(fd: RawFd, idle: Option<Duration>) -> io::Result<()> {
    if let Some(idle) = idle {
        let seconds = whole_seconds(idle);
        if !(1..=MAX_KEEP_ALIVE_S).contains(&seconds) {
            return invalid(format!(
                "keep-alive after {idle:?}; the system takes 1 to {MAX_KEEP_ALIVE_S} seconds"
            ));
        }
        calls::set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds as c_int)?;
    }
    calls::set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, c_int::from(idle.is_some()))
}

/// How long a close waits for unsent bytes; None when it does not wait.
#[cfg(test)]
pub(crate) fn linger(fd: RawFd) -> io::Result<Option<Duration>> {
    let value = calls::get_option::<libc::linger>(fd, libc::SOL_SOCKET, libc::SO_LINGER)?;
    Ok((value.l_onoff != 0).then(|| Duration::from_secs(value.l_linger.max(0) as u64)))
}

/// Sets how long a close waits for unsent bytes.
pub(crate) fn set_linger(fd: RawFd, linger: Option<Duration>) -> io::Result<()> {
    let seconds = c_int::try_from(whole_seconds(linger.unwrap_or_default()));
    let Ok(l_linger) = seconds else {
        return invalid(format!("linger for {linger:?}; the system takes {} seconds", c_int::MAX));
    };
    let value = libc::linger { l_onoff: c_int::from(linger.is_some()), l_linger };
    calls::set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6};

    fn tcp(options: &SocketOptions) -> OwnedFd {
        make(libc::AF_INET, Kind::Stream, options, true).unwrap()
    }

    #[test]
    fn options_read_back_as_they_were_set() {
        let second = Duration::from_secs(1);
        let options = SocketOptions::new()
            .reuse_address(true)
            .reuse_port(true)
            .no_delay(true)
            .keep_alive(30 * second)
            .linger(Some(second + second / 2))
            .send_buffer_bytes(20_000)
            .receive_buffer_bytes(30_000);
        let socket = tcp(&options);
        let fd = socket.as_raw_fd();
        assert!(reuse_address(fd).unwrap() && reuse_port(fd).unwrap() && no_delay(fd).unwrap());
        assert_eq!(keep_alive(fd).unwrap(), Some(30 * second));
        assert_eq!(linger(fd).unwrap(), Some(2 * second));
        assert_eq!(send_buffer_bytes(fd).unwrap(), 40_000);
        assert_eq!(receive_buffer_bytes(fd).unwrap(), 60_000);
        set_no_delay(fd, false).unwrap();
        set_keep_alive(fd, None).unwrap();
        set_linger(fd, None).unwrap();
        assert!(!no_delay(fd).unwrap());
        assert_eq!((keep_alive(fd).unwrap(), linger(fd).unwrap()), (None, None));
        set_linger(fd, Some(Duration::ZERO)).unwrap();
        assert_eq!(linger(fd).unwrap(), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_not_named_stays_as_it_was() {
        let socket = tcp(&SocketOptions::new());
        let fd = socket.as_raw_fd();
        assert!(!(reuse_address(fd).unwrap() || reuse_port(fd).unwrap() || no_delay(fd).unwrap()));
        assert_eq!((keep_alive(fd).unwrap(), linger(fd).unwrap()), (None, None));
    }

    #[test]
    fn limits_are_named() {
        let socket = tcp(&SocketOptions::new());
        let fd = socket.as_raw_fd();
        let refused = [
            set_keep_alive(fd, Some(Duration::ZERO)),
            set_keep_alive(fd, Some(Duration::from_secs(MAX_KEEP_ALIVE_S + 1))),
            set_linger(fd, Some(Duration::MAX)),
            set_send_buffer_bytes(fd, usize::MAX),
            set_receive_buffer_bytes(fd, c_int::MAX as usize),
            bind(fd, &Address::Unnamed),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let options = SocketOptions::new().no_delay(true);
        let error = make(libc::AF_INET, Kind::Datagram, &options, true).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
        assert!(make(libc::AF_UNSPEC, Kind::Stream, &SocketOptions::new(), true).is_err());
    }

    #[test]
    fn v6_only_decides_who_may_come() {
        for on in [true, false] {
            let options = SocketOptions::new().v6_only(on);
            let socket = make(libc::AF_INET6, Kind::Stream, &options, true).unwrap();
            let fd = socket.as_raw_fd();
            assert_eq!(v6_only(fd).unwrap(), on);
            let any = SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, 0, 0, 0);
            bind(fd, &any.into()).unwrap();
            listen(fd, 1).unwrap();
            let port = local_address(fd).unwrap().inet().unwrap().port();
            let came = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            assert_eq!(came, !on);
        }
        // No error on a socket that has no such thing.
        drop(tcp(&SocketOptions::new().v6_only(true)));
    }

    #[test]
    fn several_sockets_share_a_port() {
        let options = SocketOptions::new().reuse_port(true);
        let first = tcp(&options);
        bind(first.as_raw_fd(), &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = local_address(first.as_raw_fd()).unwrap();
        assert_ne!(address.inet().unwrap().port(), 0);
        bind(tcp(&options).as_raw_fd(), &address).unwrap();
        let error = bind(tcp(&SocketOptions::new()).as_raw_fd(), &address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn both_sides_have_addresses() {
        let name = Address::abstract_name(b"dataplane sockets test\0\xff").unwrap();
        for kind in [Kind::Stream, Kind::SeqPacket] {
            let new = || make(libc::AF_UNIX, kind, &SocketOptions::new(), false).unwrap();
            let (listener, client) = (new(), new());
            let fd = client.as_raw_fd();
            let error = peer_address(fd).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
            bind(listener.as_raw_fd(), &name).unwrap();
            listen(listener.as_raw_fd(), u32::MAX).unwrap();
            assert_eq!(calls::connect_nonblocking(fd, &name), 0);
            assert_eq!(local_address(fd).unwrap(), Address::Unnamed);
            assert_eq!(peer_address(fd).unwrap(), name);
        }
    }

    #[test]
    fn blocking_or_not_as_asked() {
        let mut lease = regions::Slab::new(1, 8).unwrap().lease().unwrap();
        let options = SocketOptions::new();
        for nonblocking in [true, false] {
            let socket = make(libc::AF_INET, Kind::Datagram, &options, nonblocking).unwrap();
            let path = format!("/proc/self/fdinfo/{}", socket.as_raw_fd());
            let text = std::fs::read_to_string(path).unwrap();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_eq!(flags & libc::O_NONBLOCK != 0, nonblocking);
            assert_ne!(flags & libc::O_CLOEXEC, 0);
            assert_eq!(calls::recv(socket.as_raw_fd(), &mut lease, 0), -libc::EAGAIN);
        }
    }
}
