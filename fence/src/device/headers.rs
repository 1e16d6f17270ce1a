//! `uapi.rs` beside the kernel's own headers: numbers of requests, sizes, places of fields.
//!
//! A C compiler reads the headers, so this says what it left out where there is none of either. The
//! headers of DRM come with the kernel's (`drm/`) or with libdrm's development files (`libdrm/`);
//! Debian has vgem's in neither, only among the headers for modules (`linux-headers-*-common`,
//! below `include/uapi/drm`): put a copy of that one file into a folder and name it by `CPATH`. A
//! kernel may have longer structures than ours, never shorter ones.

use super::uapi::*;
use std::io::Write;
use std::mem::offset_of;
use std::process::{Command, Stdio};

/// What a header says of one thing, as C, and what we say.
type Row = (&'static str, u64);

/// The part of a request's number that says what it is: all but the size.
fn of_any_size(number: u64) -> u64 {
    number & !(0x3fff << 16)
}

const fn request(direction: u64, kind: u8, number: u64, bytes: usize) -> u64 {
    direction << 30 | (bytes as u64) << 16 | (kind as u64) << 8 | number
}

/// The values of the expressions; None with the reason on standard error.
fn in_c(header: &str, expressions: &[&str]) -> Option<Vec<u64>> {
    let mut source = format!("#include <stdio.h>\n#include <stddef.h>\n#include <{header}>\n");
    source += "int main(void) {\n";
    for expression in expressions {
        source += &format!("printf(\"%llu\\n\", (unsigned long long)({expression}));\n");
    }
    source += "return 0; }\n";
    let program =
        std::env::temp_dir().join(format!("uapi-{}-{}", std::process::id(), header.len()));
    let compiler = Command::new("cc")
        .args(["-x", "c", "-w", "-I/usr/include/libdrm", "-I/usr/include/drm", "-", "-o"])
        .arg(&program)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut compiler = match compiler {
        Ok(compiler) => compiler,
        Err(error) => {
            eprintln!("skipped {header}: no C compiler: {error}");
            return None;
        }
    };
    compiler.stdin.take()?.write_all(source.as_bytes()).ok()?;
    let compiled = compiler.wait_with_output().ok()?;
    let complaint = String::from_utf8_lossy(&compiled.stderr);
    if complaint.contains("No such file or directory") {
        eprintln!("skipped {header}: the header is not installed");
        return None;
    }
    assert!(compiled.status.success(), "{complaint}");
    let output = Command::new(&program).output().expect("it was just made");
    std::fs::remove_file(&program).expect("it was just made");
    let text = String::from_utf8(output.stdout).expect("numbers");
    Some(text.lines().map(|line| line.parse().expect("a number")).collect())
}

fn agree(header: &str, rows: &[Row]) {
    let expressions: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let Some(values) = in_c(header, &expressions) else { return };
    assert_eq!(values.len(), rows.len());
    for (theirs, (what, ours)) in values.iter().zip(rows) {
        match what.starts_with("DRM_IOCTL") {
            true => assert_eq!(of_any_size(*theirs), of_any_size(*ours), "{what}"),
            false => assert_eq!(theirs, ours, "{what}"),
        }
    }
}

#[test]
fn sync_files_as_the_header_has_them() {
    let rows: &[Row] = &[
        ("SYNC_IOC_MERGE", request(3, b'>', 3, size_of::<SyncMergeData>())),
        ("SYNC_IOC_FILE_INFO", request(3, b'>', 4, size_of::<SyncFileInfo>())),
        ("sizeof(struct sync_fence_info)", size_of::<SyncFenceInfo>() as u64),
        ("offsetof(struct sync_merge_data, fd2)", offset_of!(SyncMergeData, fd2) as u64),
        ("offsetof(struct sync_merge_data, fence)", offset_of!(SyncMergeData, fence) as u64),
        ("offsetof(struct sync_file_info, status)", offset_of!(SyncFileInfo, status) as u64),
        (
            "offsetof(struct sync_file_info, num_fences)",
            offset_of!(SyncFileInfo, num_fences) as u64,
        ),
        (
            "offsetof(struct sync_file_info, sync_fence_info)",
            offset_of!(SyncFileInfo, sync_fence_info) as u64,
        ),
        ("offsetof(struct sync_fence_info, status)", offset_of!(SyncFenceInfo, status) as u64),
        (
            "offsetof(struct sync_fence_info, timestamp_ns)",
            offset_of!(SyncFenceInfo, timestamp_ns) as u64,
        ),
    ];
    agree("linux/sync_file.h", rows);
}

#[test]
fn devices_and_syncobjs_as_the_header_has_them() {
    let of = |number, bytes| request(3, b'd', number, bytes);
    let rows: &[Row] = &[
        ("DRM_IOCTL_VERSION", of(0x00, size_of::<DrmVersion>())),
        ("offsetof(struct drm_version, name)", offset_of!(DrmVersion, name) as u64),
        ("DRM_IOCTL_PRIME_HANDLE_TO_FD", of(0x2d, size_of::<PrimeHandle>())),
        ("sizeof(struct drm_prime_handle)", size_of::<PrimeHandle>() as u64),
        ("offsetof(struct drm_prime_handle, fd)", offset_of!(PrimeHandle, fd) as u64),
        ("DRM_IOCTL_MODE_CREATE_DUMB", of(0xb2, size_of::<DumbCreate>())),
        ("sizeof(struct drm_mode_create_dumb)", size_of::<DumbCreate>() as u64),
        ("offsetof(struct drm_mode_create_dumb, bpp)", offset_of!(DumbCreate, bpp) as u64),
        ("offsetof(struct drm_mode_create_dumb, handle)", offset_of!(DumbCreate, handle) as u64),
        ("DRM_IOCTL_MODE_DESTROY_DUMB", of(0xb4, size_of::<DumbDestroy>())),
        ("sizeof(struct drm_mode_destroy_dumb)", size_of::<DumbDestroy>() as u64),
        ("DRM_IOCTL_GET_CAP", of(0x0c, size_of::<DrmGetCap>())),
        ("DRM_IOCTL_SYNCOBJ_CREATE", of(0xbf, size_of::<SyncobjCreate>())),
        ("DRM_IOCTL_SYNCOBJ_DESTROY", of(0xc0, size_of::<SyncobjDestroy>())),
        ("DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD", of(0xc1, size_of::<SyncobjHandle>())),
        ("DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE", of(0xc2, size_of::<SyncobjHandle>())),
        ("DRM_IOCTL_SYNCOBJ_RESET", of(0xc4, size_of::<SyncobjArray>())),
        ("DRM_IOCTL_SYNCOBJ_SIGNAL", of(0xc5, size_of::<SyncobjArray>())),
        ("DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT", of(0xca, size_of::<SyncobjTimelineWait>())),
        ("DRM_IOCTL_SYNCOBJ_QUERY", of(0xcb, size_of::<SyncobjTimelineArray>())),
        ("DRM_IOCTL_SYNCOBJ_TRANSFER", of(0xcc, size_of::<SyncobjTransfer>())),
        ("DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL", of(0xcd, size_of::<SyncobjTimelineArray>())),
        ("DRM_CAP_SYNCOBJ", CAP_SYNCOBJ),
        ("DRM_CAP_SYNCOBJ_TIMELINE", CAP_SYNCOBJ_TIMELINE),
        ("DRM_SYNCOBJ_CREATE_SIGNALED", CREATE_SIGNALED.into()),
        ("DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE", AS_SYNC_FILE.into()),
        ("DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE", AS_SYNC_FILE.into()),
        ("DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT", WAIT_FOR_SUBMIT.into()),
        ("DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE", WAIT_AVAILABLE.into()),
        ("offsetof(struct drm_syncobj_handle, fd)", offset_of!(SyncobjHandle, fd) as u64),
        (
            "offsetof(struct drm_syncobj_transfer, src_point)",
            offset_of!(SyncobjTransfer, src_point) as u64,
        ),
        (
            "offsetof(struct drm_syncobj_timeline_wait, timeout_nsec)",
            offset_of!(SyncobjTimelineWait, timeout_nsec) as u64,
        ),
        (
            "offsetof(struct drm_syncobj_timeline_wait, flags)",
            offset_of!(SyncobjTimelineWait, flags) as u64,
        ),
        (
            "offsetof(struct drm_syncobj_timeline_array, count_handles)",
            offset_of!(SyncobjTimelineArray, count_handles) as u64,
        ),
    ];
    agree("drm.h", rows);
}

#[test]
fn dma_bufs_as_the_header_has_them() {
    let rows: &[Row] = &[
        ("DMA_BUF_IOCTL_EXPORT_SYNC_FILE", request(3, b'b', 2, size_of::<DmaBufExport>())),
        ("DMA_BUF_SYNC_READ", DMA_BUF_READ.into()),
        ("offsetof(struct dma_buf_export_sync_file, fd)", offset_of!(DmaBufExport, fd) as u64),
    ];
    agree("linux/dma-buf.h", rows);
}

#[test]
fn vgem_as_the_header_has_it() {
    let rows: &[Row] = &[
        ("DRM_IOCTL_VGEM_FENCE_ATTACH", request(3, b'd', 0x41, size_of::<VgemAttach>())),
        ("DRM_IOCTL_VGEM_FENCE_SIGNAL", request(1, b'd', 0x42, size_of::<VgemSignal>())),
        ("sizeof(struct drm_vgem_fence_attach)", size_of::<VgemAttach>() as u64),
        ("sizeof(struct drm_vgem_fence_signal)", size_of::<VgemSignal>() as u64),
        ("VGEM_FENCE_WRITE", VGEM_WRITE.into()),
        (
            "offsetof(struct drm_vgem_fence_attach, out_fence)",
            offset_of!(VgemAttach, out_fence) as u64,
        ),
    ];
    agree("vgem_drm.h", rows);
}
