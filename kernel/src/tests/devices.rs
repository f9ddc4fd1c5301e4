//! The devices themselves, with no IOMMU between them and memory: what later tests expect of them holds.

use crate::devices::DeviceError;
use crate::devices::edu::{BUFFER_SIZE, Edu};
use crate::devices::testdev::{PATTERN, TestDevice, Verdict};
use crate::devices::virtio::{self, Dma};
use crate::memory::buffer::Buffer;
use crate::memory::frames;
use crate::pci;
use crate::{check, check_eq, skip, test};
use alloc::sync::Arc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use vtd::PAGE;

/// No IOMMU, but counting.
struct Counted;

static MAPPED: AtomicUsize = AtomicUsize::new(0);
static UNMAPPED: AtomicUsize = AtomicUsize::new(0);

impl Dma for Counted {
    fn map(&self, at: NonNull<u8>, _order: u8, _write: bool) -> Option<u64> {
        MAPPED.fetch_add(1, Ordering::Relaxed);
        Some(at.as_ptr() as u64)
    }

    fn unmap(&self, _iova: u64, _order: u8) -> bool {
        UNMAPPED.fetch_add(1, Ordering::Relaxed);
        true
    }
}

test! {
    fn edu_reads_and_writes_memory() {
        let Some(edu) = Edu::all().next() else { skip!("no edu device") };
        let (from, to) = (Buffer::new(0).ok_or("no frames")?, Buffer::new(0).ok_or("no frames")?);
        let pattern = |i| 0x5eed_0000 + i as u32;
        from.fill(pattern);
        edu.read_memory(from.hpa().get(), 0, PAGE)?;
        edu.write_memory(to.hpa().get(), 0, PAGE)?;
        check_eq!(to.first_other(pattern), None, "the first word that differs");
        // A part of the buffer goes where it is sent and nowhere else.
        edu.write_memory(to.hpa().get() + 8, 4, 4)?;
        check_eq!(to.first_other(|i| pattern(if i == 2 { 1 } else { i })), None);
    }

    fn edu_is_never_given_a_bad_buffer() {
        let Some(edu) = Edu::all().next() else { skip!("no edu device") };
        for (offset, len) in [(0, 0), (0, BUFFER_SIZE + 1), (BUFFER_SIZE, 1), (1, BUFFER_SIZE), (u64::MAX, 2)] {
            check_eq!(edu.start(0x10_0000, offset, len, true), Err(DeviceError::Refused), "{offset:#x}, {len:#x}");
        }
        check!(!edu.is_busy());
    }

    fn testdev_writes_memory() {
        let Some(device) = TestDevice::all().next() else { skip!("no iommu-testdev") };
        let (to, other) = (Buffer::new(0).ok_or("no frames")?, Buffer::new(0).ok_or("no frames")?);
        let (at, elsewhere) = (to.hpa().get(), other.hpa().get());
        check_eq!(device.write(at, at, 64), Verdict::Arrived);
        check_eq!(to.first_other(|i| if i < 16 { PATTERN } else { 0 }), None);
        check_eq!(device.write(at, elsewhere, 64), Verdict::Elsewhere);
        check_eq!(device.write(at, at, 0), Verdict::NoLength);
    }
    fn virtio_entropy_arrives() {
        let Some(function) = pci::find(virtio::VENDOR, virtio::ENTROPY).next() else { skip!("no virtio-rng") };
        let before = frames::free_count();
        virtio::set_dma(3, Some(Arc::new(Counted)));
        {
            let mut entropy = virtio::open_entropy::<3>(function)?;
            let (mut first, mut second) = ([0u8; 64], [0u8; 64]);
            check_eq!(entropy.request_entropy(&mut first)?, 64);
            check_eq!(entropy.request_entropy(&mut second)?, 64);
            check!(first != second && first != [0; 64]);
            check!(virtio::shared_count(3) > 0);
        }
        virtio::set_dma(3, None);
        check_eq!(virtio::shared_count(3), 0);
        check_eq!(MAPPED.load(Ordering::Relaxed), UNMAPPED.load(Ordering::Relaxed));
        check!(MAPPED.load(Ordering::Relaxed) >= 3, "a queue and two buffers");
        check_eq!(frames::free_count(), before);
    }

    fn virtio_disk_keeps_what_is_written() {
        let Some(function) = pci::find(virtio::VENDOR, virtio::BLOCK).next() else { skip!("no virtio-blk") };
        let mut disk = virtio::open_disk::<2>(function)?;
        if disk.readonly() || disk.capacity() < 16 {
            skip!("the disk is too small or read-only");
        }
        let last = disk.capacity() as usize - 8;
        let (mut written, mut read) = ([0u8; 4096], [0u8; 4096]);
        written.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 7 + i / 256) as u8);
        disk.write_blocks(last, &written)?;
        disk.read_blocks(last, &mut read)?;
        check!(written == read, "the disk gives back something else");
    }
}
