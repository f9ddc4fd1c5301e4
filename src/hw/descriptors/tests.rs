use super::*;
use std::string::{String, ToString};

#[test]
fn context_cache() {
    assert_eq!(Descriptor::cc_global().0, [0x11, 0, 0, 0]);
    assert_eq!(Descriptor::cc_domain(0x1234).0, [0x1234_0021, 0, 0, 0]);
    assert_eq!(Descriptor::cc_device(5, 0x0100, FunctionMask::Exact).0, [0x0000_0100_0005_0031, 0, 0, 0]);
    assert_eq!(Descriptor::cc_device(5, 0x0100, FunctionMask::Bits2To0).0[0], 0x0003_0100_0005_0031);
}

#[test]
fn iotlb() {
    assert_eq!(Descriptor::iotlb_global(Drain::BOTH).0, [0xd2, 0, 0, 0]);
    assert_eq!(Descriptor::iotlb_domain(5, Drain { reads: true, writes: false }).0, [0x0005_00a2, 0, 0, 0]);
    assert_eq!(Descriptor::iotlb_domain(5, Drain { reads: false, writes: true }).0, [0x0005_0062, 0, 0, 0]);
    let pages = Iva::new(0x20_0000, 9, false);
    assert_eq!(Descriptor::iotlb_pages(5, Drain::BOTH, pages).0, [0x0005_00f2, 0x20_0009, 0, 0]);
    assert_eq!(Descriptor::iotlb_pages(5, Drain::NONE, Iva::new(0x1000, 0, true)).0, [0x0005_0032, 0x1040, 0, 0]);
}

#[test]
fn pasid_based() {
    assert_eq!(Descriptor::p_iotlb_pasid(1, 5).0, [0x0000_0005_0001_0026, 0, 0, 0]);
    let pages = Iva::new(0x1000, 1, true);
    assert_eq!(Descriptor::p_iotlb_pages(1, 0xf_ffff, pages).0, [0x000f_ffff_0001_0036, 0x1041, 0, 0]);
    assert_eq!(Descriptor::pc_global().0, [0x37, 0, 0, 0]);
    assert_eq!(Descriptor::pc_domain(1).0, [0x0001_0007, 0, 0, 0]);
    assert_eq!(Descriptor::pc_pasid(1, 5).0, [0x0000_0005_0001_0017, 0, 0, 0]);
}

#[test]
fn device_tlb() {
    let all = DeviceTlbRange::ALL;
    assert_eq!(
        Descriptor::dev_tlb(0x0100, Throttle::NONE, all).0,
        [0x0000_0100_0000_0003, 0x7fff_ffff_ffff_f001, 0, 0]
    );
    let large = DeviceTlbRange::pages(0x40_0000, 9);
    assert_eq!(Descriptor::dev_tlb(0x0100, Throttle::NONE, large).0[1], 0x004f_f001);
    let full = Descriptor::p_dev_tlb(0x0100, 5, Throttle::NONE, all);
    assert_eq!(full.0, [0x0000_0005_0100_0008, 0x7fff_ffff_ffff_f800, 0, 0]);
    let throttle = Throttle { pfsid: 0x1234, mip: 0x1f };
    assert_eq!(Descriptor::dev_tlb(0x0100, throttle, all).0[0], 0x1230_0100_001f_4003);
    assert_eq!(Descriptor::p_dev_tlb(0x0100, 5, throttle, all).0[0], 0x1230_0005_0100_41f8);
}

#[test]
fn device_tlb_sizes() {
    let words = |address, order| {
        let [_, q1, ..] = Descriptor::dev_tlb(0, Throttle::NONE, DeviceTlbRange::pages(address, order)).0;
        q1
    };
    assert_eq!(words(0x1234_5678, 0), 0x1234_5000);
    // 8 KiB: no ones, the zero in bit 12, whatever the address has there.
    assert_eq!(words(0x3000, 1), 0x2001);
    assert_eq!(words(0x4000, 2), 0x5001);
    assert_eq!(words(0x20_0000, 9), 0x2f_f001);
    assert_eq!(words(0x4000_0000, 18), 0x5fff_f001);
    assert_eq!(words(0, 51), 0x3fff_ffff_ffff_f001);
    assert_eq!(words(0xffff_0000_0000_0000, 52), 0x7fff_ffff_ffff_f001);
    assert_eq!(words(0, 255), 0x7fff_ffff_ffff_f001);
    for order in 0..=52 {
        let base = if order < 52 { 1 << 63 >> order << order } else { 0 };
        assert_eq!(DeviceTlbRange::pages(base, order).decode(), (base, order));
    }
}

#[test]
fn interrupt_cache() {
    assert_eq!(Descriptor::iec_global().0, [0x04, 0, 0, 0]);
    assert_eq!(Descriptor::iec_index(0x20, 2).0, [0x0000_0020_1000_0014, 0, 0, 0]);
}

#[test]
fn wait() {
    assert_eq!(Descriptor::wait(WaitFlags::empty(), Some((0x3000, 1))).0, [0x0000_0001_0000_0025, 0x3000, 0, 0]);
    assert_eq!(Descriptor::wait(WaitFlags::FN, None).0, [0x45, 0, 0, 0]);
    assert_eq!(Descriptor::wait(WaitFlags::PD, Some((0x3000, 1))).0[0], 0x0000_0001_0000_00a5);
    let all = Descriptor::wait(WaitFlags::all(), Some((0x3007, u32::MAX)));
    assert_eq!(all.0, [0xffff_ffff_0000_00f5, 0x3004, 0, 0]);
}

#[test]
fn page_group_response() {
    let refusal = Descriptor::pgrp_resp(0x0100, Some(5), 3, ResponseCode::Invalid);
    assert_eq!(refusal.0, [0x0000_0005_0100_1019, 0x18, 0, 0]);
    let failure = Descriptor::pgrp_resp(0x0100, None, 0x1ff, ResponseCode::Failure);
    assert_eq!(failure.0, [0x0100_f009, 0xff8, 0, 0]);
}

#[test]
fn fields_keep_to_themselves() {
    // Whatever does not fit is dropped and spoils no neighbour.
    assert_eq!(Descriptor::pc_pasid(0, u32::MAX).0, [0x000f_ffff_0000_0017, 0, 0, 0]);
    assert_eq!(Descriptor::iec_index(0, 0xff).0[0], 0xf800_0014);
    assert_eq!(Descriptor::dev_tlb(0, Throttle { pfsid: 0, mip: 0xff }, DeviceTlbRange::pages(0, 0)).0[0], 0x001f_0003);
    assert_eq!(Descriptor::pgrp_resp(0, None, 0xffff, ResponseCode::Success).0, [9, 0xff8, 0, 0]);
}

#[test]
fn kinds() {
    let range = DeviceTlbRange::ALL;
    let kinds = [
        (Descriptor::cc_global(), Kind::ContextCache),
        (Descriptor::iotlb_global(Drain::BOTH), Kind::Iotlb),
        (Descriptor::dev_tlb(0x1234, Throttle::NONE, range), Kind::DeviceTlb),
        (Descriptor::iec_global(), Kind::InterruptCache),
        (Descriptor::wait(WaitFlags::FN, None), Kind::Wait),
        (Descriptor::p_iotlb_pasid(1, 5), Kind::PasidIotlb),
        (Descriptor::pc_global(), Kind::PasidCache),
        (Descriptor::p_dev_tlb(0x1234, 5, Throttle::NONE, range), Kind::PasidDeviceTlb),
        (Descriptor::pgrp_resp(1, None, 1, ResponseCode::Success), Kind::PageGroupResponse),
        (Descriptor([0x1a, 0, 0, 0]), Kind::HostPermission),
    ];
    for (at, (descriptor, kind)) in kinds.into_iter().enumerate() {
        assert_eq!(descriptor.kind(), Some(kind));
        assert_eq!(kind.is_wide(), at >= 5);
        let [q0, q1, ..] = descriptor.0;
        assert_eq!(descriptor.narrow(), [q0, q1]);
    }
    // Type 0, a type beyond the last, and a set bit in the upper half of the type.
    for q0 in [0, 0x0b, 0x0f, 0x0211, 0x0811] {
        assert_eq!(Descriptor([q0, 0, 0, 0]).kind(), None);
    }
}

fn words(descriptor: Descriptor) -> String {
    descriptor.to_string()
}

#[test]
fn in_words() {
    let pages = |address, order| Iva::new(address, order, false);
    assert_eq!(words(Descriptor::cc_global()), "context cache, all");
    assert_eq!(words(Descriptor::cc_domain(7)), "context cache, domain 7");
    assert_eq!(
        words(Descriptor::cc_device(7, 0x01fb, FunctionMask::Exact)),
        "context cache, device 01:1f.3 in domain 7"
    );
    assert_eq!(
        words(Descriptor::iotlb_pages(7, Drain::BOTH, pages(0x20_0000, 9))),
        "IOTLB, 2^9 pages at 0x200000 in domain 7"
    );
    assert_eq!(words(Descriptor::iotlb_pages(7, Drain::BOTH, pages(0x1000, 0))), "IOTLB, page 0x1000 in domain 7");
    assert_eq!(
        words(Descriptor::dev_tlb(0x0100, Throttle::NONE, DeviceTlbRange::ALL)),
        "device-TLB of 01:00.0, all pages"
    );
    let range = DeviceTlbRange::pages(0x2000, 1);
    let text = words(Descriptor::p_dev_tlb(0x0100, 5, Throttle::NONE, range));
    assert_eq!(text, "device-TLB of 01:00.0, PASID 5, 2^1 pages at 0x2000");
    assert_eq!(words(Descriptor::iec_global()), "interrupt entry cache, all");
    assert_eq!(words(Descriptor::iec_index(0x20, 2)), "interrupt entry cache, 2^2 entries at 32");
    let wait = Descriptor::wait(WaitFlags::FN | WaitFlags::IF, Some((0x3000, 9)));
    assert_eq!(words(wait), "wait, status 9 to 0x3000, interrupt, fence");
    assert_eq!(words(Descriptor::p_iotlb_pages(7, 5, pages(0x1000, 0))), "IOTLB, page 0x1000 of PASID 5 in domain 7");
    assert_eq!(words(Descriptor::pc_global()), "PASID cache, all");
    assert_eq!(words(Descriptor::pc_domain(7)), "PASID cache, domain 7");
    assert_eq!(words(Descriptor::pc_pasid(7, 5)), "PASID cache, PASID 5 in domain 7");
    let response = Descriptor::pgrp_resp(0x0100, Some(5), 3, ResponseCode::Invalid);
    assert_eq!(words(response), "answer 1 to page request group 3 of 01:00.0, PASID 5");
    assert_eq!(words(Descriptor([0x0211, 0, 0, 0])), "unknown descriptor 0x0000000000000211 0x0000000000000000");
}
