//! Virtio devices over PCI, by crate `virtio-drivers`, with their DMA under an IOMMU's control: the crate's `Hal` asks a
//! `Dma` for every input address, one for each slot, and data goes through frames of its own, so that a device never
//! reaches what happens to lie beside a buffer.

use super::DeviceError;
use crate::memory::{frames, paging};
use crate::pci::{Function, ecam};
use crate::sync::IrqLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};
use vtd::{DeviceId, PAGE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Vendor of all virtio devices.
pub const VENDOR: u16 = 0x1af4;
/// Device ids: a disk, a source of entropy.
pub const BLOCK: u16 = 0x1042;
pub const ENTROPY: u16 = 0x1044;

/// Devices that can be in use at once, each with its own way to memory.
pub const SLOTS: usize = 4;

/// How the device in a slot reaches memory.
pub trait Dma: Send + Sync {
    /// Lets the device reach `2^order` frames at `at`, to read, and to write where `write` says so: the input address,
    /// or nothing where that is not possible. Input addresses are multiples of a page and not 0.
    fn map(&self, at: NonNull<u8>, order: u8, write: bool) -> Option<u64>;
    /// Takes that back. `true` when the device reaches the frames no more; where that is not sure they are never used
    /// for anything else.
    fn unmap(&self, iova: u64, order: u8) -> bool;
}

/// A slot's way to memory; none where nothing is in between, and input addresses are physical.
type Way = Option<Arc<dyn Dma>>;

/// Frames that a device reaches.
struct Shared {
    slot: usize,
    iova: u64,
    at: NonNull<u8>,
    order: u8,
}

// SAFETY: the frames belong to the entry, whichever CPU looks at it.
unsafe impl Send for Shared {}

static WAYS: IrqLock<[Way; SLOTS]> = IrqLock::new([const { None }; SLOTS]);
static SHARED: IrqLock<Vec<Shared>> = IrqLock::new(Vec::new());

/// Says how the device in `slot` reaches memory, before it is opened; `None` for directly.
pub fn set_dma(slot: usize, way: Option<Arc<dyn Dma>>) {
    let was = core::mem::replace(&mut WAYS.lock()[slot], way);
    // Not under the lock: it may be the last to hold what it stands for.
    drop(was);
}

fn way(slot: usize) -> Way {
    WAYS.lock()[slot].clone()
}

/// How many runs of frames the device in `slot` reaches: none once it has been closed.
pub fn shared_count(slot: usize) -> usize {
    SHARED.lock().iter().filter(|s| s.slot == slot).count()
}

fn order_of(bytes: usize) -> u8 {
    bytes.div_ceil(PAGE as usize).next_power_of_two().ilog2() as u8
}

/// Takes frames and has the device reach them.
fn acquire(slot: usize, bytes: usize, write: bool) -> Option<(u64, NonNull<u8>)> {
    let order = order_of(bytes);
    let at = frames::alloc(order)?;
    let iova = match way(slot) {
        Some(way) => way.map(at, order, write),
        None => Some(frames::hpa(at).get()),
    };
    let Some(iova) = iova else {
        // SAFETY: just handed out, and no device has been told of it.
        unsafe { frames::free(at, order) };
        return None;
    };
    SHARED.lock().push(Shared { slot, iova, at, order });
    Some((iova, at))
}

/// Ends what `acquire` began, after `look` has seen the frames, which the device no longer reaches.
fn release(slot: usize, iova: u64, look: impl FnOnce(NonNull<u8>)) {
    let shared = {
        let mut all = SHARED.lock();
        let i = all.iter().position(|s| s.slot == slot && s.iova == iova).expect("shared before");
        all.swap_remove(i)
    };
    let unreached = way(slot).is_none_or(|way| way.unmap(iova, shared.order));
    look(shared.at);
    if unreached {
        // SAFETY: from `acquire`; the device has been kept from it.
        unsafe { frames::free(shared.at, shared.order) };
    }
}

/// The crate's way to memory, for the device in slot `SLOT`.
pub struct SlotHal<const SLOT: usize>;

// SAFETY: memory handed out is zeroed, page-aligned and nobody else's until it is given back; registers are mapped.
unsafe impl<const SLOT: usize> Hal for SlotHal<SLOT> {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // The crate takes address 0 for a failure.
        acquire(SLOT, pages * PAGE as usize, true).unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(iova: PhysAddr, _at: NonNull<u8>, _pages: usize) -> i32 {
        release(SLOT, iova, |_| {});
        0
    }

    unsafe fn mmio_phys_to_virt(at: PhysAddr, size: usize) -> NonNull<u8> {
        paging::map_device(at, size as u64).expect("registers of a virtio device");
        NonNull::new(at as *mut u8).expect("registers of a virtio device")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let write = direction != BufferDirection::DriverToDevice;
        // The crate gives no way to refuse; this kernel's tests do not go on without memory here.
        let (iova, at) = acquire(SLOT, buffer.len(), write).expect("no memory to share with a virtio device");
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the buffer is valid by the crate's promise, the frames are at least as large and ours.
            unsafe { at.copy_from_nonoverlapping(buffer.cast(), buffer.len()) };
        }
        iova
    }

    unsafe fn unshare(iova: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        release(SLOT, iova, |at| {
            if direction != BufferDirection::DriverToDevice {
                // SAFETY: as in `share`, the other way.
                unsafe { at.copy_to_nonoverlapping(buffer.cast(), buffer.len()) };
            }
        });
    }
}

/// Configuration space for the crate: one segment.
struct Segment(u16);

impl Segment {
    fn id(&self, f: DeviceFunction) -> DeviceId {
        DeviceId::new(self.0, f.bus, f.device, f.function)
    }
}

impl ConfigurationAccess for Segment {
    fn read_word(&self, f: DeviceFunction, at: u8) -> u32 {
        ecam::read(self.id(f), at.into()).unwrap_or(u32::MAX)
    }

    fn write_word(&mut self, f: DeviceFunction, at: u8, v: u32) {
        let _ = ecam::write(self.id(f), at.into(), v);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Segment(self.0)
    }
}

/// The crate's PCI transport, accepting also the feature that it does not know: that the platform stands between the
/// device and memory (VIRTIO_F_ACCESS_PLATFORM), without which a device behind an IOMMU refuses to work.
pub struct PlatformTransport(PciTransport);

const ACCESS_PLATFORM: u64 = 1 << 33;

impl Transport for PlatformTransport {
    fn write_driver_features(&mut self, features: u64) {
        let offered = self.0.read_device_features() & ACCESS_PLATFORM;
        self.0.write_driver_features(features | offered);
    }

    fn device_type(&self) -> DeviceType {
        self.0.device_type()
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.read_device_features()
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.0.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.0.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status);
    }
    fn set_guest_page_size(&mut self, size: u32) {
        self.0.set_guest_page_size(size);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.0.requires_legacy_layout()
    }
    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.0.queue_set(queue, size, descriptors, driver, device);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.0.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.0.read_config_generation()
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, at: usize) -> virtio_drivers::Result<T> {
        self.0.read_config_space(at)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, at: usize, v: T) -> virtio_drivers::Result<()> {
        self.0.write_config_space(at, v)
    }
}

/// A disk, and a source of entropy.
pub type Disk<const SLOT: usize> = VirtIOBlk<SlotHal<SLOT>, PlatformTransport>;
pub type Entropy<const SLOT: usize> = VirtIORng<SlotHal<SLOT>, PlatformTransport>;

fn transport<const SLOT: usize>(function: &Function) -> Result<PlatformTransport, DeviceError> {
    function.set_memory(true);
    function.set_bus_master(true);
    let source = function.id.source;
    let place = DeviceFunction { bus: source.bus(), device: source.device(), function: source.function() };
    let mut root = PciRoot::new(Segment(function.id.segment));
    let mut inner = PciTransport::new::<SlotHal<SLOT>, _>(&mut root, place).map_err(|_| DeviceError::Missing)?;
    // Without that feature the device takes input addresses for physical ones.
    if way(SLOT).is_some() && inner.read_device_features() & ACCESS_PLATFORM == 0 {
        return Err(DeviceError::Unguarded);
    }
    Ok(PlatformTransport(inner))
}

/// Opens the disk that `function` is, in slot `SLOT`.
pub fn open_disk<const SLOT: usize>(function: &Function) -> Result<Disk<SLOT>, DeviceError> {
    Disk::new(transport::<SLOT>(function)?).map_err(|_| DeviceError::Refused)
}

/// Opens the source of entropy that `function` is, in slot `SLOT`.
pub fn open_entropy<const SLOT: usize>(function: &Function) -> Result<Entropy<SLOT>, DeviceError> {
    Entropy::new(transport::<SLOT>(function)?).map_err(|_| DeviceError::Refused)
}
