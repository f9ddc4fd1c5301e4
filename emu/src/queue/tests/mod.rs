mod decoding;
mod devices;
mod order;
mod ring;

use super::*;
use crate::pace::Pace;
use crate::profile::Profile;
use crate::testing::{FSTS, IQA, IQT, RTADDR, Rig};

pub(super) const BASE: u64 = 0x10_0000;
pub(super) const STATUS: u64 = 0x8000;

/// A rig with its queue on, and where software is in it.
pub(super) struct Line {
    pub(super) rig: Rig,
    pub(super) tail: u32,
}

/// `rtaddr` is latched first, without its address: 0 for legacy mode.
pub(super) fn line(profile: Profile, pace: Pace, rtaddr: u64, iqa: u64) -> Line {
    let mut rig = Rig::new(profile, Pace::prompt());
    rig.w64(RTADDR, 0x1000 | rtaddr);
    rig.command(crate::command::SRTP, true);
    rig.w64(IQA, BASE | iqa);
    rig.command(QIE, true);
    rig.forgive();
    rig.unit.set_pace(pace);
    Line { rig, tail: 0 }
}

/// Scalable mode, descriptors of 256 bits.
pub(super) fn wide(profile: Profile, pace: Pace) -> Line {
    line(profile, pace, 0x400, 0x800)
}

/// Legacy mode, descriptors of 128 bits.
pub(super) fn narrow(profile: Profile, pace: Pace) -> Line {
    line(profile, pace, 0, 0)
}

impl Line {
    /// Writes descriptors without telling.
    pub(super) fn write(&mut self, descriptors: &[[u64; 2]]) {
        let wide = self.rig.unit.queue.wide();
        let size = self.rig.unit.queue.size();
        for &[q0, q1] in descriptors {
            let at = BASE + u64::from(self.tail);
            match wide {
                true => self.rig.bus.put(at, &[q0, q1, 0, 0]),
                false => self.rig.bus.put(at, &[q0, q1]),
            }
            self.tail = (self.tail + if wide { 32 } else { 16 }) % size;
        }
    }
    /// Submits descriptors.
    pub(super) fn put(&mut self, descriptors: &[[u64; 2]]) {
        self.write(descriptors);
        self.rig.w64(IQT, self.tail.into());
    }
    /// The same, and lets the unit work.
    pub(super) fn run(&mut self, descriptors: &[[u64; 2]]) {
        self.put(descriptors);
        self.rig.step(1000, 0);
    }
    pub(super) fn head(&self) -> u32 {
        self.rig.unit.queue.head
    }
    pub(super) fn fsts(&mut self) -> u32 {
        self.rig.r32(FSTS)
    }
    pub(super) fn status(&self) -> u32 {
        self.rig.bus.get(STATUS) as u32
    }
    /// What has taken effect since the queue was enabled.
    pub(super) fn forgot(&self) -> Vec<crate::invalidation::Invalidation> {
        let told = self.rig.unit.story.iter();
        let queue = told.skip_while(|(_, h)| !matches!(h, Happening::Commanded(QIE, true)));
        queue.filter_map(|(_, h)| if let Happening::Forgot(what) = h { Some(*what) } else { None }).collect()
    }
    /// Where the descriptors stood that have completed, in that order.
    pub(super) fn completed(&self) -> Vec<u64> {
        let told = self.rig.unit.story.iter();
        told.filter_map(|(_, h)| if let Happening::Completed(at) = h { Some(*at) } else { None }).collect()
    }
}

pub(super) const CC: [u64; 2] = [0x11, 0];
pub(super) const IOTLB: [u64; 2] = [0x12, 0];
pub(super) const IEC: [u64; 2] = [0x04, 0];
pub(super) const P_IOTLB: [u64; 2] = [0x0000_0005_0001_0026, 0];
pub(super) const PC: [u64; 2] = [0x37, 0];
pub(super) const FENCE: [u64; 2] = [0x45, 0];

/// Everything of requests without PASID that a device has kept.
pub(super) fn dev_tlb(source: u16) -> [u64; 2] {
    [u64::from(source) << 32 | 3, 0x7fff_ffff_ffff_f001]
}

/// The same for a PASID.
pub(super) fn p_dev_tlb(source: u16, pasid: u32) -> [u64; 2] {
    [u64::from(pasid) << 32 | u64::from(source) << 16 | 8, 0x7fff_ffff_ffff_f800]
}

/// A wait that writes `data` to the status word.
pub(super) fn wait(data: u32) -> [u64; 2] {
    [u64::from(data) << 32 | 0x25, STATUS]
}

pub(super) fn response(source: u16, group: u64) -> [u64; 2] {
    [u64::from(source) << 16 | 9, group << 3]
}
