//! Memory that is given back.

use super::*;

#[test]
fn a_table_is_freed_while_it_is_linked() {
    for page in [ROOT, CONTEXTS, TABLES, TABLES + 0x3000] {
        let mut software = Software::legacy(profile());
        software.free_page(page);
        software.broke(&[Rule::LiveTableFreed]);
    }
}

#[test]
fn tables_of_scalable_mode_are_freed_while_they_are_linked() {
    for page in [ROOT, CONTEXTS, DIRECTORY, PASIDS, TABLES + 0x1000] {
        let mut software = Software::scalable(profile());
        software.first_stage(TABLES);
        software.entry(pasid(PASID), &first_stage(TABLES, 1).0);
        software.free_page(page);
        software.broke(&[Rule::LiveTableFreed]);
    }
}

#[test]
fn a_table_may_be_freed_that_is_linked_no_more() {
    let mut software = Software::legacy(profile());
    software.store(TABLES + 0x2000, 0);
    software.queue(&[iotlb_page(1, 9)]);
    software.free_page(TABLES + 0x3000);
    software.clean();
}

#[test]
fn a_table_that_is_linked_twice_is_live_until_both_links_are_gone() {
    let mut software = Software::legacy(profile());
    software.store(TABLES + 0x2008, SecondStageEntry::new(TABLES + 0x3000).0[0]);
    software.store(TABLES + 0x2000, 0);
    software.free_page(TABLES + 0x3000);
    software.broke(&[Rule::LiveTableFreed]);
    software.store(TABLES + 0x2008, 0);
    software.free_page(TABLES + 0x3000);
    software.clean();
}

/// Among the 23 fixes of Intel's pKVM: a domain went while a device was attached to it still.
#[test]
fn pkvm_frees_a_domain_that_another_device_uses() {
    let mut software = Software::legacy(profile());
    software.entry(context(0x18), &ContextEntry::new(TABLES, 2, 1).0);
    software.store(context(DEVICE), 0);
    software.queue(&[cc_device(1, DEVICE), iotlb_domain(1)]);
    software.free_page(TABLES);
    software.broke(&[Rule::LiveTableFreed]);
}

#[test]
fn tables_may_be_freed_when_translation_is_off() {
    let mut software = Software::legacy(profile());
    software.read();
    software.rig.command(TE, false);
    for page in [ROOT, CONTEXTS, TABLES] {
        software.free_page(page);
    }
    software.clean();
}

#[test]
fn the_interrupt_remapping_table_is_freed_while_it_is_used() {
    let mut software = Software::legacy(profile());
    software.rig.w64(IRTA, INTERRUPTS | 7);
    software.rig.command(SIRTP, true);
    software.queue(&[[4, 0]]);
    software.free_page(INTERRUPTS + 0x1000);
    software.free_page(INTERRUPTS);
    software.clean();
    software.rig.command(IRE, true);
    software.free_page(INTERRUPTS + 0x1000);
    software.clean();
    software.free_page(INTERRUPTS);
    software.broke(&[Rule::LiveTableFreed]);
}

#[test]
fn a_table_is_freed_while_a_cache_leads_to_it() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(TABLES + 0x2000, 0);
    software.free_page(TABLES + 0x3000);
    software.broke(&[Rule::CachedTableFreed]);
}

/// The hint says that only leaf entries have changed; a table went.
#[test]
fn a_table_is_freed_after_an_invalidation_that_leaves_walks() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(TABLES + 0x1000, 0);
    software.queue(&[iotlb_page(1, 9 | 1 << 6)]);
    software.free_page(TABLES + 0x2000);
    software.broke(&[Rule::CachedTableFreed]);
}

#[test]
fn a_table_may_be_freed_once_the_caches_have_forgotten_it() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(TABLES + 0x2000, 0);
    software.queue(&[iotlb_page(1, 9)]);
    software.free_page(TABLES + 0x3000);
    software.clean();
}

#[test]
fn a_context_table_is_freed_while_a_context_is_cached() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(ROOT, 0);
    software.queue(&[[0x12, 0]]);
    software.free_page(CONTEXTS);
    software.broke(&[Rule::CachedTableFreed]);
}

#[test]
fn a_table_serves_elsewhere_while_a_cache_leads_to_it() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(TABLES + 0x2000, 0);
    software.store(leaf(TABLES), 0);
    software.store(TABLES + 0x2008, SecondStageEntry::new(TABLES + 0x3000).0[0]);
    software.broke(&[Rule::TableReused]);
}

#[test]
fn a_table_may_serve_elsewhere_once_the_caches_have_forgotten_it() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(TABLES + 0x2000, 0);
    software.queue(&[iotlb_page(1, 9)]);
    software.store(TABLES + 0x2008, SecondStageEntry::new(TABLES + 0x3000).0[0]);
    software.clean();
}

#[test]
fn a_table_may_come_back_where_it_was() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(TABLES + 0x2000, 0);
    software.store(TABLES + 0x2000, SecondStageEntry::new(TABLES + 0x3000).0[0]);
    software.clean();
}

/// Asterinas unmaps without any invalidation.
#[test]
fn asterinas_frees_what_it_unmapped_without_invalidation() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(leaf(TABLES), 0);
    software.free_page(DATA);
    software.broke(&[Rule::DataFreed]);
}

/// NOVA and Genode take IQH = IQT for completion; the descriptor was fetched, and not executed.
#[test]
fn genode_frees_when_the_queue_is_fetched() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(leaf(TABLES), 0);
    software.rig.unit.set_pace(Pace { descriptor: (5, 5), ..Pace::prompt() });
    software.queue(&[iotlb_page(1, IOVA)]);
    assert_eq!(software.rig.r64(crate::testing::IQH), u64::from(software.tail));
    software.free_page(DATA);
    software.broke(&[Rule::DataFreed]);
}

#[test]
fn data_may_be_freed_once_the_caches_have_forgotten_it() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(1, IOVA)]);
    software.free_page(DATA);
    software.clean();
}

#[test]
fn data_may_be_freed_while_it_is_mapped() {
    let mut software = Software::legacy(profile());
    software.read();
    software.free_page(DATA);
    software.clean();
}

#[test]
fn data_is_freed_after_its_rights_went() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(leaf(TABLES), SecondStageEntry::new(DATA).rights(true, false).0[0]);
    software.free_page(DATA);
    software.broke(&[Rule::DataFreed]);
}

#[test]
fn data_that_no_device_has_touched_may_be_freed_at_once() {
    let mut software = Software::legacy(profile());
    software.store(leaf(TABLES), 0);
    software.free_page(DATA);
    software.clean();
}

/// Intel's pKVM ignored a failure to note a domain's tag, and flushed nothing.
#[test]
fn pkvm_flushes_another_domain() {
    let mut software = Software::legacy(profile());
    software.read();
    software.store(leaf(TABLES), 0);
    software.queue(&[iotlb_page(2, IOVA)]);
    software.free_page(DATA);
    software.broke(&[Rule::DataFreed]);
}

/// An address mask of one page for a page of 2 MiB.
#[test]
fn data_of_a_large_page_is_freed_after_a_small_invalidation() {
    let mut software = split_free(0);
    software.broke(&[Rule::DataFreed]);
    let mut software = split_free(9);
    software.clean();
}

fn split_free(order: u64) -> Software {
    let mut software = Software::legacy(profile());
    software.store(TABLES + 0x2008, SecondStageEntry::large(0x20_0000).0[0]);
    software.request(Request::new(DEVICE, Access::Read, 0x20_0000));
    software.store(TABLES + 0x2008, 0);
    software.queue(&[iotlb_page(1, 0x20_0000 | order)]);
    software.freed(0x20_0000, 0x3f_ffff);
    software
}

/// ACRN's wait status was on the stack: a time-out left the wait behind it. HyperEnclave and hvisor took it over.
#[test]
fn acrn_leaves_the_frame_that_a_wait_will_write_to() {
    let mut software = Software::legacy(profile());
    software.rig.unit.set_pace(Pace { descriptor: (50, 50), ..Pace::prompt() });
    software.queue(&[iotlb_domain(1)]);
    software.rig.step(2, 0);
    software.freed(STATUS - 0x20, STATUS + 0x20);
    software.broke(&[Rule::StatusFreed]);
    software.rig.step(200, 0);
    software.broke(&[Rule::StatusFreed]);
}

#[test]
fn a_wait_is_queued_for_memory_that_was_freed() {
    let mut software = Software::legacy(profile());
    software.free_page(STATUS);
    software.clean();
    software.queue(&[]);
    software.broke(&[Rule::StatusFreed, Rule::StatusFreed]);
    software.rig.unit.allocated(STATUS, STATUS + 0xff);
    software.queue(&[]);
    software.clean();
}

#[test]
fn status_memory_may_be_freed_after_the_wait() {
    let mut software = Software::legacy(profile());
    software.queue(&[iotlb_domain(1)]);
    software.free_page(STATUS);
    software.clean();
}

#[test]
fn freed_memory_is_known_by_the_byte() {
    let mut software = Software::legacy(profile());
    software.freed(STATUS - 0x100, STATUS + 0x100);
    software.rig.unit.allocated(STATUS - 4, STATUS + 3);
    software.queue(&[]);
    software.clean();
    software.queue_unawaited(&[[0x25, STATUS + 4]]);
    software.broke(&[Rule::StatusFreed, Rule::StatusFreed]);
}

#[test]
fn the_queue_is_freed_while_it_is_enabled() {
    let mut software = Software::legacy(profile());
    software.free_page(QUEUE + 0x1000);
    software.clean();
    software.free_page(QUEUE);
    software.broke(&[Rule::QueueFreed]);
    let mut software = Software::legacy(profile());
    software.rig.command(QIE, false);
    software.free_page(QUEUE);
    software.clean();
}
