//! Addresses of sockets: IPv4, IPv6 and Unix, as one value.
//!
//! An [`Address`] owns what it says and has no thread rules. Names are checked when an address is
//! made, so that a call never fails for a name that could not have worked (`unix(7)`, `ip(7)`,
//! `ipv6(7)`). What the kernel gives back in a family unknown here is [`Address::Unnamed`].

use crate::engine::scratch;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::fmt;
use std::mem::offset_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest path or abstract name of a Unix socket, in bytes: `sun_path` holds 108, one of which
/// is the NUL after a path or before an abstract name.
pub const MAX_UNIX_NAME_BYTES: usize = 107;

/// Where a Unix address's name starts in `sockaddr_un`.
const UNIX_NAME_AT: usize = offset_of!(libc::sockaddr_un, sun_path);
/// How many bytes `sun_path` has.
const UNIX_ROOM: usize = size_of::<libc::sockaddr_un>() - UNIX_NAME_AT;

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 or IPv6 address and port, with IPv6 flow and scope.
    Inet(SocketAddr),
    /// A Unix socket with a name.
    Unix(UnixAddress),
    /// No address: a Unix socket without a name, or a family unknown here. Connecting a datagram
    /// socket to it dissolves its connection (`connect(2)`); nothing can be bound to it.
    Unnamed,
}

const _: () = assert!(size_of::<Address>() <= 40, "addresses are stored in operations by value");

/// The name of a Unix socket: a path, or a name of the abstract namespace, which is not in the
/// file system and goes away with its socket.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UnixAddress {
    /// As in `sun_path`, without a path's final NUL: an abstract name starts with one.
    name: Box<[u8]>,
}

impl UnixAddress {
    /// The path, unless the name is abstract.
    pub fn path(&self) -> Option<&Path> {
        match self.name.first() {
            Some(0) => None,
            _ => Some(Path::new(OsStr::from_bytes(&self.name))),
        }
    }

    /// The abstract name without its leading NUL, unless it is a path.
    pub fn abstract_name(&self) -> Option<&[u8]> {
        self.name.strip_prefix(&[0])
    }
}

impl fmt::Display for UnixAddress {
    /// The path, or `@` and the abstract name with bytes that are not printable escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.abstract_name() {
            Some(name) => write!(f, "@{}", name.escape_ascii()),
            None => write!(f, "{}", String::from_utf8_lossy(&self.name)),
        }
    }
}

impl fmt::Debug for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::new("unix address", ErrorKind::InvalidArgument, message))
}

impl Address {
    /// A Unix socket by path.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty path, one with a NUL in it, and one of more than
    /// [`MAX_UNIX_NAME_BYTES`].
    pub fn unix(path: impl AsRef<Path>) -> Result<Address> {
        let name = path.as_ref().as_os_str().as_bytes();
        if name.is_empty() {
            return invalid("the path is empty; name a path or an abstract name".into());
        }
        if name.contains(&0) {
            return invalid("a path holds no NUL byte; use an abstract name".into());
        }
        Self::named(name, name)
    }

    /// A Unix socket by a name of the abstract namespace: any bytes, without the leading NUL.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for more than [`MAX_UNIX_NAME_BYTES`].
    pub fn abstract_name(name: &[u8]) -> Result<Address> {
        Self::named(name, &[&[0], name].concat())
    }

    fn named(name: &[u8], stored: &[u8]) -> Result<Address> {
        if name.len() > MAX_UNIX_NAME_BYTES {
            return invalid(format!(
                "the name has {} bytes and the system takes {MAX_UNIX_NAME_BYTES}; use a shorter \
                 one, or a path relative to the working directory",
                name.len()
            ));
        }
        Ok(Address::Unix(UnixAddress { name: stored.into() }))
    }

    /// The internet address, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            _ => None,
        }
    }

    /// The address family, as `socket(2)` takes it: `AF_INET`, `AF_INET6`, `AF_UNIX`, or
    /// `AF_UNSPEC` for no address.
    pub fn family(&self) -> i32 {
        match self {
            Address::Inet(SocketAddr::V4(_)) => libc::AF_INET,
            Address::Inet(SocketAddr::V6(_)) => libc::AF_INET6,
            Address::Unix(_) => libc::AF_UNIX,
            Address::Unnamed => libc::AF_UNSPEC,
        }
    }

    /// As the kernel takes it: the storage and how many bytes of it count.
    pub(crate) fn to_storage(&self) -> (libc::sockaddr_storage, libc::socklen_t) {
        match self {
            Address::Inet(SocketAddr::V4(v4)) => scratch::widen(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            Address::Inet(SocketAddr::V6(v6)) => scratch::widen(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
            Address::Unix(UnixAddress { name }) => {
                let mut raw = unix_blank(libc::AF_UNIX);
                for (to, from) in raw.sun_path.iter_mut().zip(name.iter()) {
                    *to = *from as libc::c_char;
                }
                // A path counts its final NUL where there is room for one; a name never does.
                let end = usize::from(name.first() != Some(&0));
                let bytes = UNIX_NAME_AT + UNIX_ROOM.min(name.len() + end);
                (scratch::widen(raw).0, bytes as libc::socklen_t)
            }
            Address::Unnamed => {
                let family_only = size_of::<libc::sa_family_t>() as libc::socklen_t;
                (scratch::widen(unix_blank(libc::AF_UNSPEC)).0, family_only)
            }
        }
    }

    /// From what the kernel wrote: `bytes` of `storage` count.
    pub(crate) fn from_storage(
        storage: &libc::sockaddr_storage,
        bytes: libc::socklen_t,
    ) -> Address {
        let bytes = bytes as usize;
        if bytes < size_of::<libc::sa_family_t>() {
            return Address::Unnamed;
        }
        match i32::from(storage.ss_family) {
            libc::AF_INET if bytes >= size_of::<libc::sockaddr_in>() => {
                let raw: libc::sockaddr_in = scratch::narrow(storage);
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into()
            }
            libc::AF_INET6 if bytes >= size_of::<libc::sockaddr_in6>() => {
                let raw: libc::sockaddr_in6 = scratch::narrow(storage);
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into()
            }
            libc::AF_UNIX => Self::from_unix(&scratch::narrow(storage), bytes),
            _ => Address::Unnamed,
        }
    }

    /// The kernel counts a path's final NUL, except that of a path which fills `sun_path`.
    fn from_unix(raw: &libc::sockaddr_un, bytes: usize) -> Address {
        let counted = bytes.saturating_sub(UNIX_NAME_AT).min(UNIX_ROOM);
        let mut name: Vec<u8> = raw.sun_path[..counted].iter().map(|c| *c as u8).collect();
        if name.first() != Some(&0) {
            name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
        }
        match name.is_empty() {
            true => Address::Unnamed,
            false => Address::Unix(UnixAddress { name: name.into() }),
        }
    }
}

fn unix_blank(family: i32) -> libc::sockaddr_un {
    libc::sockaddr_un { sun_family: family as libc::sa_family_t, sun_path: [0; UNIX_ROOM] }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(address) => address.fmt(f),
            Address::Unnamed => f.write_str("(unnamed)"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Address {
        Address::Inet(address.into())
    }
}

impl From<SocketAddrV6> for Address {
    fn from(address: SocketAddrV6) -> Address {
        Address::Inet(address.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(address: &Address) -> Address {
        let (storage, bytes) = address.to_storage();
        assert_eq!(i32::from(storage.ss_family), address.family());
        Address::from_storage(&storage, bytes)
    }

    #[test]
    fn internet_addresses_keep_every_field() {
        let v6 = SocketAddrV6::new("fe80::1:2".parse().unwrap(), 443, 0x12345, 7);
        let v4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 8080);
        for address in [Address::from(v4), Address::from(v6)] {
            assert_eq!(round_trip(&address), address);
        }
        let Some(SocketAddr::V6(back)) = round_trip(&v6.into()).inet() else {
            panic!("not IPv6 any more")
        };
        assert_eq!((back.flowinfo(), back.scope_id()), (0x12345, 7));
    }

    #[test]
    fn the_raw_form_is_in_network_order() {
        let address = Address::from(SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 0x1234));
        let (storage, bytes) = address.to_storage();
        let raw: libc::sockaddr_in = scratch::narrow(&storage);
        assert_eq!(bytes as usize, size_of::<libc::sockaddr_in>());
        assert_eq!(raw.sin_port.to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(raw.sin_addr.s_addr.to_ne_bytes(), [1, 2, 3, 4]);
    }

    #[test]
    fn unix_names_up_to_the_limit() {
        let longest = "p".repeat(MAX_UNIX_NAME_BYTES);
        for address in [
            Address::unix("/run/a b.sock").unwrap(),
            Address::unix(&longest).unwrap(),
            Address::abstract_name(b"").unwrap(),
            Address::abstract_name(b"with\0nul\xff").unwrap(),
            Address::abstract_name(longest.as_bytes()).unwrap(),
        ] {
            assert_eq!(round_trip(&address), address);
        }
        let over = "p".repeat(MAX_UNIX_NAME_BYTES + 1);
        for error in [Address::unix(&over), Address::abstract_name(over.as_bytes())] {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("108 bytes and the system takes 107"), "{error}");
        }
        assert!(Address::unix("").is_err());
        assert!(Address::unix("a\0b").is_err());
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told_apart() {
        let (Address::Unix(path), Address::Unix(name)) =
            (Address::unix("x").unwrap(), Address::abstract_name(b"x").unwrap())
        else {
            panic!("not Unix addresses")
        };
        assert_ne!(path, name);
        assert_eq!((path.path(), path.abstract_name()), (Some(Path::new("x")), None));
        assert_eq!((name.path(), name.abstract_name()), (None, Some(&b"x"[..])));
        assert_eq!(format!("{path} {name} {name:?}"), "x @x \"@x\"");
        assert_eq!(Address::abstract_name(b"\x01n").unwrap().to_string(), "@\\x01n");
    }

    #[test]
    fn what_has_no_name_is_unnamed() {
        assert_eq!(round_trip(&Address::Unnamed), Address::Unnamed);
        let (mut storage, bytes) = Address::unix("/x").unwrap().to_storage();
        assert_eq!(Address::from_storage(&storage, 0), Address::Unnamed);
        assert_eq!(Address::from_storage(&storage, 2), Address::Unnamed);
        storage.ss_family = libc::AF_NETLINK as libc::sa_family_t;
        assert_eq!(Address::from_storage(&storage, bytes), Address::Unnamed);
        // Cut short: an internet address that is not all there.
        let (storage, bytes) =
            Address::from(SocketAddrV4::new([1, 2, 3, 4].into(), 5)).to_storage();
        assert_eq!(Address::from_storage(&storage, bytes - 1), Address::Unnamed);
    }

    #[test]
    fn a_path_that_fills_the_field_has_no_nul() {
        let mut raw = unix_blank(libc::AF_UNIX);
        raw.sun_path = [b'p' as libc::c_char; UNIX_ROOM];
        let full = scratch::widen(raw).0;
        // The kernel reports one byte more than the structure has.
        let address = Address::from_storage(&full, (UNIX_NAME_AT + UNIX_ROOM + 1) as u32);
        assert_eq!(address.to_string().len(), UNIX_ROOM);
        assert_eq!(round_trip(&address), address);
    }
}
