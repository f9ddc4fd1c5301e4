//! A CPU's own page tables as an address space of devices: refused with the reason, or walked, and flushed when their owner says.

use vtd::{Hpa, NotShared, Range, Refused, TableForm, Target};
use vtd_emu::Profile;

use crate::rig::{AT, Ask, Mode, Plan, Rig, TAGGING, dev};

crate::stories!(
    devices_walk_a_cpus_tables_as_long_as_these_say_so,
    tables_that_do_not_fit_are_refused_with_the_reason,
    nothing_is_mapped_into_tables_of_others,
);

const READ_WRITE: u64 = 3;
const USER: u64 = 4;

/// Four levels of tables that lead `AT` to `page`, in the form that the unit takes here.
struct Tables {
    form: TableForm,
    root: u64,
    leaf: u64,
}

impl Tables {
    fn new(rig: &Rig, form: TableForm, page: u64) -> Tables {
        let [root, upper, middle, last] = [(); 4].map(|()| rig.page());
        let bits = if form == TableForm::X86_64 { READ_WRITE | USER } else { READ_WRITE };
        let index = |level: u64| (AT >> (3 + 9 * level) & 511) * 8;
        for (table, level, to) in [(root, 4, upper), (upper, 3, middle), (middle, 2, last), (last, 1, page)] {
            rig.host.machine().store(table + index(level), to | bits).expect("memory");
        }
        Tables { form, root, leaf: last + index(1) }
    }

    fn share(&self, rig: &Rig, group: &vtd::Group<crate::host::Host>) -> Result<Shared, NotShared> {
        let host = rig.host.clone();
        let read = move |table: Hpa, index: usize| {
            vtd_emu::Memory::read64(host.machine().memory(), table.get() + index as u64 * 8)
        };
        group.share_tables(self.form, Hpa::new(self.root).unwrap(), 4, &read)
    }
}

type Shared = vtd::AddressSpace<crate::host::Host>;

/// The form that a unit can share in this mode; `None` where its walks are not snooped, or it has not four levels.
fn form(rig: &Rig, mode: Mode) -> (TableForm, bool) {
    let profile = &rig.profiles[0];
    let form = if rig.first_stage() { TableForm::X86_64 } else { TableForm::Ept };
    let snoops = if mode.scalable(profile) { profile.smpwcs() } else { profile.coherent() };
    let levels = form == TableForm::X86_64 || profile.sagaw() & 4 != 0;
    (form, snoops && levels)
}

fn devices_walk_a_cpus_tables_as_long_as_these_say_so(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (form, able) = form(&rig, mode);
    if !able {
        return;
    }
    let (group, ear) = rig.claim(dev(3));
    let page = rig.page();
    let tables = Tables::new(&rig, form, page);
    let shared = tables.share(&rig, &group).expect("they fit");
    assert_eq!((shared.tables().pages(), shared.tables().unreachable()), (1, 0));
    let range = Range::new(AT, AT + 0xfff).unwrap();
    group.attach(Target::Shared(&shared)).unwrap();
    rig.reaches(dev(3), AT, page);
    let tags = mode.tags(profile) && TAGGING.contains(&dev(3));
    if tags {
        group.attach_pasid(dev(3), crate::pasids::pasid(7), Target::Shared(&shared)).unwrap();
        rig.reaches((dev(3), 7), AT, page);
    }
    // The owner takes the page away, and tells.
    rig.host.machine().store(tables.leaf, 0).expect("memory");
    shared.invalidate(range, true).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
    if tags {
        rig.blocked((dev(3), 7), AT, Ask::Write, 0x05, &ear);
    }
    // And gives another.
    let other = rig.page();
    let bits = if form == TableForm::X86_64 { READ_WRITE | USER } else { READ_WRITE };
    rig.host.machine().store(tables.leaf, other | bits).expect("memory");
    if shared.tell_of_new_entries() {
        shared.invalidate(range, true).unwrap();
    }
    rig.reaches(dev(3), AT, other);
    group.release().map_err(|(_, e)| e).unwrap();
    drop(shared);
    rig.end();
}

fn tables_that_do_not_fit_are_refused_with_the_reason(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (form, able) = form(&rig, mode);
    let (group, _) = rig.claim(dev(3));
    let page = rig.page();
    let tables = Tables::new(&rig, form, page);
    if !able {
        let refused = tables.share(&rig, &group).err();
        assert!(matches!(refused, Some(NotShared::Refused(Refused::NotSnooped | Refused::Levels(4)))), "{refused:?}");
    } else {
        // The last table maps itself.
        rig.host.machine().store(tables.leaf + 8, tables.leaf & !0xfff | READ_WRITE | USER).expect("memory");
        let refused = tables.share(&rig, &group).err();
        assert!(matches!(refused, Some(NotShared::Refused(Refused::Exposed { .. }))), "{refused:?}");
    }
    group.release().map_err(|(_, e)| e).unwrap();
    rig.end();
}

fn nothing_is_mapped_into_tables_of_others(profile: &Profile, mode: Mode) {
    let plan = Plan::new(profile, mode).reserve(0x20_0000, 0x20_0fff, dev(3));
    let rig = plan.up();
    let (form, able) = form(&rig, mode);
    if !able {
        return;
    }
    let group = rig.vtd.claim(rig.vtd.group_of(dev(3)).unwrap(), vtd::Owner::HOST).unwrap();
    let page = rig.page();
    let tables = Tables::new(&rig, form, page);
    let shared = tables.share(&rig, &group).expect("they fit");
    let e = group.attach(Target::Shared(&shared)).unwrap_err();
    assert_eq!(e.kind, vtd::ErrorKind::Invalid(vtd::Field::ReservedRegion));
    assert_eq!(rig.refused(dev(3), AT, Ask::Read), 0x02);
    group.release().map_err(|(_, e)| e).unwrap();
    drop(shared);
    rig.end();
}
