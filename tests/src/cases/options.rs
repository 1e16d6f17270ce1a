//! Socket options read back where they can be, and names: of addresses, and of hosts.

use super::net::{exchange, settled, why};
use crate::{Case, Cx, Skip};
use dataplane::{Address, ErrorKind, Proactor, SocketKind, SocketOptions};
use nix::sys::socket::{getsockopt, sockopt};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "options/read_back", needs: &[], run: read_back },
    Case { name: "options/buffers", needs: &[], run: buffers },
    Case { name: "options/wrong_socket", needs: &[], run: wrong_socket },
    Case { name: "options/out_of_range", needs: &[], run: out_of_range },
    Case { name: "options/of_a_closed_socket", needs: &[], run: of_a_closed_socket },
    Case { name: "options/linger_resets", needs: &[], run: linger_resets },
    Case { name: "options/ipv6_alone", needs: &[], run: ipv6_alone },
    Case { name: "options/addresses", needs: &[], run: addresses },
    Case { name: "options/not_connected", needs: &[], run: not_connected },
    Case { name: "options/resolve_localhost", needs: &[], run: resolve_localhost },
    Case { name: "options/resolve_an_address", needs: &[], run: resolve_an_address },
    Case { name: "options/resolve_unknown", needs: &[], run: resolve_unknown },
    Case { name: "options/resolve_without_helpers", needs: &[], run: resolve_without_helpers },
    Case { name: "options/resolve_cancelled", needs: &[], run: resolve_cancelled },
    Case { name: "options/connect_by_name", needs: &[], run: connect_by_name },
    Case { name: "options/connect_to_an_unknown_name", needs: &[], run: connect_to_unknown },
    Case { name: "options/age_before_the_first_turn", needs: &[], run: age_before_first_turn },
];

/// A connected stream, its other end, and a duplicate to look at it from outside.
fn ends() -> (TcpStream, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
    let one = TcpStream::connect(listener.local_addr().expect("its address")).expect("connecting");
    let two = listener.accept().expect("it is there").0;
    let outside = one.try_clone().expect("a descriptor");
    (one, two, outside)
}

fn read_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two, outside) = ends();
    let socket = cx.io.adopt_socket(one).expect("room");
    assert!(!outside.nodelay().expect("an option"));
    let options = SocketOptions::new()
        .no_delay(true)
        .keep_alive(Duration::from_millis(30_500))
        .linger(Some(Duration::from_secs(2)))
        .reuse_address(true)
        .reuse_port(true);
    socket.set_options(&options).expect("options of a TCP socket");
    assert!(outside.nodelay().expect("an option"));
    assert!(getsockopt(&outside, sockopt::KeepAlive).expect("an option"));
    assert_eq!(getsockopt(&outside, sockopt::TcpKeepIdle).expect("an option"), 31);
    assert!(getsockopt(&outside, sockopt::ReuseAddr).expect("an option"));
    assert!(getsockopt(&outside, sockopt::ReusePort).expect("an option"));
    let linger = getsockopt(&outside, sockopt::Linger).expect("an option");
    assert_eq!((linger.l_onoff, linger.l_linger), (1, 2));
    let off = SocketOptions::new().no_delay(false).linger(None);
    socket.set_options(&off).expect("options of a TCP socket");
    assert!(!outside.nodelay().expect("an option"));
    assert_eq!(getsockopt(&outside, sockopt::Linger).expect("an option").l_onoff, 0);
    assert!(getsockopt(&outside, sockopt::KeepAlive).expect("an option"), "it was not named");
    Ok(())
}

fn buffers(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two, outside) = ends();
    let socket = cx.io.adopt_socket(one).expect("room");
    let options = SocketOptions::new().send_buffer_bytes(20_000).receive_buffer_bytes(30_000);
    socket.set_options(&options).expect("small buffers");
    // The system counts its own bookkeeping too: twice as much.
    assert_eq!(getsockopt(&outside, sockopt::SndBuf).expect("an option"), 40_000);
    assert_eq!(getsockopt(&outside, sockopt::RcvBuf).expect("an option"), 60_000);
    Ok(())
}

fn wrong_socket(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    let one = cx.io.adopt_socket(one).expect("room");
    let two = cx.io.adopt_socket(two).expect("room");
    let error = one.set_options(&SocketOptions::new().no_delay(true)).expect_err("it is not TCP");
    assert!(error.errno().is_some(), "{error}");
    let nothing = SocketOptions::new().v6_only(true);
    one.set_options(&nothing).expect("nothing on sockets that are not IPv6");
    exchange(cx, &one, &two, b"healthy");
    Ok(())
}

fn out_of_range(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let wrong = [
        SocketOptions::new().keep_alive(Duration::ZERO),
        SocketOptions::new().keep_alive(Duration::from_secs(40_000)),
        SocketOptions::new().linger(Some(Duration::MAX)),
        SocketOptions::new().send_buffer_bytes(usize::MAX),
        SocketOptions::new().receive_buffer_bytes(usize::MAX),
    ];
    for options in wrong {
        let error = client.set_options(&options).expect_err("out of range");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(!error.message().is_empty());
        let listening = cx.io.listen_with("127.0.0.1:0", SocketKind::Stream, &options);
        assert_eq!(listening.err().map(|e| e.kind()), Some(ErrorKind::InvalidArgument));
    }
    exchange(cx, &client, &server, b"healthy");
    settled(cx, 2);
    Ok(())
}

fn of_a_closed_socket(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, _server) = cx.tcp_pair();
    let other = client.clone();
    cx.block_on(client.close()).expect("closing");
    let error = other.set_options(&SocketOptions::new().no_delay(true)).expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    Ok(())
}

fn linger_resets(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    super::net::reset(client);
    let slab = cx.slab(1, 8);
    let failed = cx.block_on(server.recv(slab.lease().expect("a slot"))).expect_err("a reset");
    assert_eq!(failed.error.errno(), Some(libc::ECONNRESET));
    assert!(failed.into_buffer().is_some());
    Ok(())
}

fn ipv6_alone(cx: &Cx<'_>) -> Result<(), Skip> {
    if let Err(error) = UdpSocket::bind("[::1]:0") {
        return Err(Skip(format!("no IPv6 loopback here: {error}")));
    }
    for alone in [true, false] {
        let options = SocketOptions::new().v6_only(alone);
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listener = cx.io.listen_with(any, SocketKind::Stream, &options).expect("listening");
        let port = listener.local_addr().expect("named").inet().expect("an IP address").port();
        let came = TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert_eq!(came, !alone);
    }
    Ok(())
}

fn addresses(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let here = client.local_addr().expect("named").inet().expect("an IP address");
    assert!(here.ip().is_loopback() && here.port() != 0);
    assert_eq!(server.peer_addr().expect("connected").inet(), Some(here));
    assert_eq!(Address::from(here).to_string(), here.to_string());
    let datagram = cx.io.bind_datagram("127.0.0.1:0", &SocketOptions::new()).expect("binding");
    assert_ne!(datagram.local_addr().expect("named").inet().expect("IP").port(), 0);
    Ok(())
}

fn not_connected(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let error = listener.peer_addr().expect_err("a listener has no peer");
    assert_eq!(error.errno(), Some(libc::ENOTCONN));
    // Receiving or sending on it is an error of the system, not a wait.
    let slab = cx.slab(1, 8);
    let ended = cx.block_on(listener.recv(slab.lease().expect("a slot")));
    assert_eq!(why(ended), Some(ErrorKind::Disconnected));
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn resolve_localhost(cx: &Cx<'_>) -> Result<(), Skip> {
    let found = cx.block_on(cx.io.resolve("localhost:4321")).expect("it is everywhere");
    assert!(!found.is_empty());
    assert!(found.iter().all(|at| at.ip().is_loopback() && at.port() == 4321), "{found:?}");
    assert!(cx.io.stats().helper_threads <= 4);
    Ok(())
}

fn resolve_an_address(cx: &Cx<'_>) -> Result<(), Skip> {
    let found = cx.block_on(cx.io.resolve("192.0.2.7:80")).expect("nothing to look up");
    assert_eq!(found, [SocketAddr::from((IpAddr::from([192, 0, 2, 7]), 80))]);
    Ok(())
}

/// What no name service can know: a label longer than the system takes (RFC 1035).
fn unknown() -> String {
    format!("{}.invalid:80", "x".repeat(64))
}

fn resolve_unknown(cx: &Cx<'_>) -> Result<(), Skip> {
    let failed = cx.block_on(cx.io.resolve(&unknown())).expect_err("there is no such name");
    assert_eq!(failed.kind(), ErrorKind::NotFound);
    assert!(failed.error.message().contains(".invalid:80"), "{}", failed.error);
    for malformed in ["localhost", "localhost:port", ":", ""] {
        let failed = cx.block_on(cx.io.resolve(malformed)).expect_err("it names no port");
        let kinds = [ErrorKind::NotFound, ErrorKind::InvalidArgument];
        assert!(kinds.contains(&failed.kind()), "`{malformed}`: {failed}");
    }
    Ok(())
}

fn without_helpers(cx: &Cx<'_>) -> Proactor {
    Proactor::with(cx.options.clone().helpers(0)).expect("a second proactor")
}

fn resolve_without_helpers(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = without_helpers(cx);
    let cx = &Cx::new(&io, cx.options);
    let failed = cx.block_on(io.resolve("localhost:80")).expect_err("nobody may look it up");
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    assert!(failed.to_string().contains("helper"), "{failed}");
    let error = cx.block_on(io.connect("localhost:80")).expect_err("likewise");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // An address needs nobody.
    let (client, server) = cx.tcp_pair();
    exchange(cx, &client, &server, b"no names");
    Ok(())
}

fn resolve_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let resolving = cx.io.resolve("localhost:80").submit().expect("room");
    resolving.cancel().expect("it is pending");
    match cx.block_on(resolving) {
        Ok(found) => assert!(!found.is_empty(), "it won the race"),
        Err(failed) => assert_eq!(failed.kind(), ErrorKind::Cancelled),
    }
    drop(cx.io.resolve("localhost:80").submit().expect("room"));
    settled(cx, 0);
    Ok(())
}

fn connect_by_name(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let port = listener.local_addr().expect("named").inet().expect("an IP address").port();
    let accepting = listener.accept().submit().expect("room");
    // The name may mean ::1 too, where nobody listens: the next address is tried.
    let name = format!("localhost:{port}");
    let connecting = cx.io.connect(name.as_str());
    let (client, server) = cx.block_on(async { futures_util::join!(connecting, accepting) });
    exchange(cx, &client.expect("connecting"), &server.expect("accepting"), b"by name");
    drop(listener);
    settled(cx, 0);
    Ok(())
}

fn connect_to_unknown(cx: &Cx<'_>) -> Result<(), Skip> {
    let error = cx.block_on(cx.io.connect(unknown().as_str())).expect_err("no such name");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    settled(cx, 0);
    Ok(())
}

fn age_before_first_turn(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let listener = io.listen("127.0.0.1:0").expect("listening");
    let _accepting = listener.accept().submit().expect("room");
    let dump = io.in_flight();
    assert_eq!(dump.len(), 1);
    assert!(dump[0].age < Duration::from_secs(60), "{}", dump[0]);
    Ok(())
}
