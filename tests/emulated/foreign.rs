//! A CPU's own tables as a domain's: the form of the stage that the story is about, checked for the unit and walked by it.

use vtd::{AddressSpace, CheckedTables, Group, Hpa, Refused, Stage, TableForm, Target};
use vtd_emu::{Blocked, Profile};

use crate::host::Host;
use crate::rig::{AT, Ask, Mode, Plan, Rig, dev, hpa, range};

crate::stories!(tables_of_a_cpu_serve_devices_and_follow_it, what_the_check_lets_pass_the_unit_finds_well_formed);

/// Four tables on the way to `AT`, from the top, each with the entry that matters.
struct Cpu {
    tables: [u64; 4],
    levels: [u32; 4],
}

/// Present, for all that there is: reads and writes, by users, or execution.
const ALL: u64 = 7;

impl Cpu {
    fn new(rig: &Rig) -> Self {
        let cpu = Cpu { tables: [(); 4].map(|()| rig.page()), levels: [4, 3, 2, 1] };
        (0..3).for_each(|i| cpu.set(rig, i, cpu.tables[i + 1] | ALL));
        cpu
    }

    fn place(&self, i: usize, address: u64) -> u64 {
        self.tables[i] + (address >> (3 + 9 * self.levels[i]) & 511) * 8
    }

    /// The CPU stores the entry of the `i`th table from the top.
    fn set(&self, rig: &Rig, i: usize, entry: u64) {
        rig.host.machine().store(self.place(i, AT), entry).expect("memory");
    }

    fn check(&self, rig: &Rig, group: &Group<Host>, form: TableForm) -> Result<CheckedTables, Refused> {
        let read = |table: Hpa, index: usize| {
            let at = table.get() + index as u64 * 8;
            vtd_emu::Memory::read64(rig.host.machine().memory(), at)
        };
        CheckedTables::check(&read, hpa(self.tables[0]), 4, &group.table_offers(form)?)
    }
}

fn form(mode: Mode) -> TableForm {
    if mode.stage == Stage::First { TableForm::X86_64 } else { TableForm::Ept }
}

/// The reason for which the unit cannot take such tables, if there is one.
fn hindrance(rig: &Rig, group: &Group<Host>, mode: Mode) -> Option<Refused> {
    let offers = rig.vtd.domain::<vtd::Strict>(&rig.spec(group)).unwrap().spec();
    let table = group.table_offers(form(mode)).unwrap();
    assert_eq!(table.coherent, offers.coherent);
    if !table.four_levels {
        Some(Refused::Levels(4))
    } else if !table.coherent {
        Some(Refused::NotSnooped)
    } else {
        None
    }
}

fn tables_of_a_cpu_serve_devices_and_follow_it(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, ear) = rig.claim(dev(3));
    let (cpu, one, two) = (Cpu::new(&rig), rig.page(), rig.page());
    cpu.set(&rig, 3, one | ALL);
    // The other form is for the other stage.
    let other = if mode.stage == Stage::First { Stage::Second } else { Stage::First };
    if !mode.stages(profile).contains(&other) {
        let form = if other == Stage::First { TableForm::X86_64 } else { TableForm::Ept };
        assert_eq!(cpu.check(&rig, &group, form), Err(Refused::Stage(form)));
    }
    if let Some(why) = hindrance(&rig, &group, mode) {
        assert_eq!(cpu.check(&rig, &group, form(mode)), Err(why));
        drop(group);
        return rig.end();
    }
    let checked = cpu.check(&rig, &group, form(mode)).unwrap();
    assert_eq!((checked.pages(), checked.unreachable(), checked.form()), (1, 0, form(mode)));
    let space: AddressSpace<Host> = rig.vtd.address_space(checked).unwrap();
    group.attach(Target::Shared(&space)).unwrap();
    let page = range(AT, AT + 0xfff);
    rig.reaches(dev(3), AT, one);
    rig.blocked(dev(3), AT + 0x1000, Ask::Read, 0x06, &ear);
    // The page moves, goes, and comes again, with another table.
    cpu.set(&rig, 3, two | ALL);
    space.invalidate(page, true).unwrap();
    rig.reaches(dev(3), AT, two);
    cpu.set(&rig, 2, 0);
    space.invalidate(page, false).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
    rig.blocked(dev(3), AT, Ask::Write, 0x05, &ear);
    cpu.set(&rig, 3, one | ALL);
    cpu.set(&rig, 2, cpu.tables[3] | ALL);
    if space.reports_maps() {
        space.invalidate(page, false).unwrap();
    }
    rig.reaches(dev(3), AT, one);
    let space = space.close().expect_err("a group is attached");
    assert!(checked.holds_for(&group.table_offers(form(mode)).unwrap()));
    group.attach(Target::Blocked).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x02, &ear);
    space.close().expect("nobody is attached");
    drop(group);
    rig.end();
}

/// Every bit of every entry: where the check has no objection the unit has none either.
fn what_the_check_lets_pass_the_unit_finds_well_formed(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (group, _) = rig.claim(dev(3));
    if hindrance(&rig, &group, mode).is_some() {
        drop(group);
        return rig.end();
    }
    // What a changed address of a table may lead to is no memory, and refused as that.
    let (cpu, page) = (Cpu::new(&rig), rig.page());
    let (mut passed, mut refused) = (0, 0);
    for i in 0..4 {
        for (bit, large) in (1..64).flat_map(|bit| [(bit, false), (bit, true)]) {
            let large = if large && i < 3 { 0x80 } else { 0 };
            let usual = if i == 3 { page | ALL } else { cpu.tables[i + 1] | ALL };
            let entry = if large != 0 { 1 << 33 | large | ALL } else { usual } ^ 1 << bit;
            cpu.set(&rig, 3, page | ALL);
            cpu.set(&rig, i, entry);
            match cpu.check(&rig, &group, form(mode)) {
                Err(_) => refused += 1,
                Ok(checked) => {
                    passed += 1;
                    let space = rig.vtd.address_space(checked).unwrap();
                    group.attach(Target::Shared(&space)).unwrap();
                    if let Err(Blocked::Fault(f)) = rig.read(dev(3), AT) {
                        // Reserved bits: legacy mode, first stage, second stage.
                        assert!(![0x0c, 0x72, 0x7a].contains(&f.reason.0), "{entry:#x} of table {i}: {f:?}");
                    }
                    group.attach(Target::Blocked).unwrap();
                    space.close().expect("nobody is attached");
                }
            }
            cpu.set(&rig, i, usual);
        }
    }
    assert!(passed > 40 && refused > 40, "{passed} {refused}");
    drop(group);
    rig.end();
}
