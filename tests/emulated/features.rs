//! What the driver has exercised of each profile, as the machine saw it; the run ends with a table of it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Mutex;

use vtd_emu::Profile;

/// Something that a unit may offer, who has it, and where the unit's own tests show it.
pub struct Feature {
    pub name: &'static str,
    pub has: fn(&Profile) -> bool,
    /// File in `emu/src` and a test in it.
    pub own: (&'static str, &'static str),
}

static SEEN: Mutex<BTreeSet<(&'static str, &'static str)>> = Mutex::new(BTreeSet::new());

/// The driver did this to a unit of this profile.
pub fn note(profile: &Profile, features: impl IntoIterator<Item = &'static str>) {
    SEEN.lock().unwrap().extend(features.into_iter().map(|f| (profile.name, f)));
}

/// The registers of one unit, as far as they say what was exercised.
#[derive(Default)]
pub struct Watch {
    queue: u64,
    tail: u64,
    seen: BTreeSet<&'static str>,
    /// What is queued, while somebody listens.
    pub wire: Option<Wire>,
}

/// What a unit was told by its queue.
#[derive(Clone, Default, Debug)]
pub struct Wire {
    /// The first 16 bytes of each descriptor.
    pub descriptors: Vec<[u64; 2]>,
    /// Writes of the tail.
    pub tails: usize,
    /// Accesses to registers, those writes among them.
    pub accesses: usize,
}

impl Wire {
    fn of(&self, kinds: &[u64]) -> impl Iterator<Item = &[u64; 2]> {
        self.descriptors.iter().filter(|d| kinds.contains(&(d[0] & 0xf | d[0] >> 5 & 0x70)))
    }

    /// How many translations were flushed for: `iotlb` and `p_iotlb`.
    pub fn iotlb(&self) -> usize {
        self.of(&[2, 6]).count()
    }

    /// The page-selective ones among them: first page, order, and whether leaves alone had changed.
    pub fn pages(&self) -> Vec<(u64, u64, bool)> {
        let pages = self.of(&[2, 6]).filter(|d| d[0] >> 4 & 3 == 3);
        pages.map(|d| (d[1] & !0xfff, d[1] & 0x3f, d[1] >> 6 & 1 != 0)).collect()
    }

    /// How many entries were flushed for: `cc` and `pc`.
    pub fn entries(&self) -> usize {
        self.of(&[1, 7]).count()
    }

    pub fn waits(&self) -> usize {
        self.of(&[5]).count()
    }
}

impl Watch {
    pub fn seen(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.seen.iter().copied()
    }

    pub fn note(&mut self, feature: &'static str) {
        self.seen.insert(feature);
    }

    /// A register was read.
    pub fn read(&mut self, at: u32, v: u64) {
        if let Some(wire) = &mut self.wire {
            wire.accesses += 1;
        }
        if at == 0x34 && v != u64::from(u32::MAX) {
            for (bit, name) in [(0, "fault overflow"), (1, "fault records"), (4, "queue errors")] {
                if v >> bit & 1 != 0 {
                    self.note(name);
                }
            }
        }
    }

    /// A register is written; `word` reads memory.
    pub fn write(&mut self, p: &Profile, at: u32, v: u64, word: impl Fn(u64) -> u64) {
        if let Some(wire) = &mut self.wire {
            wire.accesses += 1;
            wire.tails += usize::from(at == 0x88);
        }
        let iotlb = p.iro() as u32 * 16 + 8;
        match at {
            0x18 if v >> 27 & 1 != 0 => self.note("write-buffer flush"),
            0x20 if v >> 10 & 3 == 1 => self.note("scalable mode"),
            0x20 if v >> 10 & 3 == 3 => self.note("abort-DMA mode"),
            0x28 if v >> 63 != 0 => self.note("invalidation by register"),
            at if at == iotlb && v >> 63 != 0 => self.note("invalidation by register"),
            0x64 => self.note("protected memory"),
            0x88 => {
                let size = 4096 << (self.queue & 7);
                while self.tail != v && v < size {
                    let [lo, hi] = [0, 8].map(|half| word((self.queue & !0xfff) + self.tail + half));
                    self.descriptor(lo, hi);
                    // DW.
                    self.tail = (self.tail + (16 << (self.queue >> 11 & 1))) % size;
                }
                self.tail = v;
            }
            0x90 => (self.queue, self.tail) = (v, 0),
            _ => {}
        }
    }

    fn descriptor(&mut self, lo: u64, hi: u64) {
        self.note("queue");
        if let Some(wire) = &mut self.wire {
            wire.descriptors.push([lo, hi]);
        }
        let granularity = lo >> 4 & 3;
        self.note(match (lo & 0xf | lo >> 5 & 0x70, granularity) {
            (1, 1) => "context: all",
            (1, 2) => "context: domain",
            (1, _) => "context: device",
            (2, 1) => "IOTLB: all",
            (2, 2) => "IOTLB: domain",
            (2, _) => "IOTLB: pages",
            (3, _) => "device TLBs",
            (4, _) => "interrupt-entry cache",
            (5, _) if lo >> 4 & 1 != 0 => "waits with interrupt",
            (5, _) => "waits with status",
            (6, _) => "PASID IOTLB",
            (7, _) => "PASID cache",
            (8, _) => "device TLBs with PASID",
            (9, _) => "page-group responses",
            _ => "host permission tables",
        });
    }
}

/// The table; an error where nothing shows a feature that a profile has.
pub fn table(features: &[Feature], profiles: &[Profile]) -> Result<String, String> {
    let seen = SEEN.lock().unwrap();
    let mut text =
        String::from("\nWhat is exercised, by profile: D by the driver, u by the emulated unit's own tests only\n");
    let mut missing = Vec::new();
    let wide = features.iter().map(|f| f.name.len()).max().unwrap_or(0);
    for (n, p) in profiles.iter().enumerate() {
        let _ = writeln!(text, "  {:wide$}  {}{}", "", "| ".repeat(n), p.name);
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("emu/src");
    for f in features {
        let _ = write!(text, "  {:wide$} ", f.name);
        let source = std::fs::read_to_string(root.join(f.own.0)).unwrap_or_default();
        let own = source.contains(&format!("fn {}()", f.own.1));
        for p in profiles {
            let mark = match ((f.has)(p), seen.contains(&(p.name, f.name)), own) {
                (false, false, _) => '.',
                (_, true, _) => 'D',
                (true, false, true) => 'u',
                (true, false, false) => '?',
            };
            if mark == '?' {
                missing.push(format!("{} of {} (no test {} in emu/src/{})", f.name, p.name, f.own.1, f.own.0));
            }
            let _ = write!(text, " {mark}");
        }
        text.push('\n');
    }
    if missing.is_empty() { Ok(text) } else { Err(format!("{text}\nnothing shows:\n  {}", missing.join("\n  "))) }
}
