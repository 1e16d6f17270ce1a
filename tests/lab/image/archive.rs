//! The archive a kernel unpacks into its first root: `cpio` in its `newc` form.
//!
//! Each entry is a header of ASCII hexadecimal fields, the name, and the content, each padded to
//! four bytes; an entry named `TRAILER!!!` ends it. The form is described in the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;

/// An archive being written.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Archive {
    /// A file; `path` is absolute, and its folders are made.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.add(path, FILE, content);
    }

    /// A file that can be run.
    pub(crate) fn program(&mut self, path: &str, content: &[u8]) {
        self.add(path, PROGRAM, content);
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, LINK, target.as_bytes());
    }

    /// An empty folder.
    pub(crate) fn folder(&mut self, path: &str) {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        self.add(path, FOLDER, &[]);
    }

    /// The whole of it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entry(path.trim_start_matches('/'), mode, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, links) = (self.entries, 1);
        let (name_bytes, content_bytes) = (name.len() + 1, content.len());
        // Owner, group and time are zero, and so are the four device numbers and the checksum.
        let header = format!(
            "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{links:08X}{0:08X}{content_bytes:08X}\
             {0:08X}{0:08X}{0:08X}{0:08X}{name_bytes:08X}{0:08X}",
            0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.program("/bin/a", b"a");
        archive.link("/bin/b", "a");
        let bytes = archive.finish();
        let names: Vec<usize> = ["bin\0", "bin/a\0", "bin/b\0", "TRAILER!!!\0"]
            .into_iter()
            .map(|name| {
                let name = name.as_bytes();
                bytes.windows(name.len()).position(|window| window == name).unwrap_or(usize::MAX)
            })
            .collect();
        assert!(names.is_sorted() && names[3] < bytes.len(), "{names:?}");
        let headers = bytes.windows(6).filter(|window| window == b"070701").count();
        assert_eq!((headers, bytes.len() % 4), (4, 0));
    }

    #[test]
    fn a_header_has_the_length_the_form_demands() {
        let mut archive = Archive::default();
        archive.file("/x", b"12345");
        // The header, `x` and its zero: 112 bytes, already padded; then five, padded to eight.
        let text = String::from_utf8_lossy(&archive.bytes).into_owned();
        assert_eq!((archive.bytes.len(), text.find("12345")), (120, Some(112)));
    }
}
