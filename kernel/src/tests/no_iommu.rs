//! A machine without a remapping unit: the driver says so, and nothing else changes.

use crate::devices::edu::Edu;
use crate::iommu::{NoIommu, Session, topology};
use crate::memory::buffer::Buffer;
use crate::{check, check_eq, skip, test};
use vtd::Config;

test! {
    fn the_driver_says_what_is_missing() {
        match topology() {
            Err(NoIommu::NoTable) => {}
            Err(e) => check!(false, "{e}"),
            Ok(_) => skip!("this machine has a remapping unit"),
        }
        match Session::start(Config::default()) {
            Err(NoIommu::NoTable) => {}
            Err(e) => check!(false, "{e}"),
            Ok(_) => check!(false, "the driver came up on nothing"),
        }
    }

    fn devices_reach_memory_unhindered() {
        if topology().is_ok() {
            skip!("this machine has a remapping unit");
        }
        let Some(dev) = Edu::all().next() else { skip!("no edu device") };
        let page = Buffer::new(0).ok_or("no memory")?;
        page.set(0, 0x600d);
        dev.read_memory(page.hpa().get(), 0, 4)?;
        dev.write_memory(page.hpa().get() + 4, 0, 4)?;
        check_eq!(page.get(1), 0x600d);
    }
}
