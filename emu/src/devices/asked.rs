//! The page requests of one function that wait for their answers (7.4 to 7.6).

use crate::bus::GroupResponse;
use crate::request::{PageRequest, Pasid};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The groups that are outstanding.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    groups: BTreeMap<(Option<Pasid>, u16), Group>,
    answered: Vec<GroupResponse>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Group {
    pages: u32,
    /// The last request has been sent: a response is due.
    complete: bool,
}

/// What a response means to the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It answers a group that was outstanding.
    Expected,
    /// There is no such group.
    Unexpected,
}

impl Groups {
    /// The function sends a request. A stop marker belongs to no group and has no answer.
    pub(crate) fn send(&mut self, request: &PageRequest) {
        if request.read || request.write {
            let group = self.groups.entry((request.pasid, request.group)).or_default();
            group.pages = group.pages.saturating_add(1);
            group.complete |= request.last;
        }
    }

    pub(crate) fn pages(&self) -> u32 {
        self.groups.values().fold(0, |n, g| n.saturating_add(g.pages))
    }

    /// The groups that wait, and whether their last request has been sent.
    pub(crate) fn outstanding(&self) -> Vec<(Option<Pasid>, u16, bool)> {
        self.groups.iter().map(|(&(pasid, group), g)| (pasid, group, g.complete)).collect()
    }

    /// A response arrives; `strict`: the function wants the PASID back.
    pub(crate) fn answer(&mut self, response: &GroupResponse, strict: bool) -> Verdict {
        self.answered.push(*response);
        let key = (response.pasid, response.group);
        let found = match self.groups.get(&key) {
            Some(g) if g.complete => Some(key),
            _ if !strict && response.pasid.is_none() => {
                self.groups.iter().find(|((_, n), g)| *n == response.group && g.complete).map(|(&k, _)| k)
            }
            _ => None,
        };
        match found.and_then(|k| self.groups.remove(&k)) {
            Some(_) => Verdict::Expected,
            None => Verdict::Unexpected,
        }
    }

    /// The responses so far, which are forgotten with that.
    pub(crate) fn take(&mut self) -> Vec<GroupResponse> {
        core::mem::take(&mut self.answered)
    }

    pub(crate) fn clear(&mut self) {
        self.groups.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pasid: Option<Pasid>, group: u16, last: bool) -> PageRequest {
        PageRequest {
            source: 8,
            pasid,
            privileged: false,
            execute: false,
            read: true,
            write: false,
            last,
            group,
            address: 0x1000,
        }
    }

    fn response(pasid: Option<Pasid>, group: u16) -> GroupResponse {
        GroupResponse { source: 8, pasid, group, code: 0 }
    }

    #[test]
    fn a_group_is_outstanding_until_it_is_answered_and_only_once() {
        let mut groups = Groups::default();
        groups.send(&ask(Some(1), 5, false));
        groups.send(&ask(Some(1), 5, true));
        assert_eq!(groups.pages(), 2);
        assert_eq!(groups.outstanding(), [(Some(1), 5, true)]);
        assert_eq!(groups.answer(&response(Some(1), 5), true), Verdict::Expected);
        assert_eq!(groups.answer(&response(Some(1), 5), true), Verdict::Unexpected);
        assert_eq!(groups.pages(), 0);
        assert_eq!(groups.take().len(), 2);
        assert!(groups.take().is_empty());
    }

    #[test]
    fn a_response_before_the_last_request_is_unexpected() {
        let mut groups = Groups::default();
        groups.send(&ask(None, 5, false));
        assert_eq!(groups.answer(&response(None, 5), true), Verdict::Unexpected);
        assert_eq!(groups.pages(), 1);
    }

    #[test]
    fn a_response_without_the_pasid_serves_functions_that_do_not_want_it_back() {
        let mut groups = Groups::default();
        groups.send(&ask(Some(1), 5, true));
        assert_eq!(groups.answer(&response(None, 5), true), Verdict::Unexpected);
        assert_eq!(groups.answer(&response(None, 5), false), Verdict::Expected);
    }

    #[test]
    fn stop_markers_wait_for_nothing() {
        let mut groups = Groups::default();
        groups.send(&PageRequest { read: false, ..ask(Some(1), 0, true) });
        assert!(groups.outstanding().is_empty());
    }
}
