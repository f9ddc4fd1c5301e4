//! Frames and counted pointers. The tree is tested with the page tables that it is for (`space::paging`).

use super::super::testing::Host;
use super::*;
use core::hint::black_box;

#[test]
fn a_pair_is_replaced_whole_and_alone_whatever_the_compiler_keeps_in_registers() {
    let host = Host::new();
    let f = Frames::alloc(&host, 0, None).unwrap();
    // More live values than there are registers.
    let mut kept: [u64; 24] = core::array::from_fn(|i| black_box(i as u64));
    for i in (0..64).step_by(2) {
        f.set_pair(i, i as u64 | 1 << 63, !(i as u64));
        kept.iter_mut().for_each(|k| *k = black_box(*k).wrapping_mul(3));
        f.set_pair(i, kept[i % 24] ^ i as u64, i as u64);
        assert_eq!((f.get(i), f.get(i + 1)), (kept[i % 24] ^ i as u64, i as u64));
        assert_eq!((f.get(i + 2), f.get(i + 3)), (0, 0));
    }
    // Odd places and places beyond the end are no pairs.
    f.set_pair(65, 1, 1);
    f.set_pair(f.len(), 1, 1);
    assert_eq!((f.get(65), f.get(66), f.get(f.len())), (0, 0, 0));
    f.free(&host);
    assert_eq!(host.counts().frames, 0);
}

#[test]
fn a_shared_value_is_taken_by_its_last_handle_only_and_put_back() {
    let count = std::sync::Arc::new(());
    let one = Shared::new(count.clone()).map_err(|(_, e)| e).unwrap();
    let two = one.clone();
    assert_eq!(one.handles(), 2);
    let Err(one) = one.take() else { panic!("taken while shared") };
    drop(two);
    let Ok((value, place)) = one.take() else { panic!("the last handle") };
    assert_eq!(std::sync::Arc::strong_count(&count), 2);
    let again = place.fill(value);
    assert_eq!(std::sync::Arc::strong_count(&again), 2);
    drop(again);
    assert_eq!(std::sync::Arc::strong_count(&count), 1);
}
