//! What units may offer, and where the emulated unit's own tests show it.

use crate::features::Feature;

const fn of(name: &'static str, has: fn(&vtd_emu::Profile) -> bool, file: &'static str, test: &'static str) -> Feature {
    Feature { name, has, own: (file, test) }
}

/// Version 6 dropped the register interface.
fn registers(p: &vtd_emu::Profile) -> bool {
    p.major() < 6
}

const LEGACY: &str = "translate/tests/legacy.rs";
const SCALABLE: &str = "translate/tests/scalable.rs";
const FIRST: &str = "translate/tests/first.rs";
const SECOND: &str = "translate/tests/second.rs";
const NESTED: &str = "translate/tests/nested.rs";
const ATS: &str = "translate/tests/ats.rs";
const PAGES: &str = "page_requests/tests.rs";
const INTERRUPTS: &str = "interrupts/tests.rs";
const COMMAND: &str = "command/tests.rs";
const DECODING: &str = "queue/tests/decoding.rs";
const RING: &str = "queue/tests/ring.rs";
const FAULTS: &str = "faults/tests.rs";

pub const FEATURES: &[Feature] = &[
    of("invalidation by register", registers, COMMAND, "iotlb_invalidations_through_registers"),
    of("write-buffer flush", |p| p.rwbf(), COMMAND, "wbfs_is_set_while_write_buffers_are_flushed"),
    of("protected memory", |p| p.plmr(), LEGACY, "protected_memory_is_out_of_reach_whether_remapping_is_on_or_off"),
    of("fault records", |_| true, FAULTS, "a_write_is_recorded"),
    of("fault overflow", |_| true, FAULTS, "a_full_ring_overflows_and_nothing_is_recorded_until_pfo_is_cleared"),
    of("queue", |p| p.qi(), RING, "rings_of_every_size_and_width_wrap"),
    of("queue errors", |p| p.qi(), RING, "an_error_stops_the_queue_until_it_is_cleared"),
    of("context: all", |p| p.qi(), DECODING, "context_cache"),
    of("context: domain", |p| p.qi(), DECODING, "context_cache"),
    of("context: device", |p| p.qi(), DECODING, "context_cache"),
    of("IOTLB: all", |p| p.qi(), DECODING, "iotlb"),
    of("IOTLB: domain", |p| p.qi(), DECODING, "iotlb"),
    of("IOTLB: pages", |p| p.qi() && p.psi(), DECODING, "iotlb"),
    of("waits with status", |p| p.qi(), RING, "a_wait_writes_32_bits_when_it_completes"),
    of("waits with interrupt", |p| p.qi(), RING, "a_wait_interrupts_once_until_its_status_is_cleared"),
    of("interrupt-entry cache", |p| p.ir(), DECODING, "interrupt_entries"),
    of("PASID cache", |p| p.smts(), DECODING, "pasid_cache"),
    of("PASID IOTLB", |p| p.smts(), DECODING, "pasid_iotlb"),
    of("device TLBs", |p| p.dt(), DECODING, "device_tlbs_and_their_ranges"),
    of("device TLBs with PASID", |p| p.dt() && p.pasid(), DECODING, "device_tlbs_and_their_ranges"),
    of("page-group responses", |p| p.prs(), DECODING, "group_responses"),
    of("3 levels", |p| p.sagaw() & 2 != 0, LEGACY, "a_page_is_translated_by_three_four_and_five_levels"),
    of("4 levels", |p| p.sagaw() & 4 != 0, LEGACY, "a_page_is_translated_by_three_four_and_five_levels"),
    of("5 levels", |p| p.sagaw() & 8 != 0, LEGACY, "a_page_is_translated_by_three_four_and_five_levels"),
    of("4 KiB pages", |_| true, LEGACY, "a_page_is_translated_by_three_four_and_five_levels"),
    of("2 MiB pages", |p| p.sslps() & 1 != 0, LEGACY, "large_pages_are_translated"),
    of("1 GiB pages", |p| p.sslps() & 2 != 0, LEGACY, "large_pages_are_translated"),
    of("pass-through", |p| p.pt(), LEGACY, "pass_through_leaves_addresses_as_they_are"),
    of("tables in place of pass-through", |p| !p.pt(), LEGACY, "tt_is_not_one_that_the_unit_has"),
    of("snoop control", |p| p.sc(), LEGACY, "snp_makes_every_access_snoop"),
    of("caching mode", |p| p.cm(), "caches/tests.rs", "faulting_translations_have_the_tags_of_the_translation"),
    of("walks that do not snoop", |p| !p.coherent(), LEGACY, "tables_are_read_as_coherently_as_ecap_c_says"),
    of("scalable mode", |p| p.smts(), SCALABLE, "requests_without_pasid_go_by_rid_pasid"),
    of("scalable second-stage tables", |p| p.ssts(), SECOND, "pages_of_all_sizes_and_levels_are_translated"),
    of("first-stage tables", |p| p.fsts(), FIRST, "pages_of_all_sizes_and_levels_are_translated"),
    of("nested tables", |p| p.nest(), NESTED, "both_stages_translate"),
    of("second-stage accessed and dirty", |p| p.ssads(), SECOND, "writes_mark_the_leaf_as_dirty"),
    of("first-stage accessed and dirty", |p| p.fsts(), FIRST, "writes_mark_the_leaf_as_dirty"),
    of("extended accessed", |p| p.eafs(), FIRST, "eafe_marks_every_entry_as_accessed_by_devices"),
    of("requests with PASID", |p| p.pasid(), SCALABLE, "requests_with_pasid_need_paside"),
    of("RID_PASID", |p| p.rps(), SCALABLE, "the_pasid_of_a_request_is_rid_pasid"),
    of("supervisor requests", |p| p.srs(), SCALABLE, "privileged_requests_need_sre"),
    of("memory types", |p| p.mts(), FIRST, "the_memory_type_is_that_of_the_pat"),
    of("abort-DMA mode", |p| p.adms(), PAGES, "page_requests_in_legacy_mode_32_and_in_abort_mode_33"),
    of("translation requests (ATS)", |p| p.dt(), ATS, "a_translation_gives_the_page_and_its_rights"),
    of("page requests", |p| p.prs(), PAGES, "a_descriptor_says_what_was_requested"),
    of("interrupt remapping", |p| p.ir(), INTERRUPTS, "a_remapped_interrupt_is_what_the_entry_says"),
    of("interrupt posting", |p| p.pi(), INTERRUPTS, "posting_sets_the_request_and_notifies"),
];
