//! Nested translation.

use super::*;
use crate::formats::{FirstStageEntry as First, SecondStageEntry as Second};
use crate::oracle::Rule;

/// How far guest addresses are from the host's.
const GUEST: u64 = 0x10_0000_0000;

/// A device with nested tables of four levels each. First-stage tables are at guest addresses.
struct Nest {
    scene: Scene,
    first: u64,
    second: u64,
}

impl Nest {
    fn with(change: impl Fn(PasidEntry) -> PasidEntry) -> Self {
        let mut scene = Scene::scalable();
        let (first, second) = (scene.page(), scene.page());
        let entry = PasidEntry::nested(first + GUEST, false, second, 2, 5).with(PasidEntry::PWSNP, 1);
        scene.pasid(SOURCE, 0, change(entry));
        scene.pasid(SOURCE, 3, change(entry));
        let mut nest = Nest { scene, first, second };
        nest.back(first, Second::new(0));
        nest
    }
    fn new() -> Self {
        Nest::with(|entry| entry)
    }
    /// Lets the guest have a host page; where the leaf is.
    fn back(&mut self, host: u64, like: Second) -> u64 {
        let entry = Second([like.0[0] & !Second::ADDRESS | host]);
        self.scene.map_second(self.second, 4, host + GUEST, 12, entry)
    }
    /// The first-stage entry that serves 2^`bits` addresses from `address` on, making and backing the tables above it.
    fn first_at(&mut self, address: u64, bits: u32) -> u64 {
        let (mut table, mut now) = (self.first, 39);
        while now > bits {
            let at = table + (address >> now & 0x1ff) * 8;
            if self.scene.get(at) & 1 == 0 {
                let next = self.scene.page();
                self.back(next, Second::new(0));
                self.scene.put(at, &First::new(next + GUEST).0);
            }
            table = First([self.scene.get(at)]).address() - GUEST;
            now -= 9;
        }
        table + (address >> bits & 0x1ff) * 8
    }
    fn map(&mut self, address: u64, bits: u32, entry: First) -> u64 {
        let at = self.first_at(address, bits);
        self.scene.put(at, &entry.0);
        at
    }
    /// A page of the guest at 0x7000, and the host's page 0x9000 for it. Where both leaves are.
    fn page(&mut self, first: First, second: Second) -> (u64, u64) {
        let first = self.map(0x7000, 12, First([first.0[0] & !First::ADDRESS | (0x9000 + GUEST)]));
        (first, self.back(0x9000, second))
    }
    /// The second-stage leaf of the first-stage table that holds the entry of 2^`bits` addresses.
    fn table_leaf(&mut self, bits: u32) -> u64 {
        let table = self.first_at(0x7000, bits) & !0xfff;
        self.scene.second_at(self.second, 4, table + GUEST, 12)
    }
}

/// All of it, for users to read and write.
fn mapped() -> Nest {
    let mut nest = Nest::new();
    nest.page(First::new(0), Second::new(0));
    nest
}
const A: u64 = 1 << 8;
const D: u64 = 1 << 9;

#[test]
fn both_stages_translate() {
    let mut nest = mapped();
    let expected = Passed { address: 0x9123, page: 0x1000, snoop: true, memory_type: 0 };
    assert_eq!(nest.scene.passed(write(0x7123)), expected);
    assert_eq!(nest.scene.passed(read(0x7123).with_pasid(3)), expected);
}
#[test]
fn the_page_is_the_smaller_of_both() {
    for (first, second) in [(12, 12), (12, 21), (21, 12), (21, 21), (21, 30), (30, 21), (30, 30)] {
        let mut nest = Nest::new();
        let large = |bits| u64::from(bits > 12);
        let entry = First::new(0x80_4000_0000).with(First::PS, large(first));
        nest.map(0x4000_0000, first, entry);
        let at = 0x80_4000_0000;
        let entry = Second::new(0xc000_0000).with(Second::PS, large(second));
        nest.scene.map_second(nest.second, 4, at, second, entry);
        let passed = nest.scene.passed(write(0x4000_0678));
        assert_eq!((passed.address, passed.page), (0xc000_0678, 1 << first.min(second)), "{first} {second}");
    }
}
#[test]
fn a_small_page_within_a_large_one_is_found() {
    let mut nest = Nest::new();
    nest.map(0x4000_0000, 21, First::large(0x80_4000_0000));
    nest.scene.map_second(nest.second, 4, 0x80_4001_5000, 12, Second::new(0x9000));
    let translated = nest.scene.translated(read(0x4001_5678).of(ATS));
    assert_eq!((translated.address, translated.page), (0x9000, 0x1000));
    assert_eq!(nest.scene.blocked(read(0x4001_6000)), Reason::SSS_2);
}
#[test]
fn an_address_in_a_first_stage_entry_is_too_wide() {
    for bits in [39, 30, 21, 12] {
        let mut nest = mapped();
        let at = nest.first_at(0x7000, bits);
        nest.scene.put(at, &First::new(1 << 48).0);
        assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SFS_5, "{bits}");
        assert_eq!(nest.scene.nothing(read(0x7000).of(ATS)), Reason::SFS_5, "{bits}");
    }
}
#[test]
fn the_top_table_may_not_be_read() {
    let mut nest = mapped();
    let leaf = nest.table_leaf(39);
    let entry = Second([nest.scene.get(leaf)]).rights(false, true);
    nest.scene.put(leaf, &entry.0);
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SFS_6);
    assert_eq!(nest.scene.nothing(read(0x7000).of(ATS)), Reason::SFS_6);
}
#[test]
fn another_table_may_not_be_read() {
    for bits in [30, 21, 12] {
        let mut nest = mapped();
        let leaf = nest.table_leaf(bits);
        let entry = Second([nest.scene.get(leaf)]).rights(false, true);
        nest.scene.put(leaf, &entry.0);
        assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SFS_7, "{bits}");
        assert_eq!(nest.scene.nothing(read(0x7000).of(ATS)), Reason::SFS_7, "{bits}");
    }
}
#[test]
fn a_table_may_not_be_written_to_mark_its_entry() {
    for bits in [39, 30, 21, 12] {
        let mut nest = mapped();
        let leaf = nest.table_leaf(bits);
        let entry = Second([nest.scene.get(leaf)]).rights(true, false);
        nest.scene.put(leaf, &entry.0);
        assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SFS_8, "{bits}");
        assert_eq!(nest.scene.nothing(read(0x7000).of(ATS)), Reason::SFS_8, "{bits}");
        // An entry that is marked already needs no write.
        let at = nest.first_at(0x7000, bits);
        let entry = First([nest.scene.get(at)]).with(First::A, 1).with(First::D, 1);
        nest.scene.put(at, &entry.0);
        assert_eq!(nest.scene.passed(read(0x7000)).address, 0x9000, "{bits}");
        assert_eq!(nest.scene.passed(write(0x7000)).address, 0x9000, "{bits}");
    }
}
#[test]
fn with_ssade_tables_must_be_writable_even_to_be_read() {
    let mut nest = Nest::with(|entry| entry.with(PasidEntry::SSADE, 1));
    nest.page(First::new(0).with(First::A, 1), Second::new(0));
    for bits in [39, 30, 21] {
        let at = nest.first_at(0x7000, bits);
        let entry = First([nest.scene.get(at)]).with(First::A, 1);
        nest.scene.put(at, &entry.0);
    }
    let leaf = nest.table_leaf(12);
    let entry = Second([nest.scene.get(leaf)]).rights(true, false);
    nest.scene.put(leaf, &entry.0);
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SFS_8);
}
#[test]
fn faults_of_the_second_stage_on_the_way_to_a_table_keep_their_names() {
    type Break = (fn(u64) -> u64, Reason);
    let breaks: [Break; 3] =
        [(|_| 0, Reason::SSS_2), (|entry| entry | 1 << 62, Reason::SSS_3), (|entry| entry, Reason::SSS_1)];
    for (change, reason) in breaks {
        let mut nest = mapped();
        let table = nest.first_at(0x7000, 21) & !0xfff;
        let at = nest.scene.second_at(nest.second, 4, table + GUEST, 12);
        match reason {
            Reason::SSS_1 => {
                let above = nest.scene.second_at(nest.second, 4, table + GUEST, 21);
                nest.scene.put(above, &Second::new(NOWHERE).0);
            }
            _ => {
                let entry = nest.scene.get(at);
                nest.scene.put(at, &[change(entry)]);
            }
        }
        assert_eq!(nest.scene.blocked(read(0x7000)), reason);
    }
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::nested(0x8000, false, NOWHERE, 2, 5));
    assert_eq!(scene.blocked(read(0x7000)), Reason::SSS_4);
}
#[test]
fn a_table_that_the_second_stage_leads_out_of_memory_cannot_be_read() {
    let mut nest = mapped();
    let leaf = nest.table_leaf(39);
    nest.scene.put(leaf, &Second::new(NOWHERE).0);
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SFS_4);
    let mut nest = mapped();
    let leaf = nest.table_leaf(12);
    nest.scene.put(leaf, &Second::new(NOWHERE).0);
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SFS_1);
}
#[test]
fn the_second_stage_forbids_reads_or_writes_of_the_page() {
    let mut nest = Nest::new();
    nest.page(First::new(0), Second::new(0).rights(true, false));
    assert_eq!(nest.scene.passed(read(0x7000)).address, 0x9000);
    assert_eq!(nest.scene.blocked(write(0x7000)), Reason::SGN_6);
    let mut nest = Nest::new();
    nest.page(First::new(0), Second::new(0).rights(false, true));
    assert_eq!(nest.scene.passed(write(0x7000)).address, 0x9000);
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SGN_7);
    assert_eq!(nest.scene.passed(flush(0x7000)).address, 0x9000);
    let mut nest = Nest::new();
    nest.page(First::new(0), Second::new(0).rights(false, false));
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SSS_2);
}
#[test]
fn the_first_stage_forbids_before_the_second_is_asked() {
    let mut nest = Nest::new();
    nest.page(First::new(0).with(First::US, 0), Second::default());
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SGN_2);
    let mut nest = Nest::new();
    nest.page(First::new(0).with(First::RW, 0), Second::default());
    assert_eq!(nest.scene.blocked(write(0x7000)), Reason::SGN_6);
    assert_eq!(nest.scene.blocked(read(0x7000)), Reason::SSS_2);
}
#[test]
fn supervisors_are_bound_by_the_second_stage() {
    let mut nest = Nest::with(|entry| entry.with(PasidEntry::SRE, 1));
    let (_, leaf) = nest.page(First::new(0).with(First::RW, 0).with(First::US, 0), Second::new(0));
    let privileged = Request { privileged: true, ..write(0x7000) }.with_pasid(3);
    assert_eq!(nest.scene.passed(privileged).address, 0x9000);
    nest.scene.put(leaf, &Second::new(0x9000).rights(true, false).0);
    nest.scene.unit.caches.invalidate(&crate::Invalidation::Iotlb, Mode::Scalable);
    assert_eq!(nest.scene.blocked(privileged), Reason::SGN_6);
}
#[test]
fn both_stages_are_marked() {
    let mut nest = Nest::with(|entry| entry.with(PasidEntry::SSADE, 1));
    let (first, second) = nest.page(First::new(0), Second::new(0));
    nest.scene.passed(read(0x7000));
    assert_eq!((nest.scene.get(first) >> 5 & 3, nest.scene.get(second) & (A | D)), (1, A));
    // Tables are written when their entries are marked.
    let table = nest.table_leaf(12);
    assert_eq!(nest.scene.get(table) & (A | D), A | D);
    nest.scene.passed(write(0x7000));
    assert_eq!((nest.scene.get(first) >> 5 & 3, nest.scene.get(second) & (A | D)), (3, A | D));
}
#[test]
fn the_first_stage_is_marked_without_ssade() {
    let mut nest = mapped();
    let first = nest.first_at(0x7000, 12);
    // The second time begins at a cached table.
    nest.scene.passed(read(0x7000));
    nest.scene.passed(write(0x7000));
    assert_eq!(nest.scene.get(first) >> 5 & 3, 3);
    let leaf = nest.table_leaf(12);
    assert_eq!(nest.scene.get(leaf) & (A | D), 0);
}
#[test]
fn a_write_through_a_cached_table_finds_out_whether_it_can_be_marked() {
    let mut nest = mapped();
    let first = nest.first_at(0x7000, 12);
    nest.scene.passed(read(0x7000));
    let leaf = nest.table_leaf(12);
    let entry = Second([nest.scene.get(leaf)]).rights(true, false);
    nest.scene.put(leaf, &entry.0);
    nest.scene.unit.caches.invalidate(&crate::Invalidation::IotlbOfDomain(5), Mode::Scalable);
    assert_eq!(nest.scene.blocked(write(0x7000)), Reason::SFS_8);
    assert_eq!(nest.scene.get(first) >> 6 & 1, 0);
}
#[test]
fn writes_that_the_second_stage_forbids_do_not_mark_the_first() {
    let mut nest = Nest::new();
    let (first, _) = nest.page(First::new(0), Second::new(0).rights(true, false));
    assert_eq!(nest.scene.blocked(write(0x7000)), Reason::SGN_6);
    assert_eq!(nest.scene.get(first) >> 6 & 1, 0);
}
#[test]
fn cached_tables_stand_although_the_second_stage_has_changed() {
    let mut nest = mapped();
    nest.scene.passed(read(0x7000));
    // Another page behind the lowest first-stage table; the neighbour is found through the old one still.
    let other = nest.scene.page();
    let leaf = nest.table_leaf(12);
    nest.map(0x8000, 12, First::new(0x9000 + GUEST).with(First::A, 1));
    nest.scene.put(leaf, &Second::new(other).0);
    assert_eq!(nest.scene.passed(read(0x8000)).address, 0x9000);
    nest.scene.unit.caches.invalidate(&crate::Invalidation::IotlbOfDomain(5), Mode::Scalable);
    assert_eq!(nest.scene.blocked(read(0x8000)), Reason::SFS_2);
}
#[test]
fn the_memory_type_combines_both_stages() {
    // PAT entry 0 is WP here: base WC gives UC, WB gives WP; IPAT leaves EMT.
    for (emte, emt, ipat, expected) in [(0, 1, 0, 5), (1, 1, 0, 0), (1, 6, 0, 5), (1, 1, 1, 1), (1, 6, 1, 6)] {
        let mut nest = Nest::with(|entry| entry.with(PasidEntry::EMTE, emte).with(PasidEntry::PAT, 5));
        nest.scene.write_back();
        nest.page(First::new(0), Second::new(0).with(Second::EMT, emt).with(Second::IPAT, ipat));
        assert_eq!(nest.scene.passed(read(0x7000)).memory_type, expected);
    }
}
#[test]
fn snp_of_the_page_makes_every_access_snoop() {
    let mut nest = Nest::new();
    nest.page(First::new(0), Second::new(0).with(Second::SNP, 1));
    assert!(nest.scene.passed(Request { no_snoop: true, ..read(0x7000) }).snoop);
    assert!(nest.scene.translated(read(0x7000).of(ATS)).snoop);
    let mut nest = mapped();
    assert!(!nest.scene.passed(Request { no_snoop: true, ..read(0x7000) }).snoop);
}
#[test]
fn the_output_of_both_is_in_the_interrupt_range() {
    let mut nest = Nest::new();
    nest.map(0x7000, 12, First::new(0x9000 + GUEST));
    nest.scene.map_second(nest.second, 4, 0x9000 + GUEST, 12, Second::new(0xfee0_0000));
    assert_eq!(nest.scene.blocked(write(0x7000)), Reason::SGN_8);
    // What comes out of the first stage may be there.
    let mut nest = Nest::new();
    nest.map(0x7000, 12, First::new(0xfee0_0000));
    nest.scene.map_second(nest.second, 4, 0xfee0_0000, 12, Second::new(0x9000));
    assert_eq!(nest.scene.passed(write(0x7000)).address, 0x9000);
}
#[test]
fn erratum_772415_lets_read_only_mappings_be_written_and_is_reported() {
    for erratum in [false, true] {
        let mut nest = Nest::new();
        nest.page(First::new(0), Second::new(0).rights(true, false));
        nest.scene.unit.profile.erratum_772415 = erratum;
        match erratum {
            false => assert_eq!(nest.scene.blocked(write(0x7000)), Reason::SGN_6),
            true => assert_eq!(nest.scene.passed(write(0x7000)).address, 0x9000),
        }
        let rules: std::vec::Vec<Rule> = nest.scene.unit.oracle().breaches().iter().map(|breach| breach.rule).collect();
        assert_eq!(rules, if erratum { &[Rule::ReadOnlyUnderNesting][..] } else { &[] });
    }
}
#[test]
fn erratum_772415_is_one_of_nesting() {
    let mut scene = Scene::scalable();
    scene.unit.profile.erratum_772415 = true;
    let top = scene.page();
    scene.pasid(SOURCE, 0, PasidEntry::second_stage(top, 2, 5));
    scene.map_second(top, 4, 0x7000, 12, Second::new(0x9000).rights(true, false));
    assert_eq!(scene.blocked(write(0x7000)), Reason::SGN_6);
    assert!(scene.unit.oracle().breaches().is_empty());
}
