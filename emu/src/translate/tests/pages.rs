//! The table checks of page requests (7.4.1).

use super::*;
use crate::caches::Stage;
use crate::page_requests::PageRequestTarget;
use crate::reason::Completion;
use crate::request::PageRequest;

fn request(pasid: Option<Pasid>) -> PageRequest {
    PageRequest {
        source: SOURCE,
        pasid,
        privileged: false,
        execute: false,
        read: true,
        write: false,
        last: true,
        group: 1,
        address: 0x7000,
    }
}
impl Scene {
    fn target(&mut self, pasid: Option<Pasid>) -> PageRequestTarget {
        self.unit.check_page_request(&mut self.bus, &request(pasid)).expect("tables")
    }
    fn refused(&mut self, pasid: Option<Pasid>) -> Reason {
        let fault = self.unit.check_page_request(&mut self.bus, &request(pasid)).expect_err("a fault");
        assert_eq!(fault.completion, Completion::InvalidRequest);
        fault.reason
    }
}
fn scene() -> Scene {
    let mut scene = Scene::scalable();
    scene.pasid(SOURCE, 0, PasidEntry::second_stage(0x8000, 2, 5));
    scene.pasid(SOURCE, 3, PasidEntry::first_stage(0x8000, false, 6));
    scene.pasid(SOURCE, 4, PasidEntry::nested(0x8000, false, 0x8000, 2, 7));
    scene.pasid(SOURCE, 5, PasidEntry::pass_through(8));
    scene
}

#[test]
fn a_page_request_finds_its_domain_pasid_and_type() {
    let mut scene = scene();
    let target = |domain, pasid, stage| PageRequestTarget { domain, pasid, stage };
    // From memory and from the caches.
    for _ in 0..2 {
        assert_eq!(scene.target(None), target(5, 0, Stage::Second));
        assert_eq!(scene.target(Some(3)), target(6, 3, Stage::First));
        assert_eq!(scene.target(Some(4)), target(7, 4, Stage::Nested));
        assert_eq!(scene.target(Some(5)), target(8, 5, Stage::PassThrough));
    }
}
#[test]
fn without_pasid_it_goes_by_rid_pasid() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::RID_PASID, 3));
    assert_eq!(scene.target(None).pasid, 3);
}
#[test]
fn page_requests_need_pre() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::PRE, 0));
    assert_eq!(scene.refused(None), Reason::SCT_8);
    assert_eq!(scene.refused(Some(3)), Reason::SCT_8);
}
#[test]
fn page_requests_with_pasid_need_paside() {
    let mut scene = scene();
    scene.change_context(|entry| entry.with(ScalableContextEntry::PASIDE, 0).with(ScalableContextEntry::EPTR, 0));
    assert_eq!(scene.refused(Some(3)), Reason::SCT_6);
    assert_eq!(scene.target(None).pasid, 0);
}
#[test]
fn the_pasid_is_checked() {
    let mut scene = scene();
    assert_eq!(scene.refused(Some(0)), Reason::SCT_9);
    assert_eq!(scene.refused(Some(0x2000)), Reason::SCT_7);
    assert_eq!(scene.refused(Some(0x40)), Reason::SPD_2);
    assert_eq!(scene.refused(Some(6)), Reason::SPT_2);
    // PSS is not looked at.
    scene.unit.profile.ecap &= !(0x1f << 35);
    assert_eq!(scene.target(Some(3)).pasid, 3);
}
#[test]
fn modes_without_page_requests_refuse_them() {
    for (mode, reason) in [(Mode::Legacy, Reason::RTA_3), (Mode::Reserved, Reason::RTA_1), (Mode::Abort, Reason::RTA_4)]
    {
        assert_eq!(Scene::new(Profile::maximal(), mode).refused(None), reason);
    }
    let mut scene = scene();
    scene.unit.state.translation = false;
    assert_eq!(scene.refused(None), Reason::NONE);
}
#[test]
fn table_faults_are_those_of_other_requests() {
    let mut scene = scene();
    assert_eq!(Scene::scalable().refused(None), Reason::SRT_2);
    scene.change_context(|entry| entry.with(ScalableContextEntry::DTE, 0));
    assert_eq!(scene.refused(None), Reason::SCT_4);
    scene.change_context(|_| ScalableContextEntry::default());
    assert_eq!(scene.refused(None), Reason::SCT_2);
}
#[test]
fn fpd_keeps_them_from_being_recorded() {
    let mut scene = scene();
    assert!(scene.unit.check_page_request(&mut scene.bus, &request(Some(6))).expect_err("a fault").recordable);
    scene.pasid(SOURCE, 6, PasidEntry([2, 0, 0, 0, 0, 0, 0, 0]));
    assert!(!scene.unit.check_page_request(&mut scene.bus, &request(Some(6))).expect_err("a fault").recordable);
}
#[test]
fn supervisors_and_executers_may_ask_for_pages() {
    let mut scene = scene();
    let request = PageRequest { privileged: true, execute: true, ..request(Some(3)) };
    assert!(scene.unit.check_page_request(&mut scene.bus, &request).is_ok());
}
