//! Direct reads and writes with a polled second ring: the same bytes, whether the device can be
//! polled or the ordinary ring has to take over, and a count that says which it was.

use dataplane::regions::Slab;
use dataplane::{Backend, OpenOptions, Options, Proactor};

#[test]
fn polled_or_not_the_bytes_are_the_same() {
    let options = Options::default().backend(Backend::IoUring).iopoll(true);
    let io = match Proactor::with(options) {
        Ok(io) => io,
        Err(error) => {
            assert!(!std::env::var("REQUIRE").is_ok_and(|rows| rows.contains("io_uring")));
            eprintln!("skipped: no polled ring here: {error}");
            return;
        }
    };
    let path = std::env::current_dir().unwrap().join(format!("polled-{}", std::process::id()));
    let slab = Slab::new(4, 1 << 16).unwrap();
    let _registered = io.register_slab(&slab).unwrap();
    let count: u64 = 12;
    io.block_on(async {
        let create = OpenOptions::read_write().create(0o600).direct();
        let file = match io.open(&path, create).unwrap().await {
            Ok(file) => file,
            Err(failed) => {
                eprintln!("skipped: no O_DIRECT here: {failed}");
                return;
            }
        };
        for at in 0..count {
            let mut lease = slab.lease().unwrap();
            lease.fill(at as u8 + 1);
            let sent = file.write_at(lease.freeze(), at << 16).await.unwrap();
            assert_eq!(sent.bytes, 1 << 16);
        }
        for at in 0..count {
            let read = file.read_at(slab.lease().unwrap(), at << 16).await.unwrap();
            assert!(read.len() == 1 << 16 && read.iter().all(|byte| *byte == at as u8 + 1));
        }
        let stats = io.stats();
        // Either every operation was polled, or the first told that the device cannot be.
        eprintln!("{} polled, {} not", stats.polled, stats.unpolled);
        let all_polled = stats.polled == 2 * count && stats.unpolled == 0;
        assert!(all_polled || stats.unpolled >= 1, "{stats:?}");
    })
    .unwrap();
    let _ = std::fs::remove_file(&path);
    assert_eq!(slab.available(), 4);
}
