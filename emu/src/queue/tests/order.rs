//! The order of completion (6.5.2.12): what must not overtake never does, and what may does for some seed.

use super::*;
use crate::random::Random;
use std::collections::BTreeSet;

/// Types 1 to 9 without waits.
fn kinds() -> [(u8, [u64; 2]); 8] {
    [(1, CC), (2, IOTLB), (3, dev_tlb(1)), (4, IEC), (6, P_IOTLB), (7, PC), (8, p_dev_tlb(2, 5)), (9, response(3, 1))]
}

/// Whether a descriptor of type `second` must wait for the completion of an earlier one of type `first`.
fn ordered(first: u8, second: u8) -> bool {
    match second {
        2 | 6 => matches!(first, 1 | 7),
        7 => first == 1,
        3 => matches!(first, 2 | 4),
        8 => matches!(first, 2 | 4 | 6),
        _ => false,
    }
}

/// Runs descriptors; the order in which they completed, as indexes.
fn run(descriptors: &[[u64; 2]], seed: u64) -> Vec<usize> {
    let mut line = wide(Profile::maximal(), Pace::slow(seed));
    // Nobody has asked for the responses: the oracle says so, which is no matter here.
    line.run(descriptors);
    line.completed().iter().map(|at| (at / 32) as usize).collect()
}

#[test]
fn every_pair() {
    for (first, one) in kinds() {
        for (second, two) in kinds() {
            let overtaken = (0..80).any(|seed| run(&[one, two], seed) == [1, 0]);
            // Messages to devices leave in order, and these devices answer at once.
            let messages = [3, 8, 9].contains(&first) && [3, 8, 9].contains(&second);
            assert_eq!(overtaken, !ordered(first, second) && !messages, "{second} overtakes {first}");
        }
    }
}

#[test]
fn a_wait_completes_after_everything_since_the_last_wait() {
    for (_, one) in kinds() {
        for seed in 0..40 {
            assert_eq!(run(&[one, wait(1)], seed), [0, 1]);
        }
    }
}

#[test]
fn an_unfenced_wait_may_complete_before_an_earlier_one() {
    assert!((0..80).any(|seed| {
        let order = run(&[IOTLB, wait(1), IOTLB, wait(2)], seed);
        order.iter().position(|n| *n == 3) < order.iter().position(|n| *n == 1)
    }));
}

#[test]
fn nothing_overtakes_a_fence() {
    for (_, one) in kinds() {
        for (_, two) in kinds() {
            for seed in 0..20 {
                let order = run(&[one, FENCE, two, wait(1)], seed);
                assert_eq!(order, [0, 1, 2, 3]);
            }
        }
    }
}

#[test]
fn in_order_means_in_order() {
    let all: Vec<_> = kinds().iter().map(|(_, words)| *words).chain([wait(1), IOTLB, wait(2)]).collect();
    for pace in [Pace::prompt(), Pace { disorder: false, ..Pace::slow(5) }] {
        let mut line = wide(Profile::maximal(), pace);
        line.run(&all);
        assert!(line.completed().iter().copied().eq((0..all.len() as u64).map(|n| 32 * n)));
    }
}

#[test]
fn long_random_batches_keep_every_rule() {
    let mut random = Random::new(11);
    let mut orders = BTreeSet::new();
    for seed in 0..300 {
        let batch: Vec<(u8, [u64; 2])> = (0..12)
            .map(|n| match random.below(10) {
                8 => (5, wait(n + 1)),
                9 => (50, FENCE),
                k => kinds()[k as usize],
            })
            .collect();
        let words: Vec<_> = batch.iter().map(|(_, words)| *words).collect();
        let order = run(&words, seed);
        assert_eq!(order.len(), batch.len(), "everything completes");
        let place = |n: usize| order.iter().position(|m| *m == n);
        for second in 0..batch.len() {
            let since = batch[..second].iter().rposition(|(kind, _)| matches!(kind, 5 | 50)).map_or(0, |n| n + 1);
            for first in 0..second {
                let (one, two) = (batch[first].0, batch[second].0);
                let bound = one == 50 || ordered(one, two) || matches!(two, 5 | 50) && first >= since;
                assert!(!bound || place(first) < place(second), "{batch:?}: {order:?}");
            }
        }
        orders.insert(order);
    }
    assert!(orders.len() > 250);
}
