//! Virtio devices do real work through a domain, and nothing of it stays mapped.

use super::session;
use crate::devices::virtio;
use crate::dma::Guarded;
use crate::iommu::Session;
use crate::memory::frames;
use crate::testing::Failure;
use crate::{check, check_eq, pci, skip, test};
use alloc::format;

const DISK: usize = 0;
const ENTROPY: usize = 1;
const SECTOR: usize = 512;

/// What sector `n` of the disk that xtask makes holds.
fn pattern(n: usize) -> [u8; SECTOR] {
    let mut bytes = [n as u8; SECTOR];
    let text = format!("vtd sector {n}\n");
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// A group of the disk, if the machine has one.
fn guarded_disk(s: &Session) -> Result<(Guarded, virtio::Disk<DISK>), Failure> {
    let Some(function) = pci::find(virtio::VENDOR, virtio::BLOCK).next() else { skip!("no virtio-blk") };
    let guarded = Guarded::new(s, DISK, function.id)?;
    let disk = virtio::open_disk::<DISK>(function)?;
    Ok((guarded, disk))
}

test! {
    fn a_disk_is_read_through_a_domain() {
        let s = session()?;
        let (guarded, mut disk) = guarded_disk(&s)?;
        let last = disk.capacity() as usize - 8;
        for first in [0, 8, 700, last - 8] {
            let mut read = [0u8; 8 * SECTOR];
            disk.read_blocks(first, &mut read)?;
            for (i, sector) in read.chunks_exact(SECTOR).enumerate() {
                check!(sector == pattern(first + i), "sector {} holds something else", first + i);
            }
        }
        drop(disk);
        check_eq!(guarded.events.take().len(), 0, "nothing it did was to be blocked");
        guarded.close()?;
        s.end()?;
    }

    fn a_disk_keeps_what_is_written_through_a_domain() {
        let s = session()?;
        let (guarded, mut disk) = guarded_disk(&s)?;
        if disk.readonly() || disk.capacity() < 16 {
            skip!("the disk is too small or read-only");
        }
        // The last 4 KiB, which no other test goes by the pattern of.
        let last = disk.capacity() as usize - 8;
        let (mut written, mut read) = ([0u8; 8 * SECTOR], [0u8; 8 * SECTOR]);
        written.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 11 + i / 256) as u8);
        disk.write_blocks(last, &written)?;
        disk.read_blocks(last, &mut read)?;
        check!(written == read, "the disk gives back something else");
        drop(disk);
        guarded.close()?;
        s.end()?;
    }

    fn entropy_arrives_through_a_domain() {
        let s = session()?;
        let Some(function) = pci::find(virtio::VENDOR, virtio::ENTROPY).next() else { skip!("no virtio-rng") };
        let guarded = Guarded::new(&s, ENTROPY, function.id)?;
        let mut entropy = virtio::open_entropy::<ENTROPY>(function)?;
        let (mut first, mut second) = ([0u8; 64], [0u8; 64]);
        check_eq!(entropy.request_entropy(&mut first)?, 64);
        check_eq!(entropy.request_entropy(&mut second)?, 64);
        check!(first != second && first != [0; 64]);
        drop(entropy);
        check_eq!(guarded.events.take().len(), 0, "nothing it did was to be blocked");
        guarded.close()?;
        s.end()?;
    }

    fn nothing_stays_mapped_once_a_device_is_closed() {
        let before = frames::free_count();
        let s = session()?;
        let (guarded, mut disk) = guarded_disk(&s)?;
        let open = guarded.counts();
        check!(open.held > 0 && open.unmaps == 0, "the queue is mapped while the device is open: {open:?}");
        disk.read_blocks(0, &mut [0; SECTOR])?;
        let used = guarded.counts();
        check_eq!(used.held, open.held, "buffers are unmapped when the request is done");
        check!(used.unmaps >= 2 && used.mapped > open.mapped, "{used:?}");
        let (at, memory) = used.first.ok_or("nothing was mapped")?;
        check!(at.get() != memory.get(), "the device goes by addresses of its own");
        drop(disk);
        check_eq!(guarded.counts().held, 0);
        check_eq!(virtio::shared_count(DISK), 0);
        guarded.close()?;
        s.end()?;
        check_eq!(frames::free_count(), before, "frames are missing");
    }
}
