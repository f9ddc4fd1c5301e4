//! The entries on the way of an address, found by where they are.

use super::*;
use crate::host::mem::slot;

fn the_entries_on_a_way_are_found_by_their_addresses<K: Kind>() {
    let host = Host::new();
    let limits = Limits { input: 39, output: 46, coherent: true, node: None };
    let levels = K::DEPTHS[0];
    let mut tables = Paging::new(&host, K::make(levels, PageSizes::all(), true, 2), limits).unwrap();
    let (small, large) = (0x1234_5000, 3 * M2);
    tables.map(&host, Iova::at(small), Hpa::of_entry(0x9000), PAGE, RW).unwrap();
    tables.map(&host, Iova::at(large), Hpa::of_entry(M2), M2, RW).unwrap();
    for (at, last) in [(small, 1), (large, 2)] {
        let mut table = tables.root(&host).get();
        for level in (last..=levels).rev() {
            let word = table + 8 * slot(at, level) as u64;
            let entry = tables.entry(&host, at, word).expect("on the way");
            assert_eq!(host.read(word), Some(entry));
            assert_ne!(entry & K::PRESENT, 0);
            // What stands beside it is not on the way.
            assert_eq!(tables.entry(&host, at, word ^ 8), None);
            assert_eq!(tables.entry(&host, at, word + 1), None);
            table = entry & ADDRESS;
        }
        // What a leaf names is a page, whatever it holds.
        assert_eq!(tables.entry(&host, at, table + 8 * slot(at, last) as u64), None);
    }
    tables.into_freed(&host).release(&host);
}

#[test]
fn of_both_formats() {
    the_entries_on_a_way_are_found_by_their_addresses::<SecondStage>();
    the_entries_on_a_way_are_found_by_their_addresses::<FirstStage>();
}
