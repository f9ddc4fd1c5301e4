//! Frames, heap, page tables.

use crate::cpu::exceptions::probe_write;
use crate::cpu::smp;
use crate::memory::{self, frames, heap, paging, stacks};
use crate::testing::scaled;
use crate::{check, check_eq, test};
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use vtd::PAGE;
use x86_64::structures::paging::page_table::PageTableFlags as Flags;

/// Bytes that differ from 0 in a run of frames.
fn dirty(at: NonNull<u8>, order: u8) -> usize {
    // SAFETY: the caller's run, which nobody else has.
    let bytes = unsafe { core::slice::from_raw_parts(at.as_ptr(), (PAGE as usize) << order) };
    bytes.iter().filter(|&&b| b != 0).count()
}

test! {
    fn frames_are_aligned_zeroed_and_distinct() {
        let before = frames::free_count();
        for _ in 0..2 {
            let mut runs = Vec::new();
            for order in (0..=6).chain([9, 3, 0]) {
                let at = frames::alloc(order).ok_or("no frames")?;
                let address = at.as_ptr() as u64;
                check!(address.is_multiple_of(PAGE << order), "{address:#x} of order {order}");
                check_eq!(dirty(at, order), 0, "order {order}");
                // SAFETY: the run is ours. What is written must be gone when the frames are handed out again.
                unsafe { at.write_bytes(0xa5, (PAGE as usize) << order) };
                runs.push((address, order, at));
            }
            runs.sort();
            for pair in runs.windows(2) {
                check!(pair[0].0 + (PAGE << pair[0].1) <= pair[1].0, "{:#x} and {:#x} overlap", pair[0].0, pair[1].0);
            }
            for (_, order, at) in runs {
                // SAFETY: from `alloc` above.
                unsafe { frames::free(at, order) };
            }
        }
        check_eq!(frames::free_count(), before);
    }

    fn frames_run_out_and_come_back() {
        let before = frames::free_count();
        check!(frames::alloc(19).is_none(), "more than the largest run");
        // By the largest runs first, so that the end comes soon; linked through their own first words.
        let mut last: Option<(NonNull<u8>, u8)> = None;
        let mut taken = 0usize;
        for order in (10..=18).rev() {
            while let Some(at) = frames::alloc_unzeroed(order) {
                // SAFETY: the run is ours and large enough.
                unsafe { at.cast().write(last) };
                last = Some((at, order));
                taken += 1 << order;
            }
        }
        check!(taken > 0 && frames::free_count() + taken == before);
        check!(frames::alloc(10).is_none());
        while let Some((at, order)) = last {
            // SAFETY: written above; given back once.
            unsafe {
                last = at.cast().read();
                frames::free(at, order);
            }
        }
        check_eq!(frames::free_count(), before);
    }

    fn frames_from_all_cpus_at_once() {
        let before = frames::free_count();
        let overlaps = AtomicUsize::new(0);
        let rounds = scaled(200);
        smp::everywhere(&|cpu| {
            let mark = 0xc0de_0000 + cpu as u64;
            for round in 0..rounds {
                let runs: [_; 4] = core::array::from_fn(|i| {
                    let order = (round as usize + i * 3 + cpu) as u8 % 5;
                    frames::alloc(order).map(|at| (at, order))
                });
                for (at, order) in runs.into_iter().flatten() {
                    // SAFETY: the run is this CPU's own, unless the allocator is wrong, which is what is tested.
                    unsafe {
                        let words = at.cast::<u64>();
                        let last = words.add(((PAGE as usize / 8) << order) - 1);
                        if words.read_volatile() != 0 || last.read_volatile() != 0 {
                            overlaps.fetch_add(1, Ordering::Relaxed);
                        }
                        words.write_volatile(mark);
                        last.write_volatile(mark);
                    }
                }
                for (at, order) in runs.into_iter().flatten() {
                    // SAFETY: as above, and given back once.
                    unsafe {
                        if at.cast::<u64>().read_volatile() != mark {
                            overlaps.fetch_add(1, Ordering::Relaxed);
                        }
                        frames::free(at, order);
                    }
                }
            }
        });
        check_eq!(overlaps.load(Ordering::Relaxed), 0);
        check_eq!(frames::free_count(), before);
    }

    fn stacks_have_guard_pages() {
        let top = stacks::alloc(2).ok_or("no stack")?;
        let bottom = top - 2 * PAGE;
        // SAFETY: the stack is nobody's; a byte that is stored over itself changes nothing.
        unsafe {
            check!(probe_write(top - 1) && probe_write(bottom));
            check!(!probe_write(bottom - 1) && !probe_write(bottom - PAGE));
        }
        check!(paging::find(bottom).is_some_and(|m| m.flags.contains(Flags::NO_EXECUTE)));
    }

    fn frames_can_be_made_to_run_out() {
        frames::limit(Some(1));
        let (first, second) = (frames::alloc(0), frames::alloc(0));
        frames::limit(None);
        check!(second.is_none());
        // SAFETY: just handed out.
        unsafe { frames::free(first.ok_or("none at all")?, 0) };
    }

    fn heap_end_is_an_error() {
        let mut large: Vec<u8> = Vec::new();
        check!(large.try_reserve_exact(1 << 40).is_err());
        let mut pieces: Vec<Vec<u8>> = Vec::with_capacity(4096);
        let full = loop {
            let mut piece = Vec::new();
            if pieces.len() == pieces.capacity() {
                break false;
            }
            if piece.try_reserve_exact(1 << 20).is_err() {
                break true;
            }
            pieces.push(piece);
        };
        let count = pieces.len();
        drop(pieces);
        check!(full && count > 0, "{count} MiB");
        check!(large.try_reserve_exact(count << 19).is_ok(), "the pieces came back together");
    }

    fn heap_fails_at_every_point() {
        for budget in 0..4 {
            heap::limit(Some(budget));
            let got = (0..4).take_while(|_| {
                let mut v: Vec<u64> = Vec::new();
                v.try_reserve_exact(1).is_ok()
            });
            let got = got.count();
            heap::limit(None);
            check_eq!(got, budget as usize);
        }
    }

    fn nothing_is_writable_and_executable() {
        let (mut both, mut executable, mut mapped) = (None, 0u64, 0u64);
        paging::for_each(&mut |m| {
            let code = !m.flags.contains(Flags::NO_EXECUTE);
            if code && m.flags.contains(Flags::WRITABLE) {
                both = Some(m.start);
            }
            executable += if code { m.size } else { 0 };
            mapped += m.size;
        });
        check!(both.is_none(), "{both:x?}");
        let text = memory::text();
        // The image's code and the page that other CPUs start in.
        check!(executable <= text.end - text.start + PAGE, "{executable:#x} bytes are executable");
        check!(mapped >= 1 << 32);
    }

    fn image_is_mapped_as_it_should_be() {
        for (range, writable, code) in
            [(memory::text(), false, true), (memory::rodata(), false, false), (memory::data(), true, false)]
        {
            let mut at = range.start & !(PAGE - 1);
            while at < range.end {
                match paging::find(at) {
                    None => check_eq!(at, memory::boot_stack_guard()),
                    Some(m) => {
                        check_eq!(m.physical, m.start);
                        check_eq!(m.flags.contains(Flags::WRITABLE), writable, "{at:#x}");
                        check_eq!(!m.flags.contains(Flags::NO_EXECUTE), code, "{at:#x}");
                    }
                }
                at += PAGE;
            }
        }
        check!(paging::find(memory::boot_stack_guard()).is_none());
        check!(paging::find(0).is_none());
    }

    fn cpu_refuses_writes_to_code_and_constants() {
        let mut variable = 7u8;
        // SAFETY: nobody else writes there; a byte that is stored over itself changes nothing.
        unsafe {
            check!(probe_write(&raw mut variable as u64));
            check!(!probe_write(memory::text().start));
            check!(!probe_write(memory::rodata().start));
            check!(!probe_write(memory::boot_stack_guard()));
            check!(!probe_write(0));
        }
        check_eq!(variable, 7);
    }

    fn registers_are_not_cached() {
        for m in [0xfee0_0000u64, 0xfed9_0000].map(paging::find) {
            check!(m.is_some_and(|m| m.flags.contains(Flags::NO_CACHE | Flags::NO_EXECUTE)), "{m:x?}");
        }
    }
}
