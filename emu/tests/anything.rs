//! Whatever software and devices do, in whatever order, over whatever memory: nothing panics, and time goes on.

mod common;

use common::{FSTS, GCMD, IQA, IQH, IQT, IRTA, RTADDR};
use proptest::prelude::*;
use vtd_emu::{
    Access, Alias, Answers, Dma, Form, Function, FunctionId, Kind, Machine, Manner, Memory, Pace, PageRequest, Probe,
    Profile, Ram, Random, Request, Size, Via,
};

/// Bytes of memory: small, so that tables made of anything lead to others.
const MEMORY: u64 = 1 << 20;

/// The invalidation queue: the last page.
const QUEUE: u64 = MEMORY - 4096;

/// The fields of descriptors, by type.
const FIELDS: [(u64, u64); 11] = [
    (0, 0),
    (0x0003_ffff_ffff_0030, 0),
    (0x0000_0000_ffff_00f0, !0xf80),
    (0x0000_ffff_001f_0000, !0xffe),
    (0x0000_ffff_f800_0010, 0),
    (0xffff_ffff_0000_0070, MEMORY - 4),
    (0x000f_ffff_ffff_0030, !0xf80),
    (0x000f_ffff_ffff_0030, 0),
    (0x000f_ffff_ffff_01f0, !0x7fe),
    (0x000f_ffff_ffff_f010, 0xff8),
    (0x0000_0000_ffff_0030, !0xf00),
];

#[derive(Clone, Debug)]
enum Act {
    Read(u32, Size),
    Write(u32, Size, u64),
    Command(u32, u64),
    Store(u64, u64),
    Flush(u64, u64),
    Fence,
    Allocate(u64, u64),
    Free(u64, u64),
    Relax(u64),
    Step(u32),
    DmaRead(usize, Dma, usize),
    DmaWrite(usize, Dma, usize),
    Copy(usize, Dma, Dma, usize),
    Add(usize, Dma),
    Translate(usize, Dma, bool),
    Ask(usize, PageRequest),
    Request(Request),
    ConfigWrite(u16, u16, Size, u32),
    Msi(usize),
    Remove(usize),
    Manner(usize, Manner),
    Enable(u16),
    /// A descriptor, with its type and whatever else, goes into the queue.
    Descriptor(u64, [u64; 2]),
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![Just(Size::Byte), Just(Size::Word), Just(Size::Double), Just(Size::Quad)]
}

/// Numbers as they occur: anything, small, near powers of two, and words of tables in this memory.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..64u64,
        (0..64u32, -2..3i64).prop_map(|(bit, off)| (1u64 << bit).wrapping_add_signed(off)),
        (0..MEMORY / 4096, 0..0x1000u64).prop_map(|(page, low)| page << 12 | low),
        (0..4096u64).prop_map(|low| 0xfee0_0000 | low << 2),
    ]
}

fn dma() -> impl Strategy<Value = Dma> {
    let via = prop_oneof![Just(Via::Unit), Just(Via::DeviceTlb), Just(Via::Nothing)];
    let pasid = prop::option::of(0..1u32 << 20);
    let forged = prop::option::weighted(0.1, any::<u16>());
    (number(), pasid, any::<(bool, bool, bool)>(), via, forged).prop_map(
        |(address, pasid, (privileged, execute, no_snoop), via, forged)| Dma {
            address,
            pasid,
            privileged,
            execute,
            no_snoop,
            via,
            forged,
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Untranslated),
        any::<bool>().prop_map(|no_write| Kind::Translation { no_write }),
        Just(Kind::Translated),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Flush), Just(Access::Write), Just(Access::Atomic)]
}

fn request() -> impl Strategy<Value = Request> {
    (dma(), kind(), access(), 0..9000u32, 0..32u16).prop_map(|(d, kind, access, length, source)| Request {
        pasid: d.pasid,
        privileged: d.privileged,
        execute: d.execute,
        kind,
        address: d.address,
        length,
        no_snoop: d.no_snoop,
        ..Request::new(source, access, 0)
    })
}

fn page_request() -> impl Strategy<Value = PageRequest> {
    (dma(), any::<(bool, bool, bool)>(), any::<u16>()).prop_map(|(d, (read, write, last), group)| PageRequest {
        source: 0,
        pasid: d.pasid,
        privileged: d.privileged,
        execute: d.execute,
        read,
        write,
        last,
        group,
        address: d.address,
    })
}

fn manner() -> impl Strategy<Value = Manner> {
    let answers = prop_oneof![
        Just(Answers::AtOnce),
        number().prop_map(Answers::After),
        number().prop_map(Answers::Within),
        Just(Answers::Never),
    ];
    (answers, 0..3u32, 0..3u32, any::<(bool, bool, bool)>())
        .prop_map(|(answers, flood, wild, (keeps, deaf, unruly))| Manner { answers, keeps, flood, deaf, wild, unruly })
}

fn act() -> impl Strategy<Value = Act> {
    let register = || prop_oneof![0..0x120u32, 0..0x1000u32, any::<u32>()];
    // The registers that bring a unit up, with something like the values that they want.
    let likely = prop_oneof![Just(GCMD), Just(RTADDR), Just(IRTA), Just(0xc8), Just(0xd0)];
    let f = || 0..5usize;
    prop_oneof![
        2 => (register(), size()).prop_map(|(at, size)| Act::Read(at, size)),
        4 => (register(), size(), number()).prop_map(|(at, size, v)| Act::Write(at, size, v)),
        8 => (likely, number()).prop_map(|(at, v)| Act::Command(at, v)),
        4 => (0..MEMORY / 8, number()).prop_map(|(at, v)| Act::Store(at * 8, v)),
        1 => (number(), 0..9000u64).prop_map(|(at, len)| Act::Flush(at, len)),
        1 => Just(Act::Fence),
        1 => (number(), 0..9000u64).prop_map(|(at, len)| Act::Allocate(at, len)),
        1 => (number(), 0..9000u64).prop_map(|(at, len)| Act::Free(at, len)),
        2 => number().prop_map(Act::Relax),
        2 => (0..20u32).prop_map(Act::Step),
        4 => (f(), dma(), 0..9000usize).prop_map(|(f, d, n)| Act::DmaRead(f, d, n)),
        4 => (f(), dma(), 0..9000usize).prop_map(|(f, d, n)| Act::DmaWrite(f, d, n)),
        1 => (f(), dma(), dma(), 0..9000usize).prop_map(|(f, a, b, n)| Act::Copy(f, a, b, n)),
        2 => (f(), dma()).prop_map(|(f, d)| Act::Add(f, d)),
        3 => (f(), dma(), any::<bool>()).prop_map(|(f, d, no_write)| Act::Translate(f, d, no_write)),
        3 => (f(), page_request()).prop_map(|(f, p)| Act::Ask(f, p)),
        8 => request().prop_map(Act::Request),
        2 => (0..32u16, 0..0x140u16, size(), any::<u32>()).prop_map(|(s, at, size, v)| Act::ConfigWrite(s, at, size, v)),
        1 => f().prop_map(Act::Msi),
        1 => f().prop_map(Act::Remove),
        1 => (f(), manner()).prop_map(|(f, m)| Act::Manner(f, m)),
        2 => (0..32u16).prop_map(Act::Enable),
        8 => (0..12u64, number(), number()).prop_map(|(kind, low, high)| Act::Descriptor(kind, [low, high])),
    ]
}

/// Memory full of what might be entries, mostly well formed: roots in the first eighth of the pages, then contexts, PASID
/// directories, PASID tables, and tables of pages in the rest.
fn litter(ram: &mut Ram, seed: u64, scalable: bool) {
    let mut random = Random::new(seed);
    let eighth = MEMORY / 4096 / 8;
    for at in (0..MEMORY).step_by(8) {
        let bits = random.bits();
        let any = random.below(eighth);
        let page = |eighths: u64| (eighths * eighth + any) << 12;
        let tables = (4 * eighth + random.below(4 * eighth)) << 12;
        let mut word = match (at / 4096 / eighth, at / 8 % 8, scalable) {
            (0, n, _) if n % 2 == 0 => page(1) | 1,
            (0, _, true) => page(1) | 1,
            (1, n, false) if n % 2 == 0 => tables | bits & 4 | 1,
            (1, _, false) => 2 | bits & 0x300,
            (1, 0 | 4, true) => page(2) | bits & 0x1c | 1,
            (2, ..) => page(3) | 1,
            (3, 0, _) => tables | 2 << 2 | (1 + bits % 4) << 6 | 1,
            (3, 1, _) => 1 << 23 | bits & 3,
            (3, 2, _) => tables | bits & 0x11,
            (4.., ..) => tables | bits & 0x67 | 3,
            _ => 0,
        };
        if random.percent(3) {
            word ^= 1 << random.below(64);
        }
        if random.percent(2) {
            word = bits;
        }
        ram.write64(at, word).unwrap();
    }
}

fn machine(profile: Profile, pace: Pace, seed: u64, scalable: bool) -> (Machine<Ram>, Vec<FunctionId>) {
    let mut ram = Ram::new(MEMORY);
    litter(&mut ram, seed, scalable);
    let mut m = Machine::new(ram, seed);
    let unit = m.add_unit(profile);
    m.unit_mut(unit).unwrap().set_pace(pace);
    m.set_leaking(20);
    let full = |source| Function::new(source, unit).with_ats().with_pri(8).with_pasid(20);
    let functions = vec![
        m.add_function(full(0)),
        m.add_function(full(8).of(Form::Endpoint)),
        m.add_function(Function { alias: Alias::Sometimes(9), ..Function::new(0x10, unit).of(Form::Conventional) }),
        m.add_function(Function::bridge(0x18, unit, Form::RootPort { secondary: 1, subordinate: 2 }).with_acs(0x7f)),
        m.add_function(full(0x100).of(Form::Endpoint)),
    ];
    let probe = Probe::new(functions[0], Access::Write, 0x1000);
    m.set_probes(vec![probe, probe.with_pasid(3).for_real()]);
    (m, functions)
}

/// Turns everything of a function on.
fn enable(m: &mut Machine<Ram>, source: u16) {
    m.config_write(source, 4, Size::Word, 6);
    m.config_write(source, 0x52, Size::Word, 1);
    for at in (0x104..0x140).step_by(0x10) {
        m.config_write(source, at + 2, Size::Word, 0x8001);
        m.config_write(source, at, Size::Word, 1);
        m.config_write(source, at + 8, Size::Double, 6);
    }
}

fn act_out(m: &mut Machine<Ram>, functions: &[FunctionId], act: &Act) {
    match act.clone() {
        Act::Read(at, size) => {
            m.read(0, at, size);
        }
        Act::Write(at, size, v) => m.write(0, at, size, v),
        // Mostly queue and remapping stay on.
        Act::Command(GCMD, v) => m.write(0, GCMD, Size::Double, if v % 4 != 0 { v | 1 << 31 | 1 << 26 } else { v }),
        Act::Command(at, v) => m.write(0, at, Size::Quad, v),
        Act::Store(at, v) => _ = m.store(at, v),
        Act::Flush(at, len) => m.flush(at, len),
        Act::Fence => m.fence(),
        Act::Allocate(at, len) => m.allocated(at, len),
        Act::Free(at, len) => m.freed(at, len),
        Act::Relax(time) => m.relax(time),
        Act::Step(n) => m.step(n),
        Act::DmaRead(f, d, n) => _ = m.dma_read(functions[f], &d, &mut vec![0; n]),
        Act::DmaWrite(f, d, n) => _ = m.dma_write(functions[f], &d, &vec![0x5a; n]),
        Act::Copy(f, a, b, n) => _ = m.dma_copy(functions[f], &a, &b, n),
        Act::Add(f, d) => _ = m.dma_fetch_add(functions[f], &d, 1),
        Act::Translate(f, d, no_write) => _ = m.translate(functions[f], &d, no_write),
        Act::Ask(f, p) => _ = m.page_request(functions[f], &p),
        Act::Request(r) => _ = m.request(0, &r),
        Act::ConfigWrite(source, at, size, v) => m.config_write(source, at, size, v),
        Act::Msi(f) => _ = m.msi(functions[f]),
        Act::Remove(f) => m.remove(functions[f]),
        Act::Manner(f, manner) => m.set_manner(functions[f], manner),
        Act::Enable(source) => enable(m, source),
        Act::Descriptor(kind, [low, high]) => {
            let base = m.read(0, IQA, Size::Quad);
            let wide = base >> 11 & 1;
            // Narrow queues know five types.
            let kind = if wide == 0 && low % 8 != 0 { kind % 6 } else { kind };
            // Where the unit goes on, even after an error.
            let head = m.read(0, IQH, Size::Quad) % 4096;
            let (low_mask, high_mask) = match (low ^ high) % 8 {
                0 => (u64::MAX, u64::MAX),
                _ => FIELDS.get(kind as usize).copied().unwrap_or_default(),
            };
            let words = [low & low_mask | kind, high & high_mask, 0, 0];
            for (n, word) in words.into_iter().enumerate().take(2 << wide) {
                let _ = m.store((base & !0xfff) + head + 8 * n as u64, word);
            }
            m.write(0, FSTS, Size::Double, 0x70);
            m.write(0, IQT, Size::Quad, (head + (16 << wide)) % 4096);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(
        profile in prop::sample::select(Profile::all()),
        seed in any::<u64>(),
        slow in any::<bool>(),
        acts in prop::collection::vec(act(), 1..300),
    ) {
        let pace = if slow { Pace::slow(seed) } else { Pace::at_once() };
        let scalable = profile.smts() && seed % 3 != 0;
        let (mut m, functions) = machine(profile, pace, seed, scalable);
        // It reads all tables at every command, and here everything is a table.
        m.with_unit(0, |unit, bus| unit.set_oracle(bus, seed % 8 == 0));
        for source in [0, 8, 0x100] {
            enable(&mut m, source);
        }
        // Most stories begin with remapping on, over tables of anything.
        if seed % 4 != 0 {
            m.write(0, IQA, Size::Quad, QUEUE | u64::from(scalable) << 11);
            m.write(0, GCMD, Size::Double, 1 << 26);
            m.step(50);
            m.write(0, RTADDR, Size::Quad, ((seed >> 8) % (MEMORY / 8)) & !0xfff | u64::from(scalable) << 10);
            m.write(0, GCMD, Size::Double, 1 << 26 | 1 << 30);
            m.step(50);
            m.write(0, GCMD, Size::Double, 1 << 26 | 1 << 31);
            m.step(50);
            for f in &functions {
                let _ = m.translate(*f, &Dma::at(seed % 0x1000_0000), false);
            }
        }
        let mut now = 0;
        for act in &acts {
            act_out(&mut m, &functions, act);
            prop_assert!(m.now() >= now);
            now = m.now();
        }
        m.messages();
        m.breaches();
        m.probes().sights();
    }
}
