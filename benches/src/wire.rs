//! TCP connections over loopback, the same for both sides of a question.
//!
//! Both ends have TCP_NODELAY and a congestion control that does not pace (`tcp(7)`,
//! TCP_CONGESTION): cubic, else reno, set before the connection exists, since bbr paces loopback
//! as it would a long line and the pacing would be all one measures. Where neither is allowed the
//! system's own stays, and [`congestion_control`] says so.

use crate::Result;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

/// What connections use: a name, or why it is the system's own.
pub fn congestion_control() -> String {
    let chosen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .map_err(crate::Error::from)
        .map(|listener| choose(&listener));
    match chosen {
        Ok(Some(name)) => name.to_owned(),
        Ok(None) => {
            let path = "/proc/sys/net/ipv4/tcp_congestion_control";
            let own = std::fs::read_to_string(path).unwrap_or_else(|_| "unknown".to_owned());
            format!("{} (the system's; neither cubic nor reno is allowed)", own.trim())
        }
        Err(error) => format!("unknown ({error})"),
    }
}

/// Sets the first that is allowed.
fn choose(socket: &impl AsFd) -> Option<&'static str> {
    ["cubic", "reno"]
        .into_iter()
        .find(|name| setsockopt(socket, sockopt::TcpCongestion, &OsString::from(name)).is_ok())
}

/// A connected pair of blocking sockets.
///
/// # Errors
///
/// What the system says when it has no sockets or ports to give.
pub fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // What a listener has, the sockets it accepts have too.
    choose(&listener);
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    choose(&client);
    let port = listener.local_addr()?.port();
    let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    connect(std::os::fd::AsRawFd::as_raw_fd(&client), &to)?;
    let client = TcpStream::from(client);
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((client, server))
}
