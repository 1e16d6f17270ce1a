//! Peers that die, lie, stall or talk nonsense: an error and an exit code, never a half file.
//!
//! The peers here write the protocol by hand, from the description at the head of
//! `src/protocol.rs`, so that a change of the wire format is noticed.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

fn hello(role: u8) -> Vec<u8> {
    let mut out = b"DPLANE\r\n".to_vec();
    out.extend([1, 0, role, 0, 0, 0, 0, 0]);
    out.extend([role; 32]);
    out
}

/// A header of blake3 without a name.
fn header(length: Option<u64>) -> Vec<u8> {
    let mut out = vec![1, u8::from(length.is_some()), 0, 0, 0, 0, 0, 0];
    out.extend(length.unwrap_or(0).to_le_bytes());
    out
}

fn record(magic: &[u8; 4], code: u8, length: u64, digest: &[u8; 32]) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend([code, 0, 0, 0]);
    out.extend(length.to_le_bytes());
    out.extend(digest);
    out.extend([0; 32]);
    out
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// A receiver that waits, a folder with a target that must stay, and a connection to it.
struct Victim {
    folder: Folder,
    process: Running,
    peer: TcpStream,
}

fn victim(extra: &[&str]) -> Victim {
    let folder = Folder::new();
    let out = folder.path("out");
    std::fs::write(&out, "before").unwrap();
    let args = [&["recv", "--into", &out, "--timeout", "1"], extra].concat();
    let mut process = Running::start(&args);
    let address: SocketAddr = process.address();
    let peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    Victim { folder, process, peer }
}

impl Victim {
    /// Says hello and hears the other's.
    fn greeted(mut self) -> Victim {
        self.peer.write_all(&hello(1)).unwrap();
        let mut theirs = [0; 48];
        self.peer.read_exact(&mut theirs).unwrap();
        assert_eq!(theirs[..12], hello(2)[..12]);
        self
    }

    fn say(&mut self, bytes: &[u8]) {
        // A victim that hung up already has made up its mind.
        let _ = self.peer.write_all(bytes);
    }

    /// It fails with this code and text, and the target is as it was.
    fn fails(self, code: i32, text: &str) {
        let Victim { folder, process, peer } = self;
        let ended = process.finish().expect(code);
        drop(peer);
        assert!(ended.err.contains(text), "{}", ended.err);
        assert_eq!(folder.names(), ["out"], "no half file");
        assert_eq!(std::fs::read(folder.path("out")).unwrap(), b"before");
    }
}

#[test]
fn garbage_is_refused() {
    let mut web = victim(&[]);
    web.say(b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: something long enough\r\n\r\n");
    web.fails(4, "does not begin");
    for (at, text) in [(8, "version"), (10, "role"), (11, "flags"), (15, "flags")] {
        let mut bad = hello(1);
        bad[at] ^= 0x42;
        let mut peer = victim(&[]);
        peer.say(&bad);
        peer.fails(4, text);
    }
}

#[test]
fn noise_after_the_handshake_is_refused_on_every_backend() {
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let mut peer = victim(&["--backend", backend]).greeted();
        peer.say(&[0xff; 4096]);
        peer.fails(4, "hash");
    }
}

#[test]
fn hostile_numbers_allocate_nothing() {
    let mut longest = header(Some(i64::MAX as u64));
    longest.extend([7; 100]);
    let mut peer = victim(&[]).greeted();
    peer.say(&longest);
    peer.peer.shutdown(std::net::Shutdown::Write).unwrap();
    peer.fails(4, "after 100 bytes");
    let mut peer = victim(&[]).greeted();
    peer.say(&header(Some(u64::MAX)));
    peer.fails(4, "more bytes than a file can hold");
    let mut name = header(Some(1));
    name[2..4].copy_from_slice(&u16::MAX.to_le_bytes());
    let mut peer = victim(&[]).greeted();
    peer.say(&name);
    peer.fails(4, "name");
    let mut peer = victim(&[]).greeted();
    peer.say(&header(None));
    peer.say(&(u32::MAX - 1).to_le_bytes());
    peer.fails(4, "16 MiB");
}

#[test]
fn a_peer_that_dies_leaves_no_half_file() {
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let mut peer = victim(&["--backend", backend]).greeted();
        peer.say(&header(Some(10_000_000)));
        peer.say(&noise(3_000_000));
        peer.peer.shutdown(std::net::Shutdown::Both).unwrap();
        peer.fails(4, "");
    }
}

#[test]
fn a_peer_that_stalls_is_given_up() {
    victim(&[]).fails(4, "stalled");
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let mut peer = victim(&["--backend", backend]).greeted();
        peer.say(&header(Some(1000)));
        peer.say(b"a little");
        peer.fails(4, "stalled");
    }
    let mut frames = victim(&[]).greeted();
    frames.say(&header(None));
    frames.fails(4, "stalled");
}

#[test]
fn a_peer_that_lies_is_caught_and_told() {
    let content = noise(300_000);
    let right = digest(&content);
    let cases = [
        (300_000, [9; 32], 2, "hash"),
        (299_999, right, 1, "length"),
        (300_001, right, 1, "length"),
    ];
    for (length, digest, code, text) in cases {
        let mut peer = victim(&[]).greeted();
        peer.say(&header(Some(300_000)));
        peer.say(&content);
        peer.say(&record(b"TAIL", 0, length, &digest));
        let mut verdict = [0; 80];
        peer.peer.read_exact(&mut verdict).unwrap();
        assert_eq!(&verdict[..5], [b'D', b'O', b'N', b'E', code]);
        peer.fails(3, text);
    }
    // More data than announced: what follows is no trailer.
    let mut peer = victim(&[]).greeted();
    peer.say(&header(Some(299_000)));
    peer.say(&content);
    peer.fails(4, "trailer");
}

#[test]
fn an_honest_hand_written_peer_is_served() {
    let content = noise(300_000);
    for framed in [false, true] {
        let mut peer = victim(&["--keep"]).greeted();
        peer.say(&header((!framed).then_some(300_000)));
        if framed {
            peer.say(&u32::MAX.to_le_bytes());
            for part in content.chunks(70_000) {
                peer.say(&(part.len() as u32).to_le_bytes());
                peer.say(part);
            }
            peer.say(&[0; 4]);
        } else {
            peer.say(&content);
        }
        peer.say(&record(b"TAIL", 0, 300_000, &digest(&content)));
        let mut verdict = [0; 80];
        peer.peer.read_exact(&mut verdict).unwrap();
        assert_eq!(verdict[..], record(b"DONE", 0, 300_000, &digest(&content))[..]);
        assert!(std::fs::read(peer.folder.path("out")).unwrap() == content);
        assert_eq!(peer.folder.names(), ["out"]);
    }
}

/// A receiver written by hand: hello, header, then what the test wants.
fn liar(script: impl FnOnce(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut theirs = [0; 48];
        peer.read_exact(&mut theirs).unwrap();
        peer.write_all(&hello(2)).unwrap();
        let mut header = [0; 16];
        peer.read_exact(&mut header).unwrap();
        let mut name = vec![0; usize::from(u16::from_le_bytes([header[2], header[3]]))];
        peer.read_exact(&mut name).unwrap();
        script(&mut peer);
    });
    address
}

fn skip(peer: &mut TcpStream, bytes: u64) {
    let mut to_skip = peer.take(bytes);
    std::io::copy(&mut to_skip, &mut std::io::sink()).unwrap();
}

#[test]
fn a_receiver_that_lies_stalls_or_dies_fails_the_sender() {
    let folder = Folder::new();
    let (path, content) = folder.file("in", 4_000_000);
    let right = digest(&content);
    let done = |code, length, digest: [u8; 32]| {
        move |peer: &mut TcpStream| {
            skip(peer, 4_000_000 + 80);
            let _ = peer.write_all(&record(b"DONE", code, length, &digest));
        }
    };
    let attempt = |to: SocketAddr, code: i32, text: &str| {
        let ended = run(&["send", &path, "--to", &to.to_string(), "--timeout", "1"]).expect(code);
        assert!(ended.err.contains(text), "{}", ended.err);
    };
    attempt(liar(done(0, 4_000_000, [1; 32])), 3, "hash");
    attempt(liar(done(0, 3_999_999, right)), 3, "length");
    attempt(liar(done(2, 4_000_000, right)), 3, "hash");
    attempt(liar(done(3, 4_000_000, right)), 4, "could not write");
    attempt(liar(done(99, 4_000_000, right)), 4, "verdict");
    attempt(liar(|peer| skip(peer, 1_000_000)), 4, "");
    attempt(
        liar(|peer| {
            let _ = peer.write_all(&record(b"DONE", 4, 0, &[0; 32]));
            skip(peer, 1_000_000)
        }),
        4,
        "",
    );
    attempt(liar(|_| std::thread::sleep(Duration::from_secs(20))), 4, "stalled");
    attempt(
        liar(|peer| {
            skip(peer, 4_000_000 + 80);
            std::thread::sleep(Duration::from_secs(20));
        }),
        4,
        "stalled before its verdict",
    );
}

#[test]
fn a_receiver_that_takes_long_to_write_is_waited_for() {
    let folder = Folder::new();
    let (path, content) = folder.file("in", 1000);
    let right = digest(&content);
    let to = liar(move |peer| {
        skip(peer, 1000 + 80);
        for _ in 0..4 {
            peer.write_all(&record(b"DONE", 255, 0, &[0; 32])).unwrap();
            std::thread::sleep(Duration::from_millis(500));
        }
        peer.write_all(&record(b"DONE", 0, 1000, &right)).unwrap();
    });
    run(&["send", &path, "--to", &to.to_string(), "--timeout", "1"]).expect(0);
}
