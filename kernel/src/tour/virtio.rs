//! Devices that people use: a disk and a source of entropy, each in a domain of its own, driven by crate
//! `virtio-drivers`, which knows nothing of it.

use super::report::{Report, Stop, detail};
use crate::devices::{DeviceError, virtio};
use crate::dma::Guarded;
use crate::iommu::Session;
use crate::pci::{self, Function};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

const DISK: usize = 0;
const ENTROPY: usize = 1;

const SECTOR: usize = 512;
/// Sectors of the disk that xtask makes; what another holds is not known.
const SECTORS: u64 = 2048;
/// Sectors of a request.
const RUN: usize = 8;

pub fn show(report: &mut Report, session: &Session) -> Result<(), Stop> {
    let function = |device| pci::find(virtio::VENDOR, device).next();
    let (disk, entropy) = (function(virtio::BLOCK), function(virtio::ENTROPY));
    if disk.is_none() && entropy.is_none() {
        return Err(Stop::Missing("the machine has no virtio device that this kernel drives".to_string()));
    }
    if let Some(f) = disk {
        read_disk(report, session, f)?;
    }
    if let Some(f) = entropy {
        take_entropy(report, session, f)?;
    }
    Ok(())
}

/// A device that no domain can keep is left alone.
fn or_missing(e: DeviceError, f: &Function) -> Stop {
    match e {
        DeviceError::Unguarded => Stop::Missing(format!("{}: {e}, and is left alone", f.id)),
        _ => Stop::Wrong(format!("{}: {e}", f.id)),
    }
}

fn read_disk(report: &mut Report, session: &Session, f: &Function) -> Result<(), Stop> {
    let guarded = Guarded::new(session, DISK, f.id)?;
    let mut disk = virtio::open_disk::<DISK>(f).map_err(|e| or_missing(e, f))?;
    let known = disk.capacity() == SECTORS;
    let mut bytes = vec![0; RUN * SECTOR];
    let last = (disk.capacity() as usize).saturating_sub(RUN);
    let mut right = 0;
    let runs = [0, last / 2, last];
    for first in runs {
        disk.read_blocks(first, &mut bytes)?;
        let sectors = bytes.chunks_exact(SECTOR).enumerate();
        right += sectors.filter(|(i, sector)| !known || is_sector(first + i, sector)).count();
    }
    drop(disk);
    let all = runs.len() * RUN;
    let what = if known { "hold what they must" } else { "read; what they must hold is not known" };
    report.check(right == all, format_args!("disk {}: {right} of {all} sectors {what}", f.id));
    end(report, session, guarded, f)
}

/// Whether this is sector `n` of the disk that xtask makes.
fn is_sector(n: usize, sector: &[u8]) -> bool {
    let text = format!("vtd sector {n}\n");
    sector.strip_prefix(text.as_bytes()).is_some_and(|rest| rest.iter().all(|b| *b == n as u8))
}

fn take_entropy(report: &mut Report, session: &Session, f: &Function) -> Result<(), Stop> {
    let guarded = Guarded::new(session, ENTROPY, f.id)?;
    let mut entropy = virtio::open_entropy::<ENTROPY>(f).map_err(|e| or_missing(e, f))?;
    let (mut first, mut second) = ([0u8; 16], [0u8; 16]);
    let got = entropy.request_entropy(&mut first)? + entropy.request_entropy(&mut second)?;
    drop(entropy);
    let right = got == 32 && first != second && first != [0; 16];
    let words = first.as_chunks().0.iter().map(|word| format!(" {:08x}", u32::from_be_bytes(*word)));
    let words = words.collect::<String>();
    report.check(right, format_args!("entropy {}: {got} bytes, the first of them{words}", f.id));
    end(report, session, guarded, f)
}

/// Nothing was blocked, and nothing is mapped any more.
fn end(report: &mut Report, session: &Session, guarded: Guarded, f: &Function) -> Result<(), Stop> {
    crate::iommu::tend(session.vtd());
    if let Some(fault) = guarded.events.take().first() {
        return Err(Stop::Wrong(format!("blocked, and was not to be: {fault}")));
    }
    let counts = guarded.counts();
    guarded.close()?;
    report.tally.mapped += counts.mapped;
    report.tally.unmaps += counts.unmaps;
    report.check(
        counts.unmaps > 0,
        format_args!(
            "{}: {} pages mapped for its work, in {} ranges, all unmapped and flushed",
            f.id, counts.mapped, counts.unmaps
        ),
    );
    if let Some((at, memory)) = counts.first {
        detail(format_args!("the first was {at} to the device, and memory at {memory}"));
    }
    Ok(())
}
