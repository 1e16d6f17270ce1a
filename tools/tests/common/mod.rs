//! What the tool's tests share: running the built binary with a deadline, files, and hashes
//! computed here rather than by the tool.
#![allow(dead_code, clippy::unwrap_used)] // each test program uses a part of it

use serde_json::Value;
use sha2::Digest;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing here takes longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(60);

pub const BACKENDS: [&str; 3] = ["io_uring", "epoll", "poll"];
pub const KEYS: [&str; 10] = [
    "backend",
    "bytes",
    "command",
    "cpu_seconds",
    "fallbacks",
    "hash",
    "mb_per_s",
    "seconds",
    "stages",
    "verified",
];

/// The built binary, running.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    out: Option<JoinHandle<Vec<u8>>>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

pub fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dataplane"))
}

impl Running {
    pub fn start(args: &[&str]) -> Running {
        let mut command = tool();
        command.args(args);
        Running::of(command, b"")
    }

    pub fn of(command: Command, input: &[u8]) -> Running {
        let (running, mut stdin) = Running::fed(command);
        let input = input.to_vec();
        std::thread::spawn(move || {
            // A tool that does not read its input is no failure of the writer.
            let _ = stdin.write_all(&input);
        });
        running
    }

    /// With its standard input left open.
    pub fn fed(mut command: Command) -> (Running, ChildStdin) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let out = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        (Running { child, lines, seen: Vec::new(), out: Some(out) }, stdin)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard error with `wanted` in it.
    pub fn line(&mut self, wanted: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with `{wanted}`, but {:?}", self.seen);
            };
            self.seen.push(line.clone());
            if line.contains(wanted) {
                return line;
            }
        }
    }

    /// Where `recv` listens.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.line("listening");
        let words = line.rsplit([' ', '"']);
        words.filter_map(|word| word.parse().ok()).next().unwrap()
    }

    pub fn finish(mut self) -> Ended {
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it hangs; so far: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        };
        let out = self.out.take().unwrap().join().unwrap();
        while let Ok(line) = self.lines.recv() {
            self.seen.push(line);
        }
        let err = self.seen.join("\n");
        assert!(!err.contains("panicked"), "{err}");
        Ended { code: status.code().unwrap_or(-1), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code, code, "{}\n{}", self.err, String::from_utf8_lossy(&self.out));
        if code != 0 {
            let told = self.err.lines().filter(|line| line.starts_with("dataplane: ")).count();
            assert_eq!(told, 1, "a failure is told in one line: {}", self.err);
        }
        self
    }

    /// The one JSON object of standard output, with the keys it must have.
    pub fn json(&self) -> Value {
        let text = std::str::from_utf8(&self.out).unwrap();
        assert_eq!(text.lines().count(), 1, "one object: {text}");
        let value: Value = serde_json::from_str(text).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, KEYS);
        for stage in value["stages"].as_array().unwrap() {
            let mut keys: Vec<&str> = stage.as_object().unwrap().keys().map(|k| &**k).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["bytes", "mechanism", "reason", "stage", "zero_copy"]);
        }
        value
    }
}

pub fn run(args: &[&str]) -> Ended {
    Running::start(args).finish()
}

/// Bytes of one stage, over all its ways.
pub fn stage_bytes(report: &Value, stage: &str) -> u64 {
    let stages = report["stages"].as_array().unwrap().iter();
    stages.filter(|s| s["stage"] == stage).map(|s| s["bytes"].as_u64().unwrap()).sum()
}

pub fn blake3_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

pub fn sha256_of(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder of one test, beside the build so that O_DIRECT has a chance; removed with it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = base.join(format!("tool-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A file of bytes that do not repeat within a buffer.
    pub fn file(&self, name: &str, bytes: usize) -> (String, Vec<u8>) {
        let content = noise(bytes);
        let path = self.path(name);
        std::fs::write(&path, &content).unwrap();
        (path, content)
    }

    /// What is in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes of a linear congruential generator.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        out.extend_from_slice(&(state >> 8).to_le_bytes()[..7]);
    }
    out.truncate(bytes);
    out
}

/// Whether a backend can be had here; says why not.
pub fn has_backend(name: &str) -> bool {
    static TRIED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    if name != "io_uring" {
        return true;
    }
    let refused = TRIED.get_or_init(|| {
        let ended = run(&["stream", "/dev/null", "--backend", "io_uring"]);
        (ended.code != 0).then_some(ended.err)
    });
    if let Some(reason) = refused {
        println!("skipped: io_uring is not to be had here: {reason}");
    }
    refused.is_none()
}
