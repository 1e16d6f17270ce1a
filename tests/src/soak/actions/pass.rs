//! Memory, sockets, files and events passed from one socket to another, as to another process.
//!
//! Fences and dma-bufs need devices; the lab passes those.
//!
//! Unsafe code: passing a slab is a promise about who writes which slot; here nobody does.
#![allow(unsafe_code)]

use crate::soak::world::World;
use dataplane::regions::{Region, Slab};
use dataplane::{Error, ErrorKind, Event, File, Pass, PassKind, PassedEvent, PassedSlab, Socket};
use futures_util::future::join;
use std::os::unix::net::UnixStream;

/// What is written at the beginning of memory that is passed.
const MARK: [u8; 8] = *b"passed!\n";
/// Slots of a slab that is passed.
const SLOTS: usize = 2;

fn text(error: Error) -> String {
    error.to_string()
}

/// Something to be passed; None where there is no room for it.
fn something(world: &mut World<'_>) -> Result<Option<Pass>, String> {
    Ok(Some(match world.dice.below(5) {
        0 => {
            let region = Region::memfd(MARK.len()).map_err(|error| error.to_string())?;
            region.copy_in(0, &MARK).map_err(|error| error.to_string())?;
            Pass::region(&region).map_err(text)?
        }
        1 => {
            let slab = Slab::new(SLOTS, 64).map_err(|error| error.to_string())?;
            let leases: Vec<_> = (0..SLOTS).map_while(|_| slab.try_lease()).collect();
            leases.into_iter().for_each(|mut lease| lease[..MARK.len()].copy_from_slice(&MARK));
            // SAFETY: whoever receives it only looks at it.
            unsafe { Pass::slab(&slab) }.map_err(text)?
        }
        // It may be closed by now.
        2 => match Pass::socket(&world.socket()) {
            Ok(pass) => pass,
            Err(_) => return Ok(None),
        },
        3 => Pass::file(&world.file).map_err(text)?,
        _ => Pass::event(Event::new().map_err(text)?).map_err(text)?,
    }))
}

fn is_marked(region: &Region) -> bool {
    let mut bytes = [0; MARK.len()];
    region.copy_out(0, &mut bytes).is_ok() && bytes == MARK
}

/// Receives what is of this kind; whether it is what was passed.
async fn received(socket: &Socket, kind: PassKind) -> Result<bool, Error> {
    match kind {
        PassKind::Region => Ok(is_marked(&socket.receive_passed::<Region>().await?)),
        PassKind::Slab => {
            let slab: PassedSlab = socket.receive_passed().await?;
            Ok(slab.slots() == SLOTS && is_marked(slab.region()))
        }
        PassKind::Socket => Ok(socket.receive_passed::<Socket>().await?.local_addr().is_ok()),
        PassKind::File => Ok(socket.receive_passed::<File>().await?.size_bytes().is_ok()),
        _ => socket.receive_passed::<PassedEvent>().await.map(|_| true),
    }
}

/// Over a pair of its own, by a task that awaits both sides; now and then the wrong thing is
/// expected, which is an error and nothing else.
pub(super) fn pass(world: &mut World<'_>) -> Result<(), String> {
    let Some(pass) = something(world)? else { return Ok(()) };
    let (one, two) = UnixStream::pair().map_err(|error| error.to_string())?;
    let from = world.io.adopt_socket(one).map_err(text)?;
    let to = world.io.adopt_socket(two).map_err(text)?;
    let is_memory = matches!(pass.kind(), PassKind::Region | PassKind::Slab);
    let expected = match (world.dice.one_in(8), pass.kind()) {
        (true, PassKind::File) => PassKind::Socket,
        (true, _) => PassKind::File,
        (false, kind) => kind,
    };
    let is_mistaken = expected != pass.kind();
    let (books, live) = (world.books.clone(), world.live.clone());
    let passing = async move {
        let sent = from.pass(&pass).await;
        drop(from);
        sent
    };
    let task = world.io.spawn(async move {
        let _live = live;
        match join(received(&to, expected), passing).await {
            (Ok(true), Ok(())) if !is_mistaken => {
                books.did(if is_memory { "memory passed" } else { "descriptors passed" });
            }
            (Ok(_), _) => books.wrong(format!("a {expected:?} came that nobody had passed")),
            (Err(error), Ok(())) if is_mistaken && error.kind() == ErrorKind::InvalidArgument => {
                books.did("kinds of passed descriptors mistaken");
            }
            // Cancelled, or without room.
            (Err(_), _) => {}
        }
    });
    world.keep_task(task);
    Ok(())
}
