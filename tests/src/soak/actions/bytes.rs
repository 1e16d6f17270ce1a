//! Sockets as byte streams: `AsyncRead` and `AsyncWrite` over receives and sends.

use crate::Cx;
use crate::soak::books::Books;
use crate::soak::world::World;
use dataplane::{ErrorKind, Reader, Writer};
use futures_util::future::join;
use futures_util::{AsyncReadExt, AsyncWriteExt};
use std::io;
use std::os::unix::net::UnixStream;

/// Most bytes of a stream: several buffers of the pool it is received into.
const BYTES: usize = 3_000;

/// Writes all of it and closes; whether that went well.
async fn written(mut writer: Writer, bytes: &[u8]) -> bool {
    for part in bytes.chunks(700) {
        if writer.write_all(part).await.is_err() {
            return false;
        }
    }
    writer.flush().await.is_ok() && writer.close().await.is_ok()
}

/// What comes until the end, if it comes to one.
async fn read(mut reader: Reader) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn is_cancelled(read: &io::Result<Vec<u8>>) -> bool {
    let inner = read.as_ref().err().and_then(io::Error::get_ref);
    let inner = inner.and_then(|inner| inner.downcast_ref::<dataplane::Error>());
    inner.is_some_and(|inner| inner.kind() == ErrorKind::Cancelled)
}

/// What became of a stream whose writer closed it in order: it came whole, unless one of the two
/// was cancelled. Of the other that is felt as well: an end that closes without having read
/// everything resets its peer (`unix(7)`).
fn judge(books: &Books, wrote: &[u8], read: io::Result<Vec<u8>>, is_excused: bool) {
    books.did("bytes written as a stream");
    match read {
        Ok(read) if read == wrote => books.did("bytes read as a stream"),
        Ok(read) => {
            let (came, went) = (read.len(), wrote.len());
            books.wrong(format!("other bytes of a stream: {came} came, {went} went"));
        }
        Err(_) if is_excused => {}
        Err(error) => {
            books.wrong(format!("a stream that was closed in order ended with: {error}"));
        }
    }
}

/// Both ends of a pair, one of which writes and the other reads, or both do; what was written to
/// its end is what is read.
pub(super) fn stream(world: &mut World<'_>) -> Result<(), String> {
    let (one, two) = UnixStream::pair().map_err(|error| error.to_string())?;
    let one = world.io.adopt_socket(one).map_err(|error| error.to_string())?;
    let two = world.io.adopt_socket(two).map_err(|error| error.to_string())?;
    let answers = world.dice.one_in(2);
    let length = |world: &mut World<'_>| 1 + world.dice.below(BYTES);
    let question = Cx::pattern(length(world), 1);
    let answer = Cx::pattern(length(world), 2);
    // Refused where there is no room.
    let Ok(asking) = one.duplex(&world.pool, &world.slab) else { return Ok(()) };
    let Ok(answering) = two.duplex(&world.pool, &world.slab) else { return Ok(()) };
    drop((one, two));
    let (books, live) = (world.books.clone(), world.live.clone());
    let task = world.io.spawn(async move {
        let _live = live;
        let (hears, asks) = asking.into_split();
        let (listens, says) = answering.into_split();
        let there = join(written(asks, &question), read(listens));
        let back = async {
            match answers {
                true => join(written(says, &answer), read(hears)).await,
                false => {
                    drop((says, hears));
                    (false, Ok(Vec::new()))
                }
            }
        };
        let (there, back) = join(there, back).await;
        let is_whole = there.0 && (back.0 || !answers);
        let is_excused = !is_whole || is_cancelled(&there.1) || is_cancelled(&back.1);
        for ((is_written, read), wrote) in [(there, question), (back, answer)] {
            if is_written {
                judge(&books, &wrote, read, is_excused);
            }
        }
    });
    world.keep_task(task);
    Ok(())
}
