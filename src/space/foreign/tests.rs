//! Tables as a CPU has them, well made and not.

use super::*;
use crate::host::testing::heap;
use std::collections::HashMap;
use std::format;
use std::vec::Vec;
use x86_64::PhysAddr;
use x86_64::structures::paging::{PageTable, PageTableFlags as Flags, PageTableIndex, PhysFrame};

const RW: u64 = 3;
const USER: u64 = 7;
const ROOT: u64 = 0x1000;

/// What a usual unit offers.
fn offers(form: TableForm) -> Offers {
    Offers {
        form,
        four_levels: true,
        five_levels: true,
        sizes: PageSizes::all(),
        input: 48,
        output: 46,
        coherent: true,
        snoop_control: true,
    }
}

const EPT: TableForm = TableForm::Ept;
const CPU: TableForm = TableForm::X86_64;

/// Tables by address; all else is no memory.
#[derive(Default, Clone)]
struct Memory(HashMap<u64, Vec<u64>>);

impl Memory {
    /// An entry, in a table that is made if there is none.
    fn set(mut self, table: u64, index: usize, entry: u64) -> Self {
        self.0.entry(table).or_insert_with(|| std::vec![0; 512])[index] = entry;
        self
    }

    fn check(&self, levels: u8, offers: &Offers) -> Result<CheckedTables, Refused> {
        let read = |table: Hpa, index: usize| self.0.get(&table.get())?.get(index).copied();
        CheckedTables::check(&read, Hpa::new(ROOT).unwrap(), levels, offers)
    }
}

/// A way of four tables to address 0, and the entry at its end, of that level.
fn way(level: u8, entry: u64) -> Memory {
    let at = |level: u8| ROOT + (4 - u64::from(level)) * 0x1000;
    let tables = (level + 1..=4).rev().fold(Memory::default(), |m, l| m.set(at(l), 0, at(l - 1) | USER));
    let mut m = tables.set(at(level), 0, entry);
    // Whatever the entry leads to is empty.
    m.0.entry(0x10_0000).or_insert_with(|| std::vec![0; 512]);
    m
}

fn place(level: u8, entry: u64) -> Place {
    Place { address: Iova::at(0), level, entry }
}

fn counts(checked: Result<CheckedTables, Refused>) -> (u64, u64) {
    let c = checked.unwrap();
    (c.pages(), c.unreachable())
}

/// A process: its own pages, what the kernel has for itself above, all memory there in pages of 1 GiB, and all tables in it.
#[test]
fn tables_of_crate_x86_64_are_taken_with_the_kernel_above() {
    let user = Flags::PRESENT | Flags::WRITABLE | Flags::USER_ACCESSIBLE;
    let kernel = Flags::PRESENT | Flags::WRITABLE | Flags::GLOBAL | Flags::NO_EXECUTE;
    let mut tables: HashMap<u64, PageTable> = (1..=6).map(|n| (n * 0x1000, PageTable::new())).collect();
    let mut set = |table: u64, index: usize, to: u64, flags: Flags| {
        tables.get_mut(&table).unwrap()[index].set_addr(PhysAddr::new(to), flags);
    };
    set(0x1000, 0, 0x2000, user | Flags::ACCESSED);
    set(0x2000, 0, 0x3000, user);
    set(0x3000, 0, 0x4000, user);
    set(0x4000, 3, 0x7fff_f000, user | Flags::DIRTY | Flags::BIT_11 | Flags::BIT_58);
    set(0x4000, 4, 0x8000_0000, (user - Flags::WRITABLE) | Flags::NO_EXECUTE | Flags::NO_CACHE);
    set(0x4000, 5, 0x9000_0000, kernel);
    set(0x3000, 1, 0x20_0000, user | Flags::HUGE_PAGE);
    set(0x1000, 256, 0x5000, kernel - Flags::GLOBAL);
    (0..4).for_each(|i| set(0x5000, i, (i as u64) << 30, kernel | Flags::HUGE_PAGE));
    let read = PageTables(|frame: PhysFrame, index: PageTableIndex| {
        Some(tables.get(&frame.start_address().as_u64())?[index].clone())
    });
    let check = |offers: &Offers| CheckedTables::check(&read, Hpa::new(ROOT).unwrap(), 4, offers);
    let checked = check(&offers(CPU)).unwrap();
    assert_eq!((checked.pages(), checked.unreachable()), (3, 5));
    assert_eq!((checked.root().get(), checked.levels(), checked.form()), (ROOT, 4, CPU));
    // CAP.FS1GP.
    let small = Offers { sizes: PageSizes::SIZE_2M, ..offers(CPU) };
    let entry = 1 << 63 | 0x183;
    let first = Place { address: Iova::at(0xffff_8000_0000_0000), level: 3, entry };
    assert_eq!(check(&small), Err(Refused::PageSize(first)));
    assert_eq!(
        format!("{}", Refused::PageSize(first)),
        "entry 0x8000000000000183 of level 3 for address 0xffff800000000000: a page of a size that the unit has not"
    );
}

#[test]
fn tables_that_reach_themselves_are_refused() {
    let itself = |table, upper, lower| Err(Refused::ReachesItself { table: Hpa::new(table).unwrap(), upper, lower });
    for form in [CPU, EPT] {
        let o = offers(form);
        let good = way(1, 0x50_0000 | USER);
        assert_eq!(counts(good.check(4, &o)), (1, 0));
        // The recursive slot, for users and, in a CPU's form, for the kernel alone.
        assert_eq!(good.clone().set(ROOT, 511, ROOT | USER).check(4, &o), itself(ROOT, 4, 3));
        assert_eq!(good.clone().set(ROOT, 511, ROOT | RW).check(4, &o), itself(ROOT, 4, 3));
        // Lower tables: their own, each other's, and one level too far.
        assert_eq!(
            good.clone().set(ROOT + 0x2000, 9, (ROOT + 0x2000) | USER).check(4, &o),
            itself(ROOT + 0x2000, 2, 1)
        );
        assert_eq!(
            good.clone().set(ROOT + 0x2000, 9, (ROOT + 0x1000) | USER).check(4, &o),
            itself(ROOT + 0x1000, 3, 1)
        );
        let two = good.clone().set(ROOT + 0x1000, 1, 0x3_0000 | USER).set(0x3_0000, 0, (ROOT + 0x2000) | USER);
        assert_eq!(two.check(4, &o), itself(ROOT + 0x2000, 2, 1));
        // Two ways to one table of one level are none of that.
        let shared = good.clone().set(ROOT, 7, (ROOT + 0x1000) | USER);
        assert_eq!(counts(shared.check(4, &o)), (1, 0));
    }
}

#[test]
fn tables_that_devices_could_write_to_are_refused() {
    for form in [CPU, EPT] {
        let o = offers(form);
        for (level, entry, table) in
            [(1, ROOT + 0x2000, ROOT + 0x2000), (1, ROOT, ROOT), (2, 0x80, ROOT), (3, 0x80, ROOT)]
        {
            let entry = entry | USER;
            let refused = Refused::Exposed { page: place(level, entry), table: Hpa::new(table).unwrap() };
            let e = way(level, entry).check(4, &o).unwrap_err();
            match (e, refused) {
                // The lowest level is looked at first.
                (Refused::Exposed { page, .. }, Refused::Exposed { page: expected, .. }) => assert_eq!(page, expected),
                other => panic!("{other:?}"),
            }
            // Reading them is another matter.
            assert_eq!(counts(way(level, entry & !2).check(4, &o)), (1, 0));
        }
        // Not by what a table above does not let through.
        let m = way(1, ROOT | USER).set(ROOT, 0, (ROOT + 0x1000) | USER & !2);
        assert_eq!(counts(m.check(4, &o)), (1, 0));
        // Not next to them.
        assert_eq!(counts(way(2, 0x20_0000 | 0x80 | USER).check(4, &o)), (1, 0));
    }
    // For the kernel alone.
    assert_eq!(counts(way(1, ROOT | RW).check(4, &offers(CPU))), (0, 1));
}

/// Every bit of a present entry, at every level, as a table and as a page: taken, or refused with its reason.
#[test]
fn every_reserved_bit_is_refused_and_no_other() {
    for form in [CPU, EPT] {
        for (level, leaf) in [(1, true), (2, true), (3, true), (2, false), (3, false), (4, false)] {
            for bit in 3..64u32 {
                let base =
                    if leaf && level > 1 { 0x80 } else { 0 } | 0x10_0000 << if leaf && level > 1 { 12 } else { 0 };
                let entry = base | 1 << bit | USER;
                if bit == 7 && base & 0x80 != 0 {
                    continue;
                }
                let is_leaf = level == 1 || entry & 0x80 != 0;
                let offset = 3 + 9 * u32::from(level);
                let here = place(level, entry);
                let expected = match (form, bit) {
                    (_, 46..52) => Some(Refused::AddressWidth(here)),
                    (_, 7) if level == 4 => Some(Refused::PageSize(here)),
                    (_, 7) if level > 1 => Some(Refused::Reserved(here)),
                    (CPU, 12) if is_leaf => None,
                    (_, 12..) if is_leaf && bit < offset => Some(Refused::Reserved(here)),
                    (EPT, 62) => Some(Refused::Reserved(here)),
                    (EPT, 11) if !is_leaf => Some(Refused::SnoopControl(here)),
                    _ => None,
                };
                // A bit of a table's address leads elsewhere.
                let mut m = way(level, entry);
                m.0.entry(entry & 0x000f_ffff_ffff_f000).or_insert_with(|| std::vec![0; 512]);
                let got = m.check(4, &offers(form)).err();
                assert_eq!(got, expected, "{form:?}, bit {bit} of {entry:#x}, level {level}");
            }
        }
    }
}

#[test]
fn what_a_unit_lacks_is_named() {
    let all = way(1, 0x50_0000 | USER);
    for form in [CPU, EPT] {
        let o = offers(form);
        let check = |m: &Memory, o: Offers| m.check(4, &o).err();
        assert_eq!(check(&all, o), None);
        assert_eq!(check(&all, Offers { four_levels: false, ..o }), Some(Refused::Levels(4)));
        assert_eq!(all.check(5, &Offers { five_levels: false, ..o }).err(), Some(Refused::Levels(5)));
        assert_eq!(all.check(3, &o).err(), Some(Refused::Levels(3)));
        assert_eq!(check(&all, Offers { coherent: false, ..o }), Some(Refused::NotSnooped));
        let (mega, giga) = (way(2, 0x60_0080 | USER), way(3, 0x4000_0080 | USER));
        for (m, level, entry, size) in
            [(&mega, 2, 0x60_0087, PageSizes::SIZE_2M), (&giga, 3, 0x4000_0087, PageSizes::SIZE_1G)]
        {
            assert_eq!(check(m, o), None);
            assert_eq!(check(m, Offers { sizes: !size, ..o }), Some(Refused::PageSize(place(level, entry))));
        }
        let narrow = Offers { output: 22, ..o };
        assert_eq!(check(&all, narrow), Some(Refused::AddressWidth(place(1, 0x50_0007))));
        // The root, and what is no memory.
        let at = |root: u64, o: &Offers| CheckedTables::check(&|_, _| Some(0), Hpa::new(root).unwrap(), 4, o).err();
        for root in [ROOT + 8, 1 << 46] {
            assert_eq!(at(root, &o), Some(Refused::Root(Hpa::new(root).unwrap())));
        }
        assert_eq!(at(ROOT, &o), None);
        let lost = Refused::Unreadable { table: Hpa::new(0x77_7000).unwrap(), level: 2 };
        assert_eq!(check(&way(3, 0x77_7000 | USER), o), Some(lost));
    }
    let snoop = 0x50_0800 | RW;
    assert_eq!(way(1, snoop).check(4, &offers(EPT)).err(), None);
    let without = Offers { snoop_control: false, ..offers(EPT) };
    assert_eq!(way(1, snoop).check(4, &without).err(), Some(Refused::SnoopControl(place(1, snoop))));
    // The same bit is the owner's in a CPU's form.
    assert_eq!(way(1, snoop).check(4, &Offers { form: CPU, ..without }).err(), None);
}

#[test]
fn ept_rights_that_no_device_has_are_counted() {
    let o = offers(EPT);
    // Execution alone: as a page, and on the way, where nothing further is looked at.
    assert_eq!(counts(way(1, 0x50_0004).check(4, &o)), (0, 1));
    assert_eq!(counts(way(3, 0x99_9004).check(4, &o)), (0, 1));
    // Writes alone are a right; none that is left is none.
    assert_eq!(counts(way(1, 0x50_0002).check(4, &o)), (1, 0));
    let apart = way(1, 0x50_0002).set(ROOT, 0, (ROOT + 0x1000) | 1);
    assert_eq!(counts(apart.check(4, &o)), (0, 1));
    // Above CAP.MGAW a second stage takes no address.
    let high = way(1, 0x50_0007).set(ROOT, 1, 0x2_0000 | 7).set(0x2_0000, 0, 0x4000_0087);
    assert_eq!(counts(high.check(4, &o)), (2, 0));
    assert_eq!(counts(high.check(4, &Offers { input: 39, ..o })), (1, 1));
    // Memory types, IPAT, accessed and dirty, sub-page and #VE bits are nothing to the unit.
    assert_eq!(counts(way(1, 0x50_0007 | 0x378 | 1 << 60 | 1 << 61 | 1 << 63).check(4, &o)), (1, 0));
    // Interrupt addresses as output.
    for form in [CPU, EPT] {
        assert_eq!(counts(way(1, 0xfee0_0000 | USER).check(4, &offers(form))), (0, 1));
        assert_eq!(counts(way(2, 0xfee0_0080 | USER).check(4, &offers(form))), (1, 0), "half of it is memory");
    }
}

#[test]
fn five_levels_have_their_own_sign() {
    let m = way(1, 0x50_0000 | USER).set(0x2_0000, 256, ROOT | USER).set(0x2_0000, 511, 0x3_0000 | USER | 1 << 50);
    let read = |table: Hpa, index: usize| m.0.get(&table.get())?.get(index).copied();
    let e = CheckedTables::check(&read, Hpa::new(0x2_0000).unwrap(), 5, &offers(CPU)).unwrap_err();
    let entry = 0x3_0007 | 1 << 50;
    assert_eq!(e, Refused::AddressWidth(Place { address: Iova::at(u64::MAX << 48), level: 5, entry }));
}

/// However tables are linked, each is read twice at most; and memory may end at any moment.
#[test]
fn the_work_is_bounded_by_the_tables() {
    let mut m = Memory::default();
    for level in 1..=4 {
        for i in 0..512 {
            m = m.set(level * 0x1000, i, if level < 4 { (level + 1) * 0x1000 } else { 0x50_0000 } | USER);
        }
    }
    let reads = std::sync::atomic::AtomicU64::new(0);
    let read = |table: Hpa, index: usize| {
        reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        m.0.get(&table.get())?.get(index).copied()
    };
    let check = || CheckedTables::check(&read, Hpa::new(ROOT).unwrap(), 4, &offers(CPU));
    assert_eq!(counts(check()), (512, 0));
    assert!(reads.into_inner() <= 2 * 4 * 512);
    let mut n = 0;
    while heap::ending(n, || m.check(4, &offers(CPU))).map_err(|e| assert_eq!(e, Refused::OutOfMemory)).is_err() {
        n += 1;
    }
    assert!(n > 4);
    // Every entry another table, for ever: an end is made of it.
    let endless = |table: Hpa, index: usize| Some(((table.get() * 512 + (index as u64) * 0x1000) % (1 << 45)) | USER);
    let root = Hpa::new(0x3000).unwrap();
    assert_eq!(CheckedTables::check(&endless, root, 5, &offers(CPU)), Err(Refused::TooMany));
}

#[test]
fn a_verdict_holds_for_units_that_offer_no_less() {
    for form in [CPU, EPT] {
        let o = Offers { sizes: PageSizes::SIZE_2M, five_levels: false, ..offers(form) };
        let checked = way(1, 0x50_0000 | USER).check(4, &o).unwrap();
        assert!(checked.holds_for(&o) && checked.holds_for(&offers(form)));
        let other = if form == CPU { EPT } else { CPU };
        for less in [
            Offers { form: other, ..o },
            Offers { four_levels: false, ..o },
            Offers { sizes: PageSizes::SIZE_1G, ..o },
            Offers { input: 47, ..o },
            Offers { output: 45, ..o },
            Offers { coherent: false, ..o },
            Offers { snoop_control: false, ..o },
        ] {
            assert!(!checked.holds_for(&less), "{less:?}");
            if let Some(both) = o.and(less) {
                assert!(
                    way(1, 0x50_0000 | USER).check(4, &both).map_or(true, |c| c.holds_for(&o) && c.holds_for(&less))
                );
            } else {
                assert_ne!(o.form, less.form);
            }
        }
    }
}

#[test]
fn offers_are_read_from_capabilities() {
    let cap = Cap(6 | 0b100 << 8 | 47 << 16 | 1 << 34 | 1 << 56 | 1 << 60);
    let ecap = |bits: &[u32]| Ecap(bits.iter().fold(0, |e, b| e | 1 << b));
    let scalable = ecap(&[1, 43, 46, 47, 48]);
    let cpu = Offers::new(CPU, cap, scalable, true, 40).unwrap();
    assert_eq!((cpu.four_levels, cpu.five_levels, cpu.sizes), (true, true, PageSizes::all()));
    assert_eq!((cpu.input, cpu.output, cpu.coherent, cpu.snoop_control), (48, 40, true, false));
    let ept = Offers::new(EPT, cap, scalable, true, 40).unwrap();
    assert_eq!((ept.four_levels, ept.five_levels, ept.sizes), (true, false, PageSizes::SIZE_2M));
    // Legacy mode has second-stage tables always, first-stage tables never, and snoops by ECAP.C.
    let legacy = Offers::new(EPT, cap, ecap(&[0, 7]), false, 40).unwrap();
    assert!(legacy.coherent && legacy.snoop_control);
    assert!(!Offers::new(EPT, cap, scalable, false, 40).unwrap().coherent);
    assert_eq!(Offers::new(CPU, cap, scalable, false, 40), Err(Refused::Stage(CPU)));
    assert_eq!(Offers::new(CPU, cap, ecap(&[43, 46]), true, 40), Err(Refused::Stage(CPU)));
    assert_eq!(Offers::new(EPT, cap, ecap(&[43, 47]), true, 40), Err(Refused::Stage(EPT)));
}

/// What passes the check holds for every address: no walk meets a reserved bit or leaves the tables, and none ends in a
/// table that could be written to.
#[test]
fn random_tables_that_pass_keep_what_the_check_promises() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move |n: u64| {
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20) % n
    };
    let (mut passed, mut pages) = (0, 0);
    for round in 0..4000 {
        let form = if round % 2 == 0 { CPU } else { EPT };
        let o = Offers { sizes: PageSizes::from_bits_truncate(random(4) as u8), ..offers(form) };
        let mut m = Memory::default();
        // One table of level 4 and two of each level below, which mostly lead where they should.
        for table in 1..=7u64 {
            m = m.set(table * 0x1000, 0, 0);
            for index in 0..4 {
                let page = table > 5 || random(4) == 0;
                let to = match (page, random(16)) {
                    (_, 0) => (1 + random(9)) * 0x1000,
                    (true, _) => random(1 << 14) << 30,
                    (false, _) => (table / 2 * 2 + 2 + random(2)) * 0x1000,
                };
                let odd = if random(32) == 0 { 1 << random(64) } else { 0 };
                let rights = [7, 7, 5, 3, 2, 0, 0, 0][random(8) as usize];
                let large = if page && table > 1 && table < 6 { 0x80 } else { 0 };
                m = m.set(table * 0x1000, index, to | rights | large | odd);
            }
        }
        if m.check(4, &o).is_err() {
            continue;
        }
        passed += 1;
        // Four slots of each of four levels.
        for way in 0..256u64 {
            let (mut table, mut rights) = (ROOT, 3);
            for level in (1..=4u32).rev() {
                let entry = m.0.get(&table).expect("a table")[(way >> (2 * (level - 1)) & 3) as usize];
                let present = if form == CPU { entry & 1 != 0 } else { entry & 3 != 0 };
                if !present {
                    break;
                }
                rights &= match form {
                    CPU if entry & 4 == 0 => 0,
                    CPU => entry & 2 | 1,
                    EPT => entry,
                };
                let leaf = level == 1 || entry & 0x80 != 0;
                assert!(entry >> 46 & 0x3f == 0 && (form == CPU || entry >> 62 & 1 == 0), "{entry:#x}");
                assert!(form == CPU || leaf || entry & 0x800 == 0, "{entry:#x}");
                if leaf {
                    let size = 0x1000u64 << (9 * (level - 1));
                    assert!(level < 4 && (level == 1 || o.sizes.bits() >> (level - 2) & 1 != 0), "{entry:#x}");
                    let low = entry & 0x000f_ffff_ffff_f000 & (size - 1);
                    assert!(low == 0 || form == CPU && low == 0x1000, "{entry:#x}");
                    let first = entry & 0x000f_ffff_ffff_f000 & !(size - 1);
                    // Tables that no walk reaches are memory like any other.
                    let exposed = rights & 2 != 0 && (first..first + size).contains(&ROOT);
                    assert!(!exposed);
                    pages += 1;
                    break;
                }
                table = entry & 0x000f_ffff_ffff_f000;
                assert_ne!(table, ROOT);
            }
        }
    }
    assert!((300..3000).contains(&passed) && pages > 3000, "{passed} {pages}");
}
