//! The driver's handle: counted, cloned, without global state.

use crate::device::attach::{Group, Target};
use crate::device::common::{Core, Rest};
use crate::device::events::{Events, Fault};
use crate::device::registry::{Attached, GroupState, Owner, Registry};
use crate::device::scan;
use crate::device::{GroupId, Tree, Why};
use crate::dmar::Topology;
use crate::host::address::{DeviceId, Hpa, Nanos, Range, SourceId, UnitId};
use crate::host::error::{Error, ErrorKind, Field, Need, State};
use crate::host::grow;
use crate::host::mem::Shared;
use crate::host::platform::{Event, Platform};
use crate::host::sync::{Lock, Once, Rank};
use crate::hw::capabilities::Capabilities;
use crate::hw::faults::FaultRecord;
use crate::hw::registers::{Gsts, TableMode};
use crate::space::address_space::AddressSpace;
use crate::space::domain::{Domain, FlushMode, Strict};
use crate::space::foreign::CheckedTables;
use crate::space::spec::DomainSpec;
use crate::space::stage1::{Stage1, Stage1Spec};
use crate::unit::bring_up::{Place, Skipped, TakeOver};
use crate::unit::config::Config;
use crate::unit::errata::{Errata, Erratum};
use crate::unit::fault_log::FaultLog;
use crate::unit::shield::LeftShield;
use crate::unit::stats::UnitStats;
use crate::unit::take_over::{Adopted, Malformed};
use crate::unit::{Machine, Unit};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// The driver of all remapping units of a machine. A counted handle: clones are the same driver.
///
/// ```text
/// Topology::from_table -> Vtd::new -> bring_up -> claim a group -> attach it to a domain -> map
/// ```
pub struct Vtd<P: Platform>(Shared<Core<P>>);

impl<P: Platform> fmt::Debug for Vtd<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vtd").field("units", &self.0.units().len()).finish_non_exhaustive()
    }
}

impl<P: Platform> Clone for Vtd<P> {
    fn clone(&self) -> Self {
        Vtd(self.0.clone())
    }
}

/// What `bring_up` found and did.
#[derive(Debug)]
pub struct BringUp {
    /// Every unit of the table, in its order; of [`Vtd::add_unit`], the one that was added.
    pub units: Vec<UnitReport>,
    /// Devices that firmware reserved memory for, which go on reaching it (and nothing else) until they are claimed.
    pub firmware: Vec<FirmwareReport>,
    /// What is done differently on this machine, and why.
    pub errata: Vec<&'static Erratum>,
}

/// One unit in [`BringUp`].
#[derive(Clone, Copy, Debug)]
pub struct UnitReport {
    /// The unit.
    pub unit: UnitId,
    /// Why it was left alone.
    pub skipped: Option<Skipped>,
    /// What was found on and was turned off first (TES, QIES, IRES).
    pub found: Gsts,
    /// The tables that it runs on (`Config::tables`); `None` where it was left alone.
    pub tables: Option<TableMode>,
    /// Invalidation goes through the queue.
    pub queue: bool,
    /// Faults raise an interrupt; without it `service` finds them.
    pub fault_interrupt: bool,
    /// Protected memory was on and was turned off.
    pub protected_memory: bool,
    /// How it came out of abort-DMA mode, where it was in that ([`Vtd::shield`]).
    pub left_shield: Option<LeftShield>,
    /// What it goes on with of a predecessor's tables (`TakeOver::Adopt`).
    pub adopted: Option<Adopted>,
    /// Why these were not adopted, and the unit was turned off first.
    pub fell_back: Option<Malformed>,
}

impl UnitReport {
    /// Of a unit that was looked at and not touched yet.
    fn new<P: Platform>(unit: UnitId, probed: Result<&Unit<P>, Skipped>) -> Self {
        UnitReport {
            unit,
            skipped: probed.err(),
            found: Gsts::empty(),
            tables: probed.ok().map(|u| u.mode),
            queue: false,
            fault_interrupt: false,
            protected_memory: false,
            left_shield: None,
            adopted: probed.ok().and_then(|u| u.adopted),
            fell_back: probed.ok().and_then(|u| u.fell_back),
        }
    }
}

/// One region in [`BringUp`].
#[derive(Clone, Copy, Debug)]
pub struct FirmwareReport {
    /// The device.
    pub device: DeviceId,
    /// The region, whole pages.
    pub range: Range,
    /// Why the device does not reach it.
    pub error: Option<Error>,
}

/// When to call `service` again.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// Nothing is left; call again when `Platform::wake` says so.
    Idle,
    /// The budget was used up, or faults come in faster than they are read; call again soon.
    Again,
    /// A deferred domain must be flushed then; call again at that time, or before if `Platform::wake` says so.
    At(Nanos),
}

/// Faults of one unit that no owner hears, in one call of `service`.
#[derive(Default)]
struct Others {
    delivered: u16,
    dropped: u64,
}

impl<P: Platform> Vtd<P> {
    /// What all handles share.
    pub(crate) fn core(&self) -> &Core<P> {
        &self.0
    }

    /// The driver for the units of `topology`. Touches no register.
    pub fn new(platform: P, topology: Topology, config: Config) -> Result<Self, Error> {
        let identity = platform.identity();
        let machine = Shared::new(Machine::new(platform, config)).map_err(|(_, e)| e)?;
        let core = Core {
            machine,
            topology,
            identity,
            up: Once::new(),
            shielded: Lock::new(Rank::Leaf, Vec::new()),
            one_to_one: Lock::new(Rank::Groups, None),
            deferred: Lock::new(Rank::Leaf, Vec::new()),
            rest: Lock::new(Rank::Leaf, Rest::default()),
        };
        Ok(Vtd(Shared::new(core).map_err(|(_, e)| Error::from(e))?))
    }

    /// Takes the units over and turns translation on with everything blocked, but for devices that firmware reserved
    /// memory for: those go on reaching that. The order is that of VT-d 11.4.4 and 6.5.2.1: queues on
    /// everywhere, root pointers, fault interrupts, firmware's regions, translation, protected memory off.
    ///
    /// Once only. After an error the units are off again as far as they answer, and the handle is good for `hand_back`.
    /// Waits, with deadlines.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// # use vtd::{Access, Config, Iova, Owner, PAGE, Strict, TakeOver, Target};
    /// # use emulated::CARD;
    /// # let (host, vtd, group) = emulated::ready();
    /// # let domain = vtd.domain::<Strict>(&group.best_spec())?;
    /// # group.attach(Target::Domain(&domain))?;
    /// # domain.map(Iova::at(0x4000_0000), host.memory(1), PAGE, Access::READ | Access::WRITE)?;
    /// // Whoever had the machine is gone, and has left its unit translating; its memory is as it was.
    /// core::mem::forget((vtd, group, domain));
    /// let vtd = host.driver(Config::default())?;
    /// let report = vtd.bring_up(TakeOver::Adopt)?;
    /// assert_eq!(report.units[0].adopted.map(|a| a.entries), Some(1));
    /// // The device goes on, until its group is claimed.
    /// host.write(None, 0x4000_0000, 1)?;
    /// let group = vtd.claim(vtd.group_of(CARD)?, Owner::HOST)?;
    /// assert!(host.write(None, 0x4000_0000, 2).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn bring_up(&self, found: TakeOver) -> Result<BringUp, Error> {
        let core = &*self.0;
        {
            let mut rest = core.rest.lock(core.platform());
            if core::mem::replace(&mut rest.begun, true) {
                return Err(ErrorKind::State(State::AlreadyUp).into());
            }
        }
        let mut report = BringUp { units: Vec::new(), firmware: Vec::new(), errata: Vec::new() };
        let mut units = Vec::new();
        if let Err(e) = self.probe(found, &mut report, &mut units) {
            self.give_up(units);
            self.give_up(self.take_shielded());
            return Err(e);
        }
        if units.is_empty() {
            return Err(ErrorKind::Unsupported(Need::AnyUnit).into());
        }
        if let Err(e) = core.machine.adopt(&mut units, usize::from(core.host().config.spare_units)) {
            self.give_up(units);
            return Err(e.into());
        }
        let done = self.start(found, &mut report);
        if done.is_err() {
            for unit in core.units().iter() {
                let _ = unit.stop(core.host());
            }
        }
        done.map(|()| report)
    }

    fn probe(&self, found: TakeOver, report: &mut BringUp, units: &mut Vec<Unit<P>>) -> Result<(), Error> {
        let core = &*self.0;
        for e in Errata::found(&core.identity) {
            grow::push(&mut report.errata, e)?;
        }
        let errata = Errata::of(&core.identity);
        *units = grow::with_capacity(core.topology.units().len())?;
        for u in core.topology.units() {
            let place = Place::of(u, core.hpa_width(), found);
            let shielded = {
                let mut list = core.shielded.lock(core.platform());
                list.iter().position(|unit| unit.id == u.id).map(|i| list.swap_remove(i))
            };
            let probed = match shielded {
                Some(unit) => Ok(unit),
                None => Unit::probe(core.host(), place, errata)?,
            };
            let line = UnitReport::new(u.id, probed.as_ref().map_err(|why| *why));
            if let Ok(unit) = probed {
                grow::push(units, unit)?;
            }
            grow::push(&mut report.units, line)?;
        }
        Ok(())
    }

    fn start(&self, found: TakeOver, report: &mut BringUp) -> Result<(), Error> {
        let core = &*self.0;
        let host = core.host();
        let mut line = |id: UnitId, set: &dyn Fn(&mut UnitReport)| {
            report.units.iter_mut().filter(|l| l.unit == id).for_each(set);
        };
        for unit in core.units().iter() {
            let on = unit.quiet(host, found)?;
            line(unit.id, &|l| l.found = on);
        }
        for unit in core.units().iter() {
            unit.start_queue(host)?;
            line(unit.id, &|l| l.queue = unit.has_queue());
        }
        let found = scan::machine(core.platform(), &core.topology, core.units())?;
        let registry = Registry::new(found, usize::from(core.host().config.spare_units))?;
        for (index, unit) in core.units().iter().enumerate() {
            let known = |source| registry.serves(DeviceId { segment: unit.segment, source }, index);
            unit.lose_strangers(core.platform(), known);
            unit.start_root(host)?;
        }
        for unit in core.units().iter() {
            let interrupt = unit.start_events(host);
            line(unit.id, &|l| l.fault_interrupt = interrupt);
        }
        registry.adopt(core.platform(), core.units())?;
        core.up.call_once(|| registry);
        self.keep_firmware(0..core.registry()?.len(), &mut report.firmware)?;
        for unit in core.units().iter() {
            let (left, before) = unit.leave_shield(host)?;
            let was = unit.start_translation(host)?;
            let was = before.unwrap_or(was);
            let lines = report.units.iter_mut().filter(|l| l.unit == unit.id);
            lines.for_each(|l| (l.protected_memory, l.left_shield) = (was, left));
        }
        Ok(())
    }

    /// Attaches every group with regions reserved by firmware to a domain of those regions.
    fn keep_firmware(&self, places: core::ops::Range<usize>, report: &mut Vec<FirmwareReport>) -> Result<(), Error> {
        let registry = self.0.registry()?;
        for g in places {
            let members = registry.members(g);
            let regions = || members.iter().flat_map(|m| m.reserved.iter().map(|(r, _)| (m.device, *r)));
            // What was adopted reaches its regions by the tables that it has.
            let adopted = {
                let states = registry.states.lock(self.0.platform());
                states.get(g).is_some_and(|s| matches!(s.attached, Attached::Adopted))
            };
            if adopted || regions().next().is_none() {
                continue;
            }
            let outcome = if members.iter().any(|m| m.unit().is_none()) {
                Err(ErrorKind::Unsupported(Need::Unit).into())
            } else {
                let group = Group::unclaimed(&self.0, g)?;
                let spec = group.best_spec();
                self.domain::<Strict>(&spec).and_then(|d| group.attach(Target::Domain(&d)))
            };
            for (device, range) in regions() {
                grow::push(report, FirmwareReport { device, range, error: outcome.err() })?;
            }
        }
        Ok(())
    }

    /// Turns every unit off and gives the platform back. `Busy` while groups, domains or other handles live.
    pub fn hand_back(self) -> Result<P, (Self, Error)> {
        if let Err(e) = self.quiesce() {
            return Err((self, e));
        }
        let (core, place) = match self.0.take() {
            Ok(taken) => taken,
            Err(core) => return Err((Vtd(core), ErrorKind::Busy.into())),
        };
        let Core { machine, topology, identity, up, shielded, one_to_one, deferred, rest } = core;
        match machine.take() {
            Ok((machine, _)) => {
                let (host, units) = machine.into_parts();
                for unit in units.chain(shielded.into_inner()) {
                    unit.release(&host.platform);
                }
                Ok(host.platform)
            }
            Err(machine) => {
                let core = Core { machine, topology, identity, up, shielded, one_to_one, deferred, rest };
                Err((Vtd(place.fill(core)), ErrorKind::Busy.into()))
            }
        }
    }

    /// All that can fail of `hand_back`.
    fn quiesce(&self) -> Result<(), Error> {
        let core = &*self.0;
        core.forget_dropped();
        let inner = usize::from(core.one_to_one.lock(core.platform()).is_some());
        let kept = match core.up.get() {
            Some(r) => r.states.lock(core.platform()).iter().map(GroupState::spaces).fold(0, usize::saturating_add),
            None => 0,
        };
        if self.0.handles() != 1 || core.machine.handles() > 1 + inner + kept {
            return Err(ErrorKind::Busy.into());
        }
        for g in 0..core.up.get().map_or(0, Registry::len) {
            Group::unclaimed(&self.0, g)?.block_all()?;
        }
        let stand_in = core.one_to_one.lock(core.platform()).take();
        drop(stand_in);
        self.drop_shield()?;
        for unit in core.units().iter() {
            unit.stop(core.host())?;
        }
        Ok(())
    }

    /// What a unit can do.
    pub fn capabilities(&self, u: UnitId) -> Result<Capabilities, Error> {
        self.0.machine.unit(u).map(|u| u.caps)
    }

    /// What a unit's invalidation queue has seen.
    pub fn invalidation_stats(&self, u: UnitId) -> Result<UnitStats, Error> {
        self.0.machine.unit(u).map(|u| u.stats(self.0.host()))
    }

    /// Where a unit's registers are.
    pub fn register_base(&self, u: UnitId) -> Result<Hpa, Error> {
        self.0.machine.unit(u).map(|u| u.base)
    }

    /// What firmware says of the machine.
    pub fn topology(&self) -> &Topology {
        &self.0.topology
    }

    /// The working unit that serves a device.
    pub fn unit_of(&self, d: DeviceId) -> Result<UnitId, Error> {
        let registry = self.0.registry()?;
        let (g, m) = registry.find(d).ok_or(ErrorKind::Unknown.of(d))?;
        let unit = registry.members(g).get(m).and_then(|m| self.0.units().get(m.unit()?));
        unit.map(|u| u.id).ok_or(ErrorKind::Unsupported(Need::Unit).of(d))
    }

    /// The top half of a unit's interrupts. Interrupt context; takes no lock that anyone holds with interrupts on.
    pub fn interrupt(&self, u: UnitId, e: Event) {
        let core = &*self.0;
        if let Ok(unit) = core.machine.unit(u)
            && unit.interrupted(core.host(), e)
        {
            core.platform().wake();
        }
    }

    /// The bottom half: delivers what devices reported, in at most `budget` calls of handlers, and says when to call
    /// again; flushes what deferred domains have gathered for too long, and waits for that. Not for interrupt context; no lock
    /// is held while a handler runs.
    pub fn service(&self, budget: usize) -> Service {
        let core = &*self.0;
        let Some(registry) = core.up.get() else { return Service::Idle };
        let round = {
            let mut rest = core.rest.lock(core.platform());
            rest.round = rest.round.wrapping_add(1);
            rest.round
        };
        let (mut left, mut pending) = (budget, false);
        let units = core.units();
        for unit in units.iter().filter(|u| !u.removed()) {
            // An error of the queue belongs to whoever waits; here it is only kept from blocking fault interrupts.
            let _ = unit.tend_queue(core.host());
        }
        left = left.saturating_sub(self.isolate_suspects(registry));
        (0..registry.len()).for_each(|place| drop(Group::dropped(&self.0, place)));
        for i in 0..units.len() {
            // Each call begins with another unit: one whose faults use up every budget does not silence the others.
            let turn = (round % units.len() as u64) as usize;
            let Some(unit) = units.get((turn + i) % units.len()).filter(|u| !u.removed()) else { continue };
            unit.faults().collect(core.host(), unit);
            pending |= unit.faults().pending(unit);
            // Those that no owner hears have a share as a device has: a storm of them leaves budget for everyone else.
            let mut others = Others::default();
            // What comes in meanwhile comes with a `wake`: records that nobody hears do not keep this from ending.
            for _ in 0..FaultLog::ROOM {
                if left == 0 {
                    return Service::Again;
                }
                let Some((at, record)) = unit.faults().take(core.host()) else { break };
                left -= usize::from(self.deliver(registry, unit, (at, record), round, &mut others));
            }
            // Without anybody to tell, the count is kept until somebody asks to hear.
            if let Some(h) = self.rest_handler() {
                let lost = unit.faults().take_lost(core.host()).saturating_add(others.dropped);
                if lost != 0 {
                    h.lost(lost);
                    left = left.saturating_sub(1);
                }
            }
        }
        let next = core.flush_deferred();
        match (self.deliver_lost(registry, left), next) {
            (Service::Idle, _) if pending => Service::Again,
            (Service::Idle, Some(at)) => Service::At(at),
            (outcome, _) => outcome,
        }
    }

    /// Delivers one fault; `false` where nobody hears it, or its device has had its share.
    fn deliver(
        &self,
        registry: &Registry<P>,
        unit: &Unit<P>,
        (at, record): (usize, FaultRecord),
        round: u64,
        others: &mut Others,
    ) -> bool {
        let core = &*self.0;
        let id = DeviceId { segment: unit.segment, source: SourceId(record.source()) };
        let place = registry.find(id);
        let member = place.and_then(|(g, m)| registry.members(g).get(m));
        let device = member.map(|m| m.device);
        let own = member.and_then(|m| core.units().get(m.unit()?)).is_some_and(|u| u.id == unit.id);
        let share = core.host().config.faults_per_service;
        let mut handler = None;
        if let Some((g, m)) = place {
            let mut states = registry.states.lock(core.platform());
            if let Some(ear) = states.get_mut(g).and_then(|s| s.ears.get_mut(m))
                && let Some(h) = &ear.handler
                // Not what an earlier owner left in the log.
                && !(own && at.wrapping_sub(ear.since) > usize::MAX / 2)
            {
                if ear.round != round {
                    (ear.round, ear.delivered) = (round, 0);
                }
                if ear.delivered >= share {
                    ear.dropped = ear.dropped.saturating_add(1);
                    return false;
                }
                ear.delivered += 1;
                handler = Some(h.clone());
            }
        }
        if handler.is_none() {
            handler = self.rest_handler();
            if handler.is_some() && others.delivered >= share {
                others.dropped += 1;
                return false;
            }
            others.delivered += u16::from(handler.is_some());
        }
        match handler {
            Some(h) => {
                h.fault(&Fault::decode(unit.id, device, record));
                true
            }
            None => false,
        }
    }

    /// Tells owners how many faults of their devices were not delivered one by one.
    fn deliver_lost(&self, registry: &Registry<P>, mut left: usize) -> Service {
        let core = &*self.0;
        for (g, m) in (0..registry.len()).flat_map(|g| (0..registry.members(g).len()).map(move |m| (g, m))) {
            let told = {
                let mut states = registry.states.lock(core.platform());
                let ear = states.get_mut(g).and_then(|s| s.ears.get_mut(m)).filter(|e| e.dropped != 0);
                match ear {
                    Some(_) if left == 0 => return Service::Again,
                    Some(ear) => ear.handler.clone().map(|h| (h, core::mem::take(&mut ear.dropped))),
                    None => None,
                }
            };
            if let Some((h, n)) = told {
                h.lost(n);
                left -= 1;
            }
        }
        Service::Idle
    }

    fn rest_handler(&self) -> Option<Arc<dyn Events>> {
        self.0.rest.lock(self.0.platform()).handler.clone()
    }

    /// Has `h` hear of faults that no owner's handler hears of: unknown requesters, devices that nobody claimed, and
    /// overflows of a unit's registers, which name no device.
    pub fn on_other_events(&self, h: Arc<dyn Events>) {
        let was = self.0.rest.lock(self.0.platform()).handler.replace(h);
        drop(was);
    }

    /// The group of a device.
    pub fn group_of(&self, d: DeviceId) -> Result<GroupId, Error> {
        let registry = self.0.registry()?;
        registry.find(d).map_or(Err(ErrorKind::Unknown.of(d)), |(g, _)| registry.id(g))
    }

    /// All groups.
    pub fn groups(&self) -> Result<impl Iterator<Item = GroupId> + '_, Error> {
        Ok(self.0.registry()?.groups())
    }

    /// The devices of a group.
    pub fn devices_of(&self, g: GroupId) -> Result<impl Iterator<Item = DeviceId> + '_, Error> {
        let registry = self.0.registry()?;
        Ok(registry.members(registry.place(g)?).iter().map(|m| m.device))
    }

    /// Why two devices are in one group, link by link; `None` where they are not.
    pub fn why_together(&self, a: DeviceId, b: DeviceId) -> Result<Option<Why<'_>>, Error> {
        Ok(self.0.registry()?.why(a, b))
    }

    /// The PCI functions and ACPI devices of the machine as `bring_up` found them; not those that came with a unit later.
    pub fn devices(&self) -> Result<&Tree, Error> {
        self.0.registry()?.tree().ok_or(ErrorKind::State(State::NotUp).into())
    }

    /// Claims a group for one owner, and blocks it until it is attached. What cannot be told apart is claimed together.
    ///
    /// Errors: `Busy` where it has an owner; `Invalid(ReservedRegion)` for a guest where firmware keeps a region of a
    /// kind that the device needs; `Unsupported(Unit)` where no working unit serves a member; `State(NotUp)` where a unit
    /// does not translate, as after a `bring_up` or `hand_back` that failed half-way.
    pub fn claim(&self, g: GroupId, owner: Owner) -> Result<Group<P>, Error> {
        Group::claim(&self.0, g, owner)
    }

    /// An empty address space that meets `spec`. Its devices' units must offer at least that.
    pub fn domain<M: FlushMode>(&self, spec: &DomainSpec) -> Result<Domain<P, M>, Error> {
        let domain = Domain::new(&self.0.machine, spec, self.0.hpa_width())?;
        if M::DEFERRED {
            self.0.look_after(&domain.space)?;
        }
        Ok(domain)
    }

    /// A CPU's tables, checked for what the units of its devices offer (`Group::table_offers`), for groups to be attached to. They
    /// are the owner's: they must stay, and keep to their form, until no group is attached to them.
    ///
    /// Errors: `Invalid(Address)` where they were checked for more address bits than this machine has; `OutOfMemory`.
    pub fn address_space(&self, tables: CheckedTables) -> Result<AddressSpace<P>, Error> {
        if tables.output() > self.0.hpa_width() {
            return Err(ErrorKind::Invalid(Field::Address).into());
        }
        Ok(AddressSpace::new(&self.0.machine, tables)?)
    }

    /// A guest's first-stage tables over `parent`, which is the guest's memory: for groups, and PASIDs of devices, to be attached
    /// to. Every field is checked, here or at the attachment, so that nothing that a guest names makes a malformed entry.
    ///
    /// Errors: `Unsupported(SecondStage)` for a parent of first-stage tables; `Invalid(Address)` for a root that is not on a page
    /// boundary or beyond what the parent's levels reach; `Invalid(Format)` where the same root is in use over `parent` with
    /// other levels or another extended accessed flag, which hardware takes for one table (6.2.1); `Invalid(ReadOnly)` where
    /// the parent has, or has had, read-only memory on a machine with erratum 772415, after which it takes no more of that for
    /// as long as there are guests' tables over it; `Invalid(Domain)` for another driver's domain; `OutOfMemory`.
    pub fn stage1(&self, parent: &Domain<P, Strict>, spec: &Stage1Spec) -> Result<Stage1<P>, Error> {
        if !parent.space.belongs_to(&self.0.machine) {
            return Err(ErrorKind::Invalid(Field::Domain).into());
        }
        Ok(Stage1::new(&self.0.machine, parent, *spec, Errata::of(&self.0.identity))?)
    }
}

mod hot_plug;
mod isolate;
mod power;
pub(crate) mod shield;
#[cfg(test)]
mod tests;
