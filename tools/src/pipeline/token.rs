//! The shared token: both ends prove that they know it, and neither sends it.
//!
//! Both hellos carry a fresh nonce. From the token and both hellos each end derives a session key
//! (HMAC-SHA256, RFC 2104), so everything proven is bound to this connection and cannot be
//! replayed. The sender proves first; the receiver's proof covers the sender's, and the two use
//! different labels, so neither end can be made to answer its own challenge. Trailer and verdict
//! carry tags under the same key: with a token, a change of the bytes on the way is noticed.
//!
//! What this does not do: the bytes are not encrypted, and a short token can be guessed offline by
//! whoever saw a proof. Hence the lower limit on its length.
//!
//! Comparisons take the same time whatever differs (`Mac::verify_slice`).

use crate::failure::{Doing, Exit, Failure, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Shortest token taken, in bytes.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Longest token taken, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// A proof or a tag.
pub type Proof = [u8; 32];

/// A secret both ends were given beforehand.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl Token {
    /// Reads a token file; the line break at its end does not count.
    pub fn load(path: &Path) -> Result<Token> {
        let shown = path.display();
        let file = File::open(path).doing(format_args!("open the token file {shown}"))?;
        let mut bytes = Vec::new();
        file.take(TOKEN_BYTES_MAX as u64 + 2)
            .read_to_end(&mut bytes)
            .doing(format_args!("read the token file {shown}"))?;
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&bytes.len()) {
            let text = format!(
                "token file {shown}: {} bytes, {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} are taken; \
                 make one with `head -c 32 /dev/urandom | base64`",
                bytes.len()
            );
            return Err(Failure::new(Exit::Token, text));
        }
        Ok(Token(bytes))
    }

    /// The key of one connection, from both hellos as they went over the wire.
    pub fn session(&self, sender_hello: &[u8], receiver_hello: &[u8]) -> Session {
        let parts: [&[u8]; 3] = [b"dataplane 1 session", sender_hello, receiver_hello];
        Session { key: mac(&self.0, &parts).finalize().into_bytes().into() }
    }
}

/// The key of one connection.
#[derive(Clone)]
pub struct Session {
    key: Proof,
}

/// What is proven; the labels keep one proof from standing for another.
#[derive(Clone, Copy)]
pub enum Claim<'a> {
    /// The sender knows the token.
    Sender,
    /// The receiver knows it too, having seen the sender's proof.
    Receiver(&'a Proof),
    /// The trailer: header, name, and the trailer itself.
    Trailer(&'a [u8], &'a [u8]),
    /// The verdict.
    Verdict(&'a [u8]),
}

/// An HMAC over parts, each after its length, so that no two lists of parts read the same.
fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac
}

impl Session {
    fn claim(&self, claim: Claim<'_>) -> Hmac<Sha256> {
        match claim {
            Claim::Sender => mac(&self.key, &[b"sender"]),
            Claim::Receiver(proof) => mac(&self.key, &[b"receiver", proof]),
            Claim::Trailer(header, record) => mac(&self.key, &[b"trailer", header, record]),
            Claim::Verdict(record) => mac(&self.key, &[b"verdict", record]),
        }
    }

    /// Proves a claim.
    pub fn prove(&self, claim: Claim<'_>) -> Proof {
        self.claim(claim).finalize().into_bytes().into()
    }

    /// Whether the other end proved a claim; the comparison takes constant time.
    pub fn is_proven(&self, claim: Claim<'_>, proof: &[u8]) -> bool {
        self.claim(claim).verify_slice(proof).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(token: &[u8], a: &[u8], b: &[u8]) -> Session {
        Token(token.to_vec()).session(a, b)
    }

    #[test]
    fn proofs_are_bound_to_token_hellos_and_role() {
        let here = session(b"0123456789abcdef", b"hello a", b"hello b");
        let proof = here.prove(Claim::Sender);
        assert!(here.is_proven(Claim::Sender, &proof));
        assert!(!here.is_proven(Claim::Receiver(&proof), &proof), "no reflection");
        assert!(!here.is_proven(Claim::Sender, &proof[..31]));
        let others = [
            session(b"0123456789abcdeF", b"hello a", b"hello b"),
            session(b"0123456789abcdef", b"hello A", b"hello b"),
            session(b"0123456789abcdef", b"hello a", b"hello B"),
            session(b"0123456789abcdef", b"hello ah", b"ello b"),
        ];
        assert!(others.iter().all(|other| !other.is_proven(Claim::Sender, &proof)));
    }

    #[test]
    fn the_mac_is_the_published_one() {
        // RFC 4231, test case 2, through the same crate: the parts' lengths are ours.
        let mut plain = <Hmac<Sha256> as KeyInit>::new_from_slice(b"Jefe").unwrap();
        plain.update(b"what do ya want for nothing?");
        let tag: Proof = plain.finalize().into_bytes().into();
        assert_eq!(tag[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn token_files_are_checked() {
        let path = std::env::temp_dir().join(format!("token-{}", std::process::id()));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(Token::load(&path).unwrap().0.len(), 16);
        std::fs::write(&path, "short\n").unwrap();
        assert_eq!(Token::load(&path).err().unwrap().exit, Exit::Token);
        std::fs::write(&path, vec![b'x'; TOKEN_BYTES_MAX + 100]).unwrap();
        assert_eq!(Token::load(&path).err().unwrap().exit, Exit::Token);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Token::load(&path).err().unwrap().exit, Exit::System);
    }
}
