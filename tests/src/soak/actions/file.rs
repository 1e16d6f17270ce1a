//! Files: reads, writes, transfers into sockets, opens, chunks, syncs; and registered memory.

use crate::soak::held::awaited;
use crate::soak::world::World;
use dataplane::{OpenOptions, Proactor};
use futures_util::StreamExt;

/// Bytes of the file, about.
const FILE_BYTES: usize = 1 << 16;

pub(super) fn read_or_write(world: &mut World<'_>) -> Result<(), String> {
    let offset = world.dice.below(FILE_BYTES) as u64;
    let Some(lease) = world.lease() else { return Ok(()) };
    let file = world.file.clone();
    match world.dice.below(6) {
        0 | 1 => world.submit(file.write_at(lease.freeze(), offset)),
        2 => world.submit(file.read(lease)),
        _ => world.submit(file.read_at(lease, offset)),
    }
    Ok(())
}

pub(super) fn transfer(world: &mut World<'_>) -> Result<(), String> {
    let (offset, length) = (world.dice.below(FILE_BYTES), 1 + world.dice.below(20_000));
    let request = world.socket().transfer(&world.file, offset as u64, length as u64);
    match request {
        Ok(request) => world.submit(request),
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}

pub(super) fn open(world: &mut World<'_>) -> Result<(), String> {
    let path = match world.dice.one_in(4) {
        true => world.path.with_extension("missing"),
        false => world.path.clone(),
    };
    let request = world.io.open(path, OpenOptions::read_write());
    let request = request.map_err(|error| error.to_string())?;
    let (lease, span) = (world.lease(), world.span());
    match world.dice.below(4) {
        0 => world.submit(request),
        1 => {
            let (books, live) = (world.books.clone(), world.live.clone());
            let task = world.io.spawn(async move {
                let _live = live;
                let Some(file) = awaited(books.clone(), request).await else { return };
                awaited(books.clone(), file.write(span)).await;
                if let Some(lease) = lease {
                    awaited(books.clone(), file.read(lease)).await;
                }
                awaited(books.clone(), file.sync()).await;
                awaited(books, file.close()).await;
            });
            world.keep_task(task);
        }
        // Closed with the last handle, which is this.
        _ => {
            let (books, live) = (world.books.clone(), world.live.clone());
            world.tell_with(request, move |file| {
                let _ = file.register();
                books.did("files registered");
                drop((file, live));
                true
            });
        }
    }
    Ok(())
}

/// The end of the file, in order, a few reads ahead; now and then cut short.
pub(super) fn chunks(world: &mut World<'_>) -> Result<(), String> {
    let offset = (FILE_BYTES - world.dice.below(4096)) as u64;
    let Ok(chunks) = world.file.stream(&world.slab, offset) else { return Ok(()) };
    let mut chunks = chunks.depth(1 + world.dice.below(4));
    let (books, live) = (world.books.clone(), world.live.clone());
    let task = world.io.spawn(async move {
        let _live = live;
        while let Some(Ok(chunk)) = chunks.next().await {
            books.did("chunks");
            drop(chunk);
        }
    });
    world.keep_task(task);
    Ok(())
}

pub(super) fn sync_or_resolve(world: &mut World<'_>) -> Result<(), String> {
    match world.dice.below(3) {
        0 => world.submit(world.file.sync_data()),
        _ => world.submit(world.io.resolve("127.0.0.1:80")),
    }
    Ok(())
}

/// Memory registered and not; where registration is missing there is nothing to drop.
pub(super) fn register(world: &mut World<'_>) -> Result<(), String> {
    if world.registrations.len() > 2 || world.dice.one_in(2) {
        world.registrations.pop();
        return Ok(());
    }
    let io: &Proactor = world.io;
    world.books.did("registrations");
    world.registrations.extend(io.register_slab(&world.slab).ok());
    Ok(())
}
