//! Invalidation queues: descriptors that are right, and such that are nearly.

use super::*;
use crate::differential::form::Tables;
use crate::differential::layout::{QUEUE, STATUS};
use crate::differential::registers::{ICS, IQE};

/// A queue that the case has set up.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Descriptors of 256 bits.
    pub wide: bool,
    /// Bytes.
    size: u64,
    tail: u64,
}

/// A descriptor; narrow ones have the first two words.
pub type Descriptor = [u64; 4];

/// Descriptor types.
const CONTEXTS: u64 = 1;
const IOTLB: u64 = 2;
const DEVICE: u64 = 3;
const INTERRUPTS: u64 = 4;
const WAIT: u64 = 5;
const PASID_IOTLB: u64 = 6;
const PASIDS: u64 = 7;
const RESPONSE: u64 = 9;

const STATUS_WRITE: u64 = 1 << 5;
const FENCE: u64 = 1 << 6;

/// What one invalidation of a domain covers.
#[derive(Clone, Copy, Debug)]
pub enum Cover {
    Global,
    Domain(u16),
    /// Domain, first address, log2 of the pages, nothing but leaves changed.
    Pages(u16, u64, u8, bool),
}

pub fn iotlb(cover: Cover) -> Descriptor {
    match cover {
        Cover::Global => [IOTLB | 1 << 4 | 3 << 6, 0, 0, 0],
        Cover::Domain(domain) => [IOTLB | 2 << 4 | 3 << 6 | u64::from(domain) << 16, 0, 0, 0],
        Cover::Pages(domain, at, order, leaf) => {
            let at = at & !((0x1000 << order) - 1);
            let word = at | u64::from(order) | u64::from(leaf) << 6;
            [IOTLB | 3 << 4 | 3 << 6 | u64::from(domain) << 16, word, 0, 0]
        }
    }
}

/// The same for first-stage tables.
pub fn pasid_iotlb(cover: Cover) -> Descriptor {
    match cover {
        Cover::Global => iotlb(cover),
        Cover::Domain(domain) => [PASID_IOTLB | 2 << 4 | u64::from(domain) << 16, 0, 0, 0],
        Cover::Pages(domain, at, order, leaf) => {
            let at = at & !((0x1000 << order) - 1);
            let word = at | u64::from(order) | u64::from(leaf) << 6;
            [PASID_IOTLB | 3 << 4 | u64::from(domain) << 16, word, 0, 0]
        }
    }
}

/// The context entry of one source, or all.
pub fn contexts(of: Option<(u16, u16)>) -> Descriptor {
    match of {
        None => [CONTEXTS | 1 << 4, 0, 0, 0],
        Some((source, domain)) => [CONTEXTS | 3 << 4 | u64::from(domain) << 16 | u64::from(source) << 32, 0, 0, 0],
    }
}

/// The PASID entries of a domain, or all.
pub fn pasids(of: Option<u16>) -> Descriptor {
    match of {
        None => [PASIDS | 3 << 4, 0, 0, 0],
        Some(domain) => [PASIDS | u64::from(domain) << 16, 0, 0, 0],
    }
}

impl Maker {
    /// Sets a queue up.
    pub fn enable_queue(&mut self, wide: bool) {
        let order = if self.random.percent(85) { 0 } else { self.random.below(3) };
        self.write_quad(IQA, QUEUE | u64::from(wide) << 11 | order);
        self.queue = Some(Queue { wide, size: 0x1000 << order, tail: 0 });
        self.turn(QIE, true);
    }

    /// Puts descriptors into the queue without telling the unit.
    fn put(&mut self, descriptors: &[Descriptor]) {
        let Some(mut queue) = self.queue else { return };
        let length = if queue.wide { 32 } else { 16 };
        let mut words = Vec::new();
        for descriptor in descriptors {
            let at = QUEUE + queue.tail;
            words.extend((0..length / 8).map(|word| (at + 8 * word, descriptor[word as usize])));
            queue.tail = (queue.tail + length) % queue.size;
        }
        self.queue = Some(queue);
        self.step(Step::Store(words));
    }

    fn ring(&mut self) {
        let Some(queue) = self.queue else { return };
        self.write(IQT, Quad, queue.tail);
        self.look_at_queue();
    }

    fn look_at_queue(&mut self) {
        self.read(IQH, Quad);
        self.read(FSTS, Double);
        self.read(ICS, Double);
    }

    /// A wait that writes its status.
    fn wait(&mut self) -> (Descriptor, u64) {
        let (data, slot) = (self.random.bits() & 0xffff_ffff, self.random.below(64));
        let at = STATUS + 4 * slot;
        let fence = if self.random.percent(30) { FENCE } else { 0 };
        ([WAIT | STATUS_WRITE | fence | data << 32, at, 0, 0], at & !7)
    }

    /// Has the unit do these and waits until it has.
    pub fn submit(&mut self, descriptors: &[Descriptor]) {
        let (wait, status) = self.wait();
        self.put(&[descriptors, &[wait]].concat());
        self.ring();
        self.step(Step::Look(status));
    }

    /// A descriptor that has nothing wrong with it.
    fn sound(&mut self, wide: bool) -> Descriptor {
        let (domain, source) = (self.random.below(4) as u16, self.pick(&Device::ALL).source());
        let page = self.random.bits() & 0xffff_ffff_f000;
        let order = self.random.below(19) as u8;
        let leaf = self.random.percent(50);
        let cover = match self.random.below(3) {
            0 => Cover::Global,
            1 => Cover::Domain(domain),
            _ => Cover::Pages(domain, page, order, leaf),
        };
        let all = wide && (self.scalable || self.deviant && self.random.percent(20));
        match self.random.below(if all { 11 } else { 8 }) {
            0 => contexts(None),
            1 => [CONTEXTS | 2 << 4 | u64::from(domain) << 16, 0, 0, 0],
            2 => {
                let [word, ..] = contexts(Some((source, domain)));
                [word | self.random.below(4) << 48, 0, 0, 0]
            }
            3 | 4 => iotlb(cover),
            5 => [INTERRUPTS, 0, 0, 0],
            6 => [INTERRUPTS | 1 << 4 | self.random.below(16) << 27 | (self.random.bits() & 0xffff) << 32, 0, 0, 0],
            7 => [WAIT | FENCE | (self.random.bits() & 0xffff_ffff) << 32, 0, 0, 0],
            8 => pasid_iotlb(match cover {
                Cover::Global => Cover::Domain(domain),
                cover => cover,
            }),
            9 => pasids(if leaf { None } else { Some(domain) }),
            _ => {
                let pasid = self.random.bits() & 0xf_ffff;
                [PASIDS | 1 << 4 | u64::from(domain) << 16 | pasid << 32, 0, 0, 0]
            }
        }
    }

    /// A descriptor with something wrong, or right, by chance.
    fn unsound(&mut self, wide: bool) -> Descriptor {
        if self.deviant && self.random.percent(60) {
            return self.deviant(wide);
        }
        let mut descriptor = self.sound(wide);
        let words = if wide { 4 } else { 2 };
        match self.random.below(10) {
            // Another type.
            0 => descriptor[0] = descriptor[0] & !0xf | self.random.below(16),
            1 => descriptor[0] |= (1 + self.random.below(7)) << 9,
            // Another granularity.
            2 => descriptor[0] = descriptor[0] & !0x30 | self.random.below(4) << 4,
            // Another size of the range.
            3 => descriptor[1] = descriptor[1] & !0x3f | self.random.below(64),
            // A status address that is nothing.
            4 => descriptor = [WAIT | STATUS_WRITE, STATUS + self.random.below(8), 0, 0],
            5 => {
                let flags = (1 + self.random.below(7)) << 4;
                descriptor = [WAIT | flags | self.random.bits() << 32, STATUS, 0, 0];
            }
            _ => {
                let word = self.random.below(words) as usize;
                descriptor[word] ^= 1 << self.random.below(64);
            }
        }
        descriptor
    }

    /// One that QEMU is known to take otherwise.
    fn deviant(&mut self, wide: bool) -> Descriptor {
        match self.random.below(if wide { 7 } else { 5 }) {
            0 => [WAIT, STATUS, 0, 0],
            1 => [WAIT | STATUS_WRITE, STATUS | 1 << 33, 0, 0],
            2 => [DEVICE | u64::from(self.pick(&Device::ALL).source()) << 32, 0x1000, 0, 0],
            3 => [RESPONSE | 1 << 4 | self.random.bits() & 0xffff_0000, 0, 0, 0],
            4 => [INTERRUPTS | 1 << 4 | (16 + self.random.below(16)) << 27, 0, 0, 0],
            5 => pasids(None),
            _ => [PASID_IOTLB | 3 << 4, 19 + self.random.below(40), 0, 0],
        }
    }

    /// A case about the queue.
    pub fn queue(&mut self) {
        let scalable = self.form.tables != Tables::Legacy;
        let wide = scalable && self.random.percent(70);
        self.enable_queue(wide);
        let root = self.frame();
        let legacy = !wide || self.random.percent(30);
        self.root(root | u64::from(!legacy) << 10);
        for _ in 0..1 + self.random.below(4) {
            let count = 1 + self.random.below(6);
            let bad = self.random.percent(60);
            let mut descriptors: Vec<Descriptor> = (0..count).map(|_| self.sound(wide)).collect();
            if bad {
                let which = self.random.below(count) as usize;
                descriptors[which] = self.unsound(wide);
            }
            if self.random.percent(40) {
                let (wait, _) = self.wait();
                descriptors.push(wait);
            }
            let begin = self.queue;
            self.put(&descriptors);
            if self.random.percent(5) {
                self.bad_tail();
            } else {
                self.ring();
            }
            self.recover(begin, descriptors.len());
        }
    }

    /// A tail that no queue has.
    fn bad_tail(&mut self) {
        let Some(queue) = self.queue else { return };
        let tail = match self.random.below(2) {
            0 if queue.wide => queue.tail ^ 0x10,
            _ => queue.size + 16 * self.random.below(16) * 2,
        };
        self.write(IQT, Quad, tail & 0x7_fff0);
        self.look_at_queue();
    }

    /// Puts waits in the place of whatever was there, and has the unit go on.
    fn recover(&mut self, begin: Option<Queue>, count: usize) {
        let Some(queue) = begin else { return };
        self.queue = Some(queue);
        self.put(&vec![[WAIT | FENCE, 0, 0, 0]; count]);
        // Cleared first, an error that the tail made would come back.
        let tail = self.queue.map_or(0, |queue| queue.tail);
        self.write(IQT, Quad, tail);
        self.write(FSTS, Double, IQE);
        self.submit(&[]);
    }
}
