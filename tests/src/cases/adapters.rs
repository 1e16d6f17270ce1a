//! Sockets as byte streams: whole streams, ends, back pressure, and futures dropped half way.

use super::net::{MUCH, narrow, read, read_to_end, reset, settled, write};
use crate::{Case, Cx, Skip};
use dataplane::ErrorKind;
use futures_util::io::{
    AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, Cursor, copy as copy_all,
};
use futures_util::join;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "adapters/a_whole_stream", needs: &[], run: a_whole_stream },
    Case { name: "adapters/both_ways_at_once", needs: &[], run: both_ways_at_once },
    Case { name: "adapters/one_byte_at_a_time", needs: &[], run: one_byte_at_a_time },
    Case { name: "adapters/the_end_is_the_end", needs: &[], run: the_end_is_the_end },
    Case { name: "adapters/lines", needs: &[], run: lines },
    Case { name: "adapters/a_buffer_is_lent", needs: &[], run: a_buffer_is_lent },
    Case { name: "adapters/nothing_to_move", needs: &[], run: nothing_to_move },
    Case { name: "adapters/unix_sockets_too", needs: &[], run: unix_sockets },
    Case { name: "adapters/a_dropped_read_loses_nothing", needs: &[], run: a_dropped_read },
    Case { name: "adapters/a_dropped_write_repeats_nothing", needs: &[], run: a_dropped_write },
    Case { name: "adapters/a_slow_reader_holds_back", needs: &[], run: a_slow_reader },
    Case { name: "adapters/a_dry_pool_goes_on", needs: &[], run: a_dry_pool },
    Case { name: "adapters/a_flush_gives_the_slab_back", needs: &[], run: a_flush },
    Case { name: "adapters/a_close_ends_the_stream", needs: &[], run: a_close },
    Case { name: "adapters/a_reset_is_no_end", needs: &[], run: a_reset },
    Case { name: "adapters/a_broken_pipe_stays", needs: &[], run: a_broken_pipe },
    Case { name: "adapters/dropped_halves_leave_nothing", needs: &[], run: dropped_halves },
    Case { name: "adapters/a_half_keeps_the_socket", needs: &[], run: a_half },
    Case { name: "adapters/halves_in_two_tasks", needs: &[], run: halves_in_tasks },
    Case { name: "adapters/an_exhausted_loop_loses_nothing", needs: &[], run: an_exhausted_loop },
    Case { name: "adapters/a_writer_leaves_room", needs: &[], run: a_writer_leaves_room },
    Case { name: "adapters/received_bytes_without_a_copy", needs: &[], run: received_bytes },
];

const SLOT_BYTES: usize = 1 << 10;

fn a_whole_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(8, SLOT_BYTES).expect("memory for a small pool");
    let bytes = Cx::pattern(100_000, 1);
    let mut writer = near.writer(&cx.slab(8, SLOT_BYTES));
    let mut reader = far.reader(&pool).expect("room");
    let sending = async {
        let sent = copy_all(Cursor::new(&bytes), &mut writer).await.expect("sent");
        writer.close().await.expect("closed");
        sent
    };
    let mut back = Vec::new();
    let (sent, received) = cx.block_on(async { join!(sending, reader.read_to_end(&mut back)) });
    assert_eq!((sent, received.expect("received")), (100_000, 100_000));
    assert!(back == bytes, "other bytes arrived");
    Ok(())
}

fn both_ways_at_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(8, SLOT_BYTES).expect("memory for a small pool");
    let slab = cx.slab(8, SLOT_BYTES);
    let ends = [near, far].map(|socket| socket.duplex(&pool, &slab).expect("room"));
    let [mut one, mut two] = ends;
    let echo = async {
        let mut buffer = vec![0; 700];
        loop {
            let count = two.read(&mut buffer).await.expect("received");
            if count == 0 {
                break two.close().await.expect("closed");
            }
            two.write_all(&buffer[..count]).await.expect("sent");
        }
    };
    let bytes = Cx::pattern(20_000, 2);
    let client = async {
        let mut back = Vec::new();
        for piece in bytes.chunks(3000) {
            one.write_all(piece).await.expect("sent");
            let mut part = vec![0; piece.len()];
            one.read_exact(&mut part).await.expect("received");
            back.append(&mut part);
        }
        one.close().await.expect("closed");
        assert_eq!(one.read(&mut [0; 1]).await.expect("the end"), 0);
        back
    };
    let (back, ()) = cx.block_on(async { join!(client, echo) });
    assert!(back == bytes, "other bytes came back");
    Ok(())
}

fn one_byte_at_a_time(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, 64).expect("memory for a small pool");
    let mut reader = far.reader(&pool).expect("room");
    let bytes = Cx::pattern(200, 3);
    let back = cx.block_on(async {
        write(&near, &bytes).await;
        near.finish().await.expect("the end of the stream");
        let mut back = Vec::new();
        let mut byte = [0];
        while reader.read(&mut byte).await.expect("received") == 1 {
            back.push(byte[0]);
        }
        back
    });
    assert!(back == bytes, "other bytes arrived");
    Ok(())
}

fn the_end_is_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("memory for a small pool");
    let mut reader = far.reader(&pool).expect("room");
    cx.block_on(async {
        write(&near, b"last").await;
        near.finish().await.expect("the end of the stream");
        let mut back = [0; 64];
        assert_eq!(reader.read(&mut back).await.expect("received"), 4);
        for _ in 0..3 {
            assert_eq!(reader.read(&mut back).await.expect("the end"), 0);
        }
        assert!(reader.fill_buf().await.expect("the end").is_empty());
    });
    Ok(())
}

fn lines(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, 8).expect("memory for a small pool");
    let mut reader = far.reader(&pool).expect("room");
    let read = cx.block_on(async {
        write(&near, b"a first line\nand\n\nthe rest").await;
        near.finish().await.expect("the end of the stream");
        let mut lines = Vec::new();
        let mut line = String::new();
        while reader.read_line(&mut line).await.expect("received") > 0 {
            lines.push(std::mem::take(&mut line));
        }
        lines
    });
    cx.note(format!("{read:?}"));
    assert_eq!(read, ["a first line\n", "and\n", "\n", "the rest"]);
    Ok(())
}

fn a_buffer_is_lent(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("memory for a small pool");
    let mut reader = far.reader(&pool).expect("room");
    assert!(reader.waiting().is_empty());
    cx.block_on(async {
        write(&near, b"lent").await;
        let at = reader.fill_buf().await.expect("received").as_ptr();
        assert_eq!(reader.fill_buf().await.expect("the same").as_ptr(), at);
        reader.consume_unpin(1);
        assert_eq!(reader.waiting(), b"ent");
        assert_eq!(reader.waiting().as_ptr(), at.wrapping_add(1), "the same buffer");
        reader.consume_unpin(100);
        assert!(reader.waiting().is_empty(), "no more than there is");
    });
    Ok(())
}

fn nothing_to_move(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("memory for a small pool");
    let slab = cx.slab(1, 64);
    let mut duplex = near.duplex(&pool, &slab).expect("room");
    cx.block_on(async {
        assert_eq!(duplex.read(&mut []).await.expect("no wait"), 0);
        assert_eq!(duplex.write(&[]).await.expect("no wait"), 0);
        duplex.flush().await.expect("no wait");
    });
    assert_eq!(slab.available(), 1);
    drop(far);
    Ok(())
}

fn unix_sockets(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(4, SLOT_BYTES).expect("memory for a small pool");
    let (mut reader, mut writer) =
        (far.reader(&pool).expect("room"), near.writer(&cx.slab(4, SLOT_BYTES)));
    let bytes = Cx::pattern(10_000, 4);
    let mut back = vec![0; bytes.len()];
    let both = async { join!(writer.write_all(&bytes), reader.read_exact(&mut back)) };
    let (sent, received) = cx.block_on(both);
    sent.expect("sent");
    received.expect("received");
    assert!(back == bytes, "other bytes arrived");
    Ok(())
}

/// Polls once with a waker that does nothing, and drops the future.
fn once<F: Future>(future: F) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn a_dropped_read(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("memory for a small pool");
    let mut reader = far.reader(&pool).expect("room");
    let mut back = [0; 8];
    assert!(!once(reader.read(&mut back)));
    cx.block_on(write(&near, b"complete"));
    cx.io.poll(dataplane::Wait::Now).expect("a poll");
    // Half a message, and the rest of the future is dropped.
    once(reader.read_exact(&mut [0; 0]));
    cx.block_on(reader.read_exact(&mut back)).expect("received");
    assert_eq!(&back, b"complete");
    Ok(())
}

fn a_dropped_write(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    let mut writer = near.writer(&slab);
    assert!(once(writer.write(b"first ")), "taken at once");
    assert!(!once(writer.write(b"never ")), "the only slot is out: nothing is taken");
    let back = cx.slab(1, 64);
    let got = cx.block_on(async {
        writer.write_all(b"second").await.expect("sent");
        writer.flush().await.expect("flushed");
        read(&far, &back, 12).await
    });
    assert_eq!(got, b"first second");
    Ok(())
}

fn a_slow_reader(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    narrow(&near, &far);
    let slab = cx.slab(4, 1 << 14);
    let mut writer = near.writer(&slab);
    let bytes = Cx::pattern(MUCH, 5);
    let mut taken = 0;
    // As much as fits: the slots and what the sockets hold.
    for _ in 0..1000 {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut writer).poll_write(&mut context, &bytes[taken..]) {
            std::task::Poll::Ready(count) => taken += count.expect("sent"),
            std::task::Poll::Pending => {
                cx.io.poll(dataplane::Wait::Now).expect("a poll");
            }
        }
    }
    assert!(taken > 0 && taken < bytes.len(), "{taken} bytes taken, nobody reads");
    let back = cx.slab(1, 1 << 16);
    let sending = async {
        writer.write_all(&bytes[taken..]).await.expect("sent");
        writer.close().await.expect("closed");
    };
    let ((), got) = cx.block_on(async { join!(sending, read_to_end(&far, &back)) });
    assert!(got == bytes, "{} other bytes arrived", got.len());
    Ok(())
}

fn a_dry_pool(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let slab = cx.slab(2, 64);
    let pool = cx.io.receive_pool_over(&slab).expect("a small pool");
    let mut reader = far.reader(&pool).expect("room");
    let bytes = Cx::pattern(2000, 6);
    let mut back = vec![0; bytes.len()];
    let both = async { join!(write(&near, &bytes), reader.read_exact(&mut back)) };
    let ((), received) = cx.block_on(both);
    received.expect("received");
    assert!(back == bytes, "other bytes arrived");
    Ok(())
}

fn a_flush(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let slab = cx.slab(3, 16);
    let mut writer = near.writer(&slab);
    let back = cx.slab(1, 64);
    cx.block_on(async {
        writer.write_all(&Cx::pattern(40, 7)).await.expect("taken");
        writer.flush().await.expect("flushed");
        assert_eq!(read(&far, &back, 40).await.len(), 40);
    });
    cx.poll_until("every slot to come back", || slab.available() == 3);
    Ok(())
}

fn a_close(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let slab = cx.slab(2, 64);
    let mut writer = near.writer(&slab);
    let got = cx.block_on(async {
        writer.write_all(b"all of it").await.expect("taken");
        writer.close().await.expect("closed");
        writer.close().await.expect("closed before");
        writer.flush().await.expect("nothing is left");
        let late = writer.write(b"late").await.expect_err("it is closed");
        let inner = late.into_inner().expect("an error of ours");
        let kind = inner.downcast_ref::<dataplane::Error>().expect("an error of ours").kind();
        assert_eq!(kind, ErrorKind::Closed);
        read_to_end(&far, &slab).await
    });
    assert_eq!(got, b"all of it", "the peer sees the end");
    Ok(())
}

fn a_reset(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("memory for a small pool");
    let mut reader = far.reader(&pool).expect("room");
    cx.block_on(async {
        write(&near, b"before").await;
        reader.read_exact(&mut [0; 6]).await.expect("received");
        reset(near);
        for _ in 0..3 {
            let error = reader.read(&mut [0; 8]).await.expect_err("no end of a stream");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    });
    Ok(())
}

fn a_broken_pipe(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    let mut writer = near.writer(&slab);
    cx.block_on(async {
        far.close().await.expect("closed");
        let mut failed = 0;
        for _ in 0..10 {
            failed += u32::from(writer.write_all(b"nobody reads").await.is_err());
            failed += u32::from(writer.flush().await.is_err());
        }
        assert!(failed >= 18, "{failed} of 20: once it failed, everything does");
        assert!(writer.close().await.is_err());
    });
    drop(writer);
    assert_eq!(slab.available(), 2, "nothing is held");
    Ok(())
}

fn dropped_halves(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    narrow(&near, &far);
    let received = cx.slab(2, 64);
    let pool = cx.io.receive_pool_over(&received).expect("a small pool");
    let slab = cx.slab(4, 1 << 15);
    let mut duplex = near.duplex(&pool, &slab).expect("room");
    let bytes = vec![0; MUCH];
    for _ in 0..4 {
        once(duplex.write(&bytes));
        cx.io.poll(dataplane::Wait::Now).expect("a poll");
    }
    let (reader, writer) = duplex.into_split();
    drop((reader, writer));
    cx.poll_until("what was sent to come back", || slab.available() == 4);
    drop((near, far, pool));
    settled(cx, 0);
    cx.poll_until("the pool's slots to come back", || received.available() == 2);
    Ok(())
}

/// The reader reads on when the writer, and every other handle, is gone.
fn a_half(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(8, SLOT_BYTES).expect("memory for a small pool");
    let (mut reader, writer) =
        near.duplex(&pool, &cx.slab(8, SLOT_BYTES)).expect("room").into_split();
    drop((near, writer));
    let mut back = Vec::new();
    cx.block_on(async {
        write(&far, b"late").await;
        far.finish().await.expect("the end of the stream");
        reader.read_to_end(&mut back).await.expect("the end is no error");
    });
    assert_eq!(back, b"late");
    Ok(())
}

fn halves_in_tasks(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, SLOT_BYTES).expect("memory for a small pool");
    let slab = cx.slab(4, SLOT_BYTES);
    let echo = far.duplex(&pool, &slab).expect("room");
    let echoing = cx.io.spawn(async move {
        let (reader, mut writer) = echo.into_split();
        let echoed = copy_all(reader, &mut writer).await;
        writer.close().await.and(echoed)
    });
    let (mut reader, mut writer) = near.duplex(&pool, &slab).expect("room").into_split();
    let bytes = Cx::pattern(30_000, 8);
    let own = bytes.clone();
    let sending = cx.io.spawn(async move {
        writer.write_all(&own).await?;
        writer.close().await
    });
    let mut back = Vec::new();
    cx.block_on(reader.read_to_end(&mut back)).expect("received");
    assert!(back == bytes, "other bytes came back");
    cx.block_on(sending).expect("not aborted").expect("sent");
    assert_eq!(cx.block_on(echoing).expect("not aborted").expect("echoed"), 30_000);
    Ok(())
}

fn an_exhausted_loop(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    let mut writer = near.writer(&slab);
    let far_off = Instant::now() + Duration::from_secs(3600);
    let mut timers = Vec::new();
    while let Ok(timer) = cx.io.sleep_until(far_off).submit() {
        timers.push(timer);
    }
    let full = cx.block_on(writer.write(b"refused")).expect_err("no room in the loop");
    let inner = full.into_inner().expect("an error of ours");
    let kind = inner.downcast_ref::<dataplane::Error>().expect("an error of ours").kind();
    assert_eq!((kind, slab.available()), (ErrorKind::Exhausted, 2));
    drop(timers);
    cx.poll_until("room", || cx.io.stats().in_flight == 0);
    let got = cx.block_on(async {
        writer.write_all(b"taken").await.expect("nothing was lost, so it goes on");
        read(&far, &slab, 5).await
    });
    assert_eq!(got, b"taken");
    Ok(())
}

fn a_writer_leaves_room(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    narrow(&near, &far);
    let slab = cx.slab(200, 512);
    let mut writer = near.writer(&slab);
    let bytes = Cx::pattern(90_000, 9);
    let back = cx.slab(1, 1 << 16);
    // More slots than the loop has room for operations; nobody else is refused for that.
    let sending = async { writer.write_all(&bytes).await };
    let (sent, got) = cx.block_on(async { join!(sending, read(&far, &back, bytes.len())) });
    sent.expect("sent");
    assert!(got == bytes, "other bytes arrived");
    Ok(())
}

fn received_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    let filled = cx.block_on(async {
        write(&near, b"as they came").await;
        far.recv(slab.lease().expect("a slot")).await.expect("bytes")
    });
    let at = filled.as_ptr();
    let bytes = filled.freeze().into_bytes().expect("private memory");
    assert_eq!((bytes.as_ptr(), &bytes[..]), (at, &b"as they came"[..]));
    assert_eq!(slab.available(), 0, "the slot is out as long as they live");
    cx.block_on(far.send_all(bytes)).expect("and back without a copy of ours");
    assert_eq!(slab.available(), 1);
    Ok(())
}
