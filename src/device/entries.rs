//! The one writer of context entries (VT-d 3.4.3, 9.3), and what each change of one must flush (6.2.2.1, 6.8).

use crate::host::address::SourceId;
use crate::host::error::ErrorKind;
use crate::host::platform::Platform;
use crate::hw::tables::ContextEntry;
use crate::unit::invalidate::{Batch, Request};
use crate::unit::{Host, Unit};

/// What a change leaves to be done before it is true for the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Due {
    /// The entry that was there, where it was present.
    old: Option<ContextEntry>,
    new: ContextEntry,
    source: SourceId,
}

impl Due {
    /// Whether a present entry was replaced by a present one.
    pub(crate) fn seamless(&self) -> bool {
        self.old.is_some() && self.new.present()
    }

    /// Adds what must be invalidated. `false`: the batch is full, send it and start another.
    pub(crate) fn add_to<P: Platform>(&self, unit: &Unit<P>, batch: &mut Batch) -> bool {
        let source = self.source.0;
        match self.old {
            Some(old) => {
                let did = old.did();
                batch.push(Request::ContextDevice { did, source }) && batch.push(Request::IotlbDomain { did })
            }
            // A unit in caching mode may have cached that the entry was absent, under domain id 0.
            None if unit.caps.cap.cm() && self.new.present() => {
                batch.push(Request::ContextDevice { did: 0, source })
                    && batch.push(Request::IotlbDomain { did: self.new.did() })
            }
            None => true,
        }
    }
}

/// Makes sure that writing the entry of `source` will not need memory.
pub(crate) fn prepare<P: Platform>(h: &Host<P>, unit: &Unit<P>, source: SourceId) -> Result<(), ErrorKind> {
    unit.root.lock(&h.platform).prepare(&h.platform, source)
}

/// Writes the entry of `source`: at once where one was present, presence last where not.
pub(crate) fn write<P: Platform>(
    h: &Host<P>,
    unit: &Unit<P>,
    source: SourceId,
    new: ContextEntry,
) -> Result<Due, ErrorKind> {
    let mut root = unit.root.lock(&h.platform);
    let old = root.get(source);
    root.set(&h.platform, source, new)?;
    Ok(Due { old: old.present().then_some(old), new, source })
}
