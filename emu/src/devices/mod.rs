//! The devices below the units: what each function remembers, and what reaches it.

mod asked;
mod config;
mod function;
mod tlb;

pub use function::{Alias, Answers, Ats, Form, Function, FunctionId, Manner, PasidCapability, Pri, Virtuals};
pub use tlb::Kept;

use crate::bus::{DeviceInvalidation, GroupResponse};
use crate::random::Random;
use crate::request::SourceId;
use crate::unit::Size;
use alloc::vec::Vec;
use asked::{Groups, Verdict};
use config::Config;
use tlb::DeviceTlb;
pub(crate) use tlb::Owner;

/// An invalidation request that a function has not answered yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    request: DeviceInvalidation,
    unit: usize,
    due: u64,
}

/// One function as it stands.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) function: Function,
    pub(crate) config: Config,
    pub(crate) tlb: DeviceTlb,
    pub(crate) groups: Groups,
    present: bool,
    pending: Vec<Pending>,
}

impl Device {
    /// Keeps PRI status in step with what is outstanding.
    pub(crate) fn settle_pages(&mut self) {
        let stopped = !self.config.pri() && self.groups.pages() == 0;
        self.config.set_stopped(stopped);
    }

    fn reset(&mut self) {
        self.config.reset(&self.function);
        self.tlb.clear();
        self.groups.clear();
        self.pending.clear();
    }

    pub(crate) fn present(&self) -> bool {
        self.present
    }
    /// Whether it sends requests to memory.
    pub(crate) fn may_master(&self) -> bool {
        self.function.manner.unruly || self.config.master()
    }
    /// Whether it uses its device TLB.
    pub(crate) fn may_cache(&self) -> bool {
        self.function.manner.unruly || self.config.ats()
    }
    /// Whether it tags requests with PASIDs.
    pub(crate) fn may_tag(&self) -> bool {
        self.function.manner.unruly || self.config.pasid()
    }
    /// Whether it sends page requests.
    pub(crate) fn may_ask(&self) -> bool {
        self.function.manner.unruly || self.config.pri()
    }
    /// What its requests are known by at the unit.
    pub(crate) fn requester(&self, random: &mut Random) -> SourceId {
        match self.function.alias {
            Alias::None => self.function.source,
            Alias::Always(id) => id,
            Alias::Sometimes(id) => {
                if random.percent(50) {
                    id
                } else {
                    self.function.source
                }
            }
        }
    }
}

/// What a write to configuration space did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// What software must not do, in words.
    pub(crate) wrong: Option<&'static str>,
    /// Whose device TLB is empty with that: unit and function.
    pub(crate) lost: Option<(usize, SourceId)>,
}

/// All functions of a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Devices {
    all: Vec<Device>,
}

impl Devices {
    pub(crate) fn add(&mut self, function: Function) -> FunctionId {
        let slot = function.source >> 3;
        let siblings = |d: &&mut Device| d.present && d.function.source >> 3 == slot;
        let mut config = Config::new(&function);
        for sibling in self.all.iter_mut().filter(siblings) {
            sibling.config.set_multifunction();
            config.set_multifunction();
        }
        self.all.push(Device {
            function,
            config,
            tlb: DeviceTlb::default(),
            groups: Groups::default(),
            present: true,
            pending: Vec::new(),
        });
        FunctionId(self.all.len() - 1)
    }

    pub(crate) fn get(&self, f: FunctionId) -> Option<&Device> {
        self.all.get(f.0)
    }

    pub(crate) fn get_mut(&mut self, f: FunctionId) -> Option<&mut Device> {
        self.all.get_mut(f.0)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = FunctionId> + use<> {
        (0..self.all.len()).map(FunctionId)
    }

    /// Surprise removal; says whose device TLB went with it.
    pub(crate) fn remove(&mut self, f: FunctionId) -> Option<(usize, SourceId)> {
        let device = self.all.get_mut(f.0).filter(|d| d.present)?;
        device.present = false;
        device.pending.clear();
        Some((device.function.unit, device.function.source))
    }

    fn at(&self, source: SourceId) -> Option<&Device> {
        self.all.iter().find(|d| d.present && d.function.source == source)
    }

    pub(crate) fn config_read(&self, source: SourceId, at: u16) -> u32 {
        match self.at(source) {
            Some(d) if d.function.form != Form::Hidden => d.config.read(at),
            _ => u32::MAX,
        }
    }

    /// Writes configuration space; `None` where there is none.
    pub(crate) fn config_write(&mut self, source: SourceId, at: u16, size: Size, v: u32) -> Option<Written> {
        let shown = |d: &&mut Device| d.present && d.function.source == source && d.function.form != Form::Hidden;
        let device = self.all.iter_mut().find(shown)?;
        let asked = device.config.write(at, size, v);
        let mut lost = None;
        if asked.reset || asked.ats_on {
            lost = Some((device.function.unit, source));
            device.tlb.clear();
        }
        if asked.reset {
            device.reset();
        }
        if asked.pages_reset {
            device.groups.clear();
        }
        device.settle_pages();
        Some(Written { wrong: asked.wrong, lost })
    }

    /// What answers to a source id below a unit.
    fn target(&mut self, unit: usize, source: SourceId) -> Option<&mut Device> {
        self.all.iter_mut().find(|d| d.present && d.function.unit == unit && d.function.source == source)
    }

    /// An invalidation request arrives, if somebody is there. One without the ATS capability does not know the message and
    /// never completes it; one with ATS off does.
    pub(crate) fn invalidate(&mut self, unit: usize, request: DeviceInvalidation, now: u64, random: &mut Random) {
        let Some(device) = self.target(unit, request.source).filter(|d| d.function.ats.is_some()) else { return };
        let wait = match device.function.manner.answers {
            Answers::AtOnce => 0,
            Answers::After(wait) => wait,
            Answers::Within(wait) => random.below(wait.saturating_add(1)),
            Answers::Never => return,
        };
        device.pending.retain(|p| p.request.tag != request.tag || p.unit != unit);
        device.pending.push(Pending { request, unit, due: now.saturating_add(wait) });
    }

    /// Whether the completion has come. The entries go with it, not before.
    pub(crate) fn invalidated(&mut self, unit: usize, source: SourceId, tag: u8, now: u64) -> bool {
        let Some(device) = self.target(unit, source) else { return false };
        let this = |p: &Pending| p.unit == unit && p.request.tag == tag && p.due <= now;
        let Some(n) = device.pending.iter().position(this) else { return false };
        let pending = device.pending.remove(n);
        if !device.function.manner.keeps {
            let global = device.function.ats.is_some_and(|a| a.global);
            device.tlb.invalidate(&pending.request, global);
        }
        true
    }

    /// A page-group response arrives. A failure turns page requests off for the whole device: every function of it.
    pub(crate) fn respond(&mut self, unit: usize, response: &GroupResponse) {
        let Some(device) = self.target(unit, response.source) else { return };
        let Some(pri) = device.function.pri else { return };
        if device.function.manner.deaf {
            return;
        }
        let verdict = device.groups.answer(response, pri.pasid_required);
        if verdict == Verdict::Unexpected {
            device.config.unexpected_group();
        }
        device.settle_pages();
        if response.code == 15 {
            let slot = response.source >> 3;
            for device in self.all.iter_mut().filter(|d| d.present && d.function.unit == unit) {
                if device.function.source >> 3 == slot {
                    device.config.response_failed();
                    device.settle_pages();
                }
            }
        }
    }

    /// The bridges between a function and its unit that control what passes, by the buses behind them.
    pub(crate) fn ports(&self, source: SourceId) -> impl Iterator<Item = &Device> {
        let bus = (source >> 8) as u8;
        self.all.iter().filter(move |d| {
            let (secondary, subordinate) = d.config.buses();
            d.present && d.function.form.buses().is_some() && (secondary..=subordinate).contains(&bus)
        })
    }
}
