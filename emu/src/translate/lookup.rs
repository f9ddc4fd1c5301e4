//! The IOTLB on the way of a request: asked, and filled (6.2.4).

use super::outcome::{Found, denials};
use super::{Stop, Walk, Want};
use crate::caches::{Cached, Leaf, Stage};
use crate::explain::{Observer, Step};
use crate::reason::Reason;
use crate::request::{Answer, Kind, Pasid, Request};
use crate::state::Mode;

/// The tags of a translation that invalidations compare (Table 17).
#[derive(Clone, Copy, Debug)]
pub(super) struct Tags {
    pub(super) domain: u16,
    pub(super) pasid: Pasid,
    pub(super) stage: Stage,
}

impl<O: Observer> Walk<'_, O> {
    /// The answer from the IOTLB alone, for requests whose context and PASID entries say nothing that the translation does not.
    ///
    /// If it is not a plain yes, the context and PASID entries are needed to know whether the fault is one to record.
    pub(super) fn warm(&mut self, request: &Request, want: &Want) -> Option<Answer> {
        let by_context = request.pasid.is_none() && self.profile.rprivs() && self.state.mode == Mode::Scalable;
        if request.kind != Kind::Untranslated || want.privileged || request.execute || by_context {
            return None;
        }
        let caches = self.caches.as_deref_mut()?;
        let Cached::Valid(leaf) = caches.leaf(request.source, request.pasid, request.address)? else { return None };
        let found = Found::of(leaf);
        let check = |failed, reason| if failed { Err(reason) } else { Ok(()) };
        let grant = self.judge(&found, request, want, check).ok()?;
        if want.write && !found.dirty {
            return None;
        }
        self.observer.see(|| held(&found));
        Some(self.granted(&found, &grant, request, want))
    }
    /// The answer from the IOTLB, for a request whose context and PASID entries are known.
    pub(super) fn cached(&mut self, request: &Request, want: &Want) -> Result<Option<Answer>, Stop> {
        let Some(caches) = self.caches.as_deref_mut() else { return Ok(None) };
        let found = match caches.leaf(request.source, request.pasid, request.address) {
            None => return Ok(None),
            Some(Cached::Valid(leaf)) => Found::of(leaf),
            Some(Cached::Faulting(reason)) => {
                // What an absent entry means in legacy mode depends on who meets it.
                let (no_write, no_read) = denials(self.state);
                let reason = match *reason {
                    Reason::LGN_2 | Reason::LGN_3 if want.write => no_write,
                    Reason::LGN_2 | Reason::LGN_3 => no_read,
                    other => other,
                };
                self.observer.see(|| Step::HeldFault(reason));
                return Err(Stop::Fault(reason));
            }
        };
        self.observer.see(|| held(&found));
        let grant = self.admit(&found, request, want)?;
        // The dirty bits are to be set first.
        if want.write && grant.write && !found.dirty {
            return Ok(None);
        }
        Ok(Some(self.granted(&found, &grant, request, want)))
    }
    /// Keeps a translation.
    pub(super) fn keep(&mut self, request: &Request, found: &Found, tags: &Tags) {
        let path = match self.keeper() {
            Some(_) => self.trail.since(0),
            None => return,
        };
        let leaf = Leaf {
            first: found.first,
            size: found.size,
            physical: found.physical,
            read: found.read,
            write: found.write,
            first_rights: found.rights,
            dirty: found.dirty,
            snoop: found.snoop,
            memory: found.memory,
            domain: tags.domain,
            pasid: tags.pasid,
            stage: tags.stage,
            path,
        };
        if let Some(caches) = self.keeper() {
            caches.keep_leaf(request.source, request.pasid, leaf);
        }
    }
    /// On caching-mode units keeps the fault of a second-stage entry (6.2.4.1), unless FPD would have to be remembered with it.
    pub(super) fn keep_fault(&mut self, request: &Request, stop: Stop, tags: &Tags) {
        let Stop::Fault(reason) = stop else { return };
        if self.profile.cm()
            && self.keeps_fault
            && !self.silent
            && let Some(caches) = self.caches.as_deref_mut()
        {
            let tags = (tags.domain, tags.pasid, tags.stage);
            caches.keep_fault((request.source, request.pasid, request.address), tags, reason);
        }
    }
}

fn held(found: &Found) -> Step {
    Step::HeldPage { first: found.first, size: found.size, physical: found.physical, stage: found.stage }
}
