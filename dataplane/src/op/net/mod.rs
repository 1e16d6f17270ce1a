//! Operations on sockets.

mod accept;
mod connect;
mod datagram;
mod recv;
mod send;

pub use accept::{Accept, AcceptMany};
pub use connect::Connect;
pub use datagram::{RecvFrom, SendTo};
pub(crate) use recv::PoolArm;
pub use recv::{Filled, Recv, RecvMany, RecvPool, RecvVectored};
pub use send::{Send, SendVectored, Sent};
