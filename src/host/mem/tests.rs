//! Frames and counted pointers. The tree is tested with the page tables that it is for (`space::paging`).

use super::super::observe::Store;
use super::super::testing::{Host, watch_stores};
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

#[test]
fn every_store_is_announced_and_a_pair_is_one_store() {
    let host = Host::new();
    let f = Frames::alloc(&host, 0, None).unwrap();
    let told = std::rc::Rc::new(std::cell::RefCell::new(std::vec::Vec::new()));
    let (keep, base, memory) = (told.clone(), f.at.as_ptr() as usize, host.clone());
    let look = move |s: &Store<'_>| {
        let stands = if s.done { s.new } else { s.old };
        assert!(stands.iter().enumerate().all(|(i, v)| memory.read((s.at + 8 * i) as u64) == Some(*v)));
        keep.borrow_mut().push(((s.at - base) / 8, s.old.to_vec(), s.new.to_vec(), s.done));
    };
    watch_stores(look, || {
        f.set(5, 1);
        f.set_pair(6, 2, 3);
        assert_eq!(exchange(&f.words()[5], 9, 4), Err(1));
        assert_eq!(exchange(&f.words()[5], 1, 4), Ok(()));
        store_run(&f.words()[8..10], 10, 5);
    });
    let step = |i: usize, old: &[u64], new: &[u64], done| (i, old.to_vec(), new.to_vec(), done);
    let both = |i, old, new| [step(i, old, new, false), step(i, old, new, true)];
    let mut wanted = std::vec::Vec::from(both(5, &[0], &[1]));
    wanted.extend(both(6, &[0, 0], &[2, 3]));
    // One that was given up.
    wanted.push(step(5, &[1], &[4], false));
    wanted.extend(both(5, &[1], &[4]));
    wanted.extend(both(8, &[0], &[10]));
    wanted.extend(both(9, &[0], &[15]));
    assert_eq!(*told.borrow(), wanted);
    f.free(&host);
}
