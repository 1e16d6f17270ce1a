//! Records of the protocol over a socket, and the handshake.
//!
//! Records are small and come in slots of a slab of their own, so that they never wait for a slot
//! the data holds. Each has to arrive whole before its deadline: a peer that sends a byte now and
//! then gains nothing.

use super::{End, failed};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::pipeline::protocol::{HELLO_BYTES, Hello, Malformed, NAME_BYTES_MAX, Role};
use crate::pipeline::token::{Claim, Proof, Session, Token};
use dataplane::{ErrorKind, Proactor, Socket, Submission, operations};
use regions::{Slab, Span};
use std::time::{Duration, Instant};

/// Records that may be on their way at once.
const RECORDS: usize = 8;

/// A connection, with slots for records.
pub struct Wire {
    /// The connection.
    pub socket: Socket,
    /// Who is at the other end, for messages.
    pub peer: String,
    io: Proactor,
    slots: Slab,
    stall: Duration,
}

impl Wire {
    /// Takes over a connection.
    pub fn new(end: &End, socket: Socket) -> Result<Wire> {
        let peer = match socket.peer_addr() {
            Ok(address) => address.to_string(),
            Err(error) => return Err(failed("connection", &error)),
        };
        let no_delay = dataplane::SocketOptions::new().no_delay(true);
        socket.set_options(&no_delay).doing("connection")?;
        // A table that is full or missing costs a look-up per operation and nothing else.
        let _ = socket.register();
        let slots = Slab::new(RECORDS, NAME_BYTES_MAX.next_power_of_two()).doing("records")?;
        Ok(Wire { socket, peer, io: end.io.clone(), slots, stall: end.settings.stall })
    }

    /// How long the peer may do nothing.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// It did nothing for too long.
    pub fn stalled(&self, what: &str) -> Failure {
        let seconds = self.stall.as_secs_f64();
        Failure::peer(format!(
            "{}: stalled {what} for {seconds} s; see that it runs, or raise --timeout",
            self.peer
        ))
    }

    /// It does not keep to the protocol.
    pub fn malformed(&self, error: Malformed) -> Failure {
        Failure::peer(format!("{}: {error}", self.peer))
    }

    /// It closed the connection.
    pub fn ended(&self, what: impl std::fmt::Display) -> Failure {
        Failure::peer(format!("{}: closed the connection {what}", self.peer))
    }

    /// A timer.
    pub fn timer(&self, at: Instant) -> Result<Submission<dataplane::Timer>> {
        self.io.sleep_until(at).submit().map_err(|refused| failed("timer", &refused.error))
    }

    /// Receives up to 256 bytes, all of them before the deadline.
    pub async fn get_bytes(&self, bytes: usize, what: &str) -> Result<Vec<u8>> {
        let deadline = Instant::now() + self.stall;
        let mut got = Vec::with_capacity(bytes);
        while got.len() < bytes {
            let mut lease = self.slots.lease().doing("records")?;
            lease.truncate(bytes - got.len());
            match self.socket.recv_all(lease).deadline(deadline).await {
                Ok(filled) if filled.is_empty() => return Err(self.ended(what)),
                Ok(filled) => got.extend_from_slice(&filled),
                Err(refused) => return Err(self.receive_failed(&refused.error, what)),
            }
        }
        Ok(got)
    }

    /// Receives a record.
    pub async fn get<const N: usize>(&self, what: &str) -> Result<[u8; N]> {
        let bytes = self.get_bytes(N, what).await?;
        let mut record = [0; N];
        record.copy_from_slice(&bytes);
        Ok(record)
    }

    /// What a failed receive means.
    pub fn receive_failed(&self, error: &dataplane::Error, what: &str) -> Failure {
        match error.kind() {
            ErrorKind::TimedOut => self.stalled(what),
            _ => failed(format_args!("{}: receive {what}", self.peer), error),
        }
    }

    /// A receive of one record that may come at any time.
    pub fn expect(&self, bytes: usize) -> Result<Submission<operations::Recv>> {
        let mut lease = self.slots.lease().doing("records")?;
        lease.truncate(bytes);
        let receive = self.socket.recv_all(lease).submit();
        receive.map_err(|refused| failed(format_args!("{}: receive", self.peer), &refused.error))
    }

    /// Sends a record.
    pub async fn put(&self, record: &[u8]) -> Result<()> {
        let span = Span::from(record.to_vec());
        match self.socket.send_all(span).timeout(self.stall).await {
            Ok(_) => Ok(()),
            Err(refused) if refused.kind() == ErrorKind::TimedOut => {
                Err(self.stalled("a record of the protocol"))
            }
            Err(refused) => Err(failed(format_args!("{}: send", self.peer), &refused.error)),
        }
    }

    /// After a refusal was sent: takes what is still coming, so that the refusal is not thrown
    /// away with it, until the peer closes or a second has passed.
    pub async fn linger(&self, slab: &Slab) {
        let deadline = Instant::now() + self.stall.min(Duration::from_secs(1));
        if self.socket.finish().await.is_err() {
            return;
        }
        while let Ok(lease) = slab.lease() {
            match self.socket.recv(lease).deadline(deadline).await {
                Ok(filled) if !filled.is_empty() => {}
                _ => return,
            }
        }
    }

    fn differs(&self, text: &str) -> Failure {
        Failure::new(Exit::Token, format!("{}: {text}", self.peer))
    }

    /// Both hellos and, with a token, both proofs. Returns the session when there is a token.
    pub async fn shake_hands(&self, role: Role, token: Option<&Token>) -> Result<Option<Session>> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).doing("a nonce")?;
        let mine = Hello { role, token: token.is_some(), nonce }.encode();
        const WHAT: &str = "during the handshake";
        let (other, theirs) = match role {
            Role::Sender => {
                self.put(&mine).await?;
                (Role::Receiver, self.get::<HELLO_BYTES>(WHAT).await?)
            }
            Role::Receiver => {
                let theirs = self.get::<HELLO_BYTES>(WHAT).await?;
                self.put(&mine).await?;
                (Role::Sender, theirs)
            }
        };
        let hello = Hello::decode(&theirs, other).map_err(|error| self.malformed(error))?;
        let Some(token) = token else {
            return match hello.token {
                true => Err(self.differs("it demands a token; give this end --token-file too")),
                false => Ok(None),
            };
        };
        if !hello.token {
            return Err(self.differs("it has no token; give that end --token-file too"));
        }
        let session = match role {
            Role::Sender => token.session(&mine, &theirs),
            Role::Receiver => token.session(&theirs, &mine),
        };
        self.prove(role, &session).await?;
        Ok(Some(session))
    }

    async fn prove(&self, role: Role, session: &Session) -> Result<()> {
        const WRONG: &str = "its proof is wrong; both ends need the same --token-file";
        match role {
            Role::Sender => {
                let mine = session.prove(Claim::Sender);
                self.put(&mine).await?;
                let proof: Proof = match self.get("instead of proving its token").await {
                    Ok(proof) => proof,
                    Err(failure) if failure.exit == Exit::Peer => {
                        let text = format!("{failure}; do both ends have the same --token-file?");
                        return Err(Failure::new(Exit::Token, text));
                    }
                    Err(failure) => return Err(failure),
                };
                match session.is_proven(Claim::Receiver(&mine), &proof) {
                    true => Ok(()),
                    false => Err(self.differs(WRONG)),
                }
            }
            Role::Receiver => {
                let proof: Proof = self.get("instead of proving its token").await?;
                if !session.is_proven(Claim::Sender, &proof) {
                    return Err(self.differs(WRONG));
                }
                self.put(&session.prove(Claim::Receiver(&proof))).await
            }
        }
    }
}
