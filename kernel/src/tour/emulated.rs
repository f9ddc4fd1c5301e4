//! What no unit of QEMU has, on a unit that crate `vtd-emu` plays in this kernel's memory: both stages and several PASIDs side
//! by side, a device that asks between any two stores of a replacement, dirty pages.

use super::report::{Report, Stop, detail, table};
use crate::sync::IrqLock;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use emulated::{Access as Asks, CARD, Host, Probe, Profile, Seen};
use vtd::{
    Access, Change, Config, Domain, Group, Iova, Owner, PAGE, Pasid, Range, Stage, Store, Strict, Target, UnitId, Vtd,
};

const RW: Access = Access::READ.union(Access::WRITE);

/// Whom stores of the driver are told.
static PLAYED: IrqLock<Option<Host>> = IrqLock::new(None);

fn observer(store: &Store<'_>) {
    let host = PLAYED.lock().clone();
    if let Some(host) = host {
        host.stored(store.at as u64, store.old, store.new, store.done);
    }
}

pub fn show(report: &mut Report) -> Result<(), Stop> {
    vtd::observe(observer);
    let host = Host::new(Profile::maximal());
    *PLAYED.lock() = Some(host.clone());
    let shown = all(report, &host);
    *PLAYED.lock() = None;
    shown
}

fn all(report: &mut Report, host: &Host) -> Result<(), Stop> {
    detail(format_args!(
        "EMULATED: all of this section is crate vtd-emu's unit with one network card, in memory of this kernel; no \
         hardware and no unit of QEMU takes part."
    ));
    let vtd = host.bring_up(Config::default())?;
    let group = vtd.claim(vtd.group_of(CARD)?, Owner::HOST)?;
    side_by_side(report, host, &vtd, &group)?;
    between_stores(report, host, &vtd, &group)?;
    dirty(report, host, &vtd, &group)?;
    group.release().map_err(|(_, e)| e)?;
    let stats = vtd.invalidation_stats(UnitId(0))?;
    let broken: Vec<String> =
        host.machine().breaches().iter().map(|(_, b)| format!("{:?}: {}", b.rule, b.what)).collect();
    report.check(
        broken.is_empty(),
        format_args!(
            "{} batches with {} descriptors, and the unit found no rule of the specification broken {}",
            stats.submissions,
            stats.descriptors,
            broken.join("; ")
        ),
    );
    vtd.hand_back().map_err(|(_, e)| e)?;
    Ok(())
}

fn pasid(v: u32) -> Result<Pasid, Stop> {
    Ok(Pasid::new(v).ok_or("no such PASID")?)
}

/// A domain of this stage that leads `at` to a page of its own with `value` in it.
fn domain(
    host: &Host,
    vtd: &Vtd<Host>,
    group: &Group<Host>,
    (stage, at, value): (Stage, u64, u64),
) -> Result<(Domain<Host, Strict>, u64), Stop> {
    let mut spec = group.best_spec();
    (spec.stage, spec.levels, spec.width) = (stage, 4, 39);
    let (domain, page) = (vtd.domain::<Strict>(&spec)?, host.memory(1));
    domain.map(Iova::at(at), page, PAGE, RW)?;
    // Written as a device would, through the machine.
    vtd_store(host, page.get(), value);
    Ok((domain, page.get()))
}

fn vtd_store(host: &Host, at: u64, value: u64) {
    let _ = host.machine().store(at, value);
}

/// One device, one address, four ways.
fn side_by_side(report: &mut Report, host: &Host, vtd: &Vtd<Host>, group: &Group<Host>) -> Result<(), Stop> {
    // The address is real memory too, for the PASID that passes through.
    let home = host.memory(1).get();
    vtd_store(host, home, 0xdddd_0004);
    let (plain, _) = domain(host, vtd, group, (Stage::Second, home, 0xaaaa_0001))?;
    let (first, _) = domain(host, vtd, group, (Stage::First, home, 0xbbbb_0002))?;
    let (second, _) = domain(host, vtd, group, (Stage::Second, home, 0xcccc_0003))?;
    group.attach(Target::Domain(&plain))?;
    group.attach_pasid(CARD, pasid(1)?, Target::Domain(&first))?;
    group.attach_pasid(CARD, pasid(0x4_0000)?, Target::Domain(&second))?;
    group.attach_pasid(CARD, pasid(0xf_ffff)?, Target::Identity)?;
    let ways = [
        (None, "second-stage tables", 0xaaaa_0001),
        (Some(pasid(1)?), "first-stage tables", 0xbbbb_0002),
        (Some(pasid(0x4_0000)?), "second-stage tables", 0xcccc_0003),
        (Some(pasid(0xf_ffff)?), "pass-through", 0xdddd_0004),
    ];
    let (mut rows, mut right) = (Vec::new(), true);
    for (p, how, wanted) in ways {
        let found = host.read(p, home).map_err(|e| format!("blocked: {e:?}"))?;
        right &= found == wanted;
        let asks = p.map_or("no PASID".to_string(), |p| format!("PASID {:#x}", p.get()));
        rows.push([asks, format!("──  {home:#x}  ──>"), how.to_string(), format!("{found:#010x}")]);
    }
    table(["the card, with", "reads", "by way of", "and finds"], &rows);
    report.check(right, format_args!("one device, one address, four address spaces side by side"));
    group.detach_pasid(CARD, pasid(1)?)?;
    let (gone, kept) = (host.read(Some(pasid(1)?), home), host.read(Some(pasid(0x4_0000)?), home));
    report.check(
        gone.is_err() && kept == Ok(0xcccc_0003),
        format_args!("PASID 1 is detached and blocked, and no other notices"),
    );
    group.detach_pasid(CARD, pasid(0x4_0000)?)?;
    group.detach_pasid(CARD, pasid(0xf_ffff)?)?;
    group.attach(Target::Blocked)?;
    Ok(())
}

/// Replacements, and what a device meets that asks before and after every store.
fn between_stores(report: &mut Report, host: &Host, vtd: &Vtd<Host>, group: &Group<Host>) -> Result<(), Stop> {
    const AT: u64 = 0x1234_5000;
    let (old, from) = domain(host, vtd, group, (Stage::Second, AT, 1))?;
    for (stage, name, wanted) in [
        (Stage::Second, "second-stage tables replaced by others", Change::Seamless),
        (Stage::First, "second-stage tables replaced by first-stage tables", Change::WithGap),
    ] {
        let (new, to) = domain(host, vtd, group, (stage, AT, 2))?;
        group.attach(Target::Domain(&old))?;
        let probe = Probe::new(host.card(), Asks::Read, AT);
        // One asks what memory shows, the other through the unit's caches.
        host.machine().set_probes(vec![probe, probe.for_real()]);
        let change = group.attach(Target::Domain(&new))?;
        let probes = host.machine().probes().clone();
        host.machine().set_probes(Vec::new());
        let blocked = probes.sights().iter().map(|s| s.seen).find(|s| matches!(s, Seen::Blocked(_)));
        let states: Vec<Seen> =
            [Some(Seen::Memory(from)), blocked, Some(Seen::Memory(to))].into_iter().flatten().collect();
        let turned = [0, 1].iter().all(|n| probes.turns(*n, &states).is_ok());
        let (tries, gap) = (probes.sights().len(), blocked.is_some());
        let met = if gap { "the old page, then nothing, then the new page" } else { "the old page or the new one" };
        report.check(
            turned && tries >= 4 && change == wanted && gap == (wanted == Change::WithGap),
            format_args!("{name}: {tries} reads, before and after every store, met {met}, and never a third"),
        );
        group.attach(Target::Blocked)?;
    }
    Ok(())
}

/// Which pages a device has written to.
fn dirty(report: &mut Report, host: &Host, vtd: &Vtd<Host>, group: &Group<Host>) -> Result<(), Stop> {
    const AT: u64 = 0x2000_0000;
    for (stage, name) in [(Stage::Second, "second"), (Stage::First, "first")] {
        let mut spec = group.best_spec();
        (spec.stage, spec.levels, spec.width, spec.dirty) = (stage, 4, 39, true);
        let (domain, memory) = (vtd.domain::<Strict>(&spec)?, host.memory(8));
        let range = Range::sized(Iova::at(AT), 8 * PAGE).ok_or("no such range")?;
        domain.map(range.first, memory, 8 * PAGE, RW)?;
        group.attach(Target::Domain(&domain))?;
        let (mut before, mut after) = ([0u64], [0u64]);
        for page in [1, 3, 6] {
            host.write(None, AT + page * PAGE, page).map_err(|e| format!("blocked: {e:?}"))?;
        }
        let _ = host.read(None, AT);
        domain.read_and_clear_dirty(range, &mut before)?;
        host.write(None, AT + 3 * PAGE, 9).map_err(|e| format!("blocked: {e:?}"))?;
        domain.read_and_clear_dirty(range, &mut after)?;
        report.check(
            (before, after) == ([0b100_1010], [0b1000]),
            format_args!(
                "{name} stage: the card wrote to pages 1, 3 and 6, dirty are {:#09b}; then to page 3 again: {:#09b}",
                before[0], after[0]
            ),
        );
        group.attach(Target::Blocked)?;
    }
    Ok(())
}
