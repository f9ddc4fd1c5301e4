//! Tables of any content: no panic, no endless walk, and caches that nobody notices while memory stays as it is.

use super::*;
use crate::caches::{Caches, Keep};
use crate::formats::Field;
use crate::random::Random;
use crate::reason::Completion;
use proptest::prelude::*;
use std::vec::Vec;

const POOL: u64 = 0x20_0000;
const PAGES: u64 = 10;

/// One of a few pages, so that tables lead to tables.
fn pool(random: &mut Random) -> u64 {
    POOL + 0x1000 * random.below(PAGES)
}
/// A word that is nearly a paging entry of some kind.
fn word(random: &mut Random) -> u64 {
    // R, W, U/S; the same with A and D of either stage.
    let good = pool(random) | [0x7, 0x67, 0x307][random.below(3) as usize];
    let flags = [0x3, 0x5, 0x1, 0x2, 0x87, 0x807, 0x887, 0x1000_0007][random.below(8) as usize];
    let at = match random.below(6) {
        0 => NOWHERE,
        1 => 0xfee0_0000,
        2 => random.bits() & 0x000f_ffff_c000_0000,
        3 => random.bits() & 0x3f_c000_0000,
        _ => pool(random),
    };
    match random.below(40) {
        0 => 0,
        1 => random.bits(),
        2 => good | 1 << random.below(64),
        3 => good | random.below(4) << 61,
        4..12 => at | flags,
        _ => good,
    }
}
fn profile(random: &mut Random) -> Profile {
    let all = Profile::all();
    let mut profile = all[random.below(all.len() as u64) as usize].clone();
    if random.percent(50) {
        profile = Profile::maximal();
    }
    if random.percent(30) {
        profile.ecap &= !(random.bits() & random.bits() & random.bits());
        profile.cap &= !(random.bits() & random.bits() & random.bits() & !(0xff << 40));
    }
    if random.percent(10) {
        profile.cap |= 1 << 7;
    }
    if random.percent(10) {
        profile.ecap |= 1 << 55;
    }
    profile.strict_aw = random.percent(20);
    profile.erratum_772415 = random.percent(20);
    profile
}
fn disturb<const N: usize>(random: &mut Random, mut words: [u64; N]) -> [u64; N] {
    if random.percent(8) {
        words[random.below(N as u64) as usize] ^= 1 << random.below(64);
    }
    words
}
/// `marked`: all accessed and dirty bits are set already, so that memory stays as it is.
fn scene(seed: u64, marked: bool) -> (Scene, Random) {
    let mut random = Random::new(seed);
    let profile = profile(&mut random);
    let mode = match random.below(40) {
        0 => Mode::Reserved,
        1 => Mode::Abort,
        2 => Mode::Scalable,
        3..13 => Mode::Legacy,
        _ if profile.smts() => Mode::Scalable,
        _ => Mode::Legacy,
    };
    let mut scene = Scene::new(profile.clone(), mode);
    for at in (POOL..POOL + 0x1000 * PAGES).step_by(8) {
        let word = word(&mut random) | if marked { 0x760 } else { 0 };
        scene.put(at, &[word]);
    }
    let mut domain = 0;
    for source in 0..4 {
        if mode == Mode::Scalable {
            for pasid in 0..3 {
                domain += 1;
                let entry = PasidEntry::nested(
                    pool(&mut random),
                    random.percent(30),
                    pool(&mut random),
                    1 + random.below(3),
                    domain,
                )
                .with(PasidEntry::PGTT, 1 + random.below(4))
                .with(PasidEntry::SRE, random.below(2))
                .with(PasidEntry::WPE, random.below(2))
                .with(PasidEntry::EAFE, random.below(2))
                .with(PasidEntry::SSADE, random.below(2))
                .with(PasidEntry::PWSNP, u64::from(random.percent(80)))
                .with(PasidEntry::PGSNP, random.below(2))
                .with(PasidEntry::EMTE, random.below(2))
                .with(PasidEntry::PAT, random.bits());
                // No two entries share a domain.
                let entry = PasidEntry(disturb(&mut random, entry.0)).with(PasidEntry::DID, u64::from(domain));
                scene.pasid(source, pasid, entry);
            }
            let at = scene.scalable_context_at(source);
            let words = [0, 8, 16, 24].map(|offset| scene.get(at + offset));
            let words = disturb(&mut random, words);
            scene.put(at, &words);
        } else {
            domain += 1;
            let entry = ContextEntry::new(pool(&mut random), 1 + random.below(3), domain)
                .with(ContextEntry::TT, random.below(3))
                .with(ContextEntry::FPD, random.below(2));
            let entry = ContextEntry(disturb(&mut random, entry.0)).with(ContextEntry::DID, u64::from(domain));
            scene.context(source, entry);
        }
    }
    let root = disturb(&mut random, [scene.get(ROOT), scene.get(ROOT + 8)]);
    scene.put(ROOT, &root);
    scene.unit.state.separate_rights = random.percent(if mode == Mode::Scalable { 10 } else { 2 });
    (scene, random)
}
fn request(random: &mut Random, mode: Mode) -> Request {
    let address = match random.below(8) {
        0 => random.bits(),
        1 => 0xfee0_0000 | random.below(0x10_0000),
        2 => !random.below(1 << 40),
        3 => 1 << random.below(64),
        // A few places of the tables, so that requests meet again.
        _ => random.below(1 << 23) | random.below(4) << 30,
    };
    let kind = [Kind::Untranslated, Kind::Untranslated, ATS, ATS_READ, Kind::Translated][random.below(5) as usize];
    let access = match kind {
        Kind::Translation { .. } => Access::Read,
        _ => [Access::Read, Access::Write, Access::Atomic, Access::Flush][random.below(4) as usize],
    };
    Request {
        source: if random.percent(95) { random.below(4) as SourceId } else { random.bits() as SourceId },
        pasid: random.percent(if mode == Mode::Scalable { 50 } else { 5 }).then(|| random.below(4) as Pasid),
        privileged: random.percent(20),
        execute: random.percent(5),
        kind,
        access,
        address: address & !3,
        length: 4,
        no_snoop: random.percent(50),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in the tables, every request gets an answer that is consistent in itself.
    #[test]
    fn tables_of_any_content_are_answered(seed: u64) {
        let (mut scene, mut random) = scene(seed, false);
        if random.percent(50) {
            scene.unit.caches = Caches::new(Keep::Most(30), seed);
        }
        for _ in 0..40 {
            let request = request(&mut random, scene.unit.state.mode);
            if random.percent(10) {
                // Memory changes under the caches, and the caches stay.
                let at = POOL + 8 * random.below(512 * PAGES);
                let word = word(&mut random);
                scene.put(at, &[word]);
            }
            match scene.ask(request) {
                Answer::Blocked(fault) => {
                    prop_assert_eq!(fault.completion, fault.reason.completion(request.kind));
                    prop_assert!(!matches!(fault.completion, Completion::NoPermission | Completion::Effective));
                    prop_assert_eq!(scene.recorded(), fault.recordable.then_some(fault.reason));
                }
                Answer::Translated(translated) => {
                    let recorded = scene.recorded();
                    prop_assert!(recorded.is_none() || recorded == translated.because);
                    let translates = matches!(request.kind, Kind::Translation { .. });
                    prop_assert!(translates);
                    prop_assert!(translated.page.is_power_of_two() && translated.address % translated.page == 0);
                    prop_assert!(!(translated.execute || translated.global));
                    if translated.read || translated.write && !translated.untranslated_only {
                        prop_assert_eq!(translated.address & scene.unit.profile.beyond(), 0);
                    }
                }
                Answer::Passed(passed) => {
                    prop_assert_eq!(passed.address & 0xfff, request.address & 0xfff);
                    prop_assert_eq!(passed.address & scene.unit.profile.beyond(), 0);
                    prop_assert!(passed.address >> 20 != 0xfee);
                    prop_assert!(passed.snoop || request.no_snoop);
                    prop_assert!([0, 1, 4, 5, 6].contains(&passed.memory_type));
                }
                Answer::Interrupt | Answer::Nothing => prop_assert!(request.address >> 20 == 0xfee),
            }
        }
    }
    /// While memory stays as it is, a unit that keeps everything answers as one that keeps nothing, and as memory says.
    #[test]
    fn caches_are_not_noticed_while_memory_stays(seed: u64) {
        let (mut keeps, mut random) = scene(seed, true);
        let (mut forgets, _) = scene(seed, true);
        forgets.unit.caches = Caches::new(Keep::Nothing, seed);
        let upper = |scene: &Scene| {
            let pages = [ROOT..ROOT + 0x1000, 0x10_0000..scene.next + 0x1000];
            pages.into_iter().flat_map(|page| page.step_by(8)).map(|at| scene.get(at)).collect::<Vec<u64>>()
        };
        let untouched = upper(&keeps);
        let requests: Vec<Request> = (0..20).map(|_| request(&mut random, keeps.unit.state.mode)).collect();
        for n in 0..60 {
            let request = requests[n % 20];
            let looked = forgets.unit.look(&mut forgets.bus, &request);
            let plain = forgets.ask(request);
            let kept = keeps.ask(request);
            // A pointer may lead into the entries above, where accessed and dirty bits change what they say.
            if plain != looked || kept != plain {
                prop_assume!(upper(&keeps) == untouched && upper(&forgets) == untouched);
            }
            prop_assert_eq!(plain, looked);
            prop_assert_eq!(kept, plain, "{}", keeps.unit.explain(&mut keeps.bus, &request));
        }
    }
    /// Nor is any entry too strange to be read: every bit of every entry may be anything.
    #[test]
    fn entries_of_noise_are_answered(seed: u64) {
        let mut random = Random::new(seed);
        let mode = [Mode::Legacy, Mode::Scalable][random.below(2) as usize];
        let mut scene = Scene::new(profile(&mut random), mode);
        for at in (POOL..POOL + 0x1000 * PAGES).step_by(8) {
            let word = if random.percent(50) { random.bits() } else { pool(&mut random) | random.below(0x1000) };
            scene.put(at, &[word]);
        }
        scene.unit.state.root = pool(&mut random);
        scene.unit.profile.width = 1 + random.below(64) as u8;
        scene.unit.profile.cap = scene.unit.profile.cap & !(0x3f << 16) | random.below(64) << 16;
        for _ in 0..40 {
            // The mode changes under the caches, which no software may let happen.
            if random.percent(5) {
                scene.unit.state.mode = [Mode::Legacy, Mode::Scalable][random.below(2) as usize];
            }
            let source = if random.percent(50) { random.below(4) } else { random.bits() } as SourceId;
            let request = Request { source, ..request(&mut random, mode) };
            let _ = scene.ask(request);
            let _ = scene.unit.check_page_request(&mut scene.bus, &crate::PageRequest {
                source: request.source,
                pasid: request.pasid,
                privileged: false,
                execute: false,
                read: true,
                write: true,
                last: true,
                group: 0,
                address: request.address,
            });
        }
    }
}

#[test]
fn fields_hold_what_fits() {
    let mut words = [0; 2];
    Field::bits(69, 64).put(&mut words, 0x1ff);
    assert_eq!((words, Field::bits(69, 64).get(&words)), ([0, 0x3f], 0x3f));
    Field::bit(200).put(&mut words, 1);
    assert_eq!(Field::bit(200).get(&words), 0);
    Field::bits(63, 0).put(&mut words, u64::MAX);
    assert_eq!(words[0], u64::MAX);
}
