//! A send that waits until what it sends is there: a timeline semaphore, then a socket.
//!
//! The semaphore counts frames that are drawn. A thread draws into memory that the sender holds
//! already, and signals; the send was submitted long before, behind a wait for that value, as one
//! sequence. The memory is a region, shared by nature: it is copied into and out of, and gives no
//! slice while somebody may be drawing. A semaphore that fails ends its sequences with the reason,
//! and they send nothing. Run it with `cargo run -p dataplane --example gated_send`.

use dataplane::fence::{Failure, Semaphore};
use dataplane::regions::Region;
use dataplane::{Address, Proactor, Result, SequenceFailed};
use std::io::Read;
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

const FRAMES: u64 = 3;
const FRAME_BYTES: usize = 64 << 10;
/// Errno of a device that is lost, as a driver would give it.
const ENODEV: i32 = 19;

/// What the bytes of a frame are.
fn shade(frame: u64) -> u8 {
    frame as u8
}

/// Stands for a GPU: draws some frames, each into its part of the region, and then is lost.
fn draw(canvas: Region, drawn: Semaphore) -> JoinHandle<()> {
    thread::spawn(move || {
        for frame in 1..=FRAMES {
            let pixels = [shade(frame); FRAME_BYTES];
            let at = (frame as usize - 1) * FRAME_BYTES;
            canvas.copy_in(at, &pixels).expect("inside the region");
            // What was written before a signal is seen by whoever sees its value.
            drawn.signal(frame).expect("values go upwards");
        }
        drawn.fail(Failure::with_errno(ENODEV, "the device is lost"));
    })
}

/// An ordinary peer, which knows nothing of all this: everything it receives until the end.
fn receive(listener: TcpListener) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an end in order");
        bytes
    })
}

/// Submits every send before anything is drawn, one frame more than there will be. How the last
/// one failed.
async fn send(io: Proactor, peer: Address, canvas: Region) -> Result<Box<SequenceFailed>> {
    let socket = io.connect(peer).await?;
    let drawn = Semaphore::new(0);
    let mut frames = Vec::new();
    for frame in 1..=FRAMES + 1 {
        let start = (frame as usize - 1) * FRAME_BYTES;
        let span = canvas.span(start..start + FRAME_BYTES)?;
        frames.push(io.sequence().wait(&drawn, frame).send_all(&socket, span).submit()?);
    }
    let artist = draw(canvas, drawn);
    let mut failed = None;
    for frame in frames {
        match frame.await {
            Ok(finished) => assert_eq!(finished.steps(), 2, "a wait and a send"),
            Err(why) => failed = Some(why),
        }
    }
    artist.join().expect("it draws to the end");
    socket.finish().await?;
    Ok(failed.expect("there is a frame that nobody draws"))
}

/// Runs it.
///
/// # Errors
///
/// What the machine refuses: descriptors, memory, loopback.
pub fn main() -> Result<()> {
    let io = Proactor::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let peer = Address::from(listener.local_addr().expect("bound"));
    let receiver = receive(listener);
    let canvas = Region::anonymous((FRAMES as usize + 1) * FRAME_BYTES)?;

    let failed = io.block_on(send(io.clone(), peer, canvas))??;

    // The wait failed, not the send, which did not begin; and with the reason of whoever drew.
    assert_eq!((failed.step, failed.error.errno()), (Some(0), Some(ENODEV)));
    let received = receiver.join().expect("the peer receives");
    assert_eq!(received.len(), FRAMES as usize * FRAME_BYTES, "nothing of a frame not drawn");
    for (frame, bytes) in (1..).zip(received.chunks(FRAME_BYTES)) {
        assert!(bytes.iter().all(|byte| *byte == shade(frame)), "frame {frame} was not finished");
    }
    println!("{}: {FRAMES} frames sent, each when it was drawn", io.backend());
    println!("and one that was not: {failed}");
    Ok(())
}
