//! What went wrong in other drivers, one test each, named for it. Cases that have their test elsewhere:
//!
//! | case | where it was | test |
//! |---|---|---|
//! | clearing PFO clears other status bits | Asterinas | `unit::tests::overflows_are_counted_and_no_other_status_is_cleared` |
//! | a fault record is cleared by writing 0, the ring is not wrapped, its last register is beyond the bound | Asterinas, Xen | `unit::tests::records_are_read_from_the_index_round_the_end_and_cleared_one_by_one` |
//! | IQE, ICE, ITE panic, or are never cleared | Asterinas, Xen | `unit::recovery::tests::both_errors_at_once_are_both_dealt_with`, `who_does_not_answer_is_named_and_everyone_elses_go_on` |
//! | the status of a wait on the stack, forgotten after a time-out | ACRN, HyperEnclave, hvisor | `unit::tests::slots_of_a_timed_out_submission_stay_owned_until_it_completes` |
//! | the queue never wraps | HyperEnclave, salus | `queue::it_wraps` |
//! | head = tail taken for completion | NOVA, Genode | `unmap::flushes_in_flight_end_one_by_one`, `unit::tests::completions_in_any_order_belong_to_their_submissions` |
//! | a command that is never carried out panics | Linux | `errors::a_command_that_is_never_carried_out_ends_in_time` |
//! | submissions are repeated without end | Linux | `unit::recovery::tests::a_queue_that_stops_again_and_again_gives_every_waiter_an_error_and_completes_when_it_comes_to` |
//! | paths of device scopes are matched flat | bhyve | `reserved_regions_are_found_through_bridges` in `tests/dmar.rs` |
//! | domain ids that end panic | bhyve | `pasids::domain_ids_end_and_come_back`, `driver::tests::attach::domain_ids_end_as_an_error_and_come_back` |
//! | a command clears what others turned on | bhyve | `hw::registers::tests::one_shot_commands_are_not_repeated` |
//! | large pages are never split | bhyve | `split::a_page_that_is_cut_maps_the_rest_all_the_while` |
//! | structures of length 0 | NOVA | `damage_is_named_and_the_rest_is_read` in `tests/dmar.rs` |
//! | an entry is cleared and set with nothing flushed in between, or written in halves | NOVA, FreeBSD | `pasids::a_replacement_is_the_old_then_the_new_and_never_a_third` |
//! | nothing is done for suspend and resume | FreeBSD | `power::a_machine_sleeps_and_goes_on` |
//! | a unit that is on already is refused always | Zircon | `take_over::a_unit_found_on_is_refused_or_turned_off_first` |
//! | tables that are taken over are not verified | pKVM-IA #91 | `driver::tests::take_over::malformed_tables_are_named_and_the_unit_is_turned_off` |
//! | device TLBs are never flushed | pKVM-IA #84 | `ats::a_trusted_device_loses_what_it_was_given_with_every_change` |
//! | no tag is taken for a device TLB, and nobody looks | pKVM-IA #86 | `driver::tests::ats::a_cache_whose_tag_finds_no_memory_stays_off_and_with_one_it_is_flushed` |
//! | a time-out of a device TLB holds everyone up, or is tried again without end | Linux | `ats::a_device_that_never_answers_is_isolated_and_everyone_else_goes_on` |
//! | a fresh PASID table with something in it | pKVM-IA #91 | `pasids::several_pasids_lead_to_several_domains_beside_plain_requests` |
//! | an initialisation that failed leaves devices open to who believes in it | pKVM-IA #103 | `driver::tests::bring_up::nothing_is_claimed_while_any_unit_does_not_translate` |
//! | changes of one entry that overlap | pKVM-IA #115 | `threads::four_cpus_change_pasids_and_flush_what_all_use` |
//!
//! Those of what this driver does not do yet: the source of an interrupt is not verified, SQ masks, an inverted test of ESIRTPS
//! (interrupt remapping); page requests that are forgotten, their drain and their time (page requests); the number of pages
//! of a guest's invalidation, the erratum of read-only pages (nesting).

use vtd::Target;
use vtd_emu::Profile;

use crate::heap;
use crate::host::Ends;
use crate::pasids::pasid;
use crate::rig::{AT, Ask, Mode, Plan, dev, map, unmap};

crate::stories!(
    an_unmap_that_invalidates_nothing,
    a_mapping_that_a_caching_unit_is_not_told_of,
    a_queue_that_is_left_off_in_caching_mode,
    a_range_that_one_cache_widens_for_the_next,
    a_tag_that_was_not_taken_and_nobody_said_so,
    a_domain_that_is_dropped_while_it_is_used,
    a_flush_of_a_changed_entry_that_was_optimised_away,
);

/// Asterinas #3920.
fn an_unmap_that_invalidates_nothing(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, ear) = rig.attached(dev(3));
    map(&domain, AT, page, 0x1000);
    rig.reaches(dev(3), AT, page);
    unmap(&domain, AT, AT + 0xfff);
    rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
    rig.blocked(dev(3), AT, Ask::Write, 0x05, &ear);
    drop((group, domain));
    rig.end();
}

/// Asterinas #3920.
fn a_mapping_that_a_caching_unit_is_not_told_of(profile: &Profile, mode: Mode) {
    let rig = Plan::new(&profile.clone().with_cap(1 << 7, 0), mode).up();
    let page = rig.page();
    // The absent entry of the device, and then of the page, is asked for first.
    let (group, ear) = rig.claim(dev(3));
    assert!(rig.read(dev(3), AT).is_err());
    let domain = rig.domain(&group);
    group.attach(Target::Domain(&domain)).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x06, &ear);
    map(&domain, AT, page, 0x1000);
    rig.reaches(dev(3), AT, page);
    drop((group, domain));
    rig.end();
}

/// FreeBSD: virtual units are slow without it.
fn a_queue_that_is_left_off_in_caching_mode(profile: &Profile, mode: Mode) {
    let profile = &profile.clone().with_cap(1 << 7, 0);
    let rig = Plan::new(profile, mode).build();
    let report = rig.bring_up().unwrap();
    assert_eq!(report.units[0].queue, profile.qi());
    rig.end();
}

/// Linux: a loop over the caches of a domain changed the range that the rest was flushed by.
fn a_range_that_one_cache_widens_for_the_next(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let memory = rig.memory(2);
    let (group, domain, _) = rig.attached(dev(3));
    for p in [1, 2, 3] {
        group.attach_pasid(dev(3), pasid(p), Target::Domain(&domain)).unwrap();
    }
    map(&domain, AT, memory, 0x4000);
    rig.host.listen(0);
    unmap(&domain, AT + 0x1000, AT + 0x2fff);
    let heard = rig.host.heard(0);
    let caches = if rig.first_stage() { 4 } else { 1 };
    let exact = [(AT + 0x1000, 0, true), (AT + 0x2000, 0, true)];
    assert_eq!(heard.pages(), exact.repeat(caches));
    assert_eq!(heard.iotlb(), 2 * caches);
    drop((group, domain));
    rig.end();
}

/// pKVM-IA #86: an attachment went on without the tag, and no flush found its cache.
fn a_tag_that_was_not_taken_and_nobody_said_so(profile: &Profile, mode: Mode) {
    if !mode.tags(profile) {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, ear) = rig.attached(dev(3));
    for n in 0..20 {
        // More tags than there is room for at first.
        let (p, who) = (pasid(1 + n), (dev(3), 1 + n));
        let ends = Some(Ends::after(u64::from(n % 2)));
        if heap::driver(ends, || group.attach_pasid(dev(3), p, Target::Domain(&domain))).is_err() {
            rig.blocked(who, AT, Ask::Read, 0x02, &ear);
            group.attach_pasid(dev(3), p, Target::Domain(&domain)).unwrap();
        }
        map(&domain, AT, page, 0x1000);
        rig.reaches(who, AT, page);
        unmap(&domain, AT, AT + 0xfff);
        rig.blocked(who, AT, Ask::Read, 0x06, &ear);
    }
    drop((group, domain));
    rig.end();
}

/// pKVM-IA #115: tables went with their handle, while entries led to them.
fn a_domain_that_is_dropped_while_it_is_used(profile: &Profile, mode: Mode) {
    let rig = Plan::new(profile, mode).up();
    let (page, other) = (rig.page(), rig.page());
    let (group, domain, ear) = rig.attached(dev(3));
    map(&domain, AT, page, 0x1000);
    if mode.tags(profile) {
        group.attach_pasid(dev(3), pasid(9), Target::Domain(&domain)).unwrap();
    }
    drop(domain);
    rig.reaches(dev(3), AT, page);
    // Whoever asks for frames now gets none of its tables.
    let (neighbour, theirs, _) = rig.attached(dev(4));
    (0..8).for_each(|i| map(&theirs, i << 30, other, 0x1000));
    rig.reaches(dev(3), AT, page);
    group.attach(Target::Blocked).unwrap();
    rig.blocked(dev(3), AT, Ask::Read, 0x02, &ear);
    if mode.tags(profile) {
        rig.reaches((dev(3), 9), AT, page);
        group.detach_pasid(dev(3), pasid(9)).unwrap();
        rig.blocked((dev(3), 9), AT, Ask::Read, 0x02, &ear);
    }
    drop((group, neighbour, theirs));
    rig.end();
}

/// edk2-platforms #282: the caches of entries and translations are flushed at every change of a present entry, also where it
/// becomes what it was.
fn a_flush_of_a_changed_entry_that_was_optimised_away(profile: &Profile, mode: Mode) {
    if !profile.qi() {
        return;
    }
    let rig = Plan::new(profile, mode).up();
    let page = rig.page();
    let (group, domain, _) = rig.attached(dev(3));
    let other = rig.domain(&group);
    map(&domain, AT, page, 0x1000);
    let targets = [&other, &domain, &domain, &other].map(Target::Domain);
    for to in targets.into_iter().chain([Target::Identity, Target::Blocked]) {
        rig.host.listen(0);
        group.attach(to).unwrap();
        let heard = rig.host.heard(0);
        assert!(heard.entries() >= 1 && heard.iotlb() >= 1 && heard.waits() >= 1, "{heard:x?}");
    }
    drop((group, domain, other));
    rig.end();
}
